//! The greedy fixed point: each class takes the way whose whole sub-graph is cheapest.

use super::instance::{Choice, Instance};

/// Passes over all classes at most; choices that still swing then are as good as any.
const MOST_PASSES: usize = 24;
/// Seconds that a view costs here, so that of two free ways the shorter wins.
const VIEW_COST: f64 = 1e-12;

/// A set of classes.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn empty(classes: usize) -> Self {
        Self(vec![0; classes.div_ceil(64)])
    }

    fn holds(&self, class: usize) -> bool {
        self.0[class / 64] >> (class % 64) & 1 == 1
    }

    fn insert(&mut self, class: usize) {
        self.0[class / 64] |= 1 << (class % 64);
    }

    fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Sum of a quantity over the classes.
    fn sum(&self, of: &[f64]) -> f64 {
        let mut total = 0.0;
        for (at, word) in self.0.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                total += of[at * 64 + rest.trailing_zeros() as usize];
                rest &= rest - 1;
            }
        }
        total
    }
}

/// Ways, as pairs of class and way, that are not what they are.
#[derive(Clone, Default)]
pub(super) struct Bias {
    /// Taken as free.
    pub(super) free: Vec<(usize, usize)>,
    /// Not taken where there is another.
    pub(super) banned: Vec<(usize, usize)>,
    /// Taken wherever it can be, with all that reads it.
    pub(super) forced: Option<(usize, usize)>,
}

/// What a banned way costs: more than any plan.
const BANNED_COST: f64 = 1e6;

/// The fixed point with some ways taken as free and some as too dear.
///
/// A class's cost is the sum over all classes below it, each once, so that shared values are
/// counted once within each class's own sub-graph (but sharing between siblings is only seen
/// where they meet; that is what the search is for).
pub(super) fn fixed_point(problem: &Instance, bias: &Bias) -> Choice {
    let n = problem.ways.len();
    let mut choice: Vec<Option<usize>> = vec![None; n];
    let mut own = vec![0.0; n];
    let mut below = vec![Set::empty(n); n];
    let mut scratch = Set::empty(n);
    for _ in 0..MOST_PASSES {
        let mut changed = false;
        for (class, ways) in problem.ways.iter().enumerate() {
            let mut best: Option<(f64, usize, f64)> = None;
            for (at, way) in ways.iter().enumerate() {
                let ready = way
                    .operands
                    .iter()
                    .all(|&operand| choice[operand].is_some() && !below[operand].holds(class));
                if !ready {
                    continue;
                }
                scratch.clear();
                way.operands.iter().for_each(|&operand| scratch.join(&below[operand]));
                let cost = match (class, at) {
                    way if bias.forced == Some(way) => -BANNED_COST,
                    way if bias.free.contains(&way) => 0.0,
                    way if bias.banned.contains(&way) => BANNED_COST,
                    _ => way.cost,
                } + VIEW_COST;
                let total = cost + scratch.sum(&own);
                if best.is_none_or(|(least, _, _)| total < least) {
                    best = Some((total, at, cost));
                }
            }
            let Some((_, at, cost)) = best else { continue };
            scratch.clear();
            for &operand in &ways[at].operands {
                scratch.join(&below[operand]);
            }
            scratch.insert(class);
            if choice[class] != Some(at) || below[class] != scratch {
                changed = true;
                choice[class] = Some(at);
                own[class] = cost;
                below[class].clone_from(&scratch);
            }
        }
        if !changed {
            break;
        }
    }
    choice.into_iter().map(Option::unwrap_or_default).collect()
}

/// The cheapest tree of each class, which never goes in a circle; for when the fixed point does.
pub(super) fn trees(problem: &Instance) -> Choice {
    let n = problem.ways.len();
    let mut best: Vec<Option<(f64, usize)>> = vec![None; n];
    loop {
        let mut changed = false;
        for (class, ways) in problem.ways.iter().enumerate() {
            for (at, way) in ways.iter().enumerate() {
                let parts: Option<f64> =
                    way.operands.iter().map(|&o| best[o].map(|(cost, _)| cost)).sum();
                let Some(parts) = parts else { continue };
                let total = parts + way.cost + VIEW_COST;
                if best[class].is_none_or(|(least, _)| total < least) {
                    best[class] = Some((total, at));
                    changed = true;
                }
            }
        }
        if !changed {
            return best.into_iter().map(|b| b.map_or(0, |(_, at)| at)).collect();
        }
    }
}
