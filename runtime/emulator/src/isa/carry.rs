//! Extended-precision arithmetic with a carry (PTX ISA 9.7.2). The carry is kept per lane.

use super::operands;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::Cx;
use crate::program::{Exec, Flow, Inst};
use crate::ptx::ast::Instruction;
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &["addc", "subc", "madc"];

const OUT: u32 = 1;
const IN: u32 = 2;
const HIGH: u32 = 4;
const SIGNED: u32 = 8;

/// `addc subc madc`: a carry goes in, and out with `.cc`.
pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let out = if words.take("cc") { OUT } else { 0 };
    emit(cx, words, instruction, IN | out)
}

/// `add.cc sub.cc mad.cc`: a carry goes out.
pub(super) fn decode_with_carry_out<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    emit(cx, words, instruction, OUT)
}

fn emit<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    mut aux: u32,
) -> Result<(), Error> {
    let part = words.take_any(&["lo", "hi"]);
    let ty = words.ty()?;
    if !matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64 | Type::B32 | Type::B64) {
        return Err(words.wrong("the type has 32 or 64 bits"));
    }
    aux |= if part == Some("hi") { HIGH } else { 0 };
    aux |= if ty.is_signed() { SIGNED } else { 0 };
    let wide = ty.bytes() == 8;
    let exec: Exec = match (instruction.opcode, wide) {
        ("add" | "addc", false) => add::<false>,
        ("add" | "addc", true) => add::<true>,
        ("sub" | "subc", false) => sub::<false>,
        ("sub" | "subc", true) => sub::<true>,
        ("mad" | "madc", false) => mad::<false>,
        ("mad" | "madc", true) => mad::<true>,
        _ => return Err(words.unsupported("no such operation with a carry")),
    };
    let mut inst = Inst { aux, ..Decoder::blank(exec) };
    if matches!(instruction.opcode, "mad" | "madc") {
        let [d, a, b, c] = operands(instruction, words)?;
        (inst.a, inst.b) = (cx.src(a, ty, words)?, cx.src(b, ty, words)?);
        inst.c = cx.src(c, ty, words)?;
        inst.d = cx.dst(d, ty, words)?;
    } else {
        let [d, a, b] = operands(instruction, words)?;
        (inst.a, inst.b) = (cx.src(a, ty, words)?, cx.src(b, ty, words)?);
        inst.d = cx.dst(d, ty, words)?;
    }
    cx.emit(inst);
    Ok(())
}

/// Runs `op` on each lane: operands and carry in, result and carry out.
unsafe fn lanes<const WIDE: bool>(
    cx: &mut Cx<'_>,
    inst: &Inst,
    op: impl Fn(u64, u64, u64, bool) -> (u64, bool),
) -> Flow {
    let carry = if inst.aux & IN != 0 { cx.warp.carry } else { 0 };
    let (mut out, mut carries) = ([0u64; 32], 0u32);
    // SAFETY: operands of this frame; `c` is read only where the decoder set it.
    unsafe {
        let get = |reg: u32, lane: usize| match (reg, WIDE) {
            (crate::program::NO_REG, _) => 0,
            (_, true) => cx.row64(reg)[lane],
            (_, false) => u64::from(cx.row32(reg)[lane]),
        };
        for (lane, slot) in out.iter_mut().enumerate() {
            let (a, b, c) = (get(inst.a, lane), get(inst.b, lane), get(inst.c, lane));
            let (value, carried) = op(a, b, c, carry >> lane & 1 != 0);
            *slot = value;
            carries |= u32::from(carried) << lane;
        }
        if WIDE {
            cx.put64(inst.d, &out);
        } else {
            cx.put32(inst.d, &out.map(|value| value as u32));
        }
    }
    if inst.aux & OUT != 0 {
        cx.warp.carry = (cx.warp.carry & !cx.mask) | (carries & cx.mask);
    }
    Flow::Next
}

fn bits<const WIDE: bool>() -> u32 {
    if WIDE { 64 } else { 32 }
}

unsafe fn add<const WIDE: bool>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: as the caller's.
    unsafe {
        lanes::<WIDE>(cx, inst, |a, b, _, carry| {
            let sum = u128::from(a) + u128::from(b) + u128::from(carry);
            (sum as u64, sum >> bits::<WIDE>() != 0)
        })
    }
}

/// A subtraction is the addition of the complement: the carry is set where nothing was borrowed.
/// The ISA speaks of a borrow only, but NVIDIA's own division of 128-bit integers reads the flag
/// of `subc.cc` with `addc` and relies on this.
unsafe fn sub<const WIDE: bool>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: as the caller's.
    unsafe {
        let reads = inst.aux & IN != 0;
        lanes::<WIDE>(cx, inst, |a, b, _, carry| {
            let taken = u128::from(b) + u128::from(reads && !carry);
            (u128::from(a).wrapping_sub(taken) as u64, u128::from(a) >= taken)
        })
    }
}

unsafe fn mad<const WIDE: bool>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let (high, signed) = (inst.aux & HIGH != 0, inst.aux & SIGNED != 0);
    // SAFETY: as the caller's.
    unsafe {
        lanes::<WIDE>(cx, inst, |a, b, c, carry| {
            let product = match (signed, WIDE) {
                (false, _) => u128::from(a) * u128::from(b),
                (true, true) => (i128::from(a as i64) * i128::from(b as i64)) as u128,
                (true, false) => (i128::from(a as i32) * i128::from(b as i32)) as u128,
            };
            let part = if high { product >> bits::<WIDE>() } else { product };
            let part = if WIDE { part as u64 } else { u64::from(part as u32) };
            let sum = u128::from(part) + u128::from(c) + u128::from(carry);
            (sum as u64, sum >> bits::<WIDE>() != 0)
        })
    }
}
