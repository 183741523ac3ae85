//! Checks that a graph is well formed; run after every pass.

use super::shape::infer;
use super::{Function, Graph, NodeId, Op, TensorType};
use crate::{DType, Dim};

/// Everything that is wrong with a graph, one sentence each; empty where it is well formed.
///
/// Holds afterwards: operands stand before their users, every node has the shape that its
/// operation infers and an element type that the operation can give, caches are read by
/// `append` alone, and the calls of every entry fit the functions they call.
pub fn verify(graph: &Graph) -> Vec<String> {
    let mut faults = Vec::new();
    for function in &graph.functions {
        for fault in verify_function(function) {
            faults.push(format!("function `{}`: {fault}", function.name));
        }
    }
    for entry in &graph.entries {
        let mut values: Vec<TensorType> = entry.inputs.clone();
        for (at, step) in entry.steps.iter().enumerate() {
            let place = format!("entry `{}`, step {at}", entry.name);
            let Some(function) = graph.functions.get(step.function) else {
                faults.push(format!("{place}: there is no function {}", step.function));
                return faults;
            };
            let given: Vec<_> = step.inputs.iter().map(|v| values.get(v.0)).collect();
            let fits = given.len() == function.inputs.len()
                && given.iter().zip(&function.inputs).all(|(g, w)| *g == Some(w));
            if !fits {
                faults.push(format!("{place}: the arguments do not fit `{}`", function.name));
            }
            if step.outputs.len() != function.outputs.len() {
                faults.push(format!(
                    "{place}: `{}` returns {} values",
                    function.name,
                    function.outputs.len()
                ));
            }
            for (value, node) in step.outputs.iter().zip(&function.outputs) {
                if value.0 != values.len() {
                    faults.push(format!("{place}: value {} is out of order", value.0));
                }
                values.push(function.node(*node).ty.clone());
            }
        }
        if entry.outputs.iter().any(|v| v.0 >= values.len()) {
            faults.push(format!("entry `{}` returns a value that is not computed", entry.name));
        }
    }
    faults
}

/// Everything that is wrong with one function.
pub fn verify_function(function: &Function) -> Vec<String> {
    let mut faults = Vec::new();
    for cache in &function.caches {
        if cache.packed.is_some_and(|packed| packed.layout(&cache.ty).is_none()) {
            faults.push(format!("cache `{}` of {} holds no latent and key", cache.name, cache.ty));
        }
    }
    for (at, node) in function.nodes.iter().enumerate() {
        if let Err(fault) = verify_node(function, at) {
            faults.push(format!("%{at} = {}: {fault}", node.op.name()));
        }
    }
    for output in &function.outputs {
        if output.0 >= function.nodes.len() {
            faults.push(format!("returns %{}, which does not exist", output.0));
        }
    }
    faults
}

fn verify_node(function: &Function, at: usize) -> Result<(), String> {
    let node = &function.nodes[at];
    if let Some(late) = node.inputs.iter().find(|i| i.0 >= at) {
        return Err(format!("operand %{} does not stand before it", late.0));
    }
    let types: Vec<&TensorType> = node.inputs.iter().map(|i| &function.node(*i).ty).collect();
    let shapes: Vec<&[Dim]> = types.iter().map(|t| t.shape.as_slice()).collect();
    let own = match &node.op {
        Op::Input(i) => function.inputs.get(*i),
        Op::Param(i) => function.params.get(*i).map(|p| &p.ty),
        Op::Cache(i) => function.caches.get(*i).map(|c| &c.ty),
        _ => None,
    };
    let shape = infer(&node.op, &shapes, own.map(|t| t.shape.as_slice()))?;
    if shape != node.ty.shape {
        return Err(format!(
            "is {} by its operands, but typed {}",
            super::shape::show(&shape),
            node.ty
        ));
    }
    if let Some(own) = own.filter(|own| own.dtype != node.ty.dtype) {
        return Err(format!("reads {own}, but typed {}", node.ty));
    }
    verify_dtypes(&node.op, &types, node.ty.dtype)?;
    let reads_cache = |i: &NodeId| matches!(function.node(*i).op, Op::Cache(_));
    let allowed = usize::from(node.op == Op::Append);
    if node.inputs.iter().skip(allowed).any(reads_cache) {
        return Err("a cache can only be appended to".into());
    }
    Ok(())
}

fn verify_dtypes(op: &Op, operands: &[&TensorType], result: DType) -> Result<(), String> {
    let index_at = match op {
        Op::Lookup | Op::Pick | Op::Dispatch | Op::Collect => Some(1),
        Op::ExpertLinear => Some(2),
        _ => None,
    };
    for (i, ty) in operands.iter().enumerate() {
        if (Some(i) == index_at) == ty.dtype.is_float() && !is_layout(op) {
            let wanted = if Some(i) == index_at { "i32" } else { "a float type" };
            return Err(format!("operand {i} must have {wanted}, not {}", ty.dtype));
        }
    }
    let wanted = match op {
        Op::Quantize { .. } => Some(DType::F8e4m3),
        Op::BlockScale { .. } => Some(DType::F32),
        Op::Dispatch | Op::Collect => operands.first().map(|rows| rows.dtype),
        _ => None,
    };
    if let Some(wanted) = wanted.filter(|w| *w != result) {
        return Err(format!("`{}` returns {wanted}", op.name()));
    }
    match op {
        Op::TopK { .. } if result != DType::I32 => Err("`top_k` returns i32".into()),
        op if is_layout(op) && operands.iter().any(|t| t.dtype != result) => {
            Err(format!("an operation of layout keeps the element type, but is typed {result}"))
        }
        Op::TopK { .. } => Ok(()),
        op if !is_layout(op) && !reads(op) && !result.is_float() => {
            Err(format!("is typed {result}"))
        }
        _ => Ok(()),
    }
}

fn reads(op: &Op) -> bool {
    matches!(op, Op::Input(_) | Op::Param(_) | Op::Cache(_))
}

/// Whether an operation moves elements without computing.
fn is_layout(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape(_) | Op::Slice { .. } | Op::Concat { .. } | Op::Transpose(_) | Op::Broadcast(_)
    )
}
