//! Launches: arguments, limits, and CTAs on host threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::decode::MAX_SHARED;
use crate::device::{Device, Lane};
use crate::error::Error;
use crate::exec::{Counters, Launch, Progress};
use crate::memory::Region;
use crate::module::Module;
use crate::program::Kernel;
use crate::schedule::{Chance, Deck, Stream};

/// Warp instructions that a CTA runs before another resident CTA gets its turn.
const SLICE: u64 = 1 << 14;
/// Grids smaller than this many threads stay on the calling thread.
const PARALLEL_THREADS: u64 = 2048;

/// The shape of a launch.
#[derive(Clone, Debug)]
pub struct LaunchConfig {
    /// CTAs along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a CTA along x, y, z.
    pub block: [u32; 3],
    /// CTAs of a cluster along x, y, z; none for what the kernel itself requires, or one.
    pub cluster: Option<[u32; 3]>,
    /// Bytes of dynamic shared memory per CTA.
    pub dynamic_shared_bytes: u32,
    /// Refuses the launch unless all CTAs fit on the device at once.
    pub cooperative: bool,
}

impl Default for LaunchConfig {
    fn default() -> Self {
        LaunchConfig {
            grid: [1; 3],
            block: [1; 3],
            cluster: None,
            dynamic_shared_bytes: 0,
            cooperative: false,
        }
    }
}

/// One kernel parameter; its size must be that of the declaration.
#[derive(Clone, Debug)]
pub enum Arg {
    /// Four bytes.
    U32(u32),
    /// Eight bytes; also a pointer.
    U64(u64),
    /// A float32.
    F32(f32),
    /// A float64.
    F64(f64),
    /// Any bytes: small scalars, structs, tensor maps.
    Bytes(Vec<u8>),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::U32(value) => value.to_le_bytes().to_vec(),
            Arg::U64(value) => value.to_le_bytes().to_vec(),
            Arg::F32(value) => value.to_le_bytes().to_vec(),
            Arg::F64(value) => value.to_le_bytes().to_vec(),
            Arg::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// What a launch executed.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LaunchReport {
    /// Instructions executed by warps (or the parts of a warp that had diverged).
    pub warp_instructions: u64,
    /// Instructions times the lanes that executed them.
    pub lane_instructions: u64,
    /// Bytes loaded from device memory (generic addresses included).
    pub global_load_bytes: u64,
    /// Bytes stored to device memory (generic addresses included).
    pub global_store_bytes: u64,
    /// Those of the loaded bytes that bulk copies loaded, with or without a tensor map; once where
    /// several CTAs of a cluster get them.
    pub bulk_load_bytes: u64,
    /// Those of the stored bytes that bulk copies and reductions stored.
    pub bulk_store_bytes: u64,
    /// Those of the loaded bytes that `cp.async` loaded.
    pub copy_load_bytes: u64,
    /// Where [`DeviceConfig::traffic`](crate::DeviceConfig::traffic) asks for it.
    pub traffic: Option<Traffic>,
    /// What the kernel printed.
    pub printed: String,
}

/// Bytes that the loads, stores and `cp.async` of a launch's threads moved, in whole sectors of 32
/// bytes; atomics and bulk copies are not in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The sectors of each warp instruction, added up: what L2 serves if L1 catches nothing.
    pub requested_bytes: u64,
    /// Each sector that is loaded, once: what memory serves if L2 keeps everything.
    pub loaded_bytes: u64,
    /// Each sector that is stored, once.
    pub stored_bytes: u64,
}

