//! Decides where values are written, so that outputs and pieces of concatenations need no copy.

use super::place::{Place, Root};
use crate::extract::Extracted;
use crate::language::{Kernel, Term};
use moec_ir::{Op, TensorType};

/// The place that each value should be written to, where anything but a temporary of its own.
/// `fresh` numbers new temporaries.
pub(super) fn assign(
    extracted: &Extracted,
    fresh: &mut impl FnMut(&TensorType) -> usize,
) -> Vec<Option<Place>> {
    let mut homes: Vec<Option<Place>> = vec![None; extracted.values.len()];
    for (at, &output) in extracted.outputs.iter().enumerate() {
        if let Some(place) = Place::dense(Root::Output(at), &extracted.values[output].ty) {
            settle(extracted, &mut homes, output, place);
        }
    }
    // Users before operands: the pieces of a piece find its place decided.
    for at in (0..extracted.values.len()).rev() {
        let value = &extracted.values[at];
        let Some(Kernel::Concat { axis }) = value.node.as_kernel() else { continue };
        if homes[at].is_none() {
            homes[at] = Place::dense(Root::Temp(fresh(&value.ty)), &value.ty);
        }
        let Some(whole) = homes[at].clone() else { continue };
        let mut start = 0;
        for &piece in &value.operands {
            let Some(len) = extracted.values[piece].ty.shape[*axis].constant() else { break };
            settle(extracted, &mut homes, piece, whole.slice(*axis, start, len));
            start += len;
        }
    }
    homes
}

/// Gives a value a home, or the value that it is a view of, if its kernel can write there.
fn settle(extracted: &Extracted, homes: &mut [Option<Place>], value: usize, place: Place) {
    let chosen = &extracted.values[value];
    match &chosen.node.term {
        Term::Kernel(Kernel::Scatter | Kernel::AppendLatent { .. } | Kernel::AddRmsNorm { .. }) => {
        }
        Term::Kernel(_) | Term::First | Term::Second { .. } | Term::Third => {
            homes[value].get_or_insert(place);
        }
        Term::Math(Op::Reshape(_)) => {
            let inner = chosen.operands[0];
            if let Some(place) = place.reshape(&extracted.values[inner].ty.shape) {
                settle(extracted, homes, inner, place);
            }
        }
        Term::Math(Op::Transpose(order)) => {
            let mut back = vec![0; order.len()];
            order.iter().enumerate().for_each(|(to, &from)| back[from] = to);
            settle(extracted, homes, chosen.operands[0], place.transpose(&back));
        }
        _ => {}
    }
}
