//! Any sequence of rules keeps the value of any function.
//!
//! Functions are drawn ([`super::growth`]), rules applied one at a time at some of the places
//! where they match, and every form then computed: each node beside its class, and whole members
//! of the e-graph, mathematics and kernels mixed, beside the function as it was written.
//! `MOEC_RULE_SEEDS` sets how many seeds are tried, `MOEC_RULE_SEED` where they begin.

use super::bounded::{Bounded, Fault, agree};
use super::evaluate::{check_every_node, value_by};
use super::growth::{self, Random};
use crate::build::Built;
use crate::language::{EGraph, Node, Term};
use crate::pattern::Rewriter;
use crate::rules::{Rule, Site, all};
use crate::saturate::{Limits, saturate};
use egg::Id;
use moec_ir::Function;
use std::collections::{BTreeMap, BTreeSet};

/// Seeds of a run of the test suite.
const SEEDS: u64 = 800;
/// Rules applied to one function.
const MOST_STEPS: usize = 220;
/// Nodes after which no rule is applied any more.
const MOST_NODES: usize = 2500;
/// Members that are computed of each e-graph.
const MEMBERS: usize = 4;

/// What became of a seed.
#[derive(Default)]
struct Tally {
    compared: usize,
    undecided: usize,
    fired: BTreeSet<&'static str>,
}

/// A place where a rule was applied.
type Applied = Vec<(usize, Vec<usize>)>;

#[test]
fn any_sequence_of_rules_keeps_every_value() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let first: u64 = number("MOEC_RULE_SEED").unwrap_or(0);
    let seeds: u64 = number("MOEC_RULE_SEEDS").unwrap_or(SEEDS);
    let rules = all();
    let mut tally = Tally::default();
    for seed in first..first + seeds {
        try_seed(seed, &rules, &mut tally);
    }
    if seeds < SEEDS {
        return;
    }
    assert!(tally.compared as u64 > 60 * seeds, "{} nodes compared", tally.compared);
    // A choice between two numbers that errors could swap is rare.
    assert!(tally.undecided as u64 * 50 < seeds, "{} seeds left open", tally.undecided);
    let idle: Vec<&str> =
        rules.iter().map(|r| r.name).filter(|r| !tally.fired.contains(r)).collect();
    assert!(idle.is_empty(), "no function made these fire: {idle:?}");
}

fn try_seed(seed: u64, rules: &[Rule], tally: &mut Tally) {
    let mut random = Random(seed);
    let function = growth::function(&mut random);
    let enabled: Vec<usize> = match random.below(3) {
        0 => (0..rules.len()).collect(),
        _ => (0..rules.len()).filter(|_| !random.one_in(3)).collect(),
    };
    let mut built = Built::new(&function);
    let applied = if random.one_in(3) {
        saturated(&mut built.egraph, rules, &enabled, &mut random, tally);
        vec![]
    } else {
        one_by_one(&mut built.egraph, rules, &enabled, &mut random, tally)
    };
    match check(&function, &built, &mut random) {
        Ok(compared) => tally.compared += compared,
        Err(Fault::Undecided) => tally.undecided += 1,
        Err(Fault::Wrong(fault)) => {
            let guilty = guilty(&function, rules, &applied);
            panic!("seed {seed}: {fault}\nfirst wrong after: {guilty}\n{function}");
        }
    }
}

/// All rules that are enabled, in a random order, until nothing is new.
fn saturated(
    egraph: &mut EGraph,
    rules: &[Rule],
    enabled: &[usize],
    random: &mut Random,
    tally: &mut Tally,
) {
    let mut order = enabled.to_vec();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at + 1));
    }
    let chosen: Vec<&Rule> = order.iter().map(|r| &rules[*r]).collect();
    let limits = Limits { nodes: MOST_NODES, iterations: 16 };
    let saturation = saturate(egraph, &chosen, limits);
    let fired = chosen.iter().zip(saturation.fired).filter(|(_, f)| f.is_some());
    tally.fired.extend(fired.map(|(r, _)| r.name));
}

/// One rule after the other, each at some of its places.
fn one_by_one(
    egraph: &mut EGraph,
    rules: &[Rule],
    enabled: &[usize],
    random: &mut Random,
    tally: &mut Tally,
) -> Applied {
    let mut applied = vec![];
    for _ in 0..MOST_STEPS {
        if egraph.total_number_of_nodes() > MOST_NODES || enabled.is_empty() {
            break;
        }
        let rule = random.pick(enabled);
        let count = rules[rule].search(egraph).len();
        let at: Vec<usize> = (0..count).filter(|_| !random.one_in(4)).collect();
        if apply(egraph, &rules[rule], &at) {
            tally.fired.insert(rules[rule].name);
        }
        applied.push((rule, at));
    }
    applied
}

