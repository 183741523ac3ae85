//! Logic, shifts and bit fields (PTX ISA 9.7.1.11 to 9.7.1.24, 9.7.8).

use super::operands;
use crate::decode::operand::literal;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Cx, shapes};
use crate::program::{Exec, Flow, Inst, NO_REG};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &[
    "and", "or", "xor", "not", "cnot", "shl", "shr", "shf", "bfe", "bfi", "bfind", "brev", "clz",
    "popc", "prmt", "lop3", "szext", "bmsk", "fns", "dp4a", "dp2a",
];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    match instruction.opcode {
        "and" | "or" | "xor" | "not" | "cnot" => decode_logic(cx, words, instruction),
        "shl" | "shr" => decode_shift(cx, words, instruction),
        "shf" => decode_funnel(cx, words, instruction),
        "lop3" => decode_lop3(cx, words, instruction),
        "prmt" => decode_prmt(cx, words, instruction),
        "dp4a" | "dp2a" => decode_dot(cx, words, instruction),
        "bfe" | "bfi" => decode_field(cx, words, instruction),
        "szext" | "bmsk" => decode_clamped(cx, words, instruction),
        "fns" => {
            let types = [Type::B32, Type::B32, Type::S32, Type::B32];
            words.types().clear();
            three(cx, words, instruction, types, shapes::ternary(nth_set))
        }
        _ => decode_count(cx, words, instruction),
    }
}

fn decode_logic<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let ty = words.ty()?;
    let op = instruction.opcode;
    if matches!(op, "not" | "cnot") {
        let [d, a] = operands(instruction, words)?;
        if ty == Type::Pred {
            let (a, flip) = cx.pred_src(a, words)?;
            let d = cx.dst(d, ty, words)?;
            let exec = super::moves::copy_exec(ty);
            cx.emit(Inst { d, a, aux: !flip, ..Decoder::blank(exec) });
            return Ok(());
        }
        let exec = match (op, ty.bytes()) {
            ("not", 2) => shapes::unary(|a: u16| !a),
            ("not", 4) => shapes::unary(|a: u32| !a),
            ("not", _) => shapes::unary(|a: u64| !a),
            (_, 2) => shapes::unary(|a: u16| u16::from(a == 0)),
            (_, 4) => shapes::unary(|a: u32| u32::from(a == 0)),
            _ => shapes::unary(|a: u64| u64::from(a == 0)),
        };
        let a = cx.src(a, ty, words)?;
        let d = cx.dst(d, ty, words)?;
        cx.emit(Inst { d, a, ..Decoder::blank(exec) });
        return Ok(());
    }
    let [d, a, b] = operands(instruction, words)?;
    if ty == Type::Pred {
        let number = match op {
            "and" => 0,
            "or" => 1,
            _ => 2,
        };
        let ((a, flip_a), (b, flip_b)) = (cx.pred_src(a, words)?, cx.pred_src(b, words)?);
        let d = cx.dst(d, ty, words)?;
        let imm = u64::from(flip_a) | u64::from(flip_b) << 32;
        cx.emit(Inst { d, a, b, aux: number, imm, ..Decoder::blank(pred_logic) });
        return Ok(());
    }
    let exec = match (op, ty.bytes()) {
        ("and", 8) => shapes::binary(|a: u64, b: u64| a & b),
        ("or", 8) => shapes::binary(|a: u64, b: u64| a | b),
        (_, 8) => shapes::binary(|a: u64, b: u64| a ^ b),
        ("and", _) => shapes::binary(|a: u32, b: u32| a & b),
        ("or", _) => shapes::binary(|a: u32, b: u32| a | b),
        _ => shapes::binary(|a: u32, b: u32| a ^ b),
    };
    let (a, b) = (cx.src(a, ty, words)?, cx.src(b, ty, words)?);
    let d = cx.dst(d, ty, words)?;
    cx.emit(Inst { d, a, b, ..Decoder::blank(exec) });
    Ok(())
}

unsafe fn pred_logic(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame.
    unsafe {
        let a = *cx.pred(inst.a) ^ inst.imm as u32;
        let b = *cx.pred(inst.b) ^ (inst.imm >> 32) as u32;
        let bits = match inst.aux {
            0 => a & b,
            1 => a | b,
            _ => a ^ b,
        };
        cx.set_pred(inst.d, bits);
    }
    Flow::Next
}

