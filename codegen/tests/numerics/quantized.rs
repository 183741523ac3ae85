//! Kernels whose results are FP8 with scales: as near to float64 as float32 arithmetic and the
//! rounding to e4m3 allow.

use super::elements::evaluate;
use super::machine::{Array, Random, run};
use super::products::sizes;
use super::rows::ERROR;
use crate::cases;
use moec_ir::ScaleFormat;
use moec_ir::kernel::KernelSpec;

/// Half the distance between e4m3 numbers around one.
fn half_step(x: f64) -> f64 {
    (x.abs().log2().floor().max(-6.0) - 4.0).exp2()
}

/// Checks scales and numbers; `expected` gives a number and what its error is relative to.
fn check(
    name: &str,
    [q, scale]: [&Array; 2],
    block: u64,
    format: ScaleFormat,
    mut expected: impl FnMut(&[u64]) -> (f64, f64),
) {
    let columns = *q.shape.last().unwrap();
    // Gaps between elements are as they were.
    q.check(name, 0.0, |i| (q.get(i), 0.0));
    scale.check(name, 0.0, |i| (scale.get(i), 0.0));
    scale.clone().each(|_, i| {
        let (j, row) = i.split_last().unwrap();
        let of_block = j * block..((j + 1) * block).min(columns);
        let at = |k: u64| [row, &[k]].concat();
        let values: Vec<(f64, f64)> = of_block.clone().map(|k| expected(&at(k))).collect();
        let greatest = values.iter().fold(0.0, |most: f64, (v, _)| most.max(v.abs()));
        let slack = values.iter().fold(0.0, |most: f64, (_, m)| most.max(*m)) * ERROR;
        let got = scale.get(i);
        let [low, high] = [greatest - slack, greatest + slack].map(|v| v / 448.0);
        match format {
            ScaleFormat::F32 => assert!(low <= got && got <= high, "{name}: {i:?} is {got}"),
            ScaleFormat::Ue8m0 => {
                assert_eq!(got.log2().fract(), 0.0, "{name}: {i:?} is {got}");
                assert!(low <= got && got < 2.0 * high, "{name}: {i:?} is {got}, not {low}");
            }
        }
        for (k, (value, magnitude)) in of_block.zip(values) {
            let (number, want) = (q.get(&at(k)), value / got);
            let bound = half_step(want) * (1.0 + ERROR) + ERROR * magnitude / got;
            let near = (number - want).abs() <= bound;
            assert!(near, "{name}: {:?} is {number}, not {want} (within {bound})", at(k));
        }
    });
}

#[test]
fn rms_norm_quantize_is_the_norm_in_fp8() {
    for case in cases::norm_quantizations() {
        let KernelSpec::RmsNormQuantize { x, residual, weight, out, q, scale, eps, block, format } =
            &case.spec
        else {
            panic!()
        };
        for tokens in [case.tokens, 1, 7] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let mut x = Array::random(x, &sizes, &mut random);
            let mut residual = residual.as_ref().map(|(residual, sum)| {
                (Array::random(residual, &sizes, &mut random), Array::poisoned(sum, &sizes))
            });
            let mut weight = Array::random(weight, &sizes, &mut random);
            let mut out = out.as_ref().map(|out| Array::poisoned(out, &sizes));
            let (mut q, mut scale) = (Array::poisoned(q, &sizes), Array::poisoned(scale, &sizes));
            let mut operands = vec![&mut x];
            if let Some((residual, sum)) = &mut residual {
                operands.extend([residual, sum]);
            }
            operands.push(&mut weight);
            operands.extend(out.as_mut());
            operands.extend([&mut q, &mut scale]);
            let report = run(case.name, &case.spec, case.step(), &sizes, &mut operands);
            let numbers: u64 = q.shape.iter().product();
            let cost = report.warp_instructions as f64 * 32.0 / numbers as f64;
            eprintln!("{}, {tokens} tokens: {cost:.2} instructions per number", case.name);
            if let Some((residual, sum)) = &residual {
                sum.check(case.name, ERROR, |i| {
                    let (p, q) = (x.get(i), residual.get(i));
                    (p + q, p.abs() + q.abs())
                });
            }
            // The norm is that of the sums as they were kept.
            let normed = residual.as_ref().map_or(&x, |(_, sum)| sum);
            let n = q.shape[2];
            let mut factors = std::collections::BTreeMap::new();
            let mut value = |i: &[u64]| {
                let factor = *factors.entry([i[0], i[1]]).or_insert_with(|| {
                    let square = |j| normed.get(&[i[0], i[1], j]).powi(2);
                    let mean = (0..n).map(square).sum::<f64>() / n as f64;
                    (mean + eps.0).sqrt().recip()
                });
                let value = normed.get(i) * factor * weight.get(&[i[2]]);
                (value, value.abs())
            };
            if let Some(out) = &out {
                out.check(case.name, ERROR, &mut value);
            }
            check(case.name, [&q, &scale], *block, *format, value);
        }
    }
}

#[test]
fn pointwise_quantize_is_the_function_in_fp8() {
    for case in cases::pointwise_quantizations() {
        let KernelSpec::PointwiseQuantize { inputs, out, q, scale, code, block, format } =
            &case.spec
        else {
            panic!()
        };
        for tokens in [case.tokens, 1, 9] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let mut inputs: Vec<Array> =
                inputs.iter().map(|view| Array::random(view, &sizes, &mut random)).collect();
            let mut out = out.as_ref().map(|out| Array::poisoned(out, &sizes));
            let (mut q, mut scale) = (Array::poisoned(q, &sizes), Array::poisoned(scale, &sizes));
            let mut operands: Vec<&mut Array> = inputs.iter_mut().collect();
            operands.extend(out.as_mut());
            operands.extend([&mut q, &mut scale]);
            let report = run(case.name, &case.spec, case.step(), &sizes, &mut operands);
            let numbers: u64 = q.shape.iter().product();
            let cost = report.warp_instructions as f64 * 32.0 / numbers as f64;
            eprintln!("{}, {tokens} tokens: {cost:.2} instructions per number", case.name);
            let mut value =
                |i: &[u64]| evaluate(code, &inputs.iter().map(|x| x.get(i)).collect::<Vec<_>>());
            if let Some(out) = &out {
                out.check(case.name, ERROR, &mut value);
            }
            check(case.name, [&q, &scale], *block, *format, value);
        }
    }
}
