//! What kernels cost.

use crate::Phase;
use crate::device::Counters;
use std::collections::BTreeMap;
use std::time::Duration;

/// Costs by phase and kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    kernels: BTreeMap<(Phase, String), KernelProfile>,
}

/// The cost of a kernel, summed over its launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelProfile {
    /// Number of launches.
    pub launches: u64,
    /// Time from launch to end where launches are waited for, else only the launching.
    pub time: Duration,
    /// What the device counted.
    pub counters: Counters,
}

impl Profile {
    pub(crate) fn add(&mut self, phase: Phase, kernel: &str, time: Duration, counters: Counters) {
        let key = (phase, kernel.to_owned());
        let entry = self.kernels.entry(key).or_default();
        entry.launches += 1;
        entry.time += time;
        entry.counters.warp_instructions += counters.warp_instructions;
        entry.counters.lane_instructions += counters.lane_instructions;
        entry.counters.load_bytes += counters.load_bytes;
        entry.counters.store_bytes += counters.store_bytes;
    }

    /// Every kernel that was launched, by phase and name.
    pub fn kernels(&self) -> impl Iterator<Item = (Phase, &str, &KernelProfile)> {
        self.kernels.iter().map(|((phase, name), k)| (*phase, name.as_str(), k))
    }

    /// The sum over all kernels of a phase.
    pub fn total(&self, phase: Phase) -> KernelProfile {
        let mut sum = KernelProfile::default();
        for (_, _, k) in self.kernels().filter(|(p, _, _)| *p == phase) {
            sum.launches += k.launches;
            sum.time += k.time;
            sum.counters.warp_instructions += k.counters.warp_instructions;
            sum.counters.lane_instructions += k.counters.lane_instructions;
            sum.counters.load_bytes += k.counters.load_bytes;
            sum.counters.store_bytes += k.counters.store_bytes;
        }
        sum
    }
}
