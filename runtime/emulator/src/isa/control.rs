//! Control flow (PTX ISA 9.7.12) and the ends of threads.

use super::{host, nvshmem, operands};
use crate::decode::operand::Address;
use crate::decode::{Decoder, Goes, Place, Words};
use crate::error::Error;
use crate::exec::{Cx, RawMark, lanes_of};
use crate::fault::FaultKind;
use crate::memory::window::CODE_BASE;
use crate::program::{Call, Flow, Inst, NO_REG, Slot};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::{Space, Type};

pub(crate) const OPCODES: &[&str] =
    &["bra", "brx", "call", "ret", "exit", "trap", "brkpt", "pmevent", "griddepcontrol"];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    words.take("uni");
    match instruction.opcode {
        // 9.7.12.3
        "bra" => {
            let [label] = operands(instruction, words)?;
            let label = cx.label(label, words)?;
            let exec = if cx.names.watched { branch_watched } else { branch };
            cx.emit_going(Decoder::blank(exec), Goes::Branch(label));
        }
        // 9.7.12.4
        "brx" => {
            words.take("idx");
            let [index, list] = operands(instruction, words)?;
            let a = cx.src(index, Type::U32, words)?;
            let Operand::Name(list, None) = list else {
                return Err(words.wrong("the second operand is a list of branch targets"));
            };
            let labels = cx.targets(list, words)?;
            cx.emit_going(Inst { a, ..Decoder::blank(branch_indexed) }, Goes::Table(labels));
        }
        "call" => decode_call(cx, words, instruction)?,
        "ret" => cx.emit_going(Decoder::blank(ret), Goes::Out),
        "exit" => cx.emit_going(Decoder::blank(exit), Goes::Out),
        // 9.7.19
        "trap" | "brkpt" => cx.emit_going(Decoder::blank(trap), Goes::Out),
        // 9.7.19.3: a mark in the timeline of a group of devices.
        "pmevent" => {
            let masks = words.take("mask");
            if cx.names.watched
                && let [Operand::Int(value)] = instruction.operands.as_slice()
            {
                let event = if masks { *value as u32 } else { 1u32.unbounded_shl(*value as u32) };
                cx.emit(Inst { imm: u64::from(event), ..Decoder::blank(mark) });
            }
        }
        // 9.7.13.13: one grid runs at a time here, so that the prior one is always complete.
        _ => {
            words.take_any(&["launch_dependents", "wait"]);
        }
    }
    Ok(())
}

/// `call` (9.7.12.5): `(results), callee, (arguments), prototype`, most parts optional.
fn decode_call<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let mut parts = instruction.operands.iter().peekable();
    let results = match parts.peek() {
        Some(Operand::List(list)) if instruction.operands.len() > 1 => {
            parts.next();
            list.as_slice()
        }
        _ => &[],
    };
    let Some(Operand::Name(callee, None)) = parts.next() else {
        return Err(words.wrong("the callee is missing"));
    };
    let args = match parts.next() {
        Some(Operand::List(list)) => list.as_slice(),
        _ => &[],
    };
    if cx.find_register(callee, words)?.is_none()
        && (host::emit(cx, callee, results, args, words)?
            || nvshmem::emit(cx, callee, results, args, words)?)
    {
        return Ok(());
    }
    let (args, results) = (slots(cx, args, words)?, slots(cx, results, words)?);
    let mut inst = Decoder::blank(call);
    let target = if cx.find_register(callee, words)?.is_some() {
        inst.a = cx.src(&Operand::Name(callee, None), Type::B64, words)?;
        cx.facts.calls_indirectly = true;
        None
    } else {
        let number = cx.function_number(callee, words)?;
        cx.callees.push(number);
        Some(number)
    };
    inst.aux = cx.calls.len() as u32;
    cx.calls.push(Call { target, args, results });
    cx.emit_going(inst, Goes::Meet);
    Ok(())
}

