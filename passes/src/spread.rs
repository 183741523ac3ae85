//! Spreads the routed experts of a graph over ranks.
//!
//! Before: a graph of one rank. After: rows are dispatched before the first product of experts and
//! collected before they are combined, which no value notices; rules and kernels decide what moves
//! and when. Not seen: how ranks reach each other.

use moec_ir::graph::{Node, NodeId};
use moec_ir::{Diagnostic, Function, Graph, Op, Ranks};

/// The graph with its experts spread over `ranks`.
///
/// # Errors
/// E0810 where experts cannot be divided among the ranks.
pub(crate) fn spread(graph: &Graph, ranks: Ranks) -> Result<Graph, Vec<Diagnostic>> {
    let mistakes: Vec<Diagnostic> =
        graph.functions.iter().flat_map(|f| indivisible(f, ranks)).collect();
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let functions = graph.functions.iter().map(spread_function).collect();
    Ok(Graph { functions, ..graph.clone() })
}

/// What ranks cannot share.
fn indivisible(function: &Function, ranks: Ranks) -> Option<Diagnostic> {
    function.nodes.iter().filter(|n| n.op == Op::ExpertLinear).find_map(|node| {
        let weights = &function.node(node.inputs[1]).ty;
        let experts = weights.shape.first()?.constant()?;
        let why = ranks.experts_each(experts).err()?;
        let mut mistake = Diagnostic::error("E0810", format!("in `{}` {why}", function.name));
        for span in &node.spans {
            mistake = mistake.at(*span, format!("a product of {experts} experts"));
        }
        Some(mistake.help("use as many ranks as divide the number of experts"))
    })
}

fn spread_function(function: &Function) -> Function {
    let mut nodes: Vec<Node> = Vec::with_capacity(function.nodes.len());
    let mut moved: Vec<NodeId> = Vec::with_capacity(function.nodes.len());
    for node in &function.nodes {
        let mut node = node.clone();
        let chosen = match node.op {
            // Rows of a product of experts lie with them already.
            Op::ExpertLinear if function.node(node.inputs[0]).ty.shape.len() == 2 => {
                Some((Op::Dispatch, node.inputs[2]))
            }
            Op::Combine => choice(function, node.inputs[0]).map(|chosen| (Op::Collect, chosen)),
            _ => None,
        };
        let moves = chosen.map(|(op, chosen)| {
            let rows = node.inputs[0];
            let inputs = vec![moved[rows.0], moved[chosen.0]];
            let ty = function.node(rows).ty.clone();
            Node { op, inputs, ty, name: None, spans: node.spans.clone() }
        });
        for input in &mut node.inputs {
            *input = moved[input.0];
        }
        if let Some(moves) = moves {
            nodes.push(moves);
            node.inputs[0] = NodeId(nodes.len() - 1);
        }
        moved.push(NodeId(nodes.len()));
        nodes.push(node);
    }
    let outputs = function.outputs.iter().map(|o| moved[o.0]).collect();
    Function { nodes, outputs, ..function.clone() }
}

/// Who chose the experts that gave a value.
fn choice(function: &Function, value: NodeId) -> Option<NodeId> {
    let mut open = vec![value];
    while let Some(id) = open.pop() {
        let node = function.node(id);
        if node.op == Op::ExpertLinear {
            return Some(node.inputs[2]);
        }
        open.extend(node.inputs.iter().copied());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use moec_ir::graph::verify;

    const EXPERTS: &str = "\
graph Experts context 16
fn experts(bf16[T, 8]; i32[T, 2]; f32[T, 2]) {
  param up: bf16[4, 6, 8] = \"{e}.up\"
  param down: bf16[4, 8, 6] = \"{e}.down\"
  %0 = input 0 () : bf16[T, 8]
  %1 = input 1 () : i32[T, 2]
  %2 = input 2 () : f32[T, 2]
  %3 = param 0 () : bf16[4, 6, 8]
  %4 = param 1 () : bf16[4, 8, 6]
  %5 = expert_linear (%0, %3, %1) : bf16[T, 2, 6]
  %6 = unary \"silu\" (%5) : bf16[T, 2, 6]
  %7 = expert_linear (%6, %4, %1) : bf16[T, 2, 8]
  %8 = combine (%7, %2) : bf16[T, 8]
  return %8
}
";

    #[test]
    fn rows_leave_before_the_first_product_and_return_before_they_are_combined() {
        let graph: Graph = EXPERTS.parse().unwrap();
        let spread = spread(&graph, Ranks::new(4, 2).unwrap()).unwrap();
        assert_eq!(verify(&spread), Vec::<String>::new());
        let text = spread.to_string();
        for line in [
            "%5 = dispatch (%0, %1) : bf16[T, 8]",
            "%6 = expert_linear (%5, %3, %1) : bf16[T, 2, 6]",
            "%9 = collect (%8, %1) : bf16[T, 2, 8]",
            "%10 = combine (%9, %2) : bf16[T, 8]",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn experts_that_do_not_divide_are_refused() {
        let graph: Graph = EXPERTS.parse().unwrap();
        let told = super::spread(&graph, Ranks::new(3, 8).unwrap()).unwrap_err();
        assert_eq!(told[0].code, "E0810");
        assert!(told[0].message.contains("4 experts cannot be divided among 3 ranks"));
    }
}
