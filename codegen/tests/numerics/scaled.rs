//! FP8: quantisation bit for bit, products against float64 loops over the same numbers.

use super::machine::{Array, POISON, Random, e4m3_code, run, run_on};
use super::products::{LARGEST, route, sizes, tokens_of, volume};
use crate::cases::{self, Case};
use moec_ir::kernel::KernelSpec;
use moec_ir::{ScaleFormat, Target};

/// Numbers of many magnitudes, whole blocks of zeros and of numbers too small for a scale.
fn activations(array: &mut Array, block: u64, random: &mut Random) {
    array.each(|array, index| {
        let &[r, k] = index else { panic!("rank") };
        let near = random.number() * 2.0_f64.powi(random.below(12) as i32 - 6);
        let value = match (r + k / block) % 7 {
            3 => 0.0,
            4 => near * 1e-4,
            5 if r % 2 == 0 => near * 1e-44,
            _ => near,
        };
        array.set(index, value);
    });
}

/// The scale of a block, in float32 as the specification says.
fn scale_of(values: &[f32], format: ScaleFormat) -> f32 {
    let exact = values.iter().fold(0.0, |most: f32, v| most.max(v.abs())) / 448.0;
    match format {
        _ if exact == 0.0 => 1.0,
        ScaleFormat::F32 => exact,
        ScaleFormat::Ue8m0 => {
            let below = f64::from(exact).log2().floor().exp2();
            let power = if below < f64::from(exact) { 2.0 * below } else { below };
            (power as f32).max(f32::MIN_POSITIVE)
        }
    }
}

#[test]
fn quantize_is_exact_to_the_bit() {
    for case in cases::quantizations() {
        let KernelSpec::Quantize { x, q, scale, block, format } = &case.spec else { panic!() };
        for tokens in [case.tokens, 1, 13] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let mut x = Array::poisoned(x, &sizes);
            activations(&mut x, *block, &mut random);
            let mut q = Array::poisoned(q, &sizes);
            let mut scale = Array::poisoned(scale, &sizes);
            let operands = &mut [&mut x, &mut q, &mut scale];
            let report = run(case.name, &case.spec, case.step(), &sizes, operands);
            let columns = x.shape[1];
            let cost = report.warp_instructions as f64 * 32.0 / (tokens * columns) as f64;
            eprintln!("{}, {tokens} tokens: {cost:.2} instructions per number", case.name);
            let mut scales = vec![];
            scale.check(case.name, 0.0, |i| {
                let of_block = i[1] * block..((i[1] + 1) * block).min(columns);
                let values: Vec<f32> = of_block.map(|k| x.get(&[i[0], k]) as f32).collect();
                scales.push(scale_of(&values, *format));
                // Exactly: float32 has no half unit to spare in the quotient that follows.
                assert_eq!(scale.get(i) as f32, *scales.last().unwrap(), "{}: {i:?}", case.name);
                (f64::from(*scales.last().unwrap()), 0.0)
            });
            q.check(case.name, 0.0, |i| (q.get(i), 0.0));
            let blocks = columns.div_ceil(*block);
            q.clone().each(|_, i| {
                let scale = scales[(i[0] * blocks + i[1] / block) as usize];
                let want = e4m3_code(f64::from(x.get(i) as f32 / scale));
                assert_eq!(q.code(i), want, "{}: {i:?}, {} / {scale}", case.name, x.get(i));
            });
        }
    }
}

