//! `mma` of integers of 4 and 8 bits, of single bits and of float64 (PTX ISA 9.7.14.5.14), one
//! element after the other: forms that no kernel's speed depends on.
//!
//! All of them lay fragments out alike (9.7.14.5.2 to 9.7.14.5.13). With `count` elements per
//! register, lane `4 g + t`, element `e`: register `r` of A holds row `g + 8 (r % 2)` (with eight
//! rows: `g`) and depth `count t + e + 4 count (r / 2)`; register `r` of B column `g` and depth
//! `count t + e + 4 count r`; register `r` of C row `g + 8 (r / 2)` and column `2 t + r % 2`.

use super::sparse::{Metadata, Pattern};
use super::{Shape, registers};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::Cx;
use crate::isa::float::take_round;
use crate::isa::matrix::whole_warp;
use crate::isa::numeric::{Round, fma64};
use crate::isa::operands;
use crate::program::{Flow, Inst, Reg};
use crate::ptx::ast::Instruction;
use crate::ptx::types::Type;
use crate::tensor_core::fragments::Row;

/// An element of A or B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    S4,
    U4,
    S8,
    U8,
    B1,
}

const KINDS: [Kind; 5] = [Kind::S4, Kind::U4, Kind::S8, Kind::U8, Kind::B1];

impl Kind {
    fn named(name: &str) -> Option<Kind> {
        Some(match name {
            "s4" => Kind::S4,
            "u4" => Kind::U4,
            "s8" => Kind::S8,
            "u8" => Kind::U8,
            "b1" => Kind::B1,
            _ => return None,
        })
    }

    fn bits(self) -> u32 {
        match self {
            Kind::S4 | Kind::U4 => 4,
            Kind::S8 | Kind::U8 => 8,
            Kind::B1 => 1,
        }
    }

    /// Element `index` of a register.
    fn value(self, word: u32, index: u32) -> i32 {
        let bits = self.bits();
        let top = word << (32 - bits - bits * index);
        match self {
            Kind::S4 | Kind::S8 => top as i32 >> (32 - bits),
            _ => (top >> (32 - bits)) as i32,
        }
    }
}

/// What `imm` holds.
#[derive(Clone, Copy, Debug)]
struct Form {
    a: Kind,
    b: Kind,
    shape: Shape,
    saturates: bool,
    /// Bits are combined by exclusive or, not by and.
    differs: bool,
    is_sparse: bool,
    selector: u32,
}

impl Form {
    fn pack(self) -> u64 {
        let number = |kind| KINDS.iter().position(|&one| one == kind).unwrap_or(0) as u64;
        let flags = [self.saturates, self.differs, self.is_sparse, self.shape.rows == 16];
        let flags = flags.iter().enumerate().fold(0, |all, (at, &one)| all | u64::from(one) << at);
        let depth = u64::from(self.shape.depth);
        number(self.a)
            | number(self.b) << 4
            | flags << 8
            | depth << 16
            | u64::from(self.selector) << 32
    }

    fn unpack(bits: u64) -> Form {
        let kind = |at: u32| KINDS[(bits >> at & 15).min(4) as usize];
        let flag = |at: u32| bits >> (8 + at) & 1 != 0;
        let rows = if flag(3) { 16 } else { 8 };
        Form {
            a: kind(0),
            b: kind(4),
            shape: Shape { rows, columns: 8, depth: (bits >> 16 & 0xffff) as u32 },
            saturates: flag(0),
            differs: flag(1),
            is_sparse: flag(2),
            selector: (bits >> 32 & 3) as u32,
        }
    }

    fn pattern(self) -> Pattern {
        if self.a.bits() == 4 { Pattern::PairsOfEight } else { Pattern::TwoOfFour }
    }

    /// Registers of A, B, and C or D.
    fn registers(self) -> [usize; 3] {
        let Shape { rows, depth, .. } = self.shape;
        let stored = if self.is_sparse { depth / 2 } else { depth };
        let words = |elements: u32| (elements * self.a.bits() / 1024) as usize;
        [words(rows * stored), words(8 * depth), rows as usize / 4]
    }
}

