//! Device functions of NVSHMEM that a module declares `.extern` and calls (NVSHMEM 3.8, "NVSHMEM
//! API"): put, get, signals, waits and order, by the names and signatures of `nvshmem.h`. A *PE* is
//! a rank.
//!
//! Pointers are addresses of the calling rank's own symmetric memory, and mean the same place at
//! the PE. Puts are messages of [`crate::coherence`]: they arrive at once in order, and by a seed
//! at any time before `nvshmem_quiet`. Names that end in `_warp` or `_block` are called by all
//! threads of the warp or the CTA.

mod calls;
mod names;

use crate::coherence::{BlockCall, Scope, WatchedPlace};
use crate::decode::{Decoder, Place, Words};
use crate::error::Error;
use crate::exec::{Cx, Wait, lanes_of};
use crate::fault::RawFault;
use crate::program::{Flow, Inst, NO_REG};
use crate::ptx::ast::Operand;
use calls::Caller;
use names::{FUNCTIONS, Group, find};

/// Emits a call of a function of NVSHMEM; false if `name` is not one.
pub(super) fn emit<'a>(
    cx: &mut Decoder<'a, '_>,
    name: &str,
    results: &[Operand<'a>],
    args: &[Operand<'a>],
    words: &Words<'_>,
) -> Result<bool, Error> {
    let Some(number) = find(name) else {
        return Ok(false);
    };
    let function = &FUNCTIONS[number];
    if args.len() != function.args.len() || results.len() != usize::from(function.result != 0) {
        return Err(words.wrong(format!(
            "`{name}` takes {} arguments and gives {} results",
            function.args.len(),
            usize::from(function.result != 0)
        )));
    }
    let mut slots = Vec::new();
    let sizes = function.args.iter().chain(std::iter::once(&function.result));
    for (operand, &bytes) in args.iter().chain(results).zip(sizes) {
        let Operand::Name(name, None) = operand else {
            return Err(words.unsupported("an argument that is not a `.param` variable"));
        };
        let Some(Place::Local(offset)) = cx.place(name) else {
            return Err(words.unsupported(format!("`{name}` is not a `.param` variable")));
        };
        if cx.slot_bytes(name) != bytes {
            let found = cx.slot_bytes(name);
            return Err(words.wrong(format!("`{name}` has {found} bytes where {bytes} are needed")));
        }
        slots.push(offset);
    }
    if results.is_empty() {
        slots.push(NO_REG);
    }
    cx.facts.communicates = true;
    cx.facts.can_spin = true;
    let d = cx.push_list(&slots);
    cx.emit(Inst { d, aux: number as u32, ..Decoder::blank(call) });
    Ok(true)
}

/// The arguments of one lane.
fn arguments(cx: &mut Cx<'_>, inst: &Inst, lane: u32) -> Vec<u64> {
    let sizes = FUNCTIONS[inst.aux as usize].args;
    let slots = cx.list(inst.d, sizes.len() as u32).to_vec();
    let frame = cx.split().frame as usize;
    let base = cx.warp.frames[frame].local_base;
    let read = |(slot, &bytes): (u32, &u32)| {
        let mut word = [0; 8];
        if let Some(found) = cx.warp.local.slice(lane, base + slot, bytes) {
            word[..bytes as usize].copy_from_slice(found);
        }
        u64::from_le_bytes(word)
    };
    slots.into_iter().zip(sizes).map(read).collect()
}

/// Gives the result of one lane.
fn give(cx: &mut Cx<'_>, inst: &Inst, lane: u32, value: u64) {
    let function = &FUNCTIONS[inst.aux as usize];
    let slot = cx.list(inst.d + function.args.len() as u32, 1)[0];
    let frame = cx.split().frame as usize;
    let base = cx.warp.frames[frame].local_base;
    if slot != NO_REG
        && let Some(place) = cx.warp.local.slice(lane, base + slot, function.result)
    {
        place.copy_from_slice(&value.to_le_bytes()[..function.result as usize]);
    }
}

unsafe fn call(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let function = &FUNCTIONS[inst.aux as usize];
    if cx.launch.member.is_none() {
        let name = function.names[0];
        return cx.misuse(format!("`{name}` in a launch that is not one of a group of devices"));
    }
    // `nvshmem_quiet` waits until what the rank has sent has arrived.
    if function.call.is_quiet() {
        cx.publish(Scope::Sys);
        let rank = cx.launch.rank();
        let pending = cx.machine().and_then(|machine| machine.unquiet(rank));
        if let Some(place) = pending {
            let slot = cx.warp.memory.polls.sleep(vec![place]);
            return cx.wait_as(cx.mask, Wait::Poll { slot });
        }
    }
    if function.call.waits() {
        return wait(cx, inst);
    }
    cx.worker.progress += 1;
    let result = match group_of(inst) {
        Group::Thread => lanes_of(cx.mask).try_for_each(|lane| {
            let args = arguments(cx, inst, lane);
            let value = function.call.perform(cx, Caller { lane, width: function.width }, &args)?;
            give(cx, inst, lane, value);
            Ok(())
        }),
        group => collective(cx, inst, group),
    };
    match result {
        Ok(()) => Flow::Next,
        Err(fault) => cx.raise(fault),
    }
}

fn group_of(inst: &Inst) -> Group {
    FUNCTIONS[inst.aux as usize].group
}

/// A call by all threads of a warp or a CTA: done once, when the last has come.
fn collective(cx: &mut Cx<'_>, inst: &Inst, group: Group) -> Result<(), Box<RawFault>> {
    let function = &FUNCTIONS[inst.aux as usize];
    let (mask, live, lane) = (cx.mask, cx.warp.live, cx.mask.trailing_zeros());
    let name = function.names[0];
    if mask != live {
        let rule = format!("`{name}` must be called by all lanes together, 0x{mask:08x} do");
        return Err(Cx::lane_misuse(lane, rule));
    }
    let args = arguments(cx, inst, lane);
    for other in lanes_of(mask) {
        if arguments(cx, inst, other) != args {
            let rule = format!("`{name}`: lanes {lane} and {other} give different arguments");
            return Err(Cx::lane_misuse(other, rule));
        }
    }
    let caller = Caller { lane, width: function.width };
    if group == Group::Warp {
        return function.call.perform(cx, caller, &args).map(drop);
    }
    cx.before_barrier();
    let number = cx.warp.memory.block_calls;
    cx.warp.memory.block_calls += 1;
    let what = (inst.aux, args);
    let fresh = BlockCall { what: what.clone(), arrived: 0 };
    let pending = cx.cta.memory.calls.entry(number).or_insert(fresh);
    pending.arrived += 1;
    if pending.what != what {
        let rule = format!("`{name}`: warps of the CTA call it with different arguments");
        return Err(Cx::lane_misuse(lane, rule));
    }
    if pending.arrived < cx.launch.threads().div_ceil(32) {
        return Ok(());
    }
    cx.cta.memory.calls.remove(&number);
    function.call.perform(cx, caller, &what.1).map(drop)
}

/// Waits for a value of the own symmetric memory, each lane for its own.
fn wait(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let function = &FUNCTIONS[inst.aux as usize];
    let mut places = Vec::new();
    let mut values = [0; 32];
    for lane in lanes_of(cx.mask) {
        let args = arguments(cx, inst, lane);
        let (address, compare, wanted) = match args.as_slice() {
            &[address, compare, wanted] => (address, compare, wanted),
            _ => return cx.misuse("a broken instruction"),
        };
        let host = match cx.lane_host(0, lane, address, function.width, false) {
            Ok(host) => host.cast_const(),
            Err(fault) => return cx.raise(fault),
        };
        let Some(test) = names::comparison(compare as u32) else {
            let rule = format!("{compare} is not a comparison of NVSHMEM (0 to 5)");
            return cx.raise(Cx::lane_misuse(lane, rule));
        };
        // SAFETY: the address was checked.
        let found = unsafe {
            match function.width {
                4 => u64::from(host.cast::<u32>().read_unaligned()),
                _ => host.cast::<u64>().read_unaligned(),
            }
        };
        values[lane as usize] = found;
        if !test(found, wanted) {
            let (bytes, value) = (function.width as u8, u128::from(found));
            places.push(WatchedPlace { host, address, bytes, value });
        }
    }
    if !places.is_empty() {
        let slot = cx.warp.memory.polls.sleep(places);
        return cx.wait_as(cx.mask, Wait::Poll { slot });
    }
    cx.acquire(Scope::Sys);
    for lane in lanes_of(cx.mask) {
        give(cx, inst, lane, values[lane as usize]);
    }
    Flow::Next
}
