//! What a model needs of a checkpoint, and all that a checkpoint lacks of it.

use super::{Checkpoint, can_convert};
use crate::{Result, fail};
use moec_ir::graph::{Function, Graph, Param};
use moec_ir::plan::Plan;
use moec_ir::{DType, Diagnostic};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The tensors that a model reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Name to shape and the element type that is wanted.
    tensors: BTreeMap<String, (Vec<u64>, DType)>,
    has_mtp: bool,
}

/// A tensor's name for a layer and expert: `{i}` and `{e}` replaced.
pub fn fill(template: &str, layer: Option<u64>, expert: u64) -> String {
    let mut name = template.replace("{e}", &expert.to_string());
    if let Some(layer) = layer {
        name = name.replace("{i}", &layer.to_string());
    }
    name
}

impl Demand {
    /// Name, shape and wanted element type of every tensor, in order of names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[u64], DType)> {
        self.tensors.iter().map(|(name, (shape, dtype))| (name.as_str(), shape.as_slice(), *dtype))
    }

    /// What the entries of some plans (of one model) read, on all ranks together.
    pub fn of_plans<'a>(plans: impl IntoIterator<Item = &'a Plan>) -> Self {
        let mut demand = Self::default();
        for plan in plans {
            demand.has_mtp |= plan.entries.iter().any(|e| e.name == "mtp");
            let ranks = plan.ranks.map_or(1, |ranks| u64::from(ranks.count()));
            for step in plan.entries.iter().flat_map(|e| &e.steps) {
                for weight in &plan.functions[step.function].weights {
                    for part in &weight.parts {
                        let all = if weight.spread { ranks } else { 1 };
                        let named = part.tensor.contains("{e}");
                        let experts = if named { weight.outer.saturating_mul(all) } else { 1 };
                        for expert in 0..experts {
                            let name = fill(&part.tensor, step.layer, expert);
                            let stored = part.scale.as_ref().map_or(weight.dtype, |scale| {
                                let name = fill(&scale.tensor, step.layer, expert);
                                let shape = scale.shape(&part.shape);
                                demand.tensors.insert(name, (shape, DType::F32));
                                DType::F8e4m3
                            });
                            demand.tensors.insert(name, (part.shape.clone(), stored));
                        }
                    }
                }
            }
        }
        demand
    }

    /// What the entries of a graph read.
    pub fn of_graph(graph: &Graph) -> Self {
        let mut demand = Self { has_mtp: graph.entry("mtp").is_some(), ..Self::default() };
        for step in graph.entries.iter().flat_map(|e| &e.steps) {
            let function: &Function = &graph.functions[step.function];
            for param in &function.params {
                for (name, shape) in param_tensors(param, step.layer) {
                    demand.tensors.insert(name, (shape, param.ty.dtype));
                }
            }
        }
        demand
    }

    /// Compares a checkpoint with the demand.
    ///
    /// Tolerated beside what is needed: buffers of rotary frequencies, and the layers of a
    /// multi-token-prediction module behind the model's own where the model has no such entry.
    ///
    /// # Errors
    /// One E0604 that lists every missing, surplus and unusable tensor.
    pub fn check(&self, checkpoint: &Checkpoint, model: &str) -> Result<()> {
        let (mut missing, mut unfit) = (Vec::new(), Vec::new());
        for (name, (shape, dtype)) in &self.tensors {
            let Some(tensor) = checkpoint.tensor(name) else {
                missing.push(format!("missing: `{name}` {shape:?}"));
                continue;
            };
            if tensor.shape != shape {
                unfit.push(format!("of another shape: `{name}` {:?}, not {shape:?}", tensor.shape));
            } else if !can_convert(tensor.dtype, *dtype) {
                let held = tensor.dtype;
                unfit.push(format!(
                    "of another type: `{name}` holds {held}, which cannot become {dtype}"
                ));
            }
        }
        let layers = self.tensors.keys().filter_map(|n| layer_of(n)).max().map_or(0, |n| n + 1);
        let tolerated = |name: &str| {
            name.ends_with("rotary_emb.inv_freq")
                || !self.has_mtp && is_mtp_layer(checkpoint, name, layers)
        };
        let surplus: Vec<String> = checkpoint
            .names()
            .filter(|name| !self.tensors.contains_key(*name) && !tolerated(name))
            .map(|name| format!("surplus: `{name}`"))
            .collect();
        if missing.is_empty() && unfit.is_empty() && surplus.is_empty() {
            return Ok(());
        }
        let place = checkpoint.folder().display();
        let mut message = format!(
            "the checkpoint in `{place}` does not fit `{model}`: {} missing, {} unfit, {} surplus",
            missing.len(),
            unfit.len(),
            surplus.len()
        );
        for list in [missing, unfit, surplus] {
            for line in list.iter().take(LISTED) {
                let _ = write!(message, "\n  {line}");
            }
            if list.len() > LISTED {
                let _ = write!(message, "\n  .. and {} more like these", list.len() - LISTED);
            }
        }
        fail(
            Diagnostic::error("E0604", message).help(
                "`moec import DIR` makes the `.moe` file that fits a checkpoint's `config.json`",
            ),
        )
    }
}

/// Whether a tensor belongs to a multi-token-prediction layer behind a model's own layers.
fn is_mtp_layer(checkpoint: &Checkpoint, name: &str, layers: u64) -> bool {
    let marker = |n: u64| format!("model.layers.{n}.eh_proj.weight");
    layer_of(name).is_some_and(|n| n >= layers && checkpoint.tensor(&marker(n)).is_some())
}

/// How many tensors of a kind are listed by name.
const LISTED: usize = 200;

/// The layer in `model.layers.N.`
fn layer_of(name: &str) -> Option<u64> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// The tensors of a parameter with their shapes: one, or one for each expert.
pub(crate) fn param_tensors(
    param: &Param,
    layer: Option<u64>,
) -> impl Iterator<Item = (String, Vec<u64>)> {
    let mut shape: Vec<u64> = param.ty.shape.iter().map(|d| d.constant().unwrap_or(0)).collect();
    let mut experts = 1;
    if param.tensor.contains("{e}") && !shape.is_empty() {
        experts = shape.remove(0);
    }
    let template = param.tensor.clone();
    (0..experts).map(move |e| (fill(&template, layer, e), shape.clone()))
}
