//! Checkpoints in FP8: the recipe, and which weights are not quantised.

use super::config::Config;
use crate::Model;
use moec_ir::Op;
use moec_ir::graph::{Function, Param};
use std::collections::BTreeSet;

/// Whose arithmetic an FP8 checkpoint is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fp8Recipe {
    /// DeepSeek-V3 3.3: bf16 between products, the inputs of all linear maps quantised, sums
    /// moved to float32 after every block.
    DeepSeek,
    /// The library transformers, version 5, in float32: dynamic quantisation belongs to linear
    /// modules, and routed experts are none, so that their inputs are not quantised.
    Transformers,
}

/// What a configuration says of FP8.
pub(super) struct Quantization {
    recipe: Fp8Recipe,
    /// Rows and columns of a weight's block.
    block: [u64; 2],
    /// Whether scales are powers of two.
    ue8m0: bool,
}

impl Quantization {
    /// How numbers are stored between products, where not as the configuration says.
    pub(super) fn storage(&self) -> Option<&'static str> {
        (self.recipe == Fp8Recipe::Transformers).then_some("f32")
    }

    /// The lines of the section `precision`; `routed` says whether there are routed experts.
    pub(super) fn lines(&self, routed: bool) -> String {
        let Self { block: [rows, columns], .. } = self;
        let scales = if self.ue8m0 { ", scales ue8m0" } else { "" };
        let weight = format!("weight [{rows}, {columns}]");
        let whole =
            format!("linear: fp8 e4m3, activation [1, {columns}], {weight}, accumulate f32");
        match self.recipe {
            Fp8Recipe::DeepSeek => format!("{whole} every {columns}{scales}\n"),
            Fp8Recipe::Transformers => {
                let experts = format!("experts: fp8 e4m3, {weight}, accumulate f32\n");
                format!("{whole}{scales}\n{}", if routed { &experts } else { "" })
            }
        }
    }
}

/// Reads `quantization_config`; the outer `None` means that a mistake was found.
///
/// Checkpoints are computed as their publisher does, but those that transformers 5 wrote as that
/// does.
pub(super) fn read(config: &mut Config<'_>) -> Option<Option<Quantization>> {
    let key = "quantization_config";
    if !config.has(key) {
        return Some(None);
    }
    config
        .only(key, &["activation_scheme", "fmt", "quant_method", "weight_block_size", "scale_fmt"]);
    let field = |name: &str| format!("{key}.{name}");
    let expect = |config: &mut Config<'_>, name: &str, wanted: &[&str]| {
        let found = config.text_or(&field(name), wanted[0])?;
        if !wanted.contains(&found.as_str()) {
            config.refuse(
                &field(name),
                "this quantisation is not known",
                &format!("`{}` is", wanted.join("`, `")),
            );
        }
        Some(found)
    };
    config.text(&field("quant_method"))?;
    expect(config, "quant_method", &["fp8"])?;
    expect(config, "fmt", &["e4m3"])?;
    expect(config, "activation_scheme", &["dynamic"])?;
    let scales = expect(config, "scale_fmt", &["float", "ue8m0"])?;
    let block = config.sizes(&field("weight_block_size"))?;
    let [rows, columns] = block.as_slice() else {
        config.refuse(&field("weight_block_size"), "a block has rows and columns", "[128, 128]");
        return None;
    };
    if *rows == 0 || *columns == 0 || *columns > 1 << 20 || *rows > 1 << 20 {
        config.refuse(&field("weight_block_size"), "not a size of blocks", "[128, 128]");
        return None;
    }
    let version = config.text_or("transformers_version", "")?;
    let major = version.split('.').next().and_then(|n| n.parse::<u32>().ok());
    let usual = match major {
        Some(5..) => Fp8Recipe::Transformers,
        _ => Fp8Recipe::DeepSeek,
    };
    let recipe = config.fp8.unwrap_or(usual);
    Some(Some(Quantization { recipe, block: [*rows, *columns], ue8m0: scales == "ue8m0" }))
}

/// The names of weights to which the FP8 recipe would apply, but which lie in the checkpoint
/// without `…_scale_inv` beside them.
pub(super) fn without_scales(model: &Model, tensors: &BTreeSet<String>) -> BTreeSet<String> {
    let (mut with, mut without) = (BTreeSet::new(), BTreeSet::new());
    for step in model.graph.entries.iter().flat_map(|e| &e.steps) {
        let layer = step.layer.map(|l| l.to_string()).unwrap_or_default();
        for (param, routed) in weights(&model.graph.functions[step.function]) {
            if model.precision.fp8(&param.name, routed).is_none() {
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

/// The parameters that linear maps apply, and whether routed experts do.
fn weights(function: &Function) -> impl Iterator<Item = (&Param, bool)> {
    function.nodes.iter().filter_map(|node| {
        let is_product = matches!(node.op, Op::Linear | Op::HeadLinear | Op::ExpertLinear);
        match function.node(*node.inputs.get(1).filter(|_| is_product)?).op {
            Op::Param(param) => Some((function.params.get(param)?, node.op == Op::ExpertLinear)),
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
