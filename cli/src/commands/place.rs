//! From what a plan names to where it stands in the source.

use moec_ir::{Function, Graph, Node, Span};

/// Where a function computes a result.
pub(super) fn of_result(graph: &Graph, function: &str, output: usize) -> Option<Span> {
    let function = named(graph, function)?;
    function.node(*function.outputs.get(output)?).spans.first().copied()
}

/// Where the first of the values stands that a launch computes, as plans list them: names, and
/// behind a `=` how.
pub(super) fn of_values(graph: &Graph, function: &str, computes: &str) -> Option<Span> {
    let function = named(graph, function)?;
    let (names, how) = computes.split_once(" = ").unwrap_or((computes, ""));
    let node = |name: &str| -> Option<&Node> {
        function.nodes.iter().find(|n| n.name.as_deref() == Some(name))
    };
    if let Some(node) = names.split(", ").find_map(node) {
        return node.spans.first().copied();
    }
    // A value without a name: where one of the parameters is applied that it is computed by.
    let how = if how.is_empty() { names } else { how };
    let params = how.split_once(" by ").map_or("", |(_, params)| params);
    params.split(", ").find_map(|param| {
        let param = function.params.iter().position(|p| p.name == param)?;
        let is_param = |n: &&Node| n.op == moec_ir::Op::Param(param);
        function.nodes.iter().find(is_param)?.spans.first().copied()
    })
}

fn named<'g>(graph: &'g Graph, name: &str) -> Option<&'g Function> {
    graph.functions.iter().find(|f| f.name == name)
}
