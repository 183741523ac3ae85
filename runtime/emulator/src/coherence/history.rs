//! What locations of device memory held before.

use std::collections::{BTreeMap, VecDeque};

use super::buffer::{Unit, Writer};

/// Old values that are kept per location.
const DEPTH: usize = 4;
/// Locations whose past is kept; beyond it all is forgotten, so that loads give what is there.
const LOCATIONS: usize = 1 << 16;

/// A change of a location.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    /// When it came to be seen.
    pub(crate) time: u64,
    /// The bytes before.
    pub(crate) old: [u8; 16],
    pub(crate) len: u8,
    pub(crate) writer: Writer,
    /// Seen by the writer's device alone; else by all others.
    pub(crate) on_device: bool,
    /// Ranks that did not see it, because a store of their own hid it.
    pub(crate) hidden: u128,
    /// It came over the network, not from threads.
    pub(crate) by_network: bool,
}

/// The latest changes of each location, oldest first. Locations do not overlap: a change of other
/// bytes than before ends what is known of those.
#[derive(Debug, Default)]
pub(crate) struct History {
    changes: BTreeMap<u64, VecDeque<Change>>,
}

impl History {
    pub(crate) fn record(&mut self, address: u64, change: Change) {
        if self.changes.len() >= LOCATIONS {
            self.changes.clear();
        }
        let end = address + u64::from(change.len);
        let near = self.changes.range(address.saturating_sub(15)..end);
        let crosses = |at: u64, len: u8| at + u64::from(len) > address;
        let others: Vec<u64> = near
            .filter(|&(&at, list)| {
                let len = list.back().map_or(0, |last| last.len);
                crosses(at, len) && (at, len) != (address, change.len)
            })
            .map(|(&at, _)| at)
            .collect();
        for at in others {
            self.changes.remove(&at);
        }
        let list = self.changes.entry(address).or_default();
        if list.len() == DEPTH {
            list.pop_front();
        }
        list.push_back(change);
    }

    /// A change that keeps no old value: what was there before is not read again.
    pub(crate) fn forget(&mut self, address: u64, len: u64) {
        if self.changes.is_empty() {
            return;
        }
        let first = address.saturating_sub(15);
        let near = self.changes.range(first..address + len);
        let found: Vec<u64> = near.map(|(&at, _)| at).collect();
        for at in found {
            self.changes.remove(&at);
        }
    }

    /// Changes of exactly these bytes, oldest first.
    pub(crate) fn of(&self, address: u64, len: u8) -> Option<&VecDeque<Change>> {
        let list = self.changes.get(&address)?;
        list.iter().all(|change| change.len == len).then_some(list)
    }

    /// All changes of locations that begin in a range.
    pub(crate) fn within(
        &self,
        address: u64,
        len: u64,
    ) -> impl Iterator<Item = (u64, &VecDeque<Change>)> {
        self.changes.range(address..address + len).map(|(&at, list)| (at, list))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Change {
    /// The change that a unit makes of what the host holds.
    pub(crate) fn by(unit: &Unit, old: [u8; 16], time: u64, on_device: bool) -> Change {
        Change {
            time,
            old,
            len: unit.len,
            writer: unit.writer,
            on_device,
            hidden: 0,
            by_network: false,
        }
    }

    /// Whether a reader on `rank` saw the change when it was made.
    pub(crate) fn is_seen_by(&self, rank: u32) -> bool {
        (self.writer.rank == rank) == self.on_device && self.hidden >> (rank & 127) & 1 == 0
    }
}
