//! Moves of 8 by 8 matrices between shared memory and the registers of a warp (PTX ISA
//! 9.7.14.5.15 "ldmatrix", 9.7.14.5.16 "stmatrix", 9.7.14.5.17 "movmatrix").

use super::operands;
use super::pointer::{Pointer, WORDS};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Cx, Gathered};
use crate::program::{Flow, Inst, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &["ldmatrix", "stmatrix", "movmatrix"];

const TRANSPOSED: u32 = 1 << 8;

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if !words.take("sync") || !words.take("aligned") {
        return Err(words.wrong("`.sync.aligned` is missing"));
    }
    if !words.take("m8n8") {
        return Err(words.unsupported("only m8n8 exists on sm_90"));
    }
    let count = match words.take_any(&["x1", "x2", "x4"]) {
        Some("x2") => 2,
        Some("x4") => 4,
        _ => 1,
    };
    let transposed = if words.take("trans") { TRANSPOSED } else { 0 };
    let space = words.space();
    if !words.take("b16") {
        return Err(words.unsupported("only elements of type .b16 exist on sm_90"));
    }
    let [first, second] = operands(instruction, words)?;
    if instruction.opcode == "movmatrix" {
        let a = cx.src(second, Type::B32, words)?;
        let d = cx.dst(first, Type::B32, words)?;
        cx.emit(Inst { d, a, ..Decoder::blank(movmatrix) });
        return Ok(());
    }
    let loads = instruction.opcode == "ldmatrix";
    let (vector, address) = if loads { (first, second) } else { (second, first) };
    let single = std::slice::from_ref(vector);
    let parts = match vector {
        Operand::Vector(parts) => parts.as_slice(),
        _ => single,
    };
    if parts.len() != count {
        return Err(words.wrong(format!("{} registers for {count} matrices", parts.len())));
    }
    let mut list = Pointer::words(cx.address(address, space, words)?).to_vec();
    for part in parts {
        list.push(match loads {
            true => cx.dst(part, Type::B32, words)?,
            false => cx.src(part, Type::B32, words)?,
        });
    }
    let d = cx.push_list(&list);
    let exec = if loads { ldmatrix } else { stmatrix };
    cx.emit(Inst { d, aux: count as u32 | transposed, ..Decoder::blank(exec) });
    Ok(())
}

/// All lanes, or the flow that waits for them or ends the launch.
pub(super) fn whole_warp(cx: &mut Cx<'_>) -> Result<(), Flow> {
    if matches!(cx.gather(u32::MAX), Gathered::Missing) {
        return Err(Flow::Wait);
    }
    if cx.mask != u32::MAX {
        let mask = cx.mask;
        return Err(cx.misuse(format!("all 32 lanes must execute this, 0x{mask:08x} do")));
    }
    Ok(())
}

/// The registers and, per matrix, where its eight rows lie: lanes `8 m` to `8 m + 7` give the
/// addresses of matrix `m`.
type Rows = [[*mut u8; 8]; 4];

unsafe fn rows(cx: &mut Cx<'_>, inst: &Inst) -> Result<(Vec<Reg>, Rows), Flow> {
    whole_warp(cx)?;
    let count = inst.aux & 0xff;
    let list = cx.list(inst.d, WORDS as u32 + count).to_vec();
    let pointer = Pointer::read(&list);
    let mut rows = [[std::ptr::null_mut(); 8]; 4];
    for lane in 0..8 * count {
        // SAFETY: an operand of this frame.
        let found = unsafe { pointer.shared_at(cx, lane) }
            .and_then(|address| cx.shared_range(lane, address, 16, 16));
        match found {
            Ok(host) => rows[lane as usize / 8][lane as usize % 8] = host,
            Err(fault) => return Err(cx.raise(fault)),
        }
    }
    Ok((list[WORDS..].to_vec(), rows))
}

/// Lane `4 r + c` gets elements `2 c` and `2 c + 1` of row `r`, transposed of column `r`.
unsafe fn ldmatrix(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame; all rows were checked.
    unsafe {
        let (registers, rows) = match rows(cx, inst) {
            Ok(found) => found,
            Err(flow) => return flow,
        };
        for (&register, rows) in registers.iter().zip(&rows) {
            let mut values = [0u32; 32];
            for (lane, value) in values.iter_mut().enumerate() {
                let (major, minor) = (lane / 4, 2 * (lane % 4));
                let element = |index: usize| {
                    let (row, column) =
                        if inst.aux & TRANSPOSED == 0 { (major, index) } else { (index, major) };
                    u32::from(rows[row].cast::<u16>().add(column).read_unaligned())
                };
                *value = element(minor) | element(minor + 1) << 16;
            }
            cx.put32(register, &values);
        }
    }
    Flow::Next
}

unsafe fn stmatrix(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: as in `ldmatrix`.
    unsafe {
        let (registers, rows) = match rows(cx, inst) {
            Ok(found) => found,
            Err(flow) => return flow,
        };
        cx.worker.progress += 1;
        for row in rows.iter().flatten().take(8 * registers.len()) {
            cx.before_shared_store(*row, 16);
        }
        for (&register, rows) in registers.iter().zip(&rows) {
            for (lane, &value) in cx.row32(register).iter().enumerate() {
                let (major, minor) = (lane / 4, 2 * (lane % 4));
                for (index, half) in [(minor, value as u16), (minor + 1, (value >> 16) as u16)] {
                    let (row, column) =
                        if inst.aux & TRANSPOSED == 0 { (major, index) } else { (index, major) };
                    rows[row].cast::<u16>().add(column).write_unaligned(half);
                }
            }
        }
    }
    Flow::Next
}

/// Transposes the matrix that the warp's register holds.
unsafe fn movmatrix(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    // SAFETY: operands of this frame.
    unsafe {
        let source = *cx.row32(inst.a);
        let element = |row: usize, column: usize| {
            source[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff
        };
        let values = std::array::from_fn(|lane| {
            let (row, column) = (lane / 4, 2 * (lane % 4));
            element(column, row) | element(column + 1, row) << 16
        });
        cx.put32(inst.d, &values);
    }
    Flow::Next
}
