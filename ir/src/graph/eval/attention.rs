//! The parts of attention, on one sequence.

use super::Context;
use super::ops::softmax;
use super::tensor::{Tensor, dot};

/// `q [T, H, K], k [S, Hk, K] -> [T, H, S]`
pub(super) fn scores(q: &Tensor, k: &Tensor) -> Tensor {
    let (tokens, heads, past, shared) = (q.shape[0], q.shape[1], k.shape[0], k.shape[1]);
    let mut data = Vec::with_capacity(tokens * heads * past);
    for row in 0..tokens * heads {
        let head = (row % heads) / (heads / shared);
        data.extend((0..past).map(|s| dot(q.row(row), k.row(s * shared + head))));
    }
    Tensor { shape: vec![tokens, heads, past], data }
}

/// Softmax over the keys at or before each token; later keys weigh 0.
pub(super) fn causal_softmax(scores: &Tensor, context: Context) -> Tensor {
    let heads = scores.shape[1];
    let mut data = Vec::with_capacity(scores.data.len());
    for (i, row) in scores.rows().enumerate() {
        let visible = (context.past + i / heads + 1).min(row.len());
        data.extend(softmax(&row[..visible]));
        data.resize(data.len() + row.len() - visible, 0.0);
    }
    Tensor { shape: scores.shape.clone(), data }
}

/// `p [T, H, S], v [S, Hv, V] -> [T, H, V]`
pub(super) fn mix(p: &Tensor, v: &Tensor) -> Tensor {
    let (tokens, heads, shared, width) = (p.shape[0], p.shape[1], v.shape[1], v.shape[2]);
    let mut data = Vec::with_capacity(tokens * heads * width);
    for (row, weights) in p.rows().enumerate() {
        let head = (row % heads) / (heads / shared);
        let mut sum = vec![0.0; width];
        for (s, weight) in weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
            sum.iter_mut().zip(v.row(s * shared + head)).for_each(|(o, x)| *o += weight * x);
        }
        data.extend(sum);
    }
    Tensor { shape: vec![tokens, heads, width], data }
}
