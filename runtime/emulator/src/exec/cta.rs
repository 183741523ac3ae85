//! One CTA: its warps in turn, until all are done or none can run.

mod drain;
mod landing;
mod turns;

use std::sync::Arc;

use super::barrier::Barrier;
use super::cluster::Cluster;
use super::context::{CtaState, Launch, SharedMemory, Worker};
use super::frame::Place;
use super::pending::{Origin, Pending};
use super::split::{Split, Wait};
use super::warp::{Stop, Warp};
use super::warpgroup::RegisterPool;
use crate::coherence::CtaMemory;
use crate::error::Error;
use crate::fault::{Fault, RawFault};
use crate::hang::{Hang, MOST, Polled, Waiter, WaitsFor};
use crate::mbarrier::Mbarrier;
use crate::memory::Region;
use crate::schedule::{Chance, Stream};

/// Instructions that a warp runs before the next warp of its CTA.
const QUANTUM: u32 = 512;

/// A CTA and room for its warps, used again for the next one.
#[derive(Debug)]
pub(crate) struct Cta {
    state: CtaState,
    warps: Vec<Warp>,
    done: Vec<bool>,
    next: usize,
    /// Rounds that each warp sits out.
    stalls: Vec<u32>,
    /// Its shared memory.
    region: Region,
    /// The turns of a round, where they are random.
    round: Vec<turns::Turn>,
}

/// How far a CTA came in its share of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All warps have exited.
    Done,
    /// It can go on.
    Running,
    /// Nothing ran, because those that could sit out for some time.
    Paused,
    /// All its warps wait, and nothing in the CTA can change that.
    Blocked,
}

impl Default for Cta {
    fn default() -> Self {
        let state = CtaState {
            index: 0,
            ctaid: [0; 3],
            sm: 0,
            shared: SharedMemory::default(),
            barriers: [Barrier::default(); super::BARRIERS],
            live_warps: 0,
            cluster: Arc::default(),
            rank: 0,
            warpgroups: Vec::new(),
            registers: RegisterPool::default(),
            chance: None,
            pending: Pending::default(),
            memory: CtaMemory::default(),
        };
        Cta {
            state,
            warps: Vec::new(),
            done: Vec::new(),
            next: 0,
            stalls: Vec::new(),
            region: Region::EMPTY,
            round: Vec::new(),
        }
    }
}

impl Cta {
    /// Prepares the CTA at `ctaid`, whose number in launch order is `index`, on an SM.
    pub(crate) fn start(&mut self, index: u64, ctaid: [u32; 3], sm: u32, launch: &Launch<'_>) {
        let warps = launch.threads().div_ceil(32);
        self.state.index = index;
        self.state.ctaid = ctaid;
        self.state.sm = sm;
        self.state.shared.reset(launch.shared_bytes());
        self.region = self.state.shared.region();
        self.state.barriers = [Barrier::default(); super::BARRIERS];
        self.state.live_warps = warps;
        self.state.warpgroups.resize_with(warps.div_ceil(4) as usize, Default::default);
        self.state.warpgroups.iter_mut().for_each(|group| group.members.clear());
        self.state.registers.start(launch);
        self.state.pending.clear();
        self.state.memory.clear();
        self.state.chance = Chance::new(launch.schedule, launch.lot, Stream::Cta(index));
        self.warps.resize_with(warps as usize, Warp::default);
        for (warp, state) in (0..).zip(&mut self.warps) {
            state.start(launch, Place { sm, ctaid, warp });
        }
        self.done.clear();
        self.done.resize(warps as usize, false);
        self.stalls.clear();
        self.stalls.resize(warps as usize, 0);
        self.next = 0;
    }

    /// The CTA's shared memory.
    pub(crate) fn shared(&mut self) -> Region {
        self.state.shared.region()
    }

    /// Makes the CTA a member of its cluster.
    pub(crate) fn join(&mut self, rank: u32, cluster: Arc<Cluster>) {
        (self.state.rank, self.state.cluster) = (rank, cluster);
    }

    /// Ends the waits at mbarriers; false if there are none.
    pub(crate) fn time_out(&mut self) -> bool {
        let mut any = false;
        for split in self.warps.iter_mut().flat_map(|warp| &mut warp.splits) {
            if matches!(split.wait, Wait::Mbarrier { .. }) {
                split.wait = Wait::TimedOut;
                any = true;
            }
        }
        any
    }

    /// Runs the warps in turn for about `budget` instructions.
    pub(crate) fn run(
        &mut self,
        budget: u64,
        launch: &Launch<'_>,
        worker: &mut Worker,
    ) -> Result<Progress, Error> {
        if self.state.chance.is_some() {
            return self.run_rounds(budget, launch, worker);
        }
        let end = worker.counters.warp_instructions.saturating_add(budget);
        let mut idle = 0;
        while self.state.live_warps > 0 {
            if idle >= self.warps.len() {
                return Ok(Progress::Blocked);
            }
            if worker.counters.warp_instructions >= end {
                return Ok(Progress::Running);
            }
            let index = self.next;
            self.next = (self.next + 1) % self.warps.len();
            let ran = !self.done[index] && self.turn(index, QUANTUM, launch, worker)?;
            idle = if ran { 0 } else { idle + 1 };
        }
        self.end(launch, worker)
    }