/// Amounts at or above the width clamp to it (9.7.8.7, 9.7.8.8).
fn decode_shift<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let ty = words.ty()?;
    let [d, a, b] = operands(instruction, words)?;
    let left = instruction.opcode == "shl";
    let exec = match (left, ty.bytes(), ty.is_signed()) {
        (true, 2, _) => shapes::binary(|a: u16, b: u32| if b < 16 { a << b } else { 0 }),
        (true, 4, _) => shapes::binary(|a: u32, b: u32| if b < 32 { a << b } else { 0 }),
        (true, ..) => shapes::binary(|a: u64, b: u32| if b < 64 { a << b } else { 0 }),
        (false, 2, true) => shapes::binary(|a: i16, b: u32| a >> b.min(15)),
        (false, 4, true) => shapes::binary(|a: i32, b: u32| a >> b.min(31)),
        (false, _, true) => shapes::binary(|a: i64, b: u32| a >> b.min(63)),
        (false, 2, _) => shapes::binary(|a: u16, b: u32| if b < 16 { a >> b } else { 0 }),
        (false, 4, _) => shapes::binary(|a: u32, b: u32| if b < 32 { a >> b } else { 0 }),
        _ => shapes::binary(|a: u64, b: u32| if b < 64 { a >> b } else { 0 }),
    };
    let (a, b) = (cx.src(a, ty, words)?, cx.src(b, Type::U32, words)?);
    let d = cx.dst(d, ty, words)?;
    cx.emit(Inst { d, a, b, ..Decoder::blank(exec) });
    Ok(())
}

/// `shf` (9.7.8.6) of the pair `b:a`.
fn decode_funnel<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    fn pair(a: u32, b: u32) -> u64 {
        u64::from(b) << 32 | u64::from(a)
    }
    let left = words.take_any(&["l", "r"]) == Some("l");
    let wrap = words.take_any(&["wrap", "clamp"]) == Some("wrap");
    let ty = words.ty()?;
    let exec = match (left, wrap) {
        (true, true) => {
            shapes::ternary(|a: u32, b: u32, c: u32| (pair(a, b) << (c & 31) >> 32) as u32)
        }
        (true, false) => {
            shapes::ternary(|a: u32, b: u32, c: u32| (pair(a, b) << c.min(32) >> 32) as u32)
        }
        (false, true) => shapes::ternary(|a: u32, b: u32, c: u32| (pair(a, b) >> (c & 31)) as u32),
        (false, false) => {
            shapes::ternary(|a: u32, b: u32, c: u32| (pair(a, b) >> c.min(32)) as u32)
        }
    };
    three(cx, words, instruction, [ty, ty, Type::U32, ty], exec)
}

/// Emits `d = exec(a, b, c)` for operands of types `[a, b, c, d]`.
fn three<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &Words<'a>,
    instruction: &Instruction<'a>,
    types: [Type; 4],
    exec: Exec,
) -> Result<(), Error> {
    let [d, a, b, c] = operands(instruction, words)?;
    let (a, b) = (cx.src(a, types[0], words)?, cx.src(b, types[1], words)?);
    let c = cx.src(c, types[2], words)?;
    let d = cx.dst(d, types[3], words)?;
    cx.emit(Inst { d, a, b, c, ..Decoder::blank(exec) });
    Ok(())
}

/// `lop3` (9.7.8.5): bit `4a + 2b + c` of the table for each bit position.
fn decode_lop3<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if let Some(combine) = words.take_any(&["or", "and"]) {
        return decode_lop3_test(cx, words, instruction, if combine == "and" { 1 } else { 2 });
    }
    let ty = words.ty()?;
    let [d, a, b, c, table] = operands(instruction, words)?;
    let table = literal(table, Type::U32, words)? as u32;
    let (a, b, c) = (cx.src(a, ty, words)?, cx.src(b, ty, words)?, cx.src(c, ty, words)?);
    let d = cx.dst(d, ty, words)?;
    cx.emit(Inst { d, a, b, c, aux: table, ..Decoder::blank(lop3) });
    Ok(())
}

/// `lop3.and` and `lop3.or` (9.7.8.5): also whether the result is not 0, combined with a predicate.
fn decode_lop3_test<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    combination: u32,
) -> Result<(), Error> {
    let ty = words.ty()?;
    let [into, a, b, c, table, with] = operands(instruction, words)?;
    let Operand::Pair(d, p) = into else {
        return Err(words.wrong("the destination is `d|p`"));
    };
    let table = literal(table, Type::U32, words)? as u32;
    let (a, b, c) = (cx.src(a, ty, words)?, cx.src(b, ty, words)?, cx.src(c, ty, words)?);
    let (with, flip) = cx.pred_src(with, words)?;
    let d = cx.dst(d, ty, words)?;
    let p = cx.dst(p, Type::Pred, words)?;
    cx.emit(Inst { d, a, b, c, aux: table, ..Decoder::blank(lop3) });
    let test = shapes::compare(|a: u32, _: u32| a != 0);
    let (aux, imm) = (combination | (flip & 4), u64::from(NO_REG));
    cx.emit(Inst { d: p, a: d, b: d, c: with, aux, imm, ..Decoder::blank(test) });
    Ok(())
}

