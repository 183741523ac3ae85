//! Exchange between the lanes of a warp (PTX ISA 9.7.9.6, 9.7.13.2 to 9.7.13.10).
//!
//! The `.sync` instructions wait until all lanes of their member mask execute them. Lanes named
//! by the mask that have exited do not count; a lane outside the mask that executes one is an
//! error, as the ISA leaves that undefined.

use super::operands;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Cx, Gathered, lanes_of};
use crate::program::{Exec, Flow, Inst, NO_REG};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;
use crate::schedule::elected;

pub(crate) const OPCODES: &[&str] = &["shfl", "vote", "match", "redux", "activemask", "elect"];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if instruction.opcode == "activemask" {
        words.types();
        let [d] = operands(instruction, words)?;
        let d = cx.dst(d, Type::B32, words)?;
        cx.emit(Inst { d, ..Decoder::blank(activemask) });
        return Ok(());
    }
    if !words.take("sync") {
        return Err(words.unsupported("only the `.sync` form exists on sm_70 and later"));
    }
    match instruction.opcode {
        "shfl" => decode_shfl(cx, words, instruction),
        "vote" => decode_vote(cx, words, instruction),
        "match" => decode_match(cx, words, instruction),
        "redux" => decode_redux(cx, words, instruction),
        _ => {
            let [d, mask] = operands(instruction, words)?;
            let (d, p) = match d {
                Operand::Pair(d, p) => {
                    (cx.dst(d, Type::B32, words)?, cx.dst(p, Type::Pred, words)?)
                }
                _ => return Err(words.wrong("the destination is `lane|predicate`")),
            };
            let c = cx.src(mask, Type::B32, words)?;
            cx.emit(Inst { d, b: p, c, ..Decoder::blank(elect) });
            Ok(())
        }
    }
}

/// `bar.warp.sync` (9.7.13.2).
pub(super) fn decode_warp_barrier<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    words.take("sync");
    let [mask] = operands(instruction, words)?;
    let c = cx.src(mask, Type::B32, words)?;
    cx.emit(Inst { c, ..Decoder::blank(warp_barrier) });
    Ok(())
}

/// The member mask in `c`, the same for all lanes that execute this; else what to do.
unsafe fn member_mask(cx: &mut Cx<'_>, inst: &Inst) -> Result<u32, Flow> {
    // SAFETY: an operand of this frame.
    let row = unsafe { cx.row32(inst.c) };
    let mask = row[cx.mask.trailing_zeros() as usize];
    if let Some(lane) = lanes_of(cx.mask).find(|&lane| row[lane as usize] != mask) {
        // Groups with masks of their own, each complete in itself.
        let own = row[lane as usize];
        if own & mask != 0 {
            return Err(cx.misuse("lanes of one group give different member masks"));
        }
        let group = cx.mask & mask;
        return Err(cx.split_off(group));
    }
    if cx.mask & !mask != 0 {
        return Err(cx.misuse(format!(
            "lanes 0x{:08x} execute this, the member mask is 0x{mask:08x}",
            cx.mask
        )));
    }
    Ok(mask)
}

/// Waits for the lanes of the member mask in `c`. Once all are here, `cx.mask` has them.
unsafe fn members(cx: &mut Cx<'_>, inst: &Inst) -> Result<u32, Flow> {
    // SAFETY: as the caller's.
    let mask = unsafe { member_mask(cx, inst) }?;
    match cx.gather(mask) {
        Gathered::All => Ok(mask),
        Gathered::Missing => Err(Flow::Wait),
    }
}

unsafe fn warp_barrier(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: as the caller's.
    match unsafe { member_mask(cx, inst) } {
        Ok(mask) => match cx.meet(mask) {
            Gathered::All => Flow::Next,
            Gathered::Missing => Flow::Wait,
        },
        Err(flow) => flow,
    }
}

unsafe fn activemask(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let mask = cx.mask;
    // SAFETY: an operand of this frame.
    unsafe { cx.put32(inst.d, &[mask; 32]) };
    Flow::Next
}

/// `elect.sync` (9.7.13.10): the lowest member is elected, or the one that the schedule names.
unsafe fn elect(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame.
    unsafe {
        match members(cx, inst) {
            Ok(_) => {
                let leader = elected(cx.mask, cx.launch.election);
                cx.put32(inst.d, &[leader; 32]);
                cx.set_pred(inst.b, 1 << leader);
                Flow::Next
            }
            Err(flow) => flow,
        }
    }
}

