//! The choice of experts and the order of their rows: exact.

use super::machine::{Array, Random, run};
use crate::cases::{self, Case};
use moec_ir::Sizes;
use moec_ir::graph::{GroupScore, Groups};
use moec_ir::kernel::{KernelSpec, Scoring, View};

fn sizes(tokens: u64) -> Sizes {
    Sizes { tokens, past: tokens, sequences: 1 }
}

fn chosen_by(case: &Case, scores: &mut Array, tokens: u64) -> Array {
    let KernelSpec::TopK { chosen, .. } = &case.spec else { panic!("{}", case.name) };
    let mut chosen = Array::poisoned(chosen, &sizes(tokens));
    let operands = &mut [scores, &mut chosen];
    let report = run(case.name, &case.spec, case.step(), &sizes(tokens), operands);
    let per_row = report.warp_instructions / tokens;
    eprintln!("{}: {per_row} warp instructions per token", case.name);
    chosen
}

fn scores_of(case: &Case) -> (&View, Option<Groups>) {
    let KernelSpec::TopK { scores, groups, .. } = &case.spec else { panic!("{}", case.name) };
    (scores, *groups)
}

/// Indices of the best, best first; of equals the lower.
fn best_first(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap());
    order
}

fn expected(scores: &[f64], groups: Option<Groups>) -> Vec<usize> {
    let Some(groups) = groups else { return best_first(scores) };
    let size = scores.len() / groups.count as usize;
    let of_group: Vec<f64> = scores
        .chunks(size)
        .map(|group| {
            let n = match groups.by {
                GroupScore::Max => 1,
                GroupScore::SumOfTop(n) => n as usize,
            };
            // In float32, as the kernel does: sums decide between groups.
            let best = best_first(group).into_iter().take(n).map(|i| group[i] as f32);
            best.reduce(|p, q| p + q).unwrap().into()
        })
        .collect();
    let kept = &best_first(&of_group)[..groups.keep as usize];
    best_first(scores).into_iter().filter(|e| kept.contains(&(e / size))).collect()
}

#[test]
fn top_k_is_the_stable_order() {
    for case in cases::top_ks() {
        let (view, groups) = scores_of(&case);
        // Few distinct values make ties; their sums are exact.
        for (tokens, distinct) in [(1, 1 << 20), (7, 5), (case.tokens, 1)] {
            let mut random = Random(tokens + distinct);
            let mut scores = Array::poisoned(view, &sizes(tokens));
            scores.each(|array, index| {
                let level = random.below(distinct) as f64 / distinct as f64;
                array.set(index, if level == 0.0 { -0.0 } else { level - 0.5 });
            });
            let chosen = chosen_by(&case, &mut scores, tokens);
            let n = scores.shape[1];
            chosen.check(case.name, 0.0, |index| {
                let row: Vec<f64> = (0..n).map(|e| scores.get(&[index[0], e])).collect();
                (expected(&row, groups)[index[1] as usize] as f64, 0.0)
            });
        }
    }
}

#[test]
fn top_k_of_nan_and_infinities_stays_in_range_without_repeats() {
    for case in cases::top_ks() {
        let (view, _) = scores_of(&case);
        let specials = [f64::NAN, f64::NEG_INFINITY, f64::INFINITY, 0.0, -f64::NAN, 1.0];
        for kinds in 1..=specials.len() as u64 {
            let mut random = Random(kinds);
            let mut scores = Array::poisoned(view, &sizes(5));
            scores.each(|array, index| {
                array.set(index, specials[random.below(kinds) as usize]);
            });
            let chosen = chosen_by(&case, &mut scores, 5);
            for row in 0..5 {
                let mut experts: Vec<i64> =
                    (0..chosen.shape[1]).map(|j| chosen.get(&[row, j]) as i64).collect();
                experts.sort_unstable();
                assert!(experts.windows(2).all(|w| w[0] < w[1]), "{}: {experts:?}", case.name);
                let range = 0..scores.shape[1] as i64;
                assert!(experts.iter().all(|e| range.contains(e)), "{}: {experts:?}", case.name);
            }
        }
    }
}

