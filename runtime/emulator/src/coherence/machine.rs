//! What devices that run together have in common: buffers of devices, the past of memory, messages.

use std::collections::BTreeMap;

use super::buffer::{Buffer, Unit, Writer};
use super::history::{Change, History};
use super::network::Flight;
use super::race::Races;
use crate::schedule::{Chance, Schedule, Stream};

/// Locations whose last writer is remembered, at most.
const WRITERS: usize = 1 << 16;
/// Bytes of a piece of a message whose places are remembered, at most.
const LONGEST: u64 = 4096;
/// How often a load gives an old value, by chance: once in so many.
const STALENESS: [u32; 4] = [2, 2, 4, 16];
/// Fences between proxies that are remembered, at most.
const FENCES: usize = 1 << 12;

/// The common state. One host thread uses it at a time.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Changes so far.
    pub(crate) now: u64,
    /// Stores that only one device sees, by rank; unused for a lone device.
    devices: Vec<Buffer>,
    /// Stores that CTAs left behind when they exited, with their rank.
    exited: Vec<(u32, Buffer)>,
    history: History,
    pub(crate) flights: Vec<Flight>,
    /// Messages so far.
    pub(crate) sent: u64,
    /// Fences of messages, by rank.
    pub(crate) epochs: Vec<u64>,
    /// Messages on their way, by the rank that sent them.
    pub(crate) pending: Vec<u32>,
    /// Nobody where all goes in order.
    pub(crate) chance: Option<Box<Chance>>,
    /// How often a load gives an old value: once in so many where there is one.
    pub(crate) staleness: u32,
    /// Who wrote last where threads wait or signal.
    writers: BTreeMap<u64, Writer>,
    /// The launch that runs, by rank.
    pub(crate) running: Vec<u64>,
    /// Fences to the asynchronous proxy: when, and the time up to which they cover the writes of
    /// others, both ascending.
    fences: Vec<(u64, u64)>,
    /// What those that are forgotten cover.
    covered: u64,
    /// The last fence to the asynchronous proxy of each CTA (rank, launch, number).
    own_fences: BTreeMap<(u32, u64, u64), u64>,
    /// Where races are looked for.
    pub(crate) races: Option<Box<Races>>,
}

impl Machine {
    /// For so many devices.
    pub(crate) fn new(ranks: u32, schedule: Schedule, lot: u64) -> Machine {
        let mut chance = Chance::new(schedule, lot, Stream::Memory);
        let rate = chance.as_mut().map(|chance| STALENESS[chance.below(4) as usize]);
        let staleness = rate.unwrap_or(u32::MAX);
        let devices = if ranks > 1 { ranks } else { 0 };
        Machine {
            now: 1,
            devices: (0..devices).map(|_| Buffer::default()).collect(),
            exited: Vec::new(),
            history: History::default(),
            flights: Vec::new(),
            sent: 0,
            epochs: vec![0; ranks as usize],
            pending: vec![0; ranks as usize],
            chance,
            staleness,
            writers: BTreeMap::new(),
            running: vec![0; ranks as usize],
            fences: Vec::new(),
            covered: 0,
            own_fences: BTreeMap::new(),
            races: None,
        }
    }

    /// Whether there is but one device.
    pub(crate) fn is_lone(&self) -> bool {
        self.devices.is_empty()
    }

    /// A launch begins on a rank: gives the time before which it reads nothing old.
    pub(crate) fn begin(&mut self, rank: u32, launch: u64) -> u64 {
        if let Some(running) = self.running.get_mut(rank as usize) {
            *running = launch;
        }
        self.now
    }

    /// The launch has ended: all see what it has stored.
    pub(crate) fn end(&mut self, rank: u32) {
        self.flush_exited(Some(rank));
        self.flush_device(rank);
        if let Some(running) = self.running.get_mut(rank as usize) {
            *running = 0;
        }
        self.own_fences.retain(|&(of, ..), _| of != rank);
    }

    /// A CTA exits and leaves stores behind.
    pub(crate) fn leave(&mut self, rank: u32, stores: Buffer) {
        if !stores.is_empty() {
            self.exited.push((rank, stores));
        }
    }

    /// Devices see what CTAs have left behind, on one rank or on all.
    fn flush_exited(&mut self, rank: Option<u32>) -> bool {
        let mut any = false;
        for (of, mut stores) in std::mem::take(&mut self.exited) {
            if rank.is_some_and(|rank| rank != of) {
                self.exited.push((of, stores));
                continue;
            }
            for (at, unit) in stores.take_all() {
                any = true;
                self.pass_to_device(at, unit);
            }
        }
        any
    }