/// Integers and bits: `.s32` accumulators.
pub(super) fn decode_integers<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    shape: Shape,
    is_sparse: bool,
) -> Result<(), Error> {
    let saturates = words.take("satfinite");
    let (Some(a), Some(b)) = (words.take_map(Kind::named), words.take_map(Kind::named)) else {
        return Err(words.unsupported("this type of element"));
    };
    if words.types() != [Type::S32, Type::S32] {
        return Err(words.wrong("C and D are `.s32`"));
    }
    let operation = if a == Kind::B1 { words.take_any(&["xor", "and"]) } else { None };
    if (a == Kind::B1) != operation.is_some() || operation.is_some() && !words.take("popc") {
        return Err(words.wrong("single bits, and they alone, have `.xor.popc` or `.and.popc`"));
    }
    let row_bits = shape.depth * a.bits();
    let fits = match (is_sparse, shape.rows) {
        (true, 16) => a != Kind::B1 && matches!(row_bits, 256 | 512),
        (false, 16) => matches!(row_bits, 128 | 256),
        (false, 8) => row_bits == 128,
        _ => false,
    };
    if !fits || a.bits() != b.bits() || shape.columns != 8 || saturates && a == Kind::B1 {
        return Err(words.unsupported("these types do not go together, or not in this shape"));
    }
    let differs = operation == Some("xor");
    let mut form = Form { a, b, shape, saturates, differs, is_sparse, selector: 0 };
    let [a_count, b_count, c_count] = form.registers();
    let (parts, metadata) = super::sparse::split(instruction, is_sparse, words)?;
    let counts = [(c_count, true), (a_count, false), (b_count, false), (c_count, false)];
    let mut list = registers(cx, words, parts, counts, Type::B32)?;
    if let Some((word, selector)) = metadata {
        form.selector = super::sparse::selector(selector, row_bits == 512, false, words)?;
        list.push(cx.src(word, Type::B32, words)?);
    }
    let (d, aux) = (cx.push_list(&list), list.len() as u32);
    cx.emit(Inst { d, aux, imm: form.pack(), ..Decoder::blank(integers) });
    Ok(())
}

/// `d` the list of registers of D, A, B and C, and of the metadata of a sparse A.
unsafe fn integers(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    let form = Form::unpack(inst.imm);
    let [a_count, b_count, c_count] = form.registers();
    let function = cx.function;
    let list: &[Reg] = &function.lists[inst.d as usize..(inst.d + inst.aux) as usize];
    let (d, rest) = list.split_at(c_count);
    let (a, rest) = rest.split_at(a_count);
    let (b, rest) = rest.split_at(b_count);
    let (c, metadata) = rest.split_at(c_count);
    let (rows, depth) = (form.shape.rows as usize, form.shape.depth as usize);
    // SAFETY: operands of this frame.
    let row32 = |reg: Reg| unsafe { *cx.row32(reg) };
    let metadata = metadata.first().map(|&reg| Metadata {
        words: row32(reg),
        selector: form.selector,
        row_is_word: true,
    });
    let count = 32 / form.a.bits();
    let mut left = vec![0i32; rows * depth];
    for (register, &reg) in a.iter().enumerate() {
        for (lane, &word) in row32(reg).iter().enumerate() {
            let line = lane / 4 + if rows == 16 { 8 * (register % 2) } else { 0 };
            for element in 0..count {
                let place = count as usize * (lane % 4 + 4 * (register / 2)) + element as usize;
                let k = match &metadata {
                    None => place,
                    Some(metadata) => metadata.column(form.pattern(), line, place),
                };
                left[line * depth + k] = form.a.value(word, element);
            }
        }
    }
    let mut right = vec![0i32; 8 * depth];
    for (register, &reg) in b.iter().enumerate() {
        for (lane, &word) in row32(reg).iter().enumerate() {
            for element in 0..count {
                let k = count as usize * (lane % 4 + 4 * register) + element as usize;
                right[lane / 4 * depth + k] = form.b.value(word, element);
            }
        }
    }
    let combine = |(&x, &y): (&i32, &i32)| if form.differs { x ^ y } else { x * y };
    let sums = c.iter().enumerate().map(|(register, &from)| -> Row {
        let before = row32(from);
        std::array::from_fn(|lane| {
            let (line, column) = (lane / 4 + 8 * (register / 2), 2 * (lane % 4) + register % 2);
            let x = &left[line * depth..][..depth];
            let sum: i32 = x.iter().zip(&right[column * depth..]).map(combine).sum();
            let c = before[lane] as i32;
            (if form.saturates { c.saturating_add(sum) } else { c.wrapping_add(sum) }) as u32
        })
    });
    // All of C is read before D is written: they may share registers in another order.
    let sums: Vec<Row> = sums.collect();
    for (out, &to) in sums.iter().zip(d) {
        // SAFETY: as above.
        unsafe { cx.put32(to, out) };
    }
    Flow::Next
}

