//! Launches: arguments, limits, and CTAs on host threads.

mod apart;
mod slots;
mod together;
mod watch;

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

pub(crate) use apart::{line_up, prepare};
use apart::{run_apart, run_clusters};
use slots::Slots;
pub(crate) use together::{Span, Together};
use watch::stuck;
pub(crate) use watch::{Watch, complete, hung};

use crate::coherence::Machine;
use crate::decode::MAX_SHARED;
use crate::device::{Device, DeviceConfig, Lane};
use crate::error::Error;
use crate::exec::{Counters, Launch, Progress};
use crate::group::Member;
use crate::memory::GlobalMemory;
use crate::module::Module;
use crate::program::Kernel;
use crate::schedule::{Chance, Schedule, Stream};

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
        let globals = self.load(module)?;
        self.launches += 1;
        let numbers = Numbers { globals, grid_id: self.launches, lot: self.launches };
        let memory = self.memory.as_ref().map_err(|message| Error::Memory(message.clone()))?;
        let schedule = self.config.schedule;
        let machine = (schedule != Schedule::InOrder)
            .then(|| Mutex::new(Machine::new(1, schedule, self.launches)));
        let surroundings = (memory, None, machine.as_ref());
        let launch = build(module, kernel, config, args, &self.config, surroundings, numbers)?;
        let counters = if launch.kernel.facts.communicates {
            run_together(&launch, &mut self.lanes, self.config.livelock_instructions)
        } else {
            run_alone(&launch, &mut self.lanes, self.pool.as_deref(), &self.config)
        }?;
        Ok(LaunchReport::of(counters))
    }
}

impl LaunchReport {
    pub(crate) fn of(counters: Counters) -> LaunchReport {
        LaunchReport {
            warp_instructions: counters.warp_instructions,
            lane_instructions: counters.lane_instructions,
            global_load_bytes: counters.global_load_bytes,
            global_store_bytes: counters.global_store_bytes,
            bulk_load_bytes: counters.bulk_load_bytes,
            bulk_store_bytes: counters.bulk_store_bytes,
            copy_load_bytes: counters.copy_load_bytes,
            traffic: counters.traffic.as_ref().map(|traffic| traffic.report()),
            printed: counters.printed,
        }
    }
}

/// What tells a launch from others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    /// Where the module's variables lie.
    pub(crate) globals: u64,
    /// The launch's number on its device.
    pub(crate) grid_id: u64,
    /// The number of its stream of random numbers.
    pub(crate) lot: u64,
}

/// The device's memory, its group, and what it has in common with others that run.
pub(crate) type Surroundings<'a> =
    (&'a GlobalMemory, Option<Member<'a>>, Option<&'a Mutex<Machine>>);

/// Checks a launch and makes what its CTAs share.
pub(crate) fn build<'a>(
    module: &'a Module,
    kernel: &str,
    config: &LaunchConfig,
    args: &[Arg],
    device: &DeviceConfig,
    (memory, member, machine): Surroundings<'a>,
    numbers: Numbers,
) -> Result<Launch<'a>, Error> {
    let fail = |message: String| Error::Launch { kernel: kernel.to_string(), message };
    let Some((name, found)) = module.program.kernels.get_key_value(kernel) else {
        let names: Vec<&str> = module.kernels().collect();
        return Err(fail(format!("the module has {}", names.join(", "))));
    };
    let params = parameters(found, args).map_err(fail)?;
    let cluster = config.cluster.or(found.limits.required_cluster).unwrap_or([1; 3]);
    check(found, config, cluster).map_err(fail)?;
    let mut chance = Chance::new(device.schedule, numbers.lot, Stream::Grid);
    let machine = machine.filter(|_| found.facts.communicates);
    let program = match machine {
        Some(_) => module.watched().ok_or_else(|| fail("it cannot be followed".to_string()))?,
        None => &module.program,
    };
    let (name, found) = program.kernels.get_key_value(kernel).unwrap_or((name, found));
    let launch = Launch {
        program,
        kernel: found,
        kernel_name: name,
        memory,
        member,
        machine,
        finds_races: machine.is_some() && device.races && device.schedule != Schedule::InOrder,
        is_weak: machine.is_some() && device.schedule != Schedule::InOrder,
        params,
        globals: numbers.globals,
        grid: config.grid,
        block: config.block,
        cluster,
        dynamic_shared: config.dynamic_shared_bytes,
        sm_count: device.sm_count.max(1),
        grid_id: numbers.grid_id,
        lot: numbers.lot,
        patience: if found.facts.can_spin { 64 } else { 1 << 16 },
        accumulation: device.accumulation,
        schedule: device.schedule,
        counts_traffic: device.traffic,
        election: chance.as_mut().map(|chance| chance.salt()),
    };
    let (ctas, room) = (launch.ctas(), resident(&launch));
    if config.cooperative && ctas > room {
        return Err(fail(format!("{ctas} CTAs where {room} fit at once")));
    }
    Ok(launch)
}

