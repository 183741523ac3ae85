//! Models of the DeepSeek-V3 family, built by hand: MLA in its expanded form, sigmoid router
//! with groups and bias, shared expert.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use moec_ir::graph::{
    BinaryFn, Cache, Entry, GroupScore, Groups, Node, NodeId, PackedRow, Param, ReduceFn, Rotary,
    Step, UnaryFn, ValueId, shape,
};
use moec_ir::{DType, Dim, Function, Graph, Op, ScaleFormat, Sym, TensorType};

/// The numbers of a model.
#[derive(Clone, Copy)]
pub struct Config {
    pub hidden: u64,
    pub vocab: u64,
    pub layers: u64,
    pub dense_layers: u64,
    pub heads: u64,
    pub nope: u64,
    pub rope: u64,
    pub v: u64,
    pub q_rank: u64,
    pub kv_rank: u64,
    pub experts: u64,
    pub per_token: u64,
    pub groups: Groups,
    pub ff: u64,
    pub ff_expert: u64,
    /// Elements of a latent that share a scale, where the cache is packed.
    pub packed: Option<u64>,
}

/// DeepSeek-V3 (arXiv 2412.19437, section 4.2).
pub const V3: Config = Config {
    hidden: 7168,
    vocab: 129_280,
    layers: 61,
    dense_layers: 3,
    heads: 128,
    nope: 128,
    rope: 64,
    v: 128,
    q_rank: 1536,
    kv_rank: 512,
    experts: 256,
    per_token: 8,
    groups: Groups { count: 8, keep: 4, by: GroupScore::SumOfTop(2) },
    ff: 18_432,
    ff_expert: 2048,
    packed: None,
};

/// A small model of the same kind.
pub const TINY: Config = Config {
    hidden: 256,
    vocab: 1024,
    layers: 4,
    dense_layers: 1,
    heads: 4,
    nope: 64,
    rope: 32,
    v: 64,
    q_rank: 128,
    kv_rank: 128,
    experts: 16,
    per_token: 4,
    groups: Groups { count: 4, keep: 2, by: GroupScore::SumOfTop(2) },
    ff: 512,
    ff_expert: 128,
    packed: None,
};

/// Builds a function node by node; shapes are inferred.
pub struct Builder(pub Function);

impl Builder {
    pub fn new(name: &str, inputs: &[TensorType]) -> Self {
        Self(Function {
            name: name.into(),
            inputs: inputs.to_vec(),
            params: vec![],
            caches: vec![],
            nodes: vec![],
            outputs: vec![],
        })
    }

    pub fn typed(&mut self, op: Op, inputs: &[usize], dtype: DType) -> usize {
        let shapes: Vec<&[Dim]> =
            inputs.iter().map(|&i| self.0.nodes[i].ty.shape.as_slice()).collect();
        let own = match &op {
            Op::Input(i) => Some(self.0.inputs[*i].shape.as_slice()),
            Op::Param(i) => Some(self.0.params[*i].ty.shape.as_slice()),
            Op::Cache(i) => Some(self.0.caches[*i].ty.shape.as_slice()),
            _ => None,
        };
        let shape = shape::infer(&op, &shapes, own).expect("a well-formed model");
        let inputs = inputs.iter().map(|&i| NodeId(i)).collect();
        self.0.nodes.push(Node {
            op,
            inputs,
            ty: TensorType::new(dtype, shape),
            name: None,
            spans: vec![],
        });
        self.0.nodes.len() - 1
    }

    pub fn op(&mut self, op: Op, inputs: &[usize]) -> usize {
        let known = inputs.iter().map(|&i| &self.0.nodes[i].ty);
        let dtype = known.filter(|t| !t.shape.is_empty()).map(|t| t.dtype).next();
        self.typed(op, inputs, dtype.unwrap_or(DType::F32))
    }

    pub fn name(&mut self, node: usize, name: &str) -> usize {
        self.0.nodes[node].name = Some(name.into());
        node
    }

