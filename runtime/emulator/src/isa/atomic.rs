//! Atomic operations (PTX ISA 9.7.13.5 "atom", 9.7.13.6 "red"). Lanes take effect in order of
//! their number; kernels that use them on device memory run on one host thread.

use half::{bf16, f16};

use super::memory::{take_cache_words, take_order};
use super::numeric::{Round, add32, bf16_bits, f16_bits, max32, min32};
use crate::coherence::Order;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Cx, Extend, addresses, lanes_of, pack, space_number};
use crate::program::{Exec, Flow, Inst, NO_REG, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::{Space, Type};

pub(crate) const OPCODES: &[&str] = &["atom", "red"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    And,
    Or,
    Xor,
    Min,
    Max,
    Inc,
    Dec,
    Exch,
    Cas,
}

const OPS: [(&str, Op); 10] = [
    ("add", Op::Add),
    ("and", Op::And),
    ("or", Op::Or),
    ("xor", Op::Xor),
    ("min", Op::Min),
    ("max", Op::Max),
    ("inc", Op::Inc),
    ("dec", Op::Dec),
    ("exch", Op::Exch),
    ("cas", Op::Cas),
];

const TYPES: [Type; 13] = [
    Type::B16,
    Type::B32,
    Type::B64,
    Type::B128,
    Type::U32,
    Type::U64,
    Type::S32,
    Type::S64,
    Type::F32,
    Type::F64,
    Type::F16x2,
    Type::BF16x2,
    Type::F16,
];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if words.take("async") {
        return super::bulk::decode_async_store(cx, words, instruction);
    }
    let returns = instruction.opcode == "atom";
    let space = words.space();
    let order = take_order(cx, words, space, (false, Order::Relaxed));
    take_cache_words(words);
    cx.facts.communicates |= matches!(space, Space::Global | Space::Generic);
    cx.facts.can_spin |= returns;
    words.take("noftz");
    let number = OPS.iter().position(|(name, _)| words.take(name));
    let number = number.ok_or_else(|| words.wrong("the operation is missing"))?;
    let op = OPS[number].1;
    let lanes = words.take_any(&["v2", "v4", "v8"]).map_or(1, |word| match word {
        "v2" => 2,
        "v4" => 4,
        _ => 8,
    });
    let ty = words.ty()?;
    check(op, ty, words)?;
    let mut list = instruction.operands.iter();
    let mut missing = || words.wrong("an operand is missing");
    let dst = if returns { Some(list.next().ok_or_else(&mut missing)?) } else { None };
    let address = cx.address(list.next().ok_or_else(&mut missing)?, space, words)?;
    let data = list.next().ok_or_else(&mut missing)?;
    let swap = if op == Op::Cas { Some(list.next().ok_or_else(&mut missing)?) } else { None };
    let held = if ty == Type::BF16 { Type::F16 } else { ty };
    let code = TYPES.iter().position(|&one| one == held);
    let code = code.ok_or_else(|| words.unsupported("atomics of this type"))? as u32;
    let regs = elements(data, lanes, words)?;
    let regs: Result<Vec<Reg>, Error> = regs.iter().map(|one| cx.src(one, ty, words)).collect();
    let mut results = vec![NO_REG; lanes];
    if let Some(dst) = dst {
        for (slot, operand) in results.iter_mut().zip(elements(dst, lanes, words)?) {
            *slot = cx.optional_dst(operand, ty, words)?;
        }
    }
    let mut inst = Decoder::blank(exec_for(address.space));
    inst.a = address.reg;
    inst.imm = address.offset;
    inst.b = pack(lanes as u32, address.wide, Extend::Zero32);
    inst.c = match swap {
        Some(swap) => cx.src(swap, ty, words)?,
        None => NO_REG,
    };
    inst.aux = number as u32 | code << 8 | u32::from(ty == Type::BF16) << 16 | order << 20;
    // The list: site, then results, then operands.
    let site = cx.site();
    inst.d = cx.push_list(&[&[site], results.as_slice(), regs?.as_slice()].concat());
    cx.emit(inst);
    Ok(())
}

fn elements<'o, 'a>(
    operand: &'o Operand<'a>,
    lanes: usize,
    words: &Words<'_>,
) -> Result<&'o [Operand<'a>], Error> {
    let list = match operand {
        Operand::Vector(list) => list.as_slice(),
        single => std::slice::from_ref(single),
    };
    if list.len() != lanes {
        return Err(words.wrong(format!("{} registers for {lanes} elements", list.len())));
    }
    Ok(list)
}

fn check(op: Op, ty: Type, words: &Words<'_>) -> Result<(), Error> {
    use Type::{B16, B32, B64, B128, BF16, BF16x2, F16, F16x2, F32, F64, S32, S64, U32, U64};
    let fits = match op {
        Op::Add => matches!(ty, U32 | S32 | U64 | F32 | F64 | F16 | F16x2 | BF16 | BF16x2 | S64),
        Op::And | Op::Or | Op::Xor => matches!(ty, B32 | B64),
        Op::Min | Op::Max => {
            matches!(ty, U32 | S32 | U64 | S64 | F32 | F16 | F16x2 | BF16 | BF16x2)
        }
        Op::Inc | Op::Dec => ty == U32,
        Op::Exch => matches!(ty, B32 | B64 | B128),
        Op::Cas => matches!(ty, B16 | B32 | B64 | B128),
    };
    if fits { Ok(()) } else { Err(words.wrong(format!("no such operation on {ty:?}"))) }
}

fn exec_for(space: Space) -> Exec {
    match space_number(space) {
        0 => atomic::<0>,
        1 => atomic::<1>,
        2 => atomic::<2>,
        3 => atomic::<3>,
        _ => atomic::<4>,
    }
}

