//! Products whose sums are as exact as in float32 although tensor cores add them up.

use super::machine::{Array, Ran, Random, run_on};
use super::products::{LARGEST, route, sizes, tokens_of, volume};
use super::scaled::{Scaled, error, inner, with_targets};
use crate::cases;
use moec_ir::DType;
use moec_ir::kernel::{KernelSpec, View};
use moec_ir::{Sizes, Target};

/// The left factor: FP8 with scales, or float32.
#[derive(Clone)]
enum Left {
    Scaled(Scaled),
    Plain(Array),
}

impl Left {
    fn new(a: &View, a_scale: Option<&View>, sizes: &Sizes, random: &mut Random) -> Self {
        let memory = |view| Array::poisoned(view, sizes);
        match a_scale {
            Some(scale) => Self::Scaled(Scaled::new(memory(a), memory(scale), [1, 128], random)),
            None => {
                let mut a = memory(a);
                a.each(|array, index| {
                    let power = 2.0_f64.powi(random.below(40) as i32 - 20);
                    array.set(index, random.number() * power);
                });
                Self::Plain(a)
            }
        }
    }

    fn operands(&mut self) -> Vec<&mut Array> {
        match self {
            Self::Scaled(a) => vec![&mut a.data, &mut a.scale],
            Self::Plain(a) => vec![a],
        }
    }

    /// The numbers of a row as they are multiplied, and the scales of its blocks.
    fn parts(&self, i: u64, row: u64) -> (Vec<f64>, Vec<f64>) {
        match self {
            Self::Scaled(a) => a.parts(i, row),
            Self::Plain(a) => {
                let numbers: Vec<f64> = (0..a.shape[2]).map(|k| a.get(&[i, row, k])).collect();
                let blocks = numbers.len().div_ceil(128);
                (numbers, vec![1.0; blocks])
            }
        }
    }

    /// Rows in the middle axis.
    fn per_token(&self) -> u64 {
        match self {
            Self::Scaled(a) => a.data.shape[1],
            Self::Plain(a) => a.shape[1],
        }
    }
}

/// The product of two rows, and how much of it may be lost beside the rounding of float32 sums of
/// blocks: Hopper adds 16 products of 16-bit numbers and the sum so far, each cut off 25 bits below
/// the highest bit of the largest of them, and the result to a float32 (arXiv 2505.09343, section
/// 3.1.1; the emulator's model). A float32 is multiplied as `terms` numbers, one after the other.
fn product(a: (&[f64], &[f64]), w: (&[f64], &[f64]), terms: u32) -> (f64, f64, f64) {
    let unit = |largest: f64| if largest == 0.0 { 0.0 } else { largest.log2().floor().exp2() };
    let (mut total, mut magnitude, mut all) = (0.0, 0.0, 0.0);
    for (block, (xs, ys)) in a.0.chunks(128).zip(w.0.chunks(128)).enumerate() {
        let scale = a.1[block] * w.1[block];
        let (mut sum, mut lost) = (0.0_f64, 0.0);
        for (xs, ys) in xs.chunks(16).zip(ys.chunks(16)) {
            let (part, most) = inner(xs, ys);
            let largest = most.max(sum.abs() + lost);
            sum += part;
            let step = 17.0 * unit(largest) / f64::from(1 << 25)
                + unit(sum.abs() + largest) / f64::from(1 << 23);
            lost += f64::from(terms) * step;
            magnitude += most * scale.abs();
        }
        total += sum * scale;
        all += lost * scale.abs();
    }
    (total, magnitude, all)
}

fn assert_on_tensor_cores(name: &str, ran: &Ran, left: &Left) {
    let terms = match left {
        Left::Scaled(_) => ".f32.f16.f16",
        Left::Plain(_) => ".f32.bf16.bf16",
    };
    for part in [terms, "cp.async.bulk.tensor."] {
        assert!(ran.code.ptx.contains(part), "{name}: {part}");
    }
    assert!(!ran.code.ptx.contains(".f32.e4m3.e4m3"), "{name}: sums of 13 bits");
}

