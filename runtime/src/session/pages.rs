//! Which pages of the caches are free.

use moec_ir::plan::PAGE_ROWS;
use std::collections::BTreeSet;

/// Pages of [`PAGE_ROWS`] rows, given to sequences and taken back. A sequence's pages lie anywhere,
/// so that what is free can always be used.
pub(super) struct Pages {
    total: u64,
    free: BTreeSet<u64>,
}

impl Pages {
    /// As many as hold that many rows.
    pub(super) fn with_rows(rows: u64) -> Self {
        let total = Self::of_rows(rows);
        Self { total, free: (0..total).collect() }
    }

    /// How many pages a sequence of so many rows takes.
    pub(super) fn of_rows(rows: u64) -> u64 {
        rows.div_ceil(PAGE_ROWS)
    }

    /// Rows of all pages.
    pub(super) fn rows(&self) -> u64 {
        self.total * PAGE_ROWS
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn free(&self) -> u64 {
        self.free.len() as u64
    }

    /// The first free pages, for so many rows; none where there are too few.
    pub(super) fn take(&mut self, rows: u64) -> Option<Vec<u64>> {
        let pages = Self::of_rows(rows);
        if pages > self.free() {
            return None;
        }
        Some((0..pages).filter_map(|_| self.free.pop_first()).collect())
    }

    /// Returns pages that were taken.
    pub(super) fn give(&mut self, pages: Vec<u64>) {
        self.free.extend(pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_come_back_are_given_again_wherever_they_lie() {
        let mut pages = Pages::with_rows(4 * PAGE_ROWS - 1);
        assert_eq!((pages.total(), pages.rows()), (4, 4 * PAGE_ROWS));
        let a = pages.take(1).unwrap();
        let b = pages.take(PAGE_ROWS + 1).unwrap();
        let c = pages.take(PAGE_ROWS).unwrap();
        assert_eq!((&a[..], &b[..], &c[..]), (&[0][..], &[1, 2][..], &[3][..]));
        assert_eq!((pages.take(1), pages.take(0)), (None, Some(vec![])));
        pages.give(c);
        pages.give(a);
        assert_eq!((pages.free(), pages.take(3 * PAGE_ROWS)), (2, None));
        assert_eq!(pages.take(2 * PAGE_ROWS), Some(vec![0, 3]));
    }
}
