//! The pass from the graph to the plan, stage by stage.

use crate::build::Built;
use crate::cost::{CostModel, Machine};
use crate::explain::{self, Explanation, FunctionReport};
use crate::extract::{Extracted, Problem};
use crate::language::EGraph;
use crate::partition::{Partition, Spread, partition};
use crate::plan::{self, KernelTable};
use crate::rules::{self as tables, Family, Rule};
use crate::saturate::{Limits, Saturation, saturate};
use crate::verify_plan::verify_plan;
use moec_ir::plan::FORMAT;
use moec_ir::{Diagnostic, Function, Graph, Op, Phase, Plan, Ranks, Sizes, Target, graph};
use std::borrow::Cow;
use std::fmt::Write as _;

/// What can be asked of the optimizer.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The step for which costs are weighed; [`default_workload`] of the phase if not given.
    pub workload: Option<Sizes>,
    /// The ranks that share the experts; one if not given.
    pub ranks: Option<Ranks>,
    /// How tokens are moved between them, for the partition of SMs; without, the cost model alone
    /// decides how many communicate.
    pub exchange: Option<Spread>,
    /// Names of rules that are not applied.
    pub without: Vec<String>,
    /// Tables of which no rule is applied.
    pub without_families: Vec<Family>,
    /// When saturation stops at the latest.
    pub limits: Limits,
    /// Whether [`Explanation::steps`] is worked out, which optimises each function once more for
    /// every rule that it uses.
    pub explain: bool,
}

/// The result of [`optimize`].
#[derive(Clone, Debug)]
pub struct Optimized {
    /// The plan; geometry is for code generation to fill in.
    pub plan: Plan,
    /// Why the plan is what it is.
    pub explanation: Explanation,
    /// How SMs are divided, where [`Options::exchange`] was given and experts are spread.
    pub partition: Option<Partition>,
    /// Every class of every function's e-graph and its nodes, for people.
    pub egraph: String,
}

/// A rule as users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// Its name, which [`Options::without`] takes.
    pub name: &'static str,
    /// The table it stands in.
    pub family: Family,
    /// What it says.
    pub equation: &'static str,
    /// The functions that say where it holds.
    pub conditions: Vec<&'static str>,
}

/// Every rule: lowering, algebra, fusion.
pub fn rules() -> Vec<RuleInfo> {
    let info = |r: Rule| RuleInfo {
        name: r.name,
        family: r.family,
        equation: r.equation,
        conditions: r.conditions(),
    };
    tables::all().into_iter().map(info).collect()
}

/// The step for which costs are weighed if nothing else is asked for: decoding one token for
/// each of 128 sequences of 4,096 tokens (DeepSeek's published decode profile), or prefilling
/// one sequence of 4,096 tokens.
pub fn default_workload(phase: Phase) -> Sizes {
    match phase {
        Phase::Decode => Sizes { tokens: 128, past: 128 * 4096, sequences: 128 },
        Phase::Prefill => Sizes { tokens: 4096, past: 4096, sequences: 1 },
    }
}

/// Optimises a model for a target and a phase.
///
/// # Errors
/// E0801 where a rule is switched off that does not exist; E0802 where no kernel computes an
/// operation; E0803 where a value cannot be laid out; E0804 where the graph is not well formed;
/// E0805 where the plan made is wrong, which is a bug of ours; E0808 where SMs cannot be divided as
/// [`Options::exchange`] asks.
pub fn optimize(
    graph: &Graph,
    target: &Target,
    phase: Phase,
    options: &Options,
) -> Result<Optimized, Vec<Diagnostic>> {
    let faults = graph::verify(graph);
    if !faults.is_empty() {
        let tell =
            |fault| Diagnostic::error("E0804", format!("the graph is not well formed: {fault}"));
        return Err(faults.into_iter().map(tell).collect());
    }
    let spread = spread(graph, options)?;
    let graph = spread.as_ref();
    let all = tables::all();
    let rules = enabled(&all, options)?;
    let cost = cost_model(graph, target, phase, options);
    let (workload, ranks) = (cost.sizes, cost.ranks);
    let mut kernels = KernelTable::default();
    let (mut functions, mut reports, mut dump, mut mistakes) =
        (vec![], vec![], String::new(), vec![]);
    for function in &graph.functions {
        let solved = solve(function, &rules, options.limits, &cost);
        describe(&mut dump, function, &solved.built.egraph);
        let Some(extracted) = &solved.extracted else {
            mistakes.push(no_kernel(function, &solved.built, &cost));
            continue;
        };
        match plan::plan_function(function, extracted, &cost, &mut kernels) {
            Ok(planned) => {
                reports.push(FunctionReport::new(graph, function, &solved, &planned, &kernels));
                functions.push(planned.function);
            }
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let mut plan = Plan {
        format: FORMAT,
        model: graph.name.clone(),
        context: graph.context,
        target: target.clone(),
        phase,
        ranks: cost.ranks,
        symmetric: kernels.shared_memory(),
        workload,
        kernels: kernels.finish(),
        functions,
        entries: graph.entries.iter().map(|e| plan::plan_entry(graph, e)).collect(),
    };
    let faults = verify_plan(&plan);
    if !faults.is_empty() {
        return Err(faults.into_iter().map(our_bug).collect());
    }
    let explanation = explain::explain(graph, &rules, &plan, reports, &cost, options);
    let partition = match options.exchange.filter(|_| ranks.is_some()) {
        Some(spread) => {
            partition(&mut plan, &explanation, &spread).map_err(|error| vec![error.into()])?
        }
        None => None,
    };
    Ok(Optimized { plan, explanation, partition, egraph: dump })
}

/// A function's e-graph and the kernels chosen from it.
pub(crate) struct Solved {
    pub(crate) built: Built,
    pub(crate) saturation: Saturation,
    /// `None` where some output cannot be computed.
    pub(crate) extracted: Option<Extracted>,
}

/// Saturates and extracts one function.
pub(crate) fn solve(
    function: &Function,
    rules: &[&Rule],
    limits: Limits,
    cost: &CostModel,
) -> Solved {
    let mut built = Built::new(function);
    let saturation = saturate(&mut built.egraph, rules, limits);
    let names = built.names(function);
    let outputs = built.outputs(function);
    let extracted = Problem::new(&built.egraph, &names, &outputs, cost).solve();
    tracing::debug!(
        function = function.name,
        nodes = built.egraph.total_number_of_nodes(),
        iterations = saturation.iterations,
        saturated = saturation.saturated,
        "optimised"
    );
    Solved { built, saturation, extracted }
}

/// What costs are weighed for.
pub(crate) fn cost_model(
    graph: &Graph,
    target: &Target,
    phase: Phase,
    options: &Options,
) -> CostModel {
    let sizes = options.workload.unwrap_or_else(|| default_workload(phase));
    let machine = Machine::new(target.clone());
    let ranks = options.ranks.filter(|r| !r.is_one());
    CostModel { machine, sizes, ranks, promote_every: graph.promote_every }
}

/// The graph with its experts spread over the ranks.
///
/// # Errors
/// As of `spread::spread`.
pub(crate) fn spread<'a>(
    graph: &'a Graph,
    options: &Options,
) -> Result<Cow<'a, Graph>, Vec<Diagnostic>> {
    match options.ranks.filter(|r| !r.is_one()) {
        Some(ranks) => Ok(Cow::Owned(crate::spread::spread(graph, ranks)?)),
        None => Ok(Cow::Borrowed(graph)),
    }
}

