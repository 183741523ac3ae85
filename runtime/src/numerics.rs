//! What FP8 products lose, layer by layer: the float64 evaluation of a model gives every linear
//! map its true operands, which are then quantised and multiplied as tensor cores do.
//!
//! Two errors are told apart: that of quantising the operands, and that of adding up the products
//! of the quantised operands in a narrow accumulator, which promotion to float32 bounds
//! (DeepSeek-V3 3.3.2 and 3.5.2).

use crate::{Checkpoint, Reference, Result};
use moec_emulator::{Accumulation, multiply_e4m3};
use moec_ir::graph::eval::{Observed, Tensor};
use moec_ir::{Function, Graph, NodeId, Op, e4m3};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;
use serde::Serialize;

/// The accumulations that are compared.
pub const RULES: [(&str, Accumulation); 4] = [
    ("exact", Accumulation::Exact),
    ("hopper", Accumulation::Hopper),
    ("22-bit", Accumulation::Bits22),
    ("14-bit", Accumulation::Bits14),
];

/// Products after which a sum moves to float32; a sum of fewer never does before its end.
pub const INTERVALS: [usize; 5] = [32, 64, 128, 256, 512];

/// Elements along the depth, and rows of a weight, that share a scale (DeepSeek-V3 3.3.2). Where
/// promotion is rarer the block grows with its interval, since a sum has one scale.
const BLOCK: usize = 128;

/// Rows of activations and of weights that are looked at, in each layer.
const SAMPLED: [usize; 2] = [32, 64];

/// How far results are from what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Error {
    /// L2 norm of the differences, relative to that of the results.
    pub l2: f64,
    /// Greatest difference of a result, relative to the root mean square of the results.
    pub greatest: f64,
}

/// The errors of one linear map, over the sampled results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// The weight's tensor in the checkpoint.
    pub weight: String,
    /// Products per result.
    pub depth: usize,
    /// Of the quantised product, added exactly, against the product of the unquantised operands.
    pub quantised: Error,
    /// By rule, in the order of [`RULES`]: against the float64 product of the same quantised
    /// operands, promoted after each of [`INTERVALS`] and, last, never.
    pub accumulated: Vec<Vec<Error>>,
}

/// The losses of every linear map of `main`, in the order of evaluation, on one sequence.
///
/// # Errors
/// Those of [`Reference`]: E0604 where the checkpoint does not fit, E12xx where the tokens do not.
pub fn numerics(graph: &Graph, checkpoint: &Checkpoint, tokens: &[u32]) -> Result<Vec<Loss>> {
    let mut samples = Vec::new();
    Reference::new(graph, checkpoint)?.observe(tokens, &mut |seen| samples.extend(sample(seen)))?;
    Ok(samples.par_iter().map(Sample::loss).collect())
}

/// The loss of operands drawn from a normal distribution. The known case is a depth of 4096:
/// without promotion, single results are wrong by nearly 2 % (DeepSeek-V3 3.3.2).
pub fn random_loss(depth: usize) -> Loss {
    let mut generator = ChaCha8Rng::seed_from_u64(0);
    let mut matrix =
        |rows: usize| -> Vec<f64> { (0..rows * depth).map(|_| normal(&mut generator)).collect() };
    let products = vec![(matrix(SAMPLED[0]), matrix(SAMPLED[1]))];
    Sample { name: "(normal random operands)".to_owned(), depth, products }.loss()
}

/// A normal deviate (Box and Muller 1958).
fn normal(generator: &mut ChaCha8Rng) -> f64 {
    let mut uniform = || (f64::from(generator.next_u32()) + 0.5) / 2f64.powi(32);
    let (radius, turn) = (uniform(), uniform());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
}

/// Operands of a linear map.
struct Sample {
    name: String,
    depth: usize,
    /// Rows of activations and of a weight that they are multiplied by: one pair, or one for each
    /// expert that was chosen.
    products: Vec<(Vec<f64>, Vec<f64>)>,
}

/// The operands of an operation, if it is a linear map by a parameter.
fn sample(seen: &Observed<'_>) -> Option<Sample> {
    let param = weight(seen.function, *seen.node.inputs.get(1)?)?;
    let [x, w, ..] = seen.operands else { return None };
    let depth = x.last();
    let products = match seen.node.op {
        Op::Linear => vec![(some_rows(&x.data, depth), first_rows(&w.data, depth))],
        Op::ExpertLinear => of_experts(x, w, seen.operands.get(2)?),
        _ => return None,
    };
    let tensor = &seen.function.params[param].tensor;
    let layer = seen.layer.map_or_else(String::new, |l| l.to_string());
    Some(Sample { name: tensor.replace("{i}", &layer), depth, products })
}

/// The parameter that a value is a form of.
fn weight(function: &Function, id: NodeId) -> Option<usize> {
    let node = function.node(id);
    match node.op {
        Op::Param(param) => Some(param),
        _ => weight(function, *node.inputs.first()?),
    }
}

/// Rows spread over all of a matrix.
fn some_rows(data: &[f64], depth: usize) -> Vec<f64> {
    let rows = data.len() / depth;
    let step = rows.div_ceil(SAMPLED[0]).max(1);
    data.chunks_exact(depth).step_by(step).flatten().copied().collect()
}

/// The first rows of a weight, which share scales.
fn first_rows(data: &[f64], depth: usize) -> Vec<f64> {
    data[..data.len().min(SAMPLED[1] * depth)].to_vec()
}

