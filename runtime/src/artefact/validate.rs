//! Checks that every index in a plan names something, so that running it cannot go astray.

use crate::Result;
use moec_ir::plan::{Buffer, Launch, Plan, PlanEntry, PlanFunction, TensorMap, Weight};
use moec_ir::{DType, Diagnostic};

/// Checks a plan's indices, calls, geometry and formats.
///
/// Whether launches stay inside their buffers is checked by the emulator, not here.
///
/// # Errors
/// E1004, one for each fault.
pub fn validate(plan: &Plan) -> Result<()> {
    let mut faults = Vec::new();
    for kernel in &plan.kernels {
        match &kernel.geometry {
            None => faults.push(format!("kernel `{}` has no geometry", kernel.name)),
            Some(g) if g.block.iter().map(|&n| u64::from(n)).product::<u64>() > 1024 => {
                faults.push(format!("kernel `{}` has more than 1024 threads", kernel.name));
            }
            Some(g) if g.block.contains(&0) || g.grid.iter().any(|e| e.per == 0) => {
                faults.push(format!("kernel `{}` has an empty block or tile", kernel.name));
            }
            Some(g) if !g.tensor_maps.iter().all(is_whole) => {
                faults.push(format!("kernel `{}` has a broken tensor map", kernel.name));
            }
            Some(_) => {}
        }
    }
    if plan.ranks.is_none() && !plan.symmetric.is_empty() {
        faults.push("it has symmetric memory and no ranks".into());
    }
    for function in &plan.functions {
        check_function(plan, function, &mut faults);
    }
    for entry in &plan.entries {
        check_entry(plan, entry, &mut faults);
    }
    if faults.is_empty() {
        return Ok(());
    }
    let place = format!("the {} plan of `{}` is inconsistent", plan.phase, plan.model);
    Err(faults
        .into_iter()
        .map(|f| Diagnostic::error("E1004", format!("{place}: {f}")).help("build it again"))
        .collect())
}

/// Whether a tensor map's parts are as many as it has dimensions.
fn is_whole(map: &TensorMap) -> bool {
    let rank = map.dims.len();
    (1..=5).contains(&rank) && map.strides.len() == rank - 1 && map.box_dims.len() == rank
}

fn check_function(plan: &Plan, function: &PlanFunction, faults: &mut Vec<String>) {
    for (at, launch) in function.launches.iter().enumerate() {
        let place = format!("function `{}`, launch {at}", function.name);
        if launch.kernel >= plan.kernels.len() {
            faults.push(format!("{place}: there is no kernel {}", launch.kernel));
        }
        let geometry = plan.kernels.get(launch.kernel).and_then(|k| k.geometry.as_ref());
        let maps = geometry.iter().flat_map(|g| &g.tensor_maps);
        for map in maps.filter(|map| map.operand >= launch.operands.len()) {
            faults.push(format!("{place}: there is no operand {}", map.operand));
        }
        for operand in &launch.operands {
            let (what, index, count) = match operand.buffer {
                Buffer::Workspace(i) => ("workspace", i, function.workspace.len()),
                Buffer::Weight(i) => ("weight", i, function.weights.len()),
                Buffer::Cache(i) => ("cache", i, function.caches.len()),
                Buffer::Table(i) => ("table", i, function.tables.len()),
                Buffer::Symmetric(i) => ("symmetric buffer", i, plan.symmetric.len()),
                // The caller's side is checked by `check_entry`.
                Buffer::Input(_) | Buffer::Output(_) | Buffer::Step(_) | Buffer::Group => continue,
            };
            if index >= count {
                faults.push(format!("{place}: there is no {what} {index} of {count}"));
            }
        }
        check_of_group(plan, launch, &place, faults);
    }
    for weight in &function.weights {
        if weight.parts.is_empty() || weight.outer == 0 {
            faults.push(format!("function `{}` has an empty weight", function.name));
        }
        if weight.spread && !is_divided(plan, weight) {
            let name = &function.name;
            faults.push(format!("function `{name}` has a weight that its ranks do not share"));
        }
    }
}

/// A launch may depend on a group where the plan is for one; one that ranks wait for runs on all
/// of them, whatever tokens they have.
fn check_of_group(plan: &Plan, launch: &Launch, place: &str, faults: &mut Vec<String>) {
    let takes = |buffer: Buffer| launch.operands.iter().any(|o| o.buffer == buffer);
    let Some(kernel) = plan.kernels.get(launch.kernel) else { return };
    if plan.ranks.is_none() && (launch.of_group || takes(Buffer::Group)) {
        faults.push(format!("{place}: `{}` needs a group", kernel.name));
    }
    let grid = kernel.geometry.iter().flat_map(|g| &g.grid);
    if takes(Buffer::Group) && grid.clone().any(|e| e.size.constant().is_none_or(|n| n == 0)) {
        faults.push(format!("{place}: the grid of `{}` depends on the step", kernel.name));
    }
}

/// Whether tensors that hold all experts of a spread weight have as many as the ranks together.
fn is_divided(plan: &Plan, weight: &Weight) -> bool {
    let Some(ranks) = plan.ranks else { return false };
    let all = weight.outer.checked_mul(u64::from(ranks.count()));
    let whole = weight.parts.iter().filter(|p| !p.tensor.contains("{e}"));
    whole.map(|p| p.shape.first().copied()).all(|experts| experts == all)
}

fn check_entry(plan: &Plan, entry: &PlanEntry, faults: &mut Vec<String>) {
    let place = format!("entry `{}`", entry.name);
    let known = |v: &moec_ir::graph::ValueId| v.0 < entry.values.len();
    if !entry.inputs.iter().chain(&entry.outputs).all(known) {
        faults.push(format!("{place} takes or returns a value that does not exist"));
    }
    for (at, step) in entry.steps.iter().enumerate() {
        let Some(function) = plan.functions.get(step.function) else {
            faults.push(format!("{place}, step {at}: there is no function {}", step.function));
            continue;
        };
        if !step.inputs.iter().chain(&step.outputs).all(known) {
            faults.push(format!("{place}, step {at}: a value does not exist"));
        }
        let operands = function.launches.iter().flat_map(|l| &l.operands);
        for operand in operands {
            let fits = match operand.buffer {
                Buffer::Input(i) => i < step.inputs.len(),
                Buffer::Output(i) => i < step.outputs.len(),
                _ => true,
            };
            if !fits {
                faults.push(format!("{place}, step {at}: {:?} is not given", operand.buffer));
            }
        }
        let layered = |name: &str| name.contains("{i}") && step.layer.is_none();
        if function.weights.iter().flat_map(|w| &w.parts).any(|p| layered(&p.tensor)) {
            faults.push(format!("{place}, step {at}: `{}` needs a layer", function.name));
        }
    }
    if entry.name == "main" {
        let input = entry.inputs.first().filter(|_| entry.inputs.len() == 1);
        let ids = input.and_then(|v| entry.values.get(v.0)).map(|v| v.dtype);
        let logits = entry.outputs.first().and_then(|v| entry.values.get(v.0));
        if ids != Some(DType::I32) || logits.is_none_or(|v| v.shape.len() != 2) {
            faults.push(format!("{place} is not from token ids to logits [T, vocab]"));
        }
    }
}
