//! Matrix products, plain and by expert.

use super::machine::{Array, Random, run};
use crate::cases::{self, Case};
use moec_ir::Sizes;
use moec_ir::kernel::{KernelSpec, View};

/// Products of more multiply-adds than this are left to the assembler's test.
pub(crate) const LARGEST: u64 = 20_000_000;

pub(crate) fn sizes(tokens: u64) -> Sizes {
    Sizes { tokens, past: tokens, sequences: 1 }
}

pub(crate) fn volume(view: &View, tokens: u64) -> u64 {
    view.shape.iter().map(|d| d.eval(&sizes(tokens))).product()
}

/// Token counts a kernel is run with: the one it was designed for, and others.
pub(crate) fn tokens_of(case: &Case) -> Vec<u64> {
    let mut tokens = vec![case.tokens, 1, 13, 70];
    tokens.dedup();
    tokens
}

/// Error of a float32 sum of `k` products, relative to the sum of their magnitudes: the rounding
/// errors of a long sum add up like a random walk.
fn error(k: u64) -> f64 {
    (4.0 + (k as f64).sqrt()) / f64::from(1 << 24)
}

/// The inner product of two rows, and the sum of the products' magnitudes.
fn inner(a: &Array, w: &Array, a_at: [u64; 2], w_at: [u64; 2], k: u64) -> (f64, f64) {
    (0..k).fold((0.0, 0.0), |(sum, magnitude), i| {
        let product = a.get(&[a_at[0], a_at[1], i]) * w.get(&[w_at[0], w_at[1], i]);
        (sum + product, magnitude + product.abs())
    })
}

#[test]
fn gemm_is_a_times_w_transposed_plus_add() {
    for case in cases::gemms() {
        let KernelSpec::Gemm { a, w, add, c } = &case.spec else { panic!("{}", case.name) };
        for tokens in tokens_of(&case) {
            let k = w.shape[2].constant().unwrap();
            let work = volume(c, tokens) * k;
            if work > LARGEST {
                continue;
            }
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let mut a = Array::random(a, &sizes, &mut random);
            let mut w = Array::random(w, &sizes, &mut random);
            let mut add = add.as_ref().map(|add| Array::random(add, &sizes, &mut random));
            let mut c = Array::poisoned(c, &sizes);
            let mut operands = vec![&mut a, &mut w];
            operands.extend(add.as_mut());
            operands.push(&mut c);
            let report = run(case.name, &case.spec, case.step(), &sizes, &mut operands);
            let cost = report.warp_instructions as f64 * 32.0 / work as f64;
            eprintln!("{}, {tokens} tokens: {cost:.2} instructions per multiply-add", case.name);
            c.check(case.name, error(k), |index| {
                let &[b, m, n] = index else { panic!("rank") };
                let (sum, magnitude) = inner(&a, &w, [b, m], [b, n], k);
                let added = add.as_ref().map_or(0.0, |add| add.get(index));
                (sum + added, magnitude + added.abs())
            });
        }
    }
}

/// A route plan made on the host, with experts drawn at random from the first `used`.
pub(crate) fn route(pairs: u64, experts: u64, used: u64, random: &mut Random) -> (Vec<u64>, Array) {
    let chosen: Vec<u64> = (0..pairs).map(|_| random.below(used)).collect();
    let before = |e: u64| chosen.iter().filter(|&&c| c < e).count() as i32;
    let mut plan: Vec<i32> = (0..=experts).map(before).collect();
    for e in 0..experts {
        plan.extend((0..pairs).filter(|&p| chosen[p as usize] == e).map(|p| p as i32));
    }
    (chosen, Array::integers(&plan))
}

#[test]
fn grouped_gemm_multiplies_each_row_with_its_experts_matrix() {
    for case in cases::experts() {
        let KernelSpec::GroupedGemm { a, w, c, top_k } = &case.spec else { continue };
        if volume(w, 1) > LARGEST {
            continue;
        }
        let (experts, k) = (w.shape[0].constant().unwrap(), w.shape[2].constant().unwrap());
        for tokens in tokens_of(&case) {
            for used in [experts, 1] {
                let (sizes, mut random) = (sizes(tokens), Random(tokens + used));
                let mut a = Array::random(a, &sizes, &mut random);
                let mut w = Array::random(w, &sizes, &mut random);
                let (chosen, mut plan) = route(tokens * top_k, experts, used, &mut random);
                let mut c = Array::poisoned(c, &sizes);
                let mut operands = [&mut a, &mut w, &mut plan, &mut c];
                let report = run(case.name, &case.spec, case.step(), &sizes, &mut operands);
                let work = tokens * top_k * w.shape[1] * k;
                assert!(report.tensor_cores || !case.name.contains("hopper"), "{}", case.name);
                let cost = report.warp_instructions as f64 * 32.0 / work as f64;
                eprintln!(
                    "{}, {tokens} tokens: {cost:.2} instructions per multiply-add",
                    case.name
                );
                c.check(case.name, error(k), |index| {
                    let &[t, j, n] = index else { panic!("rank") };
                    let expert = chosen[(t * top_k + j) as usize];
                    inner(&a, &w, [t, j.min(a.shape[1] - 1)], [expert, n], k)
                });
            }
        }
    }
}