/// Float64: fused multiply-adds along the depth.
pub(super) fn decode_doubles<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    shape: Shape,
) -> Result<(), Error> {
    let round = take_round(words).unwrap_or(Round::Nearest);
    if words.types() != [Type::F64; 4] {
        return Err(words.wrong("all four types are `.f64`"));
    }
    let Shape { rows, columns, depth } = shape;
    if columns != 8 || !matches!((rows, depth), (8, 4) | (16, 4 | 8 | 16)) {
        return Err(words.unsupported("float64 has no such shape"));
    }
    let parts: &[_; 4] = operands(instruction, words)?;
    let counts = [rows / 4, rows * depth / 32, depth / 4, rows / 4].map(|count| count as usize);
    let [d, a, b, c] = counts;
    let counts = [(d, true), (a, false), (b, false), (c, false)];
    let list = registers(cx, words, parts, counts, Type::F64)?;
    let d = cx.push_list(&list);
    let imm = u64::from(rows) | u64::from(depth) << 8 | (round as u64) << 16;
    cx.emit(Inst { d, aux: list.len() as u32, imm, ..Decoder::blank(doubles) });
    Ok(())
}

unsafe fn doubles(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    let (rows, depth) = ((inst.imm & 0xff) as usize, (inst.imm >> 8 & 0xff) as usize);
    let round = match inst.imm >> 16 {
        1 => Round::Zero,
        2 => Round::Down,
        3 => Round::Up,
        _ => Round::Nearest,
    };
    let function = cx.function;
    let list: &[Reg] = &function.lists[inst.d as usize..(inst.d + inst.aux) as usize];
    let (d, rest) = list.split_at(rows / 4);
    let (a, rest) = rest.split_at(rows * depth / 32);
    let (b, c) = rest.split_at(depth / 4);
    // SAFETY: operands of this frame.
    let row = |reg: Reg| unsafe { cx.row64(reg).map(f64::from_bits) };
    let a: Vec<[f64; 32]> = a.iter().map(|&reg| row(reg)).collect();
    let b: Vec<[f64; 32]> = b.iter().map(|&reg| row(reg)).collect();
    let sums = c.iter().enumerate().map(|(register, &from)| -> [u64; 32] {
        let before = row(from);
        std::array::from_fn(|lane| {
            let (line, column) = (lane / 4 + 8 * (register / 2), 2 * (lane % 4) + register % 2);
            let sum = (0..depth).fold(before[lane], |sum, k| {
                let halves = rows / 8;
                let x = a[halves * (k / 4) + line / 8][4 * (line % 8) + k % 4];
                fma64(x, b[k / 4][4 * column + k % 4], sum, round)
            });
            sum.to_bits()
        })
    });
    let sums: Vec<[u64; 32]> = sums.collect();
    for (out, &to) in sums.iter().zip(d) {
        // SAFETY: as above.
        unsafe { cx.put64(to, out) };
    }
    Flow::Next
}
