//! Saturation of the examples at full size: bounded in nodes and rounds, whatever the layers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod models;

use models::{Config, V3, model};
use moec_ir::{Graph, Phase, Target};
use moec_passes::{Options, optimize};

/// The most that a layer of an example needs today is 480 nodes in 7 rounds.
const MOST_NODES: usize = 700;
const MOST_ROUNDS: usize = 9;

/// The graph of an example, as the test of the whole compiler keeps it.
fn example(name: &str) -> Graph {
    let path = format!(
        "{}/../tests/tests/snapshots/examples__{name}.graph.snap",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap();
    text.split_once("\n---\n").unwrap().1.trim_end().parse().unwrap()
}

#[test]
fn every_function_of_the_examples_saturates_in_few_nodes_and_rounds() {
    let target = Target::named("h800").unwrap();
    for name in ["tiny-v3", "deepseek-v3", "deepseek-v2", "mixtral-8x7b", "qwen3-30b-a3b"] {
        let graph = example(name);
        for phase in Phase::ALL {
            let made = optimize(&graph, &target, phase, &Options::default()).unwrap();
            for f in made.explanation.functions {
                assert!(f.saturated, "{name}, {}: {} nodes", f.name, f.nodes);
                let few = f.nodes <= MOST_NODES && f.iterations <= MOST_ROUNDS;
                assert!(few, "{name}, {}: {} nodes, {} rounds", f.name, f.nodes, f.iterations);
            }
        }
    }
}

#[test]
fn more_layers_need_no_more_nodes() {
    let target = Target::named("h800").unwrap();
    let nodes = |layers: u64| -> Vec<usize> {
        let graph = model("DeepSeekV3", &Config { layers, ..V3 });
        let made = optimize(&graph, &target, Phase::Decode, &Options::default()).unwrap();
        made.explanation.functions.iter().map(|f| f.nodes).collect()
    };
    assert_eq!(nodes(5), nodes(61));
    assert_eq!(nodes(61), nodes(1000));
}
