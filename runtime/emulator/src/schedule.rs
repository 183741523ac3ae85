//! What the hardware leaves open, and who decides it: nobody, or a generator with a seed.
//!
//! Every CTA, every cluster and the grid draw from streams of their own, so that the numbers that
//! one of them sees do not depend on the host thread it runs on.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The order in which things happen that the PTX ISA does not order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Warps and CTAs take turns in the order of their numbers, asynchronous operations are done
    /// when they are issued, `elect.sync` elects the lowest lane: the fastest, and the same order
    /// for every launch.
    #[default]
    InOrder,
    /// One of many executions that the ISA allows, chosen by the seed: the order and length of
    /// turns, when `mbarrier.try_wait` gives up, which lane is elected. The same seed on the same
    /// device gives the same execution, whatever the number of host threads. Asynchronous
    /// operations are done when they are issued here too.
    Seeded(u64),
}

/// Who draws: each has a stream of numbers of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    /// The launch as a whole.
    Grid,
    /// A group of devices; its runs are counted, not its launches.
    Group,
    /// Memory of devices that run together, counted likewise.
    Memory,
    /// A cluster, by its number in the grid.
    Cluster(u64),
    /// A CTA, by its number in the grid.
    Cta(u64),
}

/// A stream of random numbers.
#[derive(Debug)]
pub(crate) struct Chance {
    numbers: ChaCha8Rng,
    /// An operation in flight is done at the end of one turn in so many.
    patience: u32,
}

/// Turns that an operation stays in flight, on average: each CTA has one of them, so that both
/// extremes occur, everything at once and everything as late as possible.
const PATIENCE: [u32; 4] = [1, 4, 32, 512];

impl Chance {
    /// The stream for one part of launch number `launch`; none where nothing is random.
    pub(crate) fn new(schedule: Schedule, launch: u64, stream: Stream) -> Option<Box<Chance>> {
        let Schedule::Seeded(seed) = schedule else {
            return None;
        };
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&launch.to_le_bytes());
        let mut numbers = ChaCha8Rng::from_seed(key);
        numbers.set_stream(match stream {
            Stream::Grid => 0,
            Stream::Group => 3,
            Stream::Memory => 7,
            Stream::Cluster(index) => index << 2 | 1,
            Stream::Cta(index) => index << 2 | 2,
        });
        let mut chance = Box::new(Chance { numbers, patience: 1 });
        chance.patience = PATIENCE[chance.below(PATIENCE.len() as u32) as usize];
        Some(chance)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.numbers.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below_wide(&mut self, bound: u64) -> u64 {
        ((u128::from(self.numbers.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True once in `count` times.
    pub(crate) fn one_in(&mut self, count: u32) -> bool {
        count == 1 || self.below(count) == 0
    }

    /// From 1 to 2 to the `bits`, the short ones as likely as the long ones.
    pub(crate) fn length(&mut self, bits: u32) -> u32 {
        let most = 1 << self.below(bits + 1);
        1 + self.below(most)
    }

    /// Whether an operation in flight is done now.
    pub(crate) fn is_due(&mut self) -> bool {
        self.one_in(self.patience)
    }

    /// Brings `list` into some order.
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for left in (2..=list.len()).rev() {
            list.swap(left - 1, self.below(left as u32) as usize);
        }
    }

    /// A salt for [`elected`].
    pub(crate) fn salt(&mut self) -> u64 {
        self.numbers.next_u64()
    }
}

/// The lane that is elected among `members`: always the same for the same members (PTX ISA
/// 9.7.13.10, "elect.sync"), else anyone. Without a salt the lowest.
pub(crate) fn elected(members: u32, salt: Option<u64>) -> u32 {
    let Some(salt) = salt else {
        return members.trailing_zeros();
    };
    let mixed = (u64::from(members) ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let nth = (mixed >> 33) as u32 % members.count_ones().max(1);
    crate::exec::lanes_of(members).nth(nth as usize).unwrap_or(0)
}

/// Numbers from 0 in some order, each once, without a list of all of them.
#[derive(Debug, Default)]
pub(crate) struct Deck {
    drawn: u64,
    /// What now lies where another number was drawn (the shuffle of Fisher and Yates).
    moved: std::collections::BTreeMap<u64, u64>,
}

impl Deck {
    /// The next of `count` numbers; in order without chance.
    pub(crate) fn draw(&mut self, count: u64, chance: Option<&mut Chance>) -> Option<u64> {
        let left = count.checked_sub(self.drawn).filter(|&left| left > 0)?;
        let first = self.drawn;
        self.drawn += 1;
        let Some(chance) = chance else {
            return Some(first);
        };
        let at = first + chance.below_wide(left);
        let lowest = self.moved.remove(&first).unwrap_or(first);
        if at == first {
            return Some(lowest);
        }
        Some(self.moved.insert(at, lowest).unwrap_or(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chance(seed: u64, launch: u64, stream: Stream) -> Box<Chance> {
        Chance::new(Schedule::Seeded(seed), launch, stream).unwrap()
    }

    #[test]
    fn a_seed_fixes_the_numbers_and_streams_differ() {
        let first = |mut chance: Box<Chance>| [chance.salt(), chance.salt()];
        let one = first(chance(7, 1, Stream::Cta(3)));
        assert_eq!(one, first(chance(7, 1, Stream::Cta(3))));
        for other in [
            chance(8, 1, Stream::Cta(3)),
            chance(7, 2, Stream::Cta(3)),
            chance(7, 1, Stream::Cta(4)),
            chance(7, 1, Stream::Cluster(3)),
            chance(7, 1, Stream::Grid),
        ] {
            assert_ne!(one, first(other));
        }
        assert!(Chance::new(Schedule::InOrder, 1, Stream::Grid).is_none());
    }

    #[test]
    fn a_deck_deals_every_number_once() {
        let mut chance = chance(3, 1, Stream::Grid);
        let mut deck = Deck::default();
        let mut dealt: Vec<u64> = std::iter::from_fn(|| deck.draw(50, Some(&mut chance))).collect();
        assert_ne!(dealt[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
        dealt.sort_unstable();
        assert_eq!(dealt, (0..50).collect::<Vec<u64>>());
        let mut deck = Deck::default();
        assert_eq!(
            [deck.draw(2, None), deck.draw(2, None), deck.draw(2, None)],
            [Some(0), Some(1), None]
        );
    }

    #[test]
    fn lengths_and_elections_stay_in_range() {
        let mut chance = chance(0, 1, Stream::Grid);
        let lengths: Vec<u32> = (0..2000).map(|_| chance.length(9)).collect();
        assert!(lengths.iter().all(|&length| (1..=512).contains(&length)));
        assert!(lengths.iter().filter(|&&length| length <= 16).count() > 800);
        assert!(lengths.iter().any(|&length| length > 256));
        let mut lanes = std::collections::BTreeSet::new();
        for salt in 0..64 {
            let lane = elected(0xf0f0, Some(salt));
            assert!(0xf0f0 >> lane & 1 != 0 && lane == elected(0xf0f0, Some(salt)));
            lanes.insert(lane);
        }
        assert!(lanes.len() > 4 && elected(0xf0f0, None) == 4);
    }
}
