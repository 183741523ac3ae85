//! Weights as they lie on the device.

use super::place::{Place, Root};
use crate::extract::{ChosenValue, Extracted};
use crate::language::{Kernel, Part, Term, row_axis};
use moec_ir::plan::{PartScale, Weight, WeightPart};
use moec_ir::{Function, Ranks, TensorType};

/// The weights that a function reads: each parameter lies in one place only, alone or stacked.
pub(super) struct Weights {
    /// Parameters of each weight, stacked along their rows.
    stacks: Vec<Vec<Part>>,
    /// Those of which a rank has its own experts alone.
    spread: Vec<Vec<Part>>,
}

impl Weights {
    /// The weights that the chosen values need: of two where one is a part of the other, the
    /// whole alone.
    pub(super) fn of(extracted: &Extracted) -> Self {
        let mut stacks: Vec<Vec<Part>> = extracted
            .values
            .iter()
            .filter(|v| v.operands.is_empty() && matches!(v.node.term, Term::Math(_)))
            .filter_map(|v| v.weight.clone())
            .collect();
        stacks.sort();
        stacks.dedup();
        let all = stacks.clone();
        stacks.retain(|s| !all.iter().any(|whole| whole != s && begin_of(s, whole).is_some()));
        Self { stacks, spread: spread(extracted) }
    }

    /// Where a stack of parameters lies.
    pub(super) fn place(
        &self,
        function: &Function,
        parts: &[Part],
        ty: &TensorType,
    ) -> Option<Place> {
        let (at, begin) = self
            .stacks
            .iter()
            .enumerate()
            .find_map(|(at, whole)| begin_of(parts, whole).map(|begin| (at, begin)))?;
        let stack = &self.stacks[at];
        let axis = row_axis(ty.shape.len());
        let rows = |parts: &[Part]| -> Option<u64> {
            parts.iter().map(|p| function.params[p.param].ty.shape[axis?].constant()).sum()
        };
        let mut whole = ty.clone();
        if let Some(axis) = axis.filter(|_| stack.len() > parts.len()) {
            whole.shape[axis] = rows(stack)?.into();
            let place = Place::dense(Root::Weight(at), &whole)?;
            return Some(place.slice(axis, rows(&stack[..begin])?, rows(parts)?));
        }
        Place::dense(Root::Weight(at), &whole)
    }

    /// The plan's description of each, on one of so many ranks.
    pub(super) fn describe(&self, function: &Function, ranks: Ranks) -> Vec<Weight> {
        self.stacks
            .iter()
            .map(|stack| {
                let first = &function.params[stack[0].param].ty;
                let outer = if first.shape.len() >= 3 { first.shape[0].constant() } else { None };
                let outer = outer.unwrap_or(1);
                let spread = self.spread.iter().any(|parts| begin_of(parts, stack).is_some());
                let of = if spread { u64::from(ranks.count()).max(1) } else { 1 };
                Weight {
                    dtype: stack[0].scaled.map_or(first.dtype, |s| s.dtype),
                    outer: outer / of,
                    spread,
                    parts: stack.iter().map(|p| part(function, p)).collect(),
                }
            })
            .collect()
    }
}

/// The parameters of experts that are spread over ranks.
fn spread(extracted: &Extracted) -> Vec<Vec<Part>> {
    let of = |value: &ChosenValue| match &value.node.term {
        Term::Kernel(Kernel::SpreadExperts(spread)) => {
            let at = spread.places();
            let matrices = [Some(at.w), at.w_scale, Some(at.v), at.v_scale].into_iter().flatten();
            matrices.map(|i| value.operands[i]).collect()
        }
        _ => vec![],
    };
    let matrices = extracted.values.iter().flat_map(of);
    matrices.filter_map(|i: usize| extracted.values[i].weight.clone()).collect()
}

/// Where a run of parameters begins in another.
fn begin_of(parts: &[Part], whole: &[Part]) -> Option<usize> {
    (0..=whole.len().checked_sub(parts.len())?).find(|&i| whole[i..].starts_with(parts))
}

/// With `{e}` in its name, a tensor holds one index of the leading axis.
fn part(function: &Function, part: &Part) -> WeightPart {
    let param = &function.params[part.param];
    let scale = part
        .scaled
        .map(|s| PartScale { tensor: function.params[s.scale].tensor.clone(), block: s.block });
    let skip = usize::from(param.tensor.contains("{e}"));
    let shape = param.ty.shape.iter().skip(skip).filter_map(moec_ir::Dim::constant).collect();
    WeightPart { tensor: param.tensor.clone(), shape, scale }
}
