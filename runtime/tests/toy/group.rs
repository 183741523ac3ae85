//! The toy for four ranks: each layer multiplies a token's number by the sum of a number of each
//! rank's own and of a mark for each token that a rank can have.

use super::{VOCAB, function, kernel, launch, tokens};
use moec_ir::graph::{Step, ValueId};
use moec_ir::plan::*;
use moec_ir::{DType, Dim, Ranks, Sizes, Target};
use moec_runtime::{Artefact, Compiled, Phase};
use std::collections::BTreeMap;

pub(crate) const RANKS: u32 = 4;
pub(crate) const LAYERS: u64 = 3;

fn functions() -> Vec<PlanFunction> {
    use Buffer::{Group, Input, Output, Symmetric, Weight};
    let part =
        |name: &str, rows| WeightPart { tensor: name.into(), shape: vec![rows, 1], scale: None };
    let weight = |part, spread| moec_ir::plan::Weight {
        dtype: DType::F32,
        outer: 1,
        spread,
        parts: vec![part],
    };
    let embed = PlanFunction {
        weights: vec![weight(part("embed", VOCAB as u64), false)],
        ..function("embed", vec![launch(0, &[Weight(0), Input(0), Output(0)])])
    };
    let mark = Launch { of_group: true, ..launch(1, &[Symmetric(2)]) };
    let operands =
        [Input(0), Weight(0), Symmetric(0), Symmetric(1), Symmetric(2), Group, Output(0)];
    let exchange = Launch { computes: "told".into(), ..launch(2, &operands) };
    let layer = PlanFunction {
        weights: vec![weight(part("layers.{i}.experts.{e}", 1), true)],
        ..function("layer", vec![mark, exchange])
    };
    let head = PlanFunction {
        weights: vec![weight(part("head", VOCAB as u64), false)],
        ..function("head", vec![launch(3, &[Input(0), Weight(0), Output(0)])])
    };
    vec![embed, layer, head]
}

fn plan(phase: Phase) -> Plan {
    let value = |dtype, columns: Option<u64>, storage| PlanValue {
        dtype,
        shape: std::iter::once(tokens()).chain(columns.map(Dim::from)).collect(),
        storage,
    };
    let step = |function, layer, from| Step {
        function,
        layer,
        inputs: vec![ValueId(from)],
        outputs: vec![ValueId(from + 1)],
    };
    let mut exchange = kernel("exchange_0", 1);
    if let Some(geometry) = &mut exchange.geometry {
        geometry.grid[0] = Extent::new(Dim::from(1), 1);
    }
    let symmetric = |name: &str, bytes: Dim| Symmetric { name: name.into(), bytes };
    let hidden = |storage| value(DType::F32, Some(1), storage);
    Plan {
        format: FORMAT,
        model: "Toy".into(),
        context: 12,
        target: Target::named("h800").unwrap(),
        phase,
        ranks: Some(Ranks::new(RANKS, RANKS).unwrap()),
        symmetric: vec![
            symmetric("slots", Dim::from(32)),
            symmetric("flags", Dim::from(16)),
            symmetric("marks", tokens() * 4),
        ],
        workload: Sizes { tokens: 1, past: 1, sequences: 1 },
        kernels: vec![
            kernel("gather_0", 1),
            kernel("mark_0", 1),
            exchange,
            kernel("head_0", VOCAB as u32),
        ],
        functions: functions(),
        entries: vec![PlanEntry {
            name: "main".into(),
            values: vec![
                value(DType::I32, None, 0),
                hidden(1),
                hidden(2),
                hidden(1),
                hidden(2),
                value(DType::F32, Some(VOCAB as u64), 3),
            ],
            inputs: vec![ValueId(0)],
            steps: std::iter::once(step(0, None, 0))
                .chain((0..LAYERS).map(|l| step(1, Some(l), l as usize + 1)))
                .chain([step(2, None, LAYERS as usize + 1)])
                .collect(),
            outputs: vec![ValueId(LAYERS as usize + 2)],
        }],
    }
}

/// Both phases.
pub(crate) fn artefact() -> Artefact {
    let ptx = include_str!("toy.ptx");
    let compiled = |phase| (phase, Compiled { plan: plan(phase), ptx: ptx.into() });
    Artefact {
        model: "Toy".into(),
        source: moec_runtime::artefact::digest("toy of a group"),
        phases: Phase::ALL.into_iter().map(compiled).collect(),
    }
}

/// Name, shape and values of every tensor.
pub(crate) fn tensors() -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let ramp = |scale: f32| (0..VOCAB).map(|i| scale * (i as f32 + 1.0)).collect::<Vec<_>>();
    let mut tensors = BTreeMap::from([
        ("embed".to_owned(), (vec![VOCAB, 1], ramp(0.5))),
        ("head".to_owned(), (vec![VOCAB, 1], ramp(1.0))),
    ]);
    for layer in 0..LAYERS {
        for rank in 0..RANKS {
            let value = 0.1 * (layer as f32 + 1.0) - 0.3 * rank as f32;
            let name = format!("layers.{layer}.experts.{rank}");
            tensors.insert(name, (vec![1, 1], vec![value]));
        }
    }
    tensors
}

/// The logits of tokens where ranks have room for `most`, added up in the kernels' order.
pub(crate) fn expected(ids: &[u32], most: u64) -> Vec<f32> {
    let tensors = tensors();
    let values = |name: &str| tensors[name].1.clone();
    let (embed, head) = (values("embed"), values("head"));
    let mut logits = Vec::new();
    for &id in ids {
        let mut x = embed[id as usize];
        for layer in 0..LAYERS {
            let told = |rank| values(&format!("layers.{layer}.experts.{rank}"))[0];
            let sum = (0..RANKS).map(told).fold(0.0, |sum, w| sum + w);
            x *= (0..most).fold(sum, |sum, _| sum + 1.0);
        }
        logits.extend(head.iter().map(|h| x * h));
    }
    logits
}
