//! Clusters that may talk to each other: in turns on one host thread, as many as the device holds.

use super::{Slots, per_sm};
use crate::device::Lane;
use crate::error::Error;
use crate::exec::{ClusterRun, Counters, Launch, Progress, RawMark, Worker};
use crate::schedule::{Chance, Deck, Stream};

/// One cluster in so many pauses at a round, in launches whose memory is weak.
const PAUSES: u32 = 64;
/// Pauses last up to 2 to the so many rounds.
const PAUSE_BITS: u32 = 9;

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
    /// Ticks of each SM in this round.
    busy: Vec<u64>,
    /// CTAs that have ended.
    spans: Vec<Span>,
}

/// A cluster on its SMs.
#[derive(Debug)]
struct Resident {
    lane: Lane,
    sms: Vec<u32>,
    /// Its number in the grid of clusters.
    index: u64,
    begin: u64,
    /// Rounds that it sits out.
    pause: u32,
}

/// A CTA's time on its SM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// The CTA's number in the grid.
    pub(crate) cta: u64,
    pub(crate) sm: u32,
    pub(crate) begin: u64,
    pub(crate) end: u64,
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
        let mut worker = worker.unwrap_or_default();
        if let Some(machine) = launch.machine {
            let mut machine = machine.lock().unwrap_or_else(|poison| poison.into_inner());
            worker.began = machine.begin(launch.rank(), launch.grid_id);
        }
        Together {
            worker,
            active: Vec::new(),
            idle: lanes,
            deck: Deck::default(),
            slots: Slots::new(launch.sm_count, per_sm(launch)),
            admits,
            chance,
            begun: 0,
            clusters: launch.clusters(),
            busy: vec![0; launch.sm_count as usize],
            spans: Vec::new(),
        }
    }

    /// Clusters are admitted while room is left: in order of their numbers, as on the device, or
    /// in any order by chance.
    fn admit(&mut self, launch: &Launch<'_>, now: u64) -> bool {
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
            let pause = match &mut self.chance {
                Some(chance) if launch.is_weak => chance.length(PAUSE_BITS) - 1,
                _ => 0,
            };
            self.active.push(Resident { lane, sms, index: next, begin: now, pause });
            self.begun += 1;
            any = true;
        }
        any
    }

    /// Gives each resident cluster a slice of about `slice` instructions at time `now`:
    /// [`Progress::Blocked`] if none could move, [`Progress::Paused`] if some sit out.
    pub(crate) fn round(
        &mut self,
        launch: &Launch<'_>,
        slice: u64,
        now: u64,
    ) -> Result<Progress, Error> {
        self.busy.fill(0);
        let (mut moved, mut paused) = (self.admit(launch, now), false);
        if let Some(chance) = &mut self.chance {
            chance.shuffle(&mut self.active);
        }
        let mut at = 0;
        while at < self.active.len() {
            let resident = &mut self.active[at];
            if let (true, Some(chance)) = (launch.is_weak, &mut self.chance)
                && resident.pause == 0
                && !self.worker.hurries
                && chance.one_in(PAUSES)
            {
                resident.pause = chance.length(PAUSE_BITS);
            }
            if self.worker.hurries {
                resident.pause = 0;
            }
            if resident.pause > 0 {
                resident.pause -= 1;
                paused = true;
                at += 1;
                continue;
            }
            let before = self.instructions();
            let resident = &mut self.active[at];
            let first = resident.sms.first().map_or(0, |&sm| self.busy[sm as usize]);
            self.worker.mark_base = (now + first).wrapping_sub(before);
            let state = resident.lane.cluster.run(slice, launch, &mut self.worker)?;
            let spent = self.instructions() - before;
            let share = spent.div_ceil(self.active[at].sms.len().max(1) as u64);
            for &sm in &self.active[at].sms {
                self.busy[sm as usize] += share;
            }
            match state {
                Progress::Done => {
                    let Resident { lane, sms, index, begin, .. } = self.active.remove(at);
                    for (cta, &sm) in (index * sms.len() as u64..).zip(&sms) {
                        let end = now + self.busy[sm as usize];
                        self.spans.push(Span { cta, sm, begin, end });
                    }
                    sms.into_iter().for_each(|sm| self.slots.give(sm));
                    self.idle.push(lane);
                    moved = true;
                    continue;
                }
                Progress::Running => moved = true,
                Progress::Paused => paused = true,
                Progress::Blocked => {}
            }
            at += 1;
        }
        self.worker.hurries = false;
        Ok(match (moved, paused) {
            (true, _) => Progress::Running,
            (false, true) => Progress::Paused,
            (false, false) => Progress::Blocked,
        })
    }

    /// In the next round nobody sits out.
    pub(crate) fn hurry(&mut self) {
        self.worker.hurries = true;
    }

    /// Ticks that the last round took.
    pub(crate) fn ticks(&self) -> u64 {
        self.busy.iter().copied().max().unwrap_or(0)
    }

    /// CTAs that have ended, and marks that were made, since this was last asked.
    pub(crate) fn take_times(&mut self) -> (Vec<Span>, Vec<RawMark>) {
        (std::mem::take(&mut self.spans), std::mem::take(&mut self.worker.marks))
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

    /// CTAs that have not begun.
    pub(crate) fn not_begun(&self, launch: &Launch<'_>) -> u64 {
        (self.clusters - self.begun) * (launch.ctas() / self.clusters.max(1))
    }

    /// What was executed, and the states for the next launch.
    pub(crate) fn end(mut self, launch: &Launch<'_>) -> (Counters, Vec<Lane>) {
        if let Some(machine) = launch.machine {
            machine.lock().unwrap_or_else(|poison| poison.into_inner()).end(launch.rank());
        }
        let counters = std::mem::take(&mut self.worker.counters);
        let mut lanes = self.idle;
        lanes.extend(self.active.into_iter().map(|resident| resident.lane));
        if let Some(lane) = lanes.first_mut() {
            lane.worker = self.worker;
        }
        (counters, lanes)
    }
}
