//! Queues of launches, one per rank, run at the same time.
//!
//! Launches of a rank run in their order; nothing orders launches of different ranks. All that
//! communicate share one host thread and take turns: rank after rank, or in an order and with
//! delays by chance. A launch whose CTAs communicate with nobody is run to its end when its turn
//! comes, on as many host threads as for a lone device.

use std::sync::Mutex;

use super::{Fabric, Group, GroupReport, Member, QueuedLaunch, Race, Timeline};
use crate::coherence::{Machine, Races, Writer};
use crate::device::Lane;
use crate::error::Error;
use crate::exec::{Launch, Progress};
use crate::hang::{Hang, NotBegun, WaitsFor};
use crate::launch::{LaunchReport, Numbers, Together, Watch};
use crate::launch::{build, complete, hung, line_up, prepare, run_alone};
use crate::schedule::{Chance, Stream};

/// Warp instructions that a cluster runs before the next one gets its turn.
const SLICE: u64 = 1 << 8;
/// Bits of a launch's lot below the rank.
const LOT_SHIFT: u32 = 40;
/// Delays of a rank last up to 2 to the so many rounds.
const DELAY_BITS: u32 = 10;

/// A rank and where it is in its queue.
#[derive(Default)]
struct Rank<'q> {
    launches: &'q [Launch<'q>],
    next: usize,
    running: Option<Together>,
    reports: Vec<LaunchReport>,
    lanes: Vec<Lane>,
    /// Rounds before the rank does anything.
    delay: u32,
    /// The CTAs of the launch that runs have exited.
    ends: bool,
    /// Until when its last launch takes.
    ready: u64,
}

impl Rank<'_> {
    fn is_done(&self) -> bool {
        self.next == self.launches.len()
    }

    fn end(&mut self, report: LaunchReport) {
        self.reports.push(report);
        self.next += 1;
    }
}

impl Group {
    /// Runs queues of launches, one per rank, to their ends.
    ///
    /// # Errors
    /// [`Error::Launch`] if a launch does not fit, or the queues are not as many as the ranks; then
    /// nothing has run. [`Error::Fault`] if a thread does something wrong; [`Error::Deadlock`] if
    /// all threads wait. After a fault the memory holds what was stored until then.
    pub fn run(&mut self, queues: &[Vec<QueuedLaunch>]) -> Result<GroupReport, Error> {
        if queues.len() != self.devices.len() {
            return Err(Error::Limit(format!(
                "{} queues for {} ranks",
                queues.len(),
                self.devices.len()
            )));
        }
        self.runs += 1;
        let mut numbers: Vec<Vec<Numbers>> = Vec::new();
        for ((rank, device), queue) in (1u64..).zip(&mut self.devices).zip(queues) {
            let mut list = Vec::new();
            for queued in queue {
                let globals = device.load(&queued.module)?;
                device.launches += 1;
                let lot = rank << LOT_SHIFT | device.launches;
                list.push(Numbers { globals, grid_id: device.launches, lot });
            }
            numbers.push(list);
        }
        let mut memories = Vec::new();
        for device in &self.devices {
            let memory = device.memory.as_ref();
            memories.push(memory.map_err(|message| Error::Memory(message.clone()))?);
        }
        let mut machine = Machine::new(self.config.ranks, self.config.device.schedule, self.runs);
        machine.races = self.config.device.races.then(|| Box::new(Races::default()));
        let machine = Mutex::new(machine);
        let fabric = Fabric { memories, ranks_per_node: self.config.ranks_per_node };
        let mut launches: Vec<Vec<Launch<'_>>> = Vec::new();
        for ((rank, queue), numbers) in (0u32..).zip(queues).zip(numbers) {
            let memory = fabric.memories[rank as usize];
            let mut list = Vec::new();
            for (queued, numbers) in queue.iter().zip(numbers) {
                let QueuedLaunch { label, module, kernel, config, args } = queued;
                let member = Some(Member { fabric: &fabric, rank, label });
                let surroundings = (memory, member, Some(&machine));
                let device = &self.config.device;
                list.push(build(module, kernel, config, args, device, surroundings, numbers)?);
            }
            launches.push(list);
        }
        let schedule = self.config.device.schedule;
        let mut chance = Chance::new(schedule, self.runs, Stream::Group);
        let mut ranks: Vec<Rank<'_>> = Vec::new();
        for list in &launches {
            let delay = delay(chance.as_deref_mut());
            ranks.push(Rank { launches: list, delay, ..Rank::default() });
        }
        let mut timeline = Timeline::default();
        self.rounds(&mut ranks, chance, &machine, &mut timeline)?;
        let found = machine.lock().unwrap_or_else(|poison| poison.into_inner()).races.take();
        let found = found.map(|races| races.found).unwrap_or_default();
        let races = found.iter().map(|one| Race::of(one, &launches)).collect();
        let launches = ranks.into_iter().map(|rank| rank.reports).collect();
        let ticks = timeline.ticks;
        let timeline = self.config.device.timeline.then_some(timeline);
        Ok(GroupReport { launches, ticks, races, timeline })
    }

