//! Barriers of a CTA, and waits in time (PTX ISA 9.7.13.1, 9.7.19.4).

use crate::decode::operand::literal;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Arrival, BARRIERS, Cx, Gathered, Wait};
use crate::program::{Flow, Inst, NO_REG};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &["bar", "barrier", "nanosleep"];

const ARRIVE: u32 = 1;
const ALIGNED: u32 = 2;
const AND: u32 = 4;
const OR: u32 = 8;
const POPC: u32 = 12;
const REDUCTION: u32 = 12;

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if instruction.opcode == "nanosleep" {
        words.take("u32");
        cx.facts.can_spin = true;
        cx.emit(Decoder::blank(nanosleep));
        return Ok(());
    }
    if words.take("warp") {
        return super::warp::decode_warp_barrier(cx, words, instruction);
    }
    if words.take("cluster") {
        return super::cluster::decode_barrier(cx, words, instruction);
    }
    let verb = words.take_any(&["sync", "arrive", "red"]);
    let mut aux = if words.take("aligned") || instruction.opcode == "bar" { ALIGNED } else { 0 };
    words.take("cta");
    let mut list = instruction.operands.as_slice();
    let mut inst = Decoder::blank(barrier);
    inst.imm = u64::from(NO_REG) << 32;
    match verb {
        Some("sync") => {}
        Some("arrive") => aux |= ARRIVE,
        Some("red") => {
            let op = words.take_any(&["popc", "and", "or"]);
            let ty = if op == Some("popc") { Type::U32 } else { Type::Pred };
            aux |= match op {
                Some("popc") => POPC,
                Some("and") => AND,
                _ => OR,
            };
            words.types();
            let [d, middle @ .., p] = list else {
                return Err(words.wrong("a destination and a predicate are needed"));
            };
            inst.d = cx.dst(d, ty, words)?;
            let (c, flip) = cx.pred_src(p, words)?;
            inst.c = c;
            inst.imm = u64::from(flip & 1) << 16;
            list = middle;
        }
        _ => return Err(words.unsupported("this form of barrier")),
    }
    let (id, count): (&Operand<'a>, Option<&Operand<'a>>) = match list {
        [id] => (id, None),
        [id, count] => (id, Some(count)),
        _ => return Err(words.wrong("a barrier and perhaps a number of threads are needed")),
    };
    if aux & ARRIVE != 0 && count.is_none() {
        return Err(words.wrong("`arrive` needs a number of threads"));
    }
    if matches!(id, Operand::Int(_)) && literal(id, Type::U32, words)? >= BARRIERS as u64 {
        return Err(words.wrong("a CTA has 16 barriers"));
    }
    inst.a = cx.src(id, Type::U32, words)?;
    inst.b = match count {
        Some(count) => cx.src(count, Type::U32, words)?,
        None => NO_REG,
    };
    inst.aux = aux;
    cx.emit(inst);
    Ok(())
}

unsafe fn nanosleep(_: &mut Cx<'_>, _: &Inst) -> Flow {
    Flow::Yield
}

/// All forms: `a` the barrier, `b` the number of threads, `c` a predicate, `d` its result.
unsafe fn barrier(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Wait::Barrier { id, .. } = cx.split().wait {
        // It was waiting, and runs again: the generation has ended.
        cx.split().wait = Wait::Ready;
        cx.after_barrier();
        // SAFETY: as the caller's.
        unsafe { give_result(cx, inst, id) };
        return Flow::Next;
    }
    if inst.aux & ALIGNED != 0
        && let live = cx.warp.live
        && matches!(cx.gather(live), Gathered::Missing)
    {
        return Flow::Wait;
    }
    let first = cx.mask.trailing_zeros() as usize;
    // SAFETY: operands of this frame.
    let (id, expected) = unsafe {
        let expected = if inst.b == NO_REG { 0 } else { cx.row32(inst.b)[first] };
        (cx.row32(inst.a)[first], expected)
    };
    if id >= BARRIERS as u32 {
        return cx.misuse(format!("barrier {id} of {BARRIERS}"));
    }
    if !expected.is_multiple_of(32) || (inst.b != NO_REG && expected == 0) {
        return cx.misuse(format!("{expected} threads are not a multiple of the warp size"));
    }
    let whole = cx.mask == cx.warp.live;
    let mut trues = 0;
    if inst.aux & REDUCTION != 0 {
        let flip = if inst.imm >> 16 & 1 != 0 { u32::MAX } else { 0 };
        // SAFETY: an operand of this frame.
        trues = unsafe { (*cx.pred(inst.c) ^ flip) & cx.mask }.count_ones();
    }
    let arrival = Arrival {
        id: id as u8,
        expected,
        threads: if whole { 32 } else { cx.mask.count_ones() },
        trues,
        total: cx.mask.count_ones(),
    };
    let generation = cx.cta.barriers[id as usize].generation;
    cx.worker.progress += 1;
    cx.before_barrier();
    if let Err(rule) = cx.cta.arrive(arrival) {
        return cx.misuse(rule);
    }
    if inst.aux & ARRIVE != 0 {
        return Flow::Next;
    }
    if cx.cta.barriers[id as usize].generation != generation {
        cx.after_barrier();
        // SAFETY: as the caller's.
        unsafe { give_result(cx, inst, id as u8) };
        return Flow::Next;
    }
    // Lanes that the guard excludes go on; the rest waits here.
    cx.wait_as(cx.mask, Wait::Barrier { id: id as u8, generation })
}

unsafe fn give_result(cx: &mut Cx<'_>, inst: &Inst, id: u8) {
    let (trues, total) = cx.cta.barrier_sums(id);
    let truth = |is_true: bool| if is_true { u32::MAX } else { 0 };
    // SAFETY: operands of this frame.
    unsafe {
        match inst.aux & REDUCTION {
            AND => cx.set_pred(inst.d, truth(trues == total)),
            OR => cx.set_pred(inst.d, truth(trues != 0)),
            POPC => cx.put32(inst.d, &[trues; 32]),
            _ => {}
        }
    }
}
