//! The errors of FP8 products against what is known of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use moec_runtime::numerics::{INTERVALS, RULES, random_loss};

fn rule(name: &str) -> usize {
    RULES.iter().position(|(known, _)| *known == name).unwrap()
}

#[test]
fn a_depth_of_4096_without_promotion_loses_what_the_literature_says() {
    let loss = random_loss(4096);
    let (never, every_128) = (INTERVALS.len(), 2);
    // DeepSeek-V3 3.3.2: "a maximum relative error of nearly 2 %", over more results than here.
    let narrow = &loss.accumulated[rule("22-bit")];
    assert!((0.01..0.02).contains(&narrow[never].greatest), "{loss:?}");
    // Promotion as in the recipe makes it a small part of what quantisation costs.
    for errors in &loss.accumulated {
        assert!(errors[every_128].l2 < 0.01 * loss.quantised.l2, "{loss:?}");
    }
    for name in ["hopper", "22-bit"] {
        let errors = &loss.accumulated[rule(name)];
        assert!(errors.windows(2).all(|pair| pair[0].l2 < pair[1].l2), "{name}: {errors:?}");
    }
}

#[test]
fn exact_sums_are_wrong_by_their_rounding_to_float32_alone() {
    for depth in [32, 100, 640] {
        let loss = random_loss(depth);
        for error in &loss.accumulated[rule("exact")] {
            // At most one rounding for each instruction and each promotion.
            let roundings = 2.0 * (depth as f64 / 32.0).ceil();
            assert!(error.l2 <= roundings * 2f64.powi(-24), "depth {depth}: {error:?}");
        }
        // e4m3 keeps 3 fraction bits: each operand is wrong by at most 1 part in 16.
        assert!((0.005..0.125).contains(&loss.quantised.l2), "depth {depth}: {loss:?}");
    }
}
