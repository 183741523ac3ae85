//! Loads and stores of whole warps whose lanes lie side by side or, for loads, at one address: the
//! commonest accesses, with one check for all lanes. Anything else goes the general way.

use super::{GENERIC, GLOBAL, SHARED, element_reg, load_leveled, peek, store_leveled};
use crate::exec::Cx;
use crate::exec::shapes::{Level, level};
use crate::memory::window::{SHARED_BASE, is_in};
use crate::program::{Exec, Flow, Inst, Reg};
use crate::ptx::types::Space;

/// Where the lanes of a warp lie.
#[derive(Clone, Copy)]
enum Place {
    /// One behind the other, from here on.
    SideBySide(*mut u8),
    /// All here.
    Same(*mut u8),
}

/// Where the host holds what a whole warp accesses, `BYTES` per lane, if it lies in the region
/// that this instruction touched last, or in shared memory of the CTA.
#[inline(always)]
unsafe fn find<const SPACE: u8, const BYTES: u64, const LOADS: bool>(
    cx: &mut Cx<'_>,
    inst: &Inst,
) -> Option<Place> {
    if cx.mask != u32::MAX || cx.worker.counters.traffic.is_some() {
        return None;
    }
    // All ones where no address differs from what it would be.
    let (mut low, beside, same);
    // SAFETY: operands of this frame.
    unsafe {
        if inst.b & 0x100 != 0 {
            let row = &*cx.row64(inst.a);
            let first = row[0];
            let (mut apart, mut spread) = (0, 0);
            for (lane, &address) in row.iter().enumerate() {
                apart |= address ^ first.wrapping_add(BYTES * lane as u64);
                spread |= address ^ first;
            }
            (beside, same) = (apart == 0, LOADS && spread == 0);
            low = first.wrapping_add(inst.imm);
        } else {
            let row = &*cx.row32(inst.a);
            let first = row[0];
            let (mut apart, mut spread) = (0, 0);
            for (lane, &address) in row.iter().enumerate() {
                apart |= address ^ first.wrapping_add(BYTES as u32 * lane as u32);
                spread |= address ^ first;
            }
            (beside, same) = (apart == 0, LOADS && spread == 0);
            low = u64::from(first.wrapping_add(inst.imm as u32));
        }
    }
    if !(beside || same) || low & (BYTES - 1) != 0 {
        return None;
    }
    let region = match SPACE {
        SHARED => cx.cta.shared.region(),
        GENERIC if is_in(low, SHARED_BASE) => {
            low -= SHARED_BASE;
            cx.cta.shared.region()
        }
        _ => cx.worker.sites[inst.aux as usize],
    };
    let bytes = if beside { 32 * BYTES } else { BYTES };
    if !region.holds(low, low.wrapping_add(bytes)) || !(LOADS || region.writable) {
        return None;
    }
    let host = region.host.wrapping_add((low - region.start) as usize);
    Some(if beside { Place::SideBySide(host) } else { Place::Same(host) })
}

/// One of `COUNT` elements of each lane, out of memory that holds lane after lane. The row is put
/// together before it is stored, since the compiler cannot know that memory and registers differ.
#[inline(always)]
unsafe fn read_rows<E: Copy, T: Copy + Default, const COUNT: usize>(
    host: *const u8,
    element: usize,
    value: impl Fn(E) -> T,
) -> [T; 32] {
    // SAFETY: the caller has checked 32 lanes of `COUNT` elements; bytes have no alignment.
    let source = unsafe { std::slice::from_raw_parts(host.cast::<E>(), 32 * COUNT) };
    let mut row = [T::default(); 32];
    for (lane, cell) in row.iter_mut().enumerate() {
        *cell = value(source[lane * COUNT + element]);
    }
    row
}

#[inline(always)]
unsafe fn load<const SPACE: u8, const SIZE: usize, const COUNT: usize, const BYTES: u64>(
    cx: &mut Cx<'_>,
    inst: &Inst,
) -> Flow {
    // SAFETY: operands of this frame; `find` has checked what is read.
    unsafe {
        let Some(place) = find::<SPACE, BYTES, true>(cx, inst) else {
            return load_leveled::<SPACE, SIZE>()(cx, inst);
        };
        if SPACE == GLOBAL || SPACE == GENERIC {
            cx.worker.counters.global_load_bytes += 32 * BYTES;
        }
        for element in 0..COUNT {
            let reg = element_reg(cx, inst, element as u32);
            match (place, SIZE) {
                (Place::Same(host), 8) => {
                    *cx.row64(reg) = [peek::<SIZE>(host.add(SIZE * element)); 32];
                }
                (Place::Same(host), _) => {
                    *cx.row32(reg) = [peek::<SIZE>(host.add(SIZE * element)) as u32; 32];
                }
                (Place::SideBySide(host), 8) => {
                    *cx.row64(reg) = read_rows::<[u8; 8], u64, COUNT>(host, element, |bytes| {
                        u64::from_ne_bytes(bytes)
                    });
                }
                (Place::SideBySide(host), 4) => {
                    *cx.row32(reg) = read_rows::<[u8; 4], u32, COUNT>(host, element, |bytes| {
                        u32::from_ne_bytes(bytes)
                    });
                }
                (Place::SideBySide(host), 2) => {
                    *cx.row32(reg) = read_rows::<[u8; 2], u32, COUNT>(host, element, |bytes| {
                        u32::from(u16::from_ne_bytes(bytes))
                    });
                }
                (Place::SideBySide(host), _) => {
                    *cx.row32(reg) =
                        read_rows::<[u8; 1], u32, COUNT>(host, element, |[byte]| u32::from(byte));
                }
            }
        }
    }
    Flow::Next
}

