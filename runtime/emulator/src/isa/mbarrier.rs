//! mbarrier objects (PTX ISA 9.7.13.15) and arrivals of asynchronous copies (9.7.13.15.17).
//!
//! All operations but arrivals after copies act at once, lane after lane. A waiting `try_wait` sleeps until its phase has
//! completed; when nothing else in the cluster can run, its time is over and it returns false. With
//! a seeded schedule it sometimes returns false at once.

use super::operands;
use super::pointer::{Pointer, WORDS};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Awaited, Cx, Operation, Wait, lanes_of};
use crate::fault::RawFault;
use crate::mbarrier::Mbarrier;
use crate::program::{Flow, Inst, NO_REG, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &["mbarrier"];

/// What an instruction does to the object.
const INIT: u32 = 0;
const INVALIDATE: u32 = 1;
const EXPECT: u32 = 2;
const RECEIVE: u32 = 3;
const ARRIVE: u32 = 4;
const ARRIVE_EXPECT: u32 = 5;
const ARRIVE_DROP: u32 = 6;
const ARRIVE_DROP_EXPECT: u32 = 7;

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let verb = words.take_any(&[
        "init",
        "inval",
        "arrive_drop",
        "arrive",
        "expect_tx",
        "complete_tx",
        "test_wait",
        "try_wait",
        "pending_count",
    ]);
    let verb = verb.ok_or_else(|| words.wrong("the operation is missing"))?;
    words.take("b64");
    match verb {
        "test_wait" | "try_wait" => return decode_wait(cx, words, instruction, verb),
        "pending_count" => {
            let [d, state] = operands(instruction, words)?;
            let a = cx.src(state, Type::B64, words)?;
            let d = cx.dst(d, Type::B32, words)?;
            cx.emit(Inst { d, a, ..Decoder::blank(pending_count) });
            return Ok(());
        }
        _ => {}
    }
    let expects = verb != "expect_tx" && words.take("expect_tx");
    let no_complete = words.take("noComplete");
    take_order(words);
    let space = words.space();
    let operation = match (verb, expects) {
        ("init", _) => INIT,
        ("inval", _) => INVALIDATE,
        ("expect_tx", _) => EXPECT,
        ("complete_tx", _) => RECEIVE,
        ("arrive", false) => ARRIVE,
        ("arrive", true) => ARRIVE_EXPECT,
        (_, false) => ARRIVE_DROP,
        (_, true) => ARRIVE_DROP_EXPECT,
    };
    let (state, rest) = match instruction.operands.as_slice() {
        [Operand::Address { .. }, ..] => (NO_REG, instruction.operands.as_slice()),
        [Operand::Sink, rest @ ..] => (NO_REG, rest),
        [state, rest @ ..] => (cx.dst(state, Type::B64, words)?, rest),
        [] => return Err(words.wrong("an address in brackets is missing")),
    };
    let (address, count) = match rest {
        [address] => (address, NO_REG),
        [address, count] => (address, cx.src(count, Type::B32, words)?),
        _ => return Err(words.wrong("an address and perhaps a number are needed")),
    };
    let needs_count = matches!(operation, INIT | EXPECT | RECEIVE) || expects || no_complete;
    if needs_count != (count != NO_REG) && !matches!(operation, ARRIVE | ARRIVE_DROP) {
        return Err(words.wrong("the number of operands does not fit the operation"));
    }
    if no_complete && count == NO_REG {
        return Err(words.wrong("`.noComplete` needs a number of arrivals"));
    }
    let pointer = Pointer::words(cx.address(address, space, words)?);
    let d = cx.push_list(&pointer);
    let inst = Inst { d, a: count, b: state, aux: operation, ..Decoder::blank(update) };
    cx.emit(Inst { imm: u64::from(no_complete), ..inst });
    Ok(())
}

/// `cp.async.mbarrier.arrive{.noinc}`: arrives once the copies of the thread before it are done.
pub(super) fn decode_copy_arrive<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    words.take("arrive");
    words.take("b64");
    let aux = u32::from(words.take("noinc"));
    let space = words.space();
    let [address] = operands(instruction, words)?;
    let pointer = Pointer::words(cx.address(address, space, words)?);
    let d = cx.push_list(&pointer);
    cx.emit(Inst { d, aux, ..Decoder::blank(copy_arrive) });
    Ok(())
}