/// Applies a rule at some of its places; says whether two classes became one.
fn apply(egraph: &mut EGraph, rule: &Rule, at: &[usize]) -> bool {
    let sites: Vec<Site> = rule.search(egraph);
    let mut rewriter = Rewriter::new(egraph);
    for site in at.iter().filter_map(|at| sites.get(*at)) {
        rule.apply(&mut rewriter, site);
    }
    let fired = rewriter.unions > 0;
    egraph.rebuild();
    fired
}

/// Every node, and members of the outputs.
fn check(function: &Function, built: &Built, random: &mut Random) -> Result<usize, Fault> {
    let mut compared = check_every_node(function, &built.egraph)?;
    let original = Built::new(function);
    let first = |_: &Id, node: &Node| if matches!(node.term, Term::Math(_)) { 1.0 } else { 1e6 };
    let wanted = member(function, &original, first)?;
    for _ in 0..MEMBERS {
        // Some ways are far dearer than others, so that detours are taken.
        let mut costs: BTreeMap<(Id, Node), f64> = BTreeMap::new();
        for class in built.egraph.classes() {
            for node in &class.nodes {
                let cost = 1.0 + (random.below(1 << 16) as f64).powi(3) / 1e9;
                costs.insert((class.id, node.clone()), cost);
            }
        }
        let cost = |id: &Id, node: &Node| costs[&(*id, node.clone())];
        let given = member(function, built, cost)?;
        for (at, (given, wanted)) in given.iter().zip(&wanted).enumerate() {
            if !agree(given, wanted) {
                return Err(Fault::Wrong(format!("a member for output {at} differs")));
            }
            compared += 1;
        }
    }
    Ok(compared)
}

/// The values of a function's outputs by the cheapest tree of each class.
fn member(
    function: &Function,
    built: &Built,
    cost: impl Fn(&Id, &Node) -> f64,
) -> Result<Vec<Bounded>, Fault> {
    let egraph = &built.egraph;
    let mut best: BTreeMap<Id, (f64, &Node)> = BTreeMap::new();
    let mut classes: Vec<_> = egraph.classes().collect();
    classes.sort_by_key(|c| c.id);
    loop {
        let mut changed = false;
        for class in &classes {
            for node in &class.nodes {
                let below: Option<f64> =
                    node.children.iter().map(|c| Some(best.get(&egraph.find(*c))?.0)).sum();
                let Some(below) = below else { continue };
                let total = below + cost(&class.id, node);
                if best.get(&class.id).is_none_or(|(least, _)| total < *least) {
                    best.insert(class.id, (total, node));
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
    let mut order: Vec<Id> = best.keys().copied().collect();
    order.sort_by(|a, b| best[a].0.total_cmp(&best[b].0));
    let mut values: BTreeMap<Id, Bounded> = BTreeMap::new();
    for id in order {
        let node = best[&id].1;
        let of = |id: &Id| values.get(&egraph.find(*id));
        let kernel = match node.term {
            Term::Second { .. } | Term::Third => best[&egraph.find(node.children[0])].1,
            _ => node,
        };
        let value = value_by(function, egraph, &of, node, kernel);
        let Some(value) = value else {
            return Err(Fault::Wrong(format!("{node} cannot be computed")));
        };
        let value = value?;
        values.insert(id, value);
    }
    let outputs = built.outputs(function);
    let missing = || Fault::Wrong("an output has no value".into());
    outputs.iter().map(|id| values.get(id).cloned().ok_or_else(missing)).collect()
}

/// The first rule after which a node differs from its class.
fn guilty(function: &Function, rules: &[Rule], applied: &Applied) -> String {
    let mut built = Built::new(function);
    for (rule, at) in applied {
        apply(&mut built.egraph, &rules[*rule], at);
        if let Err(Fault::Wrong(fault)) = check_every_node(function, &built.egraph) {
            return format!("{}: {fault}", rules[*rule].name);
        }
    }
    "none alone".into()
}

/// The numbers themselves: a rule that is wrong by a little is found.
#[test]
fn a_rule_that_is_almost_right_is_found_out() {
    let wrong = Rule::equation("wrong", "rms_norm[eps](x, w) => rms_norm[other](x, w)").given(
        "other",
        |m| {
            let eps = m.real("eps")?.0;
            Some(crate::language::Attr::Real(moec_ir::Real(eps * (1.0 + 1e-9))))
        },
    );
    let text = |seed| {
        let function = growth::function(&mut Random(seed));
        let mut built = Built::new(&function);
        let sites = wrong.search(&built.egraph).len();
        apply(&mut built.egraph, &wrong, &(0..sites).collect::<Vec<_>>());
        (sites > 0).then(|| check_every_node(&function, &built.egraph))
    };
    let tried: Vec<_> = (0..20).filter_map(text).collect();
    assert!(tried.len() > 3);
    assert!(tried.iter().all(|checked| matches!(checked, Err(Fault::Wrong(_)))));
}