/// The stack slots of a call's operands. A register or constant is stored into a slot first.
fn slots<'a>(
    cx: &mut Decoder<'a, '_>,
    list: &[Operand<'a>],
    words: &Words<'_>,
) -> Result<Vec<Slot>, Error> {
    let mut out = Vec::new();
    for operand in list {
        let Operand::Name(name, None) = operand else {
            return Err(words.unsupported("an argument that is not a `.param` variable"));
        };
        match cx.place(name) {
            Some(Place::Local(offset)) => {
                out.push(Slot { offset, bytes: cx.slot_bytes(name) });
            }
            _ => return Err(words.unsupported(format!("`{name}` is not a `.param` variable"))),
        }
    }
    Ok(out)
}

unsafe fn branch(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    cx.branch(inst.aux, inst.imm as u32)
}

/// A jump backwards may be that of a loop which only waits.
unsafe fn branch_watched(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if inst.aux <= cx.pc
        && let Some(flow) = cx.loop_turn(inst.aux)
    {
        return flow;
    }
    cx.branch(inst.aux, inst.imm as u32)
}

unsafe fn branch_indexed(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let function = cx.function;
    let table = &function.tables[inst.aux as usize];
    // SAFETY: an operand of this frame.
    let row = unsafe { cx.row32(inst.a) };
    let here = cx.pc;
    let all = cx.split().mask;
    let mut sides: Vec<(u32, u32)> = Vec::new();
    if all != cx.mask {
        sides.push((all & !cx.mask, here + 1));
    }
    for lane in lanes_of(cx.mask) {
        let index = row[lane as usize];
        let Some(&target) = table.get(index as usize) else {
            return cx.misuse(format!("index {index} of {} branch targets", table.len()));
        };
        match sides.iter_mut().find(|side| side.1 == target) {
            Some(side) => side.0 |= 1 << lane,
            None => sides.push((1 << lane, target)),
        }
    }
    if let [(_, target)] = sides[..] {
        cx.pc = target;
        return Flow::Jump;
    }
    cx.diverge(&sides, inst.imm as u32)
}

unsafe fn call(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let function = cx.function;
    if let Some(target) = function.calls[inst.aux as usize].target {
        return cx.call(target, inst.aux);
    }
    // SAFETY: an operand of this frame.
    let row = unsafe { cx.row64(inst.a) };
    let first = row[cx.mask.trailing_zeros() as usize];
    let same = lanes_of(cx.mask).filter(|&lane| row[lane as usize] == first);
    let same = same.fold(0u32, |mask, lane| mask | 1 << lane);
    let offset = first.wrapping_sub(CODE_BASE);
    if offset >= 16 * cx.launch.program.functions.len() as u64 || !offset.is_multiple_of(16) {
        return cx.misuse(format!("0x{first:x} is not the address of a function"));
    }
    if cx.mask != same {
        return cx.call_some((offset / 16) as u32, inst.aux, same);
    }
    cx.call((offset / 16) as u32, inst.aux)
}

pub(crate) unsafe fn ret(cx: &mut Cx<'_>, _: &Inst) -> Flow {
    cx.ret()
}

unsafe fn exit(cx: &mut Cx<'_>, _: &Inst) -> Flow {
    cx.exit()
}

unsafe fn mark(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let worker = &mut *cx.worker;
    let time = worker.mark_base.wrapping_add(worker.counters.warp_instructions);
    let (cta, warp, event) = (cx.cta.index, cx.warp.index, inst.imm as u32);
    worker.marks.push(RawMark { cta, warp, time, event });
    Flow::Next
}

unsafe fn trap(cx: &mut Cx<'_>, _: &Inst) -> Flow {
    cx.fail(FaultKind::Trap("the kernel executed `trap`".to_string()))
}

/// Where the sides of a branch meet: put there by the decoder.
pub(crate) unsafe fn join(cx: &mut Cx<'_>, _: &Inst) -> Flow {
    cx.arrive_at_join()
}

/// An address operand as a destination of nothing: for instructions that are hints.
pub(super) fn check_address<'a>(
    cx: &mut Decoder<'a, '_>,
    operand: &Operand<'a>,
    space: Space,
    words: &Words<'_>,
) -> Result<Address, Error> {
    let address = cx.address(operand, space, words)?;
    debug_assert!(address.reg != NO_REG);
    Ok(address)
}
