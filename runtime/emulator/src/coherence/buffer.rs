//! Stores on their way: at most one per location and buffer.

use std::collections::BTreeMap;

use crate::schedule::Chance;

/// Who wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) rank: u32,
    /// The launch's number on its device.
    pub(crate) launch: u64,
    /// The CTA's number in the grid.
    pub(crate) cta: u64,
    pub(crate) warp: u32,
    pub(crate) function: u32,
    pub(crate) pc: u32,
}

impl Writer {
    /// Whether both are of one CTA.
    pub(crate) fn same_cta(&self, other: &Writer) -> bool {
        (self.rank, self.launch, self.cta) == (other.rank, other.launch, other.cta)
    }
}

/// One store of up to 16 bytes, all of which become visible at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// Where the host holds the first byte.
    pub(crate) host: *mut u8,
    pub(crate) len: u8,
    pub(crate) bytes: [u8; 16],
    pub(crate) writer: Writer,
}

// SAFETY: the pointer leads into device memory, which outlives the run; one host thread at a time
// uses it.
unsafe impl Send for Unit {}
// SAFETY: as above.
unsafe impl Sync for Unit {}

/// Longest unit.
const MOST: u64 = 16;

/// Stores that some do not see yet, by address. Units do not overlap.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    units: BTreeMap<u64, Unit>,
}

impl Buffer {
    pub(crate) fn clear(&mut self) {
        self.units.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    fn overlapping(&self, address: u64, len: u64) -> impl Iterator<Item = (u64, &Unit)> {
        let first = address.saturating_sub(MOST - 1);
        let near = self.units.range(first..address + len).map(|(&at, unit)| (at, unit));
        near.filter(move |(at, unit)| at + u64::from(unit.len) > address)
    }

    /// Whether some byte of the range is here.
    pub(crate) fn touches(&self, address: u64, len: u64) -> bool {
        !self.units.is_empty() && self.overlapping(address, len).next().is_some()
    }

    /// Who wrote some byte of the range, if any is here.
    pub(crate) fn writer(&self, address: u64, len: u64) -> Option<Writer> {
        if self.units.is_empty() {
            return None;
        }
        self.overlapping(address, len).next().map(|(_, unit)| unit.writer)
    }

    /// Takes out what overlaps the range, in order of address.
    pub(crate) fn take(&mut self, address: u64, len: u64) -> Vec<(u64, Unit)> {
        if self.units.is_empty() {
            return Vec::new();
        }
        let found: Vec<u64> = self.overlapping(address, len).map(|(at, _)| at).collect();
        found.into_iter().filter_map(|at| self.units.remove_entry(&at)).collect()
    }

    /// Adds a store. Those that it overlaps without covering exactly the same bytes come back, and
    /// must go on before it.
    pub(crate) fn put(&mut self, address: u64, unit: Unit) -> Vec<(u64, Unit)> {
        if let Some(same) = self.units.get_mut(&address)
            && same.len == unit.len
        {
            *same = unit;
            return Vec::new();
        }
        let displaced = self.take(address, u64::from(unit.len));
        self.units.insert(address, unit);
        displaced
    }

    /// Puts what is here over the bytes that memory holds at `address`.
    pub(crate) fn overlay(&self, address: u64, bytes: &mut [u8]) {
        if self.units.is_empty() {
            return;
        }
        for (at, unit) in self.overlapping(address, bytes.len() as u64) {
            for (index, &byte) in unit.bytes[..usize::from(unit.len)].iter().enumerate() {
                let to = (at + index as u64).wrapping_sub(address);
                if let Some(place) = bytes.get_mut(usize::try_from(to).unwrap_or(usize::MAX)) {
                    *place = byte;
                }
            }
        }
    }

    /// Takes everything out.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, Unit)> {
        std::mem::take(&mut self.units).into_iter().collect()
    }

    /// Takes out some, each by chance, in any order.
    pub(crate) fn take_some(&mut self, chance: &mut Chance) -> Vec<(u64, Unit)> {
        if self.units.is_empty() {
            return Vec::new();
        }
        let due: Vec<u64> = self.units.keys().copied().filter(|_| chance.is_due()).collect();
        let mut taken: Vec<_> =
            due.into_iter().filter_map(|at| self.units.remove_entry(&at)).collect();
        chance.shuffle(&mut taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(len: u8, byte: u8) -> Unit {
        let writer = Writer { rank: 0, launch: 1, cta: 0, warp: 0, function: 0, pc: 0 };
        Unit { host: std::ptr::null_mut(), len, bytes: [byte; 16], writer }
    }

    #[test]
    fn a_store_replaces_the_same_bytes_and_displaces_others() {
        let mut buffer = Buffer::default();
        assert!(buffer.put(64, unit(4, 1)).is_empty() && buffer.put(68, unit(4, 2)).is_empty());
        assert!(buffer.put(64, unit(4, 3)).is_empty());
        let mut bytes = [0; 12];
        buffer.overlay(62, &mut bytes);
        assert_eq!(bytes, [0, 0, 3, 3, 3, 3, 2, 2, 2, 2, 0, 0]);
        let displaced = buffer.put(66, unit(4, 9));
        assert_eq!(displaced.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [64, 68]);
        assert!(buffer.touches(69, 1) && !buffer.touches(70, 1));
    }
}
