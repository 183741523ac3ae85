//! Norms, reductions and softmax of rows.

use super::machine::{Array, Random, run};
use crate::cases;
use moec_ir::Sizes;
use moec_ir::graph::ReduceFn;
use moec_ir::kernel::KernelSpec;

/// Error of the float32 arithmetic, relative to the result: sums of up to 40,000 terms in
/// parts, one approximate instruction.
pub(crate) const ERROR: f64 = 2e-6;

fn sizes(tokens: u64) -> Sizes {
    Sizes { tokens, past: tokens, sequences: 1 }
}

#[test]
fn rms_norm_divides_by_the_root_of_the_mean_square() {
    for case in cases::rows() {
        let KernelSpec::RmsNorm { x, residual, weight, out, eps } = &case.spec else { panic!() };
        for tokens in [case.tokens, 1, 7] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let mut x = Array::random(x, &sizes, &mut random);
            let mut residual = residual.as_ref().map(|(residual, sum)| {
                (Array::random(residual, &sizes, &mut random), Array::poisoned(sum, &sizes))
            });
            let mut weight = Array::random(weight, &sizes, &mut random);
            let mut out = Array::poisoned(out, &sizes);
            let mut operands = vec![&mut x];
            if let Some((residual, sum)) = &mut residual {
                operands.extend([residual, sum]);
            }
            operands.extend([&mut weight, &mut out]);
            run(case.name, &case.spec, case.step(), &sizes, &mut operands);
            if let Some((residual, sum)) = &residual {
                sum.check(case.name, ERROR, |i| {
                    let (p, q) = (x.get(i), residual.get(i));
                    (p + q, p.abs() + q.abs())
                });
            }
            // The norm is that of the sums as they were kept.
            let normed = residual.as_ref().map_or(&x, |(_, sum)| sum);
            let n = out.shape[2];
            let mut factors = std::collections::BTreeMap::new();
            out.check(case.name, ERROR, |i| {
                let factor = *factors.entry([i[0], i[1]]).or_insert_with(|| {
                    let square = |j| normed.get(&[i[0], i[1], j]).powi(2);
                    let mean = (0..n).map(square).sum::<f64>() / n as f64;
                    (mean + eps.0).sqrt().recip()
                });
                let value = normed.get(i) * factor * weight.get(&[i[2]]);
                (value, value.abs())
            });
        }
    }
}

#[test]
fn reductions_and_softmax_are_those_of_the_row() {
    for case in cases::reductions() {
        let (KernelSpec::Reduce { x, out, .. } | KernelSpec::Softmax { x, out }) = &case.spec
        else {
            panic!()
        };
        for tokens in [case.tokens, 1, 6] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let mut x = Array::poisoned(x, &sizes);
            x.each(|array, index| {
                // Far enough from 0 for exponentials that overflow unless they are scaled.
                let far = 100.0 * (1.0 + random.number());
                let value = if random.below(5) == 0 { f64::NEG_INFINITY } else { far };
                let reduces = matches!(case.spec, KernelSpec::Reduce { .. });
                array.set(index, if reduces { random.number() } else { value });
            });
            let mut out = Array::poisoned(out, &sizes);
            run(case.name, &case.spec, case.step(), &sizes, &mut [&mut x, &mut out]);
            let n = x.shape[1];
            let rows: Vec<Vec<f64>> =
                (0..tokens).map(|r| (0..n).map(|i| x.get(&[r, i])).collect()).collect();
            let top = |row: &[f64]| row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sums: Vec<f64> =
                rows.iter().map(|row| row.iter().map(|x| (x - top(row)).exp()).sum()).collect();
            let tops: Vec<f64> = rows.iter().map(|row| top(row)).collect();
            let total = |row: &Vec<f64>| {
                (row.iter().sum::<f64>(), row.iter().map(|x| x.abs()).sum::<f64>())
            };
            let totals: Vec<(f64, f64)> = rows.iter().map(total).collect();
            out.check(case.name, ERROR, |i| {
                let r = i[0] as usize;
                let (total, magnitude) = totals[r];
                match &case.spec {
                    KernelSpec::Reduce { f: ReduceFn::Sum, .. } => (total, magnitude),
                    KernelSpec::Reduce { f: ReduceFn::Mean, .. } => {
                        (total / n as f64, magnitude / n as f64)
                    }
                    KernelSpec::Reduce { .. } => (tops[r], tops[r]),
                    _ => {
                        let share = (rows[r][i[1] as usize] - tops[r]).exp() / sums[r];
                        (share, share.abs() + 1e-38)
                    }
                }
            });
        }
    }
}
