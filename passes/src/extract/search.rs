//! Local search: what if a kernel were there anyway?
//!
//! A product that two values share pays only when both use it, and neither sees that alone.
//! So each kernel is taken as free in turn; where the solution found then costs less with its true
//! cost, it is kept. Kernels of the solution are tried too: one user may not see that another has
//! paid already.

use super::greedy::{fixed_point, trees};
use super::instance::{Choice, Instance};

/// Times that all kernels are tried.
const MOST_ROUNDS: usize = 4;
/// Relative gain below which two solutions are equally good.
const LEAST_GAIN: f64 = 1e-9;

/// The cheapest choice found; `None` where every one found goes in a circle.
pub(super) fn search(problem: &Instance) -> Option<Choice> {
    let mut free: Vec<(usize, usize)> = vec![];
    let first = fixed_point(problem, &free);
    let mut best = match problem.seconds(&first) {
        Some(seconds) => (seconds, first),
        None => {
            let choice = trees(problem);
            (problem.seconds(&choice)?, choice)
        }
    };
    for _ in 0..MOST_ROUNDS {
        let before = best.0;
        for (class, ways) in problem.ways.iter().enumerate() {
            for (at, way) in ways.iter().enumerate() {
                let hopeless = way.cost == 0.0 || way.cost >= best.0;
                if hopeless || free.contains(&(class, at)) {
                    continue;
                }
                free.push((class, at));
                let choice = fixed_point(problem, &free);
                match problem.seconds(&choice) {
                    Some(seconds) if seconds < best.0 * (1.0 - LEAST_GAIN) => {
                        best = (seconds, choice);
                    }
                    _ => {
                        free.pop();
                    }
                }
            }
        }
        if best.0 >= before * (1.0 - LEAST_GAIN) {
            break;
        }
    }
    Some(best.1)
}
