//! Where CTAs run: places on the SMs of a device.

use crate::schedule::Chance;

/// Free places for CTAs of one launch on each SM.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Vec<u32>,
    left: u64,
}

impl Slots {
    /// So many SMs with so many places each.
    pub(crate) fn new(sm_count: u32, per_sm: u32) -> Slots {
        let free = vec![per_sm; sm_count as usize];
        Slots { free, left: u64::from(sm_count) * u64::from(per_sm) }
    }

    /// Places that are free.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Takes a place: on the emptiest SM, of equals the one with the lowest number; by chance on
    /// any SM that has one. None is free where this gives 0 although the SM is full.
    pub(crate) fn take(&mut self, chance: Option<&mut Chance>) -> u32 {
        let open = |&(_, &free): &(usize, &u32)| free > 0;
        let found = match chance {
            Some(chance) => {
                let count = self.free.iter().filter(|&&free| free > 0).count();
                let nth = chance.below(count.max(1) as u32) as usize;
                self.free.iter().enumerate().filter(open).nth(nth)
            }
            None => self.free.iter().enumerate().rev().max_by_key(|&(_, &free)| free),
        };
        let sm = found.map_or(0, |(sm, _)| sm);
        self.free[sm] = self.free[sm].saturating_sub(1);
        self.left = self.left.saturating_sub(1);
        sm as u32
    }

    /// Gives a place back.
    pub(crate) fn give(&mut self, sm: u32) {
        self.free[sm as usize] += 1;
        self.left += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Schedule, Stream};

    #[test]
    fn places_fill_evenly_and_by_chance_in_any_order() {
        let mut slots = Slots::new(3, 2);
        let order: Vec<u32> = (0..6).map(|_| slots.take(None)).collect();
        assert_eq!((order.as_slice(), slots.left()), ([0, 1, 2, 0, 1, 2].as_slice(), 0));
        slots.give(1);
        assert_eq!((slots.left(), slots.take(None)), (1, 1));
        let mut chance = Chance::new(Schedule::Seeded(1), 1, Stream::Grid).unwrap();
        let mut slots = Slots::new(4, 2);
        let mut order: Vec<u32> = (0..8).map(|_| slots.take(Some(&mut chance))).collect();
        assert_ne!(order, [0, 1, 2, 3, 0, 1, 2, 3]);
        order.sort_unstable();
        assert_eq!(order, [0, 0, 1, 1, 2, 2, 3, 3]);
    }
}
