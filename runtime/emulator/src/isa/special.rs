//! Special registers that change while a thread runs (PTX ISA 10.23 to 10.28), in virtual time:
//! one tick per instruction of the warp.

use crate::exec::Cx;
use crate::program::{Exec, Flow, Inst};

/// The executor that reads such a register, and whether it has 64 bits.
pub(crate) fn changing(name: &str) -> Option<(Exec, bool)> {
    Some(match name {
        "%clock" => (clock32, false),
        "%clock_hi" => (clock_high, false),
        "%clock64" | "%globaltimer" => (clock64, true),
        "%globaltimer_lo" => (clock32, false),
        "%globaltimer_hi" => (clock_high, false),
        _ => return None,
    })
}

/// Ticks of this host thread: they grow from instruction to instruction in every warp.
fn now(cx: &mut Cx<'_>) -> u64 {
    cx.warp.memory.polls.read_clock();
    cx.warp.clock + u64::from(cx.pc)
}

unsafe fn clock32(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let now = now(cx) as u32;
    // SAFETY: an operand of this frame.
    unsafe { cx.put32(inst.d, &[now; 32]) };
    Flow::Next
}

unsafe fn clock_high(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let now = (now(cx) >> 32) as u32;
    // SAFETY: an operand of this frame.
    unsafe { cx.put32(inst.d, &[now; 32]) };
    Flow::Next
}

unsafe fn clock64(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let now = now(cx);
    // SAFETY: an operand of this frame.
    unsafe { cx.put64(inst.d, &[now; 32]) };
    Flow::Next
}
