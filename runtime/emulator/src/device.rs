//! One emulated GPU and its memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Error;
use crate::exec::{ClusterRun, Worker};
use crate::memory::GlobalMemory;
use crate::memory::window::{CODE_BASE, GLOBAL_BASE, GLOBAL_BYTES, RANK_SHIFT, rank_base};
use crate::module::Module;
use crate::program::Fixup;
use crate::schedule::Schedule;
use crate::tensor_core::Accumulation;

/// What a device is like.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Streaming multiprocessors: how many CTAs are resident at once. 132 on an H100 SXM (NVIDIA
    /// H100 Tensor Core GPU Architecture, v1.04, table 3).
    pub sm_count: u32,
    /// Who decides what the hardware leaves open.
    pub schedule: Schedule,
    /// Host threads for kernels whose CTAs cannot influence each other; 0 for all cores. Results
    /// do not depend on it.
    pub threads: usize,
    /// Bytes of device memory. Host memory is taken when bytes are first touched.
    pub memory_bytes: u64,
    /// Fills new allocations with this byte, so that reads of memory never written show.
    pub poison: Option<u8>,
    /// A launch ends as a deadlock when this many warp instructions in a row have neither stored
    /// anything nor passed a barrier nor ended a thread.
    pub livelock_instructions: u64,
    /// How the tensor cores add: by default bit for bit as Hopper does.
    pub accumulation: Accumulation,
    /// Counts the sectors that launches move ([`Traffic`](crate::Traffic)), which is slow.
    pub traffic: bool,
    /// Reports of a [`Group`](crate::Group) say when each CTA ran.
    pub timeline: bool,
    /// Looks for races in runs of groups ([`GroupReport::races`](crate::GroupReport)) with a seed,
    /// which is slow.
    pub races: bool,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        DeviceConfig {
            sm_count: 132,
            schedule: Schedule::InOrder,
            threads: 0,
            memory_bytes: 80 << 30,
            poison: None,
            livelock_instructions: 1 << 30,
            accumulation: Accumulation::default(),
            traffic: false,
            timeline: false,
            races: false,
        }
    }
}

/// Host threads, if there are to be several.
pub(crate) fn pool(config: &DeviceConfig) -> Option<Arc<rayon::ThreadPool>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if config.threads == 0 { cores } else { config.threads }.min(256);
    let build = || rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok();
    (threads > 1).then(build).flatten().map(Arc::new)
}

/// A cluster's state and a host thread's state, kept between launches.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) cluster: ClusterRun,
    pub(crate) worker: Worker,
    /// Clusters that have run alone, by number, and their instructions.
    pub(crate) durations: Vec<(u64, u64)>,
}

/// One emulated GPU.
///
/// Pointers of the host program and of kernels are the same 64-bit addresses. Nothing is
/// asynchronous: a launch has ended when [`Device::launch`] returns.
#[derive(Debug)]
pub struct Device {
    pub(crate) config: DeviceConfig,
    pub(crate) memory: Result<GlobalMemory, String>,
    /// Where the variables of each module lie.
    globals: BTreeMap<u64, u64>,
    pub(crate) pool: Option<Arc<rayon::ThreadPool>>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) launches: u64,
}

impl Device {
    /// A device with empty memory. If the host cannot even reserve addresses, the first use of
    /// memory says so.
    pub fn new(config: DeviceConfig) -> Device {
        let pool = pool(&config);
        Device::with_memory(config, pool, GLOBAL_BASE, GLOBAL_BYTES)
    }

    /// A device whose addresses are those of a rank.
    pub(crate) fn of_rank(
        config: DeviceConfig,
        pool: Option<Arc<rayon::ThreadPool>>,
        rank: u32,
    ) -> Device {
        Device::with_memory(config, pool, rank_base(rank), 1 << RANK_SHIFT)
    }

    fn with_memory(
        config: DeviceConfig,
        pool: Option<Arc<rayon::ThreadPool>>,
        base: u64,
        most: u64,
    ) -> Device {
        let memory = GlobalMemory::new(config.memory_bytes, base, most);
        let memory = memory.map_err(|error| error.to_string());
        Device { config, memory, globals: BTreeMap::new(), pool, lanes: Vec::new(), launches: 0 }
    }

    pub(crate) fn memory(&mut self) -> Result<&mut GlobalMemory, Error> {
        self.memory.as_mut().map_err(|message| Error::Memory(message.clone()))
    }

    /// Allocates `bytes` at a multiple of 256 and returns the address. The contents are
    /// undefined. `name` appears in reports of faults. The same calls give the same addresses.
    ///
    /// # Errors
    /// [`Error::Memory`] if the device has not that much left.
    pub fn alloc(&mut self, bytes: usize, name: &str) -> Result<u64, Error> {
        let poison = self.config.poison;
        let memory = self.memory()?;
        let address = memory.alloc(bytes as u64, name)?;
        if let Some(byte) = poison {
            memory.fill(address, byte, bytes)?;
        }
        Ok(address)
    }

    /// Frees an allocation. Later accesses to it are faults: addresses are not used again.
    ///
    /// # Errors
    /// [`Error::Memory`] if `address` is not the start of a live allocation.
    pub fn free(&mut self, address: u64) -> Result<(), Error> {
        self.memory()?.free(address)
    }

    /// Copies bytes to the device.
    ///
    /// # Errors
    /// [`Error::Memory`] if the range is not inside one live allocation.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        self.memory()?.write(address, bytes)
    }

    /// Copies bytes from the device.
    ///
    /// # Errors
    /// [`Error::Memory`] if the range is not inside one live allocation.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        match &self.memory {
            Ok(memory) => memory.read(address, bytes),
            Err(message) => Err(Error::Memory(message.clone())),
        }
    }

    /// Sets `len` bytes to `byte`.
    ///
    /// # Errors
    /// [`Error::Memory`] if the range is not inside one live allocation.
    pub fn fill(&mut self, address: u64, byte: u8, len: usize) -> Result<(), Error> {
        self.memory()?.fill(address, byte, len)
    }

    /// The address of the module's variables, which are placed at its first launch.
    pub(crate) fn load(&mut self, module: &Module) -> Result<u64, Error> {
        if let Some(&base) = self.globals.get(&module.id) {
            return Ok(base);
        }
        let program = &module.program;
        if program.image.is_empty() {
            return Ok(0);
        }
        let mut image = program.image.clone();
        let memory = self.memory()?;
        let base = memory.alloc(image.len() as u64, "variables of the module")?;
        for &(at, fixup) in &program.fixups {
            let address = match fixup {
                Fixup::Global(offset) => base + offset,
                Fixup::Function(number) => CODE_BASE + 16 * u64::from(number),
            };
            image[at..at + 8].copy_from_slice(&address.to_le_bytes());
        }
        memory.write(base, &image)?;
        self.globals.insert(module.id, base);
        Ok(base)
    }
}
