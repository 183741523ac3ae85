//! Clusters that may talk to each other: in turns on one host thread, as many as the device holds.

use super::{Slots, per_sm};
use crate::device::Lane;
use crate::error::Error;
use crate::exec::{ClusterRun, Counters, Launch, Progress, Worker};
use crate::schedule::{Chance, Deck, Stream};

/// A launch between its first and its last CTA.
#[derive(Debug)]
pub(crate) struct Together {
    worker: Worker,
    active: Vec<Resident>,
    idle: Vec<Lane>,
    deck: Deck,
    slots: Slots,
    /// Clusters that are admitted in one round, at most.
    admits: u64,
    chance: Option<Box<Chance>>,
    /// Clusters that have begun, and all.
    begun: u64,
    clusters: u64,
}

/// A cluster on its SMs.
#[derive(Debug)]
struct Resident {
    lane: Lane,
    sms: Vec<u32>,
}

impl Together {
    /// Nothing has run yet; the first of `lanes` has been prepared for the launch.
    pub(crate) fn new(launch: &Launch<'_>, mut lanes: Vec<Lane>, admits: u64) -> Together {
        let worker = lanes.first_mut().map(|lane| std::mem::take(&mut lane.worker));
        let mut chance = Chance::new(launch.schedule, launch.lot, Stream::Grid);
        // The first number of the stream elects lanes.
        if let Some(chance) = &mut chance {
            chance.salt();
        }
        Together {
            worker: worker.unwrap_or_default(),
            active: Vec::new(),
            idle: lanes,
            deck: Deck::default(),
            slots: Slots::new(launch.sm_count, per_sm(launch)),
            admits,
            chance,
            begun: 0,
            clusters: launch.clusters(),
        }
    }

    /// Clusters are admitted while room is left: in order of their numbers, as on the device, or
    /// in any order by chance.
    fn admit(&mut self, launch: &Launch<'_>) -> bool {
        let size = u64::from(launch.cluster.iter().product::<u32>());
        let mut any = false;
        for _ in 0..self.admits {
            // A cluster larger than the device runs alone.
            if self.slots.left() < size && !self.active.is_empty() {
                break;
            }
            let Some(next) = self.deck.draw(self.clusters, self.chance.as_deref_mut()) else {
                break;
            };
            let mut lane = self.idle.pop().unwrap_or_default();
            let sms: Vec<u32> =
                (0..size).map(|_| self.slots.take(self.chance.as_deref_mut())).collect();
            lane.cluster.start(next, launch, &sms);
            self.active.push(Resident { lane, sms });
            self.begun += 1;
            any = true;
        }
        any
    }

    /// Gives each resident cluster a slice of about `slice` instructions. True if anything moved.
    pub(crate) fn round(&mut self, launch: &Launch<'_>, slice: u64) -> Result<bool, Error> {
        let mut moved = self.admit(launch);
        if let Some(chance) = &mut self.chance {
            chance.shuffle(&mut self.active);
        }
        let mut at = 0;
        while at < self.active.len() {
            match self.active[at].lane.cluster.run(slice, launch, &mut self.worker)? {
                Progress::Done => {
                    let Resident { lane, sms } = self.active.remove(at);
                    sms.into_iter().for_each(|sm| self.slots.give(sm));
                    self.idle.push(lane);
                    moved = true;
                    continue;
                }
                Progress::Running => moved = true,
                Progress::Blocked => {}
            }
            at += 1;
        }
        Ok(moved)
    }

    /// Whether all clusters have ended.
    pub(crate) fn is_done(&self) -> bool {
        self.active.is_empty() && self.begun == self.clusters
    }

    /// Stores, arrivals and exits so far.
    pub(crate) fn progress(&self) -> u64 {
        self.worker.progress
    }

    /// Instructions of warps so far.
    pub(crate) fn instructions(&self) -> u64 {
        self.worker.counters.warp_instructions
    }

    /// The clusters that run.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &ClusterRun> {
        self.active.iter().map(|resident| &resident.lane.cluster)
    }

    /// What was executed, and the states for the next launch.
    pub(crate) fn end(mut self) -> (Counters, Vec<Lane>) {
        let counters = std::mem::take(&mut self.worker.counters);
        let mut lanes = self.idle;
        lanes.extend(self.active.into_iter().map(|resident| resident.lane));
        if let Some(lane) = lanes.first_mut() {
            lane.worker = self.worker;
        }
        (counters, lanes)
    }
}
