//! The one place that says what of a checked model cannot be compiled yet.

use crate::Model;
use moec_ir::Diagnostic;
use moec_ir::graph::Graph;

/// The graph to compile.
///
/// Before: a checked model. After: its graph, where everything that its sections ask for is
/// compiled; the graph alone does not say that products are to be FP8.
///
/// # Errors
/// E0410 where the precision section asks for FP8 products.
pub fn lower(model: &Model) -> Result<Graph, Vec<Diagnostic>> {
    if let Some(fp8) = &model.precision.linear {
        return Err(vec![
            Diagnostic::error("E0410", "FP8 products are read and checked, but not compiled yet")
                .at(fp8.span, "asked for here")
                .help("remove the line `linear: fp8 …` from the section `precision`"),
        ]);
    }
    Ok(model.graph.clone())
}