/// `fns` (9.7.1.19): the place of the `|n|`-th set bit from `base` on, upwards or downwards; with
/// `n` = 0 the bit at `base` itself. All ones if there is none.
fn nth_set(mask: u32, base: u32, n: i32) -> u32 {
    let is_set = |at: &u32| mask.checked_shr(*at).unwrap_or(0) & 1 != 0;
    let skip = (n.unsigned_abs() as usize).saturating_sub(1);
    let found = match n {
        0 => Some(base).filter(is_set),
        1.. => (base..32).filter(is_set).nth(skip),
        _ => (0..=base.min(31)).rev().filter(is_set).nth(skip),
    };
    found.unwrap_or(u32::MAX)
}

unsafe fn lop3(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let mut out = [0u32; 32];
    // SAFETY: operands of this frame.
    unsafe {
        let (a, b, c) = (&*cx.row32(inst.a), &*cx.row32(inst.b), &*cx.row32(inst.c));
        for term in 0..8 {
            if inst.aux >> term & 1 == 0 {
                continue;
            }
            let flip = |bit: u32| if term >> bit & 1 != 0 { 0 } else { u32::MAX };
            let (x, y, z) = (flip(2), flip(1), flip(0));
            for lane in 0..32 {
                out[lane] |= (a[lane] ^ x) & (b[lane] ^ y) & (c[lane] ^ z);
            }
        }
        cx.put32(inst.d, &out);
    }
    Flow::Next
}

/// One byte of `b:a` by a selector's four bits; bit 3 replicates the sign.
fn pick(pair: u64, selector: u32) -> u32 {
    let byte = (pair >> (8 * (selector & 7))) as u32 & 0xff;
    if selector & 8 == 0 {
        byte
    } else if byte & 0x80 != 0 {
        0xff
    } else {
        0
    }
}

fn permute(a: u32, b: u32, selectors: [u32; 4]) -> u32 {
    let pair = u64::from(b) << 32 | u64::from(a);
    (0..4).fold(0, |out, byte| out | pick(pair, selectors[byte]) << (8 * byte))
}

/// `prmt` (9.7.8.9) and its modes.
fn decode_prmt<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let ty = words.ty()?;
    let exec = match words.take_any(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
        None => shapes::ternary(|a: u32, b: u32, c: u32| {
            permute(a, b, [c & 15, c >> 4 & 15, c >> 8 & 15, c >> 12 & 15])
        }),
        Some("f4e") => shapes::ternary(|a: u32, b: u32, c: u32| {
            let c = c & 3;
            permute(a, b, [c, c + 1, c + 2, c + 3])
        }),
        Some("b4e") => shapes::ternary(|a: u32, b: u32, c: u32| {
            let c = c & 3;
            permute(a, b, [c, (c + 7) & 7, (c + 6) & 7, (c + 5) & 7])
        }),
        Some("rc8") => shapes::ternary(|a: u32, b: u32, c: u32| permute(a, b, [c & 3; 4])),
        Some("ecl") => shapes::ternary(|a: u32, b: u32, c: u32| {
            let c = c & 3;
            permute(a, b, [c, 1.max(c), 2.max(c), 3])
        }),
        Some("ecr") => shapes::ternary(|a: u32, b: u32, c: u32| {
            let c = c & 3;
            permute(a, b, [0, 1.min(c), 2.min(c), c])
        }),
        Some(_) => shapes::ternary(|a: u32, b: u32, c: u32| {
            let c = 2 * (c & 1);
            permute(a, b, [c, c + 1, c, c + 1])
        }),
    };
    three(cx, words, instruction, [ty, ty, Type::U32, ty], exec)
}

/// `dp4a`, `dp2a` (9.7.1.23, 9.7.1.24).
fn decode_dot<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let high = words.take_any(&["lo", "hi"]) == Some("hi");
    let (first, second) = (words.ty()?, words.ty()?);
    let mut inst = Decoder::blank(if instruction.opcode == "dp4a" { dp4a } else { dp2a });
    inst.aux =
        u32::from(first.is_signed()) | u32::from(second.is_signed()) << 1 | u32::from(high) << 2;
    let [d, a, b, c] = operands(instruction, words)?;
    (inst.a, inst.b) = (cx.src(a, Type::B32, words)?, cx.src(b, Type::B32, words)?);
    inst.c = cx.src(c, Type::B32, words)?;
    inst.d = cx.dst(d, Type::B32, words)?;
    cx.emit(inst);
    Ok(())
}

