//! Why a plan is what it is: the rules that it depends on and the kernels that it launches.

use crate::cost::{CostModel, Estimate};
use crate::optimize::{Options, Solved, solve};
use crate::plan::{KernelTable, Planned, plan_function};
use crate::rules::{Family, Rule};
use moec_ir::{Function, Graph, Phase, Plan, Sizes};
use std::collections::BTreeMap;
use std::fmt;

/// Relative difference of costs that is taken for rounding.
const SAME_COST: f64 = 1e-6;

/// Why a plan is what it is. Prints as a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The model.
    pub model: String,
    /// The target's name.
    pub target: String,
    /// What a step does.
    pub phase: Phase,
    /// The step for which costs were weighed.
    pub workload: Sizes,
    /// Predicted seconds of a step, all calls of all entries.
    pub seconds: f64,
    /// The rules that the plan depends on, in the order in which they come to bear, if
    /// [`Options::explain`] asked for them.
    pub steps: Vec<RuleStep>,
    /// The functions and their kernels.
    pub functions: Vec<FunctionReport>,
}

/// A rule and what it brings.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleStep {
    /// The rule's name.
    pub rule: &'static str,
    /// The table it stands in.
    pub family: Family,
    /// What it says.
    pub equation: &'static str,
    /// Names of the functions whose plans depend on it.
    pub functions: Vec<String>,
    /// Predicted seconds of a step without it and all rules after it.
    pub before: f64,
    /// Predicted seconds of a step with it, still without all rules after it.
    pub after: f64,
}

/// A function and its kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionReport {
    /// Its name.
    pub name: String,
    /// How many times the entries call it.
    pub calls: usize,
    /// Predicted seconds of one call.
    pub seconds: f64,
    /// Its launches.
    pub launches: Vec<KernelLine>,
    /// Nodes of its e-graph.
    pub nodes: usize,
    /// Times that all rules were applied to it.
    pub iterations: usize,
    /// Whether nothing was new in the end; a limit was reached otherwise.
    pub saturated: bool,
    /// The rules that made two classes one, each after the first iteration in which it did.
    fired: Vec<(usize, usize)>,
}

/// A launch.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelLine {
    /// Name of the kernel.
    pub kernel: String,
    /// What it is predicted to take, by unit.
    pub cost: Estimate,
    /// What it computes.
    pub computes: String,
}

impl FunctionReport {
    pub(crate) fn new(
        graph: &Graph,
        function: &Function,
        solved: &Solved,
        planned: &Planned,
        kernels: &KernelTable,
    ) -> Self {
        let calls = graph.entries.iter().flat_map(|e| &e.steps);
        let launches = planned.function.launches.iter().zip(&planned.costs);
        let fired = solved.saturation.fired.iter();
        Self {
            name: function.name.clone(),
            calls: calls.filter(|s| graph.functions[s.function].name == function.name).count(),
            seconds: planned.costs.iter().map(|cost| cost.total).sum(),
            launches: launches
                .map(|(launch, cost)| KernelLine {
                    kernel: kernels.name(launch.kernel),
                    cost: *cost,
                    computes: launch.computes.clone(),
                })
                .collect(),
            nodes: solved.built.egraph.total_number_of_nodes(),
            iterations: solved.saturation.iterations,
            saturated: solved.saturation.saturated,
            fired: fired.enumerate().filter_map(|(r, f)| f.map(|at| (at, r))).collect(),
        }
    }
}

/// Works out the explanation.
pub(crate) fn explain(
    graph: &Graph,
    rules: &[&Rule],
    plan: &Plan,
    functions: Vec<FunctionReport>,
    cost: &CostModel,
    options: &Options,
) -> Explanation {
    let steps = if options.explain {
        let per_function: Vec<Contribution> = graph
            .functions
            .iter()
            .zip(&functions)
            .map(|(f, report)| Contribution::of(f, rules, report, cost, options))
            .collect();
        steps(rules, &functions, &per_function)
    } else {
        vec![]
    };
    Explanation {
        model: plan.model.clone(),
        target: plan.target.name.clone(),
        phase: plan.phase,
        workload: plan.workload,
        seconds: functions.iter().map(|f| f.seconds * f.calls as f64).sum(),
        steps,
        functions,
    }
}

/// What each rule that a function's plan depends on brings.
struct Contribution {
    /// Predicted seconds by lowering alone.
    start: f64,
    /// First iteration in which the rule fired, the rule, and the seconds with it and all before
    /// it.
    after: BTreeMap<(usize, usize), f64>,
}

