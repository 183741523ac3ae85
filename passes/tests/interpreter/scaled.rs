//! FP8 and its block-scaled products.

use super::Access;
use super::kernels::each;
use moec_ir::ScaleFormat;
use moec_ir::kernel::View;

/// The nearest e4m3 number, ties to even, saturated.
fn e4m3(x: f64) -> f64 {
    let exponent = x.abs().log2().floor().max(-6.0);
    let unit = (exponent - 3.0).exp2();
    if x.is_nan() { x } else { ((x / unit).round_ties_even() * unit).clamp(-448.0, 448.0) }
}

/// What is stored of each number.
pub struct To<'s> {
    pub out: Option<&'s View>,
    pub q: &'s View,
    pub scale: &'s View,
    pub block: usize,
    pub format: ScaleFormat,
}

/// The scale of a block.
fn scale_of(values: &[f64], format: ScaleFormat) -> f64 {
    let greatest = values.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    match format {
        _ if greatest == 0.0 => 1.0,
        ScaleFormat::F32 => greatest / 448.0,
        ScaleFormat::Ue8m0 => (greatest / 448.0).log2().ceil().exp2(),
    }
}

/// A block as it is in FP8, and its scale.
pub fn quantize_block(values: &mut [f64], format: ScaleFormat) -> f64 {
    let scale = scale_of(values, format);
    values.iter_mut().for_each(|v| *v = e4m3(*v / scale));
    scale
}

/// A row as it reads back from FP8 with scales.
pub fn round(row: &mut [f64], block: u64, format: ScaleFormat) {
    for values in row.chunks_mut(block as usize) {
        let scale = quantize_block(values, format);
        values.iter_mut().for_each(|v| *v *= scale);
    }
}

/// Stores numbers and their FP8, whose operands begin at `first`.
pub fn quantize(
    m: &mut Access<'_>,
    first: usize,
    to: &To<'_>,
    value: impl Fn(&Access<'_>, &[usize]) -> f64,
) {
    let q_at = first + usize::from(to.out.is_some());
    let columns = *m.sizes(to.q).last().expect("columns");
    each(&m.sizes(to.scale), |i| {
        let (j, row) = i.split_last().expect("an axis of blocks");
        let at = |k: usize| [row, &[k]].concat();
        let of_block = j * to.block..((j + 1) * to.block).min(columns);
        let values: Vec<f64> = of_block.clone().map(|k| value(m, &at(k))).collect();
        let factor = scale_of(&values, to.format);
        m.set(q_at + 1, to.scale, i, factor);
        for (k, v) in of_block.zip(values) {
            m.set(q_at, to.q, &at(k), e4m3(v / factor));
            if let Some(out) = to.out {
                m.set(first, out, &at(k), v);
            }
        }
    });
}

/// A row of `a`, which may have scales, times a row of `w`, whose scales follow it.
fn inner(
    m: &Access<'_>,
    (a, a_scale): (&View, Option<&View>),
    [w, w_scale]: [&View; 2],
    [i, n]: [[usize; 2]; 2],
    block: [u64; 2],
) -> f64 {
    let [rows, columns] = block.map(|n| n as usize);
    let at_w = 1 + usize::from(a_scale.is_some());
    let product = |k: usize| {
        let of_a = a_scale.map_or(1.0, |scale| m.get(1, scale, &[i[0], i[1], k / columns]));
        let of_w = m.get(at_w + 1, w_scale, &[n[0], n[1] / rows, k / columns]);
        m.get(0, a, &[i[0], i[1], k]) * of_a * m.get(at_w, w, &[n[0], n[1], k]) * of_w
    };
    (0..m.sizes(a)[2]).map(product).sum()
}

pub fn gemm(
    m: &mut Access<'_>,
    a: (&View, Option<&View>),
    w: [&View; 2],
    add: Option<&View>,
    c: &View,
    block: [u64; 2],
) {
    let factors = 3 + usize::from(a.1.is_some());
    each(&m.sizes(c), |i| {
        let sum = inner(m, a, w, [[i[0], i[1]], [i[0], i[2]]], block);
        let more = add.map_or(0.0, |add| m.get(factors, add, i));
        m.set(factors + usize::from(add.is_some()), c, i, sum + more);
    });
}

pub fn grouped(
    m: &mut Access<'_>,
    a: (&View, Option<&View>),
    w: [&View; 2],
    c: &View,
    top_k: usize,
    block: [u64; 2],
) {
    let (experts, shared) = (m.sizes(w[0])[0], m.sizes(a.0)[1] == 1);
    let route = 3 + usize::from(a.1.is_some());
    for e in 0..experts {
        for at in m.plain(route, e) as usize..m.plain(route, e + 1) as usize {
            let row = m.plain(route, experts + 1 + at) as usize;
            let (t, j) = (row / top_k, row % top_k);
            for n in 0..m.sizes(c)[2] {
                let from = if shared { 0 } else { j };
                let sum = inner(m, a, w, [[t, from], [e, n]], block);
                m.set(route + 1, c, &[t, j, n], sum);
            }
        }
    }
}
