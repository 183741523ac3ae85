//! Rotary position embedding and its YaRN extension.

use crate::Real;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How positions are rotated into the last axis of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rotary {
    /// Elements that are rotated: the whole last axis; even.
    pub dim: u64,
    /// Base of the geometric series of wavelengths.
    pub theta: Real,
    /// Whether a pair is (2i, 2i + 1), as DeepSeek stores it, or (i, i + dim/2).
    pub interleaved: bool,
    /// Factor on sine and cosine (YaRN's attention factor where it is applied here).
    pub amplitude: Real,
    /// YaRN, where the model extends its context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yarn: Option<Yarn>,
}

/// YaRN's interpolation of frequencies (arXiv 2309.00071, section 3.2; DeepSeek-V3 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Yarn {
    /// Factor by which the context grows.
    pub factor: Real,
    /// Context length before the extension.
    pub original: Real,
    /// Rotations over the original context above which a frequency is kept.
    pub beta_fast: Real,
    /// Rotations below which a frequency is divided by `factor`.
    pub beta_slow: Real,
}

impl Rotary {
    /// Radians per position of each of the `dim / 2` pairs.
    pub fn frequencies(&self) -> Vec<f64> {
        let (dim, base) = (self.dim as f64, self.theta.0);
        let plain = (0..self.dim / 2).map(|i| base.powf(-2.0 * i as f64 / dim));
        let Some(yarn) = self.yarn else { return plain.collect() };
        // The pair at which the original context holds `rotations` full turns.
        let pair = |rotations: f64| {
            dim * (yarn.original.0 / (rotations * 2.0 * PI)).ln() / (2.0 * base.ln())
        };
        let low = pair(yarn.beta_fast.0).floor().max(0.0);
        let high = pair(yarn.beta_slow.0).ceil().min(dim - 1.0);
        // The reference implementations widen an empty ramp by this much.
        let width = if high > low { high - low } else { 0.001 };
        plain
            .enumerate()
            .map(|(i, f)| {
                let ramp = ((i as f64 - low) / width).clamp(0.0, 1.0);
                f / yarn.factor.0 * ramp + f * (1.0 - ramp)
            })
            .collect()
    }
}
