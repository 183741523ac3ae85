//! Whether the emulator and the reference agree on a model with random weights.

use moec_ir::graph::UnaryFn;
use moec_ir::plan::PAGE_ROWS;
use moec_ir::{DType, Diagnostic, Graph, Op, Phase, Sizes, Target, e4m3};
use moec_runtime::weights::Demand;
use moec_runtime::{Artefact, Checkpoint, Compiled, Engine, Reference, Rows, Session, device};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// Largest relative L2 error of a token's logits, at the median over tokens. bfloat16 rounds to
/// 2^-9 (Higham, Accuracy and Stability, section 2.1); a token passes about a hundred roundings
/// per model of this size, whose errors add up like a random walk: 2^-9 * sqrt(100) = 0.02.
const LIMIT: f64 = 0.02;

/// Rules whose absence turns attention from its absorbed into its expanded form.
const ABSORB: [&str; 2] = ["absorb-key-projection", "absorb-value-projection"];

/// Compares logits of random sequences of the given lengths: emulator against reference, as one
/// prefill of all sequences and as a prefill of half and decoding of the rest, with and without
/// the rules of absorption, and with a plan for decoding a long sequence alone.
///
/// # Errors
/// The outer where something could not be run, the inner where logits differ.
pub fn agree(graph: &Graph, lengths: &[usize]) -> Result<Result<(), String>, Vec<Diagnostic>> {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("no temporary folder: {e}"));
    let mut rng = SmallRng::seed_from_u64(1);
    write_random(&Demand::of_graph(graph), folder.path(), &mut rng);
    let checkpoint = Checkpoint::open(folder.path())?;
    let mut reference = Reference::new(graph, &checkpoint)?;
    let vocab = reference.vocab();
    let sequences: Vec<Vec<u32>> = lengths
        .iter()
        .map(|&n| (0..n).map(|_| rng.random_range(0..vocab) as u32).collect())
        .collect();
    let want = logits(&mut reference, &sequences, false)?;
    let unrounded = without_rounding(graph);
    let mut reference = Reference::new(&unrounded, &checkpoint)?;
    let cost = median_error(&logits(&mut reference, &sequences, false)?, &want, vocab as usize);
    // What bfloat16 rounds differently falls on the other side of e4m3's boundaries here and
    // there. Two roundings that are independent differ by sqrt(2) times what each of them costs.
    let limit = LIMIT + std::f64::consts::SQRT_2 * cost;
    let alone = Sizes { tokens: 1, past: 4096, sequences: 1 };
    for (without, decode) in [(&[][..], None), (&ABSORB, None), (&[], Some(alone))] {
        let artefact = compile(graph, without, decode)?;
        let rows = lengths.iter().map(|&n| (n as u64).next_multiple_of(PAGE_ROWS)).sum();
        let ways = if decode.is_some() { &[true][..] } else { &[false, true] };
        for &stepwise in ways {
            let device = Box::new(device::Emulator::default());
            let mut session =
                Session::new(device, artefact.clone(), &checkpoint, rows, &mut |_| {})?;
            let got = logits(&mut session, &sequences, stepwise)?;
            let error = median_error(&got, &want, vocab as usize);
            // Not a number is not agreement.
            if error.is_nan() || error > limit {
                return Ok(Err(format!(
                    "median relative error {error:.4} (limit {limit:.4}), {} without {without:?}",
                    if stepwise { "token by token" } else { "in one step" },
                )));
            }
        }
    }
    Ok(Ok(()))
}

/// The graph with activations that are not rounded to FP8; the same graph where none are.
fn without_rounding(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for function in &mut graph.functions {
        for at in 0..function.nodes.len() {
            let node = &function.nodes[at];
            let from = node.inputs.first().map(|q| function.node(*q));
            if let (Op::Dequantize { .. }, Some(Op::Quantize { .. })) =
                (&node.op, from.map(|n| &n.op))
            {
                let x = from.map(|n| n.inputs.clone()).unwrap_or_default();
                let node = &mut function.nodes[at];
                (node.op, node.inputs) = (Op::Unary(UnaryFn::Identity), x);
            }
        }
    }
    graph
}

