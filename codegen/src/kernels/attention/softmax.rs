//! From scores to weights, for the two rows of a thread of a warpgroup whose products are in
//! registers.

use super::LOWEST;
use crate::builder::{Builder, F32};

/// What is known of both rows after some keys: the greatest score, before the factor, and this
/// thread's share of the sum of weights.
#[derive(Clone)]
pub(super) struct Softmax<'k> {
    pub(super) max: [F32<'k>; 2],
    pub(super) sum: [F32<'k>; 2],
}

/// Which row a thread's score of that number is of.
pub(super) fn half(number: usize) -> usize {
    number / 2 % 2
}

impl<'k> Softmax<'k> {
    /// Before any keys.
    pub(super) fn new(b: &'k Builder<'k>, scale: f32) -> Self {
        // Times the factor it is still finite.
        let lowest = LOWEST / scale.max(1.0);
        Self { max: [b.f32(lowest); 2], sum: [b.f32(0.0); 2] }
    }

    /// Takes a block of scores: the state after it, the weights, and by what earlier sums of each
    /// row are to be multiplied. The greatest score is `at_least` that where someone else knows of
    /// one.
    pub(super) fn take(
        &self,
        b: &'k Builder<'k>,
        scores: &[F32<'k>],
        scale: f32,
        at_least: Option<[F32<'k>; 2]>,
    ) -> (Self, Vec<F32<'k>>, [F32<'k>; 2]) {
        let mut next = self.clone();
        for (number, &score) in scores.iter().enumerate() {
            let max = &mut next.max[half(number)];
            *max = max.max(score);
        }
        // Four neighbouring lanes hold a row.
        next.max = next.max.map(|max| max.across(4, F32::max));
        if let Some(others) = at_least {
            next.max = [0, 1].map(|row| next.max[row].max(others[row]));
        }
        let factors = [0, 1].map(|row| ((self.max[row] - next.max[row]) * scale).ex2_approx());
        let below = next.max.map(|max| max * -scale);
        let weight = |(number, &score): (usize, &F32<'k>)| {
            score.fma(b.f32(scale), below[half(number)]).ex2_approx()
        };
        let weights: Vec<F32<'k>> = scores.iter().enumerate().map(weight).collect();
        next.sum = [0, 1].map(|row| self.sum[row] * factors[row]);
        for (number, &weight) in weights.iter().enumerate() {
            let sum = &mut next.sum[half(number)];
            *sum = *sum + weight;
        }
        (next, weights, factors)
    }

    /// With greater greatest scores: the state, and by what weights and sums of each row are to be
    /// multiplied.
    pub(super) fn raised(&self, max: [F32<'k>; 2], scale: f32) -> (Self, [F32<'k>; 2]) {
        let factors = [0, 1].map(|row| ((self.max[row] - max[row]) * scale).ex2_approx());
        (Self { max, sum: [0, 1].map(|row| self.sum[row] * factors[row]) }, factors)
    }

    /// What sums of values are multiplied by in the end.
    pub(super) fn inverse(&self) -> [F32<'k>; 2] {
        self.sum.map(|sum| sum.across(4, |x, y| x + y).rcp_approx())
    }
}
