//! What an instruction sees: registers, its warp, its CTA, the launch.

use std::sync::{Arc, Mutex};

use super::barrier::Barrier;
use super::cluster::Cluster;
use super::pending::Pending;
use super::split::Split;
use super::traffic::Traffic;
use super::warp::Warp;
use super::warpgroup::{RegisterPool, Warpgroup};
use crate::coherence::{CtaMemory, Machine};
use crate::fault::{FaultKind, RawFault};
use crate::group::Member;
use crate::isa::mma::Tiles;
use crate::memory::{GlobalMemory, Region};
use crate::program::{Flow, Function, Kernel, Program, Reg};
use crate::schedule::{Chance, Schedule};
use crate::tensor_core::Accumulation;

/// What does not change during a launch.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Program,
    pub(crate) kernel: &'a Kernel,
    pub(crate) kernel_name: &'a str,
    pub(crate) memory: &'a GlobalMemory,
    /// The other devices, in a group.
    pub(crate) member: Option<Member<'a>>,
    /// What the launch has in common with others that run; none where memory is not followed.
    pub(crate) machine: Option<&'a Mutex<Machine>>,
    /// Whether memory is as weak as the PTX ISA leaves it.
    pub(crate) is_weak: bool,
    /// Whether races are looked for.
    pub(crate) finds_races: bool,
    /// Parameters, in words so that they are aligned.
    pub(crate) params: Vec<u128>,
    pub(crate) globals: u64,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) cluster: [u32; 3],
    pub(crate) dynamic_shared: u32,
    pub(crate) sm_count: u32,
    pub(crate) grid_id: u64,
    /// Tells the launch's random numbers from those of others.
    pub(crate) lot: u64,
    /// Back edges that a diverged split takes before its siblings run.
    pub(crate) patience: u32,
    /// How the tensor cores add.
    pub(crate) accumulation: Accumulation,
    /// Who decides what the hardware leaves open.
    pub(crate) schedule: Schedule,
    /// Whether sectors are counted.
    pub(crate) counts_traffic: bool,
    /// What decides which lane `elect.sync` elects; the lowest without it.
    pub(crate) election: Option<u64>,
}

impl Launch<'_> {
    /// Threads of a CTA.
    pub(crate) fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// The rank of the device; 0 for a lone one.
    pub(crate) fn rank(&self) -> u32 {
        self.member.map_or(0, |member| member.rank)
    }

    /// CTAs of the grid.
    pub(crate) fn ctas(&self) -> u64 {
        self.grid.iter().map(|&extent| u64::from(extent)).product()
    }

    /// Clusters of the grid; a CTA without one is a cluster of its own.
    pub(crate) fn clusters(&self) -> u64 {
        self.ctas() / u64::from(self.cluster.iter().product::<u32>())
    }

    /// The device memory in whose window an address lies: another rank's, or this device's.
    pub(crate) fn memory_of(&self, address: u64) -> &GlobalMemory {
        let other = self.member.and_then(|member| member.memory_at(address));
        other.unwrap_or(self.memory)
    }

    /// Bytes of shared memory of a CTA, the reserved ones included.
    pub(crate) fn shared_bytes(&self) -> u32 {
        self.kernel.static_shared + self.dynamic_shared
    }
}

/// What was executed, summed over a launch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) warp_instructions: u64,
    pub(crate) lane_instructions: u64,
    pub(crate) global_load_bytes: u64,
    pub(crate) global_store_bytes: u64,
    pub(crate) bulk_load_bytes: u64,
    pub(crate) bulk_store_bytes: u64,
    pub(crate) copy_load_bytes: u64,
    pub(crate) printed: String,
    /// Where it is counted.
    pub(crate) traffic: Option<Box<Traffic>>,
}

impl Counters {
    /// Bytes that a bulk copy loaded; they are part of all that were loaded.
    pub(crate) fn add_bulk_load(&mut self, bytes: u64) {
        self.global_load_bytes += bytes;
        self.bulk_load_bytes += bytes;
    }

    /// Bytes that a bulk copy or reduction stored; they are part of all that were stored.
    pub(crate) fn add_bulk_store(&mut self, bytes: u64) {
        self.global_store_bytes += bytes;
        self.bulk_store_bytes += bytes;
    }

