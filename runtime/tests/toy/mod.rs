//! A model small enough to compute by hand: one number per token, two layers, eight token ids.
//!
//! `x = embed[id]`; each layer: `cache row = x + w_i`, `x = cos(position) + sum of rows so far
//! / S`; `logits = x * [head_a; head_b]`.

#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod group;

use moec_ir::graph::{Rotary, Step, ValueId};
use moec_ir::kernel::{KernelSpec, View};
use moec_ir::plan::*;
use moec_ir::{DType, Dim, Real, Sizes, Sym, Target};
use moec_runtime::{Artefact, Compiled, Phase};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) const VOCAB: usize = 8;
pub(crate) const LAYERS: u64 = 2;

fn tokens() -> Dim {
    Sym::Tokens.into()
}

fn kernel(name: &str, threads: u32) -> Kernel {
    // The runtime launches by name and geometry; the spec is for code generation.
    let view = View::dense(DType::F32, &[tokens(), Dim::from(1)]).unwrap();
    let one = || Extent::new(Dim::from(1), 1);
    Kernel {
        name: name.into(),
        spec: KernelSpec::Softmax { x: view.clone(), out: view },
        geometry: Some(Geometry {
            grid: [Extent::new(tokens(), 1), one(), one()],
            block: [threads, 1, 1],
            cluster: 1,
            shared_bytes: 0,
            tensor_maps: vec![],
        }),
        reads: vec![],
    }
}

fn weight(names: &[(&str, u64)]) -> Weight {
    let part = |&(name, rows): &(&str, u64)| WeightPart {
        tensor: name.into(),
        shape: vec![rows, 1],
        scale: None,
    };
    Weight { dtype: DType::F32, outer: 1, spread: false, parts: names.iter().map(part).collect() }
}

fn launch(kernel: usize, buffers: &[Buffer]) -> Launch {
    let operand = |&buffer: &Buffer| Operand { buffer, offset: Dim::from(0) };
    let operands = buffers.iter().map(operand).collect();
    Launch { kernel, operands, of_group: false, computes: "a value".into() }
}

fn function(name: &str, launches: Vec<Launch>) -> PlanFunction {
    PlanFunction {
        name: name.into(),
        weights: vec![],
        caches: vec![],
        tables: vec![],
        workspace: vec![],
        launches,
    }
}

fn functions() -> Vec<PlanFunction> {
    use Buffer::{Cache, Input, Output, Table, Weight, Workspace};
    use StepInput::{CachePages, CacheStart, Positions, Sequences, Slots};
    let embed = PlanFunction {
        weights: vec![weight(&[("model.embed_tokens.weight", VOCAB as u64)])],
        ..function("embed", vec![launch(0, &[Weight(0), Input(0), Output(0)])])
    };
    let rotary = Rotary {
        dim: 2,
        theta: Real(10_000.0),
        interleaved: true,
        amplitude: Real(1.0),
        yarn: None,
    };
    let layer = PlanFunction {
        weights: vec![weight(&[("model.layers.{i}.w", 1)])],
        caches: vec![PlanCache { name: "kept".into(), dtype: DType::F32, row: 1 }],
        tables: vec![moec_ir::plan::Table::Rotary(rotary)],
        workspace: vec![Dim::from(16), tokens() * 4],
        ..function(
            "layer",
            vec![
                launch(1, &[Input(0), Weight(0), Buffer::Step(Slots), Cache(0)]),
                launch(
                    2,
                    &[
                        Cache(0),
                        Table(0),
                        Buffer::Step(Positions),
                        Buffer::Step(Sequences),
                        Buffer::Step(CacheStart),
                        Buffer::Step(CachePages),
                        Output(0),
                    ],
                ),
            ],
        )
    };
    let head = PlanFunction {
        weights: vec![weight(&[("head_a", 5), ("head_b", 3)])],
        workspace: vec![tokens() * 4],
        ..function(
            "head",
            vec![
                launch(3, &[Input(0), Weight(0), Output(0)]),
                launch(0, &[Weight(0), Buffer::Step(Sequences), Workspace(0)]),
            ],
        )
    };
    vec![embed, layer, head]
}

