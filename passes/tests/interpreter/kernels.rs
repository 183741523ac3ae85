//! The kernels, one function each.

use super::{Access, routing, scaled};
use moec_ir::KernelSpec;
use moec_ir::graph::Op;
use moec_ir::graph::eval::{Context, Tensor, eval_op};
use moec_ir::kernel::{Scalar, View};
use std::collections::BTreeMap;

/// Executes a kernel on its operands.
pub fn execute(spec: &KernelSpec, m: &mut Access<'_>) {
    match spec {
        KernelSpec::Gemm { a, w, add, c } => gemm(m, a, w, add.as_ref(), c),
        KernelSpec::GroupedGemm { a, w, c, top_k } => grouped(m, a, w, c, *top_k as usize),
        KernelSpec::Quantize { x, q, scale, block, format } => {
            let to = scaled::To { out: None, q, scale, block: *block as usize, format: *format };
            scaled::quantize(m, 1, &to, |m, i| m.get(0, x, i));
        }
        KernelSpec::QuantizeTransposed { x, q, scale, block, format } => {
            let to = scaled::To { out: None, q, scale, block: *block as usize, format: *format };
            scaled::quantize(m, 1, &to, |m, i| m.get(0, x, &[i[1], i[0]]));
        }
        KernelSpec::ScaledGemm { a, a_scale, w, w_scale, add, c, block, .. } => {
            scaled::gemm(m, (a, a_scale.as_ref()), [w, w_scale], add.as_ref(), c, *block);
        }
        KernelSpec::ScaledGroupedGemm { a, a_scale, w, w_scale, c, top_k, block, .. } => {
            scaled::grouped(m, (a, a_scale.as_ref()), [w, w_scale], c, *top_k as usize, *block);
        }
        KernelSpec::MaskedGemm { .. } | KernelSpec::ScaledMaskedGemm { .. } => {
            panic!("no plan has rows of fixed capacity")
        }
        KernelSpec::WeightGradient { .. } => panic!("no plan has gradients"),
        KernelSpec::ExchangeRoutes { .. } | KernelSpec::SpreadExperts(_) => {
            panic!("no plan of one rank exchanges anything")
        }
        KernelSpec::RoutePlan { chosen, n_experts } => route(m, chosen, *n_experts as usize),
        KernelSpec::Combine { y, weight, adds, out } => combine(m, y, weight, adds, out),
        KernelSpec::RmsNorm { x, residual, weight, out, eps } => {
            rms_norm(m, x, residual.as_ref(), weight, out, eps.0);
        }
        KernelSpec::RmsNormQuantize { x, residual, weight, out, q, scale, eps, block, format } => {
            let to =
                scaled::To { out: out.as_ref(), q, scale, block: *block as usize, format: *format };
            let rows = norms(m, x, residual.as_ref(), weight, eps.0);
            let first = if residual.is_some() { 4 } else { 2 };
            scaled::quantize(m, first, &to, |_, i| rows[&[i[0], i[1]]][i[2]]);
        }
        KernelSpec::PointwiseQuantize { inputs, out, q, scale, code, block, format } => {
            let to =
                scaled::To { out: out.as_ref(), q, scale, block: *block as usize, format: *format };
            scaled::quantize(m, inputs.len(), &to, |m, i| value(m, inputs, code, i));
        }
        KernelSpec::Pointwise { inputs, out, code } => pointwise(m, inputs, out, code),
        KernelSpec::Reduce { x, out, f } => rows(m, x, None, out, &Op::Reduce(*f)),
        KernelSpec::Softmax { x, out } => rows(m, x, None, out, &Op::Softmax),
        KernelSpec::TopK { scores, chosen, groups } => {
            let k = chosen.shape[1].constant().expect("a fixed number");
            rows(m, scores, None, chosen, &Op::TopK { k, groups: *groups });
        }
        KernelSpec::Router { .. } => routing::router(m, spec),
        KernelSpec::Pick { x, chosen, out } => rows(m, x, Some(chosen), out, &Op::Pick),
        KernelSpec::Rotary { x, out, interleaved } => rotary(m, x, out, *interleaved),
        KernelSpec::Gather { table, out } => {
            each(&m.sizes(out), |i| {
                let v = m.get(0, table, &[m.plain(1, i[0]) as usize, i[1]]);
                m.set(2, out, i, v);
            });
        }
        KernelSpec::Scatter { x, table } => {
            each(&m.sizes(x), |i| {
                let v = m.get(0, x, i);
                m.set(2, table, &[m.plain(1, i[0]) as usize, i[1]], v);
            });
        }
        KernelSpec::AppendLatent { .. } => append_latent(m, spec),
        KernelSpec::GatherLatent { latent, packed, out, block } => {
            let n = m.sizes(latent)[1];
            each(&m.sizes(out), |i| {
                let row = m.plain(3, i[0]) as usize;
                let v = match i[1].checked_sub(n) {
                    Some(at) => m.get(2, &packed.key, &[row, at]),
                    None => {
                        let scale = m.get(1, &packed.scale, &[row, i[1] / *block as usize]);
                        m.get(0, latent, &[row, i[1]]) * scale
                    }
                };
                m.set(4, out, i, v);
            });
        }
        KernelSpec::Attention { .. } => attention(m, spec),
        KernelSpec::AttentionMerge { .. } => panic!("models of these tests have too few heads"),
    }
}

