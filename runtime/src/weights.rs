//! Weights from safetensors: found, checked against what a model needs, converted, laid out.
//!
//! A checkpoint is a folder in the Hugging Face layout: `model.safetensors`, or
//! `model.safetensors.index.json` with the shards that it names.

mod checkpoint;
mod convert;
mod demand;
mod random;

pub use checkpoint::{Checkpoint, Tensor, tensor_from_file, tensor_names};
pub use convert::{can_convert, convert, dequantize, to_f64};
pub(crate) use demand::param_tensors;
pub use demand::{Demand, fill};
pub use random::random;

use crate::Result;
use moec_ir::DType;
use moec_ir::plan::{Weight, WeightPart};
use std::ops::{ControlFlow, Range};

/// How far loading has come, in bytes on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Loaded so far.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// Bytes converted at once: enough to hide the call, little beside any weight that matters.
const CHUNK: usize = 16 << 20;

/// Bytes that a weight takes on the device, on each rank; `u64::MAX` where that overflows.
pub fn weight_bytes(weight: &Weight) -> u64 {
    let one = |p: &WeightPart| {
        let whole = p.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
        match stacked(weight, p) {
            Some(of) => (whole / of.max(1)).checked_mul(weight.outer),
            None => whole.checked_mul(weight.outer),
        }
    };
    let elements = weight.parts.iter().try_fold(0u64, |n, p| n.checked_add(one(p)?));
    elements.and_then(|n| n.checked_mul(weight.dtype.bytes())).unwrap_or(u64::MAX)
}

/// The experts that a rank holds of a weight that has any: for all others, number 0 alone.
pub(crate) fn experts_of(weight: &Weight, rank: u32) -> Range<u64> {
    let first = if weight.spread { u64::from(rank).saturating_mul(weight.outer) } else { 0 };
    first..first.saturating_add(weight.outer)
}

/// How many experts a part's tensor holds, where it is one tensor for all.
fn stacked(weight: &Weight, part: &WeightPart) -> Option<u64> {
    let whole = (weight.outer > 1 || weight.spread) && !part.tensor.contains("{e}");
    whole.then(|| part.shape.first().copied().unwrap_or(0))
}

/// Of `of` equal shares of some elements, number `at`.
fn share<T>(elements: &[T], at: u64, of: u64) -> &[T] {
    let one = elements.len() / of.max(1) as usize;
    elements.get(at as usize * one..).and_then(|e| e.get(..one)).unwrap_or_default()
}

/// Produces the bytes of a weight for a layer and rank in the order in which they lie on the device,
/// piece by piece: for each expert, each part's rows.
///
/// The checkpoint must have been found to meet a [`Demand`] that holds this weight.
///
/// # Errors
/// E0604 where a tensor is not as needed, and what `sink` returns.
pub fn assemble(
    checkpoint: &Checkpoint,
    weight: &Weight,
    layer: Option<u64>,
    rank: u32,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    for expert in experts_of(weight, rank) {
        for part in &weight.parts {
            let mut failure = None;
            let give = |chunk: &[u8]| match sink(chunk) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    failure = Some(e);
                    ControlFlow::Break(())
                }
            };
            let stored = if part.scale.is_some() { DType::F8e4m3 } else { weight.dtype };
            let tensor = checkpoint.get(&fill(&part.tensor, layer, expert), &part.shape, stored)?;
            // Of one tensor for all experts, the part of this one.
            let (at, of) = stacked(weight, part).map_or((0, 1), |of| (expert, of));
            let bytes = share(tensor.bytes, at, of);
            match &part.scale {
                None => convert(bytes, tensor.dtype, weight.dtype, CHUNK, give),
                Some(scale) => {
                    let name = fill(&scale.tensor, layer, expert);
                    let scales = checkpoint.get(&name, &scale.shape(&part.shape), DType::F32)?;
                    let factors = to_f64(scales.bytes, scales.dtype);
                    let (factors, coded) = (share(&factors, at, of), (bytes, tensor.dtype));
                    dequantize(coded, &part.shape, factors, scale.block, weight.dtype, give);
                }
            }
            if let Some(e) = failure {
                return Err(e);
            }
        }
    }
    Ok(())
}
