//! Loads, stores and the way from an address to a host pointer (PTX ISA 9.7.9).
//!
//! Mostly all lanes of a warp access neighbours, or the same place: see [`whole`]. Else the
//! addresses of the executing lanes are reduced to the lowest and highest, the region that the
//! instruction touched last is checked against both, and lanes then need no checks. Whatever does
//! not fit goes lane by lane.

mod whole;

use super::Cx;
use super::context::{blend, lanes};
use super::shapes::{Level, level};
use crate::fault::{FaultKind, RawFault};
use crate::memory::Region;
use crate::memory::window::{GLOBAL_BASE, LOCAL_BASE, PARAM_BASE, SHARED_BASE, is_in};
use crate::program::{Exec, Flow, Inst, Reg};
use crate::ptx::types::Space;

pub(crate) const GENERIC: u8 = 0;
pub(crate) const GLOBAL: u8 = 1;
pub(crate) const SHARED: u8 = 2;
pub(crate) const LOCAL: u8 = 3;
pub(crate) const PARAM: u8 = 4;

/// The number of a state space in the executors.
pub(crate) fn space_number(space: Space) -> u8 {
    match space {
        Space::Generic => GENERIC,
        Space::Global => GLOBAL,
        Space::Shared => SHARED,
        Space::Local => LOCAL,
        Space::Param => PARAM,
    }
}

/// How a memory instruction's element lies in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extend {
    /// Zeros above, in a row of 32-bit cells.
    Zero32,
    /// The sign above, in a row of 32-bit cells.
    Sign32,
    /// Zeros above, in a row of 64-bit cells.
    Zero64,
    /// The sign above, in a row of 64-bit cells.
    Sign64,
    /// A row of 128-bit cells.
    Whole128,
}

/// Packs what a load or store needs besides registers into `inst.b`: the elements of its vector,
/// whether its address register has 64 bits, and how registers hold elements.
pub(crate) fn pack(count: u32, wide_address: bool, extend: Extend) -> u32 {
    count | u32::from(wide_address) << 8 | (extend as u32) << 16
}

pub(super) fn count(inst: &Inst) -> u32 {
    inst.b & 0xff
}

pub(super) fn extend(inst: &Inst) -> Extend {
    match inst.b >> 16 {
        0 => Extend::Zero32,
        1 => Extend::Sign32,
        2 => Extend::Zero64,
        3 => Extend::Sign64,
        _ => Extend::Whole128,
    }
}

/// The addresses of all lanes: register `a`, of the width that [`pack`] noted, plus `imm`.
///
/// # Safety
/// The operands must be those of this frame.
#[inline(always)]
pub(crate) unsafe fn addresses(cx: &Cx<'_>, inst: &Inst) -> [u64; 32] {
    let mut out = [0u64; 32];
    // SAFETY: as the caller's.
    unsafe {
        if inst.b & 0x100 != 0 {
            let row = cx.row64(inst.a);
            for lane in 0..32 {
                out[lane] = row[lane].wrapping_add(inst.imm);
            }
        } else {
            let row = cx.row32(inst.a);
            for lane in 0..32 {
                out[lane] = u64::from(row[lane].wrapping_add(inst.imm as u32));
            }
        }
    }
    out
}

/// Lowest and highest address of the executing lanes, and all low bits that occur.
#[inline(always)]
fn extent(addresses: &[u64; 32], mask: u32) -> (u64, u64, u64) {
    let (mut low, mut high, mut bits) = (u64::MAX, 0u64, 0u64);
    if mask == u32::MAX {
        for &address in addresses {
            low = low.min(address);
            high = high.max(address);
            bits |= address;
        }
    } else {
        for (lane, &address) in addresses.iter().enumerate() {
            let runs = mask >> lane & 1 != 0;
            low = low.min(if runs { address } else { u64::MAX });
            high = high.max(if runs { address } else { 0 });
            bits |= if runs { address } else { 0 };
        }
    }
    (low, high, bits)
}

