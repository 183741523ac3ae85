//! Functions of elements, sums over experts, rotations, and rows moved by index.

use super::machine::{Array, Random, e4m3, e4m3_code, run};
use super::rows::ERROR;
use crate::cases;
use moec_ir::graph::{BinaryFn, UnaryFn};
use moec_ir::kernel::{KernelSpec, Scalar};
use moec_ir::{DType, ScaleFormat, Sizes};

fn sizes(tokens: u64) -> Sizes {
    Sizes { tokens, past: tokens, sequences: 1 }
}

fn unary(f: UnaryFn, x: f64) -> f64 {
    match f {
        UnaryFn::Identity => x,
        UnaryFn::Neg => -x,
        UnaryFn::Exp => x.exp(),
        UnaryFn::Log => x.ln(),
        UnaryFn::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        UnaryFn::Silu => x / (1.0 + (-x).exp()),
        UnaryFn::Tanh => x.tanh(),
        UnaryFn::Sqrt => x.sqrt(),
        UnaryFn::Rsqrt => x.sqrt().recip(),
        UnaryFn::Relu => x.max(0.0),
        UnaryFn::Sign if x == 0.0 => 0.0,
        UnaryFn::Sign => x.signum(),
        UnaryFn::Abs => x.abs(),
    }
}

fn binary(f: BinaryFn, x: f64, y: f64) -> f64 {
    match f {
        BinaryFn::Add => x + y,
        BinaryFn::Sub => x - y,
        BinaryFn::Mul => x * y,
        BinaryFn::Div => x / y,
        BinaryFn::Max => x.max(y),
        BinaryFn::Min => x.min(y),
    }
}

/// The function's value and the greatest magnitude on the way there.
pub(crate) fn evaluate(code: &[Scalar], inputs: &[f64]) -> (f64, f64) {
    let mut steps: Vec<f64> = Vec::new();
    for scalar in code {
        steps.push(match *scalar {
            Scalar::Input(i) => inputs[i],
            Scalar::Constant(c) => c.0,
            Scalar::Unary(f, x) => unary(f, steps[x]),
            Scalar::Binary(f, x, y) => binary(f, steps[x], steps[y]),
        });
    }
    let value = *steps.last().unwrap();
    let sums = code.iter().any(|s| matches!(s, Scalar::Binary(BinaryFn::Add | BinaryFn::Sub, ..)));
    let greatest = steps.iter().fold(0.0, |m: f64, s| m.max(s.abs()));
    (value, if sums { greatest } else { value.abs() })
}

#[test]
fn pointwise_is_the_function_of_each_element() {
    for case in cases::elements() {
        let KernelSpec::Pointwise { inputs, out, code } = &case.spec else { panic!() };
        for tokens in [case.tokens, 1, 9] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let whole = out.dtype == DType::I32;
            let mut arrays: Vec<Array> = inputs
                .iter()
                .map(|view| {
                    let mut array = Array::poisoned(view, &sizes);
                    array.each(|array, index| {
                        // Integers that float32 cannot hold, or numbers of all magnitudes.
                        let far = random.number() * f64::from(i32::MAX);
                        let near = random.number() * 2.0_f64.powi(random.below(8) as i32 - 2);
                        array.set(index, if whole { far.round() } else { near });
                    });
                    array
                })
                .collect();
            let mut out = Array::poisoned(out, &sizes);
            let mut operands: Vec<&mut Array> = arrays.iter_mut().collect();
            operands.push(&mut out);
            run(case.name, &case.spec, case.step(), &sizes, &mut operands);
            out.check(case.name, 2e-6, |index| {
                let element = |array: &Array| {
                    let index: Vec<u64> =
                        index.iter().zip(&array.shape).map(|(&i, &n)| i.min(n - 1)).collect();
                    array.get(&index)
                };
                evaluate(code, &arrays.iter().map(element).collect::<Vec<_>>())
            });
        }
    }
}

