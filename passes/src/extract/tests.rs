//! The search beside the optimum: on the layers of the examples and on random functions.

use super::exact::optimum;
use super::instance::Instance;
use super::{Problem, regions, search};
use crate::build::Built;
use crate::cost::{CostModel, Machine};
use crate::optimize::default_workload;
use crate::rules::tests::growth::{self, Random};
use crate::rules::{Rule, all};
use crate::saturate::{Limits, saturate};
use moec_ir::{Function, Graph, Phase, Sizes, Sym, Target};
use std::path::Path;

const EXAMPLES: [&str; 6] =
    ["tiny-v3", "deepseek-v3", "deepseek-v2", "deepseek-v2-lite", "mixtral-8x7b", "qwen3-30b-a3b"];
/// Random functions of a run of the test suite; `MOEC_EXTRACT_SEEDS` sets another number.
const SEEDS: u64 = 40;
/// How much more than the optimum a layer's plan and a random function's may cost. Of 1,500 seeds
/// four are above it, by 2.3 to 5.9 %.
const MOST_GAP_OF_LAYERS: f64 = 0.0005;
const MOST_GAP: f64 = 0.03;

/// The graph of an example, as the test of the whole compiler keeps it.
fn example(name: &str) -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../tests/tests/snapshots/examples__{name}.graph.snap"));
    let text = std::fs::read_to_string(path).expect("a snapshot");
    let (_, graph) = text.split_once("\n---\n").expect("a header");
    graph.trim_end().parse().expect("a graph")
}

fn cost(graph: Option<&Graph>, sizes: Sizes) -> CostModel {
    let machine = Machine::new(Target::named("h800").expect("a target"));
    CostModel { machine, sizes, ranks: None, promote_every: graph.and_then(|g| g.promote_every) }
}

/// Seconds that the search and the program find; `None` where the latter finds none.
fn both(function: &Function, rules: &[&Rule], cost: &CostModel) -> Option<(f64, f64)> {
    let mut built = Built::new(function);
    saturate(&mut built.egraph, rules, Limits::default());
    let (names, outputs) = (built.names(function), built.outputs(function));
    let problem = Problem::new(&built.egraph, &names, &outputs, cost);
    // What goes to other ranks is computed in one way alone.
    let instance = problem.instance.as_ref()?;
    let found = searched(instance);
    let (least, _) = optimum(instance)?;
    assert!(found >= least * (1.0 - 1e-9), "{}: {found} below the optimum {least}", function.name);
    Some((found, least))
}

fn searched(instance: &Instance) -> f64 {
    let choice = regions::by_regions(instance, search::search);
    let seconds = choice.and_then(|c| instance.seconds(&c));
    seconds.or_else(|| instance.seconds(&search::search(instance)?)).expect("a choice")
}

/// Which functions of an example are solved: a layer that predicts a further token is a sparse
/// layer and a head, and the program takes 8 s for DeepSeek-V3's.
fn is_layer(function: &Function) -> bool {
    function.name != "mtp"
}

#[test]
fn layers_of_the_examples_are_planned_at_their_optimum() {
    let rules = all();
    let rules: Vec<&Rule> = rules.iter().collect();
    for name in EXAMPLES {
        let graph = example(name);
        for phase in Phase::ALL {
            let cost = cost(Some(&graph), default_workload(phase));
            for function in graph.functions.iter().filter(|f| is_layer(f)) {
                let what = format!("{name}, {phase}, {}", function.name);
                let Some((found, least)) = both(function, &rules, &cost) else {
                    panic!("{what}: no optimum was found");
                };
                let gap = found / least - 1.0;
                assert!(gap <= MOST_GAP_OF_LAYERS, "{what}: {:.4} % above", 100.0 * gap);
            }
        }
    }
}

#[test]
fn random_functions_are_planned_near_their_optimum() {
    let seeds = std::env::var("MOEC_EXTRACT_SEEDS").ok().and_then(|n| n.parse().ok());
    let seeds: u64 = seeds.unwrap_or(SEEDS);
    let rules = all();
    let rules: Vec<&Rule> = rules.iter().collect();
    let (mut solved, mut above, mut worst) = (0, 0, (0.0, 0));
    for seed in 0..seeds {
        let mut function = growth::function(&mut Random(seed));
        let stored: Vec<bool> =
            function.nodes.iter().map(|n| n.ty.shape.last() != Some(&Sym::Past.into())).collect();
        function.outputs.retain(|o| stored[o.0]);
        let cost = cost(None, default_workload(Phase::ALL[seed as usize % 2]));
        let Some((found, least)) = both(&function, &rules, &cost) else { continue };
        let gap = found / least - 1.0;
        solved += 1;
        above += usize::from(gap > 1e-9);
        if gap > 1e-9 {
            eprintln!("{seed}: {:.2}", 100.0 * gap);
        }
        worst = if gap > worst.0 { (gap, seed) } else { worst };
    }
    let (gap, seed) = worst;
    eprintln!("{above} of {solved} are above, at most {:.2} % (seed {seed})", 100.0 * gap);
    // What goes to other ranks has a plan in one form alone, which not all functions have.
    assert!(solved * 4 > seeds * 3, "{solved} of {seeds} have a known optimum");
    assert!(gap <= MOST_GAP, "seed {seed}: {:.2} % above", 100.0 * gap);
}
