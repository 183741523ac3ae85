//! Attention on tensor cores, with online softmax.
//!
//! A CTA holds the queries of a tile and walks over its keys. Where the sums of two warpgroups
//! fit the registers, the softmax of one is partly hidden behind the products of the other (Flash
//! Attention 3); where they share one tile of wide values, as in absorbed MLA, it is not (FlashMLA).

use super::{Estimate, Machine};

/// Columns of values up to which two warpgroups have a tile each: 64 x 256 floats are half of an
/// SM's registers (FlashMLA 9241ae3e, `docs/20250422-new-kernel-deep-dive.md`).
const OWN_TILE: f64 = 256.0;
/// Powers of two per cycle and SM (CUDA C++ Programming Guide, arithmetic instructions, 9.0).
const POWERS_PER_CYCLE: f64 = 16.0;
/// float32 operations per cycle and SM (same table), and per score: scale, maximum, sum, rounding.
const FLOATS_PER_CYCLE: f64 = 128.0;
const FLOATS_PER_SCORE: f64 = 4.0;
/// Share of the softmax that another warpgroup's products do not hide. Calibrated on the full
/// kernel's row of `flash_attention3_ablation.csv`.
const UNHIDDEN: f64 = 0.43;
/// Cycles of a tile beside its keys: the last product, division by the sums, results.
const EPILOGUE_CYCLES: f64 = 1000.0;

/// Attention of the last tokens of sequences.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Sequences.
    pub sequences: f64,
    /// Query tokens of each.
    pub tokens: f64,
    /// Keys that a token sees in the mean.
    pub visible: f64,
    /// Whether a token sees the keys at or before it only, or all.
    pub causal: bool,
    /// Query heads.
    pub heads: f64,
    /// Key heads, each read by as many query heads.
    pub key_heads: f64,
    /// Elements of a key.
    pub depth: f64,
    /// Elements of a value.
    pub value: f64,
    /// Bytes of an element.
    pub element: f64,
    /// Bytes to and from HBM.
    pub bytes: f64,
}

impl Attention {
    /// The predicted time.
    pub fn estimate(&self, machine: &Machine) -> Estimate {
        let clock = machine.clock(self.element);
        let own = self.value <= OWN_TILE;
        let [rows, keys] = if own { [128.0, 128.0] } else { [64.0, 64.0] };
        let queries = self.tokens * self.heads / self.key_heads.max(1.0);
        let tiles = self.sequences * self.key_heads * (queries / rows).ceil().max(1.0);
        // Whole blocks of keys; the last tokens of a tile see what its first do not.
        let unseen = if self.causal { rows.min(self.tokens) / 2.0 } else { 0.0 };
        let across = (self.visible + unseen).max(keys);
        let scores = tiles * rows * across;

        // Two FLOPs for two bytes of bf16, and of other types in proportion.
        let products = scores * (self.depth + self.value) * self.element;
        let sms = f64::from(machine.sms);
        let products = products / machine.tensor_rate() / sms / clock;
        // Of sums that are scaled anew for each block of keys, a score has its share.
        let floats = FLOATS_PER_SCORE + self.value / keys;
        let softmax = scores * (1.0 / POWERS_PER_CYCLE + floats / FLOATS_PER_CYCLE) / sms / clock;
        let hbm = machine.pages(self.bytes);

        // Tensor cores wait for what is not hidden.
        let tensor = products + softmax * if own { UNHIDDEN } else { 1.0 };
        let turns = (tiles / sms).max(1.0);
        let results = EPILOGUE_CYCLES / clock + machine.write(rows * self.value * self.element);
        let start = machine.target.launch_s + machine.fill();
        let computing = tensor + turns * (results + machine.fill());
        let total = start + computing.max(hbm + EPILOGUE_CYCLES / clock);
        let exposed = total - tensor.max(softmax).max(hbm);
        let bytes = self.bytes;
        Estimate { tensor, cuda: softmax, hbm, exposed, total, bytes, ..Estimate::default() }
    }
}