fn decode_shfl<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let exec: Exec = match words.take_any(&["up", "down", "bfly", "idx"]) {
        Some("up") => shfl::<0>,
        Some("down") => shfl::<1>,
        Some("bfly") => shfl::<2>,
        Some("idx") => shfl::<3>,
        _ => return Err(words.wrong("the mode is missing")),
    };
    let ty = words.ty()?;
    let [d, a, b, c, mask] = operands(instruction, words)?;
    let mut inst = Decoder::blank(exec);
    inst.a = cx.src(a, ty, words)?;
    inst.b = cx.src(b, Type::B32, words)?;
    inst.aux = cx.src(c, Type::B32, words)?;
    inst.c = cx.src(mask, Type::B32, words)?;
    let (d, p) = match d {
        Operand::Pair(d, p) => {
            (cx.optional_dst(d, ty, words)?, cx.optional_dst(p, Type::Pred, words)?)
        }
        _ => (cx.dst(d, ty, words)?, NO_REG),
    };
    (inst.d, inst.imm) = (d, u64::from(p));
    cx.emit(inst);
    Ok(())
}

/// The lane that a lane reads from, and whether it lies in range (9.7.9.6).
#[inline(always)]
fn shfl_source<const MODE: u32>(lane: u32, distance: u32, control: u32) -> (u32, bool) {
    let distance = distance & 31;
    let (clamp, segment) = (control & 31, control >> 8 & 31);
    let max = (lane & segment) | (clamp & !segment);
    match MODE {
        0 => (lane.wrapping_sub(distance), lane as i32 - distance as i32 >= max as i32),
        1 => (lane + distance, lane + distance <= max),
        2 => (lane ^ distance, lane ^ distance <= max),
        _ => {
            let source = (lane & segment) | (distance & !segment);
            (source, source <= max)
        }
    }
}

/// `shfl.sync` (9.7.9.6): `b` the lane or distance, `aux` a register with clamp and segment mask.
unsafe fn shfl<const MODE: u32>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame; `aux` and `imm` hold registers too.
    unsafe {
        if let Err(flow) = members(cx, inst) {
            return flow;
        }
        let mask = cx.mask;
        let (a, b, c) = (*cx.row32(inst.a), &*cx.row32(inst.b), &*cx.row32(inst.aux));
        let (mut from, mut bits) = ([0u32; 32], [0u32; 32]);
        for lane in 0..32u32 {
            let (source, ok) = shfl_source::<MODE>(lane, b[lane as usize], c[lane as usize]);
            from[lane as usize] = if ok { source & 31 } else { lane };
            bits[lane as usize] = u32::from(ok) << lane;
        }
        let inside = bits.iter().fold(0, |all, bit| all | bit);
        if mask != u32::MAX {
            let absent = cx.warp.live & !mask;
            if let Some(lane) = lanes_of(mask).find(|&lane| absent >> from[lane as usize] & 1 != 0)
            {
                return cx.misuse(format!(
                    "lane {lane} reads from lane {}, which does not take part (0x{mask:08x})",
                    from[lane as usize]
                ));
            }
        }
        let out = from.map(|lane| a[(lane & 31) as usize]);
        if inst.d != NO_REG {
            cx.put32(inst.d, &out);
        }
        if inst.imm as u32 != NO_REG {
            cx.set_pred(inst.imm as u32, inside);
        }
    }
    Flow::Next
}

fn decode_vote<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let mode = words.take_any(&["all", "any", "uni", "ballot"]);
    let ty = words.ty()?;
    let [d, a, mask] = operands(instruction, words)?;
    let exec: Exec = match mode {
        Some("all") => vote::<0>,
        Some("any") => vote::<1>,
        Some("uni") => vote::<2>,
        Some("ballot") => vote::<3>,
        _ => return Err(words.wrong("the mode is missing")),
    };
    let (a, flip) = cx.pred_src(a, words)?;
    let c = cx.src(mask, Type::B32, words)?;
    let d = cx.dst(d, ty, words)?;
    cx.emit(Inst { d, a, c, aux: flip, ..Decoder::blank(exec) });
    Ok(())
}

