//! FP8 with block scales: quantisation and products.

use super::{Case, dense, t};
use moec_ir::DType::{self, Bf16, F8e4m3, F16, F32};
use moec_ir::graph::{BinaryFn, UnaryFn};
use moec_ir::kernel::{KernelSpec, Scalar, View};
use moec_ir::{Dim, Real, ScaleFormat};

/// Scales of rows: as dense as rows that are a multiple of 4 apart can be.
pub(super) fn row_scales(rows: &[Dim], columns: u64, block: u64) -> View {
    let n = columns.div_ceil(block);
    let mut strides = vec![1; rows.len() + 1];
    strides[rows.len() - 1] = n.next_multiple_of(4);
    for axis in (1..rows.len()).rev() {
        strides[axis - 1] = strides[axis] * rows[axis].constant().unwrap();
    }
    View::new(F32, rows.iter().cloned().chain([n.into()]), strides)
}

pub(crate) fn quantizations() -> Vec<Case> {
    use ScaleFormat::{F32 as Any, Ue8m0};
    let quantize = |name, tokens, k: u64, block: u64, dtype: DType, format| {
        let spec = KernelSpec::Quantize {
            x: dense(dtype, &[None, Some(k)]),
            q: dense(F8e4m3, &[None, Some(k)]),
            scale: row_scales(&[t()], k, block),
            block,
            format,
        };
        Case { name, spec, tokens }
    };
    let strided = KernelSpec::Quantize {
        x: View { align: 2, ..View::new(Bf16, [t(), 150.into()], [421, 2]) },
        q: View { align: 1, ..View::new(F8e4m3, [t(), 150.into()], [307, 2]) },
        scale: View { align: 4, ..View::new(F32, [t(), 3.into()], [8, 2]) },
        block: 64,
        format: Any,
    };
    vec![
        quantize("quantize v3", 1, 7168, 128, Bf16, Any),
        quantize("quantize 2048", 40, 2048, 128, Bf16, Any),
        quantize("quantize short end", 9, 200, 128, Bf16, Any),
        quantize("quantize less than a block", 3, 77, 128, F32, Any),
        quantize("quantize blocks of 100", 5, 1000, 100, F16, Any),
        quantize("quantize blocks of 7", 5, 33, 7, Bf16, Ue8m0),
        quantize("quantize beyond registers", 2, 5000, 4096, F32, Any),
        quantize("quantize powers of two", 6, 256, 128, Bf16, Ue8m0),
        quantize("quantize blocks of 32", 4, 96, 32, F32, Ue8m0),
        quantize("quantize each number", 2, 5, 1, Bf16, Any),
        Case { name: "quantize strided", spec: strided, tokens: 5 },
    ]
}

/// Rows of results are `pitch` bytes apart, of scales `pitch / block` numbers or, as tensor copies
/// read them, side by side.
pub(crate) fn transposed_quantizations() -> Vec<Case> {
    use ScaleFormat::{F32 as Any, Ue8m0};
    let case = |name, tokens, [n, block, pitch]: [u64; 3], by_block: bool, dtype, format| {
        let scale = if by_block { [1, n] } else { [pitch.div_ceil(block), 1] };
        let spec = KernelSpec::QuantizeTransposed {
            x: dense(dtype, &[None, Some(n)]),
            q: View::new(F8e4m3, [n.into(), t()], [pitch, 1]),
            scale: View::new(F32, [n.into(), t()], scale),
            block,
            format,
        };
        Case { name, spec, tokens }
    };
    let strided = KernelSpec::QuantizeTransposed {
        x: View { align: 2, ..View::new(Bf16, [t(), 70.into()], [215, 3]) },
        q: View { align: 1, ..View::new(F8e4m3, [70.into(), t()], [701, 2]) },
        scale: View { align: 4, ..View::new(F32, [70.into(), t()], [2, 150]) },
        block: 128,
        format: Any,
    };
    vec![
        case("columns v3", 256, [512, 128, 304], true, Bf16, Any),
        case("columns v3 2112", 128, [2112, 128, 304], false, Bf16, Any),
        case("columns powers of two", 130, [200, 128, 304], true, Bf16, Ue8m0),
        case("columns f32", 130, [72, 128, 304], true, F32, Any),
        case("columns f16 odd", 130, [77, 128, 304], false, F16, Any),
        case("columns of odd rows", 130, [96, 128, 301], true, Bf16, Any),
        case("columns of few", 7, [5, 128, 304], true, Bf16, Any),
        case("columns blocks of 16", 40, [24, 16, 304], true, Bf16, Any),
        case("columns blocks of 32", 40, [130, 32, 304], false, Bf16, Ue8m0),
        case("columns blocks of 64", 140, [66, 64, 304], true, Bf16, Any),
        case("columns blocks of 512", 300, [64, 512, 304], true, Bf16, Any),
        Case { name: "columns strided", spec: strided, tokens: 40 },
    ]
}

