//! Attention, both variants, over batches whose keys lie apart in a poisoned cache.

use super::machine::{Array, POISON, Ran, Random, run};
use crate::cases::{self, Case};
use half::bf16;
use moec_ir::kernel::{KernelSpec, View};
use moec_ir::{DType, Phase, ScaleFormat, Sizes};
use std::collections::BTreeSet;

/// A batch: for each sequence, the first row of its keys, how many tokens it has had before this
/// step, and how many it has in this step.
pub(crate) type Batch = &'static [(u64, u64, u64)];

pub(crate) const PREFILL: &[Batch] = &[
    &[(0, 0, 1)],
    &[(3, 0, 70)],
    &[(200, 5, 9), (0, 0, 33), (40, 130, 2)],
    &[(0, 150, 40), (300, 0, 60)],
];

pub(crate) const DECODE: &[Batch] = &[
    &[(0, 0, 1)],
    &[(7, 36, 1)],
    &[(200, 5, 1), (0, 140, 1), (150, 0, 1)],
    &[(1, 513, 1), (520, 63, 2)],
];

/// No rows between sequences.
const PACKED: &[Batch] = &[
    &[(0, 0, 1)],
    &[(0, 0, 70)],
    &[(0, 0, 300)],
    &[(0, 37, 128), (165, 0, 1), (166, 5, 200)],
    &[(40, 5, 9), (0, 0, 33), (33, 2, 5), (54, 130, 2)],
];

/// Keys that end within a page, with it, and with two; tokens of many sequences in one CTA, of one
/// sequence in several; sequences without past and with much.
const PAGED: &[Batch] = &[
    &[(0, 0, 1)],
    &[(0, 0, 64), (0, 0, 1), (0, 3, 61)],
    &[(0, 0, 128), (0, 65, 63)],
    &[(0, 5, 9), (0, 0, 33), (0, 130, 2), (0, 0, 1), (0, 62, 3)],
    &[(0, 193, 140), (0, 0, 20)],
];

/// Tensor cores multiply weights in 16 bits: each is off by half a unit of its last place, relative
/// to itself, so that a result is off by that times the greatest value. Scores of `d` products of
/// numbers below 2, summed 16 at a time in float32 and truncated, are off by less than `2 d * d / 16`
/// units of 2^-23 before the factor, below 1e-4 after it.
#[test]
fn attention_on_tensor_cores_agrees_with_loops() {
    for case in cases::packed_attentions() {
        for (i, &batch) in PACKED.iter().enumerate() {
            let ran = check_within(&case, batch, i as u64, 1.0 / 512.0 + 2e-4);
            assert!(ran.tensor_cores, "{}", case.name);
        }
    }
}

/// The same bound. Rows of pages that no sequence owns hold NaNs.
#[test]
fn attention_in_pages_on_tensor_cores_agrees_with_loops() {
    for case in cases::paged_attentions() {
        for (i, &batch) in PAGED.iter().enumerate() {
            let ran = check_within(&case, batch, i as u64, 1.0 / 512.0 + 2e-4);
            assert!(ran.tensor_cores, "{}", case.name);
        }
    }
}

/// The same bound: depths are up to 576, where the truncated sums are off by less than 3e-4 before
/// the factor.
#[test]
fn attention_to_a_latent_agrees_with_loops() {
    for case in cases::latent_attentions() {
        // One case is enough to see that many tokens of a sequence do as well.
        let many = if case.name == "latent uneven" { &PREFILL[1..3] } else { &[] };
        for (i, &batch) in DECODE.iter().chain(many).enumerate() {
            let ran = check_within(&case, batch, i as u64, 1.0 / 512.0 + 2e-4);
            assert!(ran.tensor_cores, "{}", case.name);
        }
    }
}

/// Batches where chunks have many keys, few, and none.
#[test]
fn chunks_of_attention_agree_with_loops() {
    for case in cases::attentions_in_chunks() {
        let error = if case.name.starts_with("latent") { 1.0 / 512.0 + 2e-4 } else { 4e-6 };
        for (i, &batch) in DECODE.iter().enumerate() {
            check_within(&case, batch, i as u64, error);
        }
    }
}

#[test]
fn attention_agrees_with_loops() {
    for case in cases::attentions() {
        let batches = match case.step().phase {
            Phase::Prefill => PREFILL,
            Phase::Decode => DECODE,
        };
        for (i, &batch) in batches.iter().enumerate() {
            check(&case, batch, i as u64);
        }
    }
}

