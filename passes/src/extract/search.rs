//! Local search: what if a kernel were there anyway, or were not to be had?
//!
//! A product that two values share pays only when both use it, and neither sees that alone.
//! So each kernel is taken as free in turn; where the solution found then costs less with its true
//! cost, it is kept. Kernels of the solution are tried too: one user may not see that another has
//! paid already. And each kernel of the solution is forbidden in turn, since a detour that pays
//! may begin with a step that does not.

use super::greedy::{Bias, fixed_point, trees};
use super::instance::{Choice, Instance};

/// Times that all kernels are tried.
const MOST_ROUNDS: usize = 4;
/// Relative gain below which two solutions are equally good.
const LEAST_GAIN: f64 = 1e-9;

/// The best solution so far, and the bias that led to it.
struct Best {
    seconds: f64,
    choice: Choice,
    bias: Bias,
}

impl Best {
    /// Keeps a bias if what it leads to costs less.
    fn try_bias(&mut self, problem: &Instance, bias: Bias) {
        let choice = fixed_point(problem, &bias);
        if let Some(seconds) = problem.seconds_with(&choice, bias.forced)
            && seconds < self.seconds * (1.0 - LEAST_GAIN)
        {
            *self = Self { seconds, choice, bias };
        }
    }

    /// Takes each kernel as free, beside those that were found to pay or alone.
    fn give_away(&mut self, problem: &Instance, alone: bool) {
        for (class, ways) in problem.ways.iter().enumerate() {
            for (at, way) in ways.iter().enumerate() {
                let hopeless = way.cost == 0.0 || way.cost >= self.seconds;
                if hopeless || self.bias.free.contains(&(class, at)) {
                    continue;
                }
                let mut bias = self.bias.clone();
                if alone {
                    (bias.free, bias.banned) = (vec![], vec![]);
                }
                bias.banned.retain(|way| *way != (class, at));
                bias.free.push((class, at));
                self.try_bias(problem, bias);
            }
        }
    }

    /// Takes back what was given or taken away: what paid first may stand in the way later.
    fn take_back(&mut self, problem: &Instance) {
        for way in [self.bias.free.clone(), self.bias.banned.clone()].concat() {
            let mut bias = self.bias.clone();
            bias.free.retain(|other| *other != way);
            bias.banned.retain(|other| *other != way);
            self.try_bias(problem, bias);
        }
    }

    /// Forbids each kernel of the solution, and with it each that takes its place; where a value
    /// has no other, the value goes too.
    fn take_away(&mut self, problem: &Instance) {
        for way in kernels(problem, &self.choice) {
            let used = kernels(problem, &self.choice);
            let Some(bias) = self.without(way).filter(|_| used.contains(&way)) else { continue };
            let choice = fixed_point(problem, &bias);
            self.try_bias(problem, bias);
            if !kernels(problem, &self.choice).contains(&way) {
                continue;
            }
            let instead = kernels(problem, &choice).into_iter().filter(|way| !used.contains(way));
            for other in instead {
                let both = self.without(way).and_then(|mut bias| {
                    bias.banned.push(other);
                    (bias.forced != Some(other)).then_some(bias)
                });
                if let Some(both) = both {
                    self.try_bias(problem, both);
                }
            }
        }
    }

    /// Takes another way of each class that is used, where that alone pays: ways that were taken as
    /// free may still stand where cheaper ones do the same.
    fn exchange_ways(&mut self, problem: &Instance) {
        let used = problem.order(&self.choice).unwrap_or_default();
        for class in used {
            for at in 0..problem.ways[class].len() {
                let mut choice = self.choice.clone();
                choice[class] = at;
                if let Some(seconds) = problem.seconds_with(&choice, self.bias.forced)
                    && seconds < self.seconds * (1.0 - LEAST_GAIN)
                {
                    (self.seconds, self.choice) = (seconds, choice);
                }
            }
        }
    }

    /// The bias with one way forbidden, if it is not forced.
    fn without(&self, way: (usize, usize)) -> Option<Bias> {
        let mut bias = self.bias.clone();
        bias.free.retain(|free| *free != way);
        bias.banned.push(way);
        (bias.forced != Some(way)).then_some(bias)
    }
}

/// The ways of a choice that cost something.
fn kernels(problem: &Instance, choice: &Choice) -> Vec<(usize, usize)> {
    let used = problem.order(choice).unwrap_or_default().into_iter();
    let ways = used.map(|class| (class, choice[class]));
    ways.filter(|(class, at)| problem.ways[*class][*at].cost > 0.0).collect()
}

/// The cheapest choice found; `None` where every one found goes in a circle.
pub(super) fn search(problem: &Instance) -> Option<Choice> {
    search_with(problem, None)
}

/// The cheapest choice found that uses a way.
pub(super) fn search_with(problem: &Instance, forced: Option<(usize, usize)>) -> Option<Choice> {
    let bias = Bias { forced, ..Bias::default() };
    let first = fixed_point(problem, &bias);
    let mut best = match problem.seconds_with(&first, forced) {
        Some(seconds) => Best { seconds, choice: first, bias },
        None if forced.is_some() => return None,
        None => {
            let choice = trees(problem);
            Best { seconds: problem.seconds(&choice)?, choice, bias }
        }
    };
    for _ in 0..MOST_ROUNDS {
        let before = best.seconds;
        let gains = |best: &Best| best.seconds < before * (1.0 - LEAST_GAIN);
        best.give_away(problem, false);
        best.take_away(problem);
        best.take_back(problem);
        if !gains(&best) {
            best.give_away(problem, true);
        }
        if !gains(&best) {
            break;
        }
    }
    best.exchange_ways(problem);
    Some(best.choice)
}
