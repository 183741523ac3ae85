//! Accesses that nothing orders (PTX ISA 8.7.1, "Conflict and Data-races"): a weak load of what
//! another CTA has stored, where no release and acquire of a scope that holds both lies between.
//!
//! A load is a race where the machine could have given it an older value: the store is still in a
//! buffer that the reader does not see, or it has left it after what the reader acquired last. So
//! no correct program has any, and most that are not correct have some under most schedules, also
//! where they read the right value. Not seen: stores that overtake a load, and threads of the same
//! CTA, but for those that the asynchronous proxy reads without a fence.

use std::collections::BTreeMap;

use super::buffer::Writer;
use super::machine::Machine;

/// Bytes that stores are remembered by.
const GRAIN: u64 = 4;
/// Races that are kept, at most; two of the same instructions count as one.
const MOST: usize = 64;

/// A load and the store that it does not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) reader: Writer,
    pub(crate) writer: Writer,
    /// Of device memory, or below 2 to the 32 of shared memory.
    pub(crate) address: u64,
    /// The asynchronous proxy reads.
    pub(crate) by_proxy: bool,
}

/// What is looked for, and what was found.
#[derive(Debug, Default)]
pub(crate) struct Races {
    /// Stores that their CTA alone sees, by grain.
    issued: BTreeMap<u64, Writer>,
    pub(crate) found: Vec<Found>,
}

fn grains(address: u64, len: u64) -> impl Iterator<Item = u64> {
    address / GRAIN..=(address + len.max(1) - 1) / GRAIN
}

impl Races {
    /// A store is issued.
    pub(crate) fn issue(&mut self, address: u64, len: u64, writer: Writer) {
        self.issued.extend(grains(address, len).map(|grain| (grain, writer)));
    }

    /// A store leaves its CTA.
    pub(crate) fn pass(&mut self, address: u64, len: u64, writer: &Writer) {
        for grain in grains(address, len) {
            if self.issued.get(&grain) == Some(writer) {
                self.issued.remove(&grain);
            }
        }
    }

    /// Keeps a race, unless the same instructions are known for one.
    pub(crate) fn add(&mut self, race: Found) {
        let place = |one: &Writer| (one.rank, one.launch, one.function, one.pc);
        let places = |race: &Found| (place(&race.reader), place(&race.writer), race.by_proxy);
        if self.found.len() < MOST && !self.found.iter().any(|one| places(one) == places(&race)) {
            self.found.push(race);
        }
    }
}

impl Machine {
    /// A weak load is about to read; `floors` are the times up to which the reader has acquired
    /// what its own device, or another, has stored.
    pub(crate) fn look(&mut self, reader: &Writer, address: u64, len: u64, floors: (u64, u64)) {
        let Some(mut races) = self.races.take() else { return };
        let first = |grain: u64| races.issued.get(&grain).copied();
        let in_cta = grains(address, len).filter_map(first).find(|one| !one.same_cta(reader));
        if let Some(writer) = in_cta.or_else(|| self.unordered(reader, address, len, floors)) {
            races.add(Found { reader: *reader, writer, address, by_proxy: false });
        }
        self.races = Some(races);
    }
}