    /// All warps have exited.
    fn end(&mut self, launch: &Launch<'_>, worker: &mut Worker) -> Result<Progress, Error> {
        self.land_before_end(launch, worker)?;
        self.leave_stores(launch);
        self.state.cluster.exit(self.state.rank);
        Ok(Progress::Done)
    }

    /// Runs one warp; false if it waits and did nothing.
    fn turn(
        &mut self,
        index: usize,
        quantum: u32,
        launch: &Launch<'_>,
        worker: &mut Worker,
    ) -> Result<bool, Error> {
        let before = worker.counters.warp_instructions;
        self.warps[index].memory.polls.begin_turn(worker.progress);
        let stop = self.warps[index].run(quantum, &mut self.state, launch, worker);
        self.warps[index].memory.polls.end_turn(worker.progress);
        match stop {
            Stop::Slice => {}
            Stop::Blocked => return Ok(worker.counters.warp_instructions != before),
            Stop::Done => {
                self.done[index] = true;
                self.state.warp_exited();
            }
            Stop::Fault(raw, function, pc) => {
                let here = Origin { warp: index as u32, function, pc };
                return Err(self.locate(*raw, here, launch));
            }
        }
        Ok(true)
    }

    fn mbarrier_wait(&self, word: usize, parity: bool) -> WaitsFor {
        let region = self.region;
        let offset = (word as u64).wrapping_sub(region.host as u64);
        let address = region.start.wrapping_add(offset) as u32;
        // SAFETY: the word lies in shared memory, which lives as long as the cluster.
        match Mbarrier::decode(unsafe { (word as *const u64).read() }) {
            Ok(Mbarrier { pending, expected, transactions, .. }) => {
                WaitsFor::Mbarrier { address, parity, pending, expected, transactions }
            }
            Err(message) => WaitsFor::Other(message),
        }
    }

    fn thread(launch: &Launch<'_>, warp: u32, lane: u32) -> [u32; 3] {
        let ([x, y, _], thread) = (launch.block, warp * 32 + lane);
        [thread % x, thread / x % y, thread / x / y]
    }

    fn locate(&self, raw: RawFault, here: Origin, launch: &Launch<'_>) -> Error {
        let Origin { warp, function, pc } = raw.origin.unwrap_or(here);
        let function = &launch.program.functions[function as usize];
        Error::Fault(Box::new(Fault {
            kind: raw.kind,
            kernel: launch.kernel_name.to_string(),
            rank: launch.member.map(|member| (member.rank, member.label.to_string())),
            cta: self.state.ctaid,
            thread: Self::thread(launch, warp, raw.lane),
            line: function.lines.get(pc as usize).copied().unwrap_or(0),
            instruction: function.opcode(pc).to_string(),
            access: raw.access,
            nearest: raw.nearest,
        }))
    }

    /// What a split of a warp waits for.
    fn wait_of(&self, warp: &Warp, split: &Split) -> WaitsFor {
        match split.wait {
            Wait::Ready | Wait::TimedOut => WaitsFor::Nothing,
            Wait::Mbarrier { word, parity } => self.mbarrier_wait(word, parity),
            Wait::Cluster { .. } => {
                let (arrived, expected) = self.state.cluster.counts();
                WaitsFor::Cluster { arrived, expected }
            }
            Wait::Warpgroup { .. } => {
                let group = &self.state.warpgroups[warp.index as usize / 4];
                WaitsFor::Warpgroup { arrived: group.members.len() as u32 }
            }
            Wait::Registers { needed } => {
                WaitsFor::Registers { needed, free: self.state.registers.free }
            }
            Wait::Barrier { id, .. } => {
                let barrier = &self.state.barriers[id as usize];
                let expected = match barrier.expected {
                    0 => self.state.live_warps * 32,
                    other => other,
                };
                WaitsFor::Barrier { id, arrived: barrier.arrived, expected }
            }
            Wait::Warp { required, .. } | Wait::Meeting { required, .. } => {
                WaitsFor::Lanes(required & warp.live & !split.mask)
            }
            Wait::Poll { slot } => {
                let places = warp.memory.polls.places_of(slot).iter();
                let polled = places.map(|place| Polled {
                    address: place.address,
                    bytes: u32::from(place.bytes),
                    value: place.current(),
                    rank: None,
                    allocation: None,
                    last_writer: None,
                });
                WaitsFor::Memory(polled.collect())
            }
        }
    }

    /// Says what the warps wait for, for a report of a hang.
    pub(crate) fn describe(&self, launch: &Launch<'_>, hang: &mut Hang) {
        for warp in &self.warps {
            for split in &warp.splits {
                if hang.waiters.len() >= MOST {
                    hang.more += 1;
                    continue;
                }
                let frame = &warp.frames[split.frame as usize];
                let function = &launch.program.functions[frame.function as usize];
                hang.waiters.push(Waiter {
                    rank: launch.member.map(|member| (member.rank, member.label.to_string())),
                    kernel: launch.kernel_name.to_string(),
                    cta: self.state.ctaid,
                    sm: self.state.sm,
                    warp: warp.index,
                    lanes: split.mask,
                    line: function.lines.get(split.pc as usize).copied().unwrap_or(0),
                    instruction: function.opcode(split.pc).to_string(),
                    wait: self.wait_of(warp, split),
                });
            }
        }
    }
}
