//! Integer arithmetic (PTX ISA 9.7.1), and the way to floating point for opcodes that both have.

use super::{carry, float, half, operands};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::shapes;
use crate::program::{Exec, Inst};
use crate::ptx::ast::Instruction;
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &[
    "add", "sub", "mul", "mad", "fma", "div", "rem", "abs", "neg", "min", "max", "mul24", "mad24",
    "sad",
];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if words.take("cc") {
        return carry::decode_with_carry_out(cx, words, instruction);
    }
    let wide = words.take("wide");
    let part = words.take_any(&["lo", "hi"]);
    let types = words.types();
    let ty = *types.last().ok_or_else(|| words.wrong("a type is missing"))?;
    match ty {
        Type::F32 | Type::F64 | Type::F32x2 => {
            return float::decode_arithmetic(cx, words, instruction, ty, &types);
        }
        Type::F16 | Type::F16x2 | Type::BF16 | Type::BF16x2 => {
            return half::decode(cx, words, instruction, ty);
        }
        _ => {}
    }
    let result = if wide { doubled(ty, words)? } else { ty };
    let sat = words.take("sat");
    let exec = if words.take("relu") {
        relu_exec(instruction.opcode, ty)
    } else {
        exec(instruction.opcode, ty, wide, part, sat)
    };
    let exec = exec.ok_or_else(|| words.unsupported(format!("no such operation on {ty:?}")))?;
    let sources = match instruction.opcode {
        "abs" | "neg" => 1,
        "mad" | "mad24" | "sad" => 3,
        _ => 2,
    };
    if instruction.operands.len() != sources + 1 {
        return Err(words.wrong(format!("{} operands are needed", sources + 1)));
    }
    let mut inst = Decoder::blank(exec);
    inst.a = cx.src(&instruction.operands[1], ty, words)?;
    if sources > 1 {
        inst.b = cx.src(&instruction.operands[2], ty, words)?;
    }
    if sources > 2 {
        inst.c = cx.src(&instruction.operands[3], result, words)?;
    }
    inst.d = cx.dst(&instruction.operands[0], result, words)?;
    cx.emit(inst);
    Ok(())
}

fn doubled(ty: Type, words: &Words<'_>) -> Result<Type, Error> {
    match ty {
        Type::U16 => Ok(Type::U32),
        Type::S16 => Ok(Type::S32),
        Type::U32 => Ok(Type::U64),
        Type::S32 => Ok(Type::S64),
        _ => Err(words.wrong("`.wide` is for 16 and 32 bits")),
    }
}

/// `sub` and friends of two operands, of whichever width.
pub(super) fn two<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &Words<'a>,
    instruction: &Instruction<'a>,
    ty: Type,
    exec: Exec,
) -> Result<(), Error> {
    let [d, a, b] = operands(instruction, words)?;
    let (a, b) = (cx.src(a, ty, words)?, cx.src(b, ty, words)?);
    let d = cx.dst(d, ty, words)?;
    cx.emit(Inst { d, a, b, ..Decoder::blank(exec) });
    Ok(())
}

fn exec(opcode: &str, ty: Type, wide: bool, part: Option<&str>, sat: bool) -> Option<Exec> {
    if wide {
        return wide_exec(opcode, ty);
    }
    if sat {
        return match (opcode, ty) {
            ("add", Type::S32) => Some(shapes::binary(|a: i32, b: i32| a.saturating_add(b))),
            ("sub", Type::S32) => Some(shapes::binary(|a: i32, b: i32| a.saturating_sub(b))),
            ("mad24", Type::S32) if part == Some("hi") => {
                Some(shapes::ternary(|a: i32, b: i32, c: i32| {
                    ((signed24(a, b) >> 16) as i32).saturating_add(c)
                }))
            }
            ("mad", Type::S32) if part == Some("hi") => {
                Some(shapes::ternary(|a: i32, b: i32, c: i32| {
                    (((i64::from(a) * i64::from(b)) >> 32) as i32).saturating_add(c)
                }))
            }
            _ => None,
        };
    }
    match opcode {
        "mul" if part == Some("hi") => high_exec(ty),
        "mad" if part == Some("hi") => mad_high_exec(ty),
        "mul24" | "mad24" => exec24(opcode, ty, part),
        _ => match ty {
            Type::U16 | Type::B16 => exec16u(opcode),
            Type::S16 => exec16s(opcode),
            Type::U32 | Type::B32 => exec32u(opcode),
            Type::S32 => exec32s(opcode),
            Type::U64 | Type::B64 => exec64u(opcode),
            Type::S64 => exec64s(opcode),
            Type::U16x2 | Type::S16x2 => pair_exec(opcode, ty),
            _ => None,
        },
    }
}

