//! Moves, selections and conversions of addresses (PTX ISA 9.7.9.1 to 9.7.9.3, 9.7.5.3).

use super::operands;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Cx, blend, lanes_of, shapes};
use crate::memory::window::{GLOBAL_BASE, LOCAL_BASE, PARAM_BASE, SHARED_BASE, is_in};
use crate::program::{Exec, Flow, Inst, NO_REG, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::{Space, Type};

pub(crate) const OPCODES: &[&str] = &["mov", "selp", "slct", "cvta", "isspacep"];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    match instruction.opcode {
        "mov" => decode_mov(cx, words, instruction),
        "selp" => {
            let ty = words.ty()?;
            let [d, a, b, p] = operands(instruction, words)?;
            let exec = match ty.bytes() {
                8 => shapes::select(|a: u64| a),
                _ => shapes::select(|a: u32| a),
            };
            let (c, aux) = cx.pred_src(p, words)?;
            let (a, b) = (cx.src(a, ty, words)?, cx.src(b, ty, words)?);
            let d = cx.dst(d, ty, words)?;
            cx.emit(Inst { d, a, b, c, aux, ..Decoder::blank(exec) });
            Ok(())
        }
        "slct" => decode_slct(cx, words, instruction),
        "cvta" => decode_cvta(cx, words, instruction),
        _ => decode_isspacep(cx, words, instruction),
    }
}

/// The executor that copies a register of type `ty`.
pub(super) fn copy_exec(ty: Type) -> Exec {
    match ty.bytes() {
        _ if ty == Type::Pred => copy_pred,
        8 => shapes::unary(|a: u64| a),
        16 => shapes::unary(|a: u128| a),
        _ => shapes::unary(|a: u32| a),
    }
}

unsafe fn copy_pred(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame.
    unsafe { cx.set_pred(inst.d, *cx.pred(inst.a) ^ inst.aux) };
    Flow::Next
}

fn decode_mov<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let ty = words.ty()?;
    let [d, a] = operands(instruction, words)?;
    match (d, a) {
        (Operand::Vector(parts), _) => {
            let part = part_type(ty, parts.len(), words)?;
            let a = cx.src(a, ty, words)?;
            let mut regs = Vec::new();
            for operand in parts {
                regs.push(cx.optional_dst(operand, part, words)?);
            }
            let d = cx.push_list(&regs);
            let aux = parts.len() as u32;
            cx.emit(Inst { d, a, aux, imm: u64::from(part.bytes()), ..Decoder::blank(unpack) });
        }
        (_, Operand::Vector(parts)) => {
            let part = part_type(ty, parts.len(), words)?;
            let mut regs = Vec::new();
            for operand in parts {
                regs.push(cx.src(operand, part, words)?);
            }
            let a = cx.push_list(&regs);
            let d = cx.dst(d, ty, words)?;
            let aux = parts.len() as u32;
            cx.emit(Inst { d, a, aux, imm: u64::from(part.bytes()), ..Decoder::blank(pack) });
        }
        _ => {
            let (a, aux) =
                if ty == Type::Pred { cx.pred_src(a, words)? } else { (cx.src(a, ty, words)?, 0) };
            let d = cx.dst(d, ty, words)?;
            cx.emit(Inst { d, a, aux, ..Decoder::blank(copy_exec(ty)) });
        }
    }
    Ok(())
}

fn part_type(ty: Type, parts: usize, words: &Words<'_>) -> Result<Type, Error> {
    match (ty.bytes() as usize, parts) {
        (2, 2) | (4, 4) => Ok(Type::B8),
        (4, 2) | (8, 4) => Ok(Type::B16),
        (8, 2) | (16, 4) => Ok(Type::B32),
        (16, 2) => Ok(Type::B64),
        (bytes, _) => {
            Err(words.wrong(format!("{} bits do not split into {parts} registers", 8 * bytes)))
        }
    }
}

/// A lane of a register of `bytes` bytes.
unsafe fn read_lane(cx: &Cx<'_>, reg: Reg, bytes: u64, lane: usize) -> u128 {
    // SAFETY: the caller gives a register of this frame and its width.
    unsafe {
        match bytes {
            8 => u128::from(cx.row64(reg)[lane]),
            16 => cx.row128(reg)[lane],
            _ => u128::from(cx.row32(reg)[lane]),
        }
    }
}

unsafe fn unpack(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let (parts, bytes) = (inst.aux, inst.imm);
    let bits = 8 * bytes as u32;
    // SAFETY: operands of this frame, of the widths that the decoder checked.
    unsafe {
        let mut whole = [0u128; 32];
        for (lane, value) in whole.iter_mut().enumerate() {
            *value = read_lane(cx, inst.a, bytes * u64::from(parts), lane);
        }
        for part in 0..parts {
            let reg = cx.function.lists[(inst.d + part) as usize];
            if reg == NO_REG {
                continue;
            }
            let mask = if bytes == 8 { u64::MAX } else { (1u64 << bits) - 1 };
            let values = whole.map(|value| (value >> (part * bits)) as u64 & mask);
            if bytes == 8 {
                cx.put64(reg, &values);
            } else {
                cx.put32(reg, &values.map(|value| value as u32));
            }
        }
    }
    Flow::Next
}

