//! What the warps of a CTA share beside memory and barriers: warpgroups that meet for `wgmma`, and
//! the pool of registers that `setmaxnreg` takes from.

use super::context::Launch;
use super::products::Products;
use crate::program::Inst;

/// One warp at a `wgmma.mma_async`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) warp: u32,
    /// Its registers.
    pub(crate) frame: *mut u8,
    /// Its products; none in a function whose registers are not followed.
    pub(crate) products: Option<*mut Products>,
    /// The instruction, known by its place.
    pub(crate) inst: *const Inst,
    /// Matrix descriptors of A and B; A's is 0 where A lies in registers.
    pub(crate) descriptors: [u64; 2],
    /// The predicate `scale-d`.
    pub(crate) adds: bool,
    /// What lies where in a sparse A, per lane.
    pub(crate) metadata: Option<[u32; 32]>,
}

// SAFETY: a member is used only while its warp waits, by the host thread that runs the CTA.
unsafe impl Send for Member {}
// SAFETY: as above.
unsafe impl Sync for Member {}

/// Four warps whose first has a rank that is a multiple of four (PTX ISA 9.7.15).
#[derive(Debug, Default)]
pub(crate) struct Warpgroup {
    /// Those that have come to the instruction at hand.
    pub(crate) members: Vec<Member>,
    /// Instructions executed.
    pub(crate) generation: u32,
}

/// Registers of a CTA, in units of one register in all threads of a warp (PTX ISA 9.7.20.5).
#[derive(Debug, Default)]
pub(crate) struct RegisterPool {
    /// Per warp, what each thread has.
    pub(crate) held: Vec<u32>,
    /// What no warp holds.
    pub(crate) free: u32,
}

/// Registers of an SM (CUDA C++ programming guide, "Compute Capability 9.0").
const SM_REGISTERS: u32 = 65536;

impl RegisterPool {
    /// What every thread has at the start: what the kernel states; else as many as let one CTA (or
    /// the stated number) fill an SM, in steps of eight, but not more than the kernel asks for
    /// later, since the compiler may have settled for less.
    pub(crate) fn start(&mut self, launch: &Launch<'_>) {
        let threads = launch.threads().next_multiple_of(32).max(32);
        let limits = &launch.kernel.limits;
        let most = limits.max_block.or(limits.required_block);
        let threads_stated = most.map_or(threads, |block| block.iter().product::<u32>().max(32));
        let ctas = limits.min_ctas.unwrap_or(1).max(1);
        let per_thread = match limits.max_registers {
            Some(stated) => stated,
            None => {
                let room = SM_REGISTERS / threads_stated.saturating_mul(ctas).max(1);
                room.min(launch.kernel.facts.most_registers)
            }
        };
        let per_thread = (per_thread & !7).clamp(24, 256);
        self.held.clear();
        self.held.resize((threads / 32) as usize, per_thread);
        self.free = 0;
    }
}
