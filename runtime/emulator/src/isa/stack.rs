//! Stack memory taken at run time (PTX ISA 7.3, 9.7.17): `alloca`, `stacksave`, `stackrestore`.
//!
//! A thread's stack grows upwards here; what a function takes lies above its variables, and what
//! it calls above that.

use super::operands;
use crate::decode::operand::literal;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Cx, lanes_of};
use crate::fault::{FaultKind, RawFault};
use crate::memory::MAX_LOCAL;
use crate::program::{Flow, Inst};
use crate::ptx::ast::Instruction;
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &["alloca", "stacksave", "stackrestore"];

/// Alignment that every allocation has, and the largest one that can be asked for (9.7.17.3).
const ALIGNMENTS: std::ops::RangeInclusive<u64> = 8..=1 << 23;

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let ty = words.ty()?;
    if !matches!(ty, Type::U64 | Type::B64) {
        return Err(words.unsupported("addresses have 64 bits on this machine"));
    }
    let top = cx.stack_top(words)?;
    match instruction.opcode {
        "stacksave" => {
            let [d] = operands(instruction, words)?;
            let d = cx.dst(d, ty, words)?;
            cx.emit(Inst { d, c: top, ..Decoder::blank(save) });
        }
        "stackrestore" => {
            let [a] = operands(instruction, words)?;
            let a = cx.src(a, ty, words)?;
            cx.emit(Inst { a, c: top, ..Decoder::blank(restore) });
        }
        _ => {
            let (d, size, align) = match instruction.operands.as_slice() {
                [d, size] => (d, size, *ALIGNMENTS.start()),
                [d, size, align] => (d, size, literal(align, Type::U32, words)?),
                _ => return Err(words.wrong("a destination and a size are needed")),
            };
            if !align.is_power_of_two() || align > *ALIGNMENTS.end() {
                return Err(words.wrong(format!("{align} is not an alignment")));
            }
            let imm = align.max(*ALIGNMENTS.start());
            let a = cx.src(size, ty, words)?;
            let d = cx.dst(d, ty, words)?;
            cx.emit(Inst { d, a, c: top, imm, ..Decoder::blank(alloca) });
        }
    }
    Ok(())
}

/// The first byte above the variables of the running function.
fn base(cx: &mut Cx<'_>) -> u32 {
    let frame = cx.split().frame as usize;
    cx.warp.frames[frame].local_base + cx.function.local_bytes
}

/// `d` the address, `a` the bytes, `c` what is taken already, `imm` the alignment.
unsafe fn alloca(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let base = u64::from(base(cx));
    // SAFETY: operands of this frame.
    let (sizes, taken) = unsafe { (*cx.row64(inst.a), cx.row32(inst.c)) };
    let mut addresses = [0u64; 32];
    let mut most = 0;
    for lane in lanes_of(cx.mask) {
        let index = lane as usize;
        let start = (base + u64::from(taken[index])).next_multiple_of(inst.imm);
        let end = start.saturating_add(sizes[index]);
        if end > u64::from(MAX_LOCAL) {
            let bytes = sizes[index];
            let kind = FaultKind::Limit(format!(
                "with {bytes} bytes more the stack of a thread grows past {MAX_LOCAL} bytes"
            ));
            return cx.raise(RawFault::new(kind, lane));
        }
        addresses[index] = start;
        taken[index] = (end - base) as u32;
        most = most.max(end as u32);
    }
    cx.warp.local.reserve(most);
    // SAFETY: as above.
    unsafe { cx.put64(inst.d, &addresses) };
    Flow::Next
}

/// `d` the end of what is taken.
unsafe fn save(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let base = u64::from(base(cx));
    // SAFETY: operands of this frame.
    unsafe {
        let ends = cx.row32(inst.c).map(|taken| base + u64::from(taken));
        cx.put64(inst.d, &ends);
    }
    Flow::Next
}

/// Gives back what was taken since `a` was saved.
unsafe fn restore(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let base = u64::from(base(cx));
    // SAFETY: operands of this frame.
    let (saved, taken) = unsafe { (cx.row64(inst.a), cx.row32(inst.c)) };
    for lane in lanes_of(cx.mask) {
        let (saved, taken) = (saved[lane as usize], &mut taken[lane as usize]);
        match saved.checked_sub(base) {
            Some(before) if before <= u64::from(*taken) => *taken = before as u32,
            _ => {
                let rule = format!("0x{saved:x} was not saved by `stacksave` in this function");
                return cx.raise(RawFault::new(FaultKind::Misuse(rule), lane));
            }
        }
    }
    Flow::Next
}
