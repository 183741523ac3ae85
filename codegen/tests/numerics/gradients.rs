//! Gradients of weights: sums over each expert's tokens are added to what is there.

use super::machine::{Array, Random, run};
use super::products::{LARGEST, sizes};
use super::scaled::{Scaled, error, inner, lost};
use crate::cases::{self, Case};
use moec_ir::kernel::KernelSpec;

const BLOCK: u64 = 128;

/// Which tokens of `all` each expert has: their first, and how many.
type Ranges = Vec<[u64; 2]>;

/// Ranges of experts by how many tokens each should have, as far as there are some.
fn lay_out(counts: impl Iterator<Item = u64>, all: u64) -> Ranges {
    let mut next = 0;
    let mut place = |count: u64| {
        let range = [next.min(all / BLOCK * BLOCK), count.min(all.saturating_sub(next))];
        next += count.next_multiple_of(BLOCK);
        range
    };
    counts.map(&mut place).collect()
}

fn loads(experts: u64, all: u64, random: &mut Random) -> Vec<(&'static str, Ranges)> {
    let even = all / experts / BLOCK * BLOCK;
    // exp of a sum of uniform numbers, which is nearly normal.
    let log_normal: Vec<u64> = (0..experts)
        .map(|_| {
            let normal: f64 = (0..12).map(|_| random.number() / 2.0).sum();
            (even as f64 / 2.0 * normal.exp()) as u64
        })
        .collect();
    let one = |e| if e == experts / 2 { all } else { 0 };
    let some = |e: u64| if e.is_multiple_of(2) { 0 } else { even + e * 37 };
    vec![
        ("nothing", lay_out((0..experts).map(|_| 0), all)),
        ("one token each", lay_out((0..experts).map(|_| 1), all)),
        ("as many each", lay_out((0..experts).map(|_| even), all)),
        ("all to one expert", lay_out((0..experts).map(one), all)),
        ("some without", lay_out((0..experts).map(some), all)),
        ("log-normal", lay_out(log_normal.into_iter(), all)),
    ]
}

/// A factor `[rows, tokens]` as a matrix for [`Scaled`], zero where no expert has a token.
fn factor(views: [&moec_ir::kernel::View; 2], tokens: u64, ranges: &Ranges, seed: u64) -> Scaled {
    let memory = |view, columns: u64| {
        let mut view: moec_ir::kernel::View = Clone::clone(view);
        view.shape = vec![1.into(), view.shape[0].clone(), columns.into()];
        view.strides.insert(0, 0);
        Array::poisoned(&view, &sizes(tokens))
    };
    let [data, scale] = [memory(views[0], tokens), memory(views[1], tokens.div_ceil(BLOCK))];
    let mut made = Scaled::new(data, scale, [1, BLOCK], &mut Random(seed));
    let has = |t: u64| ranges.iter().any(|[first, count]| (*first..first + count).contains(&t));
    made.data.each(|data, index| {
        if !has(index[2]) {
            data.set(index, 0.0);
        }
    });
    made
}

fn check(case: &Case, tokens: u64, load: &str, ranges: &Ranges) {
    let KernelSpec::WeightGradient { dy, dy_scale, x, x_scale, dw, grouped, .. } = &case.spec
    else {
        panic!()
    };
    let name = format!("{}, {tokens} tokens, {load}", case.name);
    let mut dy = factor([dy, dy_scale], tokens, ranges, tokens);
    let mut x = factor([x, x_scale], tokens, ranges, tokens + 1);
    let before = Array::random(dw, &sizes(tokens), &mut Random(tokens + 2));
    let mut dw = before.clone();
    let words: Vec<i32> = ranges.iter().flatten().map(|&n| n as i32).collect();
    let mut words = Array::integers(&words).in_buffer();
    let parts = |of: &Scaled, range: [u64; 2], row: u64| {
        let (numbers, scales) = of.parts(0, row);
        let [first, end] = [range[0], range[0] + range[1]].map(|t| t as usize);
        let blocks = first / BLOCK as usize..end.div_ceil(BLOCK as usize);
        (numbers[first..end].to_vec(), scales[blocks].to_vec())
    };
    let table = |of: &Scaled| -> Vec<Vec<(Vec<f64>, Vec<f64>)>> {
        let rows = 0..of.data.shape[1];
        ranges
            .iter()
            .map(|range| rows.clone().map(|row| parts(of, *range, row)).collect())
            .collect()
    };
    let (dy_parts, x_parts) = (table(&dy), table(&x));
    let mut operands = vec![&mut dy.data, &mut dy.scale, &mut x.data, &mut x.scale];
    operands.extend(grouped.then_some(&mut words));
    operands.push(&mut dw);
    run(&name, &case.spec, case.step(), &sizes(tokens), &mut operands);
    dw.check(&name, error(tokens), |index| {
        let [e, m, n] = [0, 1, 2].map(|axis| index[axis] as usize);
        let ((a, a_scales), (w, w_scales)) = (&dy_parts[e][m], &x_parts[e][n]);
        let scale = |j: usize| a_scales[j] * w_scales[j];
        let row = |x: &[f64], scales: &[f64]| -> Vec<f64> {
            x.iter().enumerate().map(|(t, x)| x * scales[t / BLOCK as usize]).collect()
        };
        let (sum, magnitude) = inner(&row(a, a_scales), &row(w, w_scales));
        let there = before.get(index);
        if a.is_empty() {
            assert_eq!(dw.get(index), there, "{name}: {index:?} was changed");
        }
        (sum + there, magnitude + there.abs() + lost(a, w, scale) / error(tokens))
    });
}

#[test]
fn weight_gradients_are_summed_over_each_experts_tokens() {
    let mut shapes = 0;
    for case in cases::weight_gradients() {
        let KernelSpec::WeightGradient { dw, grouped, .. } = &case.spec else { panic!() };
        let [experts, m, n] = [0, 1, 2].map(|axis| dw.shape[axis].constant().unwrap());
        if m * n * case.tokens > LARGEST {
            continue;
        }
        for tokens in [case.tokens, 640, 77] {
            let loads = match grouped {
                true => loads(experts, tokens, &mut Random(tokens)),
                false => vec![("all", vec![[0, tokens]])],
            };
            for (load, ranges) in loads {
                check(&case, tokens, load, &ranges);
                shapes += 1;
            }
        }
    }
    assert!(shapes >= 30, "{shapes}");
}