/// Each function alone, over its whole range: relative error.
#[test]
fn functions_keep_their_relative_accuracy() {
    let exponents: Vec<f64> = (-120..120).map(f64::from).collect();
    for f in [
        UnaryFn::Exp,
        UnaryFn::Log,
        UnaryFn::Sigmoid,
        UnaryFn::Silu,
        UnaryFn::Tanh,
        UnaryFn::Sqrt,
        UnaryFn::Rsqrt,
    ] {
        let spec = cases::function(f);
        let KernelSpec::Pointwise { inputs, out, .. } = &spec else { panic!() };
        let (sizes, mut random) = (sizes(64), Random(1));
        let mut x = Array::poisoned(&inputs[0], &sizes);
        let wide = matches!(f, UnaryFn::Log | UnaryFn::Sqrt | UnaryFn::Rsqrt);
        x.each(|array, index| {
            let exponent = exponents[random.below(exponents.len() as u64) as usize];
            let near = random.number() * 2.0_f64.powi(random.below(24) as i32 - 18);
            let one = 1.0 + random.number() * 1e-3;
            let value = match random.below(3) {
                0 if wide => random.number().abs() * exponent.exp2(),
                1 if wide => one,
                _ if wide => random.number().abs() * 100.0,
                0 => near.clamp(-80.0, 80.0),
                _ => random.number() * 80.0,
            };
            array.set(index, value);
        });
        let mut out = Array::poisoned(out, &sizes);
        let step = moec_codegen::Step { phase: moec_ir::Phase::Prefill, sizes };
        run(&format!("{f:?}"), &spec, step, &sizes, &mut [&mut x, &mut out]);
        out.check(&format!("{f:?}"), 1e-6, |index| {
            let value = unary(f, x.get(index));
            (value, value.abs())
        });
    }
}

/// What functions give at the ends of their ranges.
#[test]
fn functions_of_special_numbers_are_those_of_the_host() {
    let specials = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.0, -0.0, 1e-40, 3e38, -3e38];
    for f in [UnaryFn::Exp, UnaryFn::Log, UnaryFn::Sigmoid, UnaryFn::Tanh, UnaryFn::Relu] {
        let spec = cases::function(f);
        let KernelSpec::Pointwise { inputs, out, .. } = &spec else { panic!() };
        let sizes = sizes(1);
        let mut x = Array::poisoned(&inputs[0], &sizes);
        x.each(|array, index| array.set(index, specials[index[1] as usize % specials.len()]));
        let mut out = Array::poisoned(out, &sizes);
        let step = moec_codegen::Step { phase: moec_ir::Phase::Decode, sizes };
        run(&format!("{f:?}"), &spec, step, &sizes, &mut [&mut x, &mut out]);
        out.check(&format!("{f:?}"), 1e-6, |index| {
            let value = f64::from(unary(f, x.get(index)) as f32);
            (value, value.abs())
        });
    }
}

#[test]
fn combine_is_the_weighted_sum_over_experts() {
    for case in cases::experts() {
        let KernelSpec::Combine { y, weight, adds, out } = &case.spec else { continue };
        for tokens in [case.tokens, 1, 5] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let mut y = Array::random(y, &sizes, &mut random);
            let mut weight = Array::random(weight, &sizes, &mut random);
            let mut adds: Vec<Array> =
                adds.iter().map(|view| Array::random(view, &sizes, &mut random)).collect();
            let mut out = Array::poisoned(out, &sizes);
            let mut operands = vec![&mut y, &mut weight];
            operands.extend(&mut adds);
            operands.push(&mut out);
            run(case.name, &case.spec, case.step(), &sizes, &mut operands);
            out.check(case.name, 1e-6, |index| {
                let terms = (0..y.shape[1])
                    .map(|j| y.get(&[index[0], j, index[1]]) * weight.get(&[index[0], j]))
                    .chain(adds.iter().map(|add| add.get(index)));
                terms.fold((0.0, 0.0), |(sum, all), x| (sum + x, all + x.abs()))
            });
        }
    }
}

