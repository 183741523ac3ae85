//! Why a rule does not shape a plan: it found nothing to apply to, was held up by a side
//! condition, or led to what costs more.

use crate::build::Built;
use crate::cost::{CostModel, Estimate};
use crate::explain::{KernelLine, time};
use crate::extract::{Extracted, Problem};
use crate::language::{EGraph, Node};
use crate::optimize::{Options, cost_model, enabled, spread, unknown_rule};
use crate::plan::{KernelTable, plan_function};
use crate::rules::{self as tables, Obstacle, Rule, Subject};
use crate::saturate::saturate;
use egg::{Id, Language};
use moec_ir::{Diagnostic, Function, Graph, Phase, Span, Target};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

/// What became of a rule in each function of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct WhyNot {
    /// The rule's name.
    pub rule: &'static str,
    /// What it says.
    pub equation: &'static str,
    /// The functions, in the graph's order.
    pub functions: Vec<(String, Reason)>,
}

/// What became of a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The plan uses what it made, or what follows from it.
    Used,
    /// It was applied, and every plan that uses what it made costs more.
    CostsMore {
        /// The plan.
        plan: Total,
        /// The cheapest plan found that uses what it made.
        with: Total,
    },
    /// It was applied, and no kernel that a plan could launch follows from it alone.
    NoKernel,
    /// It was not applied.
    Not {
        /// Why, in a sentence.
        why: String,
        /// The values that it is about.
        places: Vec<Place>,
    },
}

/// A value of the function and where the source computes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Its part in the rule, its name and type.
    pub what: String,
    /// Where the source computes it, if it does.
    pub span: Option<Span>,
}

/// A plan of one function.
#[derive(Clone, Debug, PartialEq)]
pub struct Total {
    /// Seconds of its launches, by unit.
    pub cost: Estimate,
    /// Its launches.
    pub launches: Vec<KernelLine>,
}

/// Finds out what became of a rule.
///
/// # Errors
/// E0801 where there is no such rule, or one that is switched off does not exist.
pub fn why_not(
    graph: &Graph,
    target: &Target,
    phase: Phase,
    options: &Options,
    rule: &str,
) -> Result<WhyNot, Vec<Diagnostic>> {
    let all = tables::all();
    let Some(rule) = all.iter().find(|r| r.name == rule) else {
        return Err(vec![unknown_rule(rule, &all)]);
    };
    let off = options.without.iter().filter(|name| *name != rule.name).cloned().collect();
    let mut options = Options { without: off, ..options.clone() };
    options.without_families.retain(|family| *family != rule.family);
    let options = &options;
    let rules = enabled(&all, options)?;
    let graph = spread(graph, options)?;
    let cost = cost_model(&graph, target, phase, options);
    let reason = |f: &Function| (f.name.clone(), reason(f, rule, &rules, &cost, options));
    let functions = graph.functions.iter().map(reason).collect();
    Ok(WhyNot { rule: rule.name, equation: rule.equation, functions })
}

fn reason(
    function: &Function,
    rule: &Rule,
    rules: &[&Rule],
    cost: &CostModel,
    options: &Options,
) -> Reason {
    let others: Vec<&Rule> = rules.iter().copied().filter(|r| r.name != rule.name).collect();
    let mut built = Built::new(function);
    saturate(&mut built.egraph, &others, options.limits);
    let before = built.egraph.nodes().len();
    let saturation = saturate(&mut built.egraph, rules, options.limits);
    let at = rules.iter().position(|r| r.name == rule.name);
    if at.and_then(|at| saturation.fired[at]).is_none() {
        let obstacle = rule.obstacle(&mut built.egraph);
        return tell(function, &built, &obstacle);
    }
    let known = known_before(&built.egraph, before);
    let follows = |_: Id, node: &Node| !known.contains(&canonical(&built.egraph, node));
    let (names, outputs) = (built.names(function), built.outputs(function));
    let problem = Problem::new(&built.egraph, &names, &outputs, cost);
    let Some(plan) = problem.solve() else { return Reason::NoKernel };
    let uses = |value: &crate::extract::ChosenValue| {
        value.cost.total > 0.0 && follows(value.class, &value.node)
    };
    if plan.values.iter().any(uses) {
        return Reason::Used;
    }
    let with = problem.solve_with(&follows).and_then(|e| total(function, &e, cost));
    match (total(function, &plan, cost), with) {
        (Some(plan), Some(with)) => Reason::CostsMore { plan, with },
        _ => Reason::NoKernel,
    }
}

/// The nodes that were there before the rule was applied, as they are called now.
fn known_before(egraph: &EGraph, count: usize) -> BTreeSet<Node> {
    egraph.nodes()[..count].iter().map(|node| canonical(egraph, node)).collect()
}

fn canonical(egraph: &EGraph, node: &Node) -> Node {
    node.clone().map_children(|c| egraph.find(c))
}

