//! Choosing the next token from logits.

use crate::{Result, fail};
use moec_ir::Diagnostic;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the most likely token.
    pub temperature: f64,
    /// Only so many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together have this probability; 1 for all.
    pub top_p: f64,
    /// Same seed, same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// Chooses tokens for one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler for one sequence of a batch; sequences draw from independent streams.
    ///
    /// # Errors
    /// E1205 for a setting outside its range.
    pub fn new(sampling: Sampling, sequence: u64) -> Result<Self> {
        let refuse = |what: &str, value: f64, range: &str| {
            fail(Diagnostic::error("E1205", format!("{what} is {value}, but must be {range}")))
        };
        if !(sampling.temperature >= 0.0 && sampling.temperature.is_finite()) {
            return refuse("the temperature", sampling.temperature, "0 or more");
        }
        if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
            return refuse("top-p", sampling.top_p, "above 0 and at most 1");
        }
        let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
        random.set_stream(sequence);
        Ok(Self { sampling, random })
    }

    /// Chooses a token: of the logits divided by the temperature the `top_k` best, of these the
    /// best that together reach `top_p`; of equals the lower id comes first.
    ///
    /// # Errors
    /// E1206 where no logit is a number.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        let mut ranked: Vec<(f32, u32)> =
            (0u32..).zip(logits).filter(|(_, l)| !l.is_nan()).map(|(id, &l)| (l, id)).collect();
        let better = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let Some(&best) = ranked.iter().min_by(|a, b| better(a, b)) else {
            let message = "the model's logits are not numbers";
            let help = "are these the weights of this model?";
            return fail(Diagnostic::error("E1206", message).help(help));
        };
        if self.sampling.temperature == 0.0 || !best.0.is_finite() {
            return Ok(best.1);
        }
        ranked.sort_by(better);
        if self.sampling.top_k > 0 {
            ranked.truncate(self.sampling.top_k);
        }
        let weight = |l: f32| (f64::from(l - best.0) / self.sampling.temperature).exp();
        let weights: Vec<f64> = ranked.iter().map(|(l, _)| weight(*l)).collect();
        let kept = kept(&weights, self.sampling.top_p);
        let sum: f64 = weights[..kept].iter().sum();
        // 53 random bits: uniform in [0, 1).
        let mut at = (self.random.next_u64() >> 11) as f64 * 2f64.powi(-53) * sum;
        for ((_, id), weight) in ranked.iter().zip(&weights[..kept]) {
            at -= weight;
            if at < 0.0 {
                return Ok(*id);
            }
        }
        Ok(ranked[kept - 1].1)
    }
}

/// How many of the weights, greatest first, together reach a share `p` of their sum.
fn kept(weights: &[f64], p: f64) -> usize {
    let sum: f64 = weights.iter().sum();
    let mut reached = 0.0;
    for (i, weight) in weights.iter().enumerate() {
        reached += weight;
        if reached >= p * sum {
            return i + 1;
        }
    }
    weights.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    fn draw(sampling: Sampling, n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, 0).unwrap();
        (0..n).map(|_| sampler.choose(&LOGITS).unwrap()).collect()
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_best() {
        assert_eq!(draw(Sampling::default(), 3), [1, 1, 1]);
    }

    #[test]
    fn the_seed_alone_decides_what_is_drawn() {
        let warm = Sampling { temperature: 1.0, seed: 7, ..Sampling::default() };
        assert_eq!(draw(warm, 64), draw(warm, 64));
        assert_ne!(draw(warm, 64), draw(Sampling { seed: 8, ..warm }, 64));
        let mut other = Sampler::new(warm, 1).unwrap();
        let others: Vec<u32> = (0..64).map(|_| other.choose(&LOGITS).unwrap()).collect();
        assert_ne!(draw(warm, 64), others);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let n = 20_000;
        let drawn = draw(Sampling { temperature: 0.5, ..Sampling::default() }, n);
        let weights: Vec<f64> = LOGITS.iter().map(|&l| f64::from(2.0 * l).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (id, weight) in (0u32..).zip(&weights) {
            let share = drawn.iter().filter(|&&d| d == id).count() as f64 / n as f64;
            // Four standard deviations of a share near one half.
            assert!((share - weight / sum).abs() < 4.0 * 0.5 / (n as f64).sqrt(), "{id}: {share}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let hot = Sampling { temperature: 10.0, ..Sampling::default() };
        assert!(draw(hot, 200).contains(&4));
        let two = draw(Sampling { top_k: 2, ..hot }, 200);
        assert!(two.iter().all(|id| [1, 3].contains(id)) && two.contains(&3));
        let half = draw(Sampling { temperature: 1.0, top_p: 0.5, ..hot }, 200);
        assert!(half.iter().all(|id| [1, 3].contains(id)));
    }

    #[test]
    fn settings_out_of_range_and_logits_that_are_not_numbers_are_refused() {
        for bad in [
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { temperature: f64::NAN, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
        ] {
            assert_eq!(Sampler::new(bad, 0).unwrap_err()[0].code, "E1205");
        }
        let mut sampler = Sampler::new(Sampling::default(), 0).unwrap();
        assert_eq!(sampler.choose(&[f32::NAN; 3]).unwrap_err()[0].code, "E1206");
        assert_eq!(sampler.choose(&[f32::NAN, -1.0, f32::NAN]).unwrap(), 1);
    }
}
