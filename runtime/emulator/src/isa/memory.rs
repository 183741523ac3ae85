//! Loads, stores and hints about caches (PTX ISA 9.7.9.8 to 9.7.9.20).

use super::control::check_address;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Extend, load_exec, pack, store_exec};
use crate::program::{Inst, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::{Space, Type};

pub(crate) const OPCODES: &[&str] = &[
    "ld",
    "ldu",
    "st",
    "prefetch",
    "prefetchu",
    "discard",
    "applypriority",
    "createpolicy",
    "fence",
    "membar",
];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    match instruction.opcode {
        "ld" | "ldu" => decode_access(cx, words, instruction, true),
        "st" if words.take("async") => super::bulk::decode_async_store(cx, words, instruction),
        "st" => decode_access(cx, words, instruction, false),
        "fence" | "membar" => {
            fence(cx, words);
            Ok(())
        }
        "createpolicy" => {
            while words.take_map(Some).is_some() {}
            Ok(())
        }
        _ => {
            let space = words.space();
            words.take_any(&["L1", "L2", "L1::evict_normal", "L2::evict_normal", "tensormap"]);
            words.take_any(&["L2::evict_last", "L2"]);
            if let Some(operand @ Operand::Address { rest, .. }) = instruction.operands.first()
                && rest.is_empty()
            {
                check_address(cx, operand, space, words)?;
            }
            Ok(())
        }
    }
}

/// Memory is sequentially consistent here, so that a fence only says that threads communicate.
fn fence(cx: &mut Decoder<'_, '_>, words: &mut Words<'_>) {
    while let Some(word) = words.take_map(Some) {
        // CTAs of a cluster run on one host thread anyway.
        cx.facts.communicates |= matches!(word, "gpu" | "sys" | "gl");
    }
}

/// Takes what says how a cache treats the data; nothing of it changes results.
pub(super) fn take_cache_words(words: &mut Words<'_>) {
    let is_cache_word = |word: &str| {
        matches!(word, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc" | "level")
            || word.starts_with("L1::")
            || word.starts_with("L2::")
    };
    while words.take_map(|word| is_cache_word(word).then_some(())).is_some() {}
}

/// Takes ordering and scope; true if threads of several CTAs may talk through the access.
pub(super) fn take_order(cx: &mut Decoder<'_, '_>, words: &mut Words<'_>, space: Space) -> bool {
    let order =
        words.take_any(&["relaxed", "acquire", "release", "acq_rel", "volatile", "mmio", "weak"]);
    words.take("mmio");
    let scope = words.take_any(&["cta", "cluster", "gpu", "sys"]);
    let strong = order.is_some_and(|word| word != "weak") || scope.is_some();
    cx.facts.can_spin |= strong;
    strong
        && !matches!(scope, Some("cta" | "cluster"))
        && matches!(space, Space::Global | Space::Generic)
}

fn decode_access<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    loads: bool,
) -> Result<(), Error> {
    let mut space = words.space();
    cx.facts.communicates |= take_order(cx, words, space);
    take_cache_words(words);
    words.take("unified");
    let lanes = words.take_any(&["v2", "v4", "v8"]).map_or(1, |word| match word {
        "v2" => 2,
        "v4" => 4,
        _ => 8,
    });
    let ty = words.ty()?;
    let (first, second) = match instruction.operands.as_slice() {
        [first, second] | [first, second, _] => (first, second),
        _ => return Err(words.wrong("two operands are needed")),
    };
    let (data, address) = if loads { (first, second) } else { (second, first) };
    let address = cx.address(address, space, words)?;
    space = address.space;
    if !loads && space == Space::Param {
        return Err(words.wrong("parameters of a kernel are read only"));
    }
    let single = std::slice::from_ref(data);
    let elements = match data {
        Operand::Vector(list) => list.as_slice(),
        _ => single,
    };
    if elements.len() != lanes {
        return Err(words.wrong(format!("{} registers for {lanes} elements", elements.len())));
    }
    let mut regs = Vec::new();
    let mut held = Type::B32;
    for element in elements {
        let (reg, ty) = access_register(cx, element, ty, loads, words)?;
        regs.push(reg);
        held = ty;
    }
    let extend = match (held.bytes(), ty.is_signed()) {
        (16, _) => Extend::Whole128,
        (8, false) => Extend::Zero64,
        (8, true) => Extend::Sign64,
        (4, true) if ty.bytes() < 4 => Extend::Sign32,
        _ => Extend::Zero32,
    };
    let site = cx.site();
    let inst = Inst {
        d: if lanes == 1 { regs[0] } else { cx.push_list(&regs) },
        a: address.reg,
        b: pack(lanes as u32, address.wide, extend),
        imm: address.offset,
        aux: site,
        ..Decoder::blank(if loads {
            load_exec(space, ty.bytes(), lanes as u32, extend)
        } else {
            store_exec(space, ty.bytes(), lanes as u32, extend)
        })
    };
    cx.emit(inst);
    // A signed byte in a 16-bit register: the load sign-extends to 32 bits, cut to 16 here.
    if loads && ty == Type::S8 && held.bytes() == 2 {
        for reg in regs {
            let exec = crate::exec::shapes::unary(|a: i8| i16::from(a));
            cx.emit(Inst { d: reg, a: reg, ..Decoder::blank(exec) });
        }
    }
    Ok(())
}

fn access_register<'a>(
    cx: &mut Decoder<'a, '_>,
    element: &Operand<'a>,
    ty: Type,
    loads: bool,
    words: &Words<'_>,
) -> Result<(Reg, Type), Error> {
    if loads && !matches!(element, Operand::Name(..) | Operand::Sink) {
        return Err(words.wrong("the destination is not a register"));
    }
    let (reg, held) = cx.any_register(element, ty, words)?;
    if held == Type::Pred {
        return Err(words.wrong("predicates are neither loaded nor stored"));
    }
    Ok((reg, held))
}
