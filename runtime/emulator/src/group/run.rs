//! Queues of launches, one per rank, run at the same time.
//!
//! Launches of a rank run in their order; nothing orders launches of different ranks. All that
//! communicate share one host thread and take turns: rank after rank, or in an order and with
//! delays by chance. A launch whose CTAs communicate with nobody is run to its end when its turn
//! comes, on as many host threads as for a lone device.

use super::{Fabric, Group, GroupReport, Member, QueuedLaunch};
use crate::device::Lane;
use crate::error::Error;
use crate::exec::{Launch, Progress};
use crate::launch::{LaunchReport, Numbers, Together, Watch, build, prepare, run_alone, stuck};
use crate::schedule::{Chance, Stream};

/// Warp instructions that a cluster runs before the next one gets its turn.
const SLICE: u64 = 1 << 8;
/// Bits of a launch's lot below the rank.
const LOT_SHIFT: u32 = 40;
/// Delays of a rank last up to 2 to the so many rounds.
const DELAY_BITS: u32 = 10;

/// A rank and where it is in its queue.
struct Rank<'q> {
    launches: &'q [Launch<'q>],
    next: usize,
    running: Option<Together>,
    reports: Vec<LaunchReport>,
    lanes: Vec<Lane>,
    /// Rounds before the rank does anything.
    delay: u32,
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
        let fabric = Fabric { memories, ranks_per_node: self.config.ranks_per_node };
        let mut launches: Vec<Vec<Launch<'_>>> = Vec::new();
        for ((rank, queue), numbers) in (0u32..).zip(queues).zip(numbers) {
            let memory = fabric.memories[rank as usize];
            let mut list = Vec::new();
            for (queued, numbers) in queue.iter().zip(numbers) {
                let QueuedLaunch { label, module, kernel, config, args } = queued;
                let member = Some(Member { fabric: &fabric, rank, label });
                let device = (&self.config.device, memory, member);
                list.push(build(module, kernel, config, args, device, numbers)?);
            }
            launches.push(list);
        }
        let schedule = self.config.device.schedule;
        let mut chance = Chance::new(schedule, self.runs, Stream::Group);
        let mut ranks: Vec<Rank<'_>> = Vec::new();
        for list in &launches {
            let delay = delay(chance.as_deref_mut());
            let (next, running, reports, lanes) = (0, None, Vec::new(), Vec::new());
            ranks.push(Rank { launches: list, next, running, reports, lanes, delay });
        }
        self.rounds(&mut ranks, chance)?;
        let launches = ranks.into_iter().map(|rank| rank.reports).collect();
        Ok(GroupReport { launches })
    }

    fn rounds(&self, ranks: &mut [Rank<'_>], mut chance: Option<Box<Chance>>) -> Result<(), Error> {
        let mut order: Vec<usize> = (0..ranks.len()).collect();
        let mut watch = Watch::new(self.config.device.livelock_instructions);
        let mut ended = (0, 0);
        while ranks.iter().any(|rank| !rank.is_done()) {
            if let Some(chance) = &mut chance {
                chance.shuffle(&mut order);
            }
            let mut moved = false;
            for &index in &order {
                let rank = &mut ranks[index];
                if rank.is_done() {
                    continue;
                }
                if rank.delay > 0 {
                    rank.delay -= 1;
                    moved = true;
                    continue;
                }
                moved |= self.turn(rank)?;
                if let Some(together) = rank.running.take_if(|together| together.is_done()) {
                    ended.0 += together.progress() + 1;
                    ended.1 += together.instructions();
                    let (counters, lanes) = together.end();
                    rank.lanes = lanes;
                    rank.end(LaunchReport::of(counters));
                    rank.delay = delay(chance.as_deref_mut());
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
        Ok(())
    }

    /// Lets a rank run for a round. True if anything moved.
    fn turn(&self, rank: &mut Rank<'_>) -> Result<bool, Error> {
        let launch = &rank.launches[rank.next];
        if let Some(together) = &mut rank.running {
            return together.round(launch, SLICE);
        }
        if launch.kernel.facts.communicates {
            prepare(&mut rank.lanes, 1, launch);
            let lanes = std::mem::take(&mut rank.lanes);
            let together = rank.running.insert(Together::new(launch, lanes, u64::MAX));
            return together.round(launch, SLICE);
        }
        let device = &self.config.device;
        let counters = run_alone(launch, &mut rank.lanes, self.pool.as_deref(), device)?;
        rank.end(LaunchReport::of(counters));
        Ok(true)
    }
}

/// Rounds that a rank waits before its next launch: often none, at times very many.
fn delay(chance: Option<&mut Chance>) -> u32 {
    chance.map_or(0, |chance| chance.length(DELAY_BITS) - 1)
}

fn hang(ranks: &[Rank<'_>], state: Progress) -> Error {
    let running = ranks.iter().find_map(|rank| Some((rank, rank.running.as_ref()?)));
    match running {
        Some((rank, together)) => stuck(&rank.launches[rank.next], &mut together.clusters(), state),
        None => Error::Limit("no rank can go on".to_string()),
    }
}