#[test]
fn fp8_weights_are_multiplied_as_exactly_as_float32() {
    for (case, target) in with_targets(cases::widened_gemms(), cases::wide_widened_gemms()) {
        let KernelSpec::ScaledGemm { a, a_scale, w, w_scale, add, c, .. } = &case.spec else {
            panic!()
        };
        let terms = if a.dtype == DType::F32 { 3 } else { 1 };
        for tokens in tokens_of(&case) {
            let k = w.shape[2].constant().unwrap();
            if volume(c, tokens) * k > LARGEST {
                continue;
            }
            let (sizes, random) = (sizes(tokens), &mut Random(tokens));
            let memory = |view| Array::poisoned(view, &sizes);
            let mut left = Left::new(a, a_scale.as_ref(), &sizes, random);
            let mut w = Scaled::new(memory(w), memory(w_scale), [128, 128], random);
            let mut add = add.as_ref().map(|add| Array::random(add, &sizes, random));
            let mut c = memory(c);
            let mut operands = left.operands();
            operands.extend([&mut w.data, &mut w.scale]);
            operands.extend(add.as_mut());
            operands.push(&mut c);
            let ran = run_on(&target, case.name, &case.spec, case.step(), &sizes, &mut operands);
            assert_on_tensor_cores(case.name, &ran, &left);
            c.check(case.name, error(k), |index| {
                let (a, a_scales) = left.parts(index[0], index[1]);
                let (w, w_scales) = w.parts(index[0], index[2]);
                let (sum, magnitude, lost) = product((&a, &a_scales), (&w, &w_scales), terms);
                let added = add.as_ref().map_or(0.0, |add| add.get(index));
                (sum + added, magnitude + added.abs() + lost / error(k))
            });
        }
    }
}

#[test]
fn fp8_weights_of_experts_are_multiplied_as_exactly_as_float32() {
    let target = Target::named("h800").unwrap();
    for case in cases::widened_experts() {
        let KernelSpec::ScaledGroupedGemm { a, a_scale, w, w_scale, c, top_k, .. } = &case.spec
        else {
            panic!()
        };
        if volume(w, 1) > LARGEST {
            continue;
        }
        let terms = if a.dtype == DType::F32 { 3 } else { 1 };
        let (experts, k) = (w.shape[0].constant().unwrap(), w.shape[2].constant().unwrap());
        for tokens in tokens_of(&case) {
            if volume(c, tokens) * k > LARGEST {
                continue;
            }
            // Experts that nobody chose are among them.
            for used in [experts, 1] {
                let (sizes, random) = (sizes(tokens), &mut Random(tokens + used));
                let memory = |view| Array::poisoned(view, &sizes);
                let mut left = Left::new(a, a_scale.as_ref(), &sizes, random);
                let mut w = Scaled::new(memory(w), memory(w_scale), [128, 128], random);
                let (chosen, mut plan) = route(tokens * top_k, experts, used, random);
                let mut c = memory(c);
                let mut operands = left.operands();
                operands.extend([&mut w.data, &mut w.scale, &mut plan, &mut c]);
                let step = case.step();
                let ran = run_on(&target, case.name, &case.spec, step, &sizes, &mut operands);
                assert_on_tensor_cores(case.name, &ran, &left);
                assert!(ran.code.ptx.contains("cp.async.cg."), "{}: rows anywhere", case.name);
                let last = left.per_token() - 1;
                c.check(case.name, error(k), |index| {
                    let expert = chosen[(index[0] * top_k + index[1]) as usize];
                    let (a, a_scales) = left.parts(index[0], index[1].min(last));
                    let (w, w_scales) = w.parts(expert, index[2]);
                    let (sum, magnitude, lost) = product((&a, &a_scales), (&w, &w_scales), terms);
                    (sum, magnitude + lost / error(k))
                });
            }
        }
    }
}

/// Of a product of two float32, split in three each, six products of their parts are added up.
#[test]
fn float32_is_multiplied_on_tensor_cores() {
    let target = Target::named("h800").unwrap();
    for case in cases::widened_f32s() {
        let KernelSpec::Gemm { a, w, add, c } = &case.spec else { panic!() };
        let k = w.shape[2].constant().unwrap();
        for tokens in tokens_of(&case) {
            if volume(c, tokens) * k > LARGEST {
                continue;
            }
            let (sizes, random) = (sizes(tokens), &mut Random(tokens));
            let mut a = Left::new(a, None, &sizes, random);
            let mut w = Left::new(w, None, &sizes, random);
            let mut add = add.as_ref().map(|add| Array::random(add, &sizes, random));
            let mut c = Array::poisoned(c, &sizes);
            let mut operands = a.operands();
            operands.extend(w.operands());
            operands.extend(add.as_mut());
            operands.push(&mut c);
            let ran = run_on(&target, case.name, &case.spec, case.step(), &sizes, &mut operands);
            assert_on_tensor_cores(case.name, &ran, &a);
            c.check(case.name, error(k), |index| {
                let (a, ones) = a.parts(index[0], index[1]);
                let (w, _) = w.parts(index[0], index[2]);
                let (sum, magnitude, lost) = product((&a, &ones), (&w, &ones), 6);
                let added = add.as_ref().map_or(0.0, |add| add.get(index));
                (sum + added, magnitude + added.abs() + lost / error(k))
            });
        }
    }
}
