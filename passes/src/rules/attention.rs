//! Attention kernels from the mathematics of attention.

use crate::language::{Kernel, Node, Term};
use crate::pattern::Rewriter;
use egg::Id;
use moec_ir::graph::BinaryFn;
use moec_ir::{Op, Real};

/// Parts that one kernel adds up at most.
const MOST_PARTS: usize = 4;

/// `mix(causal_softmax(mul(z, s)), v)`, where `z` is a sum of scores, is one kernel: scores of
/// parts that add up need not lie side by side. Keys and values are read packed, or where they
/// lie in the cache.
pub(super) fn lower_mix(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    let (weights, values) = (node.children[0], node.children[1]);
    let dtype = rw.ty(class).dtype;
    for softmax in rw.nodes(weights, "causal_softmax") {
        for (scores, scale) in scaled(rw, softmax.children[0]) {
            for parts in sums_of_scores(rw, scores, MOST_PARTS) {
                add_kernels(rw, class, dtype, &parts, values, scale);
            }
        }
    }
}

/// The weights are a softmax of a sum of scores, times a number or not.
pub(super) fn weights_are_a_softmax_of_scores(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    let softmaxes = rw.nodes(node.children[0], "causal_softmax");
    let mut scores = softmaxes.iter().flat_map(|softmax| scaled(rw, softmax.children[0]));
    scores.any(|(scores, _)| !sums_of_scores(rw, scores, MOST_PARTS).is_empty())
}

/// The forms `mul(z, s)` of a class with `s` a number, and the class itself times 1.
fn scaled(rw: &Rewriter<'_>, class: Id) -> Vec<(Id, Real)> {
    let mut found: Vec<(Id, Real)> = rw
        .nodes(class, "mul")
        .into_iter()
        .flat_map(|n| [(n.children[0], n.children[1]), (n.children[1], n.children[0])])
        .filter_map(|(z, s)| Some((z, rw.data(s).constant?)))
        .collect();
    found.push((class, Real(1.0)));
    found
}

/// All ways to write a class as a sum of `scores(q, k)`.
fn sums_of_scores(rw: &Rewriter<'_>, class: Id, most: usize) -> Vec<Vec<(Id, Id)>> {
    if most == 0 {
        return vec![];
    }
    let mut ways: Vec<Vec<(Id, Id)>> = rw
        .nodes(class, "scores")
        .into_iter()
        .map(|n| vec![(n.children[0], n.children[1])])
        .collect();
    for sum in rw.nodes(class, Term::Math(Op::Binary(BinaryFn::Add)).name()) {
        for left in sums_of_scores(rw, sum.children[0], most - 1) {
            for right in sums_of_scores(rw, sum.children[1], most - left.len()) {
                ways.push([left.as_slice(), right.as_slice()].concat());
            }
        }
    }
    ways
}

fn add_kernels(
    rw: &mut Rewriter<'_>,
    class: Id,
    dtype: moec_ir::DType,
    parts: &[(Id, Id)],
    values: Id,
    scale: Real,
) {
    let queries: Vec<Id> = parts.iter().map(|(q, _)| *q).collect();
    let packed: Vec<Id> = parts.iter().map(|(_, k)| *k).chain([values]).collect();
    let in_cache: Option<Vec<Id>> =
        packed.iter().map(|rows| rw.add(Term::InCache, rw.ty(*rows).dtype, vec![*rows])).collect();
    for (cached, rows) in [(false, Some(packed)), (true, in_cache)] {
        let Some(rows) = rows else { continue };
        let kernel = Kernel::Attention { parts: parts.len(), cached, scale };
        let operands = [queries.as_slice(), &rows].concat();
        if let Some(equal) = rw.add(Term::Kernel(kernel), dtype, operands) {
            rw.equate(class, equal);
        }
    }
}
