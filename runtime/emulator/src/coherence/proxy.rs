//! Shared memory as the asynchronous proxy sees it (PTX ISA 8.6, "Proxies"): stores of threads
//! reach `wgmma` and bulk copies only behind a `fence.proxy.async`.

use std::collections::BTreeMap;

use super::buffer::Writer;
use super::race::Found;
use crate::exec::Cx;

/// Bytes that are followed together: those of a row of a core matrix.
const GRAIN: u32 = 16;

/// Bytes before stores that no fence has ordered yet.
#[derive(Clone, Copy, Debug)]
struct Hidden {
    old: [u8; GRAIN as usize],
    writer: Writer,
    time: u64,
}

/// What the asynchronous proxy does not see yet of a CTA's shared memory.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    hidden: BTreeMap<u32, Hidden>,
    clock: u64,
}

impl Shadow {
    pub(crate) fn clear(&mut self) {
        self.hidden.clear();
        self.clock = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.hidden.is_empty()
    }

    /// The time of the last store.
    pub(crate) fn now(&self) -> u64 {
        self.clock
    }

    /// A warp is about to store to `bytes` at a shared address, where `read` gives aligned grains.
    pub(crate) fn store(
        &mut self,
        address: u32,
        bytes: u32,
        writer: Writer,
        read: impl Fn(u32) -> Option<[u8; GRAIN as usize]>,
    ) {
        self.clock += 1;
        let time = self.clock;
        for grain in address / GRAIN..=(address + bytes.max(1) - 1) / GRAIN {
            let at = grain * GRAIN;
            if let Some(hidden) = self.hidden.get_mut(&at) {
                (hidden.writer, hidden.time) = (writer, time);
            } else if let Some(old) = read(at) {
                self.hidden.insert(at, Hidden { old, writer, time });
            }
        }
    }

    /// `fence.proxy.async` by a warp that has last met the others at time `synced`.
    pub(crate) fn fence(&mut self, warp: u32, synced: u64) {
        self.hidden.retain(|_, hidden| hidden.writer.warp != warp && hidden.time > synced);
    }

    /// The asynchronous proxy writes: what was there before is gone for it too.
    pub(crate) fn overwrite(&mut self, address: u32, bytes: u32) {
        if self.hidden.is_empty() || bytes == 0 {
            return;
        }
        let range = address / GRAIN * GRAIN..address.saturating_add(bytes);
        let found: Vec<u32> = self.hidden.range(range).map(|(&at, _)| at).collect();
        for at in found {
            self.hidden.remove(&at);
        }
    }

    /// The bytes that the asynchronous proxy may still see in place of the grain at `address`.
    pub(crate) fn old(&self, address: u32) -> Option<[u8; GRAIN as usize]> {
        self.hidden.get(&address).map(|hidden| hidden.old)
    }

    /// Who stored what the asynchronous proxy may not see yet of a range, and where.
    pub(crate) fn hidden_by(&self, address: u32, bytes: u32) -> Option<(u32, Writer)> {
        let first = address / GRAIN * GRAIN;
        let found = self.hidden.range(first..address.saturating_add(bytes)).next();
        found.map(|(&at, hidden)| (at, hidden.writer))
    }

    /// Puts what the asynchronous proxy may still see over the bytes at `address`.
    pub(crate) fn overlay(&self, address: u32, bytes: &mut [u8]) {
        let first = address / GRAIN * GRAIN;
        for (&at, hidden) in self.hidden.range(first..address + bytes.len() as u32) {
            for (index, &byte) in (0u32..).zip(&hidden.old) {
                let to = (at + index).wrapping_sub(address) as usize;
                if let Some(place) = bytes.get_mut(to) {
                    *place = byte;
                }
            }
        }
    }
}

impl Cx<'_> {
    /// Whether the asynchronous proxy sees old bytes this time, where no fence has ordered new ones.
    pub(crate) fn proxy_is_late(&mut self) -> bool {
        !self.cta.memory.shadow.is_empty()
            && self.cta.chance.as_mut().is_some_and(|chance| chance.one_in(2))
    }

    /// The asynchronous proxy reads shared memory of this CTA: keeps the race if a store to it has
    /// no fence.
    pub(crate) fn proxy_looks(&mut self, hidden: Option<(u32, Writer)>) {
        let Some((address, writer)) = hidden else { return };
        if self.launch.finds_races {
            let reader = self.writer();
            let Some(mut machine) = self.machine() else { return };
            if let Some(races) = &mut machine.races {
                let address = u64::from(address);
                races.add(Found { reader, writer, address, by_proxy: true });
            }
        }
    }

    /// What a bulk copy reads at a shared address; none if that is what is there.
    pub(crate) fn proxy_read_shared(
        &mut self,
        address: u32,
        host: *const u8,
        bytes: u32,
    ) -> Option<Vec<u8>> {
        if !self.is_own(address) {
            return None;
        }
        if self.launch.finds_races {
            let offset = address & ((1 << crate::exec::cluster::RANK_SHIFT) - 1);
            let hidden = self.cta.memory.shadow.hidden_by(offset, bytes);
            self.proxy_looks(hidden);
        }
        if !self.proxy_is_late() {
            return None;
        }
        // SAFETY: the caller has checked the range.
        let mut seen = unsafe { std::slice::from_raw_parts(host, bytes as usize) }.to_vec();
        let offset = address & ((1 << crate::exec::cluster::RANK_SHIFT) - 1);
        self.cta.memory.shadow.overlay(offset, &mut seen);
        Some(seen)
    }

    /// A bulk copy writes to shared memory.
    pub(crate) fn proxy_write_shared(&mut self, address: u32, bytes: u32) {
        if self.is_own(address) {
            let offset = address & ((1 << crate::exec::cluster::RANK_SHIFT) - 1);
            self.cta.memory.shadow.overwrite(offset, bytes);
        }
    }

    /// What a bulk copy reads in device memory; none if that is what is there.
    pub(crate) fn proxy_read(
        &mut self,
        address: u64,
        host: *const u8,
        bytes: u32,
    ) -> Option<Vec<u8>> {
        if !self.launch.is_weak {
            return None;
        }
        let (writer, floor) = (self.writer(), self.floors().0);
        let mut machine = self.machine()?;
        if !machine.has_past() {
            return None;
        }
        // SAFETY: the caller has checked the range.
        let mut seen = unsafe { std::slice::from_raw_parts(host, bytes as usize) }.to_vec();
        machine.proxy_view(&writer, address, &mut seen, floor);
        Some(seen)
    }

    /// A bulk copy has written to device memory.
    pub(crate) fn proxy_write(&mut self, address: u64, bytes: u32) {
        if self.launch.machine.is_none() {
            return;
        }
        let writer = self.writer();
        if let Some(mut machine) = self.machine() {
            machine.arrived(address, u64::from(bytes), writer);
        }
    }
}
