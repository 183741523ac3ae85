//! Accesses that nothing orders, as reports say them.

use std::fmt;

use crate::coherence::{Found, Writer};
use crate::exec::Launch;
use crate::memory::window::{is_global, rank_of};

/// A load that does not follow a store it may have seen, or missed (PTX ISA 8.7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Race {
    /// Who loads.
    pub reader: Access,
    /// Who has stored.
    pub writer: Access,
    /// The address; below 2 to the 32 one of shared memory.
    pub address: u64,
    /// The rank whose memory it is.
    pub rank: Option<u32>,
    /// The allocation that holds it, and the offset there.
    pub allocation: Option<(String, u64)>,
    /// The load is one of the asynchronous proxy, and a fence between proxies is missing.
    pub by_proxy: bool,
}

/// One of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// The rank.
    pub rank: u32,
    /// The launch's label.
    pub label: String,
    /// The CTA's number in the grid.
    pub cta: u64,
    /// The warp of the CTA.
    pub warp: u32,
    /// The line of the PTX text, from 1. For a copy that is under way, the instruction at which
    /// it was done.
    pub line: u32,
}

impl Access {
    fn of(writer: &Writer, launches: &[Vec<Launch<'_>>]) -> Access {
        let queue = launches.get(writer.rank as usize);
        let launch = queue.and_then(|queue| queue.iter().find(|one| one.grid_id == writer.launch));
        let function = launch.map(|launch| &launch.program.functions[writer.function as usize]);
        let line = function.and_then(|function| function.lines.get(writer.pc as usize));
        let label = launch.and_then(|launch| launch.member).map_or("", |member| member.label);
        Access {
            rank: writer.rank,
            label: label.to_string(),
            cta: writer.cta,
            warp: writer.warp,
            line: line.copied().unwrap_or(0),
        }
    }
}

impl Race {
    pub(super) fn of(found: &Found, launches: &[Vec<Launch<'_>>]) -> Race {
        let owner = is_global(found.address).then(|| rank_of(found.address)).flatten();
        let memory = owner.and_then(|rank| launches.get(rank as usize)?.first());
        let allocation = memory.and_then(|launch| launch.memory.name(found.address));
        Race {
            reader: Access::of(&found.reader, launches),
            writer: Access::of(&found.writer, launches),
            address: found.address,
            rank: owner,
            allocation: allocation.map(|(name, offset)| (name.to_string(), offset)),
            by_proxy: found.by_proxy,
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Access { rank, label, cta, warp, line } = self;
        write!(out, "rank {rank} `{label}`, CTA {cta}, warp {warp}, PTX line {line}")
    }
}

impl fmt::Display for Race {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.allocation {
            Some((name, offset)) => write!(out, "byte {offset} of `{name}`")?,
            None => write!(out, "0x{:x} of shared memory", self.address)?,
        }
        if let Some(rank) = self.rank {
            write!(out, " of rank {rank}")?;
        }
        let reader = if self.by_proxy { "the asynchronous proxy of " } else { "" };
        let missing = if self.by_proxy { "without a fence" } else { "which nothing orders" };
        write!(out, " is read by {reader}{}, {missing} behind the store of ", self.reader)?;
        write!(out, "{}", self.writer)
    }
}