/// The registers of a vector operand, or the single one.
#[inline(always)]
fn registers<const COUNT: usize>(cx: &Cx<'_>, inst: &Inst) -> [Reg; COUNT] {
    std::array::from_fn(|element| element_reg(cx, inst, element as u32))
}

#[inline(always)]
unsafe fn store<const SPACE: u8, const SIZE: usize, const COUNT: usize, const BYTES: u64>(
    cx: &mut Cx<'_>,
    inst: &Inst,
) -> Flow {
    // SAFETY: operands of this frame; `find` has checked what is written.
    unsafe {
        let Some(Place::SideBySide(host)) = find::<SPACE, BYTES, false>(cx, inst) else {
            return store_leveled::<SPACE, SIZE>()(cx, inst);
        };
        cx.worker.progress += 1;
        if SPACE == GLOBAL || SPACE == GENERIC {
            cx.worker.counters.global_store_bytes += 32 * BYTES;
        }
        match SIZE {
            8 => {
                let rows: [Reg; COUNT] = registers(cx, inst);
                let rows = rows.map(|reg| &*cx.row64(reg));
                let out: [[u64; COUNT]; 32] =
                    std::array::from_fn(|lane| std::array::from_fn(|element| rows[element][lane]));
                host.cast::<[[u64; COUNT]; 32]>().write_unaligned(out);
            }
            4 => {
                let rows: [Reg; COUNT] = registers(cx, inst);
                let rows = rows.map(|reg| &*cx.row32(reg));
                let out: [[u32; COUNT]; 32] =
                    std::array::from_fn(|lane| std::array::from_fn(|element| rows[element][lane]));
                host.cast::<[[u32; COUNT]; 32]>().write_unaligned(out);
            }
            2 => {
                let row = cx.row32(inst.d).map(|value| value as u16);
                host.cast::<[u16; 32]>().write_unaligned(row);
            }
            _ => {
                let row = cx.row32(inst.d).map(|value| value as u8);
                host.cast::<[u8; 32]>().write_unaligned(row);
            }
        }
    }
    Flow::Next
}

macro_rules! leveled {
    ($name:ident, $body:ident) => {
        fn $name<const SPACE: u8, const SIZE: usize, const COUNT: usize, const BYTES: u64>() -> Exec
        {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                unsafe fn avx2<
                    const SPACE: u8,
                    const SIZE: usize,
                    const COUNT: usize,
                    const BYTES: u64,
                >(
                    cx: &mut Cx<'_>,
                    inst: &Inst,
                ) -> Flow {
                    // SAFETY: as the caller's.
                    unsafe { $body::<SPACE, SIZE, COUNT, BYTES>(cx, inst) }
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd")]
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                unsafe fn avx512<
                    const SPACE: u8,
                    const SIZE: usize,
                    const COUNT: usize,
                    const BYTES: u64,
                >(
                    cx: &mut Cx<'_>,
                    inst: &Inst,
                ) -> Flow {
                    // SAFETY: as the caller's.
                    unsafe { $body::<SPACE, SIZE, COUNT, BYTES>(cx, inst) }
                }
                match level() {
                    Level::Avx512 => return avx512::<SPACE, SIZE, COUNT, BYTES>,
                    Level::Avx2 => return avx2::<SPACE, SIZE, COUNT, BYTES>,
                    Level::Base => {}
                }
            }
            $body::<SPACE, SIZE, COUNT, BYTES>
        }
    };
}
leveled!(load_whole, load);
leveled!(store_whole, store);

macro_rules! choose {
    ($function:ident, $space:expr, $size:expr, $count:expr) => {{
        macro_rules! of_space {
            ($number:ident) => {
                match ($size, $count) {
                    (1, 1) => $function::<$number, 1, 1, 1>(),
                    (2, 1) => $function::<$number, 2, 1, 2>(),
                    (4, 1) => $function::<$number, 4, 1, 4>(),
                    (4, 2) => $function::<$number, 4, 2, 8>(),
                    (4, 4) => $function::<$number, 4, 4, 16>(),
                    (8, 1) => $function::<$number, 8, 1, 8>(),
                    (8, 2) => $function::<$number, 8, 2, 16>(),
                    _ => return None,
                }
            };
        }
        Some(match $space {
            Space::Global => of_space!(GLOBAL),
            Space::Shared => of_space!(SHARED),
            Space::Generic => of_space!(GENERIC),
            _ => return None,
        })
    }};
}

/// The executor of a load of `count` elements of `size` bytes into cells of that size, or of four
/// bytes with zeros above, if this way has one.
pub(super) fn load_exec(space: Space, size: u32, count: u32) -> Option<Exec> {
    choose!(load_whole, space, size, count)
}

/// As [`load_exec`], of a store.
pub(super) fn store_exec(space: Space, size: u32, count: u32) -> Option<Exec> {
    choose!(store_whole, space, size, count)
}
