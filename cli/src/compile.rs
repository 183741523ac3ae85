//! The whole compiler on one screen.

use crate::args::{CompileArgs, RuleFamily};
use crate::failure::tell;
use crate::partition;
use moec_codegen::Generated;
use moec_frontend::{Ast, Model};
use moec_ir::{Diagnostic, Graph, Phase, Ranks, Sizes, Target};
use moec_passes::{Family, Optimized};
use moec_runtime::{Artefact, Compiled, artefact};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

/// What to compile to.
pub(crate) struct Request {
    pub(crate) args: CompileArgs,
    pub(crate) phases: Vec<Phase>,
    /// Keep MLIR and LLVM IR for those who look at them.
    pub(crate) texts: moec_codegen::Options,
    /// Work out what each rule gained.
    pub(crate) explain: bool,
    /// Where to write the artefact.
    pub(crate) output: Option<PathBuf>,
}

impl Request {
    /// Both phases, nothing beside.
    pub(crate) fn new(args: &CompileArgs) -> Self {
        Self {
            args: args.clone(),
            phases: Phase::ALL.to_vec(),
            texts: moec_codegen::Options::default(),
            explain: false,
            output: None,
        }
    }
}

/// What a stage has made, for those who look on.
pub(crate) enum Stage<'a> {
    Parsed(&'a Ast),
    Checked(&'a Model),
    Lowered(&'a Graph),
    Optimized(&'a Optimized),
    Generated(&'a Generated),
    Written,
}

/// Compiles a source. `hook` sees what each stage made and may say that this was enough, in
/// which case the result is `None`.
///
/// # Errors
/// All mistakes that the first failing stage found.
pub(crate) fn compile(
    source: &str,
    request: &Request,
    hook: &mut dyn FnMut(Stage<'_>) -> ControlFlow<()>,
) -> Result<Option<Artefact>, Vec<Diagnostic>> {
    /// Shows a stage's value to the hook.
    macro_rules! after {
        ($stage:expr) => {
            if hook($stage).is_break() {
                return Ok(None);
            }
        };
    }
    let ast = stage("parse", || moec_frontend::parse(source))?;
    after!(Stage::Parsed(&ast));

    let model = stage("check", || moec_frontend::check(&ast))?;
    after!(Stage::Checked(&model));

    let graph = stage("lower", || moec_frontend::lower(&model))?;
    verify("lower", &graph);
    after!(Stage::Lowered(&graph));

    let target = target(&request.args, &model);
    let mut phases = BTreeMap::new();
    for &phase in &request.phases {
        let ranks = ranks(&request.args, &model, phase)?;
        let options = moec_passes::Options {
            ranks,
            exchange: ranks.map(|ranks| partition::spread(&model, phase, &target, ranks)),
            explain: request.explain,
            ..options(&request.args, phase)
        };
        let optimized = stage(&format!("optimize {phase}"), || {
            moec_passes::optimize(&graph, &target, phase, &options)
        })?;
        after!(Stage::Optimized(&optimized));

        let generated = stage(&format!("generate {phase}"), || {
            moec_codegen::generate(&optimized.plan, request.texts)
        })?;
        tell(&generated.warnings, None);
        artefact::validate(&generated.plan)?;
        moec_passes::partition::residency::check_plan(&generated.plan)?;
        after!(Stage::Generated(&generated));
        phases.insert(phase, Compiled { plan: generated.plan, ptx: generated.ptx });
    }
    let digest = artefact::digest(&format!("{graph}\n{target:?}"));
    let artefact = Artefact { model: graph.name, source: digest, phases };
    if let Some(path) = &request.output {
        stage("write", || artefact.write(path))?;
        after!(Stage::Written);
    }
    Ok(Some(artefact))
}

/// Runs a stage and says how long it took.
fn stage<T, E>(name: &str, run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let begin = Instant::now();
    let result = run();
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    tracing::info!("{name}: {ms:.1} ms{}", if result.is_ok() { "" } else { ", failed" });
    result
}

/// Stops at a graph that is not well formed: a mistake of the stage before, not of the user.
fn verify(after: &str, graph: &Graph) {
    let faults = moec_ir::graph::verify(graph);
    assert!(
        faults.is_empty(),
        "after `{after}` the graph is wrong: {}\n{graph}",
        faults.join("; ")
    );
}

/// What the optimizer is asked for, on one rank.
pub(crate) fn options(args: &CompileArgs, phase: Phase) -> moec_passes::Options {
    let family = |family: &RuleFamily| match family {
        RuleFamily::Algebra => Family::Algebra,
        RuleFamily::Fusion => Family::Fusion,
    };
    moec_passes::Options {
        workload: Some(workload(args, phase)),
        without: args.without_rule.clone(),
        without_families: args.without_family.iter().map(family).collect(),
        ..Default::default()
    }
}

/// The step that costs are weighed for.
fn workload(args: &CompileArgs, phase: Phase) -> Sizes {
    let usual = moec_passes::default_workload(phase);
    let sequences = args.batch.unwrap_or(usual.sequences);
    let length = args.length.unwrap_or(usual.past / usual.sequences);
    let past = sequences.saturating_mul(length.clamp(1, 1 << 30));
    let tokens = match phase {
        Phase::Prefill => past,
        Phase::Decode => sequences,
    };
    Sizes { tokens, past, sequences }
}

/// The ranks asked for, else those over which the file spreads experts in a phase.
pub(crate) fn ranks(
    args: &CompileArgs,
    model: &Model,
    phase: Phase,
) -> Result<Option<Ranks>, Vec<Diagnostic>> {
    let Some(count) = args.ranks else { return Ok(model.parallel_of(phase).ranks) };
    Ranks::new(count, args.ranks_per_node).map(Some).map_err(|why| {
        let mistake = Diagnostic::error("E0810", why.to_string());
        vec![mistake.help("give --ranks and --ranks-per-node so that nodes are full")]
    })
}

/// The target asked for, as the file describes it where it does; else the first that the file
/// names, else H800.
pub(crate) fn target(args: &CompileArgs, model: &Model) -> Target {
    let described = |wanted: &Target| model.targets.iter().find(|t| t.target.name == wanted.name);
    match &args.target {
        Some(wanted) => described(wanted).map_or(wanted, |t| &t.target).clone(),
        None => match model.targets.first() {
            Some(first) => first.target.clone(),
            None => Target::named("h800").expect("h800 is a built-in target"),
        },
    }
}