#[test]
fn routes_are_sorted_by_expert_and_stable() {
    for case in cases::route_plans() {
        let KernelSpec::RoutePlan { chosen: view, n_experts } = &case.spec else {
            panic!("{}", case.name)
        };
        let all = *n_experts;
        let most = if case.name == "route v3 many" { 16384 } else { 500 };
        for (tokens, used) in [(1, all), (case.tokens, all), (333, 3), (65, 1), (most, all)] {
            let mut random = Random(tokens);
            let mut chosen = Array::poisoned(view, &sizes(tokens));
            let mut by_expert = vec![Vec::new(); *n_experts as usize];
            let per_token = chosen.shape[1];
            chosen.each(|array, index| {
                // The last experts as well as the first.
                let expert = n_experts - 1 - random.below(used.min(*n_experts));
                array.set(index, expert as f64);
                by_expert[expert as usize].push(index[0] * per_token + index[1]);
            });
            let mut want = vec![0];
            for rows in &by_expert {
                want.push(want[want.len() - 1] + rows.len() as u64);
            }
            want.extend(by_expert.into_iter().flatten());
            let mut route = Array::integers(&vec![-1; want.len()]);
            let operands = &mut [&mut chosen, &mut route];
            let report = run(case.name, &case.spec, case.step(), &sizes(tokens), operands);
            let pairs = tokens * per_token;
            eprintln!(
                "{}: {} warp instructions, {pairs} pairs",
                case.name, report.warp_instructions
            );
            route.check(case.name, 0.0, |index| (want[index[0] as usize] as f64, 0.0));
        }
    }
}

/// Scores of a row in float64.
fn scores(scoring: Scoring, logits: &[f64]) -> Vec<f64> {
    match scoring {
        Scoring::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Scoring::Softmax => {
            let sum: f64 = logits.iter().map(|x| x.exp()).sum();
            logits.iter().map(|x| x.exp() / sum).collect()
        }
    }
}

#[test]
fn routers_choose_and_weigh_as_in_float64() {
    for case in cases::routers() {
        let KernelSpec::Router { logits, bias, chosen, weight, scoring, groups, normalize, scale } =
            &case.spec
        else {
            panic!("{}", case.name)
        };
        // Few distinct logits and biases make ties, which float32 and float64 see alike: equal
        // numbers have equal scores and sums, and others are far apart.
        for (tokens, distinct) in [(case.tokens, 1 << 20), (7, 5), (1, 1)] {
            let mut random = Random(tokens + distinct);
            let mut level = || random.below(distinct) as f64 / distinct as f64;
            let mut x = Array::poisoned(logits, &sizes(tokens));
            x.each(|array, index| array.set(index, 6.0 * level() - 3.0));
            let mut biases = bias.as_ref().map(|view| {
                let mut biases = Array::poisoned(view, &sizes(tokens));
                biases.each(|array, index| array.set(index, level().round() / 4.0));
                biases
            });
            let mut experts = Array::poisoned(chosen, &sizes(tokens));
            let mut weights = Array::poisoned(weight, &sizes(tokens));
            let (given, n) = (x.clone(), x.shape[1]);
            let k = experts.shape[1] as usize;
            let bias_of: Vec<f64> =
                (0..n).map(|e| biases.as_ref().map_or(0.0, |b| b.get(&[e]))).collect();
            let mut operands = vec![&mut x];
            operands.extend(biases.as_mut());
            operands.extend([&mut experts, &mut weights]);
            let ran = run(case.name, &case.spec, case.step(), &sizes(tokens), &mut operands);
            eprintln!("{}: {} warp instructions", case.name, ran.warp_instructions / tokens);
            let want = |t: u64| {
                let row: Vec<f64> = (0..n).map(|e| given.get(&[t, e])).collect();
                let scores = scores(*scoring, &row);
                let keys: Vec<f64> = scores.iter().zip(&bias_of).map(|(s, b)| s + b).collect();
                let best = expected(&keys, *groups)[..k].to_vec();
                let sum: f64 = if *normalize { best.iter().map(|&e| scores[e]).sum() } else { 1.0 };
                best.into_iter().map(move |e| (e, scores[e] / sum * scale.0)).collect::<Vec<_>>()
            };
            experts.check(case.name, 0.0, |i| (want(i[0])[i[1] as usize].0 as f64, 0.0));
            // `ex2.approx` and `rcp.approx` are within 2 units of 2^-23 (PTX ISA 9.7.3), an
            // exponent of up to 6 and sums add some more.
            weights.check(case.name, 2e-6, |i| {
                let weight = want(i[0])[i[1] as usize].1;
                (weight, weight.abs())
            });
        }
    }
}
