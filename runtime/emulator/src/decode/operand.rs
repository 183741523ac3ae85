//! Operands to registers.

use super::body::{Decoder, Place};
use super::module::Symbol;
use super::words::Words;
use crate::error::Error;
use crate::memory::window::CODE_BASE;
use crate::program::{Const, Inst, NO_REG, Reg, Special};
use crate::ptx::ast::Operand;
use crate::ptx::types::{Space, Type};

/// A decoded address operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) reg: Reg,
    pub(crate) wide: bool,
    pub(crate) offset: u64,
    /// The space, adjusted where the base is a variable whose space is known better.
    pub(crate) space: Space,
}

impl<'a> Decoder<'a, '_> {
    /// A source operand of type `ty`: a register, a constant, a symbol or a special register.
    pub(crate) fn src(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
        words: &Words<'_>,
    ) -> Result<Reg, Error> {
        match operand {
            Operand::Name(name, None) => {
                if let Some((reg, found)) = self.find_register(name, words)? {
                    self.check_width(name, found, ty, words)?;
                    return Ok(reg);
                }
                if *name == "%is_explicit_cluster" && ty == Type::Pred {
                    return self.is_explicit_cluster(words);
                }
                if let Some(reg) = self.special(name, None, ty, words)? {
                    return Ok(reg);
                }
                self.symbol(name, 0, ty, words)
            }
            Operand::Name(name, Some(part)) => match self.special(name, Some(part), ty, words)? {
                Some(reg) => Ok(reg),
                None => Err(words.wrong(format!("`{name}.{part}` is not a special register"))),
            },
            Operand::Offset(name, offset) => self.symbol(name, *offset, ty, words),
            Operand::Int(_) | Operand::F32(_) | Operand::F64(_) => {
                let bits = literal(operand, ty, words)?;
                if ty == Type::Pred {
                    let word = if bits == 0 { 0 } else { u32::MAX };
                    return self.constant(Const::Word(word), words);
                }
                match ty.bytes() {
                    8 => self.constant(Const::Wide(bits), words),
                    16 => Err(words.unsupported("a 128-bit constant")),
                    _ => self.constant(Const::Word(bits as u32), words),
                }
            }
            _ => Err(words.wrong("a register or a constant is missing")),
        }
    }

    /// A destination register of type `ty`; [`NO_REG`] for `_`.
    pub(crate) fn dst(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
        words: &Words<'_>,
    ) -> Result<Reg, Error> {
        match operand {
            Operand::Sink => self.allot(ty, words),
            Operand::Name(name, None) => {
                let (reg, found) = self.register(name, words)?;
                self.check_width(name, found, ty, words)?;
                Ok(reg)
            }
            _ => Err(words.wrong("the destination is not a register")),
        }
    }

    /// A register of any width, with its type: for loads, stores and conversions, whose registers
    /// may be wider than their type (PTX ISA 9.4.1, "Operand Size Exceeding Instruction-Type Size").
    pub(crate) fn any_register(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
        words: &Words<'_>,
    ) -> Result<(Reg, Type), Error> {
        match operand {
            Operand::Name(name, None) => match self.find_register(name, words)? {
                Some((reg, found)) if found.bytes() >= ty.bytes() => Ok((reg, found)),
                Some((_, found)) => Err(words.wrong(format!(
                    "`{name}` has {} bits, the instruction {}",
                    8 * found.bytes(),
                    8 * ty.bytes()
                ))),
                None => Ok((self.src(operand, ty, words)?, ty)),
            },
            Operand::Sink => Ok((self.allot(ty, words)?, ty)),
            _ => Ok((self.src(operand, ty, words)?, ty)),
        }
    }

    fn check_width(
        &self,
        name: &str,
        found: Type,
        ty: Type,
        words: &Words<'_>,
    ) -> Result<(), Error> {
        let same = found.bytes() == ty.bytes() && (found == Type::Pred) == (ty == Type::Pred);
        // 8-bit types live in 16-bit registers or wider ones.
        let narrow = ty.bytes() == 1 && ty != Type::Pred && matches!(found.bytes(), 2 | 4);
        if same || narrow {
            return Ok(());
        }
        Err(words.wrong(format!("`{name}` is a {found:?} register, the instruction needs {ty:?}")))
    }

    /// A predicate operand and whether it is negated (all ones) or not (0).
    pub(crate) fn pred_src(
        &mut self,
        operand: &Operand<'a>,
        words: &Words<'_>,
    ) -> Result<(Reg, u32), Error> {
        match operand {
            Operand::Not(name) => {
                let plain = Operand::Name(name, None);
                Ok((self.src(&plain, Type::Pred, words)?, u32::MAX))
            }
            _ => Ok((self.src(operand, Type::Pred, words)?, 0)),
        }
    }

    /// The two halves of `p|q`, or a single predicate and [`NO_REG`].
    pub(crate) fn pred_pair(
        &mut self,
        operand: &Operand<'a>,
        words: &Words<'_>,
    ) -> Result<(Reg, Reg), Error> {
        match operand {
            Operand::Pair(first, second) => {
                let first = self.optional_dst(first, Type::Pred, words)?;
                Ok((first, self.optional_dst(second, Type::Pred, words)?))
            }
            _ => Ok((self.optional_dst(operand, Type::Pred, words)?, NO_REG)),
        }
    }

    /// A destination, or [`NO_REG`] for `_`.
    pub(crate) fn optional_dst(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
        words: &Words<'_>,
    ) -> Result<Reg, Error> {
        if *operand == Operand::Sink { Ok(NO_REG) } else { self.dst(operand, ty, words) }
    }

    /// The address of a variable or a function.
    fn symbol(
        &mut self,
        name: &str,
        offset: i64,
        ty: Type,
        words: &Words<'_>,
    ) -> Result<Reg, Error> {
        let wide = match ty.bytes() {
            8 => true,
            4 => false,
            _ => return Err(words.wrong(format!("the address of `{name}` has 32 or 64 bits"))),
        };
        let Some(place) = self.place(name) else {
            return Err(words.wrong(format!("`{name}` is not declared")));
        };
        let plus =
            |base: u32| u32::try_from(i64::from(base).wrapping_add(offset)).unwrap_or(u32::MAX);
        let value = match place {
            Place::Local(at) => Const::Local(plus(at), wide),
            Place::Param(at) => Const::Param(plus(at), wide),
            Place::Module(Symbol::Shared(number)) => Const::Shared(number, offset, wide),
            Place::Module(Symbol::Global(at)) if wide => {
                Const::Global(at.wrapping_add_signed(offset))
            }
            Place::Module(Symbol::Function(number)) if wide => {
                Const::Wide(CODE_BASE + 16 * u64::from(number))
            }
            Place::Module(_) => {
                return Err(words.wrong(format!("the address of `{name}` needs 64 bits")));
            }
        };
        self.constant(value, words)
    }

    /// An operand in brackets.
    pub(crate) fn address(
        &mut self,
        operand: &Operand<'a>,
        space: Space,
        words: &Words<'_>,
    ) -> Result<Address, Error> {
        let Operand::Address { base, offset, rest } = operand else {
            return Err(words.wrong("an address in brackets is missing"));
        };
        if !rest.is_empty() {
            return Err(words.wrong("this instruction takes no coordinates"));
        }
        self.address_of(base, *offset, space, words)
    }

    /// The base and offset of an address.
    pub(crate) fn address_of(
        &mut self,
        base: &Operand<'a>,
        offset: i64,
        space: Space,
        words: &Words<'_>,
    ) -> Result<Address, Error> {
        let offset = offset as u64;
        match base {
            Operand::Name(name, None) => {
                if let Some((reg, ty)) = self.find_register(name, words)? {
                    let in_stack = space == Space::Param && !self.is_entry;
                    let space = if in_stack { Space::Local } else { space };
                    return match ty.bytes() {
                        8 => Ok(Address { reg, wide: true, offset, space }),
                        4 if ty != Type::Pred => Ok(Address { reg, wide: false, offset, space }),
                        _ => Err(words.wrong(format!("`{name}` cannot hold an address"))),
                    };
                }
                let place = self.place(name);
                // Parameters of a function lie in its stack; so do those of a call. A generic
                // access to a variable of a known space goes straight to that space.
                let space = match (space, place) {
                    (Space::Param | Space::Generic, Some(Place::Local(_))) => Space::Local,
                    (Space::Generic, Some(Place::Param(_))) => Space::Param,
                    (Space::Generic, Some(Place::Module(Symbol::Shared(_)))) => Space::Shared,
                    _ => space,
                };
                if space == Space::Param && matches!(place, Some(Place::Param(_))) {
                    let reg = self.symbol(name, 0, Type::B32, words)?;
                    return Ok(Address { reg, wide: false, offset, space });
                }
                let reg = self.symbol(name, 0, Type::B64, words)?;
                Ok(Address { reg, wide: true, offset, space })
            }
            Operand::Int(value) => {
                let reg = self.constant(Const::Wide(*value as u64), words)?;
                Ok(Address { reg, wide: true, offset, space })
            }
            _ => Err(words.wrong("the base of an address is a register, a variable or a number")),
        }
    }

    /// A register that holds a special register's value (PTX ISA chapter 10); none if the name
    /// is not one. Those that change while a thread runs are read by an instruction put before.
    fn special(
        &mut self,
        name: &str,
        part: Option<&str>,
        ty: Type,
        words: &Words<'_>,
    ) -> Result<Option<Reg>, Error> {
        if let Some((exec, wide)) = crate::isa::special::changing(name) {
            let reg = self.allot(if wide { Type::B64 } else { Type::B32 }, words)?;
            self.emit(Inst { d: reg, ..Decoder::blank(exec) });
            if wide != (ty.bytes() == 8) {
                return Err(
                    words.wrong(format!("`{name}` has {} bits", if wide { 64 } else { 32 }))
                );
            }
            return Ok(Some(reg));
        }
        let Some(special) = special_named(name, part) else {
            return Ok(None);
        };
        if ty.bytes() == 8 && !special.is_wide() {
            return Err(words.wrong(format!("`{name}` has 32 bits")));
        }
        if matches!(special, Special::LaneId | Special::WarpId) && ty.bytes() != 4 {
            return Err(words.wrong(format!("`{name}` has 32 bits")));
        }
        self.constant(Const::Special(special), words).map(Some)
    }

    /// `%is_explicit_cluster` (PTX ISA 10.13). A cluster of one CTA counts as none given.
    fn is_explicit_cluster(&mut self, words: &Words<'_>) -> Result<Reg, Error> {
        let a = self.constant(Const::Special(Special::ClusterNctarank), words)?;
        let b = self.constant(Const::Word(1), words)?;
        let d = self.allot(Type::Pred, words)?;
        let exec = crate::exec::shapes::compare(|a: u32, b: u32| a > b);
        self.emit(Inst { d, a, b, imm: u64::from(NO_REG), ..Decoder::blank(exec) });
        Ok(d)
    }

    /// Puts registers into a list and gives its start.
    pub(crate) fn push_list(&mut self, regs: &[Reg]) -> Reg {
        let start = self.lists.len() as Reg;
        self.lists.extend_from_slice(regs);
        start
    }
}