    pub fn input(&mut self, index: usize) -> usize {
        let dtype = self.0.inputs[index].dtype;
        self.typed(Op::Input(index), &[], dtype)
    }

    pub fn param(&mut self, name: &str, tensor: &str, dtype: DType, shape: &[u64]) -> usize {
        let ty = TensorType::new(dtype, shape.iter().map(|&n| Dim::from(n)));
        self.0.params.push(Param { name: name.into(), tensor: tensor.into(), ty });
        self.typed(Op::Param(self.0.params.len() - 1), &[], dtype)
    }

    pub fn weight(&mut self, tensor: &str, shape: &[u64]) -> usize {
        let name = tensor.trim_end_matches(".weight").replace("model.layers.{i}.", "");
        self.param(&name, tensor, DType::Bf16, shape)
    }

    pub fn linear(&mut self, x: usize, w: usize) -> usize {
        self.op(Op::Linear, &[x, w])
    }

    pub fn norm(&mut self, x: usize, tensor: &str) -> usize {
        let size = self.0.nodes[x].ty.last().expect("a fixed size");
        let w = self.weight(tensor, &[size]);
        self.op(Op::RmsNorm { eps: 1e-6.into() }, &[x, w])
    }

    pub fn reshape(&mut self, x: usize, shape: &[Dim]) -> usize {
        self.op(Op::Reshape(shape.to_vec()), &[x])
    }

    pub fn split(&mut self, x: usize, axis: usize, first: u64, second: u64) -> (usize, usize) {
        let a = self.op(Op::Slice { axis, start: 0, len: first }, &[x]);
        (a, self.op(Op::Slice { axis, start: first, len: second }, &[x]))
    }

    pub fn binary(&mut self, f: BinaryFn, x: usize, y: usize) -> usize {
        self.op(Op::Binary(f), &[x, y])
    }

    pub fn silu_times(&mut self, gate: usize, up: usize) -> usize {
        let silu = self.op(Op::Unary(UnaryFn::Silu), &[gate]);
        self.binary(BinaryFn::Mul, silu, up)
    }
}

fn t() -> Dim {
    Sym::Tokens.into()
}

fn s() -> Dim {
    Sym::Past.into()
}

