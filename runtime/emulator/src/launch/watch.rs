//! Launches that get no further.

use crate::coherence::Writer;
use crate::device::Lane;
use crate::error::Error;
use crate::exec::{ClusterRun, Launch, Progress};
use crate::hang::{Hang, LastWriter, NotBegun, Polled, WaitsFor};
use crate::memory::window::{is_global, rank_of};

/// Notices when instructions run and nothing changes.
pub(crate) struct Watch {
    limit: u64,
    progress: u64,
    since: u64,
}

impl Watch {
    pub(crate) fn new(limit: u64) -> Watch {
        Watch { limit, progress: 0, since: 0 }
    }

    pub(crate) fn goes_on(&mut self, lane: &Lane) -> bool {
        self.check(lane.worker.progress, lane.worker.counters.warp_instructions)
    }

    pub(crate) fn check(&mut self, progress: u64, instructions: u64) -> bool {
        if progress != self.progress {
            (self.progress, self.since) = (progress, instructions);
        }
        instructions.saturating_sub(self.since) < self.limit
    }
}

/// The error of a launch in which nothing runs, or nothing changes.
pub(crate) fn stuck(
    launch: &Launch<'_>,
    clusters: &mut dyn Iterator<Item = &ClusterRun>,
    not_begun: u64,
    state: Progress,
) -> Error {
    let mut hang = Hang { is_livelock: state != Progress::Blocked, ..Hang::default() };
    for cluster in clusters {
        cluster.describe(launch, &mut hang);
    }
    if not_begun > 0 {
        hang.not_begun.push(NotBegun { rank: None, ctas: not_begun, is_resident: true });
    }
    for waiter in &mut hang.waiters {
        if let WaitsFor::Memory(places) = &mut waiter.wait {
            for place in places {
                complete(place, launch, &|writer| {
                    (writer.launch == launch.grid_id).then_some(launch)
                });
            }
        }
    }
    hung(launch.kernel_name, hang)
}

/// The error of a hang.
pub(crate) fn hung(kernel: &str, hang: Hang) -> Error {
    Error::Deadlock { kernel: kernel.to_string(), waits: hang.to_string(), hang: Box::new(hang) }
}

/// Says of a place what it is part of and who wrote there last. `find` gives a writer's launch.
pub(crate) fn complete<'l>(
    place: &mut Polled,
    launch: &Launch<'_>,
    find: &dyn Fn(&Writer) -> Option<&'l Launch<'l>>,
) {
    if !is_global(place.address) {
        return;
    }
    place.rank = launch.member.and_then(|_| rank_of(place.address));
    let found = launch.memory_of(place.address).name(place.address);
    place.allocation = found.map(|(name, offset)| (name.to_string(), offset));
    let writer = launch.machine.and_then(|machine| {
        machine.lock().unwrap_or_else(|poison| poison.into_inner()).last_writer(place.address)
    });
    let Some(writer) = writer else { return };
    let of = find(&writer);
    let function = of.map(|of| &of.program.functions[writer.function as usize]);
    let line = function.and_then(|function| function.lines.get(writer.pc as usize));
    let label = of.and_then(|of| of.member).map_or("", |member| member.label);
    place.last_writer = Some(LastWriter {
        rank: launch.member.map(|_| (writer.rank, label.to_string())),
        cta: writer.cta,
        warp: writer.warp,
        line: line.copied().unwrap_or(0),
    });
}
