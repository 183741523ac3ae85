//! Which weights of an FP8 checkpoint are not quantised: those that have no scales.

use crate::Model;
use moec_ir::Op;
use moec_ir::graph::{Function, Param};
use std::collections::BTreeSet;

/// The names of weights to which the FP8 recipe would apply, but which lie in the checkpoint
/// without `…_scale_inv` beside them.
pub(super) fn without_scales(model: &Model, tensors: &BTreeSet<String>) -> BTreeSet<String> {
    let (mut with, mut without) = (BTreeSet::new(), BTreeSet::new());
    for step in model.graph.entries.iter().flat_map(|e| &e.steps) {
        let layer = step.layer.map(|l| l.to_string()).unwrap_or_default();
        for param in weights(&model.graph.functions[step.function]) {
            if model.precision.fp8(&param.name).is_none() {
                continue;
            }
            let tensor = param.tensor.replace("{i}", &layer).replace("{e}", "0");
            let name = param.name.rsplit('.').next().unwrap_or(&param.name).to_owned();
            if tensors.contains(&format!("{tensor}_scale_inv")) {
                with.insert(name);
            } else if tensors.contains(&tensor) {
                without.insert(name);
            }
        }
    }
    // A name stands for all weights of that name; where they differ, loading tells.
    without.difference(&with).cloned().collect()
}

/// The parameters that linear maps apply.
fn weights(function: &Function) -> impl Iterator<Item = &Param> {
    function.nodes.iter().filter_map(|node| {
        let is_product = matches!(node.op, Op::Linear | Op::HeadLinear | Op::ExpertLinear);
        match function.node(*node.inputs.get(1).filter(|_| is_product)?).op {
            Op::Param(param) => function.params.get(param),
            _ => None,
        }
    })
}

/// The text of a model with more names behind `keep:`.
pub(super) fn keep(text: &str, names: &BTreeSet<String>) -> String {
    let line = |line: &str| match line.strip_prefix("keep: ") {
        Some(kept) => {
            let all: Vec<&str> = kept.split(", ").chain(names.iter().map(String::as_str)).collect();
            format!("keep: {}\n", all.join(", "))
        }
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}
