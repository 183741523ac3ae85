//! Loads and stores of launches whose memory is followed (PTX ISA 9.7.9.8, 9.7.9.11): lane by
//! lane, element by element, through [`crate::coherence`].

use super::access::{addresses, count, element_reg, extend, sign_extend_bytes};
use super::context::{blend, lanes};
use super::{Cx, Extend, space_number};
use crate::coherence::Order;
use crate::program::{Exec, Flow, Inst};
use crate::ptx::types::Space;

/// `ld`: as for launches that are not followed; `c` says how it is ordered.
unsafe fn load<const SPACE: u8, const SIZE: usize>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let (count, extend) = (count(inst), extend(inst));
    let bytes = SIZE as u32 * count;
    let order = Order::unpack(inst.c);
    cx.worker.counters.global_load_bytes += u64::from(bytes * cx.mask.count_ones());
    // SAFETY: operands of this frame; `hosts` checks addresses.
    unsafe {
        let addresses = addresses(cx, inst);
        if let Some(traffic) = &mut cx.worker.counters.traffic {
            traffic.touch(lanes(cx.mask).map(|lane| (addresses[lane as usize], bytes)), false);
        }
        let hosts = match cx.hosts(SPACE, &addresses, bytes, false, inst.aux) {
            Ok(hosts) => hosts,
            Err(fault) => return cx.raise(fault),
        };
        for element in 0..count {
            let reg = element_reg(cx, inst, element);
            let from = SIZE * element as usize;
            let mut values = [0u128; 32];
            for lane in lanes(cx.mask) {
                let at = addresses[lane as usize].wrapping_add(from as u64);
                let host = hosts[lane as usize].add(from).cast_const();
                values[lane as usize] = cx.load_watched((at, host), SIZE, order.0);
            }
            let signed = |value: u128| sign_extend_bytes(value as u64, SIZE as u32);
            match extend {
                Extend::Whole128 => blend(cx.row128(reg), &values, cx.mask),
                Extend::Zero32 => cx.put32(reg, &values.map(|value| value as u32)),
                Extend::Sign32 => cx.put32(reg, &values.map(|value| signed(value) as u32)),
                Extend::Zero64 => cx.put64(reg, &values.map(|value| value as u64)),
                Extend::Sign64 => cx.put64(reg, &values.map(signed)),
            }
        }
    }
    cx.after(order);
    Flow::Next
}

/// `st`: as for launches that are not followed; `c` says how it is ordered.
unsafe fn store<const SPACE: u8, const SIZE: usize>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let (count, extend) = (count(inst), extend(inst));
    let bytes = SIZE as u32 * count;
    let order = Order::unpack(inst.c);
    cx.worker.progress += 1;
    cx.worker.counters.global_store_bytes += u64::from(bytes * cx.mask.count_ones());
    cx.before(order);
    // SAFETY: operands of this frame; `hosts` checks addresses.
    unsafe {
        let addresses = addresses(cx, inst);
        if let Some(traffic) = &mut cx.worker.counters.traffic {
            traffic.touch(lanes(cx.mask).map(|lane| (addresses[lane as usize], bytes)), true);
        }
        let hosts = match cx.hosts(SPACE, &addresses, bytes, true, inst.aux) {
            Ok(hosts) => hosts,
            Err(fault) => return cx.raise(fault),
        };
        for element in 0..count {
            let reg = element_reg(cx, inst, element);
            let from = SIZE * element as usize;
            for lane in lanes(cx.mask) {
                let value = match extend {
                    Extend::Whole128 => cx.row128(reg)[lane as usize],
                    Extend::Zero64 | Extend::Sign64 => u128::from(cx.row64(reg)[lane as usize]),
                    _ => u128::from(cx.row32(reg)[lane as usize]),
                };
                let at = addresses[lane as usize].wrapping_add(from as u64);
                let host = hosts[lane as usize].add(from);
                cx.store_watched((at, host), &value.to_le_bytes()[..SIZE], order.0);
            }
        }
    }
    Flow::Next
}

/// `st.shared`: the asynchronous proxy does not see it yet.
unsafe fn store_shared(cx: &mut Cx<'_>, inst: &Inst, plain: Exec, size: u32) -> Flow {
    if cx.launch.is_weak {
        let bytes = size * count(inst);
        // SAFETY: operands of this frame; `hosts` checks addresses.
        unsafe {
            let addresses = addresses(cx, inst);
            let space = space_number(Space::Shared);
            if let Ok(hosts) = cx.hosts(space, &addresses, bytes, true, inst.aux) {
                for lane in lanes(cx.mask) {
                    cx.before_shared_store(hosts[lane as usize], bytes);
                }
            }
        }
    }
    // SAFETY: the same operands.
    unsafe { plain(cx, inst) }
}

macro_rules! sized {
    ($function:ident, $space:expr, $size:expr) => {
        match $size {
            1 => $function::<$space, 1>,
            2 => $function::<$space, 2>,
            4 => $function::<$space, 4>,
            8 => $function::<$space, 8>,
            _ => $function::<$space, 16>,
        }
    };
}

/// The executor of a load that is followed; none where nothing is to follow.
pub(crate) fn watched_load(space: Space, size: u32) -> Option<Exec> {
    Some(match space {
        Space::Global => sized!(load, { super::access::GLOBAL }, size),
        Space::Generic => sized!(load, { super::access::GENERIC }, size),
        _ => return None,
    })
}

/// The executor of a store that is followed; none where nothing is to follow.
pub(crate) fn watched_store(space: Space, size: u32) -> Option<Exec> {
    Some(match space {
        Space::Global => sized!(store, { super::access::GLOBAL }, size),
        Space::Generic => sized!(store, { super::access::GENERIC }, size),
        Space::Shared => match size {
            1 => shared::<1>,
            2 => shared::<2>,
            4 => shared::<4>,
            8 => shared::<8>,
            _ => shared::<16>,
        },
        _ => return None,
    })
}

unsafe fn shared<const SIZE: u32>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: the operands are those of this store.
    unsafe { store_shared(cx, inst, super::access::shared_store(SIZE), SIZE) }
}