impl Device {
    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// [`Error::Launch`] if the kernel is not there, or its shape, shared memory or arguments do
    /// not fit; [`Error::Fault`] if a thread does something wrong; [`Error::Deadlock`] if all
    /// threads wait. After a fault the memory holds what was stored until then.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        config: &LaunchConfig,
        args: &[Arg],
    ) -> Result<LaunchReport, Error> {
        let fail = |message: String| Error::Launch { kernel: kernel.to_string(), message };
        let Some((name, found)) = module.program.kernels.get_key_value(kernel) else {
            let names: Vec<&str> = module.kernels().collect();
            return Err(fail(format!("the module has {}", names.join(", "))));
        };
        let params = parameters(found, args).map_err(fail)?;
        let cluster = config.cluster.or(found.limits.required_cluster).unwrap_or([1; 3]);
        check(found, config, cluster).map_err(fail)?;
        let globals = self.load(module)?;
        self.launches += 1;
        let mut grid_chance = Chance::new(self.config.schedule, self.launches, Stream::Grid);
        let launch = Launch {
            program: &module.program,
            kernel: found,
            kernel_name: name,
            memory: self.memory.as_ref().map_err(|message| Error::Memory(message.clone()))?,
            params,
            globals,
            grid: config.grid,
            block: config.block,
            cluster,
            dynamic_shared: config.dynamic_shared_bytes,
            sm_count: self.config.sm_count.max(1),
            grid_id: self.launches,
            patience: if found.facts.can_spin { 64 } else { 1 << 16 },
            accumulation: self.config.accumulation,
            schedule: self.config.schedule,
            counts_traffic: self.config.traffic,
            election: grid_chance.as_mut().map(|chance| chance.salt()),
        };
        let resident = resident(&launch);
        let ctas: u64 = config.grid.iter().map(|&extent| u64::from(extent)).product();
        if config.cooperative && ctas > resident {
            return Err(fail(format!("{ctas} CTAs where {resident} fit at once")));
        }
        // CTAs of a cluster run together; from here on clusters are counted.
        let size = u64::from(cluster.iter().product::<u32>());
        let (clusters, resident) = (ctas / size, (resident / size).max(1));
        let limit = self.config.livelock_instructions;
        let threads = self.pool.as_ref().map_or(1, |pool| pool.current_num_threads());
        let worth = clusters > 1 && ctas * u64::from(launch.threads()) >= PARALLEL_THREADS;
        let counters = match &self.pool {
            Some(pool) if worth && !found.facts.communicates => {
                let count = threads.min(usize::try_from(clusters).unwrap_or(usize::MAX));
                let lanes = prepare(&mut self.lanes, count, &launch);
                run_apart(&launch, pool, lanes, clusters, limit)
            }
            _ if found.facts.communicates => {
                let room = (clusters, resident);
                run_together(&launch, &mut self.lanes, room, limit, grid_chance)
            }
            _ => {
                let lanes = prepare(&mut self.lanes, 1, &launch);
                run_clusters(&launch, &mut lanes[0], &AtomicU64::new(0), clusters, limit)
                    .map_err(|(_, error)| error)?;
                Ok(lanes[0].worker.counters.clone())
            }
        }?;
        Ok(LaunchReport {
            warp_instructions: counters.warp_instructions,
            lane_instructions: counters.lane_instructions,
            global_load_bytes: counters.global_load_bytes,
            global_store_bytes: counters.global_store_bytes,
            bulk_load_bytes: counters.bulk_load_bytes,
            bulk_store_bytes: counters.bulk_store_bytes,
            copy_load_bytes: counters.copy_load_bytes,
            traffic: counters.traffic.as_ref().map(|traffic| traffic.report()),
            printed: counters.printed,
        })
    }
}

fn parameters(kernel: &Kernel, args: &[Arg]) -> Result<Vec<u128>, String> {
    if args.len() != kernel.params.len() {
        return Err(format!("{} arguments for {} parameters", args.len(), kernel.params.len()));
    }
    let mut bytes = vec![0u8; (kernel.param_bytes as usize).next_multiple_of(16)];
    for (index, (arg, slot)) in args.iter().zip(&kernel.params).enumerate() {
        let value = arg.bytes();
        if value.len() != slot.bytes as usize {
            return Err(format!(
                "argument {index} has {} bytes, the parameter {}",
                value.len(),
                slot.bytes
            ));
        }
        bytes[slot.offset as usize..][..value.len()].copy_from_slice(&value);
    }
    let words = bytes.chunks_exact(16);
    Ok(words.map(|word| u128::from_ne_bytes(word.try_into().unwrap_or([0; 16]))).collect())
}

