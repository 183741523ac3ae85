//! Packed caches of latents: what is written, what is read back, attention to them.

use super::attention::{Batch, DECODE, PREFILL, check_scaled, check_within};
use super::machine::{Array, POISON, Random, e4m3, e4m3_code, run};
use crate::cases::{self, Case};
use moec_ir::kernel::{KernelSpec, PackedParts};
use moec_ir::{DType, ScaleFormat, Sizes};

/// The bound of `attention_to_a_latent_agrees_with_loops`, and what unpacking adds: a product of
/// e4m3 and a scale is rounded to bfloat16 from a sum of two that is off by 2^-17 of itself, which
/// one product in 2^8 shows by a unit, 2^-8 of itself. So may a value that is all of a result; and
/// the score of a key moves by those of its elements, fewer than 10 of 576, each of which counts
/// `2 / 24 * 2^-8` at most. With powers of two nothing is added.
fn error(case: &Case) -> f64 {
    let KernelSpec::Attention { quantized: Some(quantized), .. } = &case.spec else {
        panic!("{}", case.name)
    };
    let unpacked = match quantized.format {
        ScaleFormat::Ue8m0 => 0.0,
        ScaleFormat::F32 => 1.0 / 256.0 + 10.0 * 2.0 / 24.0 / 256.0,
    };
    1.0 / 512.0 + 2e-4 + unpacked
}

#[test]
fn attention_to_packed_latents_on_tensor_cores_agrees_with_loops() {
    for case in cases::packed_attentions_on_tensor_cores() {
        // One case is enough to see that many tokens of a sequence do as well.
        let many: &[Batch] = if case.name == "packed uneven" { &PREFILL[1..3] } else { &[] };
        for (i, &batch) in DECODE.iter().chain(many).enumerate() {
            let ran = check_within(&case, batch, i as u64, error(&case));
            assert!(ran.tensor_cores, "{}", case.name);
        }
    }
}

/// Scales beyond what products with small numbers hold, of all rows or of some.
#[test]
fn attention_to_packed_latents_with_large_scales_agrees_with_loops() {
    for case in cases::packed_attentions_on_tensor_cores().into_iter().skip(1).take(3) {
        for (i, larger) in [1e5, 3e7, 1e12].into_iter().enumerate() {
            let ran = check_scaled(&case, DECODE[2], i as u64, error(&case), larger);
            assert!(ran.tensor_cores, "{}", case.name);
        }
    }
}

#[test]
fn attention_to_packed_latents_on_cuda_cores_agrees_with_loops() {
    for case in cases::packed_attentions_on_cuda_cores() {
        let many = case.name.starts_with("packed prefill");
        let batches = if many { PREFILL } else { DECODE };
        for (i, &batch) in batches.iter().enumerate() {
            let ran = check_within(&case, batch, i as u64, 4e-6);
            assert!(!ran.tensor_cores, "{}", case.name);
        }
    }
}

fn sizes(tokens: u64) -> Sizes {
    Sizes { tokens, past: tokens, sequences: 1 }
}