/// Calls with every index of a shape.
pub(super) fn each(shape: &[usize], mut f: impl FnMut(&[usize])) {
    let mut index = vec![0; shape.len()];
    for at in 0..shape.iter().product() {
        let mut rest: usize = at;
        for axis in (0..shape.len()).rev() {
            index[axis] = rest % shape[axis];
            rest /= shape[axis];
        }
        f(&index);
    }
}

fn gemm(m: &mut Access<'_>, a: &View, w: &View, add: Option<&View>, c: &View) {
    let columns = m.sizes(a)[2];
    each(&m.sizes(c), |i| {
        let products =
            (0..columns).map(|k| m.get(0, a, &[i[0], i[1], k]) * m.get(1, w, &[i[0], i[2], k]));
        let sum: f64 = products.sum();
        let more = add.map_or(0.0, |add| m.get(2, add, i));
        m.set(2 + usize::from(add.is_some()), c, i, sum + more);
    });
}

fn grouped(m: &mut Access<'_>, a: &View, w: &View, c: &View, top_k: usize) {
    let (shape, columns) = (m.sizes(c), m.sizes(a)[2]);
    let (experts, shared) = (m.sizes(w)[0], m.sizes(a)[1] == 1);
    for e in 0..experts {
        for at in m.plain(2, e) as usize..m.plain(2, e + 1) as usize {
            let row = m.plain(2, experts + 1 + at) as usize;
            let (t, j) = (row / top_k, row % top_k);
            for n in 0..shape[2] {
                let from = if shared { 0 } else { j };
                let products =
                    (0..columns).map(|k| m.get(0, a, &[t, from, k]) * m.get(1, w, &[e, n, k]));
                let sum = products.sum();
                m.set(3, c, &[t, j, n], sum);
            }
        }
    }
}

fn route(m: &mut Access<'_>, chosen: &View, n_experts: usize) {
    let shape = m.sizes(chosen);
    let mut next = 0;
    for e in 0..n_experts {
        m.set_plain(1, e, f64::from(next));
        for t in 0..shape[0] {
            for j in 0..shape[1] {
                if m.get(0, chosen, &[t, j]) == e as f64 {
                    let row = (t * shape[1] + j) as f64;
                    m.set_plain(1, n_experts + 1 + next as usize, row);
                    next += 1;
                }
            }
        }
    }
    m.set_plain(1, n_experts, f64::from(next));
}

fn combine(m: &mut Access<'_>, y: &View, weight: &View, adds: &[View], out: &View) {
    let per_token = m.sizes(y)[1];
    each(&m.sizes(out), |i| {
        let terms =
            (0..per_token).map(|j| m.get(0, y, &[i[0], j, i[1]]) * m.get(1, weight, &[i[0], j]));
        let more = adds.iter().enumerate().map(|(at, add)| m.get(2 + at, add, i));
        let sum = terms.chain(more).sum();
        m.set(2 + adds.len(), out, i, sum);
    });
}

fn rms_norm(
    m: &mut Access<'_>,
    x: &View,
    residual: Option<&(View, View)>,
    weight: &View,
    out: &View,
    eps: f64,
) {
    let last = if residual.is_some() { 4 } else { 2 };
    for (i, row) in norms(m, x, residual, weight, eps) {
        for (n, v) in row.into_iter().enumerate() {
            m.set(last, out, &[i[0], i[1], n], v);
        }
    }
}

