//! Puts plans, weights, tables and caches on a device.

use super::pages::Pages;
use super::rank::{Call, Loaded, Membership, RankState};
use super::tables;
use crate::artefact::validate;
use crate::device::Device;
use crate::weights::{Demand, Progress, assemble, experts_of, weight_bytes};
use crate::{Artefact, Checkpoint, Compiled, Phase, Result, fail};
use moec_ir::plan::{PlanCache, PlanFunction, Table, Weight};
use moec_ir::{DType, Diagnostic, Plan, Ranks};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the device holds for all phases together.
#[derive(Default)]
struct Store {
    /// By weight and, where its names depend on it, layer.
    weights: BTreeMap<(Weight, Option<u64>), u64>,
    /// By function, layer and index.
    caches: BTreeMap<(String, Option<u64>, usize), (PlanCache, u64)>,
    tables: BTreeMap<Table, u64>,
}

/// What the plans of an artefact agree on.
pub(crate) struct Checked {
    pub(crate) context: u64,
    pub(crate) vocab: u64,
    /// The group that they are for.
    pub(crate) ranks: Option<Ranks>,
}

/// Checks an artefact's plans, and that a checkpoint holds what they read.
pub(crate) fn check(artefact: &Artefact, checkpoint: &Checkpoint) -> Result<Checked> {
    let plans: Vec<&Plan> = artefact.phases.values().map(|c| &c.plan).collect();
    for plan in &plans {
        validate(plan)?;
    }
    let (context, vocab) = agree(&plans)?;
    Demand::of_plans(plans.iter().copied()).check(checkpoint, &artefact.model)?;
    let ranks = plans.first().and_then(|plan| plan.ranks);
    Ok(Checked { context, vocab, ranks })
}

/// Puts on a device what a rank holds of a checked artefact.
pub(crate) fn load(
    device: &mut dyn Device,
    phases: &BTreeMap<Phase, Compiled>,
    checkpoint: &Checkpoint,
    (checked, rows): (&Checked, u64),
    member: Option<Membership>,
    progress: &mut dyn FnMut(Progress),
) -> Result<RankState> {
    let plans: Vec<&Plan> = phases.values().map(|c| &c.plan).collect();
    let capacity = rows.min(checked.context);
    let pages = Pages::with_rows(rows);
    let mut store = Store::default();
    let rank = member.as_ref().map_or(0, |m| m.rank);
    store.load_weights(device, &plans, (checkpoint, rank), progress)?;
    for plan in &plans {
        store.make_tables_and_caches(device, plan, capacity, pages.rows())?;
    }
    let mut loaded = BTreeMap::new();
    for (&phase, compiled) in phases {
        loaded.insert(phase, load_phase(device, compiled, phase, &store)?);
    }
    let model = (checked.context, checked.vocab);
    Ok(RankState::new(loaded, model, (capacity, pages), member))
}

/// Context and vocabulary, which all phases must agree on.
fn agree(plans: &[&Plan]) -> Result<(u64, u64)> {
    let mut found = None;
    for plan in plans {
        let inconsistent = |why: &str| {
            let message = format!("the {} plan of `{}` {why}", plan.phase, plan.model);
            fail(Diagnostic::error("E1004", message).help("build it again"))
        };
        let Some(entry) = plan.entries.iter().find(|e| e.name == "main") else {
            return inconsistent("has no entry `main`");
        };
        let logits = &entry.values[entry.outputs[0].0];
        if !matches!(logits.dtype, DType::F32 | DType::Bf16 | DType::F16) {
            return inconsistent("does not return logits of a float type");
        }
        let Some(vocab) = logits.shape.get(1).and_then(moec_ir::Dim::constant) else {
            return inconsistent("does not return logits [T, vocab]");
        };
        if *found.get_or_insert((plan.context, vocab)) != (plan.context, vocab) {
            return inconsistent("has another context or vocabulary than the other phase's");
        }
        if plan.ranks != plans[0].ranks {
            return inconsistent("is for another group than the other phase's");
        }
    }
    match found {
        Some(found) => Ok(found),
        None => fail(Diagnostic::error("E1004", "the artefact has no phase")),
    }
}

/// The layer as far as a weight's names depend on it.
fn layer_of(weight: &Weight, layer: Option<u64>) -> Option<u64> {
    layer.filter(|_| weight.parts.iter().any(|p| p.tensor.contains("{i}")))
}

impl Store {
    fn load_weights(
        &mut self,
        device: &mut dyn Device,
        plans: &[&Plan],
        (checkpoint, rank): (&Checkpoint, u32),
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let mut wanted: Vec<(&Weight, Option<u64>)> = Vec::new();
        for plan in plans {
            for step in plan.entries.iter().flat_map(|e| &e.steps) {
                let weights = &plan.functions[step.function].weights;
                wanted.extend(weights.iter().map(|w| (w, layer_of(w, step.layer))));
            }
        }
        // Those of many parts first: others may lie inside them.
        wanted.sort_by_key(|(w, layer)| (std::cmp::Reverse(w.parts.len()), *layer, *w));
        wanted.dedup();
        let total = wanted.iter().map(|(w, _)| weight_bytes(w)).fold(0, u64::saturating_add);
        let mut done = 0;
        for (weight, layer) in wanted {
            let address = match self.find_inside(weight, layer) {
                Some(address) => address,
                None => upload(device, checkpoint, weight, (layer, rank))?,
            };
            self.weights.insert((weight.clone(), layer), address);
            done += weight_bytes(weight);
            progress(Progress { done, total });
        }
        Ok(())
    }

