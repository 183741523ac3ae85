//! Each rule: a case where it fires, one where it must not, and both sides as numbers.

mod bounded;
mod cases;
mod evaluate;
pub(crate) mod growth;
mod meaning;
#[path = "../../tests/models/mod.rs"]
mod models;
mod random;

use super::{Family, Rule, all};
use crate::build::Built;
use crate::cost::{CostModel, Machine};
use crate::extract::Problem;
use crate::language::{Attr, EGraph, Node, Types};
use crate::pattern::{Names, Pattern, Rewriter, Value};
use crate::saturate::{Limits, saturate};
use bounded::Fault;
use cases::{CASES, Case};
use evaluate::check_every_node;
use moec_ir::graph::{Cache, GroupScore, Groups, Param, ReduceFn, Rotary};
use moec_ir::{Function, Op, Real, ScaleFormat, Sizes, Target, TensorType};
use std::collections::BTreeSet;

const GROUPS: Groups = Groups { count: 3, keep: 2, by: GroupScore::SumOfTop(2) };

fn rotary(dim: u64) -> Rotary {
    let (theta, amplitude) = (Real(100.0), Real(1.0));
    Rotary { dim, theta, interleaved: true, amplitude, yarn: None }
}

/// An e-graph with one expression and the function whose leaves it reads.
struct Setting {
    function: Function,
    egraph: EGraph,
}

/// Builds an expression over leaves such as `x: bf16[T, 8]`, `w: param bf16[6, 8]`,
/// `c: cache bf16[4]`, `s: shape f32[T, 2]`, `a: real 0.5`, `r: rotary 4`.
fn setting(leaves: &[&str], expression: &str) -> Setting {
    let mut function = Function {
        name: "case".into(),
        inputs: vec![],
        params: vec![],
        caches: vec![],
        nodes: vec![],
        outputs: vec![],
    };
    let mut bound: Vec<(&str, Result<Op, Attr>, TensorType)> = vec![];
    for leaf in leaves {
        let (name, what) = leaf.split_once(": ").expect("a name and a type");
        let (kind, rest) = what.split_once(' ').unwrap_or(("input", what));
        let ty = |text: &str| text.parse::<TensorType>().expect("a type");
        let number = TensorType::new(moec_ir::DType::F32, []);
        let entry = match kind {
            "param" => {
                let param = Param { name: name.into(), tensor: name.into(), ty: ty(rest) };
                function.params.push(param);
                (Ok(Op::Param(function.params.len() - 1)), ty(rest))
            }
            "cache" => {
                function.caches.push(Cache { name: name.into(), ty: ty(rest), packed: None });
                (Ok(Op::Cache(function.caches.len() - 1)), ty(rest))
            }
            "shape" => (Err(Attr::Shape(ty(rest).shape)), ty(rest)),
            "real" => (Err(Attr::Real(Real(rest.parse().expect("a number")))), number),
            "scales" if rest == "ue8m0" => (Err(Attr::Scales(ScaleFormat::Ue8m0)), number),
            "scales" => (Err(Attr::Scales(ScaleFormat::F32)), number),
            "reduce" if rest == "sum" => (Err(Attr::Reduce(ReduceFn::Sum)), number),
            "reduce" => (Err(Attr::Reduce(ReduceFn::Mean)), number),
            "groups" => (Err(Attr::Groups(Some(GROUPS))), number),
            "rotary" => (Err(Attr::Rotary(rotary(rest.parse().expect("a size")))), number),
            _ => {
                function.inputs.push(ty(what));
                (Ok(Op::Input(function.inputs.len() - 1)), ty(what))
            }
        };
        bound.push((name, entry.0, entry.1));
    }
    let mut names = Names::default();
    let pattern = Pattern::parse(expression, &mut names).expect("a pattern");
    let mut egraph = EGraph::new(Types::new(&function));
    let mut values = vec![None; names.len()];
    for (name, leaf, ty) in bound {
        let value = match leaf {
            Ok(op) => Value::Class(egraph.add(Node::math(op, ty.dtype, vec![]))),
            Err(attr) => Value::Attr(attr),
        };
        if let Some(var) = names.find(name) {
            values[var] = Some(value);
        }
    }
    let mut rewriter = Rewriter::new(&mut egraph);
    assert!(
        rewriter.build(&pattern, &values, None).is_some(),
        "{expression} is ill-typed over {leaves:?}"
    );
    egraph.rebuild();
    Setting { function, egraph }
}

