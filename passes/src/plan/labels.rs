//! What people read beside a launch: which values of the source it computes, and from what.

use crate::extract::Extracted;
use crate::language::{Kernel, Part, Term, code_text};
use moec_ir::Function;

/// A line for each value: `q = gemm by attention.q_b`. The name is the source's, or those of the
/// views on the value that the source names.
pub(super) fn labels(function: &Function, extracted: &Extracted) -> Vec<String> {
    let names = names(extracted);
    let describe = |(at, name): (usize, String)| {
        let what = description(function, extracted, at);
        if name.is_empty() || what.is_empty() { name + &what } else { format!("{name} = {what}") }
    };
    names.into_iter().enumerate().map(describe).collect()
}

fn names(extracted: &Extracted) -> Vec<String> {
    let values = &extracted.values;
    let mut names: Vec<Vec<String>> =
        values.iter().map(|v| v.name.iter().cloned().collect()).collect();
    for at in (0..values.len()).rev() {
        let term = &values[at].node.term;
        if term.is_view() || term.is_result() {
            let of = values[at].operands[0];
            for name in names[at].clone() {
                if values[of].name.is_none() && !names[of].contains(&name) {
                    names[of].insert(0, name);
                }
            }
        }
    }
    names.into_iter().map(|n| n.join(", ")).collect()
}

/// The kernel, the parameters it applies and, for a pointwise kernel, its formula.
fn description(function: &Function, extracted: &Extracted, at: usize) -> String {
    let value = &extracted.values[at];
    let Some(kernel) = value.node.as_kernel() else { return String::new() };
    let params: Vec<&str> = value
        .operands
        .iter()
        .flat_map(|o| weight_behind(extracted, *o))
        .map(|p| function.params[p.param].name.as_str())
        .collect();
    let mut text = match kernel {
        Kernel::Pointwise(code) => code_text(code),
        Kernel::PointwiseQuantize { code, .. } => format!("quantize({})", code_text(code)),
        Kernel::Scatter | Kernel::AppendLatent { .. } | Kernel::GatherPast => {
            let name = kernel.name().trim_start_matches('@');
            let cache = cache_behind(extracted, at).map(|c| &function.caches[c].name);
            cache.map_or(name.to_owned(), |cache| format!("{name} of {cache}"))
        }
        _ => kernel.name().trim_start_matches('@').to_owned(),
    };
    if !params.is_empty() {
        text = format!("{text} by {}", params.join(", "));
    }
    text
}

/// The parameters of which a value is a view.
fn weight_behind(extracted: &Extracted, mut at: usize) -> Vec<Part> {
    while extracted.values[at].node.term.is_view() {
        at = extracted.values[at].operands[0];
    }
    extracted.values[at].weight.clone().unwrap_or_default()
}

fn cache_behind(extracted: &Extracted, mut at: usize) -> Option<usize> {
    loop {
        if let Term::Math(moec_ir::Op::Cache(cache)) = extracted.values[at].node.term {
            return Some(cache);
        }
        at = *extracted.values[at].operands.first()?;
    }
}