    fn rounds(
        &self,
        ranks: &mut [Rank<'_>],
        mut chance: Option<Box<Chance>>,
        machine: &Mutex<Machine>,
        timeline: &mut Timeline,
    ) -> Result<(), Error> {
        let mut order: Vec<usize> = (0..ranks.len()).collect();
        let mut watch = Watch::new(self.config.device.livelock_instructions);
        let mut ended = (0, 0);
        while ranks.iter().any(|rank| !rank.is_done()) {
            if let Some(chance) = &mut chance {
                chance.shuffle(&mut order);
            }
            let (mut moved, mut paused, mut ticks) = (false, false, 0);
            for &index in &order {
                let rank = &mut ranks[index];
                if rank.is_done() || rank.ready > timeline.ticks {
                    continue;
                }
                if rank.delay > 0 {
                    rank.delay -= 1;
                    paused = true;
                    continue;
                }
                let state = self.turn(rank, timeline)?;
                moved |= state == Progress::Running;
                paused |= state == Progress::Paused;
                if let Some(together) = &mut rank.running {
                    ticks = ticks.max(together.ticks());
                    timeline.add(&rank.launches[rank.next], rank.next, together.take_times());
                }
                let is_done = rank.running.as_ref().is_some_and(Together::is_done);
                if is_done && !rank.ends {
                    // All see the stores of a launch when it has ended, not when its CTAs have.
                    (rank.ends, rank.delay) = (true, delay(chance.as_deref_mut()));
                    moved = true;
                    continue;
                }
                if let Some(together) = rank.running.take_if(|_| is_done) {
                    rank.ends = false;
                    ended.0 += together.progress() + 1;
                    ended.1 += together.instructions();
                    let (counters, lanes) = together.end(&rank.launches[rank.next]);
                    rank.lanes = lanes;
                    rank.end(LaunchReport::of(counters));
                    rank.delay = delay(chance.as_deref_mut());
                    moved = true;
                }
            }
            let mut machine = machine.lock().unwrap_or_else(|poison| poison.into_inner());
            moved |= machine.round(moved);
            drop(machine);
            timeline.ticks += ticks;
            if !moved && paused {
                // Nobody else can run: delays are over.
                for rank in ranks.iter_mut() {
                    rank.delay = 0;
                    rank.running.iter_mut().for_each(Together::hurry);
                }
                moved = true;
            }
            if !moved {
                // Nobody does anything before the end of a launch that was run at once.
                let later = ranks.iter().map(|rank| rank.ready).filter(|&at| at > timeline.ticks);
                if let Some(next) = later.min() {
                    timeline.ticks = next;
                    moved = true;
                }
            }
            let running = ranks.iter().filter_map(|rank| rank.running.as_ref());
            let (progress, instructions) = running.fold(ended, |(progress, instructions), one| {
                (progress + one.progress(), instructions + one.instructions())
            });
            if !moved || !watch.check(progress, instructions) {
                let state = if moved { Progress::Running } else { Progress::Blocked };
                return Err(hang(ranks, state));
            }
        }
        machine.lock().unwrap_or_else(|poison| poison.into_inner()).deliver_all();
        timeline.ticks = ranks.iter().map(|rank| rank.ready).fold(timeline.ticks, u64::max);
        Ok(())
    }

    /// Lets a rank run for a round.
    fn turn(&self, rank: &mut Rank<'_>, timeline: &mut Timeline) -> Result<Progress, Error> {
        let now = timeline.ticks;
        let launch = &rank.launches[rank.next];
        if let Some(together) = &mut rank.running {
            return together.round(launch, SLICE, now);
        }
        if launch.kernel.facts.communicates {
            prepare(&mut rank.lanes, 1, launch);
            let lanes = std::mem::take(&mut rank.lanes);
            let together = rank.running.insert(Together::new(launch, lanes, u64::MAX));
            return together.round(launch, SLICE, now);
        }
        let device = &self.config.device;
        let counters = run_alone(launch, &mut rank.lanes, self.pool.as_deref(), device)?;
        let spans = line_up(launch, &mut rank.lanes, now);
        rank.ready = spans.iter().map(|span| span.end).max().unwrap_or(now);
        timeline.add(launch, rank.next, (spans, Vec::new()));
        rank.end(LaunchReport::of(counters));
        Ok(Progress::Running)
    }
}

/// Rounds that a rank waits before its next launch: often none, at times very many.
fn delay(chance: Option<&mut Chance>) -> u32 {
    chance.map_or(0, |chance| if chance.one_in(2) { 0 } else { chance.length(DELAY_BITS) - 1 })
}

/// The error of a run in which nothing runs, or nothing changes.
fn hang(ranks: &[Rank<'_>], state: Progress) -> Error {
    let mut hang = Hang { is_livelock: state != Progress::Blocked, ..Hang::default() };
    let all = |of: &Writer| {
        let launches = ranks.get(of.rank as usize)?.launches;
        launches.iter().find(|launch| launch.grid_id == of.launch)
    };
    for rank in ranks {
        let not_begun = |launch: &Launch<'_>, ctas, is_resident| NotBegun {
            rank: launch.member.map(|member| (member.rank, member.label.to_string())),
            ctas,
            is_resident,
        };
        let mut next = rank.next;
        if let Some(together) = &rank.running {
            let launch = &rank.launches[next];
            let from = hang.waiters.len();
            together.clusters().for_each(|cluster| cluster.describe(launch, &mut hang));
            for waiter in &mut hang.waiters[from..] {
                if let WaitsFor::Memory(places) = &mut waiter.wait {
                    places.iter_mut().for_each(|place| complete(place, launch, &all));
                }
            }
            let ctas = together.not_begun(launch);
            if ctas > 0 {
                hang.not_begun.push(not_begun(launch, ctas, true));
            }
            next += 1;
        }
        let later = rank.launches[next..].iter();
        hang.not_begun.extend(later.map(|launch| not_begun(launch, launch.ctas(), false)));
    }
    let kernel = hang.waiters.first().map_or(String::new(), |waiter| waiter.kernel.clone());
    hung(&kernel, hang)
}
