//! Routers as one kernel.

use crate::language::{Kernel, Node, Router, Term};
use crate::pattern::Rewriter;
use egg::Id;
use moec_ir::graph::{BinaryFn, ReduceFn};
use moec_ir::kernel::Scoring;
use moec_ir::{DType, Op, Real};

/// Experts that a warp holds in registers.
const MOST_EXPERTS: u64 = 1024;

/// From a choice back to the logits and on to the weights. What is stored in between must be
/// float32, as the kernel keeps it: rounding would decide between near experts.
pub(super) fn join(rw: &mut Rewriter<'_>, chosen: Id, node: &Node) {
    let Term::Math(Op::TopK { k, groups }) = node.term else { return };
    let key = node.children[0];
    for (score, bias) in keys(rw, key) {
        let Some(weights) = weights(rw, score, chosen) else { continue };
        for (scoring, logits) in logits(rw, score) {
            let Weights { class, normalize, scale } = weights;
            let router = Router { scoring, k, groups, normalize, scale };
            let operands = [logits].into_iter().chain(bias).collect();
            let kernel = Term::Kernel(Kernel::Router(router));
            let Some(both) = rw.add(kernel, DType::I32, operands) else { continue };
            let dtype = rw.ty(class).dtype;
            let first = rw.add(Term::First, DType::I32, vec![both]);
            let second = rw.add(Term::Second { per: 1 }, dtype, vec![both]);
            if let (Some(first), Some(second)) = (first, second) {
                rw.equate(chosen, first);
                rw.equate(class, second);
            }
        }
    }
}

/// Rounded scores would decide between near experts.
pub(super) fn scores_are_f32(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    is_f32(rw, node.children[0])
}

/// A warp holds the scores of all experts.
pub(super) fn experts_fit_a_warp(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    let n_experts = rw.ty(node.children[0]).shape.last().and_then(moec_ir::Dim::constant);
    n_experts.is_some_and(|n| n <= MOST_EXPERTS)
}

/// The scores, without the bias of the choice, are float32 and picked to be weights.
pub(super) fn chosen_scores_become_weights(rw: &Rewriter<'_>, class: Id, node: &Node) -> bool {
    let known = |score| weights(rw, score, class).is_some() && !logits(rw, score).is_empty();
    keys(rw, node.children[0]).into_iter().any(|(score, _)| known(score))
}

fn is_f32(rw: &Rewriter<'_>, class: Id) -> bool {
    rw.ty(class).dtype == DType::F32
}

/// What the key of the choice may be: a score, or a score and a bias for each expert.
fn keys(rw: &Rewriter<'_>, key: Id) -> Vec<(Id, Option<Id>)> {
    let mut found = vec![(key, None)];
    for sum in rw.nodes(key, "add") {
        for (score, bias) in [(0, 1), (1, 0)] {
            let (score, bias) = (sum.children[score], sum.children[bias]);
            let (of_experts, all) = (&rw.ty(bias).shape, &rw.ty(key).shape);
            if of_experts.len() == 1
                && of_experts.last() == all.last()
                && rw.ty(score).shape == *all
            {
                found.push((score, Some(bias)));
            }
        }
    }
    found
}

fn logits(rw: &Rewriter<'_>, score: Id) -> Vec<(Scoring, Id)> {
    let by = |name, scoring| {
        rw.nodes(score, name).into_iter().map(move |n: Node| (scoring, n.children[0]))
    };
    let sigmoid = by("sigmoid", Scoring::Sigmoid);
    let all: Vec<_> = sigmoid.chain(by("softmax", Scoring::Softmax)).collect();
    if is_f32(rw, score) { all } else { vec![] }
}

/// The weights that the model makes of the chosen scores.
#[derive(Clone, Copy)]
struct Weights {
    class: Id,
    normalize: bool,
    scale: Real,
}

/// Follows the chosen scores as far as they are read by nothing but the next step of a router.
fn weights(rw: &Rewriter<'_>, score: Id, chosen: Id) -> Option<Weights> {
    let readers = rw.readers(chosen);
    let is_pick = |n: &Node| {
        matches!(n.term, Term::Math(Op::Pick))
            && rw.egraph.find(n.children[0]) == rw.egraph.find(score)
    };
    let class = readers.iter().find(|(_, n)| is_pick(n)).map(|(class, _)| *class)?;
    let picked = Weights { class, normalize: false, scale: Real(1.0) };
    let normalized = normalized(rw, class).filter(|_| is_f32(rw, class));
    let weights = normalized.map_or(picked, |class| Weights { class, normalize: true, ..picked });
    let scaled = scaled(rw, weights.class).filter(|_| is_f32(rw, weights.class));
    Some(scaled.map_or(weights, |(class, scale)| Weights { class, scale, ..weights }))
}

/// `div(p, reduce[sum](p))`, if that is all that reads `p`.
fn normalized(rw: &Rewriter<'_>, picked: Id) -> Option<Id> {
    let readers = rw.readers(picked);
    let is_sum = |n: &Node| matches!(n.term, Term::Math(Op::Reduce(ReduceFn::Sum)));
    let (sum, _) = readers.iter().find(|(_, n)| is_sum(n))?;
    let is_share = |n: &Node| {
        matches!(n.term, Term::Math(Op::Binary(BinaryFn::Div)))
            && rw.egraph.find(n.children[0]) == rw.egraph.find(picked)
            && rw.egraph.find(n.children[1]) == *sum
    };
    let (share, _) = readers.iter().find(|(_, n)| is_share(n))?;
    let only = readers.len() == 2 && rw.readers(*sum).len() == 1 && is_f32(rw, *sum);
    only.then_some(*share)
}

/// `mul(x, a)` by a number, if that is all that reads `x`.
fn scaled(rw: &Rewriter<'_>, weights: Id) -> Option<(Id, Real)> {
    let readers = rw.readers(weights);
    let (class, node) = readers.first_key_value().filter(|_| readers.len() == 1)?;
    if !matches!(node.term, Term::Math(Op::Binary(BinaryFn::Mul))) {
        return None;
    }
    let factor = node.children.iter().find_map(|c| rw.data(*c).constant)?;
    Some((*class, factor))
}
