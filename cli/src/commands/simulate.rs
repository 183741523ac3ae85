//! `moec simulate`.

use super::place::{of_result, of_values};
use crate::args::SimulateArgs;
use crate::compile::{Request, Stage, compile};
use crate::failure::{Failure, Source, tell};
use crate::model::use_threads;
use crate::output;
use crate::progress::Work;
use moec_emulator::Schedule;
use moec_ir::timeline::Timeline;
use moec_ir::{Diagnostic, Graph, Ranks};
use moec_runtime::simulate::{
    self, Difference, Failed, Loads, Outcome, Routing, Simulation, Tokens, Verdict, steer,
};
use moec_runtime::weights::{Demand, random};
use moec_runtime::{Artefact, Checkpoint};
use std::fmt::Write as _;
use std::ops::ControlFlow;

/// Largest median of the relative error of a row of logits between ranks on several nodes and a
/// single rank. Sums over the experts of a node are rounded to bfloat16, 2^-9 relative (Higham,
/// Accuracy and Stability, section 2.1), on their way to another node; of such roundings a token
/// passes at most a hundred, whose errors add up like a random walk: 2^-9 * sqrt(100) = 0.02.
const LIMIT: f64 = 0.02;

/// Runs a model on emulated ranks under many schedules and compares what they give.
pub(crate) fn simulate(args: &SimulateArgs) -> Result<(), Failure> {
    use_threads(&args.compile);
    let source = Source::read(&args.model)?;
    let compiled = Compiled::of(args, &source)?;
    let (graph, ranks) = (&compiled.graph, compiled.ranks);
    let checkpoint = match &args.weights {
        Some(folder) => Checkpoint::open(folder)?,
        None => random(&Demand::of_graph(graph), args.seed)?,
    };
    let vocab = vocab(graph)?;
    let routing = args.routing.of();
    // Ranks that differ in their tokens, and one that has none, ask for more than equal ones; a
    // routing that is asked for is of equal ones.
    let tokens = Tokens::draw(ranks, args.tokens, routing == Routing::Model, (vocab, args.seed));
    let (checkpoint, loads) = match routing {
        Routing::Model => (checkpoint, vec![]),
        _ => {
            let _work = Work::begin("fitting the routers");
            let wanted = (routing, ranks, args.seed);
            steer(graph, &checkpoint, &tokens.sequences(), wanted)?
        }
    };
    let most = if routing == Routing::ExactCapacity { args.tokens } else { 2 * args.tokens };
    let simulation = Simulation {
        artefact: &compiled.artefact,
        checkpoint: &checkpoint,
        ranks,
        tokens: &tokens,
        most,
    };
    let told = Told { source: &source, graph, seed: None };
    if let Some(seed) = args.only_schedule {
        return only(args, &simulation, &Told { seed: Some(seed), ..told });
    }
    let begun = head(args, &compiled, &tokens, &loads);
    output::write(begun.as_bytes())?;
    let work = Work::begin("without a schedule");
    let (expected, timeline) = simulation.record(Schedule::InOrder).map_err(|f| told.failed(f))?;
    drop(work);
    write_timeline(args, &timeline)?;
    let mut text = String::new();
    if let Some(one) = &compiled.one {
        let work = Work::begin("on one rank");
        let alone = simulation.run_alone(one)?;
        drop(work);
        against_one(&expected, &alone, (ranks, vocab), &told, &mut text)?;
    }
    output::write(text.as_bytes())?;
    let work = Work::begin("schedules");
    let verdict = simulation.schedules(0..args.schedules, &expected, &mut |done| {
        work.count(done, args.schedules);
    });
    drop(work);
    match verdict {
        Verdict::Same => {
            let line = format!("{} schedules: all gave the same bits\n", args.schedules);
            output::write(line.as_bytes())
        }
        Verdict::Differs { seed, difference } => {
            Err(Told { seed: Some(seed), ..told }.differs(&difference))
        }
        Verdict::Failed { seed, failed } => Err(Told { seed: Some(seed), ..told }.failed(failed)),
    }
}

/// A model for the ranks and, to compare with, for one.
struct Compiled {
    graph: Graph,
    artefact: Artefact,
    ranks: Ranks,
    /// None where there is one rank anyway.
    one: Option<Artefact>,
}

impl Compiled {
    fn of(args: &SimulateArgs, source: &Source) -> Result<Self, Failure> {
        let _work = Work::begin("compiling");
        let mut compile_args = args.compile.clone();
        compile_args.batch.get_or_insert(1);
        compile_args.length.get_or_insert(args.tokens + 1);
        let (mut graph, mut warnings) = (None, vec![]);
        let mut built = |args: &crate::args::CompileArgs| {
            let compiled = compile(&source.text, &Request::new(args), &mut |stage| {
                match stage {
                    Stage::Checked(model) => warnings = model.warnings.clone(),
                    Stage::Lowered(lowered) => graph = Some(lowered.clone()),
                    _ => {}
                }
                ControlFlow::Continue(())
            });
            let artefact = compiled.map_err(|d| source.failure(d))?;
            artefact.ok_or_else(|| Failure::Message("nothing was compiled".into()))
        };
        let artefact = built(&compile_args)?;
        let ranks = artefact.phases.values().find_map(|c| c.plan.ranks);
        compile_args.ranks = Some(1);
        let one = ranks.map(|_| built(&compile_args)).transpose()?;
        tell(&warnings, Some(source));
        let Some(ranks) = ranks else {
            let message = "a simulation takes several ranks";
            return Err(Failure::Message(format!("{message}: --ranks 8 --ranks-per-node 4")));
        };
        match graph {
            Some(graph) => Ok(Self { graph, artefact, ranks, one }),
            None => Err(Failure::Message("nothing was compiled".into())),
        }
    }
}