/// Each variant is correct for the other's steps too.
#[test]
fn attention_is_correct_in_any_step() {
    for mut case in cases::attentions().into_iter().filter(|c| c.name.ends_with("uneven")) {
        case.tokens = if case.tokens > 4 { 1 } else { 100 };
        for (i, &batch) in PREFILL.iter().chain(DECODE).enumerate() {
            check(&case, batch, i as u64);
        }
    }
}

fn check(case: &Case, batch: Batch, seed: u64) {
    check_within(case, batch, seed, 4e-6);
}

/// The chunks brought together.
fn merged(
    name: &str,
    case: &Case,
    view: &View,
    sizes: &Sizes,
    partial: &mut Array,
    log_sums: &mut Array,
) -> Array {
    let shape = [&view.shape[..1], &view.shape[2..]].concat();
    let out = View::dense(view.dtype, &shape).unwrap();
    let mut result = Array::poisoned(&out, sizes);
    let KernelSpec::Attention { log_sums: Some(sums), .. } = &case.spec else { panic!("{name}") };
    let spec = KernelSpec::AttentionMerge { partial: view.clone(), log_sums: sums.clone(), out };
    run(name, &spec, case.step(), sizes, &mut [partial, log_sums, &mut result]);
    result
}

/// Where the keys of a batch lie.
struct Layout {
    page: Option<u64>,
    /// What the kernel is told: the first row of each sequence, and the pages of all.
    starts: Vec<u64>,
    pages: Vec<u64>,
    /// Rows that there are.
    rows: u64,
}

impl Layout {
    /// Pages lie in an order of their own, with a gap after each third.
    fn new(batch: Batch, page: Option<u64>) -> Self {
        let ends = batch.iter().map(|(start, past, new)| start + past + new);
        let Some(size) = page else {
            let starts = batch.iter().map(|s| s.0).collect();
            return Self { page, starts, pages: vec![], rows: ends.max().unwrap() };
        };
        let (mut starts, mut count) = (vec![], 0);
        for (_, past, new) in batch {
            starts.push(count * size);
            count += (past + new).div_ceil(size);
        }
        let places: Vec<u64> = (0..count).map(|i| i + i / 3).collect();
        let mut pages = places.clone();
        pages.rotate_left(count as usize / 2);
        pages.reverse();
        Self { page, starts, pages, rows: (places[count as usize - 1] + 1) * size }
    }

    /// Where a key of a sequence lies.
    fn row(&self, sequence: u64, key: u64) -> u64 {
        let row = self.starts[sequence as usize] + key;
        match self.page {
            Some(page) => self.pages[(row / page) as usize] * page + row % page,
            None => row,
        }
    }
}

/// Within `error` times the greatest value.
pub(crate) fn check_within(case: &Case, batch: Batch, seed: u64, error: f64) -> Ran {
    check_scaled(case, batch, seed, error, 1.0)
}

