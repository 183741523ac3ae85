//! Pieces side by side, and their slices.

use crate::language::Node;
use crate::language::Term;
use crate::pattern::Rewriter;
use egg::Id;
use moec_ir::Op;

/// A slice that lies in one piece of a concatenation is a slice of that piece.
pub(super) fn slice_of_concat(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    let Term::Math(Op::Slice { axis, start, len }) = node.term else { return };
    for concat in rw.nodes(node.children[0], "concat") {
        if concat.term != Term::Math(Op::Concat { axis }) {
            continue;
        }
        let mut begin = 0;
        for piece in concat.children {
            let Some(size) = rw.ty(piece).shape[axis].constant() else { break };
            if begin <= start && start + len <= begin + size {
                let slice = Op::Slice { axis, start: start - begin, len };
                if let Some(equal) = rw.math(slice, vec![piece]) {
                    rw.equate(class, equal);
                }
            }
            begin += size;
        }
    }
}

/// Neighbouring slices of one value, side by side, are one slice.
pub(super) fn concat_of_slices(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    let Term::Math(Op::Concat { axis }) = node.term else { return };
    for (whole, first) in slices_along(rw, node.children[0], axis) {
        let mut end = first;
        for piece in &node.children {
            let Some(size) = rw.ty(*piece).shape[axis].constant() else { return };
            if !slices_along(rw, *piece, axis).contains(&(whole, end)) {
                break;
            }
            end += size;
        }
        let total = rw.ty(class).shape[axis].constant();
        if total == Some(end - first) {
            let slice = Op::Slice { axis, start: first, len: end - first };
            if let Some(equal) = rw.math(slice, vec![whole]) {
                rw.equate(class, equal);
            }
        }
    }
}

/// The values of which a class is a slice along an axis, and where it begins in each.
fn slices_along(rw: &Rewriter<'_>, class: Id, axis: usize) -> Vec<(Id, u64)> {
    rw.nodes(class, "slice")
        .into_iter()
        .filter_map(|n| match n.term {
            Term::Math(Op::Slice { axis: a, start, .. }) if a == axis => {
                Some((rw.egraph.find(n.children[0]), start))
            }
            _ => None,
        })
        .collect()
}
