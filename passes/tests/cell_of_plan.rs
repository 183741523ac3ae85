//! The cell that a plan is read as costs what the plan's launches cost.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod models;

use models::{TINY, V3, model};
use moec_ir::plan::{Extent, Geometry};
use moec_ir::{KernelSpec, Phase, Ranks, Sizes, Target, Transfer};
use moec_passes::cost::Machine;
use moec_passes::partition::residency::check_plan;
use moec_passes::partition::{Cell, Spread, cell_of, solve};
use moec_passes::{Optimized, Options, optimize};

const SPREAD: Spread = Spread {
    ranks: Ranks::ONE,
    micro_batches: 2,
    transfer: Transfer::First,
    skew: 1.0,
    fixed: None,
};

fn optimized(phase: Phase, workload: Sizes) -> Optimized {
    let target = Target::named("h800").unwrap();
    let options = Options { workload: Some(workload), ..Options::default() };
    optimize(&model("V3", &V3), &target, phase, &options).unwrap()
}

const PREFILL: Sizes = Sizes { tokens: 16_384, past: 16_384, sequences: 4 };
const DECODE: Sizes = Sizes { tokens: 128, past: 128 * 4096, sequences: 128 };

fn v3(phase: Phase, workload: Sizes, spread: Spread) -> (Optimized, Cell) {
    let optimized = optimized(phase, workload);
    let cell = cell_of(&optimized.plan, &optimized.explanation, &spread).unwrap();
    (optimized, cell)
}

#[test]
fn work_beside_the_experts_costs_what_its_launches_do() {
    for (phase, workload) in [(Phase::Prefill, PREFILL), (Phase::Decode, DECODE)] {
        let (optimized, cell) = v3(phase, workload, SPREAD);
        let machine = Machine::new(optimized.plan.target.clone());
        let report = optimized.explanation.functions.iter().max_by_key(|f| f.calls).unwrap();
        let sum = |names: &[&str]| -> f64 {
            let of = report.launches.iter();
            of.filter(|l| names.iter().any(|n| l.computes.contains(n))).map(|l| l.cost.total).sum()
        };
        let products: f64 = report
            .launches
            .iter()
            .filter(|l| l.kernel.starts_with("grouped"))
            .map(|l| l.cost.total)
            .sum();
        let shared = sum(&["shared"]);
        assert!(products > 0.0 && shared > 0.0);
        // Beside shared experts: their function between the products, and what is left of the
        // combine.
        let beside = cell.beside.seconds(&machine);
        assert!(beside > 0.98 * shared && beside < 1.5 * shared, "{beside} beside {shared}");
        // Of the rest, the experts' function, their plan and the combine stay with the exchange.
        let before = cell.before.seconds(&machine);
        let rest = report.seconds - products - beside;
        assert!(before <= 1.02 * rest, "{before} of {rest}");
        assert!(before >= 0.8 * rest, "{before} of {rest}");
        assert!(sum(&["attention"]) <= 1.02 * before);
    }
}

#[test]
fn sizes_and_limits_are_the_models() {
    let ranks = Ranks::new(32, 8).unwrap();
    let (_, cell) = v3(Phase::Prefill, PREFILL, Spread { ranks, ..SPREAD });
    assert_eq!((cell.hidden, cell.ff, cell.experts, cell.top_k), (7168.0, 2048.0, 256, 8));
    assert_eq!((cell.layers, cell.tokens, cell.most_nodes), (58, 16_384.0, 4));
    // The model of this test is bf16 both ways.
    assert_eq!((cell.out_bytes, cell.back_bytes, cell.element), (14_336.0, 14_336.0, 2.0));
    let nodes = |count| {
        let ranks = Ranks::new(count, 8).unwrap();
        v3(Phase::Decode, DECODE, Spread { ranks, ..SPREAD }).1.most_nodes
    };
    // Four groups of eight lie on at most as many nodes, and on two each where there are 16.
    assert_eq!((nodes(8), nodes(64), nodes(128)), (1, 4, 8));
}

#[test]
fn a_plan_is_partitioned_as_its_cell_is() {
    let ranks = Ranks::new(32, 8).unwrap();
    let (optimized, cell) = v3(Phase::Prefill, PREFILL, Spread { ranks, ..SPREAD });
    let solution = solve(&cell, &optimized.plan.target).unwrap();
    let best = solution.best();
    assert!(best.comm_sms.is_some() && best.hidden() > 0.9, "{best:?}");
}

#[test]
fn a_model_without_experts_has_no_cell() {
    let dense = models::Config { layers: 2, dense_layers: 2, ..TINY };
    let graph = model("Dense", &dense);
    let target = Target::named("h800").unwrap();
    let optimized = optimize(&graph, &target, Phase::Decode, &Options::default()).unwrap();
    assert!(cell_of(&optimized.plan, &optimized.explanation, &SPREAD).is_none());
}

/// The plan of a rank says the same of its layer as that of one device.
#[test]
fn a_plan_of_several_ranks_has_the_cell_of_one() {
    let ranks = Ranks::new(32, 8).unwrap();
    let spread = Spread { ranks, ..SPREAD };
    let (_, one) = v3(Phase::Prefill, PREFILL, spread);
    let options = Options { workload: Some(PREFILL), ranks: Some(ranks), ..Options::default() };
    let target = Target::named("h800").unwrap();
    let optimized = optimize(&model("V3", &V3), &target, Phase::Prefill, &options).unwrap();
    let several = cell_of(&optimized.plan, &optimized.explanation, &spread).unwrap();
    let sizes = |c: &Cell| {
        (c.hidden, c.ff, c.experts, c.top_k, c.most_nodes, c.out_bytes, c.back_bytes, c.layers)
    };
    assert_eq!(sizes(&several), sizes(&one));
    let machine = Machine::new(target);
    // Its kernels carry the split out.
    let options = Options { exchange: Some(spread), ..options };
    let optimized = optimize(&model("V3", &V3), &machine.target, Phase::Prefill, &options).unwrap();
    let best = optimized.partition.as_ref().unwrap().solution.best();
    let splits = optimized.plan.kernels.iter().filter_map(|k| match &k.spec {
        KernelSpec::SpreadExperts(experts) => Some((experts.split.comm, experts.split.compute)),
        _ => None,
    });
    let splits: Vec<_> = splits.collect();
    assert!(!splits.is_empty());
    assert!(splits.iter().all(|s| *s == (best.comm_sms.unwrap(), best.compute_sms)), "{splits:?}");
    // CTAs of an SM each, as code generation launches them.
    let mut plan = optimized.plan.clone();
    let ctas = |n: u64| Extent::new(n.into(), 1);
    for kernel in &mut plan.kernels {
        kernel.geometry = Some(Geometry {
            grid: [ctas(132), ctas(1), ctas(1)],
            block: [384, 1, 1],
            cluster: 1,
            shared_bytes: 200 << 10,
            tensor_maps: vec![],
        });
    }
    check_plan(&plan).unwrap();
    plan.target = Target::named("h20").unwrap();
    let codes: Vec<_> = check_plan(&plan).unwrap_err().iter().map(|d| d.code).collect();
    assert!(!codes.is_empty() && codes.iter().all(|code| *code == "E0806"), "{codes:?}");
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 0.02, "{a} and {b}");
    near(several.before.seconds(&machine), one.before.seconds(&machine));
    near(several.beside.seconds(&machine), one.beside.seconds(&machine));
}
