//! Attention: the shapes of real models, before and after absorption, and odd ones.

use super::{Case, t};
use moec_ir::DType::{self, Bf16, F32};
use moec_ir::kernel::{KernelSpec, View};
use moec_ir::{Dim, Real, Sym};

/// Rows of a cache, whose length no plan knows.
pub(super) const CACHE: u64 = (1 << 31) - 1;

/// `heads` of size `d` side by side in rows of `row` elements.
pub(super) fn in_rows(dtype: DType, rows: Dim, heads: u64, d: u64, row: u64, align: u64) -> View {
    let mut view = View::new(dtype, [rows, heads.into(), d.into()], [row, d, 1]);
    view.align = align;
    view
}

/// `parts`: size and number of key heads; `value` likewise.
fn plain(
    name: &'static str,
    tokens: u64,
    heads: u64,
    parts: &[(u64, u64)],
    value: (u64, u64),
    dtype: DType,
) -> Case {
    let view = |rows: Dim, heads: u64, d: u64| in_rows(dtype, rows, heads, d, heads * d, 16);
    let spec = KernelSpec::Attention {
        q: parts.iter().map(|&(d, _)| view(t(), heads, d)).collect(),
        k: parts.iter().map(|&(d, shared)| view(CACHE.into(), shared, d)).collect(),
        v: view(CACHE.into(), value.1, value.0),
        out: view(t(), heads, value.0),
        scale: Real(1.0 / (parts.iter().map(|p| p.0 as f64).sum::<f64>()).sqrt()),
        page: Some(64),
        values_in_keys: false,
        quantized: None,
        log_sums: None,
    };
    Case { name, spec, tokens }
}

/// Slices of wider rows: keys and values interleaved in one cache, queries that begin anywhere.
fn slices(name: &'static str, tokens: u64) -> Case {
    let spec = KernelSpec::Attention {
        q: vec![
            in_rows(Bf16, t(), 6, 48, 6 * 64, 16),
            View { align: 4, ..View::new(F32, [t(), Dim::from(6), Dim::from(15)], [100, 16, 1]) },
        ],
        k: vec![
            in_rows(Bf16, CACHE.into(), 3, 48, 3 * 48 + 10, 4),
            View { align: 2, ..View::new(Bf16, [CACHE.into(), 1.into(), 15.into()], [31, 0, 2]) },
        ],
        v: in_rows(Bf16, CACHE.into(), 2, 20, 44, 8),
        out: in_rows(Bf16, t(), 6, 20, 6 * 20 + 3, 2),
        scale: Real(0.3),
        page: None,
        values_in_keys: false,
        quantized: None,
        log_sums: None,
    };
    Case { name, spec, tokens }
}

/// Keys and values in as many rows as sequences have, and no more: what tensor copies can read.
fn packed(
    name: &'static str,
    tokens: u64,
    heads: u64,
    parts: &[(u64, u64)],
    value: (u64, u64),
    dtype: DType,
) -> Case {
    let mut case = plain(name, tokens, heads, parts, value, dtype);
    let KernelSpec::Attention { k, v, page, .. } = &mut case.spec else { return case };
    *page = None;
    k.iter_mut().chain([v]).for_each(|view| view.shape[0] = Sym::Past.into());
    case
}

/// As DeepSeek-V3's prefill has them: keys and values side by side, rotary keys beside the latent.
fn latent(name: &'static str, tokens: u64, heads: u64, [d, rotary, value]: [u64; 3]) -> Case {
    let past = || Dim::from(Sym::Past);
    let row = heads * (d + value);
    let spec = KernelSpec::Attention {
        q: vec![
            in_rows(Bf16, t(), heads, d, d + rotary, 16),
            in_rows(Bf16, t(), heads, rotary, rotary, 16),
        ]
        .into_iter()
        .map(|view| View { strides: vec![heads * view.strides[0], view.strides[0], 1], ..view })
        .collect(),
        k: vec![
            View { strides: vec![row, d + value, 1], ..in_rows(Bf16, past(), heads, d, 0, 16) },
            View { strides: vec![4 * d + rotary, 0, 1], ..in_rows(Bf16, past(), 1, rotary, 0, 16) },
        ],
        v: View { strides: vec![row, d + value, 1], ..in_rows(Bf16, past(), heads, value, 0, 16) },
        out: in_rows(Bf16, t(), heads, value, heads * value, 16),
        scale: Real(1.0 / ((d + rotary) as f64).sqrt()),
        page: None,
        values_in_keys: false,
        quantized: None,
        log_sums: None,
    };
    Case { name, spec, tokens }
}

/// As MLA's cache has them after absorption: a latent, which is the values too, and rotary keys.
fn absorbed(name: &'static str, tokens: u64, heads: u64, parts: &[u64], value: u64) -> Case {
    let row = parts.iter().sum();
    let cached = |d: u64| {
        let strides = vec![row, 0, 1];
        View { strides, ..in_rows(Bf16, CACHE.into(), 1, d, row, 16) }
    };
    let spec = KernelSpec::Attention {
        q: parts.iter().map(|&d| in_rows(Bf16, t(), heads, d, heads * d, 16)).collect(),
        k: parts.iter().map(|&d| cached(d)).collect(),
        v: cached(value),
        out: in_rows(Bf16, t(), heads, value, heads * value, 16),
        scale: Real(1.0 / (row as f64).sqrt()),
        page: Some(64),
        values_in_keys: true,
        quantized: None,
        log_sums: None,
    };
    Case { name, spec, tokens }
}