/// `vote.sync` (9.7.13.3).
unsafe fn vote<const MODE: u32>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame.
    unsafe {
        if let Err(flow) = members(cx, inst) {
            return flow;
        }
        let ballot = (*cx.pred(inst.a) ^ inst.aux) & cx.mask;
        if MODE == 3 {
            cx.put32(inst.d, &[ballot; 32]);
            return Flow::Next;
        }
        let truth = match MODE {
            0 => ballot == cx.mask,
            1 => ballot != 0,
            _ => ballot == 0 || ballot == cx.mask,
        };
        cx.set_pred(inst.d, if truth { u32::MAX } else { 0 });
    }
    Flow::Next
}

fn decode_match<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let all = words.take_any(&["any", "all"]) == Some("all");
    let ty = words.ty()?;
    let [d, a, mask] = operands(instruction, words)?;
    let exec: Exec = match (all, ty.bytes()) {
        (false, 4) => match_lanes::<false, false>,
        (false, _) => match_lanes::<false, true>,
        (true, 4) => match_lanes::<true, false>,
        (true, _) => match_lanes::<true, true>,
    };
    let a = cx.src(a, ty, words)?;
    let c = cx.src(mask, Type::B32, words)?;
    let (d, p) = match d {
        Operand::Pair(d, p) => {
            (cx.optional_dst(d, Type::B32, words)?, cx.optional_dst(p, Type::Pred, words)?)
        }
        _ => (cx.dst(d, Type::B32, words)?, NO_REG),
    };
    cx.emit(Inst { d, a, c, b: p, ..Decoder::blank(exec) });
    Ok(())
}

/// `match.sync` (9.7.13.5).
unsafe fn match_lanes<const ALL: bool, const WIDE: bool>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame.
    unsafe {
        if let Err(flow) = members(cx, inst) {
            return flow;
        }
        let mask = cx.mask;
        let value = |lane: u32| {
            if WIDE {
                cx.row64(inst.a)[lane as usize]
            } else {
                u64::from(cx.row32(inst.a)[lane as usize])
            }
        };
        let equal = |lane: u32| {
            let own = value(lane);
            lanes_of(mask).filter(|&other| value(other) == own).fold(0, |all, one| all | 1 << one)
        };
        let mut out = [0u32; 32];
        for lane in lanes_of(mask) {
            out[lane as usize] = equal(lane);
        }
        if ALL {
            let same = out[mask.trailing_zeros() as usize] == mask;
            out = [if same { mask } else { 0 }; 32];
            if inst.b != NO_REG {
                cx.set_pred(inst.b, if same { u32::MAX } else { 0 });
            }
        }
        if inst.d != NO_REG {
            cx.put32(inst.d, &out);
        }
    }
    Flow::Next
}

fn decode_redux<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let op = words.take_any(&["add", "min", "max", "and", "or", "xor"]);
    let ty = words.ty()?;
    let [d, a, mask] = operands(instruction, words)?;
    let exec: Exec = match (op, ty) {
        (Some("add"), Type::U32 | Type::S32) => redux::<0>,
        (Some("min"), Type::U32) => redux::<1>,
        (Some("max"), Type::U32) => redux::<2>,
        (Some("min"), Type::S32) => redux::<3>,
        (Some("max"), Type::S32) => redux::<4>,
        (Some("and"), Type::B32) => redux::<5>,
        (Some("or"), Type::B32) => redux::<6>,
        (Some("xor"), Type::B32) => redux::<7>,
        _ => return Err(words.unsupported("this reduction needs sm_100 or does not exist")),
    };
    let (a, c) = (cx.src(a, ty, words)?, cx.src(mask, Type::B32, words)?);
    let d = cx.dst(d, ty, words)?;
    cx.emit(Inst { d, a, c, ..Decoder::blank(exec) });
    Ok(())
}

/// `redux.sync` (9.7.13.7).
unsafe fn redux<const OP: u32>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame.
    unsafe {
        if let Err(flow) = members(cx, inst) {
            return flow;
        }
        let row = cx.row32(inst.a);
        let sum = lanes_of(cx.mask).map(|lane| row[lane as usize]).reduce(|a, b| match OP {
            0 => a.wrapping_add(b),
            1 => a.min(b),
            2 => a.max(b),
            3 => (a as i32).min(b as i32) as u32,
            4 => (a as i32).max(b as i32) as u32,
            5 => a & b,
            6 => a | b,
            _ => a ^ b,
        });
        cx.put32(inst.d, &[sum.unwrap_or(0); 32]);
    }
    Flow::Next
}
