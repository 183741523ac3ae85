//! What the FP8 recipe means for the graph, and what of it is refused.

#![allow(clippy::unwrap_used, reason = "a panic is the failure")]

use moec_frontend::{check, lower, parse};
use moec_ir::graph::{Function, NodeId, Op, verify};
use moec_ir::{Diagnostic, Graph};

const RECIPE: &str =
    "linear: fp8 e4m3, activation [1, 32], weight [32, 32], accumulate f32 every 32";

/// A model of one function `main` of `x = lookup(table, ids)`, with the lines given.
fn model(declared: &str, body: &str, precision: &str) -> Result<Graph, Vec<Diagnostic>> {
    let text = format!(
        "model M {{\n  dim context = 64, vocab = 16, hidden = 48, rank = 40\n\
         param table: [vocab, hidden] = \"table\"\n{declared}\n\
         entry main(ids: int[T]) -> [T, hidden] {{\nlet x = lookup(table, ids)\n{body}\n}}\n\
         precision {{\n{precision}\n}}\n}}\n"
    );
    let model = check(&parse(&text).unwrap()).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
    let graph = lower(&model)?;
    assert_eq!(verify(&graph), Vec::<String>::new(), "{graph}");
    Ok(graph)
}

/// The recipe of experts whose inputs stay as they are, and sums in float32.
const WEIGHTS_ONLY: &str = "experts: fp8 e4m3, weight [32, 32], accumulate f32";

fn ops(function: &Function) -> Vec<String> {
    function.nodes.iter().map(|n| n.op.name()).collect()
}

/// How an operand is written.
fn formula(function: &Function, node: NodeId) -> String {
    let node = function.node(node);
    if let Op::Param(i) = node.op {
        return function.params[i].name.clone();
    }
    let operands: Vec<String> = node.inputs.iter().map(|i| formula(function, *i)).collect();
    if operands.is_empty() {
        node.op.name()
    } else {
        format!("{}({})", node.op.name(), operands.join(", "))
    }
}

fn last(graph: &Graph) -> String {
    let function = &graph.functions[0];
    formula(function, function.outputs[0])
}

#[test]
fn a_product_is_of_quantised_rows_and_weights() {
    let declared = "param w: [hidden, hidden] = \"w.weight\"";
    let graph = model(declared, "linear(x, w)", RECIPE).unwrap();
    let x = "lookup(table, input)";
    assert_eq!(
        last(&graph),
        format!("linear(dequantize(quantize({x}), block_scale({x})), dequantize(w, w_scale))")
    );
    let scale = graph.functions[0].params.iter().find(|p| p.name == "w_scale").unwrap();
    assert_eq!(
        (scale.tensor.as_str(), scale.ty.to_string().as_str()),
        ("w.weight_scale_inv", "f32[2, 2]")
    );
    let kept = model(declared, "linear(x, w)", &format!("keep: w\n{RECIPE}")).unwrap();
    assert_eq!(last(&kept), format!("linear({x}, w)"));
}

#[test]
fn rows_that_several_products_read_are_quantised_once() {
    let declared = "param w: [hidden, hidden] = \"w\"\nparam u: [hidden, hidden] = \"u\"";
    let graph = model(declared, "linear(x, w) * linear(x, u)", RECIPE).unwrap();
    let ops = ops(&graph.functions[0]);
    assert_eq!(ops.iter().filter(|op| *op == "quantize").count(), 1);
    assert_eq!(ops.iter().filter(|op| *op == "dequantize").count(), 3);
}

const CACHE: &str = "param down: [rank + 8, hidden] = \"down\"\n\
                     param up: [hidden, rank] = \"up\"\n\
                     param norm: [rank] = \"norm\"\n\
                     cache rows: [rank + 8]";

/// `attend` over what is made of a cache of a latent and a key.
fn cached(second: &str) -> String {
    format!(
        "let c, r = split(linear(x, down), rank, 8)\n\
         let past = append(rows, concat(rms_norm(c, norm), r))\n\
         let c, r = split(past, rank, 8)\n\
         let v = linear(c, up)\n{second}\n\
         attend(x as [T, 1, hidden], v as [S, 1, hidden], v as [S, 1, hidden], scale = 1, causal)\n\
         as [T, hidden]"
    )
}