fn take_order(words: &mut Words<'_>) {
    words.take_any(&["relaxed", "acquire", "release"]);
    words.take_any(&["cta", "cluster"]);
}

fn decode_wait<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    verb: &str,
) -> Result<(), Error> {
    let parity = words.take("parity");
    take_order(words);
    let space = words.space();
    let [done, address, phase] = match instruction.operands.as_slice() {
        [done, address, phase] => [done, address, phase],
        // The limit of the wait: time does not pass while a warp sleeps.
        [done, address, phase, limit] if verb == "try_wait" => {
            cx.src(limit, Type::B32, words)?;
            [done, address, phase]
        }
        _ => return Err(words.wrong("a predicate, an address and a phase are needed")),
    };
    let pointer = Pointer::words(cx.address(address, space, words)?);
    let a = cx.src(phase, if parity { Type::B32 } else { Type::B64 }, words)?;
    let c = cx.optional_dst(done, Type::Pred, words)?;
    let d = cx.push_list(&pointer);
    cx.facts.can_spin = true;
    let aux = u32::from(parity) | u32::from(verb == "try_wait") << 1;
    cx.emit(Inst { d, a, c, aux, ..Decoder::blank(wait) });
    Ok(())
}

/// The word of the mbarrier at an instruction's address in one lane.
unsafe fn word_of(cx: &mut Cx<'_>, list: Reg, lane: u32) -> Result<*mut u64, Box<RawFault>> {
    let pointer = Pointer::read(cx.list(list, WORDS as u32));
    // SAFETY: an operand of this frame.
    let address = unsafe { pointer.shared_at(cx, lane)? };
    Ok(cx.shared_range(lane, address, 8, 8)?.cast())
}

/// Changes the mbarrier whose word is at `word`.
pub(super) fn change(
    cx: &mut Cx<'_>,
    lane: u32,
    word: *mut u64,
    change: impl FnOnce(&mut Mbarrier) -> Result<(), String>,
) -> Result<(), Box<RawFault>> {
    cx.worker.progress += 1;
    // SAFETY: the address was checked.
    let old = unsafe { word.read() };
    let mut barrier = Mbarrier::decode(old).map_err(|rule| Cx::lane_misuse(lane, rule))?;
    change(&mut barrier).map_err(|rule| Cx::lane_misuse(lane, rule))?;
    // SAFETY: as above.
    unsafe { word.write(barrier.encode()) };
    Ok(())
}

/// All operations but waits: `d` the list of the address, `a` the number, `b` the state.
unsafe fn update(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    cx.before_barrier();
    let mut states = [0u64; 32];
    for lane in lanes_of(cx.mask) {
        // SAFETY: operands of this frame.
        let result = unsafe {
            let count = if inst.a == NO_REG { None } else { Some(cx.row32(inst.a)[lane as usize]) };
            word_of(cx, inst.d, lane).and_then(|word| {
                states[lane as usize] = word.read();
                update_lane(cx, inst, (lane, word), count)
            })
        };
        if let Err(fault) = result {
            return cx.raise(fault);
        }
    }
    if inst.b != NO_REG {
        // SAFETY: an operand of this frame.
        unsafe { cx.put64(inst.b, &states) };
    }
    Flow::Next
}

fn update_lane(
    cx: &mut Cx<'_>,
    inst: &Inst,
    (lane, word): (u32, *mut u64),
    count: Option<u32>,
) -> Result<(), Box<RawFault>> {
    let (no_complete, operation) = (inst.imm != 0, inst.aux);
    match operation {
        INIT => {
            let barrier = Mbarrier::new(count.unwrap_or(0));
            let barrier = barrier.map_err(|rule| Cx::lane_misuse(lane, rule))?;
            cx.worker.progress += 1;
            // SAFETY: the address was checked.
            unsafe { word.write(barrier.encode()) };
            return Ok(());
        }
        INVALIDATE => {
            change(cx, lane, word, |_| Ok(()))?;
            // SAFETY: as above.
            unsafe { word.write(0) };
            return Ok(());
        }
        _ => {}
    }
    change(cx, lane, word, |barrier| {
        let arrivals = count.unwrap_or(1);
        if no_complete && arrivals >= barrier.pending {
            return Err(format!(
                "{arrivals} arrivals would complete the phase ({} are pending), which \
                 `.noComplete` excludes",
                barrier.pending
            ));
        }
        match operation {
            EXPECT => barrier.expect(arrivals),
            RECEIVE => barrier.receive(arrivals),
            ARRIVE_EXPECT => {
                barrier.expect(arrivals)?;
                barrier.arrive(1)
            }
            ARRIVE_DROP => barrier.arrive_and_drop(arrivals),
            ARRIVE_DROP_EXPECT => {
                barrier.expect(arrivals)?;
                barrier.arrive_and_drop(1)
            }
            _ => barrier.arrive(arrivals),
        }
    })
}

