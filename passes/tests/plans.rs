//! What the optimizer finds in models of the DeepSeek-V3 family.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod models;

use models::{Config, TINY, V3, model};
use moec_ir::{KernelSpec, Phase, Plan, Target};
use moec_passes::{Family, Options, optimize};

fn plan(c: &Config, phase: Phase, options: &Options) -> Plan {
    let graph = model("Model", c);
    let target = Target::named("h800").unwrap();
    optimize(&graph, &target, phase, options).unwrap().plan
}

fn families(plan: &Plan, function: &str) -> Vec<&'static str> {
    let function = plan.functions.iter().find(|f| f.name == function).unwrap();
    function.launches.iter().map(|l| plan.kernels[l.kernel].spec.family()).collect()
}

/// The shapes of the key parts of a function's attention.
fn key_shapes(plan: &Plan, function: &str) -> Vec<String> {
    let function = plan.functions.iter().find(|f| f.name == function).unwrap();
    let specs = function.launches.iter().map(|l| &plan.kernels[l.kernel].spec);
    let keys = specs.filter_map(|s| match s {
        KernelSpec::Attention { k, .. } => Some(k.iter().map(ToString::to_string)),
        _ => None,
    });
    keys.flatten().collect()
}

#[test]
fn decode_absorbs_the_up_projections_and_prefill_expands_them() {
    let decode = plan(&V3, Phase::Decode, &Options::default());
    assert_eq!(
        key_shapes(&decode, "sparse"),
        ["bf16[S, 1, 512] strides [576, 0, 1]", "bf16[S, 1, 64] strides [576, 0, 1]"]
    );
    assert!(!families(&decode, "sparse").contains(&"gather"), "keys are read in the cache");
    let prefill = plan(&V3, Phase::Prefill, &Options::default());
    assert_eq!(
        key_shapes(&prefill, "sparse"),
        ["bf16[S, 128, 128] strides [32768, 256, 1]", "bf16[S, 1, 64] strides [576, 0, 1]"]
    );
    assert!(families(&prefill, "sparse").contains(&"gather"));
}

#[test]
fn without_the_rule_of_absorption_decode_expands() {
    let without = Options { without: vec!["absorb-key-projection".into()], ..Default::default() };
    let plan = plan(&V3, Phase::Decode, &without);
    assert!(key_shapes(&plan, "sparse")[0].starts_with("bf16[S, 128, 128]"));
}

#[test]
fn lowering_alone_compiles_every_function() {
    let other = moec_passes::rules().into_iter().filter(|r| r.family != Family::Lowering);
    let without = other.map(|r| r.name.to_owned()).collect();
    let options = Options { without, ..Default::default() };
    for phase in Phase::ALL {
        let plan = plan(&TINY, phase, &options);
        assert_eq!(families(&plan, "sparse").iter().filter(|f| **f == "combine").count(), 1);
    }
}
