//! Matrix products of one warp on fragments whose layout the manual leaves open (PTX ISA
//! 9.7.14.4): `wmma.load`, `wmma.store`, `wmma.mma`.
//!
//! Here each lane holds the same number of neighbouring elements of the matrix, row by row, of
//! accumulators of every type the same ones; where a fragment has more places than the matrix
//! elements, they repeat.

use super::matrix::whole_warp;
use super::mma::{Shape, Tiles, accumulator_of, element_of};
use super::numeric::{Round, fma64};
use super::operands;
use super::pointer::{Pointer, WORDS};
use crate::coherence::Scope;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::Cx;
use crate::fault::RawFault;
use crate::program::{Flow, Inst, NO_REG, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;
use crate::tensor_core::panel::position;
use crate::tensor_core::{Accumulator, Element, Rule, half_bits, multiply_add, padded};

pub(crate) const OPCODES: &[&str] = &["wmma"];

/// An element of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F16,
    BF16,
    TF32,
    F32,
    F64,
    S32,
    S8,
    U8,
    S4,
    U4,
    B1,
}

const KINDS: [Kind; 11] = {
    use Kind::*;
    [F16, BF16, TF32, F32, F64, S32, S8, U8, S4, U4, B1]
};

impl Kind {
    fn named(name: &str) -> Option<Kind> {
        Some(match name {
            "f16" => Kind::F16,
            "bf16" => Kind::BF16,
            "tf32" => Kind::TF32,
            "f32" => Kind::F32,
            "f64" => Kind::F64,
            "s32" => Kind::S32,
            "s8" => Kind::S8,
            "u8" => Kind::U8,
            "s4" => Kind::S4,
            "u4" => Kind::U4,
            "b1" => Kind::B1,
            _ => return None,
        })
    }

    fn bits(self) -> usize {
        match self {
            Kind::F64 => 64,
            Kind::F32 | Kind::TF32 | Kind::S32 => 32,
            Kind::F16 | Kind::BF16 => 16,
            Kind::S8 | Kind::U8 => 8,
            Kind::S4 | Kind::U4 => 4,
            Kind::B1 => 1,
        }
    }

    /// The integer that bits of this type are.
    fn integer(self, bits: u64) -> i32 {
        match self {
            Kind::S8 => i32::from(bits as i8),
            Kind::S4 => i32::from((bits as i8) << 4 >> 4),
            _ => bits as i32,
        }
    }

    /// The type of the registers that hold a fragment.
    fn register(self) -> Type {
        if self == Kind::F64 { Type::B64 } else { Type::B32 }
    }
}

/// Which matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    A,
    B,
    C,
}

/// A matrix in the registers of a warp.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    kind: Kind,
    rows: usize,
    columns: usize,
}

impl Fragment {
    /// The matrix of an operand; none for types that have no such shape.
    fn new(role: Role, kind: Kind, shape: Shape) -> Option<Fragment> {
        let [m, n, k] = [shape.rows, shape.columns, shape.depth];
        let fits = match (kind, role) {
            (Kind::S32, Role::C) => match k {
                16 => matches!((m, n), (16, 16) | (8, 32) | (32, 8)),
                _ => matches!((m, n, k), (8, 8, 32 | 128)),
            },
            (Kind::F32, Role::C) if k == 8 => (m, n) == (16, 16),
            (Kind::F16, _)
            | (Kind::F32, Role::C)
            | (Kind::BF16 | Kind::S8 | Kind::U8, Role::A | Role::B) => {
                k == 16 && matches!((m, n), (16, 16) | (8, 32) | (32, 8))
            }
            (Kind::TF32, Role::A | Role::B) => (m, n, k) == (16, 16, 8),
            (Kind::F64, _) => (m, n, k) == (8, 8, 4),
            (Kind::S4 | Kind::U4, Role::A | Role::B) => (m, n, k) == (8, 8, 32),
            (Kind::B1, Role::A | Role::B) => (m, n, k) == (8, 8, 128),
            _ => false,
        };
        let (rows, columns) = match role {
            Role::A => (m, k),
            Role::B => (k, n),
            Role::C => (m, n),
        };
        fits.then_some(Fragment { kind, rows: rows as usize, columns: columns as usize })
    }

    /// Elements that one lane holds.
    fn own(self) -> usize {
        self.rows * self.columns / 32
    }

