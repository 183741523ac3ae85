//! The printed form of plans, for people and snapshots. The artefact's form is JSON.
//!
//! ```text
//! plan TinyV3 decode on h800, weighed for T=128 S=524288 B=128
//!
//! kernel gemm_0: a bf16[1, T, 256]; w bf16[1, 288, 256]; c bf16[1, T, 288]
//!
//! fn dense {
//!   weight 0: bf16 [1; "model.layers.{i}.self_attn.q_a_proj.weight" [128, 256]]
//!   workspace 0: 576*T bytes
//!   gemm_0(input 0, weight 0, workspace 0)  // q_a, kv_a
//! }
//! ```

use super::{Buffer, Extent, Operand, Plan, PlanFunction, Table};
use crate::Dim;
use serde_json::Value;
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let w = &self.workload;
        write!(f, "plan {} {} on {}, ", self.model, self.phase, self.target.name)?;
        writeln!(f, "weighed for T={} S={} B={}\n", w.tokens, w.past, w.sequences)?;
        if let Some(ranks) = self.ranks {
            writeln!(f, "on each of {ranks}")?;
        }
        for (i, symmetric) in self.symmetric.iter().enumerate() {
            writeln!(f, "symmetric {i} {}: {} bytes", symmetric.name, symmetric.bytes)?;
        }
        for kernel in &self.kernels {
            writeln!(f, "kernel {}: {}", kernel.name, parameters(&kernel.spec))?;
            if let Some(g) = &kernel.geometry {
                let grid: Vec<String> = g.grid.iter().map(ctas).collect();
                write!(f, "  grid {} block {:?}", grid.join(" x "), g.block)?;
                writeln!(f, " shared {}", g.shared_bytes)?;
            }
        }
        for function in &self.functions {
            self.write_function(f, function)?;
        }
        for entry in &self.entries {
            writeln!(f, "\nentry {} {{", entry.name)?;
            for (i, v) in entry.values.iter().enumerate() {
                let shape = crate::graph::shape::show(&v.shape);
                writeln!(f, "  value %{i}: {}{shape} in storage {}", v.dtype, v.storage)?;
            }
            for step in &entry.steps {
                let name = &self.functions[step.function].name;
                let layer = step.layer.map(|l| format!("@{l}")).unwrap_or_default();
                let list = |ids: &[crate::graph::ValueId]| {
                    ids.iter().map(|v| format!("%{}", v.0)).collect::<Vec<_>>().join(", ")
                };
                writeln!(f, "  {} = {name}{layer}({})", list(&step.outputs), list(&step.inputs))?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

impl Plan {
    fn write_function(&self, f: &mut fmt::Formatter<'_>, function: &PlanFunction) -> fmt::Result {
        writeln!(f, "\nfn {} {{", function.name)?;
        for (i, weight) in function.weights.iter().enumerate() {
            let part = |p: &super::WeightPart| match &p.scale {
                None => format!("{:?} {:?}", p.tensor, p.shape),
                Some(s) => format!("{:?} {:?} by {:?} {:?}", p.tensor, p.shape, s.tensor, s.block),
            };
            let parts: Vec<String> = weight.parts.iter().map(part).collect();
            let parts = parts.join(", ");
            let of_rank = if weight.spread { " of each rank" } else { "" };
            writeln!(f, "  weight {i}: {} [{}{of_rank}; {parts}]", weight.dtype, weight.outer)?;
        }
        for (i, cache) in function.caches.iter().enumerate() {
            writeln!(f, "  cache {i} {}: {} [{}]", cache.name, cache.dtype, cache.row)?;
        }
        for (i, Table::Rotary(rotary)) in function.tables.iter().enumerate() {
            let yarn = if rotary.yarn.is_some() { " with YaRN" } else { "" };
            writeln!(f, "  table {i}: rotary {} theta {}{yarn}", rotary.dim, rotary.theta)?;
        }
        for (i, bytes) in function.workspace.iter().enumerate() {
            writeln!(f, "  workspace {i}: {bytes} bytes")?;
        }
        for launch in &function.launches {
            let operands: Vec<String> = launch.operands.iter().map(Operand::to_string).collect();
            write!(f, "  {}({})", self.kernels[launch.kernel].name, operands.join(", "))?;
            if !launch.computes.is_empty() {
                write!(f, "  // {}", launch.computes)?;
            }
            writeln!(f)?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.buffer {
            Buffer::Input(i) => write!(f, "input {i}")?,
            Buffer::Output(i) => write!(f, "output {i}")?,
            Buffer::Workspace(i) => write!(f, "workspace {i}")?,
            Buffer::Weight(i) => write!(f, "weight {i}")?,
            Buffer::Cache(i) => write!(f, "cache {i}")?,
            Buffer::Table(i) => write!(f, "table {i}")?,
            Buffer::Step(input) => write!(f, "{input:?}")?,
            Buffer::Symmetric(i) => write!(f, "symmetric {i}")?,
            Buffer::Group => write!(f, "group")?,
        }
        if self.offset == Dim::from(0) { Ok(()) } else { write!(f, " + {}", self.offset) }
    }
}

fn ctas(extent: &Extent) -> String {
    let Extent { size, per, times, at_most } = extent;
    let parts = if *per == 1 { size.to_string() } else { format!("ceil({size} / {per})") };
    let all = if *times == 1 { parts } else { format!("{times}*{parts}") };
    at_most.map_or(all.clone(), |most| format!("min({all}, {most})"))
}

/// A spec's parameters in the order of its declaration; views in their short form.
fn parameters(spec: &crate::KernelSpec) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(spec) else { return "?".into() };
    fields.remove("kernel");
    let shown = fields.into_iter().filter(|(_, v)| !v.is_null());
    shown.map(|(name, v)| format!("{name} {}", show(&v))).collect::<Vec<_>>().join("; ")
}

fn show(value: &Value) -> String {
    if let Ok(view) = serde_json::from_value::<crate::kernel::View>(value.clone()) {
        return view.to_string();
    }
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