/// Multi-head latent attention (DeepSeek-V2 2.1) as the papers define it.
pub fn attention(b: &mut Builder, c: &Config, x: usize) -> usize {
    let at = |name: &str| format!("model.layers.{{i}}.self_attn.{name}.weight");
    let rotary = Op::Rotary(Rotary {
        dim: c.rope,
        theta: 10_000.0.into(),
        interleaved: true,
        amplitude: 1.0.into(),
        yarn: None,
    });
    let (heads, one) = (Dim::from(c.heads), Dim::from(1));
    let q_a = b.weight(&at("q_a_proj"), &[c.q_rank, c.hidden]);
    let kv_a = b.weight(&at("kv_a_proj_with_mqa"), &[c.kv_rank + c.rope, c.hidden]);
    let q_b = b.weight(&at("q_b_proj"), &[c.heads * (c.nope + c.rope), c.q_rank]);
    let kv_b = b.weight(&at("kv_b_proj"), &[c.heads * (c.nope + c.v), c.kv_rank]);
    let o = b.weight(&at("o_proj"), &[c.hidden, c.heads * c.v]);
    let scales = ScaleFormat::F32;
    b.0.caches.push(Cache {
        name: "attention.latent".into(),
        ty: TensorType::new(DType::Bf16, [Dim::from(c.kv_rank + c.rope)]),
        packed: c.packed.map(|block| PackedRow { latent: c.kv_rank, block, scales }),
    });
    let cache = b.typed(Op::Cache(b.0.caches.len() - 1), &[], DType::Bf16);

    let down = b.linear(x, q_a);
    let down = b.norm(down, &at("q_a_layernorm"));
    let q = b.linear(down, q_b);
    let q = b.reshape(q, &[t(), heads.clone(), (c.nope + c.rope).into()]);
    b.name(q, "q");
    let (q_n, q_r) = b.split(q, 2, c.nope, c.rope);
    let latent = b.linear(x, kv_a);
    let (latent, k_r) = b.split(latent, 1, c.kv_rank, c.rope);
    let latent = b.norm(latent, &at("kv_a_layernorm"));
    let latent = match c.packed {
        Some(block) => {
            let q = b.typed(Op::Quantize { block, scales }, &[latent], DType::F8e4m3);
            let scale = b.typed(Op::BlockScale { block, scales }, &[latent], DType::F32);
            b.typed(Op::Dequantize { block: [1, block] }, &[q, scale], DType::Bf16)
        }
        None => latent,
    };
    let k_r = b.op(rotary.clone(), &[k_r]);
    let remembered = b.op(Op::Concat { axis: 1 }, &[latent, k_r]);
    let past = b.op(Op::Append, &[cache, remembered]);
    b.name(past, "past");
    let (latent, k_r) = b.split(past, 1, c.kv_rank, c.rope);
    let kv = b.linear(latent, kv_b);
    let kv = b.reshape(kv, &[s(), heads.clone(), (c.nope + c.v).into()]);
    let (k_n, v) = b.split(kv, 2, c.nope, c.v);
    b.name(k_n, "k_n");
    b.name(v, "v");
    let q_r = b.op(rotary, &[q_r]);
    let q = b.op(Op::Concat { axis: 2 }, &[q_n, q_r]);
    let k_r = b.reshape(k_r, &[s(), one, c.rope.into()]);
    let k_r = b.op(Op::Broadcast(vec![s(), heads, c.rope.into()]), &[k_r]);
    let k = b.op(Op::Concat { axis: 2 }, &[k_n, k_r]);
    let scale = ((c.nope + c.rope) as f64).powf(-0.5).into();
    let a = b.op(Op::Attend { scale }, &[q, k, v]);
    b.name(a, "a");
    let a = b.reshape(a, &[t(), (c.heads * c.v).into()]);
    b.linear(a, o)
}

/// A gated feed-forward network.
pub fn mlp(b: &mut Builder, c: &Config, ff: u64, place: &str, x: usize) -> usize {
    let at = |name: &str| format!("model.layers.{{i}}.{place}.{name}.weight");
    let gate = b.weight(&at("gate_proj"), &[ff, c.hidden]);
    let up = b.weight(&at("up_proj"), &[ff, c.hidden]);
    let down = b.weight(&at("down_proj"), &[c.hidden, ff]);
    let (gate, up) = (b.linear(x, gate), b.linear(x, up));
    let h = b.silu_times(gate, up);
    b.linear(h, down)
}