pub(crate) fn norm_quantizations() -> Vec<Case> {
    use ScaleFormat::{F32 as Any, Ue8m0};
    let norm = |name, tokens, [heads, n, block]: [u64; 3], fused, kept, dtype, format| {
        let x = || dense(dtype, &[None, Some(heads), Some(n)]);
        let spec = KernelSpec::RmsNormQuantize {
            x: x(),
            residual: if fused { Some((x(), x())) } else { None },
            weight: dense(dtype, &[Some(n)]),
            out: if kept { Some(x()) } else { None },
            q: dense(F8e4m3, &[None, Some(heads), Some(n)]),
            scale: row_scales(&[t(), heads.into()], n, block),
            eps: Real(1e-6),
            block,
            format,
        };
        Case { name, spec, tokens }
    };
    vec![
        norm("norm to fp8 7168", 1, [1, 7168, 128], true, false, Bf16, Any),
        norm("norm to fp8 and bf16", 40, [1, 1536, 128], true, true, Bf16, Any),
        norm("norm to fp8 512", 9, [1, 512, 128], false, false, Bf16, Ue8m0),
        norm("norm to fp8 heads", 3, [4, 128, 64], false, true, Bf16, Any),
        norm("norm to fp8 short end", 5, [1, 1000, 128], false, false, F16, Any),
        norm("norm to fp8 odd", 5, [1, 77, 16], true, true, F32, Any),
        norm("norm to fp8 odd long", 2, [1, 3001, 128], true, false, Bf16, Ue8m0),
        norm("norm to fp8 beyond registers", 2, [1, 40000, 128], true, true, Bf16, Any),
        norm("norm to fp8 long blocks", 2, [1, 9000, 4096], true, false, F32, Any),
        norm("norm to fp8 by row", 3, [1, 7168, 7168], false, false, Bf16, Any),
    ]
}

pub(crate) fn pointwise_quantizations() -> Vec<Case> {
    use ScaleFormat::{F32 as Any, Ue8m0};
    let swiglu = || {
        vec![
            Scalar::Input(0),
            Scalar::Input(1),
            Scalar::Unary(UnaryFn::Silu, 0),
            Scalar::Binary(BinaryFn::Mul, 2, 1),
        ]
    };
    // Gate and up lie next to each other in a row.
    let gated = |name, tokens, experts: u64, n: u64, block: u64, kept: bool, format| {
        let shape = [t(), experts.into(), n.into()];
        let half = |at: u64| View {
            align: if (at * n * 2).is_multiple_of(16) { 16 } else { 2 },
            ..View::new(Bf16, shape.clone(), [2 * n * experts, 2 * n, 1])
        };
        let rows = |dtype| dense(dtype, &[None, Some(experts), Some(n)]);
        let spec = KernelSpec::PointwiseQuantize {
            inputs: vec![half(0), half(1)],
            out: kept.then(|| rows(Bf16)),
            q: rows(F8e4m3),
            scale: row_scales(&[t(), experts.into()], n, block),
            code: swiglu(),
            block,
            format,
        };
        Case { name, spec, tokens }
    };
    let broadcast = KernelSpec::PointwiseQuantize {
        inputs: vec![dense(F32, &[None, Some(90)]), View::new(Bf16, [t(), 90.into()], [0, 1])],
        out: None,
        q: View { align: 2, ..View::new(F8e4m3, [t(), 90.into()], [94, 1]) },
        scale: row_scales(&[t()], 90, 32),
        code: vec![Scalar::Input(0), Scalar::Input(1), Scalar::Binary(BinaryFn::Add, 0, 1)],
        block: 32,
        format: Ue8m0,
    };
    vec![
        gated("swiglu to fp8", 3, 1, 2048, 128, false, Any),
        gated("swiglu to fp8 experts", 2, 8, 256, 128, true, Any),
        gated("swiglu to fp8 short end", 7, 3, 360, 128, false, Ue8m0),
        gated("swiglu to fp8 odd", 5, 1, 37, 16, true, Any),
        gated("swiglu to fp8 long blocks", 2, 1, 5000, 4096, true, Any),
        Case { name: "sum to fp8", spec: broadcast, tokens: 4 },
    ]
}

