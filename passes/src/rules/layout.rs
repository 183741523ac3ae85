//! Pieces side by side, and their slices.

use crate::language::Node;
use crate::language::Term;
use crate::pattern::Rewriter;
use egg::Id;
use moec_ir::Op;

/// A slice that lies in one piece of a concatenation is a slice of that piece.
pub(super) fn slice_of_concat(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    for (piece, slice) in in_pieces(rw, node) {
        if let Some(equal) = rw.math(slice, vec![piece]) {
            rw.equate(class, equal);
        }
    }
}

/// The operand is pieces side by side along the slice's axis, one of which holds all of it.
pub(super) fn lies_in_one_piece(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    !in_pieces(rw, node).is_empty()
}

/// The pieces that hold all of a slice, and the slice of each.
fn in_pieces(rw: &Rewriter<'_>, node: &Node) -> Vec<(Id, Op)> {
    let Term::Math(Op::Slice { axis, start, len }) = node.term else { return vec![] };
    let mut found = vec![];
    for concat in rw.nodes(node.children[0], "concat") {
        if concat.term != Term::Math(Op::Concat { axis }) {
            continue;
        }
        let mut begin = 0;
        for piece in concat.children {
            let Some(size) = rw.ty(piece).shape[axis].constant() else { break };
            if begin <= start && start + len <= begin + size {
                found.push((piece, Op::Slice { axis, start: start - begin, len }));
            }
            begin += size;
        }
    }
    found
}

/// Neighbouring slices of one value, side by side, are one slice.
pub(super) fn concat_of_slices(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    for (whole, slice) in joined(rw, node) {
        if let Some(equal) = rw.math(slice, vec![whole]) {
            rw.equate(class, equal);
        }
    }
}

/// The pieces are slices of one value, each of which begins where the one before it ends.
pub(super) fn pieces_are_neighbours(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    !joined(rw, node).is_empty()
}

/// The values of which pieces side by side are one slice, and that slice.
fn joined(rw: &Rewriter<'_>, node: &Node) -> Vec<(Id, Op)> {
    let Term::Math(Op::Concat { axis }) = node.term else { return vec![] };
    let mut found = vec![];
    for (whole, start) in slices_along(rw, node.children[0], axis) {
        let mut end = start;
        let continues = |piece: &Id| {
            let here = slices_along(rw, *piece, axis).contains(&(whole, end));
            end += rw.ty(*piece).shape[axis].constant().filter(|_| here)?;
            Some(())
        };
        if node.children.iter().map(continues).collect::<Option<()>>().is_some() {
            found.push((whole, Op::Slice { axis, start, len: end - start }));
        }
    }
    found
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
