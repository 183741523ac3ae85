//! What the best hand-written kernels reach, from their machine code (ptxas 12.9.86, the loop that multiplies
//! counted as ours is; nothing was timed).

use super::Kernels;
use super::work::Work;

/// A figure of someone else's kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figure {
    /// Whose, and its tile.
    pub(super) whose: &'static str,
    /// Instructions that one warp issues per 64 x 128 x 128 multiply-adds of its warpgroup.
    pub(super) instructions: f64,
    /// Static stall cycles of those.
    pub(super) stall: f64,
}

const fn figure(whose: &'static str, instructions: f64, stall: f64) -> Figure {
    Figure { whose, instructions, stall }
}

/// FP8 with block scales, 4,096 rows: columns and depth.
const DENSE: [([u64; 2], Figure); 6] = [
    ([24576, 1536], figure("DeepGEMM 256x128", 96.0, 136.0)),
    ([7168, 16384], figure("DeepGEMM 256x128", 96.0, 136.0)),
    ([4096, 7168], figure("DeepGEMM 256x128", 96.0, 136.0)),
    ([7168, 2048], figure("DeepGEMM 256x128", 96.0, 136.0)),
    ([2112, 7168], figure("DeepGEMM 128x192", 94.0, 129.0)),
    ([32768, 512], figure("DeepGEMM 256x128", 118.0, 183.0)),
];

/// FP8 with block scales, 64 rows.
const FEW_ROWS: [([u64; 2], Figure); 4] = [
    ([24576, 1536], figure("DeepGEMM 64x96", 129.0, 186.0)),
    ([7168, 16384], figure("DeepGEMM 64x64", 149.0, 228.0)),
    ([4096, 7168], figure("DeepGEMM 64x32", 234.0, 393.0)),
    ([2112, 7168], figure("DeepGEMM 64x16", 408.0, 749.0)),
];

/// The figure for the same work, where there is one.
pub(super) fn for_work(work: &Work, of: Kernels) -> Option<Figure> {
    let prefill = matches!(of, Kernels::Step { phase: "prefill", .. });
    let in_table = |table: &[([u64; 2], Figure)]| {
        let same = |(product, _): &&([u64; 2], Figure)| Some(*product) == work.product;
        table.iter().find(same).map(|(_, figure)| *figure)
    };
    match (work.family.as_str(), prefill) {
        ("scaled_gemm", true) => in_table(&DENSE),
        ("scaled_gemm", false) => in_table(&FEW_ROWS),
        ("scaled_grouped_gemm", true) => Some(figure("DeepGEMM grouped 128x192", 92.0, 126.0)),
        ("scaled_grouped_gemm", false) => {
            Some(figure("DeepGEMM masked 64x128, 64 rows each", 97.0, 131.0))
        }
        ("scaled_masked_gemm", _) if work.expected == Some(64) => {
            Some(figure("DeepGEMM masked 64x128", 97.0, 131.0))
        }
        ("scaled_masked_gemm", _) => Some(figure("DeepGEMM masked 128x192", 92.0, 126.0)),
        ("weight_gradient", _) if work.grouped => {
            Some(figure("DeepGEMM 128x152, K grouped, spills", 206.0, 275.0))
        }
        ("weight_gradient", _) => Some(figure("DeepGEMM 128x152, spills", 178.0, 235.0)),
        ("gemm", true) => Some(figure("DeepGEMM bf16 256x128", 51.0, 132.0)),
        ("attention", _) if work.quantized => {
            Some(figure("FlashMLA, FP8 cache; its second warpgroup 177", 200.0, f64::NAN))
        }
        ("attention", true) => Some(figure("FlashAttention-3", 193.0, f64::NAN)),
        ("attention", false) => Some(figure("FlashMLA; its second warpgroup 202", 150.0, f64::NAN)),
        _ => None,
    }
}
