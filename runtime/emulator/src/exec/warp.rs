//! One warp: its splits, frames and stacks, and the loop that runs it.

use super::context::{CtaState, Launch, Worker};
use super::frame::{Frame, Place};
use super::shapes::{Level, level};
use super::split::{Join, NO_JOIN, Split, Wait};
use super::{Cx, lanes_of};
use crate::coherence::WarpMemory;
use crate::fault::RawFault;
use crate::mbarrier::Mbarrier;
use crate::memory::LocalMemory;
use crate::program::{Flow, NO_REG};

/// 32 threads.
#[derive(Debug, Default)]
pub(crate) struct Warp {
    pub(crate) index: u32,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    pub(crate) splits: Vec<Split>,
    pub(crate) current: usize,
    pub(crate) joins: Vec<Join>,
    pub(crate) free_joins: Vec<u32>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) free_frames: Vec<u32>,
    pub(crate) local: LocalMemory,
    pub(crate) back_edges: u32,
    /// Carry flags of extended-precision arithmetic (PTX ISA 9.7.2), a bit per lane.
    pub(crate) carry: u32,
    /// Instructions executed: the warp's clock.
    pub(crate) clock: u64,
    /// Per lane, the generation of the cluster's barrier that ends with its last arrival.
    pub(crate) cluster_arrivals: [u32; 32],
    /// Per lane, groups of bulk copies that are closed (PTX ISA 9.7.9.25.6).
    pub(crate) bulk_groups: [u32; 32],
    /// Per lane, groups of other copies that are closed (PTX ISA 9.7.9.25.3.2).
    pub(crate) copy_groups: [u32; 32],
    /// Matrix products in flight.
    pub(crate) products: super::products::Products,
    /// What it holds of memory.
    pub(crate) memory: WarpMemory,
}

/// Why a warp stopped running.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It has run its share.
    Slice,
    /// All its splits wait.
    Blocked,
    /// All its lanes have exited.
    Done,
    /// It did something wrong, at this instruction of this function.
    Fault(Box<RawFault>, u32, u32),
}

impl Warp {
    /// Prepares the warp for the first instruction of the kernel.
    pub(crate) fn start(&mut self, launch: &Launch<'_>, place: Place) {
        let threads = launch.threads() - place.warp * 32;
        let live = if threads >= 32 { u32::MAX } else { (1 << threads) - 1 };
        self.index = place.warp;
        self.live = live;
        self.splits.clear();
        self.joins.clear();
        self.free_joins.clear();
        self.free_frames.clear();
        self.frames.truncate(1);
        if self.frames.is_empty() {
            self.frames.push(Frame::default());
        }
        let index = launch.kernel.function;
        let function = &launch.program.functions[index as usize];
        self.local.clear();
        self.local.reserve(function.local_bytes);
        self.frames[0].enter((index, function), 0, launch, place);
        self.splits.push(Split { pc: 0, mask: live, join: NO_JOIN, frame: 0, wait: Wait::Ready });
        (self.current, self.back_edges, self.carry, self.clock) = (0, 0, 0, 0);
        (self.cluster_arrivals, self.bulk_groups, self.copy_groups) = ([0; 32], [0; 32], [0; 32]);
        self.products.clear();
        self.memory.clear();
    }

    /// Whether there is more than one group of lanes.
    pub(crate) fn is_diverged(&self) -> bool {
        self.splits.len() > 1 || self.joins.len() > self.free_joins.len()
    }

    /// Makes one split of those that wait for nothing, stand at the same place and go to the same
    /// join.
    pub(crate) fn merge(&mut self, frame: u32) {
        let mut index = 0;
        while index < self.splits.len() {
            let here = self.splits[index];
            let twin = index != self.current
                && here.frame == frame
                && here.wait == Wait::Ready
                && here.join == self.splits[self.current].join
                && here.pc == self.splits[self.current].pc + 1;
            if twin {
                let current = self.current;
                self.splits[current].mask |= here.mask;
                self.splits.swap_remove(index);
                if current == self.splits.len() {
                    self.current = index;
                }
            } else {
                index += 1;
            }
        }
    }

    fn is_ready(&self, split: &Split, cta: &CtaState) -> bool {
        match split.wait {
            Wait::Ready | Wait::TimedOut => true,
            Wait::Mbarrier { word, parity } => {
                // SAFETY: the word lies in shared memory, which lives as long as the cluster.
                let word = unsafe { (word as *const u64).read() };
                Mbarrier::decode(word).map_or(true, |barrier| barrier.has_completed(parity))
            }
            Wait::Poll { slot } => self.memory.polls.is_awake(slot),
            Wait::Cluster { generation } => cta.cluster.generation() != generation,
            Wait::Warpgroup { generation } => {
                cta.warpgroups[self.index as usize / 4].generation != generation
            }
            Wait::Registers { needed } => cta.registers.free >= needed,
            Wait::Barrier { id, generation } => cta.barriers[id as usize].generation != generation,
            Wait::Meeting { required, .. } => required & self.live & !self.met(required) == 0,
            Wait::Warp { required, .. } => {
                let mut here = 0;
                for other in &self.splits {
                    if let Wait::Warp { mask, .. } = other.wait
                        && other.pc == split.pc
                        && other.frame == split.frame
                    {
                        here |= mask;
                    }
                }
                required & self.live & !here == 0
            }
        }
    }