impl Cx<'_> {
    /// A region that holds `[low, high)`, if one does.
    #[inline(always)]
    pub(crate) fn region(
        &mut self,
        space: u8,
        low: u64,
        high: u64,
        site: u32,
    ) -> Option<(Region, u64)> {
        match space {
            SHARED => {
                let region = self.cta.shared.region();
                return region.holds(low, high).then_some((region, low));
            }
            PARAM => {
                let region = self.param_region();
                return region.holds(low, high).then_some((region, low));
            }
            LOCAL => return None,
            GENERIC if is_in(low, SHARED_BASE) => {
                let region = self.cta.shared.region();
                let (low, high) = (low - SHARED_BASE, high.wrapping_sub(SHARED_BASE));
                return region.holds(low, high).then_some((region, low));
            }
            GENERIC if is_in(low, PARAM_BASE) => {
                let region = self.param_region();
                let (low, high) = (low - PARAM_BASE, high.wrapping_sub(PARAM_BASE));
                return region.holds(low, high).then_some((region, low));
            }
            GENERIC if is_in(low, LOCAL_BASE) => return None,
            _ => {}
        }
        let cached = self.worker.sites[site as usize];
        if cached.holds(low, high) {
            return Some((cached, low));
        }
        let region = self.device_region(low).ok()?;
        self.worker.sites[site as usize] = region;
        region.holds(low, high).then_some((region, low))
    }

    /// The allocation that holds an address, of this device or of a peer; else why a peer's is
    /// out of reach.
    pub(crate) fn device_region(&self, address: u64) -> Result<Region, Option<String>> {
        if let Some(region) = self.launch.memory.region(address) {
            return Ok(region);
        }
        match &self.launch.member {
            Some(member) => member.peer_region(address),
            None => Err(None),
        }
    }

    fn param_region(&self) -> Region {
        let host = self.launch.params.as_ptr().cast::<u8>().cast_mut();
        let end = u64::from(self.launch.kernel.param_bytes);
        Region { start: 0, end, host, writable: false }
    }

    /// Where the host holds `bytes` at one lane's address.
    pub(crate) fn lane_host(
        &mut self,
        space: u8,
        lane: u32,
        address: u64,
        bytes: u32,
        writes: bool,
    ) -> Result<*mut u8, Box<RawFault>> {
        let fault = |kind, nearest: Option<String>| {
            Box::new(RawFault { kind, lane, access: Some((address, bytes)), nearest, origin: None })
        };
        if !address.is_multiple_of(u64::from(bytes).max(1)) && bytes.is_power_of_two() {
            return Err(fault(FaultKind::Misaligned, None));
        }
        let (window, offset) = match space {
            GENERIC if is_in(address, SHARED_BASE) => (SHARED, address - SHARED_BASE),
            GENERIC if is_in(address, LOCAL_BASE) => (LOCAL, address - LOCAL_BASE),
            GENERIC if is_in(address, PARAM_BASE) => (PARAM, address - PARAM_BASE),
            GENERIC => (GLOBAL, address),
            _ => (space, address),
        };
        let end = offset.saturating_add(u64::from(bytes));
        match window {
            LOCAL => {
                let stride = self.warp.local.stride();
                let found = u32::try_from(offset)
                    .ok()
                    .and_then(|offset| self.warp.local.slice(lane, offset, bytes));
                found.map(|slice| slice.as_mut_ptr()).ok_or_else(|| {
                    fault(
                        FaultKind::OutOfBounds,
                        Some(format!("local memory of this thread has {stride} bytes")),
                    )
                })
            }
            SHARED | PARAM => {
                let found = match window {
                    SHARED => self.shared_window(offset),
                    _ => Ok((self.param_region(), offset)),
                };
                let (region, offset) = match found {
                    Ok(found) => found,
                    Err(reason) => return Err(fault(FaultKind::OutOfBounds, Some(reason))),
                };
                let end = offset.saturating_add(u64::from(bytes));
                if !region.holds(offset, end) {
                    let what = if window == SHARED { "shared memory" } else { "the parameters" };
                    let nearest =
                        format!("{what} of this CTA: 0x{:x} to 0x{:x}", region.start, region.end);
                    return Err(fault(FaultKind::OutOfBounds, Some(nearest)));
                }
                if writes && !region.writable {
                    return Err(fault(FaultKind::ReadOnly, None));
                }
                Ok(region.host.wrapping_add((offset - region.start) as usize))
            }
            _ => match self.device_region(address) {
                Ok(region) if region.holds(address, end) => {
                    Ok(region.host.wrapping_add((address - region.start) as usize))
                }
                Err(Some(rule)) => Err(fault(FaultKind::Peer(rule), None)),
                _ => {
                    let memory = self.launch.memory_of(address);
                    let kind = if memory.is_freed(address) {
                        FaultKind::UseAfterFree
                    } else {
                        FaultKind::OutOfBounds
                    };
                    let mut nearest = memory.describe(address);
                    if address < GLOBAL_BASE {
                        nearest = format!("not an address of device memory; {nearest}");
                    }
                    Err(fault(kind, Some(nearest)))
                }
            },
        }
    }

    /// Host pointers of the executing lanes for `bytes` at each address; others are null.
    #[inline(always)]
    pub(crate) fn hosts(
        &mut self,
        space: u8,
        addresses: &[u64; 32],
        bytes: u32,
        writes: bool,
        site: u32,
    ) -> Result<[*mut u8; 32], Box<RawFault>> {
        let mut out = [std::ptr::null_mut(); 32];
        let (low, high, bits) = extent(addresses, self.mask);
        let aligned = bits & (u64::from(bytes) - 1) == 0;
        if aligned
            && let Some((region, start)) =
                self.region(space, low, high.wrapping_add(u64::from(bytes)), site)
            && (region.writable || !writes)
        {
            let base = region.host.wrapping_add((start - region.start) as usize);
            for lane in 0..32 {
                out[lane] = base.wrapping_add(addresses[lane].wrapping_sub(low) as usize);
            }
            return Ok(out);
        }
        let local = match space {
            LOCAL => Some(0),
            GENERIC if is_in(low, LOCAL_BASE) => Some(LOCAL_BASE),
            _ => None,
        };
        if let Some(base) = local
            && aligned
            && low == high
            && self.mask != 0
            && let Ok(offset) = u32::try_from(low - base)
            && let Some(rows) = self.warp.local.rows(offset, bytes)
        {
            // Every thread accesses the same variable of its stack.
            let stride = self.warp.local.stride() as usize;
            for (lane, host) in out.iter_mut().enumerate() {
                *host = rows.wrapping_add(lane * stride);
            }
            return Ok(out);
        }
        for lane in lanes(self.mask) {
            out[lane as usize] =
                self.lane_host(space, lane, addresses[lane as usize], bytes, writes)?;
        }
        Ok(out)
    }

    /// Ends the launch with `fault`.
    #[cold]
    pub(crate) fn raise(&mut self, fault: Box<RawFault>) -> Flow {
        self.fault = Some(fault);
        Flow::Fault
    }

    /// The registers of a vector operand, or the single one.
    #[inline(always)]
    pub(crate) fn list(&self, reg: Reg, count: u32) -> &[Reg] {
        &self.function.lists[reg as usize..(reg + count) as usize]
    }
}