/// One pair for each of the sampled rows, with the weight of the expert that it goes to.
fn of_experts(x: &Tensor, w: &Tensor, chosen: &Tensor) -> Vec<(Vec<f64>, Vec<f64>)> {
    let (depth, top_k) = (x.last(), chosen.last());
    let expert_size = w.data.len() / w.shape.first().copied().unwrap_or(1).max(1);
    let per_token = x.data.len() / depth * top_k / chosen.data.len().max(1);
    let step = chosen.data.len().div_ceil(SAMPLED[0]).max(1);
    (0..chosen.data.len())
        .step_by(step)
        .map(|at| {
            // A token's experts read one row, or each its own.
            let row = if per_token == top_k { at } else { at / top_k };
            let expert = chosen.data[at] as usize;
            let rows = x.data[row * depth..][..depth].to_vec();
            (rows, first_rows(&w.data[expert * expert_size..][..expert_size], depth))
        })
        .collect()
}

/// Differences of results from what they should be.
#[derive(Clone, Copy, Default)]
struct Deviation {
    /// Sum of squared differences.
    differences: f64,
    /// Sum of squares of what they should be.
    values: f64,
    greatest: f64,
    count: usize,
}

impl Deviation {
    fn add(&mut self, found: impl Iterator<Item = f64>, wanted: &[f64]) {
        for (found, wanted) in found.zip(wanted) {
            self.differences += (found - wanted).powi(2);
            self.values += wanted.powi(2);
            self.greatest = self.greatest.max((found - wanted).abs());
            self.count += 1;
        }
    }

    fn error(self) -> Error {
        // Nothing but zeros has no error.
        let relative = |x: f64, of: f64| if x == 0.0 { 0.0 } else { x / of };
        let rms = (self.values / self.count as f64).sqrt();
        Error {
            l2: relative(self.differences.sqrt(), self.values.sqrt()),
            greatest: relative(self.greatest, rms),
        }
    }
}

impl Sample {
    fn loss(&self) -> Loss {
        let intervals: Vec<usize> = INTERVALS.into_iter().chain([self.depth]).collect();
        let mut quantised = Deviation::default();
        let mut accumulated = vec![vec![Deviation::default(); intervals.len()]; RULES.len()];
        for (x, w) in &self.products {
            let exact = product(x, w, self.depth);
            for (at, &interval) in intervals.iter().enumerate() {
                let pair = Pair::new(x, w, self.depth, interval.max(BLOCK).min(self.depth));
                let wanted = product(&pair.x.values(), &pair.w.values(), self.depth);
                if interval == BLOCK {
                    quantised.add(wanted.iter().copied(), &exact);
                }
                for ((_, rule), sums) in RULES.iter().zip(&mut accumulated) {
                    let found = pair.multiply(*rule, interval);
                    sums[at].add(found.into_iter().map(f64::from), &wanted);
                }
            }
        }
        let errors = |sums: Vec<Deviation>| sums.into_iter().map(Deviation::error).collect();
        Loss {
            weight: self.name.clone(),
            depth: self.depth,
            quantised: quantised.error(),
            accumulated: accumulated.into_iter().map(errors).collect(),
        }
    }
}

/// `x wᵀ` in float64.
fn product(x: &[f64], w: &[f64], depth: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    let rows = x.chunks_exact(depth);
    rows.flat_map(|x| w.chunks_exact(depth).map(move |w| dot(x, w))).collect()
}

/// Both operands of a product, quantised.
struct Pair {
    x: Quantised,
    w: Quantised,
    depth: usize,
    block: usize,
}

impl Pair {
    fn new(x: &[f64], w: &[f64], depth: usize, block: usize) -> Self {
        let w = Quantised::new(w, depth, block, w.len() / depth);
        Self { x: Quantised::new(x, depth, block, 1), w, depth, block }
    }

    fn multiply(&self, rule: Accumulation, interval: usize) -> Vec<f32> {
        let scale = |row: usize, column: usize, at: usize| {
            let block = at * interval / self.block;
            (self.x.scale(row, block) * self.w.scale(column, block)) as f32
        };
        multiply_e4m3(rule, (&self.x.codes, &self.w.codes), self.depth, interval, &scale)
    }
}

/// A matrix in e4m3 with a scale for each block.
struct Quantised {
    codes: Vec<u8>,
    scales: Vec<f64>,
    depth: usize,
    block: usize,
    /// Rows of a block.
    rows: usize,
}

impl Quantised {
    fn new(data: &[f64], depth: usize, block: usize, rows: usize) -> Self {
        let mut scales = Vec::new();
        for band in data.chunks(depth * rows) {
            for start in (0..depth).step_by(block) {
                let end = (start + block).min(depth);
                let values = band.chunks_exact(depth).flat_map(|row| &row[start..end]);
                let greatest = values.fold(0.0, |most: f64, v| most.max(v.abs()));
                // Scales are stored in float32.
                let scale = f64::from((greatest / e4m3::MAX) as f32);
                scales.push(if scale > 0.0 { scale } else { 1.0 });
            }
        }
        let mut quantised = Self { codes: Vec::new(), scales, depth, block, rows };
        let code = |(at, value): (usize, &f64)| e4m3::encode(value / quantised.scale_at(at));
        quantised.codes = data.iter().enumerate().map(code).collect();
        quantised
    }

    fn scale(&self, row: usize, block: usize) -> f64 {
        self.scales[row / self.rows * self.depth.div_ceil(self.block) + block]
    }

    fn scale_at(&self, at: usize) -> f64 {
        self.scale(at / self.depth, at % self.depth / self.block)
    }

    fn values(&self) -> Vec<f64> {
        let value = |(at, &code): (usize, &u8)| e4m3::decode(code) * self.scale_at(at);
        self.codes.iter().enumerate().map(value).collect()
    }
}