    /// Registers: binary16 operands have room for twice or four times their elements.
    fn registers(self, role: Role) -> usize {
        match (self.kind, role) {
            (Kind::F16, Role::A | Role::B) => 8,
            (kind, _) => (self.own() * kind.bits()).div_ceil(kind.register().bytes() as usize * 8),
        }
    }

    /// The bits of all elements, row by row.
    ///
    /// # Safety
    /// The registers must be those of this frame.
    unsafe fn read(self, cx: &Cx<'_>, regs: &[Reg]) -> Vec<u64> {
        let (own, bits) = (self.own(), self.kind.bits());
        let mut out = vec![0; self.rows * self.columns];
        for (index, slot) in out.iter_mut().enumerate() {
            let (lane, place) = (index / own, index % own * bits);
            // SAFETY: as the caller's.
            *slot = unsafe {
                match self.kind {
                    Kind::F64 => cx.row64(regs[index % own])[lane],
                    _ => {
                        let word = u64::from(cx.row32(regs[place / 32])[lane]);
                        word >> (place % 32) & ((1 << bits) - 1)
                    }
                }
            };
        }
        out
    }

    /// Puts the bits of all elements into registers.
    ///
    /// # Safety
    /// As for [`Fragment::read`].
    unsafe fn write(self, cx: &Cx<'_>, regs: &[Reg], values: &[u64]) {
        let (own, bits) = (self.own(), self.kind.bits());
        for (register, &reg) in regs.iter().enumerate() {
            for lane in 0..32 {
                let element = |place: usize| values[lane * own + place % own];
                // SAFETY: as the caller's.
                unsafe {
                    if self.kind == Kind::F64 {
                        cx.row64(reg)[lane] = element(register);
                        continue;
                    }
                    let count = 32 / bits;
                    let parts = (0..count).map(|at| element(register * count + at) << (at * bits));
                    cx.row32(reg)[lane] = parts.fold(0, |word, part| word | part) as u32;
                }
            }
        }
    }

    fn pack(self, role: Role) -> u64 {
        let kind = KINDS.iter().position(|&one| one == self.kind).unwrap_or(0) as u64;
        kind | (role as u64) << 4
    }
}

fn kind_at(bits: u64) -> Kind {
    KINDS[(bits & 15).min(10) as usize]
}

fn pack_shape(shape: Shape) -> u64 {
    u64::from(shape.rows) | u64::from(shape.columns) << 8 | u64::from(shape.depth) << 16
}

fn shape_at(bits: u64) -> Shape {
    let part = |at: u32| (bits >> at & 0xff) as u32;
    Shape { rows: part(0), columns: part(8), depth: part(16) }
}

fn take_layout(words: &mut Words<'_>) -> Option<bool> {
    words.take_map(|word| match word {
        "row" => Some(false),
        "col" => Some(true),
        _ => None,
    })
}

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if !words.take("sync") || !words.take("aligned") {
        return Err(words.wrong("`.sync.aligned` is missing"));
    }
    let shape = words.take_map(Shape::named).ok_or_else(|| words.wrong("the shape is missing"))?;
    match words.take_any(&["load", "store", "mma"]) {
        Some("load") => decode_access(cx, words, instruction, shape, true),
        Some("store") => decode_access(cx, words, instruction, shape, false),
        Some(_) => decode_mma(cx, words, instruction, shape),
        None => Err(words.wrong("the operation is missing")),
    }
}

/// `wmma.load` and `wmma.store` (9.7.14.4.3, 9.7.14.4.4).
fn decode_access<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    shape: Shape,
    loads: bool,
) -> Result<(), Error> {
    let role = match words.take_any(&["a", "b", "c", "d"]) {
        Some("a") if loads => Role::A,
        Some("b") if loads => Role::B,
        Some("c") if loads => Role::C,
        Some("d") if !loads => Role::C,
        _ => return Err(words.wrong("the matrix is missing")),
    };
    let by_column = take_layout(words).ok_or_else(|| words.wrong("the layout is missing"))?;
    let space = words.space();
    let kind = words.take_map(Kind::named).ok_or_else(|| words.wrong("the type is missing"))?;
    let fragment = Fragment::new(role, kind, shape)
        .ok_or_else(|| words.unsupported("this type in this shape"))?;
    if kind.bits() < 8 && by_column != (role == Role::B) {
        return Err(words.wrong("A lies by rows and B by columns where elements are below a byte"));
    }
    let (data, address, stride) = match instruction.operands.as_slice() {
        [first, second] => (first, second, None),
        [first, second, stride] => (first, second, Some(stride)),
        _ => return Err(words.wrong("registers and an address are needed")),
    };
    let (data, address) = if loads { (data, address) } else { (address, data) };
    let address = cx.address(address, space, words)?;
    let mut list = Pointer::words(address).to_vec();
    list.push(match stride {
        Some(stride) => cx.src(stride, Type::B32, words)?,
        None => NO_REG,
    });
    push_fragment(cx, words, &mut list, (fragment, role), data, loads)?;
    let d = cx.push_list(&list);
    let imm = pack_shape(shape) | fragment.pack(role) << 24 | u64::from(by_column) << 32;
    let exec = if loads { load } else { store };
    cx.emit(Inst { d, aux: list.len() as u32, imm, ..Decoder::blank(exec) });
    Ok(())
}