unsafe fn pack(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let (parts, bytes) = (inst.aux, inst.imm);
    let mut whole = [0u128; 32];
    // SAFETY: as in `unpack`.
    unsafe {
        for part in 0..parts {
            let reg = cx.function.lists[(inst.a + part) as usize];
            for (lane, value) in whole.iter_mut().enumerate() {
                *value |= read_lane(cx, reg, bytes, lane) << (u64::from(part) * 8 * bytes);
            }
        }
        match bytes * u64::from(parts) {
            8 => cx.put64(inst.d, &whole.map(|value| value as u64)),
            16 => blend(cx.row128(inst.d), &whole, cx.mask),
            _ => cx.put32(inst.d, &whole.map(|value| value as u32)),
        }
    }
    Flow::Next
}

/// `slct`: `a` where `c >= 0`, else `b` (PTX ISA 9.7.5.4; a NaN selects `b`, -0 selects `a`).
fn decode_slct<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    words.take("ftz");
    let (ty, by) = (words.ty()?, words.ty()?);
    let [d, a, b, c] = operands(instruction, words)?;
    let exec = match (ty.bytes(), by) {
        (8, Type::F32) => shapes::ternary(|a: u64, b: u64, c: f32| if c >= 0.0 { a } else { b }),
        (8, _) => shapes::ternary(|a: u64, b: u64, c: i32| if c >= 0 { a } else { b }),
        (_, Type::F32) => shapes::ternary(|a: u32, b: u32, c: f32| if c >= 0.0 { a } else { b }),
        _ => shapes::ternary(|a: u32, b: u32, c: i32| if c >= 0 { a } else { b }),
    };
    let (a, b, c) = (cx.src(a, ty, words)?, cx.src(b, ty, words)?, cx.src(c, by, words)?);
    let d = cx.dst(d, ty, words)?;
    cx.emit(Inst { d, a, b, c, ..Decoder::blank(exec) });
    Ok(())
}

fn decode_cvta<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let to = words.take("to");
    let space = words.space();
    let ty = words.ty()?;
    let [d, a] = operands(instruction, words)?;
    if ty.bytes() != 8 {
        return Err(words.unsupported("addresses have 64 bits on this machine"));
    }
    let exec = match (space, to) {
        (Space::Shared, false) => shapes::unary(|a: u64| a.wrapping_add(SHARED_BASE)),
        (Space::Shared, true) => shapes::unary(|a: u64| a.wrapping_sub(SHARED_BASE)),
        (Space::Local, false) => shapes::unary(|a: u64| a.wrapping_add(LOCAL_BASE)),
        (Space::Local, true) => shapes::unary(|a: u64| a.wrapping_sub(LOCAL_BASE)),
        (Space::Param, false) if cx.is_entry => shapes::unary(|a: u64| a.wrapping_add(PARAM_BASE)),
        (Space::Param, false) => shapes::unary(|a: u64| a.wrapping_add(LOCAL_BASE)),
        (Space::Param, true) => shapes::unary(|a: u64| a.wrapping_sub(PARAM_BASE)),
        (Space::Global | Space::Generic, _) => shapes::unary(|a: u64| a),
    };
    let a = cx.src(a, ty, words)?;
    let d = cx.dst(d, ty, words)?;
    cx.emit(Inst { d, a, ..Decoder::blank(exec) });
    Ok(())
}

fn decode_isspacep<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let space = words.space();
    let [p, a] = operands(instruction, words)?;
    let imm = match space {
        Space::Shared => SHARED_BASE,
        Space::Local => LOCAL_BASE,
        Space::Param => PARAM_BASE,
        _ => GLOBAL_BASE,
    };
    let a = cx.src(a, Type::B64, words)?;
    let d = cx.dst(p, Type::Pred, words)?;
    cx.emit(Inst { d, a, imm, ..Decoder::blank(isspacep) });
    Ok(())
}

unsafe fn isspacep(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame.
    unsafe {
        let row = cx.row64(inst.a);
        let inside = |address: u64| match inst.imm {
            GLOBAL_BASE => (GLOBAL_BASE..SHARED_BASE).contains(&address),
            base => is_in(address, base),
        };
        let bits = lanes_of(u32::MAX)
            .filter(|&lane| inside(row[lane as usize]))
            .fold(0u32, |bits, lane| bits | 1 << lane);
        cx.set_pred(inst.d, bits);
    }
    Flow::Next
}
