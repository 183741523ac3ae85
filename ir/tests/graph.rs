//! The graph's text, checks and reference evaluator on a small attention function.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use moec_ir::graph::eval::{Context, Evaluator, Tensor, eval_op};
use moec_ir::graph::{Cache, Entry, GroupScore, Groups, Rotary, Step, ValueId, Yarn, verify};
use moec_ir::graph::{Node, NodeId, Op, Param};
use moec_ir::{DType, Dim, Function, Graph, Sym, TensorType};

/// Builds a function node by node, inferring shapes.
struct Builder(Function);

impl Builder {
    fn add(&mut self, op: Op, inputs: &[usize]) -> usize {
        let shapes: Vec<&[Dim]> =
            inputs.iter().map(|&i| self.0.nodes[i].ty.shape.as_slice()).collect();
        let own = match &op {
            Op::Input(i) => Some(self.0.inputs[*i].shape.as_slice()),
            Op::Param(i) => Some(self.0.params[*i].ty.shape.as_slice()),
            Op::Cache(i) => Some(self.0.caches[*i].ty.shape.as_slice()),
            _ => None,
        };
        let shape = moec_ir::graph::shape::infer(&op, &shapes, own).unwrap();
        let ty = TensorType::new(DType::Bf16, shape);
        let inputs = inputs.iter().map(|&i| NodeId(i)).collect();
        self.0.nodes.push(Node { op, inputs, ty, name: None, spans: vec![] });
        self.0.nodes.len() - 1
    }
}

fn bf16(shape: &[u64]) -> TensorType {
    TensorType::new(DType::Bf16, shape.iter().map(|&n| Dim::from(n)))
}

/// One head-shared attention: x [T, 4] with weights q [2 heads * 3, 4] and kv [3, 4].
fn graph() -> Graph {
    let tokens = Dim::from(Sym::Tokens);
    let x = TensorType::new(DType::Bf16, [tokens.clone(), Dim::from(4)]);
    let param = |name: &str, shape: &[u64]| Param {
        name: name.into(),
        tensor: format!("layers.{{i}}.{name}"),
        ty: bf16(shape),
    };
    let mut b = Builder(Function {
        name: "layer".into(),
        inputs: vec![x.clone()],
        params: vec![param("q", &[6, 4]), param("kv", &[2, 4]), param("o", &[4, 4])],
        caches: vec![Cache { name: "latent".into(), ty: bf16(&[2]), packed: None }],
        nodes: vec![],
        outputs: vec![],
    });
    let input = b.add(Op::Input(0), &[]);
    let wq = b.add(Op::Param(0), &[]);
    let wkv = b.add(Op::Param(1), &[]);
    let wo = b.add(Op::Param(2), &[]);
    let q = b.add(Op::Linear, &[input, wq]);
    let q = b.add(Op::Reshape(vec![tokens.clone(), 2.into(), 3.into()]), &[q]);
    let q = b.add(Op::Slice { axis: 2, start: 1, len: 2 }, &[q]);
    let rotary = Rotary {
        dim: 2,
        theta: 100.0.into(),
        interleaved: true,
        amplitude: 1.0.into(),
        yarn: None,
    };
    let q = b.add(Op::Rotary(rotary), &[q]);
    let kv = b.add(Op::Linear, &[input, wkv]);
    let kv = b.add(Op::Rotary(rotary), &[kv]);
    let cache = b.add(Op::Cache(0), &[]);
    let past = b.add(Op::Append, &[cache, kv]);
    let past = b.add(Op::Reshape(vec![Sym::Past.into(), 1.into(), 2.into()]), &[past]);
    let a = b.add(Op::Attend { scale: 0.7.into() }, &[q, past, past]);
    let a = b.add(Op::Reshape(vec![tokens.clone(), 4.into()]), &[a]);
    let y = b.add(Op::Linear, &[a, wo]);
    b.0.outputs = vec![NodeId(y)];
    let step = |layer: u64| Step {
        function: 0,
        layer: Some(layer),
        inputs: vec![ValueId(layer as usize)],
        outputs: vec![ValueId(layer as usize + 1)],
    };
    Graph {
        name: "Small".into(),
        context: 16,
        promote_every: Some(128),
        functions: vec![b.0],
        entries: vec![Entry {
            name: "main".into(),
            inputs: vec![x],
            steps: vec![step(0), step(1)],
            outputs: vec![ValueId(2)],
        }],
    }
}

fn numbers(shape: &[usize], seed: u64) -> Tensor {
    let count = shape.iter().product::<usize>() as u64;
    let value = |i: u64| ((i * 2654435761 + seed * 40503) % 1000) as f64 / 500.0 - 1.0;
    Tensor::new(shape.to_vec(), (0..count).map(value).collect()).unwrap()
}

fn load(p: &Param, layer: Option<u64>) -> Result<Tensor, String> {
    let shape: Vec<usize> = p.ty.shape.iter().map(|d| d.constant().unwrap() as usize).collect();
    Ok(numbers(&shape, p.name.len() as u64 + layer.unwrap() * 7))
}

#[test]
fn printed_graph_reads_back_and_is_well_formed() {
    let graph = graph();
    assert_eq!(verify(&graph), Vec::<String>::new());
    let text = graph.to_string();
    assert_eq!(text.parse::<Graph>().unwrap(), graph, "{text}");
    let json = serde_json::to_string(&graph).unwrap();
    assert_eq!(serde_json::from_str::<Graph>(&json).unwrap(), graph);
}

