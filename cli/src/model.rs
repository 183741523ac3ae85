//! From what the user named to something that computes logits.

use crate::args::{CompileArgs, DeviceName, RunArgs};
use crate::compile::{Request, compile};
use crate::failure::{Failure, Source, tell};
use crate::progress::Work;
use moec_emulator::{DeviceConfig, Schedule};
use moec_ir::plan::PAGE_ROWS;
use moec_ir::{Diagnostic, Graph, Phase, Ranks};
use moec_runtime::device::{DeviceKind, EmulatedGroup, Emulator};
use moec_runtime::group::Room;
use moec_runtime::session::Profile;
use moec_runtime::weights::Progress;
use moec_runtime::{Artefact, Checkpoint, Engine, GroupSession, Reference, Session};
use std::ops::ControlFlow;
use std::path::Path;

/// Limits rayon's threads, once, before anything uses them.
pub(crate) fn use_threads(args: &CompileArgs) {
    if let Some(threads) = args.threads {
        // Fails only where the threads have been started, which nobody does before.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global();
    }
}

/// What will be run.
pub(crate) struct Job<'a> {
    pub(crate) phases: &'a [Phase],
    pub(crate) sequences: u64,
    /// Tokens of each sequence, at most.
    pub(crate) length: u64,
}

/// Opens what computes a job and gives it to `use_engine`.
pub(crate) fn with_engine<T>(
    args: &RunArgs,
    job: &Job<'_>,
    use_engine: impl FnOnce(&mut dyn Engine) -> Result<T, Failure>,
) -> Result<T, Failure> {
    use_threads(&args.compile);
    if args.device == DeviceName::Reference {
        let graph = graph(&args.model)?;
        let checkpoint = Checkpoint::open(&args.weights)?;
        return use_engine(&mut Reference::new(&graph, &checkpoint)?);
    }
    let asked = Ranks::new(args.compile.ranks.unwrap_or(1), args.compile.ranks_per_node);
    if let (DeviceName::Cuda, Ok(ranks)) = (args.device, asked)
        && !ranks.is_one()
    {
        return Err(several_gpus(ranks).into());
    }
    // First, so that its absence is told before any work is done.
    let device = match args.device {
        DeviceName::Cuda => DeviceKind::Cuda.open()?,
        _ => Box::new(Emulator::new(emulator(args.schedule_seed))),
    };
    let artefact = artefact(args, job)?;
    let ranks = ranks(args, &artefact)?;
    // What exceeds the context is refused where sequences are opened.
    let context = artefact.phases.values().map(|c| c.plan.context).min().unwrap_or(0);
    let pages = job.length.min(context).div_ceil(PAGE_ROWS);
    let of_rank = job.sequences.div_ceil(u64::from(ranks.count()));
    let rows = of_rank.saturating_mul(pages).saturating_mul(PAGE_ROWS);
    let checkpoint = Checkpoint::open(&args.weights)?;
    let work = Work::begin("loading weights");
    let mut progress = |p: Progress| work.bytes(p.done, p.total);
    if ranks.is_one() {
        let mut session = Session::new(device, artefact, &checkpoint, rows, &mut progress)?;
        drop(work);
        let result = use_engine(&mut session);
        trace_profile(session.profile(), &session.device());
        return result;
    }
    if args.device == DeviceName::Cuda {
        return Err(several_gpus(ranks).into());
    }
    let group = EmulatedGroup::new(ranks, emulator(args.schedule_seed))?;
    let room = Room { rows, most_tokens: None };
    let mut session = GroupSession::new(group, &artefact, &checkpoint, room, &mut progress)?;
    drop(work);
    let result = use_engine(&mut session);
    trace_profile(session.profile(), &format!("{ranks} on the emulator"));
    result
}

/// An emulated GPU; what the hardware leaves open is decided by a seed where one is given.
pub(crate) fn emulator(seed: Option<u64>) -> DeviceConfig {
    let schedule = seed.map_or(Schedule::InOrder, Schedule::Seeded);
    DeviceConfig { schedule, ..DeviceConfig::default() }
}

/// The group that an artefact is for, which must be the one asked for if any is.
fn ranks(args: &RunArgs, artefact: &Artefact) -> Result<Ranks, Failure> {
    let built = artefact.phases.values().find_map(|c| c.plan.ranks).unwrap_or(Ranks::ONE);
    match args.compile.ranks {
        Some(asked) if asked != built.count() => {
            let message = format!("the artefact is for {built}, and {asked} are asked for");
            let help = format!("build it with --ranks {asked}");
            Err(vec![Diagnostic::error("E1004", message).help(help)].into())
        }
        _ => Ok(built),
    }
}

/// Several GPUs need what is not there.
fn several_gpus(ranks: Ranks) -> Vec<Diagnostic> {
    let message = format!(
        "{ranks} on GPUs need a process for each GPU, which moec does not start: one process \
         drives one GPU"
    );
    let help = "run them on the emulator, `--device emulator`, or build for one, `--ranks 1`";
    vec![Diagnostic::error("E1106", message).help(help)]
}

/// The graph of a `.moe` file.
pub(crate) fn graph(path: &Path) -> Result<Graph, Failure> {
    if path.is_dir() {
        let message =
            format!("`{}` is not a `.moe` file; the reference device needs one", path.display());
        return Err(Failure::Message(message));
    }
    let source = Source::read(path)?;
    let checked = moec_frontend::parse(&source.text).and_then(|ast| moec_frontend::check(&ast));
    let model = checked.map_err(|d| source.failure(d))?;
    tell(&model.warnings, Some(&source));
    moec_frontend::lower(&model).map_err(|d| source.failure(d))
}

/// Reads an artefact, or compiles a `.moe` file to one that suits the job.
fn artefact(args: &RunArgs, job: &Job<'_>) -> Result<Artefact, Failure> {
    if args.model.is_dir() {
        return Ok(Artefact::read(&args.model)?);
    }
    let source = Source::read(&args.model)?;
    let work = Work::begin("compiling");
    let mut compile_args = args.compile.clone();
    // Sequences are divided among ranks, each of which runs the plan on its own.
    let of_rank = job.sequences.div_ceil(u64::from(compile_args.ranks.unwrap_or(1)));
    compile_args.batch.get_or_insert(of_rank);
    compile_args.length.get_or_insert(job.length);
    let request = Request { phases: job.phases.to_vec(), ..Request::new(&compile_args) };
    let compiled = compile(&source.text, &request, &mut |_| ControlFlow::Continue(()));
    drop(work);
    match compiled.map_err(|d| source.failure(d))? {
        Some(artefact) => Ok(artefact),
        None => Err(Failure::Message("nothing was compiled".into())),
    }
}

/// What each kernel cost, with `-v`.
fn trace_profile(profile: &Profile, device: &str) {
    for phase in Phase::ALL {
        let total = profile.total(phase);
        if total.launches == 0 {
            continue;
        }
        let ms = total.time.as_secs_f64() * 1e3;
        tracing::info!("{phase} on {device}: {} launches, {ms:.1} ms", total.launches);
        for (_, name, k) in profile.kernels().filter(|(p, _, _)| *p == phase) {
            let ms = k.time.as_secs_f64() * 1e3;
            let warp = k.counters.warp_instructions;
            tracing::debug!(
                "  {name}: {} launches, {ms:.1} ms, {warp} warp instructions",
                k.launches
            );
        }
    }
}
