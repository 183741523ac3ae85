//! A cluster: CTAs that run at the same time and see each other's shared memory (PTX ISA 3.2,
//! "Thread Hierarchy"; 5.1.7, "Shared State Space").
//!
//! The CTAs of a cluster run in turns on one host thread. A shared address with `rank + 1` in its
//! bits 24 and up is one of the CTA with that rank; one with zero there is the CTA's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::context::{Launch, Worker};
use super::cta::{Cta, Progress};
use super::{Cx, lanes_of};
use crate::error::Error;
use crate::hang::Hang;
use crate::memory::Region;
use crate::schedule::{Chance, Stream};

/// Bits of a shared address below the rank.
pub(crate) const RANK_SHIFT: u32 = 24;

/// Rounds in which a cluster's waits may time out without anything else happening.
const TIME_OUTS: u32 = 3;

/// Random slices of a CTA last up to 2 to the so many instructions.
const SLICE_BITS: u32 = 14;

/// What the CTAs of a cluster share. One host thread uses it at a time.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    members: Vec<Member>,
    /// Threads that have not exited.
    expected: AtomicU32,
    /// Threads that have arrived at the cluster's barrier.
    arrived: AtomicU32,
    /// Completed generations of the barrier.
    generation: AtomicU32,
    /// Time of the last acquire among the device, before which none of its CTAs reads values of the
    /// device that have been overwritten.
    pub(crate) floor: AtomicU64,
    /// The same for values of other devices.
    pub(crate) floor_sys: AtomicU64,
}

#[derive(Debug)]
struct Member {
    shared: Region,
    has_exited: AtomicBool,
}

impl Cluster {
    /// CTAs of the cluster.
    pub(crate) fn size(&self) -> u32 {
        self.members.len() as u32
    }

    /// The shared memory of a CTA that still runs.
    pub(crate) fn shared(&self, rank: u32) -> Result<Region, String> {
        match self.members.get(rank as usize) {
            None => Err(format!("CTA {rank} of a cluster of {}", self.members.len())),
            Some(member) if member.has_exited.load(Relaxed) => Err(format!(
                "CTA {rank} of this cluster has exited; its shared memory is gone (a barrier.cluster \
                 at the end keeps it)"
            )),
            Some(member) => Ok(member.shared),
        }
    }

    /// Completed generations of the barrier.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Relaxed)
    }

    /// Counts arrivals at the barrier.
    pub(crate) fn arrive(&self, threads: u32) {
        self.arrived.fetch_add(threads, Relaxed);
        self.complete();
    }

    /// Threads have exited; `arrived` of them after they had arrived in this generation.
    pub(crate) fn leave(&self, threads: u32, arrived: u32) {
        self.expected.fetch_sub(threads, Relaxed);
        self.arrived.fetch_sub(arrived, Relaxed);
        self.complete();
    }

    /// Arrived and expected threads.
    pub(crate) fn counts(&self) -> (u32, u32) {
        (self.arrived.load(Relaxed), self.expected.load(Relaxed))
    }

    fn complete(&self) {
        let (arrived, expected) = self.counts();
        if arrived != 0 && arrived >= expected {
            self.arrived.store(0, Relaxed);
            self.generation.fetch_add(1, Relaxed);
        }
    }

    /// A CTA has ended.
    pub(crate) fn exit(&self, rank: u32) {
        if let Some(member) = self.members.get(rank as usize) {
            member.has_exited.store(true, Relaxed);
        }
    }
}

impl Cx<'_> {
    /// The shared memory that a shared address means, and the offset in it.
    pub(crate) fn shared_window(&mut self, address: u64) -> Result<(Region, u64), String> {
        match address >> RANK_SHIFT {
            0 => Ok((self.cta.shared.region(), address)),
            above => {
                let rank = u32::try_from(above - 1).unwrap_or(u32::MAX);
                let region = self.cta.cluster.shared(rank)?;
                Ok((region, address & ((1 << RANK_SHIFT) - 1)))
            }
        }
    }

    /// Whether a shared address is one of the running CTA's own.
    pub(crate) fn is_own(&self, address: u32) -> bool {
        let above = address >> RANK_SHIFT;
        above == 0 || above == self.cta.rank + 1
    }

    /// Lanes exit: the cluster's barrier no longer waits for them.
    pub(crate) fn leave_cluster(&mut self, leaving: u32) {
        let next = self.cta.cluster.generation().wrapping_add(1);
        let arrived =
            lanes_of(leaving).filter(|&lane| self.warp.cluster_arrivals[lane as usize] == next);
        self.cta.cluster.leave(leaving.count_ones(), arrived.count() as u32);
    }
}

/// The CTAs of one cluster on one host thread, used again for the next cluster.
#[derive(Debug, Default)]
pub(crate) struct ClusterRun {
    ctas: Vec<Cta>,
    done: Vec<bool>,
    size: usize,
    timeouts: u32,
    progress: u64,
    /// Who decides the order of turns; nobody where it is that of the ranks.
    chance: Option<Box<Chance>>,
}

