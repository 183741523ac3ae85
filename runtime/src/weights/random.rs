//! Checkpoints that are made up.

use super::{Checkpoint, Demand};
use crate::{Result, fail};
use half::bf16;
use moec_ir::{DType, Diagnostic, e4m3};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use safetensors::Dtype;
use std::collections::BTreeMap;

/// Most bytes of a made-up checkpoint. Every emulated rank has weights of its own beside it, so
/// that a group of eight takes some nine times as much of the host.
const MOST: u64 = 2 << 30;

/// Standard deviation of what a row of a matrix gives for inputs of deviation 1: a little above 1,
/// so that residual streams neither vanish nor overflow over dozens of layers.
const GAIN: f64 = 1.0;

/// Every tensor that is demanded, of random numbers: rows of matrices whose products keep the size
/// of their inputs, vectors (norms) around 1, scales of FP8 tensors such that the same holds for
/// them. The same demand and seed give the same bytes.
///
/// # Errors
/// E1304 where that would be more than two gibibytes.
pub fn random(demand: &Demand, seed: u64) -> Result<Checkpoint> {
    let bytes =
        |(_, shape, _): (&str, &[u64], DType)| shape.iter().fold(2u64, |n, &d| n.saturating_mul(d));
    let total = demand.tensors().map(bytes).fold(0, u64::saturating_add);
    if total > MOST {
        let gib = |n: u64| n as f64 / f64::from(1 << 30);
        let message = format!(
            "random weights of this model take {:.1} GiB; at most {:.0} GiB are made up",
            gib(total),
            gib(MOST)
        );
        let help = "name a checkpoint with `--weights`";
        return fail(Diagnostic::error("E1304", message).help(help));
    }
    let scale_of = |shape: &[u64]| GAIN * (3.0 / shape.last().map_or(1.0, |&n| n as f64)).sqrt();
    let fp8: BTreeMap<String, f64> = demand
        .tensors()
        .filter(|(_, _, dtype)| *dtype == DType::F8e4m3)
        .map(|(name, shape, _)| (format!("{name}_scale_inv"), scale_of(shape)))
        .collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // From -1 to 1, of deviation 1 / sqrt(3).
    let mut uniform = || f64::from(random.next_u32()) / 2f64.powi(31) - 1.0;
    let mut checkpoint = Checkpoint::in_memory("(random weights)");
    for (name, shape, dtype) in demand.tensors() {
        let count = shape.iter().product::<u64>();
        let scale = scale_of(shape);
        let mut draw =
            |f: &dyn Fn(f64) -> f64| (0..count).map(|_| f(uniform())).collect::<Vec<_>>();
        let (dtype, bytes): (_, Vec<u8>) = match (dtype, fp8.get(name)) {
            (DType::F8e4m3, _) => {
                (Dtype::F8_E4M3, draw(&|x| x).into_iter().map(e4m3::encode).collect())
            }
            (_, Some(scale)) => {
                let around = draw(&|x| (1.0 + x * 0.5) * scale);
                (Dtype::F32, around.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect())
            }
            _ => {
                let of_matrix = shape.len() > 1;
                let values = draw(&|x| if of_matrix { x * scale } else { 1.0 + x * 0.2 });
                let bytes = values.iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes());
                (Dtype::BF16, bytes.collect())
            }
        };
        checkpoint.put(name, dtype, shape, bytes)?;
    }
    Ok(checkpoint)
}