/// Reads up to 8 bytes.
#[inline(always)]
unsafe fn peek<const SIZE: usize>(host: *const u8) -> u64 {
    // SAFETY: the caller has checked the address.
    unsafe {
        match SIZE {
            1 => u64::from(*host),
            2 => u64::from(host.cast::<u16>().read_unaligned()),
            4 => u64::from(host.cast::<u32>().read_unaligned()),
            _ => host.cast::<u64>().read_unaligned(),
        }
    }
}

/// Writes up to 8 bytes.
#[inline(always)]
unsafe fn poke<const SIZE: usize>(host: *mut u8, value: u64) {
    // SAFETY: the caller has checked the address.
    unsafe {
        match SIZE {
            1 => *host = value as u8,
            2 => host.cast::<u16>().write_unaligned(value as u16),
            4 => host.cast::<u32>().write_unaligned(value as u32),
            _ => host.cast::<u64>().write_unaligned(value),
        }
    }
}

#[inline(always)]
fn sign_extend<const SIZE: usize>(value: u64) -> u64 {
    let shift = 64 - 8 * SIZE.min(8) as u32;
    ((value as i64) << shift >> shift) as u64
}

/// A value of `size` bytes with its sign above.
pub(super) fn sign_extend_bytes(value: u64, size: u32) -> u64 {
    let shift = 64 - 8 * size.min(8);
    ((value as i64) << shift >> shift) as u64
}

