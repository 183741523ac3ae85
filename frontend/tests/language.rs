//! What the language can say, and what it becomes.

#![allow(clippy::unwrap_used, reason = "a panic is the failure")]

use moec_frontend::{Model, check, parse};
use moec_ir::graph::{Function, verify};
use moec_ir::{DType, Op};

/// A model with these members around `main`'s body.
fn model(members: &str, body: &str) -> String {
    format!(
        "model M {{ dim context = 16, vocab = 32, hidden = 8, heads = 2, d = 4, experts = 8\n\
         param table: [vocab, hidden] = \"t\"\n{members}\n\
         entry main(ids: int[T]) -> [T, hidden] {{ let x = lookup(table, ids)\n{body} }} }}"
    )
}

fn checked(source: &str) -> Model {
    let told = |found: Vec<moec_ir::Diagnostic>| -> String {
        found.iter().map(|d| d.render("test.moe", source, false)).collect()
    };
    let model =
        parse(source).and_then(|ast| check(&ast)).map_err(told).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(verify::verify(&model.graph), Vec::<String>::new());
    model
}

fn main_function(source: &str) -> Function {
    let model = checked(source);
    model.graph.functions.iter().find(|f| f.name == "main").unwrap().clone()
}

fn count(function: &Function, wanted: impl Fn(&Op) -> bool) -> usize {
    function.nodes.iter().filter(|n| wanted(&n.op)).count()
}

#[test]
fn attention_can_be_written_from_its_parts() {
    let f = main_function(&model(
        "param w: [heads * d, hidden] = \"w\"\ncache keys: [heads, d]\n",
        "let q = linear(x, w) as [T, heads, d]
         let k = append(keys, q)
         let s = scores(q, k) * (1 / sqrt(d))
         let p = causal_softmax(tanh(s / 30) * 30)
         mix(p, k) as [T, hidden]",
    ));
    assert_eq!(count(&f, |op| *op == Op::Scores), 1);
    assert_eq!(count(&f, |op| *op == Op::Mix), 1);
}

#[test]
fn a_routing_rule_can_be_written_as_a_function() {
    let f = main_function(&model(
        "param router: [experts, hidden] = \"r\"\nparam up: [experts, d, hidden] = \"u.{e}\"
         param down: [experts, hidden, d] = \"d.{e}\"\nparam b: [experts, d] = \"b.{e}\"
         fn temper(s: [.., experts]) -> [.., experts] { softmax(s / 2 + log(1 + exp(s))) }",
        "let score = temper(linear(x, router))
         let chosen = top_k(score, 3)
         route(x, chosen, sqrt(pick(score, chosen))) |t, e| {
           let h = relu(linear(t, up[e]) + b[e])
           linear(h, down[e]) + t
         }",
    ));
    assert_eq!(count(&f, |op| *op == Op::ExpertLinear), 2);
    // Once the table, once the bias of each chosen expert.
    assert_eq!(count(&f, |op| *op == Op::Lookup), 2);
    let combine = f.nodes.iter().find(|n| n.op == Op::Combine).unwrap();
    assert_eq!(combine.ty.to_string(), "bf16[T, 8]");
}

#[test]
fn an_expert_may_give_its_token_back() {
    let f = main_function(&model(
        "param router: [experts, hidden] = \"r\"",
        "let s = softmax(linear(x, router))\nlet c = top_k(s, 2)\nroute(x, c, pick(s, c)) |t, e| { t }",
    ));
    let y = f.nodes.iter().find(|n| n.op == Op::Combine).unwrap().inputs[0];
    assert_eq!(f.node(y).ty.to_string(), "bf16[T, 2, 8]");
}

#[test]
fn a_weight_per_head_becomes_a_product_per_head() {
    let f = main_function(&model(
        "param w: [heads, d, d] = \"w\"",
        "linear(x as [T, heads, d], w) as [T, hidden]",
    ));
    assert_eq!(count(&f, |op| *op == Op::HeadLinear), 1);
}

#[test]
fn equal_operations_are_shared_and_unused_ones_dropped() {
    let f = main_function(&model(
        "param w: [hidden, hidden] = \"w\"\nparam unused: [hidden, hidden] = \"u\"",
        "let dead = linear(x, unused)\nlinear(x, w) * 2 + linear(x, w) * 2",
    ));
    assert_eq!(count(&f, |op| *op == Op::Linear), 1);
    assert_eq!(count(&f, |op| matches!(op, Op::Constant(_))), 1);
    assert_eq!(f.params.len(), 2);
}