/// Applies a rule and all lowering; says whether the rule fired.
fn fires(case: &Case, rules: &[Rule], setting: &mut Setting) -> bool {
    let chosen: Vec<&Rule> =
        rules.iter().filter(|r| r.name == case.rule || r.family == Family::Lowering).collect();
    let at = chosen.iter().position(|r| r.name == case.rule).expect("the rule exists");
    let saturation = saturate(&mut setting.egraph, &chosen, Limits::default());
    assert!(saturation.saturated, "{} does not come to an end", case.rule);
    saturation.fired[at].is_some()
}

/// What a rule has to have beside its case: an equation, and a function that says where it holds.
#[test]
fn every_rule_has_an_equation_and_a_named_side_condition() {
    for rule in all() {
        assert!(rule.equation.contains(" => "), "{}", rule.name);
        assert!(
            !rule.conditions().is_empty(),
            "{}: `.anywhere()` says that it has none",
            rule.name
        );
        for condition in rule.conditions() {
            let is_name = condition.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'));
            assert!(is_name, "{}: `{condition}` is no name of a function", rule.name);
        }
    }
}

/// How many nodes agree, of numbers whose choices are clear.
fn compared(checked: Result<usize, Fault>, what: &str) -> usize {
    match checked {
        Ok(compared) => compared,
        Err(fault) => panic!("{what}: {fault:?}"),
    }
}

#[test]
fn every_rule_has_a_case() {
    let rules: BTreeSet<&str> = all().iter().map(|r| r.name).collect();
    let cases: BTreeSet<&str> = CASES.iter().map(|c| c.rule).collect();
    assert_eq!(rules, cases);
    assert_eq!(rules.len(), all().len(), "names are unique");
}

#[test]
fn every_rule_fires_where_it_should_and_both_sides_are_equal() {
    let rules = all();
    for case in CASES {
        let mut setting = setting(case.leaves, case.fires);
        assert!(fires(case, &rules, &mut setting), "{} does not fire", case.rule);
        let checked = check_every_node(&setting.function, &setting.egraph);
        assert!(compared(checked, case.rule) > 0, "{}: nothing was compared", case.rule);
    }
}

#[test]
fn no_rule_fires_where_it_must_not() {
    let rules = all();
    for case in CASES {
        let mut setting = setting(case.leaves, case.not);
        assert!(!fires(case, &rules, &mut setting), "{} fires on {}", case.rule, case.not);
    }
}

#[test]
fn whole_layers_stay_equal_under_all_rules() {
    let mut small = models::TINY;
    (small.hidden, small.vocab, small.ff, small.ff_expert) = (12, 9, 10, 6);
    (small.q_rank, small.kv_rank, small.nope, small.rope, small.v) = (8, 6, 4, 2, 4);
    let rules = all();
    let rules: Vec<&Rule> = rules.iter().collect();
    for function in &models::model("Small", &small).functions {
        let mut built = Built::new(function);
        let saturation = saturate(&mut built.egraph, &rules, Limits::default());
        assert!(saturation.saturated, "{} does not come to an end", function.name);
        let checked = compared(check_every_node(function, &built.egraph), &function.name);
        assert!(checked > 1, "{}: nothing was compared", function.name);
    }
}

#[test]
fn saturation_keeps_to_its_limits() {
    let graph = models::model("Tiny", &models::TINY);
    let function = &graph.functions[2];
    let rules = all();
    let rules: Vec<&Rule> = rules.iter().collect();
    let mut built = Built::new(function);
    let limits = Limits { nodes: 100, iterations: 32 };
    let saturation = saturate(&mut built.egraph, &rules, limits);
    assert!(!saturation.saturated && saturation.iterations == 1);
    // What one round finds is enough to compile.
    let cost = CostModel {
        ranks: None,
        promote_every: None,
        machine: Machine::new(Target::named("h800").expect("a target")),
        sizes: Sizes { tokens: 1, past: 1, sequences: 1 },
    };
    let outputs = built.outputs(function);
    let names = built.names(function);
    assert!(Problem::new(&built.egraph, &names, &outputs, &cost).solve().is_some());
}