/// `[outer, N, K]` weights and their scales, each row of scales with gaps where that is asked.
pub(super) fn weights(outer: u64, n: u64, k: u64, block: [u64; 2], gap: u64) -> (View, View) {
    let scales = [n.div_ceil(block[0]), k.div_ceil(block[1])];
    let row = scales[1] + gap;
    let shape = [outer, scales[0], scales[1]].map(Dim::from);
    let scales = View::new(F32, shape, [scales[0] * row, row, 1]);
    (dense(F8e4m3, &[Some(outer), Some(n), Some(k)]), scales)
}

#[expect(clippy::too_many_arguments, reason = "a row of a table")]
fn gemm(
    name: &'static str,
    tokens: u64,
    batch: u64,
    n: u64,
    k: u64,
    block: [u64; 2],
    add: bool,
    c: DType,
) -> Case {
    // Heads lie next to each other in a row of `a` and `c`.
    let rows = |dtype, cols: u64| {
        View::new(dtype, [Dim::from(batch), t(), Dim::from(cols)], [cols, batch * cols, 1])
    };
    let (w, w_scale) = weights(batch, n, k, block, 1);
    let scales = k.div_ceil(block[1]).next_multiple_of(4);
    let shape = [Dim::from(batch), t(), Dim::from(k.div_ceil(block[1]))];
    let spec = KernelSpec::ScaledGemm {
        a: rows(F8e4m3, k),
        a_scale: Some(View::new(F32, shape, [scales, batch * scales, 1])),
        w,
        w_scale,
        add: add.then(|| rows(c, n)),
        c: rows(c, n),
        block,
        promote_every: block[1],
    };
    Case { name, spec, tokens }
}

pub(crate) fn scaled_gemms() -> Vec<Case> {
    let transposed = |name, tokens, n: u64, k: u64, block: [u64; 2]| {
        let mut case = gemm(name, tokens, 2, n, k, block, true, Bf16);
        if let KernelSpec::ScaledGemm { w, .. } = &mut case.spec {
            w.strides = vec![2 * n * k, 1, n];
        }
        case
    };
    let sliced = |name, tokens, n: u64, k: u64| {
        let mut case = gemm(name, tokens, 1, n, k, [128, 128], false, F32);
        if let KernelSpec::ScaledGemm { a, w, c, .. } = &mut case.spec {
            (a.strides[1], a.align) = (k + 3, 1);
            (w.strides[1], w.align) = (2 * k, 4);
            (c.strides[1], c.align) = (2 * n + 1, 4);
        }
        case
    };
    let v3 = [128, 128];
    vec![
        gemm("fp8 decode 7168", 1, 1, 576, 7168, v3, false, Bf16),
        gemm("fp8 decode 2048", 1, 1, 2048, 2048, v3, true, Bf16),
        gemm("fp8 decode heads", 2, 4, 64, 128, v3, false, Bf16),
        gemm("fp8 decode residual", 4, 1, 192, 96, v3, true, F32),
        gemm("fp8 decode ends", 3, 1, 130, 200, v3, false, Bf16),
        gemm("fp8 decode odd", 3, 1, 37, 33, v3, true, Bf16),
        gemm("fp8 decode long odd", 1, 1, 10, 1002, v3, false, F32),
        gemm("fp8 decode rows of 5", 1, 1, 36, 256, [5, 64], false, F32),
        gemm("fp8 decode each row", 2, 1, 24, 320, [1, 32], false, F32),
        gemm("fp8 decode blocks of 7", 4, 2, 21, 40, [7, 7], true, F32),
        transposed("fp8 decode absorbed", 1, 256, 160, v3),
        transposed("fp8 decode absorbed ends", 4, 72, 136, [24, 56]),
        sliced("fp8 decode slices", 2, 48, 272),
        gemm("fp8 prefill", 64, 1, 256, 512, v3, true, Bf16),
        gemm("fp8 prefill ends", 33, 1, 130, 200, v3, false, Bf16),
        gemm("fp8 prefill odd", 17, 1, 37, 33, v3, true, F32),
        gemm("fp8 prefill narrow", 20, 1, 6, 50, v3, false, F32),
        gemm("fp8 prefill blocks of 24", 40, 3, 70, 72, [5, 24], true, F32),
        transposed("fp8 prefill absorbed", 40, 128, 64, v3),
        transposed("fp8 prefill absorbed ends", 11, 36, 50, [6, 20]),
        sliced("fp8 prefill slices", 50, 40, 144),
    ]
}

