//! Extraction: the cheapest kernels that compute a function, shared values counted once.
//!
//! Before: a saturated e-graph. After: one node of each class that is needed, in topological
//! order. Finding the true optimum of shared costs is NP-hard; this is a greedy fixed point
//! ([`greedy`]) and a local search over it
//! ([`search`]), part by part ([`regions`]). Not seen: copies that layout forces
//! later (a view that no strides express, a piece that cannot be written in place).

#[cfg(test)]
mod exact;
mod forced;
mod greedy;
mod instance;
mod problem;
mod regions;
mod search;
#[cfg(test)]
mod tests;

pub(crate) use problem::Problem;

use crate::cost::Estimate;
use crate::language::{Node, Part};
use egg::Id;
use moec_ir::TensorType;

/// The kernels and views that compute a function.
#[derive(Clone, Debug)]
pub(crate) struct Extracted {
    /// Operands stand before their users.
    pub(crate) values: Vec<ChosenValue>,
    /// The function's outputs.
    pub(crate) outputs: Vec<usize>,
}

/// A value and the node that was chosen to compute it.
#[derive(Clone, Debug)]
pub(crate) struct ChosenValue {
    /// The node; its children are meaningless here.
    pub(crate) node: Node,
    /// The class of the e-graph that it was chosen for.
    pub(crate) class: Id,
    /// Its operands; none for a weight that is laid out when it is loaded.
    pub(crate) operands: Vec<usize>,
    /// Type of the value.
    pub(crate) ty: TensorType,
    /// The parameters stacked, where the value is a weight.
    pub(crate) weight: Option<Vec<Part>>,
    /// What the source calls it.
    pub(crate) name: Option<String>,
    /// What computing it costs.
    pub(crate) cost: Estimate,
}

impl Problem<'_> {
    /// Whether kernels compute all that is wanted.
    pub(crate) fn is_computable(&self) -> bool {
        self.instance.is_some()
    }

    /// The cheapest solution found; `None` where some output cannot be computed by kernels.
    pub(crate) fn solve(&self) -> Option<Extracted> {
        let instance = self.instance.as_ref()?;
        let choice = regions::by_regions(instance, search::search);
        // Parts that go in no circle could together, by what is free in both.
        let sound = choice.filter(|c| instance.order(c).is_some());
        let choice = sound.or_else(|| search::search(instance))?;
        let order = instance.order(&choice)?;
        Some(self.read_off(&choice, &order))
    }
}