#[test]
fn quantize_transposed_is_exact_to_the_bit() {
    for case in cases::transposed_quantizations() {
        let KernelSpec::QuantizeTransposed { x, q, scale, block, format } = &case.spec else {
            panic!()
        };
        for tokens in [case.tokens, 1, 33, 300] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let mut x = Array::poisoned(x, &sizes);
            activations(&mut x, 3, &mut random);
            // A NaN does not count for its block.
            x.set(&[tokens / 2, 3], f64::NAN);
            let mut q = Array::poisoned(q, &sizes);
            let mut scale = scale.clone();
            scale.shape[1] = tokens.div_ceil(*block).into();
            let mut scale = Array::poisoned(&scale, &sizes);
            let operands = &mut [&mut x, &mut q, &mut scale];
            let report = run(case.name, &case.spec, case.step(), &sizes, operands);
            let columns = x.shape[1];
            let cost = report.warp_instructions as f64 * 32.0 / (tokens * columns) as f64;
            eprintln!("{}, {tokens} tokens: {cost:.2} instructions per number", case.name);
            scale.check(case.name, 0.0, |i| {
                let of_block = i[1] * block..((i[1] + 1) * block).min(tokens);
                let values = of_block.map(|t| x.get(&[t, i[0]]) as f32).filter(|x| !x.is_nan());
                let want = scale_of(&values.collect::<Vec<_>>(), *format);
                assert_eq!(scale.get(i) as f32, want, "{}: {i:?}", case.name);
                (f64::from(want), 0.0)
            });
            q.check(case.name, 0.0, |i| (q.get(i), 0.0));
            q.clone().each(|_, i| {
                let number = x.get(&[i[1], i[0]]);
                let of_block = scale.get(&[i[0], i[1] / block]) as f32;
                let want = e4m3_code(f64::from(number as f32 / of_block));
                assert_eq!(q.code(i), want, "{}: {i:?}, {number} / {of_block}", case.name);
            });
        }
    }
}

#[test]
fn quantize_passes_nan_on_without_harm_to_its_block() {
    let cases = cases::quantizations();
    let case = cases.iter().find(|c| c.name == "quantize short end").unwrap();
    let KernelSpec::Quantize { x, q, scale, .. } = &case.spec else { panic!() };
    let (sizes, mut random) = (sizes(3), Random(1));
    let mut x = Array::random(x, &sizes, &mut random);
    x.set(&[0, 0], 4.0);
    x.set(&[0, 3], f64::NAN);
    (128..200).for_each(|k| x.set(&[1, k], f64::NAN));
    x.set(&[2, 5], f64::INFINITY);
    let (mut q, mut scale) = (Array::poisoned(q, &sizes), Array::poisoned(scale, &sizes));
    run(case.name, &case.spec, case.step(), &sizes, &mut [&mut x, &mut q, &mut scale]);
    assert_eq!(scale.get(&[0, 0]) as f32, 4.0 / 448.0);
    assert_eq!((q.code(&[0, 0]), q.code(&[0, 3])), (0x7e, 0x7f));
    assert_eq!((scale.get(&[1, 1]), q.code(&[1, 130])), (1.0, 0x7f));
    assert_eq!((scale.get(&[2, 0]), q.get(&[2, 4])), (f64::INFINITY, 0.0));
    assert!(q.get(&[2, 5]).is_nan());
    assert_ne!(q.code(&[2, 130]), POISON);
}

/// An FP8 matrix of many magnitudes.
fn numbers(array: &mut Array, random: &mut Random) {
    array.each(|array, index| {
        array.set(index, random.number() * 2.0_f64.powi(random.below(11) as i32 - 2));
    });
}

/// Scales of many magnitudes.
fn scales(array: &mut Array, random: &mut Random) {
    array.each(|array, index| {
        let power = 2.0_f64.powi(random.below(9) as i32 - 7);
        array.set(index, (1.5 + random.number() / 2.0) * power);
    });
}

/// A matrix and the scales of its blocks.
#[derive(Clone)]
pub(crate) struct Scaled {
    pub(crate) data: Array,
    pub(crate) scale: Array,
    block: [u64; 2],
}

impl Scaled {
    pub(crate) fn new(
        mut data: Array,
        mut scale: Array,
        block: [u64; 2],
        random: &mut Random,
    ) -> Self {
        numbers(&mut data, random);
        scales(&mut scale, random);
        Self { data, scale, block }
    }