    pub(crate) fn add(&mut self, other: &Counters) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        self.global_load_bytes += other.global_load_bytes;
        self.global_store_bytes += other.global_store_bytes;
        self.bulk_load_bytes += other.bulk_load_bytes;
        self.bulk_store_bytes += other.bulk_store_bytes;
        self.copy_load_bytes += other.copy_load_bytes;
        self.printed.push_str(&other.printed);
        match (&mut self.traffic, &other.traffic) {
            (Some(own), Some(other)) => own.add(other),
            (own, other) => *own = own.take().or_else(|| other.clone()),
        }
    }
}

/// A `pmevent` that a warp executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawMark {
    pub(crate) cta: u64,
    pub(crate) warp: u32,
    pub(crate) time: u64,
    pub(crate) event: u32,
}

/// State of one host thread, kept from CTA to CTA.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) counters: Counters,
    /// The region that each memory instruction touched last.
    pub(crate) sites: Vec<Region>,
    /// Stores, arrivals and exits so far: what shows that a spinning kernel gets on.
    pub(crate) progress: u64,
    /// Room for matrix products.
    pub(crate) tiles: Tiles,
    /// Nobody sits out a round: nothing else could run.
    pub(crate) hurries: bool,
    /// What to add to the count of instructions for the time of marks.
    pub(crate) mark_base: u64,
    /// Marks that were made.
    pub(crate) marks: Vec<RawMark>,
    /// When the launch began, on the clock of its machine.
    pub(crate) began: u64,
}

/// What the warps of a CTA share.
#[derive(Debug)]
pub(crate) struct CtaState {
    /// Position in the grid, in launch order.
    pub(crate) index: u64,
    pub(crate) ctaid: [u32; 3],
    /// The SM that it runs on.
    pub(crate) sm: u32,
    /// Shared memory, 1 KiB aligned.
    pub(crate) shared: SharedMemory,
    pub(crate) barriers: [Barrier; super::BARRIERS],
    /// Warps with lanes that have not exited.
    pub(crate) live_warps: u32,
    pub(crate) cluster: Arc<Cluster>,
    /// Rank in the cluster.
    pub(crate) rank: u32,
    pub(crate) warpgroups: Vec<Warpgroup>,
    pub(crate) registers: RegisterPool,
    /// Who decides what is left open; nobody where all goes in order.
    pub(crate) chance: Option<Box<Chance>>,
    /// Asynchronous operations in flight.
    pub(crate) pending: Pending,
    /// What the CTA holds of memory.
    pub(crate) memory: CtaMemory,
}

/// One kibibyte of shared memory, aligned so that swizzled layouts see true address bits.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(1024))]
struct Kib([u8; 1024]);

/// Shared memory of one CTA.
#[derive(Debug, Default)]
pub(crate) struct SharedMemory {
    blocks: Vec<Kib>,
    bytes: u32,
}

impl SharedMemory {
    /// Makes room for `bytes` and sets them to zero.
    pub(crate) fn reset(&mut self, bytes: u32) {
        self.blocks.clear();
        self.blocks.resize((bytes as usize).div_ceil(1024), Kib([0; 1024]));
        self.bytes = bytes;
    }

    /// The addressable bytes as a region; the first KiB is not addressable.
    pub(crate) fn region(&mut self) -> Region {
        let start = u64::from(crate::memory::window::SHARED_RESERVED);
        let host = self.blocks.as_mut_ptr().cast::<u8>().wrapping_add(start as usize);
        Region { start, end: u64::from(self.bytes), host, writable: true }
    }
}

/// The context of the running warp.
pub(crate) struct Cx<'a> {
    /// Registers of the running split's frame.
    pub(crate) frame: *mut u8,
    /// Lanes that execute the instruction: the split's, less those that the guard excludes.
    pub(crate) mask: u32,
    /// Lanes of the running split; a merge adds some.
    pub(crate) active: u32,
    pub(crate) pc: u32,
    pub(crate) function: &'a Function,
    pub(crate) warp: &'a mut Warp,
    pub(crate) cta: &'a mut CtaState,
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) worker: &'a mut Worker,
    pub(crate) fault: Option<Box<RawFault>>,
}