#[test]
fn broken_graphs_are_told_apart() {
    let mut late = graph();
    late.functions[0].nodes[4].inputs[0] = NodeId(9);
    assert!(verify(&late)[0].contains("does not stand before it"), "{:?}", verify(&late));
    let mut wrong = graph();
    wrong.functions[0].nodes[4].ty = bf16(&[7]);
    assert!(verify(&wrong)[0].contains("typed bf16[7]"), "{:?}", verify(&wrong));
    let mut cache = graph();
    let at = cache.functions[0].nodes.iter().position(|n| matches!(n.op, Op::Cache(_))).unwrap();
    let exp = Op::Unary(moec_ir::graph::UnaryFn::Exp);
    let (inputs, ty) = (vec![NodeId(at)], bf16(&[2]));
    let reader = Node { op: exp, inputs, ty, name: None, spans: vec![] };
    cache.functions[0].nodes.push(reader);
    assert!(verify(&cache).iter().any(|f| f.contains("only be appended")), "{:?}", verify(&cache));
    let error = "graph X context 1\nfn f() {\n  %0 = nothing () : bf16[]\n".parse::<Graph>();
    assert_eq!(error.unwrap_err().line, 3);
}

#[test]
fn token_by_token_equals_all_at_once() {
    let graph = graph();
    let x = numbers(&[5, 4], 3);
    let mut whole = Evaluator::new(&graph, load).unwrap();
    let want = whole.run("main", std::slice::from_ref(&x)).unwrap().remove(0);
    let mut steps = Evaluator::new(&graph, load).unwrap();
    let mut got = Vec::new();
    for t in 0..5 {
        let row = Tensor::new(vec![1, 4], x.data[t * 4..][..4].to_vec()).unwrap();
        got.extend(steps.run("main", &[row]).unwrap().remove(0).data);
    }
    assert_eq!(steps.past(), 5);
    for (g, w) in got.iter().zip(&want.data) {
        assert!((g - w).abs() < 1e-12, "{g} {w}");
    }
}

#[test]
fn attend_is_mix_of_softmax_of_scaled_scores() {
    let context = Context { past: 2, tokens: 3 };
    let (q, k, v) = (numbers(&[3, 4, 6], 1), numbers(&[5, 2, 6], 2), numbers(&[5, 1, 3], 3));
    let eval = |op: Op, x: &[&Tensor], shape: &[u64]| {
        let dims: Vec<Dim> = shape.iter().map(|&d| d.into()).collect();
        eval_op(&op, x, &dims, context).unwrap()
    };
    let attend = eval(Op::Attend { scale: 0.3.into() }, &[&q, &k, &v], &[3, 4, 3]);
    let mut scores = eval(Op::Scores, &[&q, &k], &[3, 4, 5]);
    scores.data.iter_mut().for_each(|s| *s *= 0.3);
    let p = eval(Op::CausalSoftmax, &[&scores], &[3, 4, 5]);
    let mix = eval(Op::Mix, &[&p, &v], &[3, 4, 3]);
    assert_eq!(attend, mix);
    // The first token sees keys 0 to 2 of 5, and its weights sum to 1.
    assert_eq!(&p.data[3..5], &[0.0, 0.0]);
    assert!((p.data[..5].iter().sum::<f64>() - 1.0).abs() < 1e-12);
}

#[test]
fn group_limited_top_k_takes_from_the_best_groups_only() {
    let context = Context { past: 0, tokens: 1 };
    let scores = Tensor::new(vec![1, 8], vec![0.9, 0.0, 0.5, 0.5, 0.1, 0.2, 0.5, 0.3]).unwrap();
    let top = |by, keep| {
        let op = Op::TopK { k: 2, groups: Some(Groups { count: 4, keep, by }) };
        eval_op(&op, &[&scores], &[1.into(), 2.into()], context).unwrap().data
    };
    // Group sums: 0.9, 1.0, 0.3, 0.8; group maxima: 0.9, 0.5, 0.2, 0.5.
    assert_eq!(top(GroupScore::SumOfTop(2), 1), vec![2.0, 3.0]);
    assert_eq!(top(GroupScore::Max, 1), vec![0.0, 1.0]);
    // Of the equal maxima 0.5 the lower group stays.
    assert_eq!(top(GroupScore::Max, 2), vec![0.0, 2.0]);
}

#[test]
fn yarn_keeps_fast_frequencies_and_divides_slow_ones() {
    let yarn = Yarn {
        factor: 40.0.into(),
        original: 4096.0.into(),
        beta_fast: 32.0.into(),
        beta_slow: 1.0.into(),
    };
    let plain = Rotary {
        dim: 64,
        theta: 10000.0.into(),
        interleaved: true,
        amplitude: 1.0.into(),
        yarn: None,
    };
    let (plain, scaled) = (plain.frequencies(), Rotary { yarn: Some(yarn), ..plain }.frequencies());
    // DeepSeek-V3's ramp runs from pair 10 to pair 23 (low = floor(10.46), high = ceil(22.5)).
    assert_eq!(plain[..=10], scaled[..=10]);
    assert!(scaled[11] < plain[11]);
    for i in 23..32 {
        assert!((scaled[i] * 40.0 / plain[i] - 1.0).abs() < 1e-12);
    }
}
