//! Emulated GPUs that reach each other's memory.

use super::emulator::{self as one, Modules};
use super::{Counters, Device, KernelArg, KernelId, LaunchShape, failed_kernel, memory_failure};
use crate::{Result, fail};
use moec_emulator as emulator;
use moec_ir::{Diagnostic, Ranks};

/// A group of emulated Hopper GPUs: those of a node are connected as by NVLink, nodes by a network.
pub struct EmulatedGroup {
    group: emulator::Group,
    ranks: Ranks,
    modules: Modules,
    /// Text of each module and what was found in it: ranks load the same.
    loaded: Vec<(String, Vec<String>, Vec<KernelId>)>,
}

/// A launch that waits for its turn on a rank.
pub struct Queued {
    /// The kernel.
    pub kernel: KernelId,
    /// Its shape.
    pub shape: LaunchShape,
    /// Its arguments.
    pub args: Vec<KernelArg>,
    /// Its name in reports.
    pub label: String,
}

/// What a run of a group did.
#[derive(Debug, Default)]
pub struct GroupRun {
    /// Of each launch, by rank.
    pub counters: Vec<Vec<Counters>>,
    /// How long it took, in virtual time.
    pub ticks: u64,
    /// When CTAs ran, where the group records it.
    pub timeline: Option<emulator::Timeline>,
}

/// Why a run of a group did not end.
#[derive(Debug)]
pub enum RunFailure {
    /// All that is left waits.
    Hang(Box<emulator::Hang>),
    /// Anything else: E1105.
    Other(Vec<Diagnostic>),
}

impl From<Vec<Diagnostic>> for RunFailure {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self::Other(diagnostics)
    }
}

impl EmulatedGroup {
    /// As many GPUs as there are ranks, each of a configuration whose schedule holds for all
    /// together.
    ///
    /// # Errors
    /// E1103 where the emulator has no room for so many.
    pub fn new(ranks: Ranks, device: emulator::DeviceConfig) -> Result<Self> {
        Self::with(ranks, device, false)
    }

    /// The same, which also records when each CTA runs.
    ///
    /// # Errors
    /// As of [`EmulatedGroup::new`].
    pub fn recording(ranks: Ranks, device: emulator::DeviceConfig) -> Result<Self> {
        Self::with(ranks, device, true)
    }

    fn with(ranks: Ranks, device: emulator::DeviceConfig, timeline: bool) -> Result<Self> {
        let config = emulator::GroupConfig {
            ranks: ranks.count(),
            ranks_per_node: ranks.per_node(),
            device: emulator::DeviceConfig { timeline, ..device },
        };
        let group = emulator::Group::new(config).or_else(|e| memory_failure("a group", e))?;
        Ok(Self { group, ranks, modules: Modules::default(), loaded: vec![] })
    }

    /// How many GPUs in nodes of how many.
    pub fn ranks(&self) -> Ranks {
        self.ranks
    }

    /// A rank's GPU: to reserve and copy memory, and to load PTX. A kernel that is launched on it
    /// alone sees no other rank.
    pub fn rank(&mut self, rank: u32) -> impl Device + use<'_> {
        RankDevice { group: self, rank }
    }

    /// Reserves memory at the same place of every rank, filled with zeros. Returns its address on
    /// each.
    ///
    /// # Errors
    /// E1103 where there is not enough.
    pub fn reserve_symmetric(&mut self, bytes: u64, name: &str) -> Result<Vec<u64>> {
        let Ok(size) = usize::try_from(bytes.max(1)) else {
            return memory_failure("allocation", format!("{bytes} bytes for `{name}`"));
        };
        let failed = |e| memory_failure("allocation of symmetric memory", e);
        let id = self.group.alloc_symmetric(size, name).or_else(failed)?;
        let mut addresses = Vec::new();
        for rank in 0..self.ranks.count() {
            let address = self.group.address(id, rank);
            let device = self.group.device_mut(rank);
            device.fill(address, 0, size).or_else(|e| memory_failure("filling with zeros", e))?;
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// Runs a queue of launches on each rank, all ranks at the same time, to their ends. Returns
    /// what each launch did.
    ///
    /// # Errors
    /// A launch is refused, a kernel fails, or all that are left wait for each other.
    pub fn run(&mut self, queues: &[Vec<Queued>]) -> std::result::Result<GroupRun, RunFailure> {
        let mut encoded = Vec::new();
        for queue in queues {
            let mut launches = Vec::new();
            for Queued { kernel, shape, args, label } in queue {
                let (module, name) = self.modules.get(*kernel);
                launches.push(emulator::QueuedLaunch {
                    label: label.clone(),
                    module: module.clone(),
                    kernel: name.to_owned(),
                    config: one::launch_config(shape),
                    args: one::encode_all(args).or_else(|why| failed_kernel(name, why))?,
                });
            }
            encoded.push(launches);
        }
        match self.group.run(&encoded) {
            Ok(report) => {
                let of_rank = |l: &Vec<_>| l.iter().map(one::counters).collect();
                let counters = report.launches.iter().map(of_rank).collect();
                Ok(GroupRun { counters, ticks: report.ticks, timeline: report.timeline })
            }
            Err(emulator::Error::Deadlock { hang, .. }) => Err(RunFailure::Hang(hang)),
            Err(e) => Ok(fail(Diagnostic::error("E1105", format!("the group failed: {e}")))?),
        }
    }
}

/// One GPU of a group.
struct RankDevice<'g> {
    group: &'g mut EmulatedGroup,
    rank: u32,
}

impl RankDevice<'_> {
    fn device(&mut self) -> &mut emulator::Device {
        self.group.group.device_mut(self.rank)
    }
}

impl Device for RankDevice<'_> {
    fn describe(&self) -> String {
        format!("rank {} of an emulated group of {}", self.rank, self.group.ranks)
    }

    fn alloc(&mut self, bytes: u64, name: &str) -> Result<u64> {
        one::alloc(self.device(), bytes, name)
    }

    fn free(&mut self, address: u64) -> Result<()> {
        self.device().free(address).or_else(|e| memory_failure("release", e))
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.device().write(address, bytes).or_else(|e| memory_failure("copy to the device", e))
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.device().read(address, bytes).or_else(|e| memory_failure("copy from the device", e))
    }

    fn load(&mut self, ptx: &str, kernels: &[&str]) -> Result<Vec<KernelId>> {
        let loaded = &mut self.group.loaded;
        let same = |(text, names, _): &&(String, Vec<String>, Vec<KernelId>)| {
            text == ptx && names.iter().map(String::as_str).eq(kernels.iter().copied())
        };
        if let Some((_, _, ids)) = loaded.iter().find(same) {
            return Ok(ids.clone());
        }
        let ids = self.group.modules.load(ptx, kernels)?;
        let names = kernels.iter().map(|k| (*k).to_owned()).collect();
        loaded.push((ptx.to_owned(), names, ids.clone()));
        Ok(ids)
    }

    fn launch(
        &mut self,
        kernel: KernelId,
        shape: &LaunchShape,
        args: &[KernelArg],
    ) -> Result<Counters> {
        let EmulatedGroup { group, modules, .. } = &mut *self.group;
        one::launch(group.device_mut(self.rank), modules, kernel, shape, args)
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }
}