/// Whether lane `n` has the address of lane 0 plus `n` times `step`.
#[inline(always)]
fn strides(addresses: &[u64; 32], step: u64) -> bool {
    let (first, mut differences) = (addresses[0], 0);
    for (lane, &address) in (0u64..).zip(addresses) {
        differences |= address ^ first.wrapping_add(step * lane);
    }
    differences == 0
}

/// Where the host holds the bytes of all lanes, if they lie one behind the other, aligned, in one
/// region: the commonest access of all.
#[inline(always)]
fn contiguous<const SPACE: u8>(
    cx: &mut Cx<'_>,
    addresses: &[u64; 32],
    bytes: u64,
    site: u32,
    writes: bool,
) -> Option<*mut u8> {
    let low = addresses[0];
    if cx.mask != u32::MAX || low & (bytes - 1) != 0 || !strides(addresses, bytes) {
        return None;
    }
    let (region, start) = cx.region(SPACE, low, low.wrapping_add(32 * bytes), site)?;
    let fits = region.writable || !writes;
    fits.then(|| region.host.wrapping_add((start - region.start) as usize))
}

/// Rows of `COUNT` 32-bit elements per lane, out of memory that holds lane after lane.
#[inline(always)]
unsafe fn load_rows<const COUNT: usize>(cx: &Cx<'_>, inst: &Inst, host: *const u8) {
    // SAFETY: the caller has checked that 128 * COUNT bytes are there.
    let source = unsafe { std::slice::from_raw_parts(host.cast::<[u8; 4]>(), 32 * COUNT) };
    for element in 0..COUNT {
        let mut values = [0u32; 32];
        for lane in 0..32 {
            values[lane] = u32::from_ne_bytes(source[lane * COUNT + element]);
        }
        // SAFETY: a register of this frame.
        unsafe { *cx.row32(element_reg(cx, inst, element as u32)) = values };
    }
}

/// The reverse of [`load_rows`].
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "both indices have a meaning")]
unsafe fn store_rows<const COUNT: usize>(cx: &Cx<'_>, inst: &Inst, host: *mut u8) {
    let mut out = [[0u32; COUNT]; 32];
    for element in 0..COUNT {
        // SAFETY: a register of this frame.
        let row = unsafe { &*cx.row32(element_reg(cx, inst, element as u32)) };
        for lane in 0..32 {
            out[lane][element] = row[lane];
        }
    }
    // SAFETY: the caller has checked that 128 * COUNT bytes are there.
    unsafe { std::ptr::copy_nonoverlapping(out.as_ptr().cast(), host, 128 * COUNT) };
}