/// Latents are e4m3 of their block's scale, as near to the norm as that allows; keys are turned;
/// rows that no token has, and what lies between parts, stay as they were.
#[test]
fn packed_rows_are_written_part_by_part() {
    for case in cases::packed_appends() {
        let KernelSpec::AppendLatent {
            latent,
            weight,
            key,
            cache,
            interleaved,
            rounded: Some((block, format)),
            packed: Some(PackedParts { scale, key: to_key }),
            ..
        } = &case.spec
        else {
            panic!("{}", case.name)
        };
        let [n, dim] = [latent, key].map(|view| view.shape[1].constant().unwrap());
        for tokens in [case.tokens, 1, 19] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let [mut x, mut w, mut k] =
                [latent, weight, key].map(|view| Array::random(view, &sizes, &mut random));
            if tokens == 19 {
                // A token of zeros has scales of 1; one with a NaN has nothing but those.
                (0..n).for_each(|i| x.set(&[4, i], 0.0));
                x.set(&[5, n / 2], f64::NAN);
            }
            let table = cases::dense(DType::F32, &[Some(50), Some(dim / 2), Some(2)]);
            let mut table = Array::random(&table, &sizes, &mut random);
            let positions: Vec<i32> = (0..tokens).map(|_| random.below(50) as i32).collect();
            let rows = 47;
            let mut slots: Vec<i32> = (0..tokens as i32).map(|i| (7 * i + 3) % rows).collect();
            if tokens > 1 {
                slots[tokens as usize - 1] = -1;
            }
            let [mut codes, mut scales, mut keys] =
                [cache, scale, to_key].map(|view| Array::with_rows(view, rows as u64));
            let mut at = [Array::integers(&positions), Array::integers(&slots)];
            let [positions_at, slots_at] = &mut at;
            let inputs = [&mut x, &mut w, &mut k, &mut table, positions_at, slots_at];
            let results = [&mut codes, &mut scales, &mut keys];
            let mut operands: Vec<&mut Array> = inputs.into_iter().chain(results).collect();
            run(case.name, &case.spec, case.step(), &sizes, &mut operands);
            let token = |row: u64| slots.iter().position(|&slot| slot as u64 == row);
            let norms: Vec<Vec<f64>> = (0..tokens)
                .map(|t| {
                    let squares: f64 = (0..n).map(|i| x.get(&[t, i]).powi(2)).sum();
                    let factor = (squares / n as f64 + 1e-6).sqrt().recip();
                    (0..n).map(|i| x.get(&[t, i]) * factor * w.get(&[i])).collect()
                })
                .collect();
            scales.check(case.name, 1e-6, |i| {
                let Some(t) = token(i[0]) else { return (f64::NAN, 0.0) };
                let of_block = &norms[t][(i[1] * block) as usize..];
                let of_block = &of_block[..of_block.len().min(*block as usize)];
                let most = of_block.iter().fold(0.0, |most: f64, x| match x.is_nan() {
                    true => f64::NAN,
                    false => most.max(x.abs()),
                });
                let most = if of_block.iter().any(|x| x.is_nan()) { f64::NAN } else { most };
                let scale = match (most, format) {
                    (0.0, _) => 1.0,
                    (most, ScaleFormat::F32) => most / 448.0,
                    (most, ScaleFormat::Ue8m0) => (most / 448.0).log2().ceil().exp2(),
                };
                (scale, scale)
            });
            codes.clone().each(|_, i| {
                let Some(t) = token(i[0]) else {
                    return assert_eq!(codes.code(i), POISON, "{}: {i:?}", case.name);
                };
                let scale = scales.get(&[i[0], i[1] / block]);
                let (got, want) = (codes.get(i), norms[t][i[1] as usize] / scale);
                let unit = want.abs().log2().floor().max(-6.0).exp2() / 8.0;
                let close = (got - want).abs() <= 0.5 * unit + want.abs() * 1e-5;
                let both_nan = got.is_nan() && want.is_nan();
                assert!(close || both_nan, "{}: {i:?} is {got}, not {want}", case.name);
                assert_eq!(e4m3(e4m3_code(got)).to_bits(), got.to_bits());
            });
            keys.check(case.name, 1e-5, |i| {
                let Some(t) = token(i[0]) else { return (f64::NAN, 0.0) };
                let (pair, second, other) = match interleaved {
                    true => (i[1] / 2, i[1] % 2 == 1, i[1] ^ 1),
                    false => (i[1] % (dim / 2), i[1] >= dim / 2, (i[1] + dim / 2) % dim),
                };
                let turn = |part| table.get(&[positions[t] as u64, pair, part]);
                let sign = if second { 1.0 } else { -1.0 };
                let own = k.get(&[t as u64, i[1]]) * turn(0);
                let mixed = sign * k.get(&[t as u64, other]) * turn(1);
                (own + mixed, own.abs() + mixed.abs())
            });
        }
    }
}

#[test]
fn packed_rows_are_taken_out_by_index() {
    for case in cases::packed_gathers() {
        let KernelSpec::GatherLatent { latent, packed, out, block } = &case.spec else {
            panic!("{}", case.name)
        };
        let n = latent.shape[1].constant().unwrap();
        for tokens in [case.tokens, 1, 30] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let rows = 40;
            let [mut codes, mut scales, mut keys] =
                [latent, &packed.scale, &packed.key].map(|view| Array::with_rows(view, rows));
            for array in [&mut codes, &mut scales, &mut keys] {
                array.each(|array, i| array.set(i, 3.0 * random.number()));
            }
            let index: Vec<i32> = (0..tokens).map(|i| ((i * 17 + 5) % rows) as i32).collect();
            let (mut at, mut result) = (Array::integers(&index), Array::poisoned(out, &sizes));
            let mut operands = [&mut codes, &mut scales, &mut keys, &mut at, &mut result];
            run(case.name, &case.spec, case.step(), &sizes, &mut operands);
            result.check(case.name, 1e-6, |i| {
                let row = index[i[0] as usize] as u64;
                let value = match i[1].checked_sub(n) {
                    None => codes.get(&[row, i[1]]) * scales.get(&[row, i[1] / block]),
                    Some(at) => keys.get(&[row, at]),
                };
                (value, value.abs())
            });
        }
    }
}
