//! Loads, stores and fences of warps (PTX ISA 8.4 to 8.9).

use std::sync::MutexGuard;
use std::sync::atomic::Ordering::Relaxed;

use super::buffer::{Unit, Writer};
use super::machine::Machine;
use super::poll::{WatchedPlace, digest};
use crate::exec::{Cx, Wait};
use crate::memory::window::{SHARED_BASE, is_global, is_in};
use crate::program::Flow;

/// How an access is ordered (PTX ISA 8.4, "Operation types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Order {
    Weak,
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
    /// `.mmio`: never anything but what is there.
    Mmio,
    /// `ld.global.nc`: what the kernel itself writes may be missed.
    NonCoherent,
}

/// Among whom (PTX ISA 8.5, "Scope").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub(crate) enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
}

const ORDERS: [Order; 7] = [
    Order::Weak,
    Order::Relaxed,
    Order::Acquire,
    Order::Release,
    Order::AcquireRelease,
    Order::Mmio,
    Order::NonCoherent,
];
const SCOPES: [Scope; 4] = [Scope::Cta, Scope::Cluster, Scope::Gpu, Scope::Sys];

/// Packs order and scope into six bits; [`Order::unpack`] reads them.
pub(crate) fn ordered(order: Order, scope: Scope) -> u32 {
    order as u32 | (scope as u32) << 4
}

impl Order {
    /// What [`ordered`] packed.
    pub(crate) fn unpack(bits: u32) -> (Order, Scope) {
        (ORDERS[(bits & 15).min(6) as usize], SCOPES[(bits >> 4 & 3) as usize])
    }

    fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::AcquireRelease)
    }

    fn releases(self) -> bool {
        matches!(self, Order::Release | Order::AcquireRelease)
    }
}