fn byte(word: u32, index: u32, signed: bool) -> i32 {
    let byte = (word >> (8 * index)) as u8;
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}

unsafe fn dp4a(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let mut out = [0u32; 32];
    // SAFETY: operands of this frame.
    unsafe {
        let (a, b, c) = (&*cx.row32(inst.a), &*cx.row32(inst.b), &*cx.row32(inst.c));
        for lane in 0..32 {
            let terms = (0..4).map(|index| {
                byte(a[lane], index, inst.aux & 1 != 0) * byte(b[lane], index, inst.aux & 2 != 0)
            });
            out[lane] = c[lane].wrapping_add(terms.sum::<i32>() as u32);
        }
        cx.put32(inst.d, &out);
    }
    Flow::Next
}

unsafe fn dp2a(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let mut out = [0u32; 32];
    let from = if inst.aux & 4 != 0 { 2 } else { 0 };
    // SAFETY: operands of this frame.
    unsafe {
        let (a, b, c) = (&*cx.row32(inst.a), &*cx.row32(inst.b), &*cx.row32(inst.c));
        for lane in 0..32 {
            let mut sum = c[lane];
            for index in 0..2 {
                let half = (a[lane] >> (16 * index)) as u16;
                let half = if inst.aux & 1 != 0 { i32::from(half as i16) } else { i32::from(half) };
                let factor = byte(b[lane], from + index, inst.aux & 2 != 0);
                sum = sum.wrapping_add(half.wrapping_mul(factor) as u32);
            }
            out[lane] = sum;
        }
        cx.put32(inst.d, &out);
    }
    Flow::Next
}

/// `bfe` and `bfi` (9.7.1.19, 9.7.1.20).
fn decode_field<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let ty = words.ty()?;
    if instruction.opcode == "bfe" {
        let exec = match (ty.bytes(), ty.is_signed()) {
            (8, false) => shapes::ternary(|a: u64, b: u32, c: u32| extract(a, b, c, 64, false)),
            (8, true) => shapes::ternary(|a: u64, b: u32, c: u32| extract(a, b, c, 64, true)),
            (_, false) => {
                shapes::ternary(|a: u32, b: u32, c: u32| extract(a.into(), b, c, 32, false) as u32)
            }
            _ => shapes::ternary(|a: u32, b: u32, c: u32| extract(a.into(), b, c, 32, true) as u32),
        };
        return three(cx, words, instruction, [ty, Type::U32, Type::U32, ty], exec);
    }
    let [f, a, b, position, length] = operands(instruction, words)?;
    let mut inst = Decoder::blank(if ty.bytes() == 8 { insert::<true> } else { insert::<false> });
    (inst.a, inst.b) = (cx.src(a, ty, words)?, cx.src(b, ty, words)?);
    inst.c = cx.src(position, Type::U32, words)?;
    inst.aux = cx.src(length, Type::U32, words)?;
    inst.d = cx.dst(f, ty, words)?;
    cx.emit(inst);
    Ok(())
}

/// A field of `bits` bits; past the top come zeros or the sign, which is the field's top bit or
/// that of the value.
fn extract(value: u64, position: u32, length: u32, bits: u32, signed: bool) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let sign_at = (position + length).wrapping_sub(1).min(bits - 1);
    let negative = signed && length != 0 && value >> sign_at & 1 != 0;
    let above = if negative { u64::MAX } else { 0 };
    let whole = if bits == 32 { above << 32 | value & 0xffff_ffff } else { value };
    let shifted = match position {
        0 => whole,
        1..=63 => whole >> position | above << (64 - position),
        _ => above,
    };
    if length >= 64 {
        shifted
    } else {
        let mask = (1u64 << length) - 1;
        shifted & mask | above & !mask
    }
}

