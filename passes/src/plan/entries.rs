//! Values that flow between functions, and the memory they share.

use moec_ir::graph::{Entry, ValueId};
use moec_ir::plan::{PlanEntry, PlanValue};
use moec_ir::{Graph, TensorType};

/// Plans one entry. A function reads its inputs while it writes its outputs, so the two never
/// share memory; what the caller provides is never written.
pub(crate) fn plan_entry(graph: &Graph, entry: &Entry) -> PlanEntry {
    let types = value_types(graph, entry);
    let last = last_uses(entry, types.len());
    let mut storages: Vec<(TensorType, usize)> = vec![];
    let mut values: Vec<PlanValue> = vec![];
    let mut place = |ty: &TensorType, storage: usize| {
        values.push(PlanValue { dtype: ty.dtype, shape: ty.shape.clone(), storage });
    };
    for (at, ty) in entry.inputs.iter().enumerate() {
        storages.push((ty.clone(), usize::MAX));
        place(ty, at);
    }
    for (at, step) in entry.steps.iter().enumerate() {
        for output in &step.outputs {
            let ty = &types[output.0];
            let free = storages.iter().position(|(held, until)| held == ty && *until < at);
            let storage = free.unwrap_or(storages.len());
            if free.is_none() {
                storages.push((ty.clone(), 0));
            }
            // A value that nobody reads lives while it is written.
            storages[storage].1 = last[output.0].max(at);
            place(ty, storage);
        }
    }
    PlanEntry {
        name: entry.name.clone(),
        values,
        inputs: (0..entry.inputs.len()).map(ValueId).collect(),
        steps: entry.steps.clone(),
        outputs: entry.outputs.clone(),
    }
}

fn value_types(graph: &Graph, entry: &Entry) -> Vec<TensorType> {
    let mut types = entry.inputs.clone();
    for step in &entry.steps {
        let function = &graph.functions[step.function];
        types.extend(function.outputs.iter().map(|o| function.node(*o).ty.clone()));
    }
    types
}

/// The last step that reads each value; beyond all steps for what the entry returns.
fn last_uses(entry: &Entry, n_values: usize) -> Vec<usize> {
    let mut last = vec![0; n_values];
    for (at, step) in entry.steps.iter().enumerate() {
        step.inputs.iter().for_each(|v| last[v.0] = at);
    }
    entry.outputs.iter().for_each(|v| last[v.0] = usize::MAX);
    last
}