    /// A round has ended: some stores and messages go on; if nothing else can, something does. True
    /// if anything was on its way.
    pub(crate) fn round(&mut self, moved: bool) -> bool {
        let buffers = self.devices.iter().chain(self.exited.iter().map(|(_, stores)| stores));
        let any = !self.flights.is_empty() || buffers.into_iter().any(|one| !one.is_empty());
        self.drain_some();
        self.deliver_some();
        if any && !moved {
            self.push_on();
        }
        any
    }

    fn push_on(&mut self) {
        self.deliver_one();
        self.flush_exited(None);
        for rank in 0..self.devices.len() {
            self.flush_device(rank as u32);
        }
    }

    /// A store leaves its CTA: its device sees it.
    pub(crate) fn pass_to_device(&mut self, address: u64, unit: Unit) {
        let rank = unit.writer.rank as usize;
        if let Some(races) = &mut self.races {
            races.pass(address, u64::from(unit.len), &unit.writer);
        }
        if self.devices.is_empty() {
            return self.commit(address, unit, true);
        }
        let old = self.device_view(unit.writer.rank, address, unit.host, usize::from(unit.len));
        self.now += 1;
        let change = Change::by(&unit, old, self.now, true);
        self.history.record(address, change);
        for (at, displaced) in self.devices[rank].put(address, unit) {
            self.commit(at, displaced, false);
        }
    }