/// One operation on each half of two words.
#[inline(always)]
fn halves(a: u32, b: u32, op: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(op(a as u16, b as u16)) | u32::from(op((a >> 16) as u16, (b >> 16) as u16)) << 16
}

/// `add`, `min` and `max` of packed 16-bit integers (9.7.1.1, 9.7.1.12, 9.7.1.13).
fn pair_exec(opcode: &str, ty: Type) -> Option<Exec> {
    Some(match (opcode, ty) {
        ("add", _) => shapes::binary(|a: u32, b: u32| halves(a, b, u16::wrapping_add)),
        ("min", Type::U16x2) => shapes::binary(|a: u32, b: u32| halves(a, b, u16::min)),
        ("max", Type::U16x2) => shapes::binary(|a: u32, b: u32| halves(a, b, u16::max)),
        ("min", _) => {
            shapes::binary(|a: u32, b: u32| halves(a, b, |a, b| (a as i16).min(b as i16) as u16))
        }
        ("max", _) => {
            shapes::binary(|a: u32, b: u32| halves(a, b, |a, b| (a as i16).max(b as i16) as u16))
        }
        _ => return None,
    })
}

/// `.relu` of integers: a negative result becomes 0 (9.7.1.12, 9.7.1.13).
fn relu_exec(opcode: &str, ty: Type) -> Option<Exec> {
    Some(match (opcode, ty) {
        ("min", Type::S32) => shapes::binary(|a: i32, b: i32| a.min(b).max(0)),
        ("max", Type::S32) => shapes::binary(|a: i32, b: i32| a.max(b).max(0)),
        ("min", Type::S16x2) => shapes::binary(|a: u32, b: u32| {
            halves(a, b, |a, b| (a as i16).min(b as i16).max(0) as u16)
        }),
        ("max", Type::S16x2) => shapes::binary(|a: u32, b: u32| {
            halves(a, b, |a, b| (a as i16).max(b as i16).max(0) as u16)
        }),
        _ => return None,
    })
}

/// Division by zero gives all ones (what the hardware's expansions give; the ISA leaves it open).
macro_rules! integer_exec {
    ($name:ident, $ty:ty, $unsigned:ty) => {
        fn $name(opcode: &str) -> Option<Exec> {
            Some(match opcode {
                "add" => shapes::binary(|a: $ty, b: $ty| a.wrapping_add(b)),
                "sub" => shapes::binary(|a: $ty, b: $ty| a.wrapping_sub(b)),
                "mul" => shapes::binary(|a: $ty, b: $ty| a.wrapping_mul(b)),
                "mad" => {
                    shapes::ternary(|a: $ty, b: $ty, c: $ty| a.wrapping_mul(b).wrapping_add(c))
                }
                "div" => {
                    shapes::binary(
                        |a: $ty, b: $ty| {
                            if b == 0 { <$unsigned>::MAX as $ty } else { a.wrapping_div(b) }
                        },
                    )
                }
                "rem" => {
                    shapes::binary(|a: $ty, b: $ty| if b == 0 { a } else { a.wrapping_rem(b) })
                }
                "min" => shapes::binary(|a: $ty, b: $ty| a.min(b)),
                "max" => shapes::binary(|a: $ty, b: $ty| a.max(b)),
                "neg" => shapes::unary(|a: $ty| a.wrapping_neg()),
                "abs" => {
                    #[allow(unused_comparisons)]
                    let exec = shapes::unary(|a: $ty| if a < 0 { a.wrapping_neg() } else { a });
                    exec
                }
                "sad" => shapes::ternary(|a: $ty, b: $ty, c: $ty| {
                    c.wrapping_add(if a < b { b.wrapping_sub(a) } else { a.wrapping_sub(b) })
                }),
                _ => return None,
            })
        }
    };
}
integer_exec!(exec16u, u16, u16);
integer_exec!(exec16s, i16, u16);
integer_exec!(exec32u, u32, u32);
integer_exec!(exec32s, i32, u32);
integer_exec!(exec64u, u64, u64);
integer_exec!(exec64s, i64, u64);