#[test]
fn constants_do_not_widen_and_float32_does() {
    let source = model(
        "param w: [hidden, hidden] = \"w\"\nprecision { f32: w }",
        "let a = x * 2\nlet b = linear(x, w)\nlet c = a + b\nlet r = rms_norm(c, slice(x, 0, 1, axis = 1) as [T])\nx",
    );
    // A weight of a norm has one axis of the size of the row: this one does not.
    assert!(parse(&source).and_then(|ast| check(&ast)).is_err());
    let f = main_function(&model(
        "param w: [hidden, hidden] = \"w\"\nparam n: [hidden] = \"n\"\nprecision { f32: w }",
        "let a = x * 2\nlet b = linear(x, w)\nlet c = a + b\nrms_norm(c, n)",
    ));
    let ty =
        |name: &str| f.nodes.iter().find(|n| n.name.as_deref() == Some(name)).unwrap().ty.dtype;
    assert_eq!((ty("a"), ty("b"), ty("c")), (DType::Bf16, DType::F32, DType::F32));
    assert_eq!(f.node(f.outputs[0]).ty.dtype, DType::Bf16);
}

#[test]
fn storage_can_be_float32() {
    let f = main_function(&model("precision { storage: f32 }", "x * 2"));
    assert!(f.nodes.iter().all(|n| n.ty.dtype != DType::Bf16));
}

#[test]
fn entries_are_cut_at_layers_and_pass_what_later_parts_read() {
    let model = checked(&model(
        "block L { param w: [hidden, hidden] = \"w\" fn (x: [T, hidden]) -> [T, hidden] { linear(x, w) } }
         use low: L for i in 0..2 = \"low.{i}\"\nuse high: L for j in 2..5 = \"high.{j}\"",
        "let a = low(x * 2)\nlet b = high(a + x)\nb * x",
    ));
    let names: Vec<&str> = model.graph.functions.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["embed", "low", "between_1", "high", "head"]);
    let main = model.graph.entry("main").unwrap();
    assert_eq!(main.steps.len(), 8);
    let embed = &model.graph.functions[0];
    assert_eq!(embed.outputs.len(), 2, "x and x * 2");
    let high = &model.graph.functions[3];
    assert_eq!(high.params[0].tensor, "high.{i}.w");
    let layers: Vec<u64> = main.steps.iter().filter_map(|s| s.layer).collect();
    assert_eq!(layers, [0, 1, 2, 3, 4]);
}

#[test]
fn an_empty_run_of_layers_is_the_identity() {
    let model = checked(&model(
        "block L { param w: [hidden, hidden] = \"w\" fn (x: [T, hidden]) -> [T, hidden] { linear(x, w) } }
         use none: L for i in 3..3 = \"l.{i}\"",
        "none(x)",
    ));
    assert_eq!(model.graph.entry("main").unwrap().steps.len(), 1);
}

#[test]
fn blocks_may_share_the_parameters_of_the_model() {
    let f = main_function(&model(
        "block Back { fn (x: [T, hidden]) -> [T, hidden] { x + linear(linear(x, table), back) } }
         param back: [hidden, vocab] = \"b\"\nuse b: Back = \"b\"",
        "b(x)",
    ));
    assert_eq!(f.params.iter().filter(|p| p.tensor == "t").count(), 1);
}

#[test]
fn every_node_knows_where_it_comes_from() {
    let source = model("", "let doubled = x * 2\ndoubled");
    let f = main_function(&source);
    let node = f.nodes.iter().find(|n| n.name.as_deref() == Some("doubled")).unwrap();
    let span = node.spans[0];
    assert_eq!(&source[span.start..span.end], "x * 2");
}

#[test]
fn a_layer_may_read_the_model_s_parameter_of_the_same_name() {
    let model = checked(&model(
        "param w: [hidden, hidden] = \"outer\"
         fn around(x: [T, hidden]) -> [T, hidden] { linear(x, w) }
         block L { param w: [hidden, hidden] = \"w\" fn (x: [T, hidden]) -> [T, hidden] { linear(around(x), w) } }
         use l: L for i in 0..2 = \"l.{i}\"",
        "l(x)",
    ));
    let layer = model.graph.functions.iter().find(|f| f.name == "l").unwrap();
    let tensors: Vec<&str> = layer.params.iter().map(|p| p.tensor.as_str()).collect();
    assert_eq!(tensors, ["outer", "l.{i}.w"]);
    assert_ne!(layer.params[0].name, layer.params[1].name);
}
