//! Tensor maps made by kernels (PTX ISA 9.7.9.28 "tensormap.replace", 9.7.13.16
//! "tensormap.cp_fenceproxy").

use super::operands;
use super::pointer::{Pointer, WORDS};
use crate::decode::operand::literal;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Cx, lanes_of};
use crate::fault::RawFault;
use crate::program::{Flow, Inst, NO_REG};
use crate::ptx::ast::Instruction;
use crate::ptx::types::{Space, Type};
use crate::tma::{Field, replace};

pub(crate) const OPCODES: &[&str] = &["tensormap"];

const FIELDS: [(&str, Field); 10] = [
    ("global_address", Field::Address),
    ("rank", Field::Rank),
    ("box_dim", Field::BoxDim),
    ("global_dim", Field::GlobalDim),
    ("global_stride", Field::GlobalStride),
    ("element_stride", Field::ElementStride),
    ("elemtype", Field::ElementType),
    ("interleave_layout", Field::Interleave),
    ("swizzle_mode", Field::Swizzle),
    ("fill_mode", Field::Fill),
];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if words.take("cp_fenceproxy") {
        return decode_copy(cx, words, instruction);
    }
    if !words.take("replace") || !words.take("tile") {
        return Err(words.unsupported("this operation on tensor maps"));
    }
    let number = FIELDS.iter().position(|(name, _)| words.take(name));
    let number = number.ok_or_else(|| words.unsupported("this field of tensor maps"))?;
    let space = words.space();
    words.take("b1024");
    let ty = words.ty()?;
    let (address, axis, value) = match instruction.operands.as_slice() {
        [address, value] => (address, 0, value),
        [address, axis, value] => (address, literal(axis, Type::U32, words)?, value),
        _ => return Err(words.wrong("an address, perhaps a dimension, and a value are needed")),
    };
    let mut list = Pointer::words(cx.address(address, space, words)?).to_vec();
    list.push(cx.src(value, ty, words)?);
    let d = cx.push_list(&list);
    let aux = number as u32 | u32::from(ty.bytes() == 8) << 8;
    cx.emit(Inst { d, aux, imm: axis, ..Decoder::blank(replace_field) });
    Ok(())
}

/// `tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.scope.sync.aligned`:
/// copies the map from shared to device memory; `fence.proxy.tensormap` is in the other words.
fn decode_copy<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let (to, from) = (words.space(), words.space());
    for word in ["tensormap::generic", "release", "cta", "cluster", "gpu", "sys", "sync", "aligned"]
    {
        words.take(word);
    }
    if (to, from) != (Space::Global, Space::Shared) {
        return Err(words.wrong("the copy goes from `.shared::cta` to `.global`"));
    }
    let [dst, src, size] = operands(instruction, words)?;
    if literal(size, Type::U32, words)? != 128 {
        return Err(words.wrong("a tensor map has 128 bytes"));
    }
    let mut list = Pointer::words(cx.address(dst, to, words)?).to_vec();
    list.extend(Pointer::words(cx.address(src, from, words)?));
    let d = cx.push_list(&list);
    cx.emit(Inst { d, a: NO_REG, ..Decoder::blank(copy) });
    Ok(())
}

/// The map at a pointer, as two halves of 64 bytes.
unsafe fn map_at(
    cx: &mut Cx<'_>,
    pointer: Pointer,
    lane: u32,
    writes: bool,
) -> Result<*mut [u8; 128], Box<RawFault>> {
    // SAFETY: an operand of this frame.
    let address = unsafe { pointer.at(cx, lane) };
    let host = cx.lane_host(pointer.space, lane, address, 64, writes)?;
    cx.lane_host(pointer.space, lane, address.wrapping_add(64), 64, writes)?;
    Ok(host.cast())
}

unsafe fn replace_field(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let field = FIELDS[(inst.aux & 0xff) as usize % FIELDS.len()].1;
    let list = cx.list(inst.d, WORDS as u32 + 1);
    let (pointer, value) = (Pointer::read(list), list[WORDS]);
    cx.worker.progress += 1;
    for lane in lanes_of(cx.mask) {
        // SAFETY: operands of this frame; the map's range is checked.
        let result = unsafe {
            let value = match inst.aux >> 8 {
                0 => u64::from(cx.row32(value)[lane as usize]),
                _ => cx.row64(value)[lane as usize],
            };
            map_at(cx, pointer, lane, true).and_then(|map| {
                replace(&mut *map, field, inst.imm.min(255) as u32, value)
                    .map_err(|rule| Cx::lane_misuse(lane, rule))
            })
        };
        if let Err(fault) = result {
            return cx.raise(fault);
        }
    }
    Flow::Next
}

/// The warp copies one map; the addresses of the first lane count.
unsafe fn copy(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let list = cx.list(inst.d, 2 * WORDS as u32);
    let (dst, src) = (Pointer::read(list), Pointer::read(&list[WORDS..]));
    let lane = cx.mask.trailing_zeros();
    cx.worker.progress += 1;
    // SAFETY: operands of this frame; both ranges are checked.
    let result = unsafe {
        map_at(cx, src, lane, false).and_then(|from| {
            let to = map_at(cx, dst, lane, true)?;
            to.write(from.read());
            Ok(())
        })
    };
    match result {
        Ok(()) => Flow::Next,
        Err(fault) => cx.raise(fault),
    }
}
