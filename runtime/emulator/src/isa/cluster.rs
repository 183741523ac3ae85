//! Clusters (PTX ISA 9.7.9.23 "mapa", 9.7.9.24 "getctarank", 9.7.13.4 "barrier.cluster"), the
//! register pool (9.7.20.5 "setmaxnreg") and dependent grids (9.7.13.14 "griddepcontrol").

use super::operands;
use crate::coherence::Scope;
use crate::decode::operand::literal;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::cluster::RANK_SHIFT;
use crate::exec::{Cx, Gathered, Wait, lanes_of};
use crate::memory::window::SHARED_BASE;
use crate::program::{Flow, Inst};
use crate::ptx::ast::Instruction;
use crate::ptx::types::{Space, Type};

pub(crate) const OPCODES: &[&str] = &["mapa", "getctarank", "setmaxnreg", "griddepcontrol"];

const GENERIC: u32 = 1;
const WIDE: u32 = 2;

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    match instruction.opcode {
        "mapa" => {
            let space = words.space();
            let ty = words.ty()?;
            let [d, a, b] = operands(instruction, words)?;
            let (a, b) = (cx.src(a, ty, words)?, cx.src(b, Type::B32, words)?);
            let d = cx.dst(d, ty, words)?;
            cx.emit(Inst { d, a, b, aux: form(space, ty), ..Decoder::blank(mapa) });
        }
        "getctarank" => {
            let space = words.space();
            let ty = words.ty()?;
            let [d, a] = operands(instruction, words)?;
            let a = cx.src(a, ty, words)?;
            let d = cx.dst(d, Type::B32, words)?;
            cx.emit(Inst { d, a, aux: form(space, ty), ..Decoder::blank(getctarank) });
        }
        "setmaxnreg" => {
            let grows = words.take_any(&["inc", "dec"]) == Some("inc");
            words.take("sync");
            words.take("aligned");
            words.take("u32");
            let [count] = operands(instruction, words)?;
            let count = literal(count, Type::U32, words)?;
            if !(24..=256).contains(&count) || !count.is_multiple_of(8) {
                return Err(
                    words.wrong(format!("{count}: a multiple of 8 from 24 to 256 is needed"))
                );
            }
            cx.facts.most_registers = cx.facts.most_registers.max(count as u32);
            let inst = Decoder::blank(setmaxnreg);
            cx.emit(Inst { aux: u32::from(grows), imm: count, ..inst });
        }
        // A launch begins when the one before has ended, so that there is nothing to wait for.
        _ => {
            words.take_any(&["wait", "launch_dependents"]);
        }
    }
    Ok(())
}

/// `barrier.cluster.arrive` and `.wait`, behind the words `barrier`, `cluster`.
pub(super) fn decode_barrier<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let verb = words.take_any(&["arrive", "wait"]);
    words.take_any(&["release", "relaxed", "acquire"]);
    let aux = u32::from(words.take("aligned"));
    let [] = operands(instruction, words)?;
    let exec = match verb {
        Some("arrive") => arrive,
        Some("wait") => wait,
        _ => return Err(words.wrong("`arrive` or `wait` is missing")),
    };
    cx.emit(Inst { aux, ..Decoder::blank(exec) });
    Ok(())
}

fn form(space: Space, ty: Type) -> u32 {
    let generic = if space == Space::Shared { 0 } else { GENERIC };
    generic | if ty.bytes() == 8 { WIDE } else { 0 }
}

/// The shared address in one lane; none for a generic address outside shared memory.
unsafe fn shared_address(cx: &Cx<'_>, inst: &Inst, lane: u32) -> Option<u32> {
    // SAFETY: operands of this frame.
    let address = unsafe {
        match inst.aux & WIDE {
            0 => u64::from(cx.row32(inst.a)[lane as usize]),
            _ => cx.row64(inst.a)[lane as usize],
        }
    };
    let base = if inst.aux & GENERIC != 0 { SHARED_BASE } else { 0 };
    u32::try_from(address.checked_sub(base)?).ok()
}

/// `mapa`: the address of the same variable in the CTA with rank `b`.
unsafe fn mapa(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let mut out = [0u64; 32];
    let size = cx.cta.cluster.size();
    for lane in lanes_of(cx.mask) {
        // SAFETY: operands of this frame.
        let (address, rank) =
            unsafe { (shared_address(cx, inst, lane), cx.row32(inst.b)[lane as usize]) };
        if rank >= size {
            return cx.raise(Cx::lane_misuse(lane, format!("CTA {rank} of a cluster of {size}")));
        }
        let Some(address) = address else {
            return cx.raise(Cx::lane_misuse(lane, "the address is not one of shared memory"));
        };
        let mapped = address & ((1 << RANK_SHIFT) - 1) | (rank + 1) << RANK_SHIFT;
        let base = if inst.aux & GENERIC != 0 { SHARED_BASE } else { 0 };
        out[lane as usize] = base + u64::from(mapped);
    }
    // SAFETY: as above.
    unsafe { put(cx, inst, &out) };
    Flow::Next
}

