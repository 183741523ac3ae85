//! Products of FP8 weights whose sums are as exact as in float32: of FP8, and of float32.

use super::scaled::{row_scales, weights};
use super::{Case, dense, t};
use moec_ir::DType::{self, Bf16, F8e4m3, F32};
use moec_ir::Dim;
use moec_ir::kernel::{KernelSpec, View};

const BLOCK: [u64; 2] = [128, 128];

/// Batch, columns, depth. Heads lie next to each other in a row of `a` and `c`.
fn gemm(
    name: &'static str,
    tokens: u64,
    [batch, n, k]: [u64; 3],
    a: DType,
    add: bool,
    c: DType,
) -> Case {
    let rows = |dtype, cols: u64| {
        View::new(dtype, [Dim::from(batch), t(), Dim::from(cols)], [cols, batch * cols, 1])
    };
    let (w, w_scale) = weights(batch, n, k, BLOCK, 1);
    let blocks = k.div_ceil(128);
    let pitch = blocks.next_multiple_of(4);
    let shape = [Dim::from(batch), t(), Dim::from(blocks)];
    let scales = View::new(F32, shape, [pitch, batch * pitch, u64::from(blocks > 1)]);
    let spec = KernelSpec::ScaledGemm {
        a: rows(a, k),
        a_scale: (a == F8e4m3).then_some(scales),
        w,
        w_scale,
        add: add.then(|| rows(c, n)),
        c: rows(c, n),
        block: BLOCK,
        promote_every: 1,
    };
    Case { name, spec, tokens }
}

pub(crate) fn widened_gemms() -> Vec<Case> {
    vec![
        gemm("widened fp8", 64, [1, 256, 512], F8e4m3, true, F32),
        gemm("widened fp8 one block", 64, [1, 64, 128], F8e4m3, false, F32),
        gemm("widened fp8 many steps", 64, [1, 48, 1168], F8e4m3, false, F32),
        gemm("widened fp8 ends", 70, [1, 130, 144], F8e4m3, true, F32),
        gemm("widened fp8 heads", 33, [3, 96, 208], F8e4m3, false, Bf16),
        gemm("widened fp8 many rows", 300, [1, 384, 128], F8e4m3, true, Bf16),
        gemm("widened f32", 64, [1, 256, 512], F32, true, F32),
        gemm("widened f32 one block", 64, [1, 64, 128], F32, false, F32),
        gemm("widened f32 many steps", 64, [1, 48, 1168], F32, false, F32),
        gemm("widened f32 ends", 70, [1, 130, 144], F32, true, F32),
        gemm("widened f32 heads", 33, [3, 96, 208], F32, false, Bf16),
        gemm("widened f32 many rows", 300, [1, 384, 128], F32, false, F32),
        gemm("widened fp8 v3", 4096, [1, 7168, 16384], F8e4m3, true, F32),
        gemm("widened fp8 v3 few rows", 64, [1, 7168, 16384], F8e4m3, true, F32),
        gemm("widened f32 v3", 4096, [1, 32768, 512], F32, false, F32),
    ]
}

/// Products whose tiles span two blocks of scales, on a GPU with one multiprocessor.
pub(crate) fn wide_widened_gemms() -> Vec<Case> {
    vec![
        gemm("widened fp8 across blocks", 64, [1, 480, 256], F8e4m3, false, F32),
        gemm("widened f32 across blocks", 64, [1, 288, 256], F32, false, F32),
    ]
}

/// Experts, columns, depth; rows for each expert or shared by those of a token.
fn grouped(
    name: &'static str,
    tokens: u64,
    top_k: u64,
    per_pair: bool,
    [e, n, k]: [u64; 3],
    a: DType,
) -> Case {
    let rows = if per_pair { top_k } else { 1 };
    let (w, w_scale) = weights(e, n, k, BLOCK, 0);
    let scales = row_scales(&[t(), rows.into()], k, 128);
    let spec = KernelSpec::ScaledGroupedGemm {
        a: dense(a, &[None, Some(rows), Some(k)]),
        a_scale: (a == F8e4m3).then_some(scales),
        w,
        w_scale,
        c: dense(F32, &[None, Some(top_k), Some(n)]),
        top_k,
        block: BLOCK,
        promote_every: 1,
    };
    Case { name, spec, tokens }
}

pub(crate) fn widened_experts() -> Vec<Case> {
    vec![
        grouped("widened experts fp8", 40, 3, true, [5, 144, 256], F8e4m3),
        grouped("widened experts fp8 shared rows", 33, 4, false, [6, 48, 1168], F8e4m3),
        grouped("widened experts fp8 two rows each", 16, 4, false, [32, 32, 128], F8e4m3),
        grouped("widened experts fp8 many rows", 160, 2, false, [2, 130, 272], F8e4m3),
        grouped("widened experts f32", 40, 3, true, [5, 144, 256], F32),
        grouped("widened experts f32 shared rows", 33, 4, false, [6, 48, 1168], F32),
        grouped("widened experts f32 two rows each", 16, 4, false, [32, 32, 128], F32),
        grouped("widened experts f32 many rows", 160, 2, false, [2, 130, 272], F32),
        grouped("widened experts f32 v3 up", 4096, 8, false, [256, 4096, 7168], F32),
        grouped("widened experts f32 v3 down, decode", 64, 8, true, [256, 7168, 2048], F32),
    ]
}

/// Float32, multiplied as several numbers of 16 bits. Batch, columns, depth.
pub(crate) fn widened_f32s() -> Vec<Case> {
    let case = |name, tokens, [batch, n, k]: [u64; 3], add: bool, across: bool| {
        let rows = |cols: u64| {
            View::new(F32, [Dim::from(batch), t(), Dim::from(cols)], [cols, batch * cols, 1])
        };
        let mut w = dense(F32, &[Some(batch), Some(n), Some(k)]);
        if across {
            w.strides = vec![n * k, 1, n];
        }
        let spec = KernelSpec::Gemm { a: rows(k), w, add: add.then(|| rows(n)), c: rows(n) };
        Case { name, spec, tokens }
    };
    vec![
        case("widened router", 64, [1, 16, 256], false, false),
        case("widened head", 64, [1, 320, 256], true, false),
        case("widened f32 by f32 ends", 70, [1, 130, 148], true, false),
        case("widened f32 by f32 heads", 33, [3, 64, 128], false, false),
        case("widened f32 by f32 many steps", 20, [1, 48, 1164], false, false),
        case("widened absorbed", 64, [4, 128, 64], false, true),
        case("widened absorbed ends", 70, [2, 72, 148], true, true),
        case("widened f32 by f32 v3", 4096, [1, 129_280, 7168], false, false),
        case("widened absorbed v3", 128, [128, 512, 128], false, true),
    ]
}