#[test]
fn pick_takes_the_chosen_elements() {
    for case in cases::experts() {
        let KernelSpec::Pick { x, chosen, out } = &case.spec else { continue };
        for tokens in [case.tokens, 1, 33] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let mut x = Array::random(x, &sizes, &mut random);
            let mut chosen = Array::poisoned(chosen, &sizes);
            chosen.each(|array, index| array.set(index, random.below(x.shape[1]) as f64));
            let mut out = Array::poisoned(out, &sizes);
            run(case.name, &case.spec, case.step(), &sizes, &mut [&mut x, &mut chosen, &mut out]);
            out.check(case.name, 0.0, |i| (x.get(&[i[0], chosen.get(i) as u64]), 0.0));
        }
    }
}

#[test]
fn rotary_turns_pairs_by_each_tokens_position() {
    for case in cases::rotations() {
        let KernelSpec::Rotary { x, out, interleaved } = &case.spec else { panic!() };
        let dim = x.shape[2].constant().unwrap();
        for tokens in [case.tokens, 1, 11] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let mut x = Array::random(x, &sizes, &mut random);
            let context = 50;
            let table_view = cases::dense(DType::F32, &[Some(context), Some(dim / 2), Some(2)]);
            let mut table = Array::random(&table_view, &sizes, &mut random);
            let positions: Vec<i32> = (0..tokens).map(|_| random.below(context) as i32).collect();
            let mut at = Array::integers(&positions);
            let mut out = Array::poisoned(out, &sizes);
            let mut operands = [&mut x, &mut table, &mut at, &mut out];
            run(case.name, &case.spec, case.step(), &sizes, &mut operands);
            out.check(case.name, 1e-6, |i| {
                let (pair, second, other) = match interleaved {
                    true => (i[2] / 2, i[2] % 2 == 1, i[2] ^ 1),
                    false => (i[2] % (dim / 2), i[2] >= dim / 2, (i[2] + dim / 2) % dim),
                };
                let position = positions[i[0] as usize] as u64;
                let turn = |part| table.get(&[position, pair, part]);
                let sign = if second { 1.0 } else { -1.0 };
                let own = x.get(i) * turn(0);
                let mixed = sign * x.get(&[i[0], i[1], other]) * turn(1);
                (own + mixed, own.abs() + mixed.abs())
            });
        }
    }
}