    /// Chooses a split that can run; false if there is none.
    fn select(&mut self, cta: &CtaState) -> bool {
        loop {
            let count = self.splits.len();
            for step in 0..count {
                let index = (self.current + step) % count;
                if self.is_ready(&self.splits[index], cta) {
                    self.current = index;
                    return true;
                }
            }
            if count == 0 || !self.release_arrived() {
                return false;
            }
        }
    }

    /// Runs until the warp is done, waits or has executed about `quantum` instructions.
    pub(crate) fn run(
        &mut self,
        quantum: u32,
        cta: &mut CtaState,
        launch: &Launch<'_>,
        worker: &mut Worker,
    ) -> Stop {
        let mut left = quantum;
        loop {
            if !self.select(cta) {
                return if self.splits.is_empty() { Stop::Done } else { Stop::Blocked };
            }
            if let Wait::Poll { slot } = self.splits[self.current].wait {
                self.memory.polls.wake(slot);
                self.splits[self.current].wait = Wait::Ready;
            }
            let split = self.splits[self.current];
            let frame = &mut self.frames[split.frame as usize];
            let function = &launch.program.functions[frame.function as usize];
            let mut cx = Cx {
                frame: frame.registers(),
                mask: 0,
                active: split.mask,
                pc: split.pc,
                function,
                warp: self,
                cta,
                launch,
                worker,
                fault: None,
            };
            let flow = run_split(&mut cx, &mut left);
            let (pc, fault) = (cx.pc, cx.fault.take());
            match flow {
                Flow::Switch => {}
                Flow::Wait => {
                    self.splits[self.current].pc = pc;
                    left = left.saturating_sub(1);
                }
                Flow::Fault => {
                    let fault = fault.unwrap_or_else(|| {
                        let kind = crate::fault::FaultKind::Misuse("unknown".to_string());
                        RawFault::new(kind, lanes_of(split.mask).next().unwrap_or(0))
                    });
                    return Stop::Fault(fault, self.frames[split.frame as usize].function, pc);
                }
                _ => {
                    self.splits[self.current].pc = pc;
                    return Stop::Slice;
                }
            }
            if left == 0 {
                return if self.splits.is_empty() { Stop::Done } else { Stop::Slice };
            }
        }
    }
}

/// The interpreter's loop, compiled for what the host has.
fn run_split(cx: &mut Cx<'_>, left: &mut u32) -> Flow {
    #[cfg(target_arch = "x86_64")]
    if level() >= Level::Avx2 {
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn avx2(cx: &mut Cx<'_>, left: &mut u32) -> Flow {
            interpret(cx, left)
        }
        // SAFETY: the host has these instructions.
        return unsafe { avx2(cx, left) };
    }
    interpret(cx, left)
}

/// Runs one split until it gives up the floor.
#[inline(always)]
fn interpret(cx: &mut Cx<'_>, left: &mut u32) -> Flow {
    let insts = &cx.function.insts[..];
    let (mut warps, mut lanes) = (0u64, 0u64);
    let flow = loop {
        // Decoded bodies end in `exit`, and targets are checked when decoding.
        let inst = &insts[cx.pc as usize];
        let mut mask = cx.active;
        if inst.guard != NO_REG {
            // SAFETY: the decoder allotted the predicate.
            mask &= unsafe { *cx.pred(inst.guard) } ^ inst.guard_flip;
        }
        warps += 1;
        lanes += u64::from(mask.count_ones());
        if mask == 0 {
            cx.pc += 1;
        } else {
            cx.mask = mask;
            // SAFETY: `inst` belongs to the function of the frame.
            match unsafe { (inst.exec)(cx, inst) } {
                Flow::Next => cx.pc += 1,
                Flow::Jump => {}
                Flow::Yield => {
                    cx.pc += 1;
                    break Flow::Yield;
                }
                other => break other,
            }
        }
        if warps >= u64::from(*left) {
            break Flow::Yield;
        }
    };
    *left = left.saturating_sub(warps as u32);
    cx.warp.clock += warps;
    cx.worker.counters.warp_instructions += warps;
    cx.worker.counters.lane_instructions += lanes;
    flow
}