fn push_fragment<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &Words<'a>,
    list: &mut Vec<Reg>,
    (fragment, role): (Fragment, Role),
    operand: &Operand<'a>,
    writes: bool,
) -> Result<(), Error> {
    let (count, ty) = (fragment.registers(role), fragment.kind.register());
    let single = std::slice::from_ref(operand);
    let parts = match operand {
        Operand::Vector(parts) => parts.as_slice(),
        _ => single,
    };
    if parts.len() != count {
        return Err(words.wrong(format!("{} registers where {count} are needed", parts.len())));
    }
    for part in parts {
        list.push(if writes { cx.dst(part, ty, words)? } else { cx.src(part, ty, words)? });
    }
    Ok(())
}

/// An access of a warp to a matrix in memory.
struct Access {
    fragment: Fragment,
    by_column: bool,
    space: u8,
    address: u64,
    stride: u64,
}

impl Access {
    /// # Safety
    /// The operands must be those of this frame.
    unsafe fn new(cx: &Cx<'_>, inst: &Inst) -> Option<(Access, Vec<Reg>)> {
        let list = cx.list(inst.d, inst.aux);
        let pointer = Pointer::read(list);
        let role = [Role::A, Role::B, Role::C][(inst.imm >> 28 & 3).min(2) as usize];
        let fragment = Fragment::new(role, kind_at(inst.imm >> 24), shape_at(inst.imm))?;
        let by_column = inst.imm >> 32 & 1 != 0;
        let tight = if by_column { fragment.rows } else { fragment.columns };
        // SAFETY: as the caller's.
        let (address, stride) = unsafe {
            let stride = match list[WORDS] {
                NO_REG => tight as u64,
                reg => u64::from(cx.row32(reg)[0]),
            };
            (pointer.at(cx, 0), stride)
        };
        let registers = list[WORDS + 1..].to_vec();
        Some((Access { fragment, by_column, space: pointer.space, address, stride }, registers))
    }

    /// Where an element lies: the host's byte, and the bit in it.
    fn host(
        &self,
        cx: &mut Cx<'_>,
        index: usize,
        writes: bool,
    ) -> Result<(*mut u8, usize), Box<RawFault>> {
        let (row, column) = (index / self.fragment.columns, index % self.fragment.columns);
        let (major, minor) = if self.by_column { (column, row) } else { (row, column) };
        let element = (major as u64).wrapping_mul(self.stride).wrapping_add(minor as u64);
        let bits = self.fragment.kind.bits();
        let at = element.wrapping_mul(bits as u64);
        let address = self.address.wrapping_add(at / 8);
        let host = cx.lane_host(self.space, 0, address, bits.div_ceil(8) as u32, writes)?;
        Ok((host, (at % 8) as usize))
    }
}

unsafe fn load(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    // SAFETY: operands of this frame.
    let Some((access, registers)) = (unsafe { Access::new(cx, inst) }) else {
        return cx.misuse("no such fragment");
    };
    // These accesses go past the buffers of stores.
    cx.publish(Scope::Sys);
    let bits = access.fragment.kind.bits();
    let mut values = vec![0; access.fragment.rows * access.fragment.columns];
    for (index, value) in values.iter_mut().enumerate() {
        let (host, shift) = match access.host(cx, index, false) {
            Ok(found) => found,
            Err(fault) => return cx.raise(fault),
        };
        // SAFETY: the address was checked for these bytes.
        *value = unsafe {
            match bits {
                64 => host.cast::<u64>().read_unaligned(),
                32 => u64::from(host.cast::<u32>().read_unaligned()),
                16 => u64::from(host.cast::<u16>().read_unaligned()),
                _ => u64::from(*host) >> shift & ((1 << bits) - 1),
            }
        };
    }
    // SAFETY: operands of this frame.
    unsafe { access.fragment.write(cx, &registers, &values) };
    Flow::Next
}