unsafe fn atomic<const SPACE: u8>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let count = inst.b & 0xff;
    let (op, ty) = (OPS[(inst.aux & 0xff) as usize].1, TYPES[(inst.aux >> 8 & 0xff) as usize]);
    let brain = inst.aux >> 16 & 1 != 0;
    let bytes = ty.bytes();
    let order = Order::unpack(inst.aux >> 20);
    let is_followed = cx.launch.machine.is_some();
    if is_followed {
        cx.before(order);
    } else {
        cx.worker.progress += 1;
    }
    // SAFETY: operands of this frame; `hosts` checks addresses.
    unsafe {
        let addresses = addresses(cx, inst);
        let site = cx.list(inst.d, 1)[0];
        let hosts = match cx.hosts(SPACE, &addresses, bytes * count, true, site) {
            Ok(hosts) => hosts,
            Err(fault) => return cx.raise(fault),
        };
        for element in 0..count {
            let (result, data) = {
                let list = cx.list(inst.d + 1, 2 * count);
                (list[element as usize], list[(count + element) as usize])
            };
            for lane in lanes_of(cx.mask) {
                let host = hosts[lane as usize].add((bytes * element) as usize);
                let value = register(cx, data, bytes, lane);
                let swap = if inst.c == NO_REG { 0 } else { register(cx, inst.c, bytes, lane) };
                let update = |old| apply(op, ty, brain, old, value, swap);
                let old = if is_followed {
                    let at = addresses[lane as usize] + u64::from(bytes * element);
                    cx.update_watched((at, host), bytes, order.1, update)
                } else {
                    let old = read(host, bytes);
                    write(host, bytes, update(old));
                    old
                };
                if result != NO_REG {
                    match bytes {
                        8 => cx.row64(result)[lane as usize] = old as u64,
                        16 => cx.row128(result)[lane as usize] = old,
                        _ => cx.row32(result)[lane as usize] = old as u32,
                    }
                }
            }
        }
    }
    if is_followed {
        cx.after(order);
    }
    // A value that is awaited can come from a warp that has not run yet.
    if op == Op::Cas || op == Op::Exch { Flow::Yield } else { Flow::Next }
}

unsafe fn register(cx: &Cx<'_>, reg: Reg, bytes: u32, lane: u32) -> u128 {
    // SAFETY: as the caller's.
    unsafe {
        match bytes {
            8 => u128::from(cx.row64(reg)[lane as usize]),
            16 => cx.row128(reg)[lane as usize],
            _ => u128::from(cx.row32(reg)[lane as usize]),
        }
    }
}

unsafe fn read(host: *const u8, bytes: u32) -> u128 {
    // SAFETY: the caller has checked the address.
    unsafe {
        match bytes {
            2 => u128::from(host.cast::<u16>().read_unaligned()),
            4 => u128::from(host.cast::<u32>().read_unaligned()),
            8 => u128::from(host.cast::<u64>().read_unaligned()),
            _ => host.cast::<u128>().read_unaligned(),
        }
    }
}

unsafe fn write(host: *mut u8, bytes: u32, value: u128) {
    // SAFETY: the caller has checked the address.
    unsafe {
        match bytes {
            2 => host.cast::<u16>().write_unaligned(value as u16),
            4 => host.cast::<u32>().write_unaligned(value as u32),
            8 => host.cast::<u64>().write_unaligned(value as u64),
            _ => host.cast::<u128>().write_unaligned(value),
        }
    }
}

/// The new value of memory.
fn apply(op: Op, ty: Type, brain: bool, old: u128, value: u128, swap: u128) -> u128 {
    match (op, ty) {
        (Op::Exch, _) => value,
        (Op::Cas, _) => {
            let mask = u128::MAX >> (128 - 8 * ty.bytes());
            if old == value & mask { swap } else { old }
        }
        (Op::And, _) => old & value,
        (Op::Or, _) => old | value,
        (Op::Xor, _) => old ^ value,
        (Op::Inc, _) => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        (Op::Dec, _) => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
        (_, Type::F32) => {
            let [a, b] = [old, value].map(|bits| f32::from_bits(bits as u32));
            u128::from(float(op, a, b).to_bits())
        }
        (_, Type::F64) => {
            (f64::from_bits(old as u64) + f64::from_bits(value as u64)).to_bits().into()
        }
        (_, Type::F16 | Type::F16x2 | Type::BF16x2) => {
            let brain = brain || ty == Type::BF16x2;
            let low = half(op, brain, old as u16, value as u16);
            if ty == Type::F16 {
                return u128::from(low);
            }
            let high = half(op, brain, (old >> 16) as u16, (value >> 16) as u16);
            u128::from(high << 16 | low)
        }
        (Op::Add, _) => old.wrapping_add(value) & (u128::MAX >> (128 - 8 * ty.bytes())),
        (op, ty) => {
            let smaller = match ty {
                Type::S32 => (old as i32) < value as i32,
                Type::S64 => (old as i64) < value as i64,
                _ => old < value,
            };
            if smaller == (op == Op::Min) { old } else { value }
        }
    }
}

fn float(op: Op, a: f32, b: f32) -> f32 {
    match op {
        Op::Min => min32(a, b),
        Op::Max => max32(a, b),
        _ => add32(a, b, Round::Nearest),
    }
}

fn half(op: Op, brain: bool, a: u16, b: u16) -> u32 {
    if brain {
        let [a, b] = [a, b].map(|bits| f32::from(bf16::from_bits(bits)));
        bf16_bits(float(op, a, b))
    } else {
        let [a, b] = [a, b].map(|bits| f32::from(f16::from_bits(bits)));
        f16_bits(float(op, a, b), Round::Nearest)
    }
}