impl Cx<'_> {
    /// The row of a register of up to 32 bits.
    ///
    /// # Safety
    /// `reg` must be such a register of this frame, and no other reference to it in use.
    #[inline(always)]
    pub(crate) unsafe fn row32<'r>(&self, reg: Reg) -> &'r mut [u32; 32] {
        // SAFETY: the decoder allotted the row; the frame outlives the instruction.
        unsafe { &mut *self.frame.add(reg as usize).cast() }
    }

    /// The row of a 64-bit register.
    ///
    /// # Safety
    /// As for [`Cx::row32`].
    #[inline(always)]
    pub(crate) unsafe fn row64<'r>(&self, reg: Reg) -> &'r mut [u64; 32] {
        // SAFETY: as in `row32`.
        unsafe { &mut *self.frame.add(reg as usize).cast() }
    }

    /// The row of a 128-bit register.
    ///
    /// # Safety
    /// As for [`Cx::row32`].
    #[inline(always)]
    pub(crate) unsafe fn row128<'r>(&self, reg: Reg) -> &'r mut [u128; 32] {
        // SAFETY: as in `row32`.
        unsafe { &mut *self.frame.add(reg as usize).cast() }
    }

    /// A predicate, a bit per lane.
    ///
    /// # Safety
    /// As for [`Cx::row32`].
    #[inline(always)]
    pub(crate) unsafe fn pred<'r>(&self, reg: Reg) -> &'r mut u32 {
        // SAFETY: as in `row32`.
        unsafe { &mut *self.frame.add(reg as usize).cast() }
    }

    /// Sets the predicate's bits of the executing lanes.
    ///
    /// # Safety
    /// As for [`Cx::row32`].
    #[inline(always)]
    pub(crate) unsafe fn set_pred(&self, reg: Reg, bits: u32) {
        // SAFETY: as in `row32`.
        let word = unsafe { self.pred(reg) };
        *word = (*word & !self.mask) | (bits & self.mask);
    }

    /// Writes the executing lanes of a row of up to 32 bits.
    ///
    /// # Safety
    /// As for [`Cx::row32`].
    #[inline(always)]
    pub(crate) unsafe fn put32(&self, reg: Reg, values: &[u32; 32]) {
        // SAFETY: as in `row32`.
        let row = unsafe { self.row32(reg) };
        blend(row, values, self.mask);
    }

    /// Writes the executing lanes of a 64-bit row.
    ///
    /// # Safety
    /// As for [`Cx::row32`].
    #[inline(always)]
    pub(crate) unsafe fn put64(&self, reg: Reg, values: &[u64; 32]) {
        // SAFETY: as in `row32`.
        let row = unsafe { self.row64(reg) };
        blend(row, values, self.mask);
    }

    /// The running split.
    pub(crate) fn split(&mut self) -> &mut Split {
        let current = self.warp.current;
        &mut self.warp.splits[current]
    }

    /// Ends the launch with a fault of the first executing lane.
    #[cold]
    pub(crate) fn misuse(&mut self, rule: impl Into<String>) -> Flow {
        self.fail(FaultKind::Misuse(rule.into()))
    }

    /// Ends the launch with a fault of the first executing lane.
    #[cold]
    pub(crate) fn fail(&mut self, kind: FaultKind) -> Flow {
        self.fault = Some(RawFault::new(kind, self.mask.trailing_zeros().min(31)));
        Flow::Fault
    }
}

/// What a register holds for one lane.
pub(crate) trait Word: Copy + Default {
    /// `new` where `bit` is 1, `old` where it is 0: without a branch, so that lanes vectorise.
    fn choose(old: Self, new: Self, bit: u32) -> Self;
}

macro_rules! word {
    ($($ty:ty),*) => {$(
        impl Word for $ty {
            #[inline(always)]
            fn choose(old: Self, new: Self, bit: u32) -> Self {
                old ^ ((old ^ new) & (0 as $ty).wrapping_sub(bit as $ty))
            }
        }
    )*};
}
word!(u32, u64, u128);

/// Copies the lanes of `mask`.
#[inline(always)]
pub(crate) fn blend<T: Word>(row: &mut [T; 32], values: &[T; 32], mask: u32) {
    if mask == u32::MAX {
        *row = *values;
    } else {
        for lane in 0..32 {
            row[lane] = T::choose(row[lane], values[lane], mask >> lane & 1);
        }
    }
}

/// The lanes of a mask, lowest first.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros();
        left &= left.wrapping_sub(1);
        (lane < 32).then_some(lane)
    })
}