unsafe fn put(cx: &Cx<'_>, inst: &Inst, values: &[u64; 32]) {
    // SAFETY: the caller's operand is one of this frame.
    unsafe {
        match inst.aux & WIDE {
            0 => cx.put32(inst.d, &values.map(|value| value as u32)),
            _ => cx.put64(inst.d, values),
        }
    }
}

/// `getctarank`: the rank of the CTA whose shared memory holds the address.
unsafe fn getctarank(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let mut out = [0u32; 32];
    for lane in lanes_of(cx.mask) {
        // SAFETY: operands of this frame.
        match unsafe { shared_address(cx, inst, lane) } {
            Some(address) => {
                let above = address >> RANK_SHIFT;
                out[lane as usize] = if above == 0 { cx.cta.rank } else { above - 1 };
            }
            None => {
                return cx.raise(Cx::lane_misuse(lane, "the address is not one of shared memory"));
            }
        }
    }
    // SAFETY: an operand of this frame.
    unsafe { cx.put32(inst.d, &out) };
    Flow::Next
}

unsafe fn arrive(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if inst.aux != 0 && matches!(cx.gather(cx.warp.live), Gathered::Missing) {
        return Flow::Wait;
    }
    let next = cx.cta.cluster.generation().wrapping_add(1);
    let twice = lanes_of(cx.mask).find(|&lane| cx.warp.cluster_arrivals[lane as usize] == next);
    if let Some(lane) = twice {
        let rule = "the thread arrives twice at the cluster's barrier without a wait between";
        return cx.raise(Cx::lane_misuse(lane, rule));
    }
    for lane in lanes_of(cx.mask) {
        cx.warp.cluster_arrivals[lane as usize] = next;
    }
    cx.worker.progress += 1;
    cx.publish(Scope::Cluster);
    cx.cta.cluster.arrive(cx.mask.count_ones());
    Flow::Next
}

unsafe fn wait(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if inst.aux != 0
        && cx.split().wait == Wait::Ready
        && matches!(cx.gather(cx.warp.live), Gathered::Missing)
    {
        return Flow::Wait;
    }
    let generation = cx.cta.cluster.generation();
    let ahead = |lane: u32| cx.warp.cluster_arrivals[lane as usize] == generation.wrapping_add(1);
    let waiting =
        lanes_of(cx.mask).filter(|&lane| ahead(lane)).fold(0, |all, lane| all | 1 << lane);
    if waiting != 0 {
        return cx.wait_as(cx.mask, Wait::Cluster { generation });
    }
    cx.split().wait = Wait::Ready;
    let never = lanes_of(cx.mask).find(|&lane| cx.warp.cluster_arrivals[lane as usize] == 0);
    match never {
        Some(lane) => {
            let rule = "the thread waits at the cluster's barrier without having arrived";
            cx.raise(Cx::lane_misuse(lane, rule))
        }
        None => {
            cx.acquire(Scope::Cluster);
            Flow::Next
        }
    }
}

/// `setmaxnreg`: a warp at a time; more registers must be free in the CTA's pool.
unsafe fn setmaxnreg(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if cx.split().wait == Wait::Ready && matches!(cx.gather(cx.warp.live), Gathered::Missing) {
        return Flow::Wait;
    }
    let (wanted, index) = (inst.imm as u32, cx.warp.index as usize);
    let held = cx.cta.registers.held[index];
    if inst.aux == 0 {
        if wanted > held {
            return cx.misuse(format!("`dec` to {wanted} registers, the warp has {held}"));
        }
        cx.cta.registers.free += held - wanted;
    } else {
        if wanted < held {
            return cx.misuse(format!("`inc` to {wanted} registers, the warp has {held}"));
        }
        let needed = wanted - held;
        if cx.cta.registers.free < needed {
            return cx.wait_as(cx.mask, Wait::Registers { needed });
        }
        cx.cta.registers.free -= needed;
    }
    cx.split().wait = Wait::Ready;
    cx.cta.registers.held[index] = wanted;
    cx.worker.progress += 1;
    Flow::Next
}