    /// The address of a weight that is part of one already loaded: without experts, the parts
    /// lie one behind the other.
    fn find_inside(&self, weight: &Weight, layer: Option<u64>) -> Option<u64> {
        let n = weight.parts.len();
        for ((outer, outer_layer), address) in &self.weights {
            let comparable = outer.outer == 1
                && weight.outer == 1
                && outer.dtype == weight.dtype
                && outer.spread == weight.spread
                && layer_of(outer, layer) == *outer_layer
                && outer.parts.len() > n;
            if !comparable {
                continue;
            }
            let at = outer.parts.windows(n).position(|w| w == weight.parts);
            let before = at.map(|at| Weight { parts: outer.parts[..at].to_vec(), ..outer.clone() });
            // Kernels may rely on the alignment of allocations.
            let offset = before.map(|w| weight_bytes(&w)).filter(|o| o % 256 == 0);
            if let Some(offset) = offset {
                return Some(address + offset);
            }
        }
        None
    }

    fn make_tables_and_caches(
        &mut self,
        device: &mut dyn Device,
        plan: &Plan,
        capacity: u64,
        rows: u64,
    ) -> Result<()> {
        for step in plan.entries.iter().flat_map(|e| &e.steps) {
            let function = &plan.functions[step.function];
            for table in &function.tables {
                if !self.tables.contains_key(table) {
                    let Table::Rotary(rotary) = table;
                    let bytes = tables::rotary_table(rotary, capacity);
                    let address = device.alloc(bytes.len() as u64, "rotary table")?;
                    device.write(address, &bytes)?;
                    self.tables.insert(table.clone(), address);
                }
            }
            for (i, cache) in function.caches.iter().enumerate() {
                let key = (function.name.clone(), step.layer, i);
                if let Some((other, _)) = self.caches.get(&key) {
                    if other != cache {
                        let message = format!(
                            "the phases of `{}` disagree about cache `{}`",
                            plan.model, cache.name
                        );
                        return fail(Diagnostic::error("E1004", message).help("build it again"));
                    }
                    continue;
                }
                let row = cache.row.saturating_mul(cache.dtype.bytes());
                let layer = step.layer.map_or(String::new(), |l| format!(", layer {l}"));
                let name = format!("cache `{}`{layer}", cache.name);
                let address = device.alloc(rows.saturating_mul(row), &name)?;
                self.caches.insert(key, (cache.clone(), address));
            }
        }
        Ok(())
    }

    fn call(&self, function: &PlanFunction, layer: Option<u64>) -> Option<Call> {
        let weight = |w: &Weight| self.weights.get(&(w.clone(), layer_of(w, layer))).copied();
        let cache = |i: usize| Some(self.caches.get(&(function.name.clone(), layer, i))?.1);
        Some(Call {
            weights: function.weights.iter().map(weight).collect::<Option<_>>()?,
            caches: (0..function.caches.len()).map(cache).collect::<Option<_>>()?,
            tables: function
                .tables
                .iter()
                .map(|t| self.tables.get(t).copied())
                .collect::<Option<_>>()?,
        })
    }
}

fn upload(
    device: &mut dyn Device,
    checkpoint: &Checkpoint,
    weight: &Weight,
    (layer, rank): (Option<u64>, u32),
) -> Result<u64> {
    let name = weight.parts.first().map_or("weight", |p| p.tensor.as_str());
    let name = crate::weights::fill(name, layer, experts_of(weight, rank).start);
    let address = device.alloc(weight_bytes(weight), &name)?;
    let mut at = address;
    assemble(checkpoint, weight, layer, rank, |bytes| {
        device.write(at, bytes)?;
        at += bytes.len() as u64;
        Ok(())
    })?;
    Ok(address)
}

fn load_phase(
    device: &mut dyn Device,
    compiled: &Compiled,
    phase: Phase,
    store: &Store,
) -> Result<Loaded> {
    let Compiled { plan, ptx } = compiled;
    let plan = Arc::new(plan.clone());
    let names: Vec<&str> = plan.kernels.iter().map(|k| k.name.as_str()).collect();
    let kernels = device.load(ptx, &names)?;
    let incomplete = || {
        let message = format!("the {phase} plan of `{}` cannot be resolved", plan.model);
        vec![Diagnostic::error("E1004", message).help("build it again")]
    };
    let mut calls = Vec::new();
    for entry in &plan.entries {
        let steps = entry.steps.iter();
        let of_entry = steps.map(|s| store.call(&plan.functions[s.function], s.layer));
        calls.push(of_entry.collect::<Option<Vec<_>>>().ok_or_else(incomplete)?);
    }
    let main = plan.entries.iter().position(|e| e.name == "main").ok_or_else(incomplete)?;
    Ok(Loaded { plan, kernels, main, calls })
}
