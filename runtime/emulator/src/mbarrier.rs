//! The state of an mbarrier object (PTX ISA 9.7.13.15, "mbarrier"): one 8-byte word in shared
//! memory, so that copies, overlaps and stale words show as what they are.
//!
//! A phase completes when no arrival is pending and no transaction bytes are outstanding; the
//! next phase then expects the same number of arrivals, less those that dropped.

/// Largest counts (PTX ISA: 2^20 - 1, for arrivals and transactions).
pub(crate) const MOST: u32 = (1 << 20) - 1;

/// Bits 62 and 63 of a live word; memory that was never initialised has others.
const LIVE: u64 = 0b01;

/// A decoded word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mbarrier {
    /// Arrivals of a whole phase.
    pub(crate) expected: u32,
    /// Arrivals still missing in this phase.
    pub(crate) pending: u32,
    /// Transaction bytes outstanding; below zero while bytes came before they were expected.
    pub(crate) transactions: i32,
    /// Parity of the running phase.
    pub(crate) parity: bool,
}

impl Mbarrier {
    /// A fresh object that expects `count` arrivals (`mbarrier.init`).
    pub(crate) fn new(count: u32) -> Result<Mbarrier, String> {
        if count == 0 || count > MOST {
            return Err(format!(
                "an mbarrier for {count} arrivals: between 1 and {MOST} are allowed"
            ));
        }
        Ok(Mbarrier { expected: count, pending: count, transactions: 0, parity: false })
    }

    /// The word in memory.
    pub(crate) fn encode(self) -> u64 {
        (self.transactions as u64 & 0x1f_ffff)
            | u64::from(self.pending) << 21
            | u64::from(self.expected) << 41
            | u64::from(self.parity) << 61
            | LIVE << 62
    }

    /// Reads a word.
    pub(crate) fn decode(word: u64) -> Result<Mbarrier, String> {
        if word >> 62 != LIVE {
            return Err(format!(
                "there is no mbarrier here: the memory holds 0x{word:016x}; it was not initialised, \
                 or was invalidated or overwritten"
            ));
        }
        let transactions = ((word & 0x1f_ffff) as i32) << 11 >> 11;
        Ok(Mbarrier {
            expected: (word >> 41) as u32 & MOST,
            pending: (word >> 21) as u32 & MOST,
            transactions,
            parity: word >> 61 & 1 != 0,
        })
    }

    /// Whether the phase with parity `parity` has completed: the running one has the other parity
    /// (a fresh object counts as having completed a phase of parity 1).
    pub(crate) fn has_completed(self, parity: bool) -> bool {
        self.parity != parity
    }

    /// Counts `count` arrivals.
    pub(crate) fn arrive(&mut self, count: u32) -> Result<(), String> {
        if count == 0 || count > self.pending {
            return Err(format!(
                "{count} arrivals where {} of {} are pending in this phase",
                self.pending, self.expected
            ));
        }
        self.pending -= count;
        self.complete();
        Ok(())
    }

    /// Counts `count` arrivals and expects as many less from the next phase on.
    pub(crate) fn arrive_and_drop(&mut self, count: u32) -> Result<(), String> {
        if count > self.expected {
            return Err(format!("{count} arrivals drop where {} are expected", self.expected));
        }
        self.expected -= count;
        self.arrive(count)
    }

    /// Makes one more arrival pending in this phase (`cp.async.mbarrier.arrive` without
    /// `.noinc`).
    pub(crate) fn increment_pending(&mut self) -> Result<(), String> {
        if self.pending == MOST {
            return Err(format!("more than {MOST} arrivals are pending"));
        }
        self.pending += 1;
        Ok(())
    }

    /// Expects `bytes` more (`expect_tx`).
    pub(crate) fn expect(&mut self, bytes: u32) -> Result<(), String> {
        self.transact(i64::from(bytes))
    }

    /// `bytes` have come (`complete_tx`).
    pub(crate) fn receive(&mut self, bytes: u32) -> Result<(), String> {
        self.transact(-i64::from(bytes))?;
        self.complete();
        Ok(())
    }

    fn transact(&mut self, change: i64) -> Result<(), String> {
        let sum = i64::from(self.transactions) + change;
        if sum.abs() > i64::from(MOST) {
            return Err(format!(
                "the transaction count of an mbarrier would be {sum}; it holds up to ±{MOST}"
            ));
        }
        self.transactions = sum as i32;
        Ok(())
    }

    fn complete(&mut self) {
        if self.pending == 0 && self.transactions == 0 {
            self.pending = self.expected;
            self.parity = !self.parity;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_ends_when_arrivals_and_bytes_are_complete() {
        let mut barrier = Mbarrier::new(2).unwrap();
        assert!(barrier.has_completed(true) && !barrier.has_completed(false));
        barrier.expect(128).unwrap();
        barrier.arrive(1).unwrap();
        barrier.arrive(1).unwrap();
        assert!(!barrier.has_completed(false), "128 bytes are missing");
        assert!(barrier.arrive(1).unwrap_err().contains("0 of 2"));
        barrier.receive(64).unwrap();
        barrier.receive(64).unwrap();
        assert!(barrier.has_completed(false));
        assert_eq!((barrier.pending, barrier.parity), (2, true));
    }

    #[test]
    fn bytes_may_come_before_they_are_expected() {
        let mut barrier = Mbarrier::new(1).unwrap();
        barrier.receive(256).unwrap();
        assert_eq!(barrier.transactions, -256);
        barrier.expect(256).unwrap();
        assert!(!barrier.has_completed(false));
        barrier.arrive(1).unwrap();
        assert!(barrier.has_completed(false));
    }

    #[test]
    fn words_round_trip_and_garbage_is_noticed() {
        for transactions in [0, 1, -1, MOST as i32, -(MOST as i32)] {
            for (pending, parity) in [(0, false), (7, true), (MOST, false)] {
                let barrier = Mbarrier { expected: MOST, pending, transactions, parity };
                assert_eq!(Mbarrier::decode(barrier.encode()), Ok(barrier));
            }
        }
        assert!(Mbarrier::decode(0).is_err() && Mbarrier::decode(u64::MAX).is_err());
        assert!(Mbarrier::new(0).is_err() && Mbarrier::new(MOST + 1).is_err());
    }

    #[test]
    fn dropped_arrivals_are_not_expected_again() {
        let mut barrier = Mbarrier::new(3).unwrap();
        barrier.arrive_and_drop(1).unwrap();
        barrier.arrive(2).unwrap();
        assert_eq!((barrier.pending, barrier.expected, barrier.parity), (2, 2, true));
        barrier.increment_pending().unwrap();
        assert_eq!(barrier.pending, 3);
    }

    #[test]
    fn counts_do_not_overflow() {
        let mut barrier = Mbarrier::new(1).unwrap();
        barrier.expect(MOST).unwrap();
        assert!(barrier.expect(1).unwrap_err().contains("transaction count"));
        let mut barrier = Mbarrier::new(1).unwrap();
        assert!(barrier.receive(MOST + 1).is_err());
    }
}
