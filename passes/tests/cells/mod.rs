//! DeepSeek-V3's published cells: what a rank does in a layer with routed experts.

#![allow(dead_code, clippy::unwrap_used, reason = "each program uses a part; sizes are known")]

use moec_ir::{Phase, Ranks};
use moec_passes::cost::{Attention, Product, Stream, Transfer};
use moec_passes::partition::{Cell, Task, Work};

/// Sizes of DeepSeek-V3 (arXiv 2412.19437, 4.2).
const HIDDEN: f64 = 7_168.0;
const FF: f64 = 2_048.0;
const HEADS: f64 = 128.0;
const Q_RANK: f64 = 1_536.0;
const KV_RANK: f64 = 512.0;
const ROPE: f64 = 64.0;
const NOPE: f64 = 128.0;
const VALUE: f64 = 128.0;
const SPARSE_LAYERS: u32 = 58;
/// FP8 with a float32 scale for each 128 elements; bf16 back (3.2.2, 3.3.3).
const OUT_BYTES: f64 = HIDDEN + HIDDEN / 128.0 * 4.0;
const BACK_BYTES: f64 = 2.0 * HIDDEN;

/// A product in FP8 with a bf16 result.
fn linear(rows: f64, columns: f64, depth: f64) -> Task {
    Task::Product(Product::dense(1.0, [rows, columns, depth], 1.0, 2.0))
}

/// Reads and writes of a row of elements of each token, bytes of an element of each.
fn stream(tokens: f64, width: f64, bytes: f64) -> Task {
    let elements = tokens * width;
    Task::Stream(Stream { bytes: elements * bytes, flops: 8.0 * elements, launches: 1.0 })
}

/// One shared expert.
fn shared(tokens: f64) -> Work {
    Work::from_iter([
        linear(tokens, 2.0 * FF, HIDDEN),
        stream(tokens, FF, 5.0),
        linear(tokens, HIDDEN, FF),
    ])
}

/// Norms, projections and router around an attention, for all tokens of a rank.
fn around(tokens: f64, core: &[Task]) -> Work {
    let before = [
        stream(tokens, HIDDEN, 3.0),
        linear(tokens, Q_RANK + KV_RANK + ROPE, HIDDEN),
        stream(tokens, Q_RANK, 3.0),
        linear(tokens, HEADS * (NOPE + ROPE), Q_RANK),
        stream(tokens, HEADS * ROPE, 4.0),
    ];
    let after = [
        stream(tokens, HEADS * VALUE, 3.0),
        linear(tokens, HIDDEN, HEADS * VALUE),
        stream(tokens, HIDDEN, 5.0),
        Task::Product(Product::dense(1.0, [tokens, 256.0, HIDDEN], 2.0, 4.0)),
    ];
    before.into_iter().chain(core.iter().copied()).chain(after).collect()
}

fn cell(phase: Phase, ranks: u32, tokens: f64, before: Work, transfer: Transfer) -> Cell {
    Cell {
        phase,
        ranks: Ranks::new(ranks, Ranks::PER_NODE).unwrap(),
        tokens,
        hidden: HIDDEN,
        ff: FF,
        experts: 256,
        top_k: 8,
        most_nodes: 4,
        out_bytes: OUT_BYTES,
        back_bytes: BACK_BYTES,
        element: 1.0,
        skew: 1.0,
        layers: SPARSE_LAYERS,
        before,
        beside: shared(tokens),
        micro_batches: 2,
        transfer,
        fixed: None,
    }
}

/// Prefill as in DeepSeek's profile (`profile_data_notes.csv`): 32 ranks, prompts of 4,096 tokens,
/// 16,384 tokens of a rank, two micro-batches.
pub(crate) fn prefill(transfer: Transfer) -> Cell {
    of_sequences(32, 4.0, transfer)
}

/// The forward pass of DeepSeek's training profile (same table): 64 ranks, a sequence of 4,096
/// tokens of each.
pub(crate) fn training(transfer: Transfer) -> Cell {
    of_sequences(64, 1.0, transfer)
}

/// Sequences of 4,096 tokens of a rank, causal, keys and values expanded.
fn of_sequences(ranks: u32, sequences: f64, transfer: Transfer) -> Cell {
    let length = 4_096.0;
    let tokens = sequences * length;
    let attention = Attention {
        sequences,
        tokens: length,
        visible: (length + 1.0) / 2.0,
        causal: true,
        heads: HEADS,
        key_heads: HEADS,
        depth: NOPE + ROPE,
        value: VALUE,
        element: 2.0,
        bytes: tokens * HEADS * 2.0 * (2.0 * (NOPE + ROPE) + 2.0 * VALUE),
    };
    let core = [linear(tokens, HEADS * (NOPE + VALUE), KV_RANK), Task::Attention(attention)];
    cell(Phase::Prefill, ranks, tokens, around(tokens, &core), transfer)
}

/// Decoding as in DeepSeek's profile: 128 ranks, 128 requests of a rank, 4,096 tokens remembered,
/// two micro-batches, transfers that hold no SM.
pub(crate) fn decode() -> Cell {
    let (requests, past) = (128.0, 4_096.0);
    let latent = KV_RANK + ROPE;
    let attention = Attention {
        sequences: requests,
        tokens: 1.0,
        visible: past,
        causal: true,
        heads: HEADS,
        key_heads: 1.0,
        depth: latent,
        value: KV_RANK,
        element: 2.0,
        bytes: requests * 2.0 * (past * latent + HEADS * (latent + KV_RANK)),
    };
    let absorbed =
        |columns, depth| Task::Product(Product::dense(HEADS, [requests, columns, depth], 2.0, 2.0));
    let core = [absorbed(KV_RANK, NOPE), Task::Attention(attention), absorbed(VALUE, KV_RANK)];
    cell(Phase::Decode, 128, requests, around(requests, &core), Transfer::LowLatency)
}