unsafe fn insert<const WIDE: bool>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame; `aux` holds a register too.
    unsafe {
        let (positions, lengths) = (&*cx.row32(inst.c), &*cx.row32(inst.aux));
        let field = |lane: usize| {
            let (position, length) = (positions[lane] & 0xff, lengths[lane] & 0xff);
            let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
            if position >= 64 { (0, 0) } else { (ones << position, position) }
        };
        if WIDE {
            let (a, b) = (&*cx.row64(inst.a), &*cx.row64(inst.b));
            let out: [u64; 32] = std::array::from_fn(|lane| {
                let (mask, position) = field(lane);
                b[lane] & !mask | a[lane] << position & mask
            });
            cx.put64(inst.d, &out);
        } else {
            let (a, b) = (&*cx.row32(inst.a), &*cx.row32(inst.b));
            let out: [u32; 32] = std::array::from_fn(|lane| {
                let (mask, position) = field(lane);
                (u64::from(b[lane]) & !mask | u64::from(a[lane]) << position & mask) as u32
            });
            cx.put32(inst.d, &out);
        }
    }
    Flow::Next
}

/// `szext` and `bmsk` (9.7.1.21, 9.7.1.22).
fn decode_clamped<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    fn mask(position: u32, length: u32) -> u32 {
        let ones = if length >= 32 { u32::MAX } else { (1 << length) - 1 };
        if position >= 32 { 0 } else { ones << position }
    }
    let clamp = words.take_any(&["clamp", "wrap"]) == Some("clamp");
    let ty = words.ty()?;
    let exec = match (instruction.opcode, clamp, ty.is_signed()) {
        ("bmsk", true, _) => shapes::binary(|a: u32, b: u32| mask(a, b)),
        ("bmsk", false, _) => shapes::binary(|a: u32, b: u32| mask(a & 31, b & 31)),
        (_, true, false) => shapes::binary(|a: u32, b: u32| a & mask(0, b)),
        (_, false, false) => shapes::binary(|a: u32, b: u32| a & mask(0, b & 31)),
        (_, true, true) => {
            shapes::binary(|a: u32, b: u32| extract(a.into(), 0, b.min(32), 32, true) as u32)
        }
        _ => shapes::binary(|a: u32, b: u32| extract(a.into(), 0, b & 31, 32, true) as u32),
    };
    let [d, a, b] = operands(instruction, words)?;
    let (a, b) = (cx.src(a, ty, words)?, cx.src(b, Type::U32, words)?);
    let d = cx.dst(d, ty, words)?;
    cx.emit(Inst { d, a, b, ..Decoder::blank(exec) });
    Ok(())
}

/// `popc clz brev bfind` (9.7.1.14 to 9.7.1.18). Counts have 32 bits.
fn decode_count<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let shift = words.take("shiftamt");
    let ty = words.ty()?;
    let wide = ty.bytes() == 8;
    let exec = match (instruction.opcode, wide, ty.is_signed(), shift) {
        ("popc", false, ..) => shapes::unary(|a: u32| a.count_ones()),
        ("popc", true, ..) => shapes::unary(|a: u64| a.count_ones()),
        ("clz", false, ..) => shapes::unary(|a: u32| a.leading_zeros()),
        ("clz", true, ..) => shapes::unary(|a: u64| a.leading_zeros()),
        ("brev", false, ..) => shapes::unary(|a: u32| a.reverse_bits()),
        ("brev", true, ..) => shapes::unary(|a: u64| a.reverse_bits()),
        (_, false, false, false) => shapes::unary(|a: u32| 31u32.wrapping_sub(a.leading_zeros())),
        (_, true, false, false) => shapes::unary(|a: u64| 63u32.wrapping_sub(a.leading_zeros())),
        (_, false, true, false) => {
            shapes::unary(|a: i32| 31u32.wrapping_sub((a ^ a >> 31).leading_zeros()))
        }
        (_, true, true, false) => {
            shapes::unary(|a: i64| 63u32.wrapping_sub((a ^ a >> 63).leading_zeros()))
        }
        (_, false, false, true) => {
            shapes::unary(|a: u32| if a == 0 { u32::MAX } else { a.leading_zeros() })
        }
        (_, true, false, true) => {
            shapes::unary(|a: u64| if a == 0 { u32::MAX } else { a.leading_zeros() })
        }
        (_, false, true, true) => shapes::unary(|a: i32| {
            let a = a ^ a >> 31;
            if a == 0 { u32::MAX } else { a.leading_zeros() }
        }),
        _ => shapes::unary(|a: i64| {
            let a = a ^ a >> 63;
            if a == 0 { u32::MAX } else { a.leading_zeros() }
        }),
    };
    let result = if instruction.opcode == "brev" { ty } else { Type::U32 };
    let [d, a] = operands(instruction, words)?;
    if matches!(a, Operand::Vector(_)) {
        return Err(words.wrong("the operand is one register"));
    }
    let a = cx.src(a, ty, words)?;
    let d = cx.dst(d, result, words)?;
    cx.emit(Inst { d, a, ..Decoder::blank(exec) });
    Ok(())
}