impl ClusterRun {
    /// Prepares the cluster with the given position in the grid of clusters. Its CTAs run on the
    /// SMs of `sms`; without them as if each SM held one CTA.
    pub(crate) fn start(&mut self, index: u64, launch: &Launch<'_>, sms: &[u32]) {
        let [width, height, depth] = launch.cluster;
        let [across, down, _] =
            [0, 1, 2].map(|axis| u64::from(launch.grid[axis] / launch.cluster[axis]));
        let at = [index % across, index / across % down, index / across / down];
        self.size = (width * height * depth) as usize;
        if self.ctas.len() < self.size {
            self.ctas.resize_with(self.size, Cta::default);
        }
        let mut members = Vec::with_capacity(self.size);
        for (rank, cta) in (0..).zip(&mut self.ctas[..self.size]) {
            let inside = [rank % width, rank / width % height, rank / width / height];
            let ctaid: [u32; 3] =
                std::array::from_fn(|axis| at[axis] as u32 * launch.cluster[axis] + inside[axis]);
            let number = index * self.size as u64 + u64::from(rank);
            let sm = (number % u64::from(launch.sm_count)) as u32;
            let sm = sms.get(rank as usize).copied().unwrap_or(sm);
            cta.start(number, ctaid, sm, launch);
            members.push(Member { shared: cta.shared(), has_exited: AtomicBool::new(false) });
        }
        let cluster = Arc::new(Cluster {
            members,
            expected: AtomicU32::new(launch.threads() * self.size as u32),
            ..Cluster::default()
        });
        for (rank, cta) in (0..).zip(&mut self.ctas[..self.size]) {
            cta.join(rank, cluster.clone());
        }
        self.done.clear();
        self.done.resize(self.size, false);
        (self.timeouts, self.progress) = (0, 0);
        self.chance = Chance::new(launch.schedule, launch.lot, Stream::Cluster(index));
    }

    /// Runs the CTAs in turn, each for about `budget` instructions.
    pub(crate) fn run(
        &mut self,
        budget: u64,
        launch: &Launch<'_>,
        worker: &mut Worker,
    ) -> Result<Progress, Error> {
        let before = worker.counters.warp_instructions;
        let (mut landed, mut paused) = (false, false);
        let mut order: Vec<(usize, u64)> = (0..self.size).map(|rank| (rank, budget)).collect();
        if let Some(chance) = &mut self.chance {
            chance.shuffle(&mut order);
            for (_, budget) in &mut order {
                *budget = u64::from(chance.length(SLICE_BITS)).min(*budget);
            }
        }
        for (rank, budget) in order {
            if self.done[rank] {
                landed |= self.ctas[rank].land_some(launch, worker)?;
            } else {
                let state = self.ctas[rank].run(budget, launch, worker)?;
                self.done[rank] = state == Progress::Done;
                landed |= state == Progress::Running;
                paused |= state == Progress::Paused;
            }
        }
        if self.done.iter().all(|&done| done) {
            while self.land_any(launch, worker)? {}
            return Ok(Progress::Done);
        }
        let ran = worker.counters.warp_instructions != before;
        if ran || landed || !paused && self.land_any(launch, worker)? {
            return Ok(Progress::Running);
        }
        if paused {
            return Ok(Progress::Paused);
        }
        Ok(if self.time_out(worker) { Progress::Running } else { Progress::Blocked })
    }

    /// Does a part of one asynchronous operation; false if none is in flight.
    fn land_any(&mut self, launch: &Launch<'_>, worker: &mut Worker) -> Result<bool, Error> {
        let Some(chance) = &mut self.chance else {
            return Ok(false);
        };
        let all: usize = self.ctas[..self.size].iter().map(Cta::in_flight).sum();
        if all == 0 {
            return Ok(false);
        }
        let mut index = chance.below(all as u32) as usize;
        for cta in &mut self.ctas[..self.size] {
            if index < cta.in_flight() {
                cta.land(index, launch, worker)?;
                break;
            }
            index -= cta.in_flight();
        }
        Ok(true)
    }

    /// All warps wait: lets `mbarrier.try_wait` return false, as it may after some time. False if
    /// none waits there or that has been of no use.
    fn time_out(&mut self, worker: &Worker) -> bool {
        if worker.progress != self.progress {
            (self.progress, self.timeouts) = (worker.progress, 0);
        }
        if self.timeouts == TIME_OUTS {
            return false;
        }
        self.timeouts += 1;
        let mut any = false;
        for cta in &mut self.ctas[..self.size] {
            any |= cta.time_out();
        }
        any
    }

    /// Says what the warps wait for, for a report of a hang.
    pub(crate) fn describe(&self, launch: &Launch<'_>, hang: &mut Hang) {
        for (cta, done) in self.ctas[..self.size].iter().zip(&self.done) {
            if !done {
                cta.describe(launch, hang);
            }
        }
    }
}