/// The keys of each token in that many chunks.
pub(super) fn in_chunks(name: &'static str, chunks: u64, mut case: Case) -> Case {
    let KernelSpec::Attention { out, log_sums, .. } = &mut case.spec else { return case };
    let [tokens, heads, value] = [0, 1, 2].map(|axis| out.shape[axis].clone());
    let of_chunks = [tokens, chunks.into(), heads, value];
    *out = View::dense(F32, &of_chunks).unwrap();
    *log_sums = View::dense(F32, &of_chunks[..3]);
    Case { name, ..case }
}

/// Those whose keys are divided into chunks, on tensor cores and on CUDA cores.
pub(crate) fn attentions_in_chunks() -> Vec<Case> {
    let latent = absorbed("", 1, 72, &[512, 64], 512);
    let plain = plain("", 2, 32, &[(128, 8)], (128, 8), Bf16);
    vec![in_chunks("latent in chunks", 3, latent), in_chunks("decode in chunks", 4, plain)]
}

/// Those that tensor cores compute in a paged cache.
pub(crate) fn latent_attentions() -> Vec<Case> {
    vec![
        absorbed("latent v3", 1, 128, &[512, 64], 512),
        absorbed("latent v2 lite", 2, 16, &[512, 64], 512),
        absorbed("latent uneven", 3, 72, &[136, 8, 24], 128),
        absorbed("latent alone", 1, 64, &[256], 256),
    ]
}

/// Those that tensor cores compute in prefill.
pub(crate) fn packed_attentions() -> Vec<Case> {
    vec![
        latent("flash v3", 300, 2, [128, 64, 128]),
        latent("flash tiny v3", 40, 4, [32, 16, 32]),
        latent("flash tiny odd", 70, 3, [24, 8, 16]),
        packed("flash mixtral", 130, 4, &[(128, 2)], (128, 2), Bf16),
        packed("flash qwen3", 64, 8, &[(128, 1)], (128, 1), DType::F16),
        packed("flash gemma", 70, 2, &[(256, 1)], (256, 1), Bf16),
        packed("flash three parts", 140, 3, &[(72, 3), (8, 1), (40, 1)], (200, 3), Bf16),
    ]
}

/// Those that tensor cores compute in prefill from a paged cache.
pub(crate) fn paged_attentions() -> Vec<Case> {
    let paged = |rows: u64, mut case: Case| {
        let KernelSpec::Attention { page, .. } = &mut case.spec else { return case };
        *page = Some(rows);
        case
    };
    vec![
        plain("paged mixtral", 70, 8, &[(128, 2)], (128, 2), Bf16),
        plain("paged qwen3", 130, 8, &[(128, 1)], (128, 1), DType::F16),
        plain("paged mla", 64, 4, &[(128, 4), (64, 1)], (128, 4), Bf16),
        plain("paged gemma", 70, 4, &[(256, 2)], (256, 2), Bf16),
        plain("paged three parts", 140, 3, &[(72, 3), (8, 1), (40, 1)], (200, 3), Bf16),
        plain("paged tiny", 40, 4, &[(16, 2)], (16, 2), Bf16),
        paged(32, plain("paged by 32", 100, 2, &[(64, 1)], (64, 1), Bf16)),
        paged(256, plain("paged by 256", 100, 2, &[(64, 2)], (64, 1), Bf16)),
    ]
}

pub(crate) fn attentions() -> Vec<Case> {
    vec![
        plain("decode absorbed mla", 1, 128, &[(512, 1), (64, 1)], (512, 1), Bf16),
        plain("decode mla", 2, 16, &[(128, 16), (64, 1)], (128, 16), Bf16),
        plain("decode mixtral", 1, 32, &[(128, 8)], (128, 8), Bf16),
        plain("decode qwen3", 4, 64, &[(128, 4)], (128, 4), Bf16),
        plain("decode 48", 2, 6, &[(48, 2)], (48, 2), F32),
        plain("decode uneven", 3, 12, &[(24, 4), (10, 2)], (36, 6), F32),
        plain("decode tiny", 1, 3, &[(7, 1)], (5, 3), Bf16),
        slices("decode slices", 2),
        plain("prefill absorbed mla", 64, 16, &[(512, 1), (64, 1)], (512, 1), Bf16),
        plain("prefill float32", 70, 32, &[(128, 8)], (128, 8), F32),
        plain("prefill 48", 20, 6, &[(48, 2)], (48, 2), F32),
        plain("prefill uneven", 30, 12, &[(24, 4), (10, 2)], (36, 6), F32),
        plain("prefill tiny", 5, 3, &[(7, 1)], (5, 3), Bf16),
        plain("prefill odd values", 9, 2, &[(33, 1)], (263, 2), Bf16),
        slices("prefill slices", 40),
    ]
}