/// The rules that are not switched off.
pub(crate) fn enabled<'a>(
    all: &'a [Rule],
    options: &Options,
) -> Result<Vec<&'a Rule>, Vec<Diagnostic>> {
    let without = &options.without;
    let unknown = without.iter().filter(|name| all.iter().all(|r| r.name != **name));
    let unknown: Vec<Diagnostic> = unknown.map(|name| unknown_rule(name, all)).collect();
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let off = |r: &Rule| {
        without.iter().any(|w| w == r.name) || options.without_families.contains(&r.family)
    };
    Ok(all.iter().filter(|r| !off(r)).collect())
}

/// E0801, with the nearest name.
pub(crate) fn unknown_rule(name: &str, all: &[Rule]) -> Diagnostic {
    let mistake = Diagnostic::error("E0801", format!("there is no rule `{name}`"));
    let near = all.iter().map(|r| (strsim::jaro_winkler(name, r.name), r.name));
    match near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness > 0.7) {
        Some((_, near)) => mistake.help(format!("did you mean `{near}`?")),
        None => mistake.help("`moec rules` lists the rules"),
    }
}

/// E0802, at the first operation whose operands kernels compute and which none computes.
fn no_kernel(function: &Function, built: &Built, cost: &CostModel) -> Diagnostic {
    let computable = |id| {
        let names = std::collections::BTreeMap::new();
        Problem::new(&built.egraph, &names, &[id], cost).is_computable()
    };
    let stuck = function.nodes.iter().enumerate().find(|(at, node)| {
        !matches!(node.op, Op::Cache(_))
            && !computable(built.classes[*at])
            && node.inputs.iter().all(|i| computable(built.classes[i.0]))
    });
    let Some((_, node)) = stuck else {
        return Diagnostic::error("E0802", format!("no kernels compute `{}`", function.name));
    };
    let of = node.name.as_ref().map(|n| format!(" of `{n}`")).unwrap_or_default();
    let message = format!("no kernel computes the `{}`{of} in `{}`", node.op.name(), function.name);
    let mut mistake = Diagnostic::error("E0802", message);
    for span in &node.spans {
        mistake = mistake.at(*span, format!("of type {}", node.ty));
    }
    mistake.help(match node.op {
        Op::Scores | Op::CausalSoftmax | Op::Mix => {
            "attention kernels compute `mix(causal_softmax(scale * scores(q, k)), v)`, where the \
             scores may be a sum of several, and nothing in between"
        }
        Op::Dispatch | Op::Collect | Op::Combine => {
            "experts of several ranks compute `second(f(slices of first(x)))`, where `f` is a \
             function of each element; use one rank for others"
        }
        _ => "switch the lowering rule of this operation on again",
    })
}

fn our_bug(fault: String) -> Diagnostic {
    Diagnostic::error("E0805", format!("the optimizer made a wrong plan: {fault}"))
        .help("this is a bug in moec; please report it with the model")
}

/// Appends the classes of an e-graph, one a line with its nodes below.
fn describe(dump: &mut String, function: &Function, egraph: &EGraph) {
    // Writing to a string cannot fail.
    let _ = writeln!(dump, "fn {}", function.name);
    let mut classes: Vec<_> = egraph.classes().collect();
    classes.sort_by_key(|c| c.id);
    for class in classes {
        let _ = writeln!(dump, "  c{}: {}", class.id, class.data.ty);
        let mut nodes: Vec<_> = class.nodes.iter().collect();
        nodes.sort();
        for node in nodes {
            let _ = writeln!(dump, "    {node}");
        }
    }
}