/// Runs a launch whose CTAs cannot influence each other to its end.
pub(crate) fn run_alone(
    launch: &Launch<'_>,
    lanes: &mut Vec<Lane>,
    pool: Option<&rayon::ThreadPool>,
    config: &DeviceConfig,
) -> Result<Counters, Error> {
    let (clusters, limit) = (launch.clusters(), config.livelock_instructions);
    let threads = launch.ctas() * u64::from(launch.threads());
    if let Some(pool) = pool.filter(|_| clusters > 1 && threads >= PARALLEL_THREADS) {
        let count = pool.current_num_threads().min(usize::try_from(clusters).unwrap_or(usize::MAX));
        return run_apart(launch, pool, prepare(lanes, count, launch), clusters, limit);
    }
    let lanes = prepare(lanes, 1, launch);
    run_clusters(launch, &mut lanes[0], &AtomicU64::new(0), clusters, limit)
        .map_err(|(_, error)| error)?;
    Ok(lanes[0].worker.counters.clone())
}

/// Runs clusters that may talk to each other in turns on this thread.
fn run_together(launch: &Launch<'_>, lanes: &mut Vec<Lane>, limit: u64) -> Result<Counters, Error> {
    prepare(lanes, 1, launch);
    let mut together = Together::new(launch, std::mem::take(lanes), 1);
    let mut watch = Watch::new(limit);
    let result = loop {
        let state = match together.round(launch, SLICE, 0) {
            Ok(state) => state,
            Err(error) => break Err(error),
        };
        let mut moved = state == Progress::Running;
        if let Some(machine) = launch.machine {
            let mut machine = machine.lock().unwrap_or_else(|poison| poison.into_inner());
            moved |= machine.round(moved);
        }
        if !moved && state == Progress::Paused {
            together.hurry();
            moved = true;
        }
        if together.is_done() {
            break Ok(());
        }
        let running = watch.check(together.progress(), together.instructions());
        if !moved || !running {
            let state = if moved { Progress::Running } else { Progress::Blocked };
            break Err(stuck(launch, &mut together.clusters(), together.not_begun(launch), state));
        }
    };
    let (counters, rest) = together.end(launch);
    *lanes = rest;
    result.map(|()| counters)
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

/// CTAs of the launch that an SM holds at once: limits of threads (2048), CTAs (32), shared memory
/// and, as far as the kernel states them, registers of an SM.
fn per_sm(launch: &Launch<'_>) -> u32 {
    let threads = launch.threads().next_multiple_of(32);
    let mut per_sm = (2048 / threads).min(32).min(MAX_SHARED / launch.shared_bytes().max(1024));
    if let Some(registers) = launch.kernel.limits.max_registers {
        per_sm = per_sm.min(65536 / (registers.max(1) * threads).max(1));
    }
    per_sm.max(1)
}

/// CTAs that the device holds at once.
fn resident(launch: &Launch<'_>) -> u64 {
    u64::from(per_sm(launch)) * u64::from(launch.sm_count)
}