#[expect(clippy::too_many_arguments, reason = "a row of a table")]
fn grouped(
    name: &'static str,
    tokens: u64,
    top_k: u64,
    per_pair: bool,
    e: u64,
    n: u64,
    k: u64,
    block: [u64; 2],
) -> Case {
    let rows = if per_pair { top_k } else { 1 };
    let (w, w_scale) = weights(e, n, k, block, 0);
    let spec = KernelSpec::ScaledGroupedGemm {
        a: dense(F8e4m3, &[None, Some(rows), Some(k)]),
        a_scale: Some(row_scales(&[t(), rows.into()], k, block[1])),
        w,
        w_scale,
        c: dense(Bf16, &[None, Some(top_k), Some(n)]),
        top_k,
        block,
        promote_every: block[1],
    };
    Case { name, spec, tokens }
}

/// Products whose tiles have as many columns as the name says, on a GPU with one multiprocessor:
/// more than a block, or a part of two.
pub(crate) fn wide_gemms() -> Vec<Case> {
    let v3 = [128, 128];
    vec![
        gemm("fp8 wide 192", 128, 1, 576, 256, v3, true, Bf16),
        gemm("fp8 wide 176 end", 128, 1, 346, 256, v3, false, Bf16),
        gemm("fp8 wide 192 heads", 66, 2, 384, 144, v3, false, F32),
        gemm("fp8 wide 160", 128, 1, 480, 256, v3, false, Bf16),
        gemm("fp8 wide 160 many steps", 65, 1, 160, 1664, v3, true, Bf16),
        gemm("fp8 wide 144", 100, 1, 288, 384, v3, false, Bf16),
    ]
}

/// As [`wide_gemms`], by expert.
pub(crate) fn wide_experts() -> Vec<Case> {
    let v3 = [128, 128];
    vec![
        grouped("fp8 experts hopper wide 192", 70, 1, true, 1, 576, 256, v3),
        grouped("fp8 experts hopper wide 192 pairs", 66, 2, true, 2, 384, 144, v3),
        grouped("fp8 experts hopper wide 192 steps", 66, 1, false, 3, 192, 1184, v3),
    ]
}

pub(crate) fn scaled_experts() -> Vec<Case> {
    let v3 = [128, 128];
    vec![
        grouped("fp8 experts v3", 1, 8, false, 256, 4096, 7168, v3),
        grouped("fp8 experts decode", 1, 8, false, 32, 128, 512, v3),
        grouped("fp8 experts few rows", 16, 8, true, 24, 40, 152, v3),
        grouped("fp8 experts hopper few rows", 16, 8, true, 24, 40, 160, v3),
        grouped("fp8 experts hopper two rows each", 16, 4, false, 32, 32, 128, v3),
        grouped("fp8 experts hopper v3 up, decode", 64, 8, false, 256, 4096, 7168, v3),
        grouped("fp8 experts hopper v3 down, decode", 64, 8, true, 256, 7168, 2048, v3),
        grouped("fp8 experts odd", 7, 3, false, 5, 133, 21, v3),
        grouped("fp8 experts blocks of 20", 5, 2, true, 4, 30, 70, [12, 20]),
        grouped("fp8 experts tiles", 64, 2, false, 8, 160, 256, v3),
        grouped("fp8 experts tiles ends", 50, 3, true, 3, 37, 150, v3),
        grouped("fp8 experts hopper v3 up", 4096, 8, false, 256, 4096, 7168, v3),
        grouped("fp8 experts hopper v3 down", 4096, 8, true, 256, 7168, 2048, v3),
        grouped("fp8 experts hopper pairs", 40, 3, true, 5, 144, 256, v3),
        grouped("fp8 experts hopper many steps", 33, 4, false, 6, 48, 2064, v3),
        grouped("fp8 experts hopper many experts", 160, 4, false, 40, 24, 144, v3),
        grouped("fp8 experts hopper one expert", 140, 1, false, 1, 130, 640, v3),
        grouped("fp8 experts tiles odd", 60, 4, true, 6, 18, 35, [4, 16]),
    ]
}