/// `d` the list of the address; `aux` set where the arrival is among those that are expected.
unsafe fn copy_arrive(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let mut words = Vec::with_capacity(32);
    for lane in lanes_of(cx.mask) {
        // SAFETY: an operand of this frame.
        let found = unsafe { word_of(cx, inst.d, lane) };
        let result = found.and_then(|word| {
            words.push((lane, word as usize));
            if inst.aux != 0 { Ok(()) } else { change(cx, lane, word, Mbarrier::increment_pending) }
        });
        if let Err(fault) = result {
            return cx.raise(fault);
        }
    }
    let (lane, lanes) = (cx.mask.trailing_zeros(), cx.mask);
    match cx.issue(lane, Awaited::AfterCopies { lanes }, true, CopyArrival { words }) {
        Ok(()) => Flow::Next,
        Err(fault) => cx.raise(fault),
    }
}

/// Arrivals that follow the copies of their threads: lanes, and where the host holds the words.
#[derive(Debug)]
struct CopyArrival {
    words: Vec<(u32, usize)>,
}

impl Operation for CopyArrival {
    fn step(&mut self, cx: &mut Cx<'_>, _: u32) -> Result<bool, Box<RawFault>> {
        for &(lane, word) in &self.words {
            change(cx, lane, word as *mut u64, |barrier| barrier.arrive(1))?;
        }
        Ok(true)
    }
}

/// `test_wait` and `try_wait`: `a` the state or parity, `c` the result.
unsafe fn wait(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let mask = cx.mask;
    let mut done = 0u32;
    let mut places = [(0usize, false); 32];
    for lane in lanes_of(mask) {
        // SAFETY: operands of this frame; the word's address was checked.
        let (word, parity) = unsafe {
            let word = match word_of(cx, inst.d, lane) {
                Ok(word) => word,
                Err(fault) => return cx.raise(fault),
            };
            let parity = match inst.aux & 1 {
                0 => cx.row64(inst.a)[lane as usize] >> 61 & 1,
                _ => u64::from(cx.row32(inst.a)[lane as usize]),
            };
            (word, parity)
        };
        if inst.aux & 1 != 0 && parity > 1 {
            return cx
                .raise(Cx::lane_misuse(lane, format!("{parity} is not the parity of a phase")));
        }
        // SAFETY: as above.
        match Mbarrier::decode(unsafe { word.read() }) {
            Ok(barrier) => done |= u32::from(barrier.has_completed(parity != 0)) << lane,
            Err(rule) => return cx.raise(Cx::lane_misuse(lane, rule)),
        }
        places[lane as usize] = (word as usize, parity != 0);
        if inst.aux & 2 == 0 && cx.launch.machine.is_some() {
            cx.poll_shared(word.cast());
        }
    }
    // The limit of a wait is the system's affair: at times it is over at once.
    let gives_up = done != mask && cx.cta.chance.as_mut().is_some_and(|chance| chance.one_in(8));
    let timed_out = gives_up || cx.split().wait == Wait::TimedOut;
    cx.split().wait = Wait::Ready;
    let first = places[mask.trailing_zeros() as usize];
    let together = done == 0 && lanes_of(mask).all(|lane| places[lane as usize] == first);
    if inst.aux & 2 != 0 && together && !timed_out {
        return cx.wait_as(mask, Wait::Mbarrier { word: first.0, parity: first.1 });
    }
    if inst.c != NO_REG {
        // SAFETY: an operand of this frame.
        unsafe { cx.set_pred(inst.c, done) };
    }
    if done != 0 {
        cx.after_barrier();
    }
    if done == mask { Flow::Next } else { Flow::Yield }
}

/// `mbarrier.pending_count`: of the state that an arrival returned.
unsafe fn pending_count(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame.
    unsafe {
        let counts = cx.row64(inst.a).map(|state| (state >> 21) as u32 & crate::mbarrier::MOST);
        cx.put32(inst.d, &counts);
    }
    Flow::Next
}