/// The width of the logits.
fn vocab(graph: &Graph) -> Result<u64, Failure> {
    let main = graph.entry("main");
    let step = main.and_then(|m| m.steps.last());
    let function = step.map(|s| &graph.functions[s.function]);
    let logits = function.and_then(|f| Some(f.node(*f.outputs.first()?)));
    let width = logits.and_then(|n| n.ty.last());
    width.ok_or_else(|| Failure::Message("the model returns no logits [T, vocab]".into()))
}

/// What is about to run.
fn head(args: &SimulateArgs, compiled: &Compiled, tokens: &Tokens, loads: &[Loads]) -> String {
    let counts: Vec<String> = tokens.prefill.iter().map(|t| t.len().to_string()).collect();
    let mut text = format!(
        "{} on {}: prefill of {} tokens, then one token each\n",
        compiled.graph.name,
        compiled.ranks,
        counts.join(" + ")
    );
    for Loads { function, layer, counts } in loads {
        let layer = layer.map_or(String::new(), |l| format!(" of layer {l}"));
        let each = (counts.len() / compiled.ranks.count() as usize).max(1);
        let of_ranks: Vec<String> = counts
            .chunks(each)
            .map(|c| c.iter().map(u64::to_string).collect::<Vec<_>>().join(" "))
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {} in `{function}`{layer}: tokens of each expert {}",
            args.routing.of().name(),
            of_ranks.join(" | ")
        );
    }
    text
}

/// Compares ranks with a single one: on one node bit for bit.
fn against_one(
    group: &Outcome,
    alone: &Outcome,
    (ranks, vocab): (Ranks, u64),
    told: &Told<'_>,
    text: &mut String,
) -> Result<(), Failure> {
    let error = simulate::median_error(group, alone, vocab);
    let first = simulate::compare(group, alone);
    let limit = if ranks.nodes() == 1 { 0.0 } else { LIMIT };
    let fits = match &first {
        None => true,
        Some(_) => ranks.nodes() > 1 && error <= limit,
    };
    if !fits {
        let place = first.map_or(String::new(), |d| format!("; first {d}"));
        let message = format!(
            "{ranks} give other logits than one rank: the median error is {error:.1e}, at most \
             {limit} is allowed{place}"
        );
        let help = "the model's exchange of experts is wrong, or `--without-rule` changed it";
        return Err(told.tell(Diagnostic::error("E1302", message).help(help)));
    }
    let how = match first {
        None => "the same bits as one rank".to_owned(),
        Some(_) => format!("median error to one rank {error:.1e} (limit {limit})"),
    };
    text.push_str(&format!("in order: {how}\n"));
    Ok(())
}

/// Repeats one schedule.
fn only(args: &SimulateArgs, simulation: &Simulation<'_>, told: &Told<'_>) -> Result<(), Failure> {
    let seed = told.seed.unwrap_or(0);
    let work = Work::begin("without a schedule");
    let expected = simulation.run(Schedule::InOrder);
    drop(work);
    let work = Work::begin("one schedule");
    let outcome = simulation.record(Schedule::Seeded(seed));
    drop(work);
    let (outcome, timeline) = outcome.map_err(|f| told.failed(f))?;
    write_timeline(args, &timeline)?;
    let expected = expected.map_err(|f| Told { seed: None, ..*told }.failed(f))?;
    match simulate::compare(&outcome, &expected) {
        None => output::write(format!("schedule {seed}: the same bits as in order\n").as_bytes()),
        Some(difference) => Err(told.differs(&difference)),
    }
}

/// Writes what ran when, if it was asked for.
fn write_timeline(args: &SimulateArgs, timeline: &Timeline) -> Result<(), Failure> {
    let Some(path) = &args.timeline else { return Ok(()) };
    output::write_to(Some(path), timeline.to_string().as_bytes())
}

/// Whom to tell of failures, and of which schedule.
#[derive(Clone, Copy)]
struct Told<'a> {
    source: &'a Source,
    graph: &'a Graph,
    seed: Option<u64>,
}

impl Told<'_> {
    fn tell(&self, mistake: Diagnostic) -> Failure {
        self.source.failure(vec![mistake])
    }

    fn schedule(&self) -> String {
        self.seed.map_or("in order".into(), |seed| format!("under schedule {seed}"))
    }

    fn again(&self) -> String {
        let seed = self.seed.map_or(String::new(), |seed| {
            format!("`--only-schedule {seed}` with the same options repeats it")
        });
        if seed.is_empty() { "it happens without any schedule".into() } else { seed }
    }

    /// A value that is not the same under another schedule.
    fn differs(&self, difference: &Difference) -> Failure {
        let message = format!("{}, results are others: {difference}", self.schedule());
        let mut mistake = Diagnostic::error("E1301", message).help(self.again());
        if let Some(span) = of_result(self.graph, &difference.function, difference.output) {
            mistake = mistake.at(span, "the first result that differs");
        }
        self.tell(mistake)
    }

    /// A step that did not end well.
    fn failed(&self, failed: Failed) -> Failure {
        let Failed { mut diagnostics, places } = failed;
        for mistake in &mut diagnostics {
            mistake.message = format!("{}, {}", self.schedule(), mistake.message);
            mistake.help.get_or_insert_with(|| self.again());
            for (function, computes) in &places {
                if let Some(span) = of_values(self.graph, function, computes) {
                    *mistake =
                        mistake.clone().at(span, format!("waits while computing {computes}"));
                }
            }
        }
        self.source.failure(diagnostics)
    }
}