impl<'a> Cx<'a> {
    /// The common state, if the launch is followed.
    pub(crate) fn machine(&self) -> Option<MutexGuard<'a, Machine>> {
        let machine = self.launch.machine?;
        Some(machine.lock().unwrap_or_else(|poison| poison.into_inner()))
    }

    /// The running warp and instruction.
    pub(crate) fn writer(&self) -> Writer {
        let frame = self.warp.splits.get(self.warp.current).map_or(0, |split| split.frame);
        Writer {
            rank: self.launch.rank(),
            launch: self.launch.grid_id,
            cta: self.cta.index,
            warp: self.warp.index,
            function: self.warp.frames[frame as usize].function,
            pc: self.pc,
        }
    }

    /// What comes before a release: others of `scope` see all that this warp has stored or seen.
    pub(crate) fn publish(&mut self, scope: Scope) {
        if !self.launch.is_weak {
            return;
        }
        let Some(mut machine) = self.machine() else { return };
        for (at, unit) in self.warp.memory.stores.take_all() {
            for (at, displaced) in self.cta.memory.stores.put(at, unit) {
                machine.pass_to_device(at, displaced);
            }
        }
        if scope >= Scope::Cluster {
            for (at, unit) in self.cta.memory.stores.take_all() {
                machine.pass_to_device(at, unit);
            }
        }
        if scope == Scope::Sys {
            machine.flush_device(self.launch.rank());
        }
    }

    /// What comes behind an acquire: nothing older is read.
    pub(crate) fn acquire(&mut self, scope: Scope) {
        if !self.launch.is_weak {
            return;
        }
        self.warp.memory.synced = self.cta.memory.shadow.now();
        let Some(machine) = self.machine() else { return };
        if scope >= Scope::Cluster {
            self.cta.cluster.floor.store(machine.now, Relaxed);
        }
        if scope == Scope::Sys {
            self.cta.cluster.floor_sys.store(machine.now, Relaxed);
        }
    }

    /// A barrier that orders memory among threads of `scope` as release and acquire do: what comes
    /// before it.
    pub(crate) fn before_barrier(&mut self) {
        let scope = if self.cta.cluster.size() > 1 { Scope::Cluster } else { Scope::Cta };
        self.publish(scope);
    }

    /// What comes behind such a barrier.
    pub(crate) fn after_barrier(&mut self) {
        let scope = if self.cta.cluster.size() > 1 { Scope::Cluster } else { Scope::Cta };
        self.acquire(scope);
    }

    /// `fence.proxy.async` (9.7.13.4, "membar/fence"): the asynchronous proxy sees what this thread
    /// has stored or seen.
    pub(crate) fn fence_proxy(&mut self) {
        if !self.launch.is_weak {
            return;
        }
        self.publish(Scope::Sys);
        let (warp, synced) = (self.warp.index, self.warp.memory.synced);
        self.cta.memory.shadow.fence(warp, synced);
        let (writer, floor) = (self.writer(), self.floors().0);
        if let Some(mut machine) = self.machine() {
            machine.proxy_fence(&writer, floor);
        }
    }

    /// Times before which nothing is read that the own device, or another, has changed since.
    pub(crate) fn floors(&self) -> (u64, u64) {
        let cluster = &self.cta.cluster;
        let began = self.worker.began;
        (cluster.floor.load(Relaxed).max(began), cluster.floor_sys.load(Relaxed).max(began))
    }

    /// Stores up to 16 bytes at an address of device memory.
    ///
    /// # Safety
    /// `host` must hold them.
    pub(crate) unsafe fn store_watched(
        &mut self,
        (address, host): (u64, *mut u8),
        bytes: &[u8],
        order: Order,
    ) {
        if !is_global(address) {
            if is_in(address, SHARED_BASE) || address < SHARED_BASE {
                self.before_shared_store(host, bytes.len() as u32);
            }
            // SAFETY: the caller's.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) };
            return;
        }
        let writer = self.writer();
        if order != Order::Weak
            && let Some(mut machine) = self.machine()
        {
            machine.wrote(address, writer);
        }
        if !self.launch.is_weak {
            // SAFETY: the caller's.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) };
            return;
        }
        if self.launch.finds_races
            && let Some(mut machine) = self.machine()
            && let Some(races) = &mut machine.races
        {
            races.issue(address, bytes.len() as u64, writer);
        }
        let mut unit = Unit { host, len: bytes.len() as u8, bytes: [0; 16], writer };
        unit.bytes[..bytes.len()].copy_from_slice(bytes);
        let displaced = self.warp.memory.stores.put(address, unit);
        if displaced.is_empty() {
            return;
        }
        let Some(mut machine) = self.machine() else { return };
        for (at, unit) in displaced {
            for (at, unit) in self.cta.memory.stores.put(at, unit) {
                machine.pass_to_device(at, unit);
            }
        }
    }

    /// Loads up to 16 bytes from an address.
    ///
    /// # Safety
    /// `host` must hold them.
    pub(crate) unsafe fn load_watched(
        &mut self,
        (address, host): (u64, *const u8),
        len: usize,
        order: Order,
    ) -> u128 {
        let mut bytes = [0; 16];
        if self.launch.is_weak && is_global(address) {
            bytes = self.view(address, host, len, order);
        } else {
            // SAFETY: the caller's.
            unsafe { std::ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), len) };
        }
        let value = u128::from_le_bytes(bytes);
        let place = WatchedPlace { host, address, bytes: len as u8, value };
        self.warp.memory.polls.read(place, order != Order::Weak);
        value
    }

    /// What this warp reads of device memory.
    fn view(&mut self, address: u64, host: *const u8, len: usize, order: Order) -> [u8; 16] {
        let (writer, (own, others), began) = (self.writer(), self.floors(), self.worker.began);
        let size = len as u8;
        let Some(mut machine) = self.machine() else { return [0; 16] };
        if self.launch.finds_races && matches!(order, Order::Weak | Order::NonCoherent) {
            let floors = if order == Order::Weak { (own, others) } else { (began, began) };
            machine.look(&writer, address, len as u64, floors);
        }
        if order == Order::NonCoherent {
            let oldest = machine.oldest(address, size, began);
            return oldest.unwrap_or_else(|| machine.device_view(u32::MAX, address, host, len));
        }
        let mut bytes = machine.device_view(writer.rank, address, host, len);
        let (warp, cta) = (&self.warp.memory.stores, &mut self.cta.memory);
        if cta.stores.touches(address, len as u64) || warp.touches(address, len as u64) {
            cta.stores.overlay(address, &mut bytes[..len]);
            warp.overlay(address, &mut bytes[..len]);
            cta.seen.insert(address, machine.now);
            return bytes;
        }
        if !machine.has_past() {
            return bytes;
        }
        let one_in = match order {
            Order::Weak | Order::Relaxed => machine.staleness,
            _ => u32::MAX,
        };
        let seen = cta.seen.get(&address).copied().unwrap_or(0);
        let past = match one_in {
            u32::MAX => None,
            one_in => machine.past(&writer, address, size, (own, others, seen), one_in),
        };
        let (bytes, time) = past.unwrap_or((bytes, machine.now));
        if cta.seen.len() > 1 << 14 {
            // Nothing older than now is read any more, whatever it is.
            cta.seen.clear();
            self.cta.cluster.floor.store(machine.now, Relaxed);
            self.cta.cluster.floor_sys.store(machine.now, Relaxed);
        }
        self.cta.memory.seen.insert(address, time);
        bytes
    }

    /// Before an ordered access.
    pub(crate) fn before(&mut self, (order, scope): (Order, Scope)) {
        if order.releases() {
            self.publish(scope);
        }
    }

    /// Behind an ordered access.
    pub(crate) fn after(&mut self, (order, scope): (Order, Scope)) {
        if order.acquires() {
            self.acquire(scope);
        }
    }

    /// A read-modify-write of up to 16 bytes by one lane: gives the old value.
    ///
    /// # Safety
    /// `host` must hold them.
    pub(crate) unsafe fn update_watched(
        &mut self,
        (address, host): (u64, *mut u8),
        len: u32,
        scope: Scope,
        update: impl FnOnce(u128) -> u128,
    ) -> u128 {
        let (writer, len, on_device) = (self.writer(), len as usize, is_global(address));
        if !on_device {
            self.before_shared_store(host, len as u32);
        }
        let Some(mut machine) = self.machine() else { return 0 };
        let mut bytes = [0; 16];
        let weak = self.launch.is_weak && on_device;
        if weak {
            let range = (address, len as u64);
            for (at, unit) in self.warp.memory.stores.take(range.0, range.1) {
                for (at, unit) in self.cta.memory.stores.put(at, unit) {
                    machine.pass_to_device(at, unit);
                }
            }
            if scope > Scope::Cta {
                for (at, unit) in self.cta.memory.stores.take(range.0, range.1) {
                    machine.pass_to_device(at, unit);
                }
            }
            if scope == Scope::Sys {
                machine.flush_range(writer.rank, range.0, range.1);
            }
            bytes = machine.device_view(writer.rank, address, host, len);
            self.cta.memory.stores.overlay(address, &mut bytes[..len]);
        } else {
            // SAFETY: the caller's.
            unsafe { std::ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), len) };
        }
        let old = u128::from_le_bytes(bytes);
        let new = update(old);
        if new == old {
            let place = WatchedPlace { host, address, bytes: len as u8, value: old };
            self.warp.memory.polls.read(place, true);
        } else {
            self.worker.progress += 1;
            if on_device {
                machine.wrote(address, writer);
            }
        }
        let unit = Unit { host, len: len as u8, bytes: new.to_le_bytes(), writer };
        if weak && scope == Scope::Cta {
            for (at, unit) in self.cta.memory.stores.put(address, unit) {
                machine.pass_to_device(at, unit);
            }
        } else if weak && scope < Scope::Sys {
            machine.pass_to_device(address, unit);
            self.cta.memory.seen.insert(address, machine.now);
        } else if weak {
            let is_lone = machine.is_lone();
            machine.commit(address, unit, is_lone);
            self.cta.memory.seen.insert(address, machine.now);
        } else {
            // SAFETY: the caller's.
            unsafe { std::ptr::copy_nonoverlapping(unit.bytes.as_ptr(), host, len) };
        }
        old
    }

    /// A store of threads to shared memory is about to happen, which the asynchronous proxy does
    /// not see without a fence.
    pub(crate) fn before_shared_store(&mut self, host: *const u8, bytes: u32) {
        if !self.launch.is_weak {
            return;
        }
        let region = self.cta.shared.region();
        let offset = (host as u64).wrapping_sub(region.host as u64);
        if offset >= region.end - region.start {
            return;
        }
        let address = region.start + offset;
        let writer = self.writer();
        self.cta.memory.shadow.store(address as u32, bytes, writer, |at| {
            let at = u64::from(at);
            // SAFETY: the range was checked to lie inside the region.
            region.holds(at, at + 16).then(|| unsafe {
                region.host.add((at - region.start) as usize).cast::<[u8; 16]>().read()
            })
        });
    }

    /// A wait has looked at the mbarrier whose word the host holds at `host`.
    pub(crate) fn poll_shared(&mut self, host: *const u8) {
        // SAFETY: the caller has checked the address.
        let value = u128::from(unsafe { host.cast::<u64>().read() });
        let place = WatchedPlace { host, address: 0, bytes: 8, value };
        self.warp.memory.polls.read(place, true);
    }

    /// A jump backwards: sleeps if the loop does nothing but wait.
    pub(crate) fn loop_turn(&mut self, target: u32) -> Option<Flow> {
        let (pc, mask, progress) = (self.pc, self.mask, self.worker.progress);
        if mask != self.warp.splits[self.warp.current].mask {
            return None;
        }
        let (frame, bytes) = (self.frame, self.function.frame_bytes as usize);
        let slot = self.warp.memory.polls.turn(pc, mask, progress, || {
            // SAFETY: the frame holds as many bytes, aligned to 128.
            digest(unsafe { std::slice::from_raw_parts(frame.cast::<u64>(), bytes / 8) })
        })?;
        self.pc = target;
        Some(self.wait_as(mask, Wait::Poll { slot }))
    }
}
