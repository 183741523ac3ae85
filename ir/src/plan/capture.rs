//! What of a step a captured sequence of launches holds fixed.

use super::{Kernel, Launch, Plan, PlanFunction};
use crate::{Dim, Sym};
use std::collections::BTreeSet;

impl Plan {
    /// The sizes that a CUDA graph captured from a step of an entry holds fixed: it is right for
    /// every later step in which these are the same, whatever the others are. `None` where there
    /// is no such entry.
    ///
    /// Any step can be captured. A plan holds nothing but launches, so that the host has nothing
    /// to wait for and nothing to reserve in between, and what changes from step to step lies in
    /// buffers of the device, whose addresses stay. A graph does fix what a launch is given by
    /// value (CUDA C++ Programming Guide, "CUDA Graphs"): its grid, its tensor maps, addresses,
    /// and the sizes that its code reads.
    pub fn fixed_by_capture(&self, entry: &str) -> Option<Vec<Sym>> {
        let entry = self.entries.iter().find(|e| e.name == entry)?;
        let called: BTreeSet<usize> = entry.steps.iter().map(|step| step.function).collect();
        let functions = called.into_iter().filter_map(|at| self.functions.get(at));
        let launches = functions.flat_map(|f: &PlanFunction| &f.launches);
        let mut fixed: BTreeSet<Sym> = BTreeSet::new();
        for Launch { kernel, operands, .. } in launches {
            fixed.extend(operands.iter().flat_map(|o| o.offset.symbols()));
            fixed.extend(self.kernels.get(*kernel).iter().flat_map(|k| k.given()));
        }
        Some(fixed.into_iter().collect())
    }
}

impl Kernel {
    /// The sizes on which its launch depends.
    fn given(&self) -> Vec<Sym> {
        let geometry = self.geometry.iter();
        let grids = geometry.clone().flat_map(|g| &g.grid).map(|extent| &extent.size);
        let maps = geometry.flat_map(|g| &g.tensor_maps).flat_map(|map| &map.dims);
        grids.chain(maps).flat_map(Dim::symbols).chain(self.reads.iter().copied()).collect()
    }
}
