//! Products that read the same operand become one product.

use crate::language::{Node, Part, row_axis};
use crate::pattern::Rewriter;
use egg::Id;
use moec_ir::Op;

/// `linear(x, w1)`, `linear(x, w2)`, .. are slices of one `linear(x, concat(w1, w2, ..))`; the
/// same for experts chosen alike.
///
/// Only whole parameters are stacked, all at once and in their order, so that the rule makes one
/// new product for each operand and never stacks stacks.
pub(super) fn share_operand(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    let group = siblings(rw, node);
    let leads = group.first().is_some_and(|(_, first, _)| *first == class_of(rw, class));
    if group.len() < 2 || !leads {
        return;
    }
    let weights: Vec<Id> = group.iter().map(|(_, _, w)| *w).collect();
    let Some(axis) = row_axis(rw.ty(weights[0]).shape.len()) else { return };
    let Some(stacked) = rw.math(Op::Concat { axis }, weights.clone()) else { return };
    let mut operands = node.children.clone();
    operands[1] = stacked;
    let Some(product) = rw.add(node.term.clone(), node.dtype, operands) else { return };
    let last = rw.ty(product).shape.len() - 1;
    let mut start = 0;
    for (_, member, weight) in group {
        let Some(len) = rw.ty(weight).shape[axis].constant() else { return };
        let slice = Op::Slice { axis: last, start, len };
        if let Some(equal) = rw.math(slice, vec![product]) {
            rw.equate(member, equal);
        }
        start += len;
    }
}

/// Another parameter multiplies the same operand.
pub(super) fn another_weight_multiplies_it(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    siblings(rw, node).len() >= 2
}

fn class_of(rw: &Rewriter<'_>, id: Id) -> Id {
    rw.egraph.find(id)
}

/// The products of the same kind and type that differ from `node` in their weight alone, with
/// the parameter, the class and the weight of each, by parameter.
fn siblings(rw: &Rewriter<'_>, node: &Node) -> Vec<(Part, Id, Id)> {
    let find = |id: &Id| rw.egraph.find(*id);
    let operand = find(&node.children[0]);
    let weight_type = rw.ty(node.children[1]);
    let mut found = vec![];
    for parent in rw.egraph[operand].parents() {
        let class = find(&parent);
        for other in &rw.egraph[class].nodes {
            let alike = other.term == node.term
                && other.dtype == node.dtype
                && find(&other.children[0]) == operand
                && other.children[2..].iter().map(find).eq(node.children[2..].iter().map(find));
            if !alike {
                continue;
            }
            let weight = find(&other.children[1]);
            let data = rw.data(weight);
            let stackable = data.ty.dtype == weight_type.dtype
                && data.ty.shape.first() == outer(&weight_type.shape, &data.ty.shape)
                && data.ty.shape.last() == weight_type.shape.last();
            if let (true, Some([part])) = (stackable, data.weight.as_deref()) {
                found.push((*part, class, weight));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// What the outermost size must be: the number of experts where there are any.
fn outer<'a>(wanted: &'a [moec_ir::Dim], given: &'a [moec_ir::Dim]) -> Option<&'a moec_ir::Dim> {
    if wanted.len() == 3 { wanted.first() } else { given.first() }
}