/// Limits of compute capability 9.0 (CUDA C++ programming guide, "Compute Capabilities").
fn check(kernel: &Kernel, config: &LaunchConfig, cluster: [u32; 3]) -> Result<(), String> {
    let LaunchConfig { grid, block, .. } = config;
    let shared = u64::from(kernel.static_shared) + u64::from(config.dynamic_shared_bytes);
    let threads: u64 = block.iter().map(|&extent| u64::from(extent)).product();
    if grid.contains(&0) || block.contains(&0) || cluster.contains(&0) {
        return Err(format!("grid {grid:?}, block {block:?}, cluster {cluster:?}: none may be 0"));
    }
    if threads > 1024 || block[2] > 64 {
        return Err(format!(
            "block {block:?} has {threads} threads, at most 1024 (64 along z) fit"
        ));
    }
    if grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
        return Err(format!("grid {grid:?} is larger than [2147483647, 65535, 65535]"));
    }
    if let Some(required) = kernel.limits.required_block
        && required != *block
    {
        return Err(format!("block {block:?}, the kernel requires {required:?}"));
    }
    if let Some(max) = kernel.limits.max_block {
        let most: u64 = max.iter().map(|&extent| u64::from(extent)).product();
        if threads > most {
            return Err(format!("block {block:?} has {threads} threads, the kernel allows {most}"));
        }
    }
    if shared > u64::from(MAX_SHARED) {
        return Err(format!(
            "{} bytes of static and {} of dynamic shared memory, {} fit",
            kernel.static_shared - crate::memory::window::SHARED_RESERVED,
            config.dynamic_shared_bytes,
            MAX_SHARED - crate::memory::window::SHARED_RESERVED
        ));
    }
    if (0..3).any(|axis| grid[axis] % cluster[axis] != 0) {
        return Err(format!("grid {grid:?} is not a multiple of the cluster {cluster:?}"));
    }
    if cluster.iter().product::<u32>() > 16 {
        return Err(format!("cluster {cluster:?} has more than 16 CTAs"));
    }
    Ok(())
}

/// CTAs that the device holds at once: limits of threads (2048), CTAs (32), shared memory and, as
/// far as the kernel states them, registers of an SM.
fn resident(launch: &Launch<'_>) -> u64 {
    let threads = launch.threads().next_multiple_of(32);
    let mut per_sm = (2048 / threads).min(32).min(MAX_SHARED / launch.shared_bytes().max(1024));
    if let Some(registers) = launch.kernel.limits.max_registers {
        per_sm = per_sm.min(65536 / (registers.max(1) * threads).max(1));
    }
    u64::from(per_sm.max(1)) * u64::from(launch.sm_count)
}

/// States for `count` host threads.
fn prepare<'l>(lanes: &'l mut Vec<Lane>, count: usize, launch: &Launch<'_>) -> &'l mut [Lane] {
    if lanes.len() < count {
        lanes.resize_with(count, Lane::default);
    }
    for lane in &mut lanes[..count] {
        lane.worker.counters =
            Counters { traffic: launch.counts_traffic.then(Box::default), ..Counters::default() };
        lane.worker.sites.clear();
        lane.worker.sites.resize(launch.program.sites as usize, Region::EMPTY);
    }
    &mut lanes[..count]
}

/// Runs clusters one after the other, taking their numbers from `next`.
fn run_clusters(
    launch: &Launch<'_>,
    lane: &mut Lane,
    next: &AtomicU64,
    clusters: u64,
    limit: u64,
) -> Result<(), (u64, Error)> {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= clusters {
            return Ok(());
        }
        lane.cluster.start(index, launch);
        let mut watch = Watch::new(limit);
        loop {
            match lane.cluster.run(SLICE, launch, &mut lane.worker) {
                Ok(Progress::Done) => break,
                Ok(Progress::Running) if watch.goes_on(lane) => {}
                Ok(state) => return Err((index, stuck(launch, &mut [&*lane].into_iter(), state))),
                Err(error) => return Err((index, error)),
            }
        }
    }
}

/// Notices when instructions run and nothing changes.
struct Watch {
    limit: u64,
    progress: u64,
    since: u64,
}

impl Watch {
    fn new(limit: u64) -> Watch {
        Watch { limit, progress: 0, since: 0 }
    }

    fn goes_on(&mut self, lane: &Lane) -> bool {
        self.check(lane.worker.progress, lane.worker.counters.warp_instructions)
    }