unsafe fn store(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    // SAFETY: operands of this frame.
    let Some((access, registers)) = (unsafe { Access::new(cx, inst) }) else {
        return cx.misuse("no such fragment");
    };
    cx.worker.progress += 1;
    cx.publish(Scope::Sys);
    // SAFETY: operands of this frame.
    let values = unsafe { access.fragment.read(cx, &registers) };
    for (index, &value) in values.iter().enumerate() {
        let host = match access.host(cx, index, true) {
            Ok((host, _)) => host,
            Err(fault) => return cx.raise(fault),
        };
        cx.before_shared_store(host, 8);
        // SAFETY: the address was checked for these bytes; accumulators have at least two.
        unsafe {
            match access.fragment.kind.bits() {
                64 => host.cast::<u64>().write_unaligned(value),
                32 => host.cast::<u32>().write_unaligned(value as u32),
                _ => host.cast::<u16>().write_unaligned(value as u16),
            }
        }
    }
    Flow::Next
}

/// `wmma.mma` (9.7.14.4.5).
fn decode_mma<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    shape: Shape,
) -> Result<(), Error> {
    let (Some(_), Some(_)) = (take_layout(words), take_layout(words)) else {
        return Err(words.wrong("the layouts of A and B are missing"));
    };
    let round = super::float::take_round(words).unwrap_or(Round::Nearest);
    let saturates = words.take("satfinite");
    let operation = words.take_any(&["xor", "and"]);
    if operation.is_some() && !words.take("popc") {
        return Err(words.wrong("`.popc` is missing"));
    }
    let kinds: Vec<Kind> = std::iter::from_fn(|| words.take_map(Kind::named)).collect();
    let kinds = match *kinds.as_slice() {
        // The types of binary16 operands are not written.
        [d, c] => [d, Kind::F16, Kind::F16, c],
        [d, a, b, c] => [d, a, b, c],
        _ => return Err(words.wrong("the number of types does not fit")),
    };
    let [d, a, b, c] = kinds;
    let together = match a {
        Kind::F16 => matches!((d, c), (Kind::F16 | Kind::F32, Kind::F16 | Kind::F32)),
        Kind::BF16 | Kind::TF32 => (d, c) == (Kind::F32, Kind::F32),
        Kind::F64 => (d, c) == (Kind::F64, Kind::F64),
        _ => (d, c) == (Kind::S32, Kind::S32),
    };
    let is_integer = d == Kind::S32;
    let fits = together && a == b && (a == Kind::B1) == operation.is_some();
    if !fits || saturates && (!is_integer || a == Kind::B1) {
        return Err(words.unsupported("these types do not go together"));
    }
    let parts: &[_; 4] = operands(instruction, words)?;
    let mut list = Vec::new();
    let roles = [(d, Role::C), (a, Role::A), (b, Role::B), (c, Role::C)];
    for (index, ((kind, role), operand)) in roles.into_iter().zip(parts).enumerate() {
        let fragment = Fragment::new(role, kind, shape)
            .ok_or_else(|| words.unsupported("these types in this shape"))?;
        push_fragment(cx, words, &mut list, (fragment, role), operand, index == 0)?;
    }
    let start = cx.push_list(&list);
    let number = |kind: Kind| KINDS.iter().position(|&one| one == kind).unwrap_or(0) as u64;
    let imm = pack_shape(shape)
        | number(d) << 24
        | number(a) << 28
        | number(c) << 32
        | (round as u64) << 36
        | u64::from(saturates) << 40
        | u64::from(operation == Some("xor")) << 41;
    cx.emit(Inst { d: start, aux: list.len() as u32, imm, ..Decoder::blank(mma) });
    Ok(())
}