/// `ld`: `d` (a list where there are several elements) from `[a + imm]`.
#[inline(always)]
unsafe fn load<const SPACE: u8, const SIZE: usize>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let count = count(inst);
    let bytes = SIZE as u32 * count;
    if SPACE == GLOBAL || SPACE == GENERIC {
        cx.worker.counters.global_load_bytes += u64::from(bytes * cx.mask.count_ones());
    }
    // SAFETY: operands of this frame; addresses are checked before use.
    unsafe {
        let addresses = addresses(cx, inst);
        if (SPACE == GLOBAL || SPACE == GENERIC)
            && let Some(traffic) = &mut cx.worker.counters.traffic
        {
            traffic.touch(lanes(cx.mask).map(|lane| (addresses[lane as usize], bytes)), false);
        }
        let extend = extend(inst);
        if SIZE == 4
            && extend == Extend::Zero32
            && let Some(host) =
                contiguous::<SPACE>(cx, &addresses, u64::from(bytes), inst.aux, false)
        {
            match count {
                1 => load_rows::<1>(cx, inst, host),
                2 => load_rows::<2>(cx, inst, host),
                4 => load_rows::<4>(cx, inst, host),
                _ => load_rows::<8>(cx, inst, host),
            }
            return Flow::Next;
        }
        let hosts = match cx.hosts(SPACE, &addresses, bytes, false, inst.aux) {
            Ok(hosts) => hosts,
            Err(fault) => return cx.raise(fault),
        };
        for element in 0..count {
            let reg = element_reg(cx, inst, element);
            let from = SIZE * element as usize;
            match extend {
                Extend::Whole128 => {
                    let mut values = [0u128; 32];
                    for lane in lanes(cx.mask) {
                        let host = hosts[lane as usize].add(from);
                        values[lane as usize] = host.cast::<u128>().read_unaligned();
                    }
                    blend(cx.row128(reg), &values, cx.mask);
                }
                Extend::Zero32 | Extend::Sign32 => {
                    let mut values = gather::<SIZE>(&hosts, from, cx.mask);
                    if extend == Extend::Sign32 {
                        values = values.map(sign_extend::<SIZE>);
                    }
                    cx.put32(reg, &values.map(|value| value as u32));
                }
                Extend::Zero64 | Extend::Sign64 => {
                    let mut values = gather::<SIZE>(&hosts, from, cx.mask);
                    if extend == Extend::Sign64 {
                        values = values.map(sign_extend::<SIZE>);
                    }
                    cx.put64(reg, &values);
                }
            }
        }
    }
    Flow::Next
}

/// One element of each executing lane.
#[inline(always)]
unsafe fn gather<const SIZE: usize>(hosts: &[*mut u8; 32], from: usize, mask: u32) -> [u64; 32] {
    let mut values = [0u64; 32];
    // SAFETY: the caller has checked the pointers of these lanes.
    unsafe {
        if mask == u32::MAX {
            for lane in 0..32 {
                values[lane] = peek::<SIZE>(hosts[lane].add(from));
            }
        } else {
            for lane in lanes(mask) {
                values[lane as usize] = peek::<SIZE>(hosts[lane as usize].add(from));
            }
        }
    }
    values
}

#[inline(always)]
pub(super) fn element_reg(cx: &Cx<'_>, inst: &Inst, element: u32) -> Reg {
    if count(inst) == 1 { inst.d } else { cx.function.lists[(inst.d + element) as usize] }
}

/// `st`: to `[a + imm]` from `d`.
#[inline(always)]
unsafe fn store<const SPACE: u8, const SIZE: usize>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let count = count(inst);
    let bytes = SIZE as u32 * count;
    cx.worker.progress += 1;
    if SPACE == GLOBAL || SPACE == GENERIC {
        cx.worker.counters.global_store_bytes += u64::from(bytes * cx.mask.count_ones());
    }
    // SAFETY: operands of this frame; addresses are checked before use.
    unsafe {
        let addresses = addresses(cx, inst);
        if (SPACE == GLOBAL || SPACE == GENERIC)
            && let Some(traffic) = &mut cx.worker.counters.traffic
        {
            traffic.touch(lanes(cx.mask).map(|lane| (addresses[lane as usize], bytes)), true);
        }
        let extend = extend(inst);
        if SIZE == 4
            && matches!(extend, Extend::Zero32 | Extend::Sign32)
            && let Some(host) =
                contiguous::<SPACE>(cx, &addresses, u64::from(bytes), inst.aux, true)
        {
            match count {
                1 => store_rows::<1>(cx, inst, host),
                2 => store_rows::<2>(cx, inst, host),
                4 => store_rows::<4>(cx, inst, host),
                _ => store_rows::<8>(cx, inst, host),
            }
            return Flow::Next;
        }
        let hosts = match cx.hosts(SPACE, &addresses, bytes, true, inst.aux) {
            Ok(hosts) => hosts,
            Err(fault) => return cx.raise(fault),
        };
        for element in 0..count {
            let reg = element_reg(cx, inst, element);
            let from = SIZE * element as usize;
            for lane in lanes(cx.mask) {
                let host = hosts[lane as usize].add(from);
                match extend {
                    Extend::Zero32 | Extend::Sign32 => {
                        poke::<SIZE>(host, u64::from(cx.row32(reg)[lane as usize]));
                    }
                    Extend::Zero64 | Extend::Sign64 => {
                        poke::<SIZE>(host, cx.row64(reg)[lane as usize]);
                    }
                    Extend::Whole128 => {
                        host.cast::<u128>().write_unaligned(cx.row128(reg)[lane as usize]);
                    }
                }
            }
        }
    }
    Flow::Next
}