/// Logits of all tokens, sequence by sequence.
fn logits(
    engine: &mut dyn Engine,
    sequences: &[Vec<u32>],
    stepwise: bool,
) -> Result<Vec<f32>, Vec<Diagnostic>> {
    let mut ids = Vec::new();
    for tokens in sequences {
        ids.push(engine.open(tokens.len() as u64)?);
    }
    let mut found = vec![Vec::new(); sequences.len()];
    let first = |tokens: &Vec<u32>| if stepwise { tokens.len().div_ceil(2) } else { tokens.len() };
    let mut begin = 0;
    loop {
        let mut batch = Vec::new();
        let mut who = Vec::new();
        for (i, tokens) in sequences.iter().enumerate() {
            let half = first(tokens);
            let range = if begin == 0 { 0..half } else { half + begin - 1..half + begin };
            if let Some(part) = tokens.get(range).filter(|p| !p.is_empty()) {
                batch.push((ids[i], part));
                who.push(i);
            }
        }
        if batch.is_empty() {
            return Ok(found.concat());
        }
        let phase = if begin == 0 { Phase::Prefill } else { Phase::Decode };
        for (i, rows) in who.into_iter().zip(engine.step(phase, &batch, Rows::All)?) {
            found[i].extend(rows);
        }
        begin += 1;
    }
}

fn compile(
    graph: &Graph,
    without: &[&str],
    decode: Option<Sizes>,
) -> Result<Artefact, Vec<Diagnostic>> {
    let target = Target::named("h800").unwrap_or_else(|| panic!("h800 is a target"));
    let without: Vec<String> = without.iter().map(|r| (*r).to_owned()).collect();
    let mut phases = BTreeMap::new();
    for phase in Phase::ALL {
        let workload = decode.filter(|_| phase == Phase::Decode);
        let options =
            moec_passes::Options { without: without.clone(), workload, ..Default::default() };
        let optimized = moec_passes::optimize(graph, &target, phase, &options)?;
        let generated = moec_codegen::generate(&optimized.plan, Default::default())?;
        phases.insert(phase, Compiled { plan: generated.plan, ptx: generated.ptx });
    }
    Ok(Artefact { model: graph.name.clone(), source: String::new(), phases })
}

fn median_error(got: &[f32], want: &[f32], vocab: usize) -> f64 {
    assert_eq!(got.len(), want.len());
    let error = |(g, w): (&[f32], &[f32])| {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let difference: f64 = g.iter().zip(w).map(|(g, w)| square(g - w)).sum();
        (difference / w.iter().map(|w| square(*w)).sum::<f64>()).sqrt()
    };
    let mut errors: Vec<f64> = got.chunks(vocab).zip(want.chunks(vocab)).map(error).collect();
    errors.sort_by(f64::total_cmp);
    errors[errors.len() / 2]
}

/// Writes every tensor that is demanded: rows of random numbers whose products neither grow nor
/// vanish; vectors (norms) around 1. FP8 tensors are around 1 and their scales make them small.
fn write_random(demand: &Demand, folder: &Path, rng: &mut SmallRng) {
    let scale_of = |shape: &[u64]| shape.last().map_or(1.0, |&n| (n as f32).sqrt().recip()) * 1.7;
    let factors: BTreeMap<String, f32> = demand
        .tensors()
        .filter(|(_, _, dtype)| *dtype == DType::F8e4m3)
        .map(|(name, shape, _)| (format!("{name}_scale_inv"), scale_of(shape)))
        .collect();
    let tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = demand
        .tensors()
        .map(|(name, shape, dtype)| {
            let count: u64 = shape.iter().product();
            let values = (0..count).map(|_| rng.random_range(-1.0..1.0_f32));
            let (dtype, bytes): (_, Vec<u8>) = match (dtype, factors.get(name)) {
                (DType::F8e4m3, _) => {
                    (Dtype::F8_E4M3, values.map(|x| e4m3::encode(f64::from(x))).collect())
                }
                (_, Some(factor)) => (
                    Dtype::F32,
                    values.flat_map(|x| ((1.0 + x * 0.5) * factor).to_le_bytes()).collect(),
                ),
                _ if shape.len() > 1 => {
                    (Dtype::BF16, values.flat_map(|x| bf16(x * scale_of(shape))).collect())
                }
                _ => (Dtype::BF16, values.flat_map(|x| bf16(1.0 + x * 0.2)).collect()),
            };
            let shape = shape.iter().map(|&n| n as usize).collect();
            (name.to_owned(), dtype, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (name.as_str(), view.unwrap_or_else(|e| panic!("{name}: {e}")))
    });
    let path = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap_or_else(|e| panic!("{e}"));
}

/// The upper half of a float32: its bfloat16, rounded towards zero.
fn bf16(x: f32) -> [u8; 2] {
    let [_, _, low, high] = x.to_le_bytes();
    [low, high]
}
