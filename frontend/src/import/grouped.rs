//! Models with grouped-query attention: Mixtral (arXiv 2401.04088) and Qwen3-MoE
//! (arXiv 2505.09388).
//!
//! Checked against `modeling_mixtral.py` and `modeling_qwen3_moe.py` of transformers: softmax
//! over all experts, then the best; Mixtral always normalises their weights.

use super::config::Config;
use super::layers::{self, Frame};
use super::positions::{self, Positions};
use super::text::{epsilon, layer, mlp, route};

/// What differs between the two.
struct Shape {
    name: &'static str,
    paper: &'static str,
    kv_heads: u64,
    head: u64,
    /// Whether each head of queries and keys is normalised.
    head_norms: bool,
    experts: u64,
    inner: u64,
    chosen: u64,
    normalized: bool,
    /// Prefix of the feed-forward block, and the tensors of an expert: gate, up, down.
    prefix: &'static str,
    tensors: [&'static str; 3],
}

/// Mixtral.
pub(super) fn mixtral(config: &mut Config<'_>) -> Option<String> {
    let frame = Frame::read(config, "MixtralForCausalLM");
    let positions = positions::read(config);
    config.must_be_null("sliding_window", "attention to a window of tokens cannot be written yet");
    config.must_be_zero(
        "router_jitter_noise",
        "the router's inputs are not disturbed, in training neither",
    );
    let kv_heads = config.size("num_key_value_heads");
    let experts = config.size("num_local_experts");
    let inner = config.size("intermediate_size");
    let chosen = config.size("num_experts_per_tok");
    let head = config.count("head_dim");
    let (frame, positions) = (frame?, positions?);
    let shape = Shape {
        name: "Mixtral",
        paper: "Mixtral (arXiv 2401.04088)",
        kv_heads: kv_heads?,
        head: head_size(config, &frame, head?)?,
        head_norms: false,
        experts: experts?,
        inner: inner?,
        chosen: chosen?,
        normalized: true,
        prefix: "block_sparse_moe",
        tensors: ["w1", "w3", "w2"],
    };
    let sparse = vec![true; usize::try_from(frame.layers).ok()?];
    Some(model(&frame, &positions, &shape, (&sparse, None)))
}

/// Qwen3-MoE.
pub(super) fn qwen3(config: &mut Config<'_>) -> Option<String> {
    let frame = Frame::read(config, "Qwen3MoeForCausalLM");
    let positions = positions::read(config);
    config.must_be_false(
        "use_sliding_window",
        "attention to a window of tokens cannot be written yet",
    );
    // Without `use_sliding_window` this field means nothing.
    config.value("sliding_window");
    let kv_heads = config.size("num_key_value_heads");
    let count = if config.has("num_experts") { "num_experts" } else { "num_local_experts" };
    let experts = config.size(count);
    if config.has("num_experts") && config.has("num_local_experts") {
        config.must_be("num_local_experts", experts?, "`num_experts` says otherwise");
    }
    let inner = config.size("moe_intermediate_size");
    let chosen = config.size("num_experts_per_tok");
    let normalized = config.flag("norm_topk_prob");
    let head = config.count("head_dim");
    let step = config.size_or("decoder_sparse_step", 1);
    let only_dense = config.sizes("mlp_only_layers");
    let (frame, positions, step, only_dense) = (frame?, positions?, step?, only_dense?);
    let sparse: Vec<bool> =
        (0..frame.layers).map(|i| !only_dense.contains(&i) && (i + 1) % step == 0).collect();
    let dense = layers::dense_inner(config, &sparse)?;
    let shape = Shape {
        name: "Qwen3Moe",
        paper: "Qwen3-MoE (arXiv 2505.09388)",
        kv_heads: kv_heads?,
        head: head_size(config, &frame, head?)?,
        head_norms: true,
        experts: experts?,
        inner: inner?,
        chosen: chosen?,
        normalized: normalized?,
        prefix: "mlp",
        tensors: ["gate_proj", "up_proj", "down_proj"],
    };
    Some(model(&frame, &positions, &shape, (&sparse, dense)))
}

/// The size of a head: as given, or the hidden size shared out.
fn head_size(config: &mut Config<'_>, frame: &Frame, given: u64) -> Option<u64> {
    if given > 0 {
        return Some(given);
    }
    if frame.hidden.is_multiple_of(frame.heads) {
        return Some(frame.hidden / frame.heads);
    }
    config.refuse(
        "num_attention_heads",
        "the heads do not divide `hidden_size`",
        "give `head_dim`",
    );
    None
}

fn model(
    frame: &Frame,
    positions: &Positions,
    shape: &Shape,
    (sparse, dense): (&[bool], Option<u64>),
) -> String {
    let mut text = format!("// {}.\nmodel {} {{\n{}", shape.paper, shape.name, frame.sizes());
    if let Some(dense) = layers::dense_layers(sparse) {
        text += &format!(", dense_layers = {dense}");
    }
    text += &format!(
        "\ndim heads = {}, kv_heads = {}, d_head = {}\ndim ",
        frame.heads, shape.kv_heads, shape.head
    );
    if let Some(dense) = dense {
        text += &format!("ff = {dense}, ");
    }
    text += &format!("ff_expert = {}, experts = {}\n", shape.inner, shape.experts);
    text += &positions.constants("d_head", false);
    text += &positions.function("d_head", false);
    text += &attention(frame, shape);
    if sparse.contains(&false) {
        text += &mlp(frame.activation);
    }
    if sparse.contains(&true) {
        text += &experts(frame, shape);
    }
    if sparse.contains(&false) {
        text += &layer("DenseLayer", "Mlp(ff)", "mlp", frame.eps);
    }
    if sparse.contains(&true) {
        text += &layer("SparseLayer", "Experts", shape.prefix, frame.eps);
    }
    text += &frame.rest(sparse, None);
    text + "}\n"
}

fn attention(frame: &Frame, shape: &Shape) -> String {
    let eps = epsilon(frame.eps);
    let (params, note) = if shape.head_norms {
        (
            "param q_norm: [d_head] = \"q_norm.weight\"\nparam k_norm: [d_head] = \"k_norm.weight\"\n",
            "Grouped-query attention; each head of queries and keys is normalised before it is turned.",
        )
    } else {
        ("", "Grouped-query attention: several heads of queries share one of keys and values.")
    };
    let norm = |x: &str, w: &str| match shape.head_norms {
        true => format!("rope(rms_norm({x}, {w}{eps}))"),
        false => format!("rope({x})"),
    };
    let q = norm("linear(x, w_q) as [T, heads, d_head]", "q_norm");
    let k = norm("linear(x, w_k) as [T, kv_heads, d_head]", "k_norm");
    format!(
        r#"
// {note}
block Attention {{
  param w_q: [heads * d_head, hidden] = "q_proj.weight"
  param w_k: [kv_heads * d_head, hidden] = "k_proj.weight"
  param w_v: [kv_heads * d_head, hidden] = "v_proj.weight"
  param w_o: [hidden, heads * d_head] = "o_proj.weight"
  {params}cache keys: [kv_heads, d_head]
  cache values: [kv_heads, d_head]
  fn (x: [T, hidden]) -> [T, hidden] {{
    let q = {q}
    let k = append(keys, {k})
    let v = append(values, linear(x, w_v) as [T, kv_heads, d_head])
    let a = attend(q, k, v, scale = softmax_scale, causal)
    linear(a as [T, heads * d_head], w_o)
  }}
}}
"#
    )
}

fn experts(frame: &Frame, shape: &Shape) -> String {
    let [gate, up, down] = shape.tensors;
    let weight =
        if shape.normalized { "normalize(pick(score, chosen))" } else { "pick(score, chosen)" };
    format!(
        r#"
block Experts {{
  param router: [experts, hidden] = "gate.weight"
  param gate: [experts, ff_expert, hidden] = "experts.{{e}}.{gate}.weight"
  param up: [experts, ff_expert, hidden] = "experts.{{e}}.{up}.weight"
  param down: [experts, hidden, ff_expert] = "experts.{{e}}.{down}.weight"
  fn (x: [T, hidden]) -> [T, hidden] {{
    let score = softmax(linear(x, router))
    let chosen = top_k(score, {chosen})
    let weight = {weight}
    {route}
  }}
}}
"#,
        chosen = shape.chosen,
        route = route(frame.activation)
    )
}
