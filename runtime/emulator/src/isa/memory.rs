//! Loads, stores and hints about caches (PTX ISA 9.7.9.8 to 9.7.9.20).

use super::control::check_address;
use crate::coherence::{Order, Scope, ordered};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Cx, Extend, load_exec, pack, store_exec, watched_load, watched_store};
use crate::program::{Flow, Inst, Reg};
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

/// `fence`, `membar` (9.7.13.4). Where memory is not followed it is sequentially consistent, so that
/// a fence only says that threads communicate.
fn fence(cx: &mut Decoder<'_, '_>, words: &mut Words<'_>) {
    let (mut scope, mut order, mut proxy) = (None, Order::AcquireRelease, None);
    while let Some(word) = words.take_map(Some) {
        // CTAs of a cluster run on one host thread anyway.
        cx.facts.communicates |= matches!(word, "gpu" | "sys" | "gl");
        match word {
            "acquire" => order = Order::Acquire,
            "release" => order = Order::Release,
            _ if word.starts_with("async") || word.starts_with("tensormap") => proxy = Some(()),
            _ => scope = scope_named(word).or(scope),
        }
    }
    if !cx.names.watched {
        return;
    }
    if proxy.is_some() {
        cx.emit(Decoder::blank(proxy_fence));
    }
    if let Some(scope) = scope {
        cx.emit(Inst { c: ordered(order, scope), ..Decoder::blank(thread_fence) });
    }
}

fn scope_named(word: &str) -> Option<Scope> {
    Some(match word {
        "cta" => Scope::Cta,
        "cluster" => Scope::Cluster,
        "gpu" | "gl" => Scope::Gpu,
        "sys" => Scope::Sys,
        _ => return None,
    })
}

unsafe fn thread_fence(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let order = Order::unpack(inst.c);
    cx.before(order);
    cx.after(order);
    Flow::Next
}

unsafe fn proxy_fence(cx: &mut Cx<'_>, _: &Inst) -> Flow {
    cx.fence_proxy();
    Flow::Next
}

/// Takes what says how a cache treats the data; nothing of it changes results, but `.nc`: true if
/// it is there.
pub(super) fn take_cache_words(words: &mut Words<'_>) -> bool {
    let is_cache_word = |word: &str| {
        matches!(word, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc" | "level")
            || word.starts_with("L1::")
            || word.starts_with("L2::")
    };
    let mut non_coherent = false;
    while let Some(word) = words.take_map(|word| is_cache_word(word).then_some(word)) {
        non_coherent |= word == "nc";
    }
    non_coherent
}

/// Takes ordering and scope, packed by [`ordered`]. Notes whether threads of several CTAs may talk
/// through the access, if `talks`.
pub(super) fn take_order(
    cx: &mut Decoder<'_, '_>,
    words: &mut Words<'_>,
    space: Space,
    (talks, default): (bool, Order),
) -> u32 {
    let word =
        words.take_any(&["relaxed", "acquire", "release", "acq_rel", "volatile", "mmio", "weak"]);
    let mmio = words.take("mmio") || word == Some("mmio");
    let scope = words.take_any(&["cta", "cluster", "gpu", "sys"]);
    let strong = word.is_some_and(|word| word != "weak") || scope.is_some();
    cx.facts.can_spin |= strong;
    cx.facts.communicates |= talks
        && strong
        && !matches!(scope, Some("cta" | "cluster"))
        && matches!(space, Space::Global | Space::Generic);
    let order = match word {
        _ if mmio => Order::Mmio,
        Some("relaxed" | "volatile") => Order::Relaxed,
        Some("acquire") => Order::Acquire,
        Some("release") => Order::Release,
        Some("acq_rel") => Order::AcquireRelease,
        Some(_) => Order::Weak,
        None if scope.is_some() => Order::Relaxed,
        None => default,
    };
    // `.volatile` counts as `.relaxed.sys` (8.4); atomics are those of the device (9.7.13.5).
    let implied = if matches!(word, Some("volatile" | "mmio")) { Scope::Sys } else { Scope::Gpu };
    ordered(order, scope.and_then(scope_named).unwrap_or(implied))
}

fn decode_access<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    loads: bool,
) -> Result<(), Error> {
    let mut space = words.space();
    let order = take_order(cx, words, space, (true, Order::Weak));
    let non_coherent = take_cache_words(words) || instruction.opcode == "ldu";
    let order = if non_coherent { Order::NonCoherent as u32 } else { order };
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
    let (plain, watched) = match loads {
        true => {
            (load_exec(space, ty.bytes(), lanes as u32, extend), watched_load(space, ty.bytes()))
        }
        false => {
            (store_exec(space, ty.bytes(), lanes as u32, extend), watched_store(space, ty.bytes()))
        }
    };
    let inst = Inst {
        d: if lanes == 1 { regs[0] } else { cx.push_list(&regs) },
        a: address.reg,
        b: pack(lanes as u32, address.wide, extend),
        imm: address.offset,
        aux: site,
        c: order,
        ..Decoder::blank(watched.filter(|_| cx.names.watched).unwrap_or(plain))
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
