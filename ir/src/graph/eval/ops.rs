//! One operation at a time.

use super::Context;
use super::tensor::{Tensor, dot};
use super::{attention, quantize};
use crate::graph::{BinaryFn, GroupScore, Groups, Op, ReduceFn, Rotary, UnaryFn};
use crate::{Dim, Sizes};

/// The value of one operation. `shape` is the node's inferred shape.
///
/// # Errors
/// A sentence where an index is out of range or the operation needs more than operands.
pub fn eval_op(op: &Op, x: &[&Tensor], shape: &[Dim], context: Context) -> Result<Tensor, String> {
    let (past, tokens) = (context.past + context.tokens, context.tokens);
    let sizes = Sizes { tokens: tokens as u64, past: past as u64, sequences: 1 };
    let shape: Vec<usize> = shape.iter().map(|d| d.eval(&sizes) as usize).collect();
    let rows = |data| Tensor::new(shape.clone(), data);
    match op {
        Op::Input(_) | Op::Param(_) | Op::Cache(_) => {
            Err("it has no operands to compute from".into())
        }
        Op::Constant(c) => rows(vec![c.0]),
        Op::Linear => rows(linear(x[0], x[1])),
        Op::HeadLinear => rows(head_linear(x[0], x[1])),
        Op::ExpertLinear => expert_linear(x[0], x[1], x[2], shape),
        Op::Combine => {
            let mut out = vec![0.0; shape.iter().product()];
            for (i, (row, weight)) in x[0].rows().zip(&x[1].data).enumerate() {
                let t = i / x[1].last();
                let to = &mut out[t * x[0].last()..][..x[0].last()];
                to.iter_mut().zip(row).for_each(|(o, y)| *o += weight * y);
            }
            rows(out)
        }
        Op::Reshape(_) => rows(x[0].data.clone()),
        Op::Slice { axis, start, .. } => {
            let strides = x[0].strides();
            let offset = *start as usize * strides[*axis];
            Ok(x[0].strided(&shape, &strides, offset))
        }
        Op::Concat { axis } => concat(x, *axis, shape),
        Op::Transpose(perm) => {
            let own = x[0].strides();
            let strides: Vec<usize> = perm.iter().map(|&i| own[i]).collect();
            Ok(x[0].strided(&shape, &strides, 0))
        }
        Op::Broadcast(_) => Ok(x[0].broadcast_to(&shape)),
        Op::Lookup => lookup(x[0], x[1], shape),
        Op::Unary(f) => rows(x[0].data.iter().map(|&v| unary(*f, v)).collect()),
        Op::Binary(f) => {
            let (a, b) = (x[0].broadcast_to(&shape), x[1].broadcast_to(&shape));
            rows(a.data.iter().zip(&b.data).map(|(&a, &b)| binary(*f, a, b)).collect())
        }
        Op::Reduce(f) => rows(x[0].rows().map(|r| reduce(*f, r)).collect()),
        Op::Softmax => rows(x[0].rows().flat_map(softmax).collect()),
        Op::RmsNorm { eps } => {
            let norm = |r: &[f64]| {
                let mean = r.iter().map(|v| v * v).sum::<f64>() / r.len() as f64;
                let scale = (mean + eps.0).sqrt().recip();
                r.iter().zip(&x[1].data).map(|(v, w)| v * scale * w).collect::<Vec<_>>()
            };
            rows(x[0].rows().flat_map(norm).collect())
        }
        Op::Rotary(r) => rows(rotary(r, x[0], context)),
        Op::Quantize { block, scales } => rows(quantize::quantize(x[0], *block, *scales)),
        Op::BlockScale { block, scales } => rows(quantize::scales(x[0], *block, *scales)),
        Op::Dequantize { block } => rows(quantize::dequantize(x[0], x[1], *block)),
        Op::Append => rows([x[0].data.as_slice(), &x[1].data].concat()),
        Op::Attend { scale } => {
            let scores = attention::scores(x[0], x[1]);
            let scaled =
                Tensor { data: scores.data.iter().map(|s| s * scale.0).collect(), ..scores };
            Ok(attention::mix(&attention::causal_softmax(&scaled, context), x[2]))
        }
        Op::Scores => Ok(attention::scores(x[0], x[1])),
        Op::CausalSoftmax => Ok(attention::causal_softmax(x[0], context)),
        Op::Mix => Ok(attention::mix(x[0], x[1])),
        Op::TopK { k, groups } => {
            let best = |r: &[f64]| top_k(r, *k as usize, groups.as_ref());
            rows(x[0].rows().flat_map(best).map(|i| i as f64).collect())
        }
        Op::Dispatch | Op::Collect => rows(x[0].data.clone()),
        Op::Pick => {
            let per_row = x[1].last();
            let pick = |(i, &c): (usize, &f64)| x[0].row(i / per_row).get(c as usize).copied();
            let picked: Option<Vec<f64>> = x[1].data.iter().enumerate().map(pick).collect();
            rows(picked.ok_or("an index is out of range")?)
        }
    }
}

fn linear(x: &Tensor, w: &Tensor) -> Vec<f64> {
    x.rows().flat_map(|r| w.rows().map(move |w| dot(r, w))).collect()
}

fn head_linear(x: &Tensor, w: &Tensor) -> Vec<f64> {
    let (heads, n) = (w.shape[0], w.shape[1]);
    let mut out = Vec::with_capacity(x.shape[0] * heads * n);
    for r in 0..x.shape[0] {
        for h in 0..heads {
            let row = x.row(if x.shape[1] == 1 { r } else { r * heads + h });
            out.extend((0..n).map(|i| dot(row, w.row(h * n + i))));
        }
    }
    out
}

