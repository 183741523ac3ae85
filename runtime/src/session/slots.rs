//! Which cache rows are free.

use std::collections::BTreeMap;

/// Consecutive rows, given to sequences and taken back.
pub(super) struct Slots {
    total: u64,
    /// Start to length of each free run; runs never touch.
    free: BTreeMap<u64, u64>,
}

impl Slots {
    pub(super) fn new(total: u64) -> Self {
        Self { total, free: BTreeMap::from_iter((total > 0).then_some((0, total))) }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn free(&self) -> u64 {
        self.free.values().sum()
    }

    /// The first row of the first free run that is long enough.
    pub(super) fn take(&mut self, rows: u64) -> Option<u64> {
        if rows == 0 {
            return Some(0);
        }
        let (start, length) = self.free.iter().map(|(&s, &l)| (s, l)).find(|r| r.1 >= rows)?;
        self.free.remove(&start);
        if length > rows {
            self.free.insert(start + rows, length - rows);
        }
        Some(start)
    }

    /// Returns rows that were taken.
    pub(super) fn give(&mut self, start: u64, rows: u64) {
        if rows == 0 {
            return;
        }
        let (mut start, mut rows) = (start, rows);
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
        {
            self.free.remove(&before);
            (start, rows) = (before, rows + length);
        }
        if let Some(after) = self.free.remove(&(start + rows)) {
            rows += after;
        }
        self.free.insert(start, rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_come_back_join_their_neighbours() {
        let mut slots = Slots::new(10);
        let (a, b, c) = (slots.take(3), slots.take(3), slots.take(4));
        assert_eq!((a, b, c, slots.take(1)), (Some(0), Some(3), Some(6), None));
        slots.give(0, 3);
        slots.give(6, 4);
        assert_eq!((slots.free(), slots.take(5)), (7, None));
        slots.give(3, 3);
        assert_eq!(slots.take(10), Some(0));
    }
}