#[test]
fn append_latent_writes_norms_and_rotated_keys_to_their_slots() {
    for case in cases::appended_latents() {
        let KernelSpec::AppendLatent {
            latent, weight, key, cache, eps, interleaved, rounded, ..
        } = &case.spec
        else {
            panic!()
        };
        let [n, dim] = [latent, key].map(|view| view.shape[1].constant().unwrap());
        for tokens in [case.tokens, 1, 6, 19] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let [mut x, mut w, mut k] =
                [latent, weight, key].map(|view| Array::random(view, &sizes, &mut random));
            let context = 50;
            let table = cases::dense(DType::F32, &[Some(context), Some(dim / 2), Some(2)]);
            let mut table = Array::random(&table, &sizes, &mut random);
            let positions: Vec<i32> = (0..tokens).map(|_| random.below(context) as i32).collect();
            // Distinct rows of the cache; the last of several tokens is not remembered.
            let rows = 47;
            let mut slots: Vec<i32> = (0..tokens as i32).map(|i| (7 * i + 3) % rows).collect();
            if tokens > 1 {
                slots[tokens as usize - 1] = -1;
            }
            let mut rows_of_cache = Array::with_rows(cache, rows as u64);
            let mut at = [Array::integers(&positions), Array::integers(&slots)];
            let [positions_at, slots_at] = &mut at;
            let mut operands =
                [&mut x, &mut w, &mut k, &mut table, positions_at, slots_at, &mut rows_of_cache];
            run(case.name, &case.spec, case.step(), &sizes, &mut operands);
            let factor = |t: u64| {
                let squares: f64 = (0..n).map(|i| x.get(&[t, i]).powi(2)).sum();
                (squares / n as f64 + eps.0).sqrt().recip()
            };
            let factors: Vec<f64> = (0..tokens).map(factor).collect();
            let stored = rows_of_cache.clone();
            rows_of_cache.check(case.name, ERROR, |i| {
                let Some(t) = slots.iter().position(|&slot| slot as u64 == i[0]) else {
                    // As it was.
                    return (f64::NAN, 0.0);
                };
                let row = t as u64;
                let normed = |i: u64| x.get(&[row, i]) * factors[t] * w.get(&[i]);
                if i[1] < n {
                    let value = normed(i[1]);
                    let Some((block, format)) = rounded else { return (value, value.abs()) };
                    let first = i[1] / block * block;
                    let all = (first..(first + block).min(n)).map(|i| normed(i).abs());
                    let scale = all.fold(0.0, f64::max) / 448.0;
                    let scale = match format {
                        ScaleFormat::F32 => scale,
                        ScaleFormat::Ue8m0 => scale.log2().ceil().exp2(),
                    };
                    // What is there is a number of e4m3 times the scale, and next to the value.
                    let got = stored.get(i);
                    let near = e4m3(e4m3_code(got / scale)) * scale;
                    let unit = (value / scale).abs().log2().floor().max(-6.0).exp2() / 8.0;
                    let close = (got - value).abs() <= scale * unit * 0.51 + value.abs() / 250.0;
                    assert!(close, "{}: {i:?} is {got}, not {value}", case.name);
                    return (near, value.abs());
                }
                let at = i[1] - n;
                let (pair, second, other) = match interleaved {
                    true => (at / 2, at % 2 == 1, at ^ 1),
                    false => (at % (dim / 2), at >= dim / 2, (at + dim / 2) % dim),
                };
                let turn = |part| table.get(&[positions[t] as u64, pair, part]);
                let sign = if second { 1.0 } else { -1.0 };
                let own = k.get(&[row, at]) * turn(0);
                let mixed = sign * k.get(&[row, other]) * turn(1);
                (own + mixed, own.abs() + mixed.abs())
            });
        }
    }
}

#[test]
fn gather_and_scatter_move_rows_by_index() {
    for case in cases::movements() {
        let (table_view, dense_view, gathers) = match &case.spec {
            KernelSpec::Gather { table, out } => (table, out, true),
            KernelSpec::Scatter { x, table } => (table, x, false),
            _ => panic!("{}", case.name),
        };
        for tokens in [case.tokens, 1, 12] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let rows = table_view.shape[0].constant().unwrap();
            // Distinct; one of them outside the table.
            let first = random.below(rows);
            let step = (0..tokens).map(|i| (first + i) % rows.max(tokens));
            let mut index: Vec<i32> = step.map(|i| i as i32).collect();
            index[0] = -3;
            let mut at = Array::integers(&index);
            let mut random_or_not = |view, filled: bool| {
                let mut array = Array::poisoned(view, &sizes);
                if filled {
                    array.each(|a, i| a.set(i, (random.number() * 1e9).round()));
                }
                array
            };
            let mut table = random_or_not(table_view, gathers);
            let mut dense = random_or_not(dense_view, !gathers);
            let before = table.clone();
            let mut operands = match gathers {
                true => [&mut table, &mut at, &mut dense],
                false => [&mut dense, &mut at, &mut table],
            };
            run(case.name, &case.spec, case.step(), &sizes, &mut operands);
            if gathers {
                dense.check(case.name, 0.0, |i| {
                    let row = u64::try_from(index[i[0] as usize]).unwrap_or(0);
                    (table.get(&[if row < rows { row } else { 0 }, i[1]]), 0.0)
                });
            } else {
                table.check(case.name, 0.0, |i| {
                    let from = index.iter().position(|&at| at == i[0] as i32);
                    (from.map_or(before.get(i), |r| dense.get(&[r as u64, i[1]])), 0.0)
                });
            }
        }
    }
}
