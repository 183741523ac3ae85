//! Who waits for what when nothing can go on.

use std::fmt;

/// Waiters that a report holds, at most.
pub(crate) const MOST: usize = 256;
/// Waiters that the text of a report shows, at most.
const SHOWN: usize = 32;
/// Places of memory that the text shows for one waiter, at most.
const PLACES: usize = 4;

/// A launch, or a run of a group, that gets no further.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hang {
    /// Threads run in loops that change nothing; else all wait.
    pub is_livelock: bool,
    /// Who waits, by rank, CTA and warp; at most 256.
    pub waiters: Vec<Waiter>,
    /// Waiters beyond those.
    pub more: usize,
    /// Work that has not begun, and might be what the others wait for.
    pub not_begun: Vec<NotBegun>,
}

/// Threads of a warp that wait together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiter {
    /// The rank and the launch's label, in groups of devices.
    pub rank: Option<(u32, String)>,
    /// The kernel.
    pub kernel: String,
    /// The CTA's coordinates in the grid.
    pub cta: [u32; 3],
    /// The SM that it runs on.
    pub sm: u32,
    /// The warp of the CTA.
    pub warp: u32,
    /// Its lanes that wait.
    pub lanes: u32,
    /// The line of the PTX text, from 1.
    pub line: u32,
    /// The opcode at that line.
    pub instruction: String,
    /// What for.
    pub wait: WaitsFor,
}

/// What threads wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitsFor {
    /// Nothing: they run.
    Nothing,
    /// A barrier of the CTA.
    Barrier {
        /// Its number.
        id: u8,
        /// Threads that have come.
        arrived: u32,
        /// Threads that it waits for.
        expected: u32,
    },
    /// A phase of an mbarrier.
    Mbarrier {
        /// Its shared address.
        address: u32,
        /// The parity of the phase.
        parity: bool,
        /// Arrivals that are missing.
        pending: u32,
        /// Arrivals of a phase.
        expected: u32,
        /// Bytes that are missing.
        transactions: i32,
    },
    /// The barrier of the cluster.
    Cluster {
        /// Threads that have come.
        arrived: u32,
        /// Threads that it waits for.
        expected: u32,
    },
    /// The other warps of the warpgroup.
    Warpgroup {
        /// Warps of 4 that have come.
        arrived: u32,
    },
    /// Registers of the CTA's pool.
    Registers {
        /// Registers per thread that are needed.
        needed: u32,
        /// Those that are free.
        free: u32,
    },
    /// Other lanes of the warp, at the same instruction.
    Lanes(u32),
    /// Memory that a loop reads again and again.
    Memory(Vec<Polled>),
    /// What cannot be said.
    Other(String),
}

/// A place that a loop reads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Polled {
    /// The address; below 2 to the 32 one of shared memory.
    pub address: u64,
    /// Bytes that are read.
    pub bytes: u32,
    /// The value that is there.
    pub value: u128,
    /// The rank whose memory it is, in groups of devices.
    pub rank: Option<u32>,
    /// The allocation that holds it, and the offset there.
    pub allocation: Option<(String, u64)>,
    /// Who wrote there last, by an atomic, an ordered store or a message.
    pub last_writer: Option<LastWriter>,
}

/// Who wrote last.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastWriter {
    /// The rank and the launch's label, in groups of devices.
    pub rank: Option<(u32, String)>,
    /// The CTA's number in the grid.
    pub cta: u64,
    /// The warp of the CTA.
    pub warp: u32,
    /// The line of the PTX text.
    pub line: u32,
}

/// Work that has not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotBegun {
    /// The rank and the launch's label, in groups of devices.
    pub rank: Option<(u32, String)>,
    /// CTAs that have not begun.
    pub ctas: u64,
    /// The launch itself has begun: there was no room for these CTAs.
    pub is_resident: bool,
}

