//! The true optimum, as an integer linear program: for tests, which hold the search against it.
//!
//! A variable for each way says whether it is taken. A root takes one; a way that is taken needs
//! a way of each of its operands; the sum of costs is least. Choices that go in a circle are
//! forbidden when a solution has them.

use super::instance::{Choice, Instance, Way};
use good_lp::{
    Expression, Solution, SolverModel, Variable, constraint, microlp, variable, variables,
};

/// Solutions tried, each without the circles of those before it.
const MOST_ROUNDS: usize = 400;

/// A problem without what cannot matter, and the number of each way in the whole.
struct Reduced {
    instance: Instance,
    numbers: Vec<Vec<usize>>,
    /// The way of each class that costs nothing, whatever else is chosen.
    free: Vec<Option<usize>>,
}

/// The cheapest choice and its seconds; `None` where there is none, or none was found in time.
pub(super) fn optimum(whole: &Instance) -> Option<(f64, Choice)> {
    let reduced = reduce(whole);
    let mut circles: Vec<Vec<(usize, usize)>> = vec![];
    for _ in 0..MOST_ROUNDS {
        let choice = solve(&reduced.instance, &circles)?;
        match circle(&reduced, &choice) {
            Some(circle) => circles.push(circle),
            None => {
                let full = reduced.in_whole(&choice);
                return Some((whole.seconds(&full)?, full));
            }
        }
    }
    None
}

impl Reduced {
    fn in_whole(&self, choice: &[Option<usize>]) -> Choice {
        let way = |(class, taken): (usize, &Option<usize>)| match (self.free[class], taken) {
            (Some(free), _) => free,
            (None, Some(way)) => self.numbers[class][*way],
            (None, None) => 0,
        };
        choice.iter().enumerate().map(way).collect()
    }
}

/// Leaves out classes that cost nothing, and ways that cost no less and need no less than others.
fn reduce(whole: &Instance) -> Reduced {
    let mut free: Vec<Option<usize>> = vec![None; whole.ways.len()];
    loop {
        let before = free.iter().flatten().count();
        for (class, ways) in whole.ways.iter().enumerate() {
            let for_nothing =
                |w: &Way| w.cost == 0.0 && w.operands.iter().all(|o| free[*o].is_some());
            free[class] = free[class].or(ways.iter().position(for_nothing));
        }
        if free.iter().flatten().count() == before {
            break;
        }
    }
    let (mut ways, mut numbers) = (vec![], vec![]);
    for (class, all) in whole.ways.iter().enumerate() {
        let needs = |way: &Way| -> Vec<usize> {
            way.operands.iter().copied().filter(|o| free[*o].is_none()).collect()
        };
        let open = free[class].is_none();
        let mut kept: Vec<(usize, Way)> = vec![];
        for (at, way) in all.iter().enumerate().filter(|_| open) {
            let way = Way { cost: way.cost, operands: needs(way) };
            let beats = |a: &Way, b: &Way| {
                a.cost <= b.cost && a.operands.iter().all(|o| b.operands.contains(o))
            };
            if !kept.iter().any(|(_, other)| beats(other, &way)) {
                kept.retain(|(_, other)| !beats(&way, other));
                kept.push((at, way));
            }
        }
        let (own, kept): (Vec<usize>, Vec<Way>) = kept.into_iter().unzip();
        numbers.push(own);
        ways.push(kept);
    }
    let roots = whole.roots.iter().copied().filter(|root| free[*root].is_none()).collect();
    Reduced { instance: Instance { ways, roots }, numbers, free }
}

fn solve(problem: &Instance, circles: &[Vec<(usize, usize)>]) -> Option<Vec<Option<usize>>> {
    let mut variables = variables!();
    let taken: Vec<Vec<Variable>> = problem
        .ways
        .iter()
        .map(|ways| ways.iter().map(|_| variables.add(variable().binary())).collect())
        .collect();
    let sum = |of: &mut dyn Iterator<Item = Variable>| of.fold(Expression::from(0.0), |s, v| s + v);
    let mut cost = Expression::from(0.0);
    for (ways, taken) in problem.ways.iter().zip(&taken) {
        for (way, variable) in ways.iter().zip(taken) {
            // In microseconds: solvers compare with absolute tolerances.
            cost += way.cost * 1e6 * *variable;
        }
    }
    let mut model = variables.minimise(cost).using(microlp);
    for root in &problem.roots {
        model = model.with(constraint!(sum(&mut taken[*root].iter().copied()) == 1.0));
    }
    for (class, ways) in problem.ways.iter().enumerate() {
        let mut operands: Vec<usize> = ways.iter().flat_map(|w| w.operands.clone()).collect();
        operands.sort_unstable();
        operands.dedup();
        for operand in operands {
            let users = ways.iter().zip(&taken[class]);
            let mut users = users.filter(|(w, _)| w.operands.contains(&operand)).map(|(_, v)| *v);
            let (users, there) = (sum(&mut users), sum(&mut taken[operand].iter().copied()));
            model = model.with(constraint!(users <= there));
        }
    }
    for circle in circles {
        let all = sum(&mut circle.iter().map(|(class, way)| taken[*class][*way]));
        model = model.with(constraint!(all <= circle.len() as f64 - 1.0));
    }
    let solution = model.solve().ok()?;
    let way = |ways: &Vec<Variable>| ways.iter().position(|v| solution.value(*v) > 0.5);
    Some(taken.iter().map(way).collect())
}

/// A circle of the ways that are taken below the roots.
fn circle(reduced: &Reduced, choice: &[Option<usize>]) -> Option<Vec<(usize, usize)>> {
    let mut done = vec![false; choice.len()];
    let mut path: Vec<usize> = vec![];
    fn visit(
        class: usize,
        problem: &Instance,
        choice: &[Option<usize>],
        done: &mut [bool],
        path: &mut Vec<usize>,
    ) -> Option<Vec<(usize, usize)>> {
        if let Some(from) = path.iter().position(|c| *c == class) {
            return path[from..].iter().map(|c| Some((*c, choice[*c]?))).collect();
        }
        let way = choice[class]?;
        if done[class] {
            return None;
        }
        path.push(class);
        for operand in &problem.ways[class][way].operands {
            if let Some(found) = visit(*operand, problem, choice, done, path) {
                return Some(found);
            }
        }
        path.pop();
        done[class] = true;
        None
    }
    let problem = &reduced.instance;
    problem.roots.iter().find_map(|root| visit(*root, problem, choice, &mut done, &mut path))
}