/// The bits of a literal as a value of type `ty`.
pub(crate) fn literal(operand: &Operand<'_>, ty: Type, words: &Words<'_>) -> Result<u64, Error> {
    let bits = match (operand, ty) {
        (Operand::Int(value), Type::F32) => u64::from((*value as f32).to_bits()),
        (Operand::Int(value), Type::F64) => (*value as f64).to_bits(),
        (Operand::Int(value), _) => *value as u64,
        (Operand::F32(bits), Type::F64) => f64::from(f32::from_bits(*bits)).to_bits(),
        (Operand::F32(bits), _) => u64::from(*bits),
        (Operand::F64(bits), ty) if ty.bytes() == 8 => *bits,
        (Operand::F64(bits), _) => u64::from((f64::from_bits(*bits) as f32).to_bits()),
        _ => return Err(words.wrong("a constant is missing")),
    };
    Ok(match ty.bytes() {
        _ if ty == Type::Pred => bits,
        1 => bits & 0xff,
        2 => bits & 0xffff,
        4 => bits & 0xffff_ffff,
        _ => bits,
    })
}

/// `%pm0` to `%pm7` (10.25) and their 64-bit forms (10.26): nothing is counted here.
fn performance_counter(name: &str) -> Option<Special> {
    let (number, is_wide) = match name.strip_suffix("_64") {
        Some(number) => (number, true),
        None => (name, false),
    };
    let number: u8 = number.parse().ok()?;
    (number < 8).then_some(if is_wide { Special::CounterWide } else { Special::Zero })
}