fn of_rank(rank: &Option<(u32, String)>) -> String {
    rank.as_ref().map_or(String::new(), |(rank, label)| format!("rank {rank} `{label}`, "))
}

impl fmt::Display for Polled {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.allocation {
            Some((name, 0)) => write!(out, "`{name}`")?,
            Some((name, offset)) => write!(out, "byte {offset} of `{name}`")?,
            None if self.address >> 32 == 0 => write!(out, "shared memory")?,
            None => write!(out, "0x{:x}", self.address)?,
        }
        if let Some(rank) = self.rank {
            write!(out, " of rank {rank}")?;
        }
        write!(out, ", which holds {}", self.value)?;
        match &self.last_writer {
            Some(LastWriter { rank, cta, warp, line }) => {
                let rank = of_rank(rank);
                write!(out, " (written last by {rank}CTA {cta}, warp {warp}, PTX line {line})")
            }
            None if self.address >> 32 == 0 => Ok(()),
            None => out.write_str(" (written by no atomic or ordered store)"),
        }
    }
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitsFor::Nothing => out.write_str("can run"),
            WaitsFor::Barrier { id, arrived, expected } => write!(
                out,
                "waits at barrier {id}, where {arrived} of {expected} threads have arrived"
            ),
            WaitsFor::Mbarrier { address, parity, pending, expected, transactions } => write!(
                out,
                "waits for the phase of parity {} of the mbarrier at shared address 0x{address:x}, \
                 which misses {pending} of {expected} arrivals and {transactions} bytes",
                u8::from(*parity)
            ),
            WaitsFor::Cluster { arrived, expected } => write!(
                out,
                "waits at the cluster's barrier, where {arrived} of {expected} threads have arrived"
            ),
            WaitsFor::Warpgroup { arrived } => write!(
                out,
                "waits for the other warps of its warpgroup, of which {arrived} of 4 have come"
            ),
            WaitsFor::Registers { needed, free } => {
                write!(out, "waits for {needed} registers per thread, {free} are free")
            }
            WaitsFor::Lanes(lanes) => write!(
                out,
                "waits for the lanes 0x{lanes:08x} of its warp to execute the same instruction"
            ),
            WaitsFor::Memory(places) => {
                out.write_str("waits for a change of ")?;
                for (index, place) in places.iter().take(PLACES).enumerate() {
                    write!(out, "{}{place}", if index == 0 { "" } else { "; or of " })?;
                }
                if places.len() > PLACES {
                    write!(out, "; or of {} others", places.len() - PLACES)?;
                }
                Ok(())
            }
            WaitsFor::Other(text) => out.write_str(text),
        }
    }
}

impl fmt::Display for Waiter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.cta;
        let rank = of_rank(&self.rank);
        let sm = if rank.is_empty() { String::new() } else { format!(" on SM {}", self.sm) };
        write!(
            out,
            "{rank}CTA ({x}, {y}, {z}){sm}, warp {}, lanes 0x{:08x}, PTX line {}: `{}` {}",
            self.warp, self.lanes, self.line, self.instruction, self.wait
        )
    }
}

impl fmt::Display for NotBegun {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rank = of_rank(&self.rank);
        if self.is_resident {
            return write!(out, "{rank}{} CTAs have found no room on the device yet", self.ctas);
        }
        write!(out, "{rank}{} CTAs: the launch before it has not ended", self.ctas)
    }
}

impl fmt::Display for Hang {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self.is_livelock {
            true => "threads run in a loop that changes nothing",
            false => "all threads wait",
        })?;
        for waiter in self.waiters.iter().take(SHOWN) {
            write!(out, "\n  {waiter}")?;
        }
        let rest = self.waiters.len().saturating_sub(SHOWN) + self.more;
        if rest > 0 {
            write!(out, "\n  … and {rest} more")?;
        }
        for one in self.not_begun.iter().take(SHOWN) {
            write!(out, "\n  not begun: {one}")?;
        }
        Ok(())
    }
}