impl Contribution {
    /// Finds the rules without which the plan costs more, then enables them one by one.
    fn of(
        function: &Function,
        rules: &[&Rule],
        report: &FunctionReport,
        cost: &CostModel,
        options: &Options,
    ) -> Self {
        let seconds = |chosen: &[(usize, usize)]| {
            let with: Vec<&Rule> = rules
                .iter()
                .enumerate()
                .filter(|(at, r)| {
                    r.family == Family::Lowering || chosen.iter().any(|(_, c)| c == at)
                })
                .map(|(_, r)| *r)
                .collect();
            let solved = solve(function, &with, options.limits, cost);
            let planned = solved.extracted.and_then(|extracted| {
                plan_function(function, &extracted, cost, &mut KernelTable::default()).ok()
            });
            planned.map_or(f64::INFINITY, |p| p.costs.iter().map(|cost| cost.total).sum())
        };
        let mut needed: Vec<(usize, usize)> = report
            .fired
            .iter()
            .copied()
            .filter(|(_, r)| rules[*r].family != Family::Lowering)
            .collect();
        needed.sort_unstable();
        for at in (0..needed.len()).rev() {
            let rule = needed.remove(at);
            if seconds(&needed) > report.seconds * (1.0 + SAME_COST) {
                needed.insert(at, rule);
            }
        }
        let start = seconds(&[]);
        let after = (1..=needed.len()).map(|n| (needed[n - 1], seconds(&needed[..n])));
        Self { start, after: after.collect() }
    }
}

/// The rules of all functions in one order, with the cost of the whole step.
fn steps(
    rules: &[&Rule],
    functions: &[FunctionReport],
    contributions: &[Contribution],
) -> Vec<RuleStep> {
    // A rule may come to bear in different iterations of different functions: the first counts.
    let mut first: BTreeMap<usize, usize> = BTreeMap::new();
    for (iteration, rule) in contributions.iter().flat_map(|c| c.after.keys().copied()) {
        let at = first.entry(rule).or_insert(iteration);
        *at = iteration.min(*at);
    }
    let mut order: Vec<(usize, usize)> = first.into_iter().map(|(r, at)| (at, r)).collect();
    order.sort_unstable();
    let enabled = |c: &Contribution, n: usize| {
        // The seconds of the longest run of the function's own rules that is enabled.
        let mut seconds = c.start;
        for (own, after) in &c.after {
            if !order[..n].iter().any(|(_, r)| *r == own.1) {
                break;
            }
            seconds = *after;
        }
        seconds
    };
    let total = |n: usize| -> f64 {
        let each = functions.iter().zip(contributions);
        each.map(|(f, c)| f.calls as f64 * enabled(c, n)).sum()
    };
    (0..order.len())
        .map(|n| {
            let rule = rules[order[n].1];
            let users = functions.iter().zip(contributions);
            let users = users.filter(|(_, c)| c.after.keys().any(|(_, r)| *r == order[n].1));
            RuleStep {
                rule: rule.name,
                family: rule.family,
                equation: rule.equation,
                functions: users.map(|(f, _)| f.name.clone()).collect(),
                before: total(n),
                after: total(n + 1),
            }
        })
        .collect()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes { tokens, past, sequences } = self.workload;
        writeln!(
            f,
            "{}, {} on {}: {} a step of T = {tokens}, S = {past}, B = {sequences}",
            self.model,
            self.phase,
            self.target,
            time(self.seconds)
        )?;
        if !self.steps.is_empty() {
            writeln!(f, "\nrules that the plan depends on, each with those above it enabled")?;
            writeln!(f, "{:>10}  {:>10}  {:>10}  rule", "before", "after", "gain")?;
            for s in &self.steps {
                let (before, after) = (time(s.before), time(s.after));
                let gain = time((s.before - s.after).max(0.0));
                let of = s.functions.join(", ");
                let (rule, family) = (s.rule, s.family);
                writeln!(f, "{before:>10}  {after:>10}  {gain:>10}  {rule} ({family}; {of})")?;
                writeln!(f, "{:>36}{}", "", s.equation)?;
            }
        }
        for function in &self.functions {
            let FunctionReport { name, calls, seconds, launches, nodes, iterations, .. } = function;
            let limit = if function.saturated { "" } else { ", stopped by a limit" };
            writeln!(
                f,
                "\n{name}, {calls} times: {} in {} launches (e-graph of {nodes} nodes after \
                 {iterations} iterations{limit})",
                time(*seconds),
                launches.len()
            )?;
            let units = Estimate::default().units().map(|(name, _)| format!("{name:>10}"));
            writeln!(f, "{:>10}{}{:>10}  kernel", "time", units.concat(), "start")?;
            for line in launches {
                let KernelLine { kernel, cost, computes } = line;
                let units = cost.units().map(|(_, seconds)| format!("{:>10}", time(seconds)));
                let (total, start) = (time(cost.total), time(cost.exposed));
                writeln!(f, "{total:>10}{}{start:>10}  {kernel:<16} {computes}", units.concat())?;
            }
        }
        Ok(())
    }
}

/// A time with its unit; nothing for what is lost in rounding.
pub(crate) fn time(seconds: f64) -> String {
    if seconds < 1e-10 {
        return "-".into();
    }
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "us"),
    };
    format!("{value:.*} {unit}", if value >= 100.0 { 1 } else { 2 })
}
