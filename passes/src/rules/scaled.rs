//! Block-scaled FP8: dequantising as a product, and of several weights at once.

use crate::language::{Kernel, Node, Term, row_axis};
use crate::pattern::Rewriter;
use egg::Id;
use moec_ir::graph::BinaryFn;
use moec_ir::{DType, Dim, Op};

/// Rows in blocks of `c`: `mul(q, s)` with the blocks as an axis of their own. The last block of
/// a row, where it is shorter, is a product of its own. Weights are dequantised when they are
/// loaded.
pub(super) fn lower_dequantize(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    let Term::Math(Op::Dequantize { block: [1, columns] }) = node.term else { return };
    let (axis, size) = match rw.ty(class).shape.split_last() {
        Some((last, outer)) => (outer.len(), last.constant()),
        None => return,
    };
    let Some(size) = size else { return };
    let whole = size / columns * columns;
    let mut pieces = vec![];
    for (start, len) in [(0, whole), (whole, size - whole)].into_iter().filter(|(_, n)| *n > 0) {
        let blocks = (start / columns, len.div_ceil(columns));
        let Some(piece) = product(rw, node, axis, (start, len), blocks) else { return };
        pieces.push(piece);
    }
    let equal = match pieces.as_slice() {
        [one] => Some(*one),
        _ => rw.add(Term::Math(Op::Concat { axis }), node.dtype, pieces),
    };
    if let Some(equal) = equal {
        rw.equate(class, equal);
    }
}

/// A scale belongs to one row.
pub(super) fn blocks_have_one_row(_rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    matches!(node.term, Term::Math(Op::Dequantize { block: [1, _] }))
}

/// The value is not laid out when weights are loaded.
pub(super) fn is_no_weight(rw: &Rewriter<'_>, class: Id, _node: &Node) -> bool {
    rw.data(class).weight.is_none()
}

/// Columns `start .. start + len`, which have `count` scales from `first` on.
fn product(
    rw: &mut Rewriter<'_>,
    node: &Node,
    axis: usize,
    (start, len): (u64, u64),
    (first, count): (u64, u64),
) -> Option<Id> {
    let mut q = rw.math(Op::Slice { axis, start, len }, vec![node.children[0]])?;
    let mut scale =
        rw.math(Op::Slice { axis, start: first, len: count }, vec![node.children[1]])?;
    let flat = rw.ty(q).shape.clone();
    let split = |each: u64| -> Vec<Dim> {
        flat[..axis].iter().cloned().chain([count.into(), each.into()]).collect()
    };
    if count > 1 {
        q = rw.math(Op::Reshape(split(len / count)), vec![q])?;
        scale = rw.math(Op::Reshape(split(1)), vec![scale])?;
    }
    let product = Term::Math(Op::Binary(BinaryFn::Mul));
    let product = rw.add(product, node.dtype, vec![q, scale])?;
    if count > 1 { rw.math(Op::Reshape(flat), vec![product]) } else { Some(product) }
}

/// Weights side by side along their rows, where every one but the last ends with a block.
pub(super) fn dequantize_together(rw: &mut Rewriter<'_>, class: Id, node: &Node) {
    let Term::Math(Op::Concat { axis }) = node.term else { return };
    let Some((block, quantized, scales)) = dequantized(rw, axis, node) else { return };
    let concat = Term::Math(Op::Concat { axis });
    let Some(quantized) = rw.add(concat.clone(), DType::F8e4m3, quantized) else { return };
    let Some(scales) = rw.add(concat, DType::F32, scales) else { return };
    let whole = Term::Math(Op::Dequantize { block });
    if let Some(equal) = rw.add(whole, node.dtype, vec![quantized, scales]) {
        rw.equate(class, equal);
    }
}

/// Pieces `[.., rows, columns]` lie side by side along their rows, and all are parameters.
pub(super) fn is_a_stacked_weight(rw: &Rewriter<'_>, class: Id, node: &Node) -> bool {
    let along = |axis| row_axis(rw.ty(class).shape.len()) == Some(axis);
    let is_stack = matches!(node.term, Term::Math(Op::Concat { axis }) if along(axis));
    is_stack && rw.data(class).weight.is_some()
}

/// All pieces are dequantised by blocks of one size, and each but the last ends with a block.
pub(super) fn pieces_end_with_blocks(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    matches!(node.term, Term::Math(Op::Concat { axis }) if dequantized(rw, axis, node).is_some())
}

/// The block of pieces that [`pieces_end_with_blocks`], what they quantise and their scales.
fn dequantized(
    rw: &Rewriter<'_>,
    axis: usize,
    node: &Node,
) -> Option<([u64; 2], Vec<Id>, Vec<Id>)> {
    let (mut block, mut quantized, mut scales) = (None, vec![], vec![]);
    for (at, piece) in node.children.iter().enumerate() {
        let forms = rw.nodes(*piece, "dequantize");
        let form = forms.first()?;
        let Term::Math(Op::Dequantize { block: own @ [rows, _] }) = form.term else { return None };
        let size = rw.ty(*piece).shape[axis].constant();
        let ends_with_block = size.is_some_and(|n| n.is_multiple_of(rows));
        let is_last = at + 1 == node.children.len();
        if *block.get_or_insert(own) != own || !(is_last || ends_with_block) {
            return None;
        }
        quantized.push(form.children[0]);
        scales.push(form.children[1]);
    }
    Some((block?, quantized, scales))
}

/// A norm computes what is quantised.
pub(super) fn operand_is_a_norm(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    has_rows(rw, node.children[0]) && !rw.nodes(node.children[0], "rms_norm").is_empty()
}

/// A function of each element computes what is quantised.
pub(super) fn operand_is_pointwise(rw: &Rewriter<'_>, _class: Id, node: &Node) -> bool {
    has_rows(rw, node.children[0]) && !rw.nodes(node.children[0], "@pointwise").is_empty()
}

fn has_rows(rw: &Rewriter<'_>, class: Id) -> bool {
    !rw.ty(class).shape.is_empty()
}

/// What computes the operand of `quantize` or `block_scale`, where that is a `producer`, can
/// quantise it too.
pub(super) fn quantize_at_once(
    rw: &mut Rewriter<'_>,
    class: Id,
    node: &Node,
    producer: &'static str,
) {
    let (block, scales, result) = match node.term {
        Term::Math(Op::Quantize { block, scales }) => (block, scales, Term::First),
        Term::Math(Op::BlockScale { block, scales }) => {
            (block, scales, Term::Second { per: block })
        }
        _ => return,
    };
    let number = node.children[0];
    for form in rw.nodes(number, producer) {
        let kernel = match &form.term {
            Term::Math(Op::RmsNorm { eps }) => Kernel::RmsNormQuantize { eps: *eps, block, scales },
            Term::Kernel(Kernel::Pointwise(code)) => {
                Kernel::PointwiseQuantize { code: code.clone(), block, scales }
            }
            _ => continue,
        };
        let kernel = Term::Kernel(kernel);
        let Some(all) = rw.add(kernel, DType::F8e4m3, form.children.clone()) else { continue };
        let itself = rw.add(Term::Third, rw.ty(number).dtype, vec![all]);
        let result = rw.add(result.clone(), node.dtype, vec![all]);
        if let (Some(itself), Some(result)) = (itself, result) {
            rw.equate(number, itself);
            rw.equate(class, result);
        }
    }
}
