//! Weights from safetensors: found, checked against what a model needs, converted, laid out.
//!
//! A checkpoint is a folder in the Hugging Face layout: `model.safetensors`, or
//! `model.safetensors.index.json` with the shards that it names.

mod checkpoint;
mod convert;
mod demand;

pub use checkpoint::{Checkpoint, Tensor, tensor_from_file, tensor_names};
pub use convert::{can_convert, convert, dequantize, to_f64};
pub(crate) use demand::param_tensors;
pub use demand::{Demand, fill};

use crate::Result;
use moec_ir::DType;
use moec_ir::plan::Weight;
use std::ops::ControlFlow;

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

/// Bytes that a weight takes on the device; `u64::MAX` where that overflows.
pub fn weight_bytes(weight: &Weight) -> u64 {
    let one = |p: &moec_ir::plan::WeightPart| {
        let whole = p.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
        Some(if p.tensor.contains("{e}") { whole.checked_mul(weight.outer)? } else { whole })
    };
    let elements = weight.parts.iter().try_fold(0u64, |n, p| n.checked_add(one(p)?));
    elements.and_then(|n| n.checked_mul(weight.dtype.bytes())).unwrap_or(u64::MAX)
}

/// Of `of` equal shares of some elements, number `at`.
fn share<T>(elements: &[T], at: u64, of: u64) -> &[T] {
    let one = elements.len() / of as usize;
    &elements[at as usize * one..][..one]
}

/// Produces the bytes of a weight for a layer in the order in which they lie on the device,
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
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    for expert in 0..weight.outer {
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
            let whole = weight.outer > 1 && !part.tensor.contains("{e}");
            let (at, of) = if whole { (expert, weight.outer) } else { (0, 1) };
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
