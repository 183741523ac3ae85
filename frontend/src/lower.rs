//! From a checked model to the graph that is compiled: what the precision section means for it.

mod fp8;
mod packed;
mod remembered;
mod rewrite;

use crate::{Fp8, Fp8Cache, Model, Precision};
use moec_ir::graph::Graph;
use moec_ir::{DType, Diagnostic};

/// Products that one FP8 `wgmma` sums (PTX ISA 9.7.15: `.m64nNk32`).
const SUMMED_AT_ONCE: u64 = 32;

/// The graph to compile.
///
/// Before: a checked model, whose graph says nothing of precision but element types. After: its
/// graph, where every product that the section `precision` makes FP8 is one of quantised rows
/// and weights, each dequantised by its scales, and what a cache in FP8 keeps is quantised.
///
/// # Errors
/// E0410 for a recipe, or a use of a weight, that is not compiled; E0411 for a cache that FP8 does
/// not fit.
pub fn lower(model: &Model) -> Result<Graph, Vec<Diagnostic>> {
    let mut graph = model.graph.clone();
    if let Some(recipe) = &model.precision.cache {
        pack_caches(&mut graph, recipe, &model.precision)?;
    }
    let Precision { linear, experts, .. } = &model.precision;
    let recipes: Vec<&Fp8> = linear.iter().chain(experts).collect();
    let Some(first) = recipes.first() else { return Ok(graph) };
    graph.promote_every = Some(first.promote_every);
    let mut mistakes: Vec<Diagnostic> = recipes.iter().flat_map(|r| refused(r)).collect();
    if let Some(other) = recipes.iter().find(|r| r.promote_every != first.promote_every) {
        let d = Diagnostic::error("E0410", "two ways of adding FP8 products are not compiled");
        mistakes.push(d.at(other.span, "not as above").help("give both the same `accumulate`"));
    }
    if mistakes.is_empty() {
        for function in &mut graph.functions {
            match fp8::quantize(function, &model.precision) {
                Ok(quantized) => *function = quantized,
                Err(found) => mistakes.extend(found),
            }
        }
    }
    if mistakes.is_empty() { Ok(graph) } else { Err(mistakes) }
}

/// Packs the caches of all functions.
fn pack_caches(
    graph: &mut Graph,
    recipe: &Fp8Cache,
    precision: &Precision,
) -> Result<(), Vec<Diagnostic>> {
    let mut mistakes = vec![];
    for function in &mut graph.functions {
        match packed::pack(function, recipe, precision) {
            Ok(packed) => *function = packed,
            Err(found) => mistakes.extend(found),
        }
    }
    let mut caches = graph.functions.iter().flat_map(|f| &f.caches);
    if mistakes.is_empty() && caches.all(|cache| cache.packed.is_none()) {
        let d = Diagnostic::error("E0411", "there is no cache to keep in FP8");
        mistakes.push(d.at(recipe.span, "asked for here").help("leave out this line"));
    }
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

/// What of a recipe has no kernels.
fn refused(recipe: &Fp8) -> Vec<Diagnostic> {
    let [rows, columns] = recipe.activation_block.unwrap_or([1, recipe.weight_block[1]]);
    let mut mistakes = vec![];
    let mut refuse = |holds: bool, message: String, help: &str| {
        if !holds {
            let d = Diagnostic::error("E0410", message).at(recipe.span, "asked for here");
            mistakes.push(d.help(help));
        }
    };
    refuse(
        recipe.format == DType::F8e4m3,
        format!("products of {} are not compiled", recipe.format),
        "write `fp8 e4m3`",
    );
    refuse(
        rows == 1,
        format!("activations are quantised row by row, not {rows} rows together"),
        "write `activation [1, …]`",
    );
    refuse(
        columns.is_multiple_of(SUMMED_AT_ONCE),
        format!("{columns} columns of a block are no multiple of {SUMMED_AT_ONCE}"),
        "write `activation [1, 128]` and `weight [128, 128]`, as the checkpoint has them",
    );
    refuse(
        [1, columns].contains(&recipe.promote_every),
        format!(
            "sums move to float32 registers every {} products, but blocks have {columns}",
            recipe.promote_every
        ),
        "write the columns of a block behind `every`, or `accumulate f32` alone",
    );
    mistakes
}
