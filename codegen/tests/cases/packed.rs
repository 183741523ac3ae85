//! Packed caches of latents: rows of DeepSeek-V3's size, and odd ones.

use super::attention::{CACHE, in_chunks, in_rows};
use super::{Case, dense, t};
use moec_ir::DType::{self, Bf16, F8e4m3, F32};
use moec_ir::ScaleFormat::{self, F32 as Any, Ue8m0};
use moec_ir::graph::{PackedLayout, PackedRow, TensorType};
use moec_ir::kernel::{KernelSpec, PackedParts, Quantized, View};
use moec_ir::{Dim, Real};

/// Where the parts of a row lie.
fn layout([latent, key]: [u64; 2], block: u64, dtype: DType) -> PackedLayout {
    let row = TensorType::new(dtype, [(latent + key).into()]);
    PackedRow { latent, block, scales: Any }.layout(&row).unwrap()
}

/// `[V, len]` of rows that many bytes long, from that byte on.
fn columns(dtype: DType, len: u64, row: u64, at: u64) -> View {
    let align = 1 << (at | 16).trailing_zeros();
    let shape = [CACHE, len].map(Dim::from);
    View { align, ..View::new(dtype, shape, [row / dtype.bytes(), 1]) }
}

/// Latent, scales and key.
fn parts(sizes: [u64; 2], block: u64, dtype: DType) -> (View, PackedParts) {
    let PackedLayout { n_scales, scales_at, key, key_at, bytes } = layout(sizes, block, dtype);
    let scale = columns(F32, n_scales, bytes, scales_at);
    let key = columns(dtype, key, bytes, key_at);
    (columns(F8e4m3, sizes[0], bytes, 0), PackedParts { scale, key })
}

fn one_head(view: &View) -> View {
    let [rows, len] = [&view.shape[0], &view.shape[1]].map(Dim::clone);
    let strides = vec![view.strides[0], 0, 1];
    View { shape: vec![rows, 1.into(), len], strides, ..view.clone() }
}

fn attention(
    name: &'static str,
    tokens: u64,
    heads: u64,
    sizes: [u64; 2],
    block: u64,
    format: ScaleFormat,
) -> Case {
    let (latent, PackedParts { scale, key }) = parts(sizes, block, Bf16);
    let spec = KernelSpec::Attention {
        q: sizes.iter().map(|&d| in_rows(Bf16, t(), heads, d, heads * d, 16)).collect(),
        k: vec![one_head(&latent), one_head(&key)],
        v: one_head(&latent),
        out: in_rows(Bf16, t(), heads, sizes[0], heads * sizes[0], 16),
        scale: Real(1.0 / ((sizes[0] + sizes[1]) as f64).sqrt()),
        page: Some(64),
        values_in_keys: true,
        quantized: Some(Quantized { scale, block, format }),
        log_sums: None,
    };
    Case { name, spec, tokens }
}

/// Those that tensor cores compute.
pub(crate) fn packed_attentions_on_tensor_cores() -> Vec<Case> {
    vec![
        attention("packed v3", 1, 128, [512, 64], 128, Any),
        attention("packed v3, powers of two", 1, 128, [512, 64], 128, Ue8m0),
        attention("packed v2 lite", 2, 16, [512, 64], 128, Any),
        attention("packed uneven", 3, 72, [384, 40], 64, Any),
        attention("packed 256", 2, 20, [256, 64], 128, Any),
        attention("packed tiny v3", 2, 16, [128, 32], 128, Ue8m0),
        in_chunks("packed in chunks", 3, attention("", 1, 72, [512, 64], 128, Any)),
    ]
}

/// Those that CUDA cores compute.
pub(crate) fn packed_attentions_on_cuda_cores() -> Vec<Case> {
    vec![
        attention("packed few heads", 2, 4, [128, 32], 128, Any),
        attention("packed few heads of v3", 1, 8, [512, 64], 128, Any),
        attention("packed short end", 2, 24, [200, 16], 128, Ue8m0),
        attention("packed odd", 1, 6, [77, 10], 16, Any),
        attention("packed odd blocks", 3, 16, [96, 10], 12, Any),
        attention("packed prefill few heads", 70, 4, [128, 32], 128, Any),
        attention("packed prefill odd", 30, 6, [77, 10], 12, Any),
        in_chunks("packed few in chunks", 4, attention("", 2, 8, [128, 32], 128, Any)),
    ]
}

/// What is appended to packed rows: latent and key are slices of one projection, `gap` elements
/// wider than both.
pub(crate) fn packed_appends() -> Vec<Case> {
    let case = |name, tokens, sizes: [u64; 2], gap: u64, interleaved, dtype, block, format| {
        let [n, dim] = sizes;
        let row = n + dim + gap;
        let align = |at: u64| 1 << ((at * DType::bytes(dtype)) | 16).trailing_zeros();
        let slice = |at: u64, len: u64| View {
            align: align(at),
            ..View::new(dtype, [t(), Dim::from(len)], [row, 1])
        };
        let (latent, packed) = parts(sizes, block, dtype);
        let spec = KernelSpec::AppendLatent {
            latent: slice(0, n),
            weight: dense(dtype, &[Some(n)]),
            key: slice(n, dim),
            cache: latent,
            eps: Real(1e-6),
            interleaved,
            rounded: Some((block, format)),
            packed: Some(packed),
        };
        Case { name, spec, tokens }
    };
    vec![
        case("packed v3", 1, [512, 64], 0, true, Bf16, 128, Any),
        case("packed v3 beside queries", 40, [512, 64], 1536, true, Bf16, 128, Ue8m0),
        case("packed tiny", 5, [128, 32], 0, false, Bf16, 128, Any),
        case("packed short end", 5, [200, 16], 0, true, F32, 128, Any),
        case("packed odd", 7, [77, 10], 2, true, Bf16, 16, Ue8m0),
        case("packed odd blocks", 7, [96, 10], 2, false, DType::F16, 12, Any),
        case("packed in one block", 3, [96, 16], 0, true, Bf16, 128, Any),
        case("packed long", 2, [9000, 64], 0, true, Bf16, 128, Any),
    ]
}

/// Packed rows, taken out.
pub(crate) fn packed_gathers() -> Vec<Case> {
    let case = |name, tokens, sizes: [u64; 2], block, dtype| {
        let (latent, packed) = parts(sizes, block, dtype);
        let out = dense(dtype, &[None, Some(sizes[0] + sizes[1])]);
        Case { name, spec: KernelSpec::GatherLatent { latent, packed, out, block }, tokens }
    };
    vec![
        case("gather packed v3", 3, [512, 64], 128, Bf16),
        case("gather packed short end", 9, [200, 16], 128, F32),
        case("gather packed odd", 7, [77, 10], 16, Bf16),
        case("gather packed odd blocks", 7, [96, 10], 12, Bf16),
    ]
}