/// The same of keys that are quantised, and that many times greater.
pub(crate) fn check_scaled(case: &Case, batch: Batch, seed: u64, error: f64, larger: f64) -> Ran {
    let mut case = case.clone();
    if let KernelSpec::Attention { scale, .. } = &mut case.spec {
        scale.0 /= larger;
    }
    let KernelSpec::Attention { q, k, v, out, scale, page, values_in_keys, quantized, log_sums } =
        &case.spec
    else {
        panic!("{}", case.name)
    };
    let mut random = Random(seed);
    let tokens: Vec<(u64, u64)> = (0u64..)
        .zip(batch)
        .flat_map(|(b, &(_, past, new))| (past..past + new).map(move |p| (b, p)))
        .collect();
    let layout = Layout::new(batch, *page);
    let rows = layout.rows;
    let past = if page.is_some() { batch.iter().map(|s| s.1 + s.2).sum() } else { rows };
    let sizes = Sizes { tokens: tokens.len() as u64, past, sequences: batch.len() as u64 };
    let mut q: Vec<Array> = q.iter().map(|q| Array::random(q, &sizes, &mut random)).collect();
    let owned: BTreeSet<u64> = (0..)
        .zip(batch)
        .flat_map(|(b, &(_, past, new))| (0..past + new).map(move |key| (b, key)))
        .map(|(b, key)| layout.row(b, key))
        .collect();
    let mut cache = |view| {
        let mut array = Array::with_rows(view, rows);
        // What no sequence owns stays poisoned.
        array.each(|array, index| {
            if owned.contains(&index[0]) {
                let most = if array.dtype == DType::F8e4m3 { 448.0 } else { 2.0 * larger };
                array.set(index, most * random.number());
            }
        });
        array
    };
    let (mut k, mut v): (Vec<Array>, Array) = (k.iter().map(&mut cache).collect(), cache(v));
    if *values_in_keys {
        v.each(|v, index| {
            if owned.contains(&index[0]) {
                v.set(index, k[0].get(index));
            }
        });
    }
    let mut scales = quantized.as_ref().map(|quantized| {
        let mut scales = Array::with_rows(&quantized.scale, rows);
        scales.each(|scales, index| {
            let scale = (1.0 + random.number().abs()) * larger / 448.0;
            let scale = match quantized.format {
                ScaleFormat::F32 => scale,
                ScaleFormat::Ue8m0 => scale.log2().floor().exp2(),
            };
            if owned.contains(&index[0]) {
                scales.set(index, scale);
            }
        });
        scales
    });
    let (old_k, old_v) = (k.clone(), v.clone());
    let mut log_sums = log_sums.as_ref().map(|view| Array::poisoned(view, &sizes));
    let out_view = out;
    let mut out = Array::poisoned(out, &sizes);
    let integers = |values: &mut dyn Iterator<Item = u64>| {
        Array::integers(&values.map(|v| v as i32).collect::<Vec<_>>())
    };
    let mut positions = integers(&mut tokens.iter().map(|t| t.1));
    let mut sequences = integers(&mut tokens.iter().map(|t| t.0));
    let mut starts = integers(&mut layout.starts.iter().copied());
    let mut pages = integers(&mut layout.pages.iter().copied());
    let name = format!("{}, {batch:?}", case.name);
    let report = {
        let mut operands: Vec<&mut Array> = q.iter_mut().chain(&mut k).collect();
        operands.push(&mut v);
        operands.extend(&mut scales);
        operands.extend([&mut positions, &mut sequences, &mut starts]);
        operands.extend(page.is_some().then_some(&mut pages));
        operands.push(&mut out);
        operands.extend(&mut log_sums);
        run(&name, &case.spec, case.step(), &sizes, &mut operands)
    };
    assert!(v.bytes == old_v.bytes && k.iter().zip(&old_k).all(|(a, b)| a.bytes == b.bytes));
    assert!(out.bytes.iter().any(|&b| b != POISON), "{name}: nothing was written");
    if let Some(mut log_sums) = log_sums {
        out = merged(&name, &case, out_view, &sizes, &mut out, &mut log_sums);
    }
    let heads = out.shape[1];
    let per_token: u64 = q.iter().map(|q| q.shape[2]).sum::<u64>() + out.shape[2];
    let seen: u64 = tokens.iter().map(|t| t.1 + 1).sum();
    let useful = seen * heads * per_token;
    let each = report.lane_instructions as f64 / useful as f64;
    eprintln!("{name}: {each:.2} lane instructions per multiply-add");
    // Tensor cores multiply what is dequantised in 16 bits.
    let dequantized = |x: f64, row: u64, column: u64| match (&scales, quantized) {
        (Some(scales), Some(quantized)) => {
            let x = x * scales.get(&[row, column / quantized.block]);
            if report.tensor_cores { bf16::from_f64(x).to_f64() } else { x }
        }
        _ => x,
    };
    let mut row = Vec::new();
    let mut weights = Vec::new();
    out.check(&name, error, |index| {
        let (t, h, column) = (index[0], index[1], index[2]);
        let (b, position) = tokens[t as usize];
        if column == 0 {
            row = (0..=position)
                .map(|key| {
                    let key = layout.row(b, key);
                    let part = |(part, (q, k)): (usize, (&Array, &Array))| {
                        let head = h / (heads / k.shape[1]);
                        let of_key = |d| match (k.get(&[key, head, d]), part) {
                            (x, 0) => dequantized(x, key, d),
                            (x, _) => x,
                        };
                        let product = |d| q.get(&[t, h, d]) * of_key(d);
                        (0..q.shape[2]).map(product).sum::<f64>()
                    };
                    scale.0 * q.iter().zip(&k).enumerate().map(part).sum::<f64>()
                })
                .collect();
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            weights = row.iter().map(|s| (s - max).exp()).collect();
        }
        let head = h / (heads / v.shape[1]);
        let total: f64 = weights.iter().sum();
        let value = |i: usize| {
            let row = layout.row(b, i as u64);
            dequantized(v.get(&[row, head, column]), row, column)
        };
        let sum: f64 = weights.iter().enumerate().map(|(i, w)| w / total * value(i)).sum();
        (sum, 2.0 * larger)
    });
    report
}