    /// A store leaves its device: all see it.
    pub(crate) fn commit(&mut self, address: u64, unit: Unit, on_device: bool) {
        let len = usize::from(unit.len);
        let mut old = [0; 16];
        self.now += 1;
        // SAFETY: the address was checked when the store was issued.
        unsafe { std::ptr::copy_nonoverlapping(unit.host, old.as_mut_ptr(), len) };
        let mut change = Change::by(&unit, old, self.now, on_device);
        for (rank, device) in self.devices.iter().enumerate() {
            change.hidden |= u128::from(device.touches(address, len as u64)) << rank;
        }
        self.history.record(address, change);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(unit.bytes.as_ptr(), unit.host, len) };
    }

    /// What a device sees of up to 16 bytes.
    pub(crate) fn device_view(
        &self,
        rank: u32,
        address: u64,
        host: *const u8,
        len: usize,
    ) -> [u8; 16] {
        let mut bytes = [0; 16];
        // SAFETY: the caller has checked the address.
        unsafe { std::ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), len) };
        if let Some(device) = self.devices.get(rank as usize) {
            device.overlay(address, &mut bytes[..len]);
        }
        bytes
    }

    /// All see what the device has stored at a range.
    pub(crate) fn flush_range(&mut self, rank: u32, address: u64, len: u64) {
        if let Some(device) = self.devices.get_mut(rank as usize) {
            for (at, unit) in device.take(address, len) {
                self.commit(at, unit, false);
            }
        }
    }

    /// All see what the device has stored.
    pub(crate) fn flush_device(&mut self, rank: u32) -> bool {
        let Some(device) = self.devices.get_mut(rank as usize) else { return false };
        let all = device.take_all();
        let any = !all.is_empty();
        for (at, unit) in all {
            self.commit(at, unit, false);
        }
        any
    }

    /// All see some of what devices have stored, by chance.
    pub(crate) fn drain_some(&mut self) {
        let Some(mut chance) = self.chance.take() else { return };
        for index in 0..self.exited.len() {
            for (at, unit) in self.exited[index].1.take_some(&mut chance) {
                self.pass_to_device(at, unit);
            }
        }
        self.exited.retain(|(_, stores)| !stores.is_empty());
        for rank in 0..self.devices.len() {
            for (at, unit) in self.devices[rank].take_some(&mut chance) {
                self.commit(at, unit, false);
            }
        }
        self.chance = Some(chance);
    }

    /// A message is about to write.
    pub(crate) fn before_arrival(
        &mut self,
        (address, host): (u64, *const u8),
        len: u64,
        writer: Writer,
    ) {
        self.arrived(address, len, writer);
        if self.chance.is_none() || len > LONGEST {
            return;
        }
        let step = if len == 8 { 8 } else { 4 };
        for at in (0..len / step * step).step_by(step as usize) {
            let mut old = [0; 16];
            let size = step as usize;
            // SAFETY: the range was checked when the message was sent.
            unsafe {
                let from = host.add(at as usize);
                std::ptr::copy_nonoverlapping(from, old.as_mut_ptr(), size);
            }
            let (time, on_device) =
                (self.now, writer.rank == crate::memory::window::rank_of(address).unwrap_or(0));
            let change = Change {
                time,
                old,
                len: step as u8,
                writer,
                on_device,
                hidden: 0,
                by_network: true,
            };
            self.history.record(address + at, change);
        }
    }

    /// A change that no buffer held: by a bulk copy or a message.
    pub(crate) fn arrived(&mut self, address: u64, len: u64, writer: Writer) {
        self.now += 1;
        self.history.forget(address, len);
        if len <= 16 {
            self.wrote(address, writer);
        }
    }

    /// Remembers who wrote where others may wait.
    pub(crate) fn wrote(&mut self, address: u64, writer: Writer) {
        if self.writers.len() >= WRITERS {
            self.writers.clear();
        }
        self.writers.insert(address, writer);
    }

    /// Who wrote last at an address, as far as it is known.
    pub(crate) fn last_writer(&self, address: u64) -> Option<Writer> {
        self.writers.get(&address).copied()
    }

    /// An old value of a location that a reader may still see, and when it came to be; none for
    /// what is there now. `floors` are the times before which nothing is read that the own device,
    /// or another, has changed since.
    pub(crate) fn past(
        &mut self,
        reader: &Writer,
        address: u64,
        len: u8,
        (own, others, seen): (u64, u64, u64),
        one_in: u32,
    ) -> Option<([u8; 16], u64)> {
        let list = self.history.of(address, len)?;
        let chance = self.chance.as_mut()?;
        let mut found = None;
        for change in list.iter().rev().filter(|change| change.is_seen_by(reader.rank)) {
            let floor = if change.writer.rank == reader.rank { own } else { others };
            if change.time <= floor.max(seen) || change.writer.same_cta(reader) {
                break;
            }
            if !chance.one_in(one_in) {
                break;
            }
            found = Some((change.old, change.time - 1));
        }
        found
    }

    /// A store to a range that the reader may miss: another device alone sees it, or it came to be
    /// seen after what the reader has acquired.
    pub(crate) fn unordered(
        &self,
        reader: &Writer,
        address: u64,
        len: u64,
        (own, others): (u64, u64),
    ) -> Option<Writer> {
        let devices = (0u32..).zip(&self.devices);
        let mut others_see = devices.filter(|&(rank, _)| rank != reader.rank);
        let held = others_see.find_map(|(_, device)| device.writer(address, len));
        held.or_else(|| {
            let near = self.history.within(address.saturating_sub(15), len + 15);
            let near = near.flat_map(|(at, list)| list.iter().rev().map(move |one| (at, one)));
            let late = |change: &Change| {
                let is_own = change.writer.rank == reader.rank;
                change.time > if is_own { own } else { others }
            };
            near.filter(|&(at, one)| at + u64::from(one.len) > address && late(one))
                .find(|(_, one)| one.is_seen_by(reader.rank) && !one.writer.same_cta(reader))
                .map(|(_, one)| one.writer)
        })
    }

    /// The oldest value that is known of a location since `began` (`ld.global.nc`).
    pub(crate) fn oldest(&self, address: u64, len: u8, began: u64) -> Option<[u8; 16]> {
        let list = self.history.of(address, len)?;
        list.iter().find(|change| change.time > began).map(|change| change.old)
    }

    /// Whether anything of the past is kept.
    pub(crate) fn has_past(&self) -> bool {
        !self.history.is_empty()
    }

    /// A fence to the asynchronous proxy by a CTA that has acquired all up to `floor`.
    pub(crate) fn proxy_fence(&mut self, by: &Writer, floor: u64) {
        self.own_fences.insert((by.rank, by.launch, by.cta), self.now);
        if self.fences.last().is_none_or(|last| floor > last.1) {
            if self.fences.len() >= FENCES {
                self.covered = self.fences[FENCES / 2 - 1].1;
                self.fences.drain(..FENCES / 2);
            }
            self.fences.push((self.now, floor));
        }
    }

    /// Bytes of device memory as the asynchronous proxy may see them: without stores that no fence
    /// has ordered before the read by `reader`, who has acquired all up to `floor`.
    pub(crate) fn proxy_view(
        &mut self,
        reader: &Writer,
        address: u64,
        bytes: &mut [u8],
        floor: u64,
    ) {
        if self.history.is_empty() || !self.chance.as_mut().is_some_and(|c| c.one_in(2)) {
            return;
        }
        let after = self.fences.partition_point(|fence| fence.0 <= floor);
        let covered = after.checked_sub(1).map_or(self.covered, |at| self.fences[at].1);
        let fence_of = |one: &Writer| self.own_fences.get(&(one.rank, one.launch, one.cta));
        for (at, list) in self.history.within(address, bytes.len() as u64) {
            for change in list.iter().rev() {
                let writer = &change.writer;
                let fenced = fence_of(writer).is_some_and(|&time| change.time <= time);
                let ended = self.running.get(writer.rank as usize) != Some(&writer.launch);
                if fenced
                    || ended
                    || change.by_network
                    || change.time <= covered
                    || !change.is_seen_by(reader.rank)
                {
                    break;
                }
                let from = (at - address) as usize;
                let len = usize::from(change.len).min(bytes.len() - from);
                bytes[from..from + len].copy_from_slice(&change.old[..len]);
            }
        }
    }
}