fn wide_exec(opcode: &str, ty: Type) -> Option<Exec> {
    macro_rules! wide {
        ($narrow:ty, $wide:ty) => {
            match opcode {
                "mul" => shapes::binary(|a: $narrow, b: $narrow| {
                    <$wide>::from(a).wrapping_mul(<$wide>::from(b))
                }),
                "mad" => shapes::ternary(|a: $narrow, b: $narrow, c: $wide| {
                    <$wide>::from(a).wrapping_mul(<$wide>::from(b)).wrapping_add(c)
                }),
                _ => return None,
            }
        };
    }
    Some(match ty {
        Type::U16 => wide!(u16, u32),
        Type::S16 => wide!(i16, i32),
        Type::U32 => wide!(u32, u64),
        Type::S32 => wide!(i32, i64),
        _ => return None,
    })
}

fn high_exec(ty: Type) -> Option<Exec> {
    Some(match ty {
        Type::U16 => shapes::binary(|a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16),
        Type::S16 => shapes::binary(|a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16),
        Type::U32 => shapes::binary(|a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        Type::S32 => shapes::binary(|a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32),
        Type::U64 => {
            shapes::binary(|a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64)
        }
        Type::S64 => {
            shapes::binary(|a: i64, b: i64| ((i128::from(a) * i128::from(b)) >> 64) as i64)
        }
        _ => return None,
    })
}

fn mad_high_exec(ty: Type) -> Option<Exec> {
    macro_rules! high {
        ($narrow:ty, $wide:ty, $bits:literal) => {
            shapes::ternary(|a: $narrow, b: $narrow, c: $narrow| {
                ((<$wide>::from(a) * <$wide>::from(b) >> $bits) as $narrow).wrapping_add(c)
            })
        };
    }
    Some(match ty {
        Type::U16 => high!(u16, u32, 16),
        Type::S16 => high!(i16, i32, 16),
        Type::U32 => high!(u32, u64, 32),
        Type::S32 => high!(i32, i64, 32),
        Type::U64 => high!(u64, u128, 64),
        Type::S64 => high!(i64, i128, 64),
        _ => return None,
    })
}

/// The product of the lower 24 bits, which are signed.
fn signed24(a: i32, b: i32) -> i64 {
    i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)
}

/// 9.7.1.5 and 9.7.1.6: the 48-bit product of two 24-bit values, low 32 or high 32 bits.
fn exec24(opcode: &str, ty: Type, part: Option<&str>) -> Option<Exec> {
    fn unsigned(a: u32, b: u32) -> u64 {
        u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)
    }
    Some(match (opcode, ty, part) {
        ("mul24", Type::U32, Some("lo")) => shapes::binary(|a: u32, b: u32| unsigned(a, b) as u32),
        ("mul24", Type::U32, Some("hi")) => {
            shapes::binary(|a: u32, b: u32| (unsigned(a, b) >> 16) as u32)
        }
        ("mul24", Type::S32, Some("lo")) => shapes::binary(|a: i32, b: i32| signed24(a, b) as i32),
        ("mul24", Type::S32, Some("hi")) => {
            shapes::binary(|a: i32, b: i32| (signed24(a, b) >> 16) as i32)
        }
        ("mad24", Type::U32, Some("lo")) => {
            shapes::ternary(|a: u32, b: u32, c: u32| (unsigned(a, b) as u32).wrapping_add(c))
        }
        ("mad24", Type::U32, Some("hi")) => shapes::ternary(|a: u32, b: u32, c: u32| {
            ((unsigned(a, b) >> 16) as u32).wrapping_add(c)
        }),
        ("mad24", Type::S32, Some("lo")) => {
            shapes::ternary(|a: i32, b: i32, c: i32| (signed24(a, b) as i32).wrapping_add(c))
        }
        ("mad24", Type::S32, Some("hi")) => shapes::ternary(|a: i32, b: i32, c: i32| {
            ((signed24(a, b) >> 16) as i32).wrapping_add(c)
        }),
        _ => return None,
    })
}