/// The normed rows; sums are stored.
fn norms(
    m: &mut Access<'_>,
    x: &View,
    residual: Option<&(View, View)>,
    weight: &View,
    eps: f64,
) -> BTreeMap<[usize; 2], Vec<f64>> {
    let shape = m.sizes(x);
    let weight_at = if residual.is_some() { 3 } else { 1 };
    let mut rows = BTreeMap::new();
    each(&shape[..2], |i| {
        let at = |n: usize| [i[0], i[1], n];
        let row: Vec<f64> = (0..shape[2])
            .map(|n| m.get(0, x, &at(n)) + residual.map_or(0.0, |(r, _)| m.get(1, r, &at(n))))
            .collect();
        let mean = row.iter().map(|v| v * v).sum::<f64>() / shape[2] as f64;
        let mut normed = vec![];
        for (n, v) in row.iter().enumerate() {
            if let Some((_, sum)) = residual {
                m.set(2, sum, &at(n), *v);
            }
            normed.push(v / (mean + eps).sqrt() * m.get(weight_at, weight, &[n]));
        }
        rows.insert([i[0], i[1]], normed);
    });
    rows
}

fn scalar(op: &Op, x: &[f64]) -> f64 {
    let x: Vec<Tensor> = x.iter().map(|v| Tensor { shape: vec![], data: vec![*v] }).collect();
    let x: Vec<&Tensor> = x.iter().collect();
    eval_op(op, &x, &[], Context { past: 0, tokens: 1 }).expect("a number").data[0]
}

fn pointwise(m: &mut Access<'_>, inputs: &[View], out: &View, code: &[Scalar]) {
    for input in inputs {
        assert_eq!(input.shape, out.shape, "inputs repeat by zero strides");
    }
    each(&m.sizes(out), |i| {
        let result = value(m, inputs, code, i);
        m.set(inputs.len(), out, i, result);
    });
}

/// A function's value at an index.
fn value(m: &Access<'_>, inputs: &[View], code: &[Scalar], i: &[usize]) -> f64 {
    let mut steps: Vec<f64> = vec![];
    for step in code {
        let value = match *step {
            Scalar::Input(x) => m.get(x, &inputs[x], i),
            Scalar::Constant(c) => c.0,
            Scalar::Unary(f, x) => scalar(&Op::Unary(f), &[steps[x]]),
            Scalar::Binary(f, x, y) => scalar(&Op::Binary(f), &[steps[x], steps[y]]),
        };
        steps.push(value);
    }
    *steps.last().expect("a result")
}

fn rows(m: &mut Access<'_>, x: &View, other: Option<&View>, out: &View, op: &Op) {
    let read = |m: &Access<'_>, operand: usize, view: &View| {
        let shape = m.sizes(view);
        let mut data = vec![];
        each(&shape, |i| data.push(m.get(operand, view, i)));
        Tensor { shape, data }
    };
    let operands: Vec<Tensor> =
        [read(m, 0, x)].into_iter().chain(other.map(|view| read(m, 1, view))).collect();
    let operands: Vec<&Tensor> = operands.iter().collect();
    let sizes = m.sizes(out);
    let shape: Vec<moec_ir::Dim> = sizes.iter().map(|n| (*n as u64).into()).collect();
    let result = eval_op(op, &operands, &shape, Context { past: 0, tokens: sizes[0] });
    let mut values = result.expect("rows").data.into_iter();
    each(&sizes, |i| m.set(operands.len(), out, i, values.next().expect("a value")));
}

fn rotary(m: &mut Access<'_>, x: &View, out: &View, interleaved: bool) {
    let shape = m.sizes(x);
    let half = shape[2] / 2;
    each(&[shape[0], shape[1], half], |i| {
        let (a, b) = if interleaved { (2 * i[2], 2 * i[2] + 1) } else { (i[2], i[2] + half) };
        let entry = (m.plain(2, i[0]) as usize * half + i[2]) * 2;
        let (cos, sin) = (m.plain(1, entry), m.plain(1, entry + 1));
        let (u, v) = (m.get(0, x, &[i[0], i[1], a]), m.get(0, x, &[i[0], i[1], b]));
        m.set(3, out, &[i[0], i[1], a], u * cos - v * sin);
        m.set(3, out, &[i[0], i[1], b], u * sin + v * cos);
    });
}