    /// The numbers of a row, and the scales of its blocks.
    pub(crate) fn parts(&self, i: u64, row: u64) -> (Vec<f64>, Vec<f64>) {
        let numbers = (0..self.data.shape[2]).map(|k| self.data.get(&[i, row, k]));
        let scales = (0..self.scale.shape[2]).map(|j| self.scale.get(&[i, row / self.block[0], j]));
        (numbers.collect(), scales.collect())
    }

    /// A row in float64.
    fn row(&self, i: u64, row: u64) -> Vec<f64> {
        let [rows, columns] = self.block;
        let scale = |k| self.scale.get(&[i, row / rows, k / columns]);
        (0..self.data.shape[2]).map(|k| self.data.get(&[i, row, k]) * scale(k)).collect()
    }

    /// All rows in float64, by matrix and row.
    pub(crate) fn rows(&self) -> Vec<Vec<Vec<f64>>> {
        let of = |i| (0..self.data.shape[1]).map(|row| self.row(i, row)).collect();
        (0..self.data.shape[0]).map(of).collect()
    }
}

/// Error of a float32 sum of `k` products, relative to the sum of their magnitudes: that of the
/// sum, as for plain numbers, and of three more roundings per product.
pub(crate) fn error(k: u64) -> f64 {
    (8.0 + (k as f64).sqrt()) / f64::from(1 << 24)
}

/// What the tensor cores of Hopper may lose of an inner product of two rows, of which `scale`
/// gives the factor of each block of 128: they add 32 products and the sum so far, each cut off
/// at 13 bits below the highest bit of the largest of them, and cut the result off likewise
/// (arXiv 2505.09343, section 3.1.1).
pub(crate) fn lost(a: &[f64], w: &[f64], scale: impl Fn(usize) -> f64) -> f64 {
    let unit = |largest: f64| if largest == 0.0 { 0.0 } else { largest.log2().floor().exp2() };
    let mut all = 0.0;
    for (block, (a, w)) in a.chunks(128).zip(w.chunks(128)).enumerate() {
        let (mut sum, mut lost) = (0.0_f64, 0.0);
        for (a, w) in a.chunks(32).zip(w.chunks(32)) {
            let products = || a.iter().zip(w).map(|(x, y)| x * y);
            let largest = products().fold(sum.abs() + lost, |most, p| most.max(p.abs()));
            sum += products().sum::<f64>();
            lost += (33.0 * unit(largest) + unit(sum.abs() + 33.0 * largest)) / 8192.0;
        }
        all += lost * scale(block).abs();
    }
    all
}

pub(crate) fn inner(a: &[f64], w: &[f64]) -> (f64, f64) {
    a.iter()
        .zip(w)
        .fold((0.0, 0.0), |(sum, magnitude), (x, y)| (sum + x * y, magnitude + (x * y).abs()))
}

/// Cases for the H800, and those for a GPU with one multiprocessor: few tiles, which are large.
pub(crate) fn with_targets(
    cases: Vec<Case>,
    wide: Vec<Case>,
) -> impl Iterator<Item = (Case, Target)> {
    let h800 = Target::named("h800").unwrap();
    let small = Target { sms: 1, ..h800.clone() };
    let cases = cases.into_iter().map(move |case| (case, h800.clone()));
    cases.chain(wide.into_iter().map(move |case| (case, small.clone())))
}

