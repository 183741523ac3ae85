//! What a launch moves between its SMs and memory, in sectors.

use std::collections::HashSet;

use crate::memory::window::is_global;

/// Bytes that move at once between SMs, L2 and memory (CUDA C++ Best Practices Guide, "Coalesced
/// Access to Global Memory": 32-byte transactions).
const SECTOR: u64 = 32;

/// Sectors that instructions of threads touched; bulk copies are counted apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    /// Sectors of each warp instruction, added up: what goes through L2 where no L1 helps.
    pub(crate) requested: u64,
    loaded: HashSet<u64>,
    stored: HashSet<u64>,
}

impl Traffic {
    /// A warp's access: each executing lane's address and bytes.
    pub(crate) fn touch(&mut self, accesses: impl Iterator<Item = (u64, u32)>, writes: bool) {
        let mut sectors: Vec<u64> = Vec::with_capacity(64);
        for (first, bytes) in accesses {
            if is_global(first) {
                sectors.extend(first / SECTOR..=(first + u64::from(bytes.max(1)) - 1) / SECTOR);
            }
        }
        sectors.sort_unstable();
        sectors.dedup();
        self.requested += sectors.len() as u64;
        if writes { &mut self.stored } else { &mut self.loaded }.extend(sectors);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.requested += other.requested;
        self.loaded.extend(&other.loaded);
        self.stored.extend(&other.stored);
    }

    /// The report of a launch.
    pub(crate) fn report(&self) -> crate::launch::Traffic {
        crate::launch::Traffic {
            requested_bytes: self.requested * SECTOR,
            loaded_bytes: self.loaded.len() as u64 * SECTOR,
            stored_bytes: self.stored.len() as u64 * SECTOR,
        }
    }
}
