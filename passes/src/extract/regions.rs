//! Splits a problem where it can be split without loss.
//!
//! Where few classes stand between what is below and what is above (the residual stream between
//! two layers, say), and every solution needs each of them, what is best below does not depend
//! on what is chosen above. Such parts are solved one by one, which keeps the time near linear
//! in the number of layers that a function holds.

use super::instance::{Choice, Instance, Way};

/// Classes that a part holds at least: smaller ones gain nothing.
const LEAST_CLASSES: usize = 24;
/// Classes between two parts at most: a sum and its norm.
const MOST_BETWEEN: usize = 2;

/// Solves a problem part by part; `None` where a part has no solution.
pub(super) fn by_regions(
    whole: &Instance,
    solve: impl Fn(&Instance) -> Option<Choice>,
) -> Option<Choice> {
    let order = whole.completion_order(&[]);
    let mut choice = vec![0; whole.ways.len()];
    let mut begin = 0;
    for Cut { end, between } in cuts(whole, &order) {
        let members = &order[begin..end];
        let (part, numbers) = part(whole, members, &order[..begin], &between);
        for (at, way) in solve(&part)?.into_iter().take(members.len()).enumerate() {
            choice[members[at]] = numbers[at][way];
        }
        begin = end;
    }
    Some(choice)
}

/// A place in the order, and the classes before it that are used behind it.
struct Cut {
    end: usize,
    between: Vec<usize>,
}

/// Where to cut an order; the last is its end.
fn cuts(whole: &Instance, order: &[usize]) -> Vec<Cut> {
    let free = free(whole);
    let last_use = last_uses(whole, order);
    let (mut found, mut begin) = (vec![], 0);
    let mut open: Vec<usize> = vec![];
    for (at, &class) in order.iter().enumerate() {
        open.retain(|c| last_use[*c] > at);
        if !free[class] && last_use[class] > at {
            open.push(class);
        }
        let needed = |class: &usize| {
            let without = whole.completion_order(&[*class]);
            whole.roots.iter().any(|root| !without.contains(root))
        };
        // No way leads through what lies behind, but such as go in a circle.
        let is_closed = || {
            order[begin..=at].iter().all(|class| {
                let operands = whole.ways[*class].iter().flat_map(|w| &w.operands);
                let behind = operands.filter(|o| !order[..=at].contains(o));
                let behind: Vec<&usize> = behind.collect();
                let without = || whole.completion_order(&[*class]);
                behind.is_empty() || !without().iter().any(|o| behind.contains(&o))
            })
        };
        let worth = at + 1 - begin >= LEAST_CLASSES && open.len() <= MOST_BETWEEN;
        if worth && open.iter().all(needed) && is_closed() {
            found.push(Cut { end: at + 1, between: open.clone() });
            begin = at + 1;
        }
    }
    if begin < order.len() {
        found.push(Cut { end: order.len(), between: whole.roots.clone() });
    }
    found
}

/// The place of the last class that could use each class; beyond all places for roots.
fn last_uses(whole: &Instance, order: &[usize]) -> Vec<usize> {
    let mut last = vec![0; whole.ways.len()];
    for (at, &class) in order.iter().enumerate() {
        for operand in whole.ways[class].iter().flat_map(|w| &w.operands) {
            last[*operand] = at;
        }
    }
    whole.roots.iter().for_each(|root| last[*root] = usize::MAX);
    last
}

/// The classes that can be had for nothing: leaves and views of them.
fn free(whole: &Instance) -> Vec<bool> {
    let mut free = vec![false; whole.ways.len()];
    loop {
        let before = free.iter().filter(|f| **f).count();
        for (class, ways) in whole.ways.iter().enumerate() {
            let for_nothing = |w: &Way| w.cost == 0.0 && w.operands.iter().all(|o| free[*o]);
            free[class] = free[class] || ways.iter().any(for_nothing);
        }
        if free.iter().filter(|f| **f).count() == before {
            return free;
        }
    }
}

/// The problem of one part: its classes first, then those of the parts before it that it uses,
/// which cost nothing; and the number in the whole of each class's ways, since ways through
/// later parts are left out.
fn part(
    whole: &Instance,
    members: &[usize],
    before: &[usize],
    between: &[usize],
) -> (Instance, Vec<Vec<usize>>) {
    let mut number = vec![None; whole.ways.len()];
    members.iter().enumerate().for_each(|(at, class)| number[*class] = Some(at));
    let mut solved = vec![false; whole.ways.len()];
    before.iter().for_each(|class| solved[*class] = true);
    let mut n = members.len();
    let (mut ways, mut numbers) = (vec![], vec![]);
    for class in members {
        let (mut kept, mut own) = (vec![], vec![]);
        for (at, way) in whole.ways[*class].iter().enumerate() {
            let within = |o: &usize| solved[*o] || number[*o].is_some_and(|i| i < members.len());
            if !way.operands.iter().all(within) {
                continue;
            }
            let mut operands = Vec::with_capacity(way.operands.len());
            for operand in &way.operands {
                operands.push(*number[*operand].get_or_insert_with(|| {
                    n += 1;
                    n - 1
                }));
            }
            operands.sort_unstable();
            kept.push(at);
            own.push(Way { cost: way.cost, operands });
        }
        ways.push(own);
        numbers.push(kept);
    }
    ways.resize_with(n, || vec![Way { cost: 0.0, operands: vec![] }]);
    let roots = between.iter().filter_map(|c| number[*c]).filter(|at| *at < members.len());
    (Instance { roots: roots.collect(), ways }, numbers)
}