    fn check(&mut self, progress: u64, instructions: u64) -> bool {
        if progress != self.progress {
            (self.progress, self.since) = (progress, instructions);
        }
        instructions.saturating_sub(self.since) < self.limit
    }
}

fn stuck(launch: &Launch<'_>, lanes: &mut dyn Iterator<Item = &Lane>, state: Progress) -> Error {
    let mut waits = match state {
        Progress::Blocked => "all threads wait".to_string(),
        _ => "threads run in a loop that changes nothing".to_string(),
    };
    for lane in lanes.take(4) {
        lane.cluster.describe(launch, &mut waits);
    }
    const MOST: usize = 4000;
    if waits.len() > MOST {
        waits = waits.chars().take(MOST).collect();
        waits.push_str("\n  …");
    }
    Error::Deadlock { kernel: launch.kernel_name.to_string(), waits }
}

/// Runs clusters that cannot influence each other on several host threads.
fn run_apart(
    launch: &Launch<'_>,
    pool: &rayon::ThreadPool,
    lanes: &mut [Lane],
    clusters: u64,
    limit: u64,
) -> Result<Counters, Error> {
    let next = AtomicU64::new(0);
    // The fault of the lowest cluster is reported, so that the report does not depend on threads.
    let first: Mutex<Option<(u64, Error)>> = Mutex::new(None);
    pool.scope(|scope| {
        for lane in lanes.iter_mut() {
            scope.spawn(|_| {
                if let Err((index, error)) = run_clusters(launch, lane, &next, clusters, limit) {
                    next.fetch_max(clusters, Ordering::Relaxed);
                    let mut first = first.lock().unwrap_or_else(|poison| poison.into_inner());
                    if first.as_ref().is_none_or(|(lowest, _)| index < *lowest) {
                        *first = Some((index, error));
                    }
                }
            });
        }
    });
    if let Some((_, error)) = first.into_inner().unwrap_or_else(|poison| poison.into_inner()) {
        return Err(error);
    }
    let mut sum = Counters::default();
    for lane in lanes.iter() {
        sum.add(&lane.worker.counters);
    }
    Ok(sum)
}

/// Runs clusters that may talk to each other in turns on this thread. One is admitted when those
/// before it have had a slice and room is left: in order of their numbers, as on the device, or in
/// any order by chance.
fn run_together(
    launch: &Launch<'_>,
    lanes: &mut Vec<Lane>,
    (clusters, resident): (u64, u64),
    limit: u64,
    mut chance: Option<Box<Chance>>,
) -> Result<Counters, Error> {
    prepare(lanes, 1, launch);
    let mut worker = std::mem::take(&mut lanes[0].worker);
    let mut active: Vec<Lane> = Vec::new();
    let mut idle: Vec<Lane> = std::mem::take(lanes);
    let mut watch = Watch::new(limit);
    let mut deck = Deck::default();
    let result = loop {
        let mut moved = false;
        if (active.len() as u64) < resident
            && let Some(next) = deck.draw(clusters, chance.as_deref_mut())
        {
            let mut lane = idle.pop().unwrap_or_default();
            lane.cluster.start(next, launch);
            active.push(lane);
            moved = true;
        }
        if let Some(chance) = &mut chance {
            chance.shuffle(&mut active);
        }
        if active.is_empty() {
            break Ok(());
        }
        let mut failed = None;
        let mut at = 0;
        while at < active.len() {
            match active[at].cluster.run(SLICE, launch, &mut worker) {
                Ok(Progress::Done) => {
                    idle.push(active.remove(at));
                    moved = true;
                    continue;
                }
                Ok(Progress::Running) => moved = true,
                Ok(Progress::Blocked) => {}
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            at += 1;
        }
        if let Some(error) = failed {
            break Err(error);
        }
        let running = watch.check(worker.progress, worker.counters.warp_instructions);
        if !moved || !running {
            let state = if moved { Progress::Running } else { Progress::Blocked };
            break Err(stuck(launch, &mut active.iter(), state));
        }
    };
    let counters = std::mem::take(&mut worker.counters);
    idle.append(&mut active);
    *lanes = idle;
    if let Some(lane) = lanes.first_mut() {
        lane.worker = worker;
    }
    result.map(|()| counters)
}