/// Compiles a memory instruction for each level of the host.
macro_rules! leveled {
    ($name:ident, $body:ident) => {
        fn $name<const SPACE: u8, const SIZE: usize>() -> Exec {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                unsafe fn avx2<const SPACE: u8, const SIZE: usize>(
                    cx: &mut Cx<'_>,
                    inst: &Inst,
                ) -> Flow {
                    // SAFETY: as the caller's.
                    unsafe { $body::<SPACE, SIZE>(cx, inst) }
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd")]
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                unsafe fn avx512<const SPACE: u8, const SIZE: usize>(
                    cx: &mut Cx<'_>,
                    inst: &Inst,
                ) -> Flow {
                    // SAFETY: as the caller's.
                    unsafe { $body::<SPACE, SIZE>(cx, inst) }
                }
                match level() {
                    Level::Avx512 => return avx512::<SPACE, SIZE>,
                    Level::Avx2 => return avx2::<SPACE, SIZE>,
                    Level::Base => {}
                }
            }
            $body::<SPACE, SIZE>
        }
    };
}
leveled!(load_leveled, load);
leveled!(store_leveled, store);

macro_rules! by_space_and_size {
    ($function:ident, $space:expr, $size:expr) => {{
        macro_rules! sized {
            ($number:ident) => {
                match $size {
                    1 => $function::<$number, 1>(),
                    2 => $function::<$number, 2>(),
                    4 => $function::<$number, 4>(),
                    8 => $function::<$number, 8>(),
                    _ => $function::<$number, 16>(),
                }
            };
        }
        match $space {
            GLOBAL => sized!(GLOBAL),
            SHARED => sized!(SHARED),
            LOCAL => sized!(LOCAL),
            PARAM => sized!(PARAM),
            _ => sized!(GENERIC),
        }
    }};
}

/// Whether a register holds an element as memory does, or with zeros above in 32 bits.
fn is_plain(extend: Extend, size: u32) -> bool {
    match extend {
        Extend::Zero32 => size <= 4,
        Extend::Zero64 => size == 8,
        _ => false,
    }
}

/// The executor of a load of `count` elements of `size` bytes.
pub(crate) fn load_exec(space: Space, size: u32, count: u32, extend: Extend) -> Exec {
    let plain = is_plain(extend, size).then(|| whole::load_exec(space, size, count)).flatten();
    plain.unwrap_or_else(|| by_space_and_size!(load_leveled, space_number(space), size))
}

/// The executor of a store of `count` elements of `size` bytes.
pub(crate) fn store_exec(space: Space, size: u32, count: u32, extend: Extend) -> Exec {
    let plain = is_plain(extend, size).then(|| whole::store_exec(space, size, count)).flatten();
    plain.unwrap_or_else(|| by_space_and_size!(store_leveled, space_number(space), size))
}

/// As [`store_exec`] to shared memory, for any number of elements and any registers.
pub(super) fn shared_store(size: u32) -> Exec {
    by_space_and_size!(store_leveled, SHARED, size)
}
