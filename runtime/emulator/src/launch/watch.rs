//! Launches that get no further.

use crate::device::Lane;
use crate::error::Error;
use crate::exec::{ClusterRun, Launch, Progress};

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
    state: Progress,
) -> Error {
    let mut waits = match state {
        Progress::Blocked => "all threads wait".to_string(),
        _ => "threads run in a loop that changes nothing".to_string(),
    };
    for cluster in clusters.take(4) {
        cluster.describe(launch, &mut waits);
    }
    const MOST: usize = 4000;
    if waits.len() > MOST {
        waits = waits.chars().take(MOST).collect();
        waits.push_str("\n  …");
    }
    Error::Deadlock { kernel: launch.kernel_name.to_string(), waits }
}
