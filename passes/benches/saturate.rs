//! The time from DeepSeek-V3's graph to its plan: saturation, extraction, launches.
//!
//! `cargo bench -p moec-passes`.

#![allow(missing_docs, reason = "what a macro of criterion makes")]

use criterion::{Criterion, criterion_group, criterion_main};
use moec_ir::{Graph, Phase, Target};
use moec_passes::{Options, optimize};
use std::hint::black_box;

fn v3() -> Graph {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/tests/snapshots/examples__deepseek-v3.graph.snap"
    );
    let text = std::fs::read_to_string(path).expect("the snapshot of the graph");
    let graph = text.split_once("\n---\n").expect("a header").1;
    graph.trim_end().parse().expect("a graph")
}

fn plans(c: &mut Criterion) {
    let (graph, target) = (v3(), Target::named("h800").expect("a target"));
    for phase in Phase::ALL {
        c.bench_function(&format!("plan DeepSeek-V3, {phase}"), |b| {
            b.iter(|| black_box(optimize(&graph, &target, phase, &Options::default())));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = plans
}
criterion_main!(benches);
