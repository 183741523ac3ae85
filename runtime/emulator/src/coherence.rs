//! Memory between threads as weak as the PTX ISA leaves it (chapter 8, "Memory Consistency Model"),
//! and what a group of devices keeps in common.
//!
//! The model is a machine: stores wait in buffers of their warp, their CTA and their device before
//! all see them, and leave them in any order but that of one location; loads may give what memory
//! held at some earlier time. What a release, an acquire or a barrier of some scope does is to
//! empty buffers up to that scope, or to forbid values from before. Everything this machine does
//! is allowed by the ISA; it does not do everything that is allowed.

mod access;
mod buffer;
mod history;
mod machine;
mod network;
mod poll;
mod proxy;
mod race;

pub(crate) use access::{Order, Scope, ordered};
pub(crate) use buffer::{Buffer, Writer};
pub(crate) use machine::Machine;
pub(crate) use network::{Flight, Piece, Signal};
pub(crate) use poll::{Polls, WatchedPlace};
pub(crate) use proxy::Shadow;
pub(crate) use race::{Found, Races};

use std::collections::BTreeMap;

/// What a warp holds of memory.
#[derive(Debug, Default)]
pub(crate) struct WarpMemory {
    /// Stores to device memory that only this warp sees.
    pub(crate) stores: Buffer,
    /// Time, on the clock of the CTA's shadow, of the last barrier passed.
    pub(crate) synced: u64,
    /// What its loops read.
    pub(crate) polls: Polls,
    /// Collective calls of the whole CTA so far.
    pub(crate) block_calls: u64,
}

impl WarpMemory {
    /// Forgets everything, for a new CTA.
    pub(crate) fn clear(&mut self) {
        self.stores.clear();
        self.polls.clear();
        (self.synced, self.block_calls) = (0, 0);
    }
}

/// What the warps of a CTA hold in common.
#[derive(Debug, Default)]
pub(crate) struct CtaMemory {
    /// Stores to device memory that only this CTA sees.
    pub(crate) stores: Buffer,
    /// When the value that was read last at a location came to be: nothing older is read again.
    pub(crate) seen: BTreeMap<u64, u64>,
    /// Bytes of shared memory that the asynchronous proxy does not see yet.
    pub(crate) shadow: Shadow,
    /// Collective calls that some warps have not come to yet.
    pub(crate) calls: BTreeMap<u64, BlockCall>,
}

/// A call that all threads of a CTA make together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockCall {
    /// The function and its arguments.
    pub(crate) what: (u32, Vec<u64>),
    /// Warps that have come.
    pub(crate) arrived: u32,
}

impl CtaMemory {
    /// Forgets everything, for a new CTA.
    pub(crate) fn clear(&mut self) {
        self.stores.clear();
        self.seen.clear();
        self.shadow.clear();
        self.calls.clear();
    }
}