fn expert_linear(
    x: &Tensor,
    w: &Tensor,
    chosen: &Tensor,
    shape: Vec<usize>,
) -> Result<Tensor, String> {
    let (n, k) = (w.shape[1], chosen.last());
    let mut out = Vec::with_capacity(chosen.data.len() * n);
    for (i, &expert) in chosen.data.iter().enumerate() {
        if expert < 0.0 || expert as usize >= w.shape[0] {
            return Err(format!("there is no expert {expert}"));
        }
        let row = x.row(if x.shape.len() == 2 { i / k } else { i });
        out.extend((0..n).map(|j| dot(row, w.row(expert as usize * n + j))));
    }
    Tensor::new(shape, out)
}

fn concat(x: &[&Tensor], axis: usize, shape: Vec<usize>) -> Result<Tensor, String> {
    let outer: usize = shape[..axis].iter().product();
    let inner: usize = shape[axis + 1..].iter().product();
    let mut data = Vec::with_capacity(shape.iter().product());
    for o in 0..outer {
        for t in x {
            let block = t.shape[axis] * inner;
            data.extend_from_slice(&t.data[o * block..][..block]);
        }
    }
    Tensor::new(shape, data)
}

fn lookup(table: &Tensor, ids: &Tensor, shape: Vec<usize>) -> Result<Tensor, String> {
    let row: usize = table.shape[1..].iter().product();
    let mut data = Vec::with_capacity(ids.data.len() * row);
    for &id in &ids.data {
        if id < 0.0 || id as usize >= table.shape[0] {
            return Err(format!("row {id} of a table of {} rows", table.shape[0]));
        }
        data.extend_from_slice(&table.data[id as usize * row..][..row]);
    }
    Tensor::new(shape, data)
}

fn unary(f: UnaryFn, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match f {
        UnaryFn::Identity => x,
        UnaryFn::Neg => -x,
        UnaryFn::Exp => x.exp(),
        UnaryFn::Log => x.ln(),
        UnaryFn::Sigmoid => sigmoid(x),
        UnaryFn::Silu => x * sigmoid(x),
        UnaryFn::Tanh => x.tanh(),
        UnaryFn::Sqrt => x.sqrt(),
        UnaryFn::Rsqrt => x.sqrt().recip(),
        UnaryFn::Relu => x.max(0.0),
        UnaryFn::Sign if x == 0.0 => 0.0,
        UnaryFn::Sign => x.signum(),
        UnaryFn::Abs => x.abs(),
    }
}

fn binary(f: BinaryFn, a: f64, b: f64) -> f64 {
    match f {
        BinaryFn::Add => a + b,
        BinaryFn::Sub => a - b,
        BinaryFn::Mul => a * b,
        BinaryFn::Div => a / b,
        BinaryFn::Max => a.max(b),
        BinaryFn::Min => a.min(b),
    }
}

fn reduce(f: ReduceFn, row: &[f64]) -> f64 {
    match f {
        ReduceFn::Sum => row.iter().sum(),
        ReduceFn::Mean => row.iter().sum::<f64>() / row.len() as f64,
        ReduceFn::Max => row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    }
}

pub(super) fn softmax(row: &[f64]) -> Vec<f64> {
    let max = reduce(ReduceFn::Max, row);
    let exp: Vec<f64> = row.iter().map(|v| (v - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

fn rotary(r: &Rotary, x: &Tensor, context: Context) -> Vec<f64> {
    let frequencies = r.frequencies();
    let half = frequencies.len();
    let per_token = x.data.len() / x.shape[0].max(1) / x.last().max(1);
    let mut out = Vec::with_capacity(x.data.len());
    for (i, row) in x.rows().enumerate() {
        let position = (context.past + i / per_token) as f64;
        let mut turned = row.to_vec();
        for (pair, f) in frequencies.iter().enumerate() {
            let (a, b) = if r.interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
            let (sin, cos) = (position * f).sin_cos();
            turned[a] = (row[a] * cos - row[b] * sin) * r.amplitude.0;
            turned[b] = (row[b] * cos + row[a] * sin) * r.amplitude.0;
        }
        out.extend(turned);
    }
    out
}

/// Indices of the best scores, best first, of equals the lower index.
fn top_k(scores: &[f64], k: usize, groups: Option<&Groups>) -> Vec<usize> {
    let mut candidates: Vec<usize> = (0..scores.len()).collect();
    if let Some(g) = groups {
        let size = scores.len() / g.count as usize;
        let of_group: Vec<f64> = scores
            .chunks_exact(size)
            .map(|group| match g.by {
                GroupScore::Max => reduce(ReduceFn::Max, group),
                GroupScore::SumOfTop(n) => {
                    let best = best_first((0..size).collect(), group);
                    best.iter().take(n as usize).map(|&i| group[i]).sum()
                }
            })
            .collect();
        let mut kept = best_first((0..g.count as usize).collect(), &of_group);
        kept.truncate(g.keep as usize);
        candidates.retain(|i| kept.contains(&(i / size)));
    }
    let mut best = best_first(candidates, scores);
    best.truncate(k);
    best
}

fn best_first(mut indices: Vec<usize>, scores: &[f64]) -> Vec<usize> {
    indices.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    indices
}