/// A mixture of experts with a shared one (DeepSeek-V3 2.1.2).
pub fn experts(b: &mut Builder, c: &Config, x: usize) -> usize {
    let at = |name: &str| format!("model.layers.{{i}}.mlp.{name}");
    let router = b.weight(&at("gate.weight"), &[c.experts, c.hidden]);
    let bias = b.param("bias", &at("gate.e_score_correction_bias"), DType::F32, &[c.experts]);
    let each = |name: &str| at(&format!("experts.{{e}}.{name}.weight"));
    let gate = b.weight(&each("gate_proj"), &[c.experts, c.ff_expert, c.hidden]);
    let up = b.weight(&each("up_proj"), &[c.experts, c.ff_expert, c.hidden]);
    let down = b.weight(&each("down_proj"), &[c.experts, c.hidden, c.ff_expert]);
    let logits = b.typed(Op::Linear, &[x, router], DType::F32);
    let score = b.op(Op::Unary(UnaryFn::Sigmoid), &[logits]);
    b.name(score, "score");
    let key = b.binary(BinaryFn::Add, score, bias);
    let chosen = b.typed(Op::TopK { k: c.per_token, groups: Some(c.groups) }, &[key], DType::I32);
    b.name(chosen, "chosen");
    let picked = b.op(Op::Pick, &[score, chosen]);
    let sum = b.op(Op::Reduce(ReduceFn::Sum), &[picked]);
    let weight = b.binary(BinaryFn::Div, picked, sum);
    let scale = b.typed(Op::Constant(2.5.into()), &[], DType::F32);
    let weight = b.binary(BinaryFn::Mul, weight, scale);
    b.name(weight, "weight");
    let g = b.op(Op::ExpertLinear, &[x, gate, chosen]);
    let u = b.op(Op::ExpertLinear, &[x, up, chosen]);
    let h = b.silu_times(g, u);
    let y = b.op(Op::ExpertLinear, &[h, down, chosen]);
    let routed = b.op(Op::Combine, &[y, weight]);
    b.name(routed, "routed");
    let shared = mlp(b, c, c.ff_expert, "mlp.shared_experts", x);
    b.binary(BinaryFn::Add, routed, shared)
}

fn layer(c: &Config, name: &str, sparse: bool) -> Function {
    let x_type = TensorType::new(DType::Bf16, [t(), c.hidden.into()]);
    let mut b = Builder::new(name, &[x_type]);
    let x = b.input(0);
    let normed = b.norm(x, "model.layers.{i}.input_layernorm.weight");
    let a = attention(&mut b, c, normed);
    let x = b.binary(BinaryFn::Add, x, a);
    b.name(x, "x1");
    let normed = b.norm(x, "model.layers.{i}.post_attention_layernorm.weight");
    let m = if sparse { experts(&mut b, c, normed) } else { mlp(&mut b, c, c.ff, "mlp", normed) };
    let x = b.binary(BinaryFn::Add, x, m);
    b.name(x, "x2");
    b.0.outputs = vec![NodeId(x)];
    b.0
}

/// The whole model.
pub fn model(name: &str, c: &Config) -> Graph {
    let ids = TensorType::new(DType::I32, [t()]);
    let x = TensorType::new(DType::Bf16, [t(), c.hidden.into()]);
    let mut embed = Builder::new("embed", std::slice::from_ref(&ids));
    let table = embed.weight("model.embed_tokens.weight", &[c.vocab, c.hidden]);
    let tokens = embed.input(0);
    let rows = embed.typed(Op::Lookup, &[table, tokens], DType::Bf16);
    embed.0.outputs = vec![NodeId(rows)];
    let mut head = Builder::new("head", &[x]);
    let input = head.input(0);
    let normed = head.norm(input, "model.norm.weight");
    let w = head.weight("lm_head.weight", &[c.vocab, c.hidden]);
    let logits = head.typed(Op::Linear, &[normed, w], DType::F32);
    head.0.outputs = vec![NodeId(logits)];
    let mut functions = vec![embed.0];
    if c.dense_layers > 0 {
        functions.push(layer(c, "dense", false));
    }
    functions.push(layer(c, "sparse", true));
    functions.push(head.0);
    let index = |name: &str| functions.iter().position(|f| f.name == name).expect("a function");
    let mut steps = vec![];
    let mut call = |name: &str, layer: Option<u64>| {
        let at = steps.len();
        steps.push(Step {
            function: index(name),
            layer,
            inputs: vec![ValueId(at)],
            outputs: vec![ValueId(at + 1)],
        });
    };
    call("embed", None);
    for i in 0..c.layers {
        call(if i < c.dense_layers { "dense" } else { "sparse" }, Some(i));
    }
    call("head", None);
    let outputs = vec![ValueId(steps.len())];
    let main = Entry { name: "main".into(), inputs: vec![ids], steps, outputs };
    Graph { name: name.into(), context: 2048, promote_every: None, functions, entries: vec![main] }
}