#[test]
fn scaled_gemm_multiplies_numbers_and_scales() {
    for (case, target) in with_targets(cases::scaled_gemms(), cases::wide_gemms()) {
        let KernelSpec::ScaledGemm { a, a_scale, w, w_scale, add, c, block, .. } = &case.spec
        else {
            panic!()
        };
        for tokens in tokens_of(&case) {
            let k = w.shape[2].constant().unwrap();
            let work = volume(c, tokens) * k;
            if work > LARGEST {
                continue;
            }
            let (sizes, random) = (sizes(tokens), &mut Random(tokens));
            let memory = |view| Array::poisoned(view, &sizes);
            let a_scale = memory(a_scale.as_ref().unwrap());
            let mut a = Scaled::new(memory(a), a_scale, [1, block[1]], random);
            let mut w = Scaled::new(memory(w), memory(w_scale), *block, random);
            let mut add = add.as_ref().map(|add| Array::random(add, &sizes, random));
            let mut c = memory(c);
            let mut operands = vec![&mut a.data, &mut a.scale, &mut w.data, &mut w.scale];
            operands.extend(add.as_mut());
            operands.push(&mut c);
            let report = run_on(&target, case.name, &case.spec, case.step(), &sizes, &mut operands);
            let cost = report.warp_instructions as f64 * 32.0 / work as f64;
            eprintln!("{}, {tokens} tokens: {cost:.2} instructions per multiply-add", case.name);
            let (a_rows, w_rows) = (a.rows(), w.rows());
            c.check(case.name, error(k), |index| {
                let [b, m, n] = [0, 1, 2].map(|axis| index[axis] as usize);
                let (sum, magnitude) = inner(&a_rows[b][m], &w_rows[b][n]);
                let added = add.as_ref().map_or(0.0, |add| add.get(index));
                let lost = match report.tensor_cores {
                    true => {
                        let (a, a_scales) = a.parts(index[0], index[1]);
                        let (w, w_scales) = w.parts(index[0], index[2]);
                        lost(&a, &w, |j| a_scales[j] * w_scales[j])
                    }
                    false => 0.0,
                };
                (sum + added, magnitude + added.abs() + lost / error(k))
            });
        }
    }
}

#[test]
fn scaled_grouped_gemm_multiplies_each_row_with_its_experts_matrix() {
    for (case, target) in with_targets(cases::scaled_experts(), cases::wide_experts()) {
        let KernelSpec::ScaledGroupedGemm { a, a_scale, w, w_scale, c, top_k, block, .. } =
            &case.spec
        else {
            panic!()
        };
        if volume(w, 1) > LARGEST {
            continue;
        }
        let (experts, k) = (w.shape[0].constant().unwrap(), w.shape[2].constant().unwrap());
        for tokens in tokens_of(&case) {
            let work = volume(c, tokens) * k;
            if work > LARGEST {
                continue;
            }
            for used in [experts, experts.div_ceil(2), 1] {
                let (sizes, random) = (sizes(tokens), &mut Random(tokens + used));
                let memory = |view| Array::poisoned(view, &sizes);
                let a_scale = memory(a_scale.as_ref().unwrap());
                let mut a = Scaled::new(memory(a), a_scale, [1, block[1]], random);
                let mut w = Scaled::new(memory(w), memory(w_scale), *block, random);
                let (chosen, mut plan) = route(tokens * top_k, experts, used, random);
                let mut c = memory(c);
                let mut operands =
                    [&mut a.data, &mut a.scale, &mut w.data, &mut w.scale, &mut plan, &mut c];
                let step = case.step();
                let report = run_on(&target, case.name, &case.spec, step, &sizes, &mut operands);
                assert!(report.tensor_cores || !case.name.contains("hopper"), "{}", case.name);
                let cost = report.warp_instructions as f64 * 32.0 / work as f64;
                eprintln!(
                    "{}, {tokens} tokens: {cost:.2} instructions per multiply-add",
                    case.name
                );
                let (a_rows, w_rows) = (a.rows(), w.rows());
                c.check(case.name, error(k), |index| {
                    let [t, j, n] = [0, 1, 2].map(|axis| index[axis] as usize);
                    let expert = chosen[t * *top_k as usize + j];
                    let j = j.min(a_rows[t].len() - 1);
                    let (sum, magnitude) = inner(&a_rows[t][j], &w_rows[expert as usize][n]);
                    let lost = match report.tensor_cores {
                        true => {
                            let (a, a_scales) = a.parts(t as u64, j as u64);
                            let (w, w_scales) = w.parts(expert, n as u64);
                            lost(&a, &w, |j| a_scales[j] * w_scales[j])
                        }
                        false => 0.0,
                    };
                    (sum, magnitude + lost / error(k))
                });
            }
        }
    }
}
