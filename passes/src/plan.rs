//! Plan construction: from chosen kernels to launches, views, buffers and values.
//!
//! Before: an extracted function. After: launches in an order in which every operand is written
//! before it is read, with every operand an address and a view. A view of memory is free where
//! strides express it; where they do not, a copy is launched.

mod allocate;
mod emit;
mod entries;
mod homes;
mod kernels;
mod labels;
mod place;
mod weights;

pub(crate) use entries::plan_entry;

use crate::cost::{CostModel, Estimate};
use crate::extract::Extracted;
use indexmap::{IndexMap, IndexSet};
use moec_ir::kernel::exchange::Region;
use moec_ir::kernel::{Exchange, KernelSpec};
use moec_ir::plan::{Kernel, PlanCache, PlanFunction, Symmetric};
use moec_ir::{DType, Diagnostic, Function};
use std::collections::BTreeMap;

/// The distinct kernels of a plan, in order of first use, with their names: family and number.
#[derive(Debug, Default)]
pub(crate) struct KernelTable {
    kernels: IndexMap<KernelSpec, String>,
    counts: BTreeMap<&'static str, usize>,
    /// What ranks exchange; each has all regions, one after the other.
    exchanges: IndexSet<Exchange>,
}

impl KernelTable {
    /// The index of a kernel.
    pub(crate) fn intern(&mut self, spec: KernelSpec) -> usize {
        if let Some(at) = self.kernels.get_index_of(&spec) {
            return at;
        }
        let count = self.counts.entry(spec.family()).or_default();
        let name = format!("{}_{count}", spec.family());
        *count += 1;
        self.kernels.insert_full(spec, name).0
    }

    /// The name of a kernel.
    pub(crate) fn name(&self, kernel: usize) -> String {
        self.kernels.get_index(kernel).map(|(_, name)| name.clone()).unwrap_or_default()
    }

    /// The number of a region of an exchange among the memory that ranks share.
    pub(crate) fn symmetric(&mut self, exchange: &Exchange, region: Region) -> usize {
        let (at, _) = self.exchanges.insert_full(exchange.clone());
        at * Region::ALL.len() + region as usize
    }

    /// The memory that ranks share.
    pub(crate) fn shared_memory(&self) -> Vec<Symmetric> {
        let regions = self.exchanges.iter().flat_map(|e| Region::ALL.map(|r| (e, r)));
        let described = |(exchange, region): (&Exchange, Region)| Symmetric {
            name: region.name().to_owned(),
            bytes: exchange.region_bytes(region),
        };
        regions.map(described).collect()
    }

    /// The kernels, in order.
    pub(crate) fn finish(self) -> Vec<Kernel> {
        let kernels = self.kernels.into_iter();
        kernels.map(|(spec, name)| Kernel { name, spec, geometry: None, reads: vec![] }).collect()
    }
}

/// A function's launches and what each is predicted to take.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The launches and their buffers.
    pub(crate) function: PlanFunction,
    /// What each launch costs.
    pub(crate) costs: Vec<Estimate>,
}

/// Plans one function.
///
/// # Errors
/// E0803 where a value has a layout that no kernel can address.
pub(crate) fn plan_function(
    function: &Function,
    extracted: &Extracted,
    cost: &CostModel,
    kernels: &mut KernelTable,
) -> Result<Planned, Diagnostic> {
    let emitted = emit::emit(function, extracted, cost, kernels)?;
    let (workspace, launches) = allocate::allocate(&emitted, cost);
    let caches = function.caches.iter().map(|c| {
        let (dtype, row) = match c.packed.and_then(|packed| packed.layout(&c.ty)) {
            Some(layout) => (DType::F8e4m3, layout.bytes),
            None => (c.ty.dtype, c.ty.elements().constant().unwrap_or(0)),
        };
        PlanCache { name: c.name.clone(), dtype, row }
    });
    let function = PlanFunction {
        name: function.name.clone(),
        weights: emitted.weights,
        caches: caches.collect(),
        tables: emitted.tables.into_iter().collect(),
        workspace,
        launches,
    };
    Ok(Planned { function, costs: emitted.costs })
}