fn special_named(name: &str, part: Option<&str>) -> Option<Special> {
    let axis = match part {
        None => None,
        Some("x") => Some(0),
        Some("y") => Some(1),
        Some("z") => Some(2),
        Some("w") => return Some(Special::Zero),
        Some(_) => return None,
    };
    Some(match (name, axis) {
        ("%tid", Some(axis)) => Special::Tid(axis),
        ("%ntid", Some(axis)) => Special::Ntid(axis),
        ("%ctaid", Some(axis)) => Special::Ctaid(axis),
        ("%nctaid", Some(axis)) => Special::Nctaid(axis),
        ("%clusterid", Some(axis)) => Special::ClusterId(axis),
        ("%nclusterid", Some(axis)) => Special::NclusterId(axis),
        ("%cluster_ctaid", Some(axis)) => Special::ClusterCtaid(axis),
        ("%cluster_nctaid", Some(axis)) => Special::ClusterNctaid(axis),
        ("%cluster_ctarank", None) => Special::ClusterCtarank,
        ("%cluster_nctarank", None) => Special::ClusterNctarank,
        ("%laneid", None) => Special::LaneId,
        ("%warpid", None) => Special::WarpId,
        ("%nwarpid", None) => Special::NwarpId,
        ("%smid", None) => Special::SmId,
        ("%nsmid", None) => Special::NsmId,
        ("%gridid", None) => Special::GridId,
        ("%lanemask_eq", None) => Special::LanemaskEq,
        ("%lanemask_lt", None) => Special::LanemaskLt,
        ("%lanemask_le", None) => Special::LanemaskLe,
        ("%lanemask_gt", None) => Special::LanemaskGt,
        ("%lanemask_ge", None) => Special::LanemaskGe,
        ("%dynamic_smem_size", None) => Special::DynamicShared,
        ("%total_smem_size" | "%aggr_smem_size", None) => Special::TotalShared,
        ("%reserved_smem_offset_begin", None) => Special::Zero,
        ("%reserved_smem_offset_0" | "%reserved_smem_offset_1", None) => Special::Zero,
        ("%reserved_smem_offset_end" | "%reserved_smem_offset_cap", None) => {
            Special::ReservedShared
        }
        ("WARP_SZ", None) => Special::WarpSize,
        ("%current_graph_exec", None) => Special::CurrentGraph,
        (_, None) => {
            if let Some(counter) = name.strip_prefix("%pm") {
                return performance_counter(counter);
            }
            let number = name.strip_prefix("%envreg")?.parse().ok()?;
            Special::Envreg(number)
        }
        _ => return None,
    })
}
