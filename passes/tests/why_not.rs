//! Why a rule does not shape a plan, and where forms of latent attention cost the same.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod models;

use models::{V3, model};
use moec_ir::{Graph, Phase, Sizes, Target};
use moec_passes::{Options, Reason, mla_table, optimize, why_not};

fn reason(graph: &Graph, phase: Phase, rule: &str, function: &str) -> Reason {
    let target = Target::named("h800").unwrap();
    let why = why_not(graph, &target, phase, &Options::default(), rule).unwrap();
    why.functions.into_iter().find(|(name, _)| name == function).unwrap().1
}

fn v3(phase: Phase, rule: &str, function: &str) -> Reason {
    reason(&model("DeepSeekV3", &V3), phase, rule, function)
}

#[test]
fn a_rule_that_the_plan_needs_is_used() {
    assert_eq!(v3(Phase::Decode, "absorb-key-projection", "sparse"), Reason::Used);
    assert_eq!(v3(Phase::Decode, "router-in-one-kernel", "sparse"), Reason::Used);
}

#[test]
fn what_does_not_pay_is_shown_beside_the_plan() {
    let reason = v3(Phase::Prefill, "absorb-key-projection", "sparse");
    let Reason::CostsMore { plan, with } = &reason else { panic!("{reason}") };
    assert!(with.cost.total > plan.cost.total);
    // The plan is the one that is compiled.
    let target = Target::named("h800").unwrap();
    let graph = model("DeepSeekV3", &V3);
    let made = optimize(&graph, &target, Phase::Prefill, &Options::default()).unwrap();
    let sparse = made.explanation.functions.iter().find(|f| f.name == "sparse").unwrap();
    assert!((sparse.seconds - plan.cost.total).abs() < 1e-9 * sparse.seconds);
    assert_eq!(sparse.launches.len(), plan.launches.len());
    let text = reason.to_string();
    for part in ["the plan", "with it", "tensor", "HBM", "head_gemm", "only the plan launches"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_rule_that_finds_nothing_says_how_far_it_got() {
    let Reason::Not { why, places } = v3(Phase::Decode, "scale-inside-the-gemm", "sparse") else {
        panic!("it finds nothing in bf16")
    };
    assert!(why.starts_with("no match: of the 3 operations of the left side at most 1"), "{why}");
    assert!(why.contains("`dequantize[1, c](x, s)` is missing"), "{why}");
    assert_eq!(places.len(), 1);
    let Reason::Not { why, places } = v3(Phase::Decode, "absorb-key-projection", "head") else {
        panic!("there is no attention")
    };
    assert_eq!((why.as_str(), places.len()), ("no match: there is no `scores`", 0));
}

/// A vector that all rows share is no residual.
#[test]
fn a_side_condition_is_named_with_the_values_that_it_is_about() {
    let text = r#"
graph One context 16
fn f(bf16[T, 8]) {
  param w: bf16[4, 8] = "w"
  param b: bf16[4] = "b"
  %0 = input 0 () : bf16[T, 8]
  %1 = param 0 () : bf16[4, 8]
  %2 y = linear (%0, %1) : bf16[T, 4]
  %3 bias = param 1 () : bf16[4]
  %4 = binary "add" (%2, %3) : bf16[T, 4]
  return %4
}
entry main(bf16[T, 8]) {
  %1 = f(%0)
  return %1
}
"#;
    let graph: Graph = text.trim().parse().unwrap();
    let reason = reason(&graph, Phase::Decode, "add-inside-the-gemm", "f");
    let Reason::Not { why, places } = &reason else { panic!("{reason}") };
    assert_eq!(why, "it matches, but the side condition `same_shape` is false");
    let what: Vec<&str> = places.iter().map(|p| p.what.as_str()).collect();
    assert!(what[0].starts_with("y: `y` bf16[T, 4], by"), "{what:?}");
    assert!(what[1].starts_with("r: `bias` bf16[4], by `param`"), "{what:?}");
}

#[test]
fn a_rule_that_does_not_exist_is_refused_with_the_nearest() {
    let target = Target::named("h800").unwrap();
    let graph = model("DeepSeekV3", &V3);
    let options = Options::default();
    let refused = why_not(&graph, &target, Phase::Decode, &options, "absorb-keys").unwrap_err();
    assert_eq!(refused[0].code, "E0801");
    assert!(refused[0].help.as_ref().unwrap().contains("absorb-key-projection"));
}

/// The table's answer and the plan's are one.
#[test]
fn the_table_of_latent_attention_agrees_with_plans() {
    let target = Target::named("h800").unwrap();
    let graph = model("DeepSeekV3", &V3);
    let table = mla_table(&graph, &target, &Options::default()).unwrap();
    assert_eq!((table.mla.heads, table.mla.rank, table.mla.rope), (128, 512, 64));
    assert_eq!(table.rows.len(), 2 * 4 * 5);
    let row = table
        .rows
        .iter()
        .find(|row| (row.phase, row.heads, row.length) == (Phase::Prefill, 128, 4096));
    let row = row.unwrap();
    // One token reads the latent, a prompt expands it.
    assert!(row.one[0] < row.one[1] && row.all[1] < row.all[0]);
    let from = row.expanded_from.unwrap();
    assert!((2..4096).contains(&from));
    let expands = |tokens: u64| {
        let sizes = Sizes { tokens, past: 4096, sequences: 1 };
        let options = Options { workload: Some(sizes), ..Default::default() };
        let made = optimize(&graph, &target, Phase::Prefill, &options).unwrap();
        let dense = made.plan.functions.iter().find(|f| f.name == "dense").unwrap();
        dense.launches.iter().any(|l| l.computes.contains("gather_past"))
    };
    assert!(!expands(from / 4) && expands(from.min(1024) * 4));
    for row in &table.rows {
        assert_eq!(row.expanded_from.is_some(), row.all[1] < row.all[0]);
    }
    let text = table.to_string();
    assert!(text.contains("expanded") && text.lines().count() > 40, "{text}");
}

#[test]
fn models_without_a_latent_have_no_table() {
    let text = include_str!("data/mixtral.graph");
    let target = Target::named("h800").unwrap();
    let refused = mla_table(&text.parse().unwrap(), &target, &Options::default()).unwrap_err();
    assert_eq!(refused[0].code, "E0809");
}
