//! From what the user named to something that computes logits.

use crate::args::{CompileArgs, DeviceName, RunArgs};
use crate::compile::{Request, compile};
use crate::failure::{Failure, Source, tell};
use crate::progress::Work;
use moec_ir::plan::PAGE_ROWS;
use moec_ir::{Graph, Phase};
use moec_runtime::device::DeviceKind;
use moec_runtime::{Artefact, Checkpoint, Engine, Reference, Session};
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
    let kind = match args.device {
        DeviceName::Emulator => DeviceKind::Emulator,
        DeviceName::Cuda => DeviceKind::Cuda,
        DeviceName::Reference => {
            let graph = graph(&args.model)?;
            let checkpoint = Checkpoint::open(&args.weights)?;
            return use_engine(&mut Reference::new(&graph, &checkpoint)?);
        }
    };
    // First, so that its absence is told before any work is done.
    let device = kind.open()?;
    let artefact = artefact(args, job)?;
    // What exceeds the context is refused where sequences are opened.
    let context = artefact.phases.values().map(|c| c.plan.context).min().unwrap_or(0);
    let pages = job.length.min(context).div_ceil(PAGE_ROWS);
    let rows = job.sequences.saturating_mul(pages).saturating_mul(PAGE_ROWS);
    let checkpoint = Checkpoint::open(&args.weights)?;
    let work = Work::begin("loading weights");
    let mut session = Session::new(device, artefact, &checkpoint, rows, &mut |p| {
        work.bytes(p.done, p.total);
    })?;
    drop(work);
    let result = use_engine(&mut session);
    trace_profile(&session);
    result
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
    compile_args.batch.get_or_insert(job.sequences);
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
fn trace_profile(session: &Session) {
    for phase in Phase::ALL {
        let total = session.profile().total(phase);
        if total.launches == 0 {
            continue;
        }
        let ms = total.time.as_secs_f64() * 1e3;
        tracing::info!("{phase} on {}: {} launches, {ms:.1} ms", session.device(), total.launches);
        for (_, name, k) in session.profile().kernels().filter(|(p, _, _)| *p == phase) {
            let ms = k.time.as_secs_f64() * 1e3;
            let warp = k.counters.warp_instructions;
            tracing::debug!(
                "  {name}: {} launches, {ms:.1} ms, {warp} warp instructions",
                k.launches
            );
        }
    }
}