#[test]
fn what_products_alone_read_from_a_cache_is_rounded_before_it_is_remembered() {
    let graph = model(CACHE, &cached(""), RECIPE).unwrap();
    let function = &graph.functions[0];
    let append = function.nodes.iter().position(|n| n.op == Op::Append).unwrap();
    let rows = formula(function, function.nodes[append].inputs[1]);
    assert!(rows.starts_with("concat(dequantize(quantize(rms_norm("), "{rows}");
    let up = function.params.iter().position(|p| p.name == "up").unwrap();
    let reads_up = |n: &&moec_ir::Node| {
        n.op == Op::Linear && formula(function, n.inputs[1]).contains(&function.params[up].name)
    };
    let product = function.nodes.iter().find(reads_up).unwrap();
    assert_eq!(formula(function, product.inputs[1]), "dequantize(up, up_scale)");
    assert!(formula(function, product.inputs[0]).starts_with("slice(append("));
}

#[test]
fn what_others_read_too_is_rounded_where_the_product_reads_it() {
    // The norm reads the same columns, which must stay as they are.
    let graph = model(CACHE, &cached("let v = v + linear(rms_norm(c, norm), up)"), RECIPE).unwrap();
    let function = &graph.functions[0];
    let append = function.nodes.iter().position(|n| n.op == Op::Append).unwrap();
    assert!(formula(function, function.nodes[append].inputs[1]).starts_with("concat(rms_norm("));
    let text = graph.to_string();
    assert_eq!(
        text.matches("quantize {\"block\"").count() - text.matches("dequantize {").count(),
        3
    );
}

const EXPERTS: &str = "param shared: [hidden, hidden] = \"shared\"
    param router: [4, hidden] = \"router\"
    param inner: [4, hidden, hidden] = \"{e}\"";
const ROUTED: &str = "let score = linear(x, router)
    let chosen = top_k(score, 2)
    route(x, chosen, pick(score, chosen)) |t, e| { linear(t, inner[e]) } + linear(x, shared)";

#[test]
fn experts_may_have_a_recipe_of_their_own() {
    let linear = RECIPE.replace(" every 32", "");
    let precision = format!("keep: router\n{linear}\n{WEIGHTS_ONLY}");
    let graph = model(EXPERTS, ROUTED, &precision).unwrap();
    assert_eq!(graph.promote_every, Some(1));
    let function = &graph.functions[0];
    let product = |op: Op, weight: &str| {
        let reads = |n: &&moec_ir::Node| n.op == op && formula(function, n.inputs[1]) == weight;
        let node = function.nodes.iter().find(reads).unwrap();
        formula(function, node.inputs[0])
    };
    let x = "lookup(table, input)";
    assert_eq!(product(Op::ExpertLinear, "dequantize(inner, inner_scale)"), x);
    let rounded = format!("dequantize(quantize({x}), block_scale({x}))");
    assert_eq!(product(Op::Linear, "dequantize(shared, shared_scale)"), rounded);

    let both = format!("keep: router\n{RECIPE}\n{WEIGHTS_ONLY}");
    let found = model(EXPERTS, ROUTED, &both).unwrap_err();
    assert!(found[0].message.contains("two ways of adding"), "{found:?}");
}

fn refusal(declared: &str, body: &str, recipe: &str) -> String {
    let found = model(declared, body, recipe).unwrap_err();
    assert!(found.iter().all(|d| d.code == "E0410"), "{found:?}");
    found.iter().map(|d| format!("{}; ", d.message)).collect()
}

#[test]
fn weights_that_are_used_otherwise_are_refused_by_name() {
    let w = "param w: [hidden, hidden] = \"w\"";
    for (declared, body, part) in [
        (w, "linear(x, w) + linear(x, transpose(w, 1, 0))", "`w` is used in parts"),
        (w, "linear(x * slice(lookup(w, ids), 0, hidden), w)", "otherwise than"),
        (
            "param w: [2, hidden, 24] = \"w\"",
            "sum(linear(x as [T, 2, 24], w) as [T, hidden, 2]) as [T, hidden]",
            "one matrix per head",
        ),
    ] {
        let told = refusal(declared, body, RECIPE);
        assert!(told.contains(part), "{body}: {told}");
    }
}

#[test]
fn recipes_without_kernels_are_refused() {
    let w = "param w: [hidden, hidden] = \"w\"";
    for (from, to, part) in [
        ("e4m3", "e5m2", "f8e5m2"),
        ("activation [1,", "activation [32,", "row by row"),
        ("every 32", "every 16", "every 16 products"),
    ] {
        let told = refusal(w, "linear(x, w)", &RECIPE.replace(from, to));
        assert!(told.contains(part), "{told}");
    }
    let told = refusal(
        w,
        "linear(x, w)",
        &RECIPE.replace("32]", "24]").replace("[32", "[24").replace("y 32", "y 24"),
    );
    assert!(told.contains("no multiple of 32"), "{told}");
}