fn total(function: &Function, extracted: &Extracted, cost: &CostModel) -> Option<Total> {
    let mut kernels = KernelTable::default();
    let planned = plan_function(function, extracted, cost, &mut kernels).ok()?;
    let lines = planned.function.launches.iter().zip(&planned.costs);
    let launches = lines.map(|(launch, cost)| KernelLine {
        kernel: kernels.name(launch.kernel),
        cost: *cost,
        computes: launch.computes.clone(),
    });
    Some(Total { cost: planned.costs.iter().copied().sum(), launches: launches.collect() })
}

/// An obstacle as a sentence and places.
fn tell(function: &Function, built: &Built, obstacle: &Obstacle) -> Reason {
    let place = |part: &str, id: Id| place(function, built, part, id);
    let (why, places) = match obstacle {
        Obstacle::NoMatch { best: None, root, .. } => {
            (format!("no match: there is no `{root}`"), vec![])
        }
        Obstacle::NoMatch { of, best: Some(miss), root } => {
            let found = miss.found;
            let why = format!(
                "no match: of the {of} operations of the left side at most {found} are there \
                 (from `{root}` on); then {} is missing",
                miss.missing
            );
            (why, vec![place("here stands instead", miss.at)])
        }
        Obstacle::Refused { condition, on, others } => {
            let also = match others {
                0 => String::new(),
                1 => "; one other place has the form".into(),
                n => format!("; {n} other places have the form"),
            };
            let subject = |(name, subject): &(String, Subject)| match subject {
                Subject::Class(id) => place(name, *id),
                Subject::Attr(attr) => Place { what: format!("{name} = {attr}"), span: None },
            };
            let why = format!("it matches, but the side condition `{condition}` is false{also}");
            (why, on.iter().map(subject).collect())
        }
        Obstacle::NothingNew(id) => {
            let why = "it matches, but both sides are one value already, or the right side has no \
                       type";
            (why.into(), vec![place("the value", *id)])
        }
    };
    Reason::Not { why, places }
}

fn place(function: &Function, built: &Built, part: &str, id: Id) -> Place {
    let id = built.egraph.find(id);
    let class = &built.egraph[id];
    let own = function.nodes.iter().zip(&built.classes);
    let own = || own.clone().filter(|(_, c)| built.egraph.find(**c) == id).map(|(n, _)| n);
    let name = own().find_map(|n| n.name.clone()).map(|n| format!(" `{n}`")).unwrap_or_default();
    let forms: BTreeSet<&str> = class.nodes.iter().map(|n| n.term.name()).collect();
    let forms = forms.into_iter().collect::<Vec<_>>().join("`, `");
    let what = format!("{part}:{name} {}, by `{forms}`", class.data.ty);
    Place { what, span: own().find_map(|n| n.spans.last().copied()) }
}

impl WhyNot {
    /// The page, with `at` for where a span lies.
    pub fn page(&self, at: &dyn Fn(Span) -> String) -> String {
        let mut text = format!("{}\n    {}\n", self.rule, self.equation);
        for (function, reason) in &self.functions {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n{function}: {reason}");
            if let Reason::Not { places, .. } = reason {
                for Place { what, span } in places {
                    let place = span.map(|span| format!(" ({})", at(span))).unwrap_or_default();
                    let _ = writeln!(text, "    {what}{place}");
                }
            }
        }
        text
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Used => f.write_str("the plan uses what it made"),
            Self::NoKernel => f.write_str("applied, and no kernel follows from it alone"),
            Self::Not { why, .. } => f.write_str(why),
            Self::CostsMore { plan, with } => {
                writeln!(f, "applied, but a plan with it costs more")?;
                let units = Estimate::default().units().map(|(name, _)| format!("{name:>10}"));
                writeln!(
                    f,
                    "{:>14}{:>10}{}{:>10}{:>10}",
                    "",
                    "time",
                    units.concat(),
                    "start",
                    "launches"
                )?;
                for (name, Total { cost, launches }) in [("the plan", plan), ("with it", with)] {
                    let units = cost.units().map(|(_, s)| format!("{:>10}", time(s))).concat();
                    let (all, start) = (time(cost.total), time(cost.exposed));
                    writeln!(f, "{name:>14}{all:>10}{units}{start:>10}{:>10}", launches.len())?;
                }
                difference(f, "only the plan launches", plan, with)?;
                difference(f, "only with it", with, plan)
            }
        }
    }
}

/// The launches of one plan that another does not have.
fn difference(f: &mut fmt::Formatter<'_>, title: &str, of: &Total, other: &Total) -> fmt::Result {
    let mut rest: Vec<(&str, String)> =
        other.launches.iter().map(|l| (l.computes.as_str(), time(l.cost.total))).collect();
    writeln!(f, "    {title}")?;
    for KernelLine { cost, computes, .. } in &of.launches {
        let line = (computes.as_str(), time(cost.total));
        match rest.iter().position(|l| *l == line) {
            Some(at) => {
                rest.remove(at);
            }
            None => writeln!(f, "{:>24}  {}", line.1, line.0)?,
        }
    }
    Ok(())
}