fn plan(phase: Phase) -> Plan {
    let value = |dtype, columns: Option<u64>, storage| PlanValue {
        dtype,
        shape: std::iter::once(tokens()).chain(columns.map(Dim::from)).collect(),
        storage,
    };
    let step = |function, layer, from, to| Step {
        function,
        layer,
        inputs: vec![ValueId(from)],
        outputs: vec![ValueId(to)],
    };
    Plan {
        format: FORMAT,
        model: "Toy".into(),
        context: 12,
        target: Target::named("h800").unwrap(),
        phase,
        ranks: None,
        symmetric: vec![],
        workload: Sizes { tokens: 1, past: 1, sequences: 1 },
        kernels: vec![
            kernel("gather_0", 1),
            kernel("remember_0", 1),
            kernel("attend_0", 1),
            kernel("head_0", VOCAB as u32),
        ],
        functions: functions(),
        entries: vec![PlanEntry {
            name: "main".into(),
            values: vec![
                value(DType::I32, None, 0),
                value(DType::F32, Some(1), 1),
                value(DType::F32, Some(1), 2),
                value(DType::F32, Some(1), 1),
                value(DType::F32, Some(VOCAB as u64), 3),
            ],
            inputs: vec![ValueId(0)],
            steps: vec![
                step(0, None, 0, 1),
                step(1, Some(0), 1, 2),
                step(1, Some(1), 2, 3),
                step(2, None, 3, 4),
            ],
            outputs: vec![ValueId(4)],
        }],
    }
}

/// Both phases.
pub(crate) fn artefact() -> Artefact {
    let ptx = include_str!("toy.ptx");
    let compiled = |phase| (phase, Compiled { plan: plan(phase), ptx: ptx.into() });
    Artefact {
        model: "Toy".into(),
        source: moec_runtime::artefact::digest("toy"),
        phases: Phase::ALL.into_iter().map(compiled).collect(),
    }
}

/// Name, shape and values of every tensor.
pub(crate) fn tensors() -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let ramp = |n: usize, scale: f32| (0..n).map(|i| scale * (i as f32 + 1.0)).collect::<Vec<_>>();
    BTreeMap::from([
        ("model.embed_tokens.weight".into(), (vec![VOCAB, 1], ramp(VOCAB, 0.5))),
        ("model.layers.0.w".into(), (vec![1, 1], vec![0.25])),
        ("model.layers.1.w".into(), (vec![1, 1], vec![-1.5])),
        ("head_a".into(), (vec![5, 1], ramp(5, 1.0))),
        ("head_b".into(), (vec![3, 1], ramp(3, -2.0))),
    ])
}

/// Writes tensors as a float32 safetensors file.
pub(crate) fn write(path: &Path, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            (name.clone(), shape.clone(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// What the model answers, computed in float32 as the kernels do: the logits of every token of
/// one sequence. `steps[t]` is `S` in the step that computed token `t`.
pub(crate) fn expected(ids: &[u32], steps: &[u64]) -> Vec<Vec<f32>> {
    let tensors = tensors();
    let values = |name: &str| tensors[name].1.clone();
    let embed = values("model.embed_tokens.weight");
    let mut x: Vec<f32> = ids.iter().map(|&id| embed[id as usize]).collect();
    for layer in 0..LAYERS {
        let w = values(&format!("model.layers.{layer}.w"))[0];
        let rows: Vec<f32> = x.iter().map(|x| x + w).collect();
        for t in 0..x.len() {
            let sum = rows[..=t].iter().fold(0.0f32, |s, r| s + r);
            x[t] = sum / steps[t] as f32 + (t as f64).cos() as f32;
        }
    }
    let head: Vec<f32> = [values("head_a"), values("head_b")].concat();
    x.iter().map(|x| head.iter().map(|h| x * h).collect()).collect()
}