fn append_latent(m: &mut Access<'_>, spec: &KernelSpec) {
    let KernelSpec::AppendLatent { latent, weight, key, cache, eps, interleaved, rounded, packed } =
        spec
    else {
        panic!("{spec:?}")
    };
    let [rows, n, dim] = [m.sizes(latent)[0], m.sizes(latent)[1], m.sizes(key)[1]];
    for t in 0..rows {
        let slot = m.plain(5, t) as usize;
        let row: Vec<f64> = (0..n).map(|i| m.get(0, latent, &[t, i])).collect();
        let mean = row.iter().map(|v| v * v).sum::<f64>() / n as f64;
        let norm = |(i, v): (usize, f64)| v / (mean + eps.0).sqrt() * m.get(1, weight, &[i]);
        let mut normed: Vec<f64> = row.into_iter().enumerate().map(norm).collect();
        if let (Some((block, format)), Some(packed)) = (*rounded, packed) {
            for (j, values) in normed.chunks_mut(block as usize).enumerate() {
                m.set(7, &packed.scale, &[slot, j], scaled::quantize_block(values, format));
            }
        } else if let Some((block, format)) = *rounded {
            scaled::round(&mut normed, block, format);
        }
        let (key_at, to_key, first) = match packed {
            Some(packed) => (8, &packed.key, 0),
            None => (6, cache, n),
        };
        normed.into_iter().enumerate().for_each(|(i, v)| m.set(6, cache, &[slot, i], v));
        for i in 0..dim / 2 {
            let (a, b) = if *interleaved { (2 * i, 2 * i + 1) } else { (i, i + dim / 2) };
            let entry = (m.plain(4, t) as usize * (dim / 2) + i) * 2;
            let (cos, sin) = (m.plain(3, entry), m.plain(3, entry + 1));
            let (u, v) = (m.get(2, key, &[t, a]), m.get(2, key, &[t, b]));
            m.set(key_at, to_key, &[slot, first + a], u * cos - v * sin);
            m.set(key_at, to_key, &[slot, first + b], u * sin + v * cos);
        }
    }
}

fn attention(m: &mut Access<'_>, spec: &KernelSpec) {
    let KernelSpec::Attention { q, k, v, out, scale, page, quantized, log_sums, .. } = spec else {
        panic!("{spec:?}")
    };
    assert!(log_sums.is_none(), "models of these tests have too few heads");
    let parts = q.len();
    let shape = m.sizes(out);
    let before = 2 * parts + usize::from(quantized.is_some());
    let (positions, sequences, starts) = (before + 1, before + 2, before + 3);
    // Of the first part of keys, and of values.
    let factor = |m: &Access<'_>, row: usize, d: usize| match quantized {
        Some(quantized) => {
            m.get(2 * parts + 1, &quantized.scale, &[row, d / quantized.block as usize])
        }
        None => 1.0,
    };
    for t in 0..shape[0] {
        let start = m.plain(starts, m.plain(sequences, t) as usize) as usize;
        let place = |m: &Access<'_>, row: usize| match page.map(|page| page as usize) {
            Some(page) => m.plain(starts + 1, row / page) as usize * page + row % page,
            None => row,
        };
        let keys = m.plain(positions, t) as usize + 1;
        for h in 0..shape[1] {
            let mut weights: Vec<f64> = (start..start + keys)
                .map(|s| {
                    let part = |p: usize| -> f64 {
                        let head = h / (shape[1] / m.sizes(&k[p])[1]);
                        let width = m.sizes(&q[p])[2];
                        let dot = |d| {
                            let row = place(m, s);
                            let factor = if p == 0 { factor(m, row, d) } else { 1.0 };
                            m.get(p, &q[p], &[t, h, d])
                                * m.get(parts + p, &k[p], &[row, head, d])
                                * factor
                        };
                        (0..width).map(dot).sum()
                    };
                    scale.0 * (0..parts).map(part).sum::<f64>()
                })
                .collect();
            let most = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            weights.iter_mut().for_each(|w| *w = (*w - most).exp());
            let total: f64 = weights.iter().sum();
            let head = h / (shape[1] / m.sizes(v)[1]);
            for d in 0..shape[2] {
                let row = |s: usize| {
                    let row = place(m, start + s);
                    m.get(2 * parts, v, &[row, head, d]) * factor(m, row, d)
                };
                let sum: f64 = weights.iter().enumerate().map(|(s, w)| w * row(s)).sum();
                m.set(starts + 1 + usize::from(page.is_some()), out, &[t, h, d], sum / total);
            }
        }
    }
}