unsafe fn mma(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    let shape = shape_at(inst.imm);
    let [d_kind, a_kind, c_kind] = [24, 28, 32].map(|at| kind_at(inst.imm >> at));
    let roles = [(d_kind, Role::C), (a_kind, Role::A), (a_kind, Role::B), (c_kind, Role::C)];
    let mut rest = cx.list(inst.d, inst.aux);
    let mut matrices = Vec::new();
    for (kind, role) in roles {
        let Some(fragment) = Fragment::new(role, kind, shape) else {
            return cx.misuse("no such fragment");
        };
        let (own, others) = rest.split_at(fragment.registers(role));
        matrices.push((fragment, own.to_vec()));
        rest = others;
    }
    // SAFETY: operands of this frame.
    let values = |index: usize| unsafe { matrices[index].0.read(cx, &matrices[index].1) };
    let (a, b, c) = (values(1), values(2), values(3));
    let [m, n, k] = [shape.rows, shape.columns, shape.depth].map(|count| count as usize);
    let out = match d_kind {
        Kind::S32 => {
            let (saturates, differs) = (inst.imm >> 40 & 1 != 0, inst.imm >> 41 & 1 != 0);
            integers(a_kind, (&a, &b, &c), (m, n, k), saturates, differs)
        }
        Kind::F64 => {
            let round = match inst.imm >> 36 & 15 {
                1 => Round::Zero,
                2 => Round::Down,
                3 => Round::Up,
                _ => Round::Nearest,
            };
            let sum = |index: usize| {
                let (row, column) = (index / n, index % n);
                let terms = (0..k).map(|at| (a[row * k + at], b[at * n + column]));
                let sum = terms.fold(f64::from_bits(c[index]), |sum, (x, y)| {
                    fma64(f64::from_bits(x), f64::from_bits(y), sum, round)
                });
                sum.to_bits()
            };
            (0..m * n).map(sum).collect()
        }
        _ => floats(cx, [d_kind, a_kind, c_kind], (&a, &b, &c), (m, n, k)),
    };
    // SAFETY: as above.
    unsafe { matrices[0].0.write(cx, &matrices[0].1, &out) };
    Flow::Next
}

fn integers(
    kind: Kind,
    (a, b, c): (&[u64], &[u64], &[u64]),
    (m, n, k): (usize, usize, usize),
    saturates: bool,
    differs: bool,
) -> Vec<u64> {
    let sum = |index: usize| {
        let (row, column) = (index / n, index % n);
        let terms = (0..k).map(|at| {
            let x = kind.integer(a[row * k + at]);
            let y = kind.integer(b[at * n + column]);
            if differs { x ^ y } else { x * y }
        });
        let (sum, c) = (terms.sum::<i32>(), c[index] as i32);
        let result = if saturates { c.saturating_add(sum) } else { c.wrapping_add(sum) };
        u64::from(result as u32)
    };
    (0..m * n).map(sum).collect()
}

fn floats(
    cx: &mut Cx<'_>,
    [d_kind, a_kind, c_kind]: [Kind; 3],
    (a, b, c): (&[u64], &[u64], &[u64]),
    (m, n, k): (usize, usize, usize),
) -> Vec<u64> {
    let of = |kind: Kind| match kind {
        Kind::F16 => Type::F16,
        Kind::BF16 => Type::BF16,
        Kind::TF32 => Type::TF32,
        _ => Type::F32,
    };
    let element = element_of(of(a_kind)).unwrap_or(Element::F16);
    let accumulator = accumulator_of(of(d_kind)).unwrap_or(Accumulator::F32);
    let rule = Rule::new(cx.launch.accumulation, element, accumulator, false);
    let Tiles { a: rows, b: columns, c: tile, .. } = &mut cx.worker.tiles;
    rows.with_exponents = rule.needs_exponents();
    columns.with_exponents = rule.needs_exponents();
    rows.reset_rows(m, k, element, false);
    columns.reset_columns(n, k, element, false);
    let width = padded(n);
    tile.clear();
    tile.resize(m * width, 0.0);
    for (index, &bits) in a.iter().enumerate() {
        rows.put(index / k, index % k, bits as u32);
    }
    for (index, &bits) in b.iter().enumerate() {
        columns.put(index % n, index / n, bits as u32);
    }
    let place = |index: usize| index / n * width + position(index % n);
    for (index, &bits) in c.iter().enumerate() {
        tile[place(index)] = match c_kind {
            Kind::F16 => Element::F16.decode(bits as u32).0,
            _ => f32::from_bits(bits as u32),
        };
    }
    rows.finish();
    columns.finish();
    multiply_add(rule, rows, columns, tile);
    let result = |index: usize| {
        let value = tile[place(index)];
        if d_kind == Kind::F16 { u64::from(half_bits(value)) } else { u64::from(value.to_bits()) }
    };
    (0..m * n).map(result).collect()
}
