//! DeepSeek-V2 (arXiv 2405.04434) and DeepSeek-V3 (arXiv 2412.19437).
//!
//! Checked against `modeling_deepseek_v2.py` and `modeling_deepseek_v3.py` of transformers and
//! the modelling files that DeepSeek published with the checkpoints. Where those two disagree
//! (the scale of the scores of V2 under YaRN), this follows the publishers.

use super::config::Config;
use super::layers::{self, Frame};
use super::positions;
use super::text::{epsilon, layer, mlp, number, route};
use std::collections::BTreeSet;

/// Sizes of latent attention.
struct Latent {
    nope: u64,
    rope: u64,
    value: u64,
    kv_rank: u64,
    q_rank: Option<u64>,
}

/// The experts of a layer and how they are chosen.
struct Gate {
    experts: u64,
    inner: u64,
    shared: u64,
    chosen: u64,
    /// Groups, kept groups.
    groups: Option<(u64, u64)>,
    scale: f64,
}

/// DeepSeek-V2: softmax scores, groups by their best expert, weights as they are.
pub(super) fn version_2(config: &mut Config<'_>) -> Option<String> {
    let frame = Frame::read(config, "DeepseekV2ForCausalLM");
    let positions = positions::read(config);
    let latent = latent(config);
    if config.text_or("scoring_func", "softmax")? != "softmax" {
        config.refuse("scoring_func", "DeepSeek-V2 scores by softmax", "`softmax`");
    }
    if config.flag_or("norm_topk_prob", false)? {
        config.refuse(
            "norm_topk_prob",
            "implementations of DeepSeek-V2 disagree on what it means",
            "set it to false, or write the model in the language",
        );
    }
    let grouped = match config.text_or("topk_method", "greedy")?.as_str() {
        "greedy" => {
            config.count("n_group");
            config.count("topk_group");
            false
        }
        "group_limited_greedy" => true,
        _ => {
            config.refuse(
                "topk_method",
                "DeepSeek-V2 knows two",
                "`greedy` or `group_limited_greedy`",
            );
            false
        }
    };
    let gate = gate(config, grouped);
    let sparse = sparse(config, frame.as_ref()?, gate.as_ref()?.is_some());
    let (frame, positions, latent, gate, sparse) = (frame?, positions?, latent?, gate?, sparse?);
    heads(config, &frame);
    let inner = layers::dense_inner(config, &sparse)?;
    let paper = ("DeepSeekV2", "DeepSeek-V2 (arXiv 2405.04434)");
    let mut text = opening(paper, &frame, &latent, gate.as_ref(), (&sparse, inner));
    text += &positions.constants("d_nope + d_rope", true);
    text += &positions.function("d_rope", true);
    text += &attention(&latent, "section 2.1");
    text += &mlp(frame.activation);
    if let Some(gate) = &gate {
        let rule = Rule {
            note: "Section 2.2: softmax scores; a group of experts is as good as its best.",
            score: "softmax",
            state: "",
            key: "score",
            by: "max",
            normalized: false,
        };
        text += &experts(gate, &frame, &rule);
    }
    text += &bodies(&frame, &sparse);
    text += &frame.rest(&sparse, None);
    Some(text + "}\n")
}

/// DeepSeek-V3: sigmoid scores, a bias in the choice, groups by their two best experts.
pub(super) fn version_3(
    config: &mut Config<'_>,
    tensors: Option<&BTreeSet<String>>,
) -> Option<String> {
    let frame = Frame::read(config, "DeepseekV3ForCausalLM");
    let positions = positions::read(config);
    let latent = latent(config);
    let interleaved = config.flag_or("rope_interleave", true)?;
    if config.text_or("scoring_func", "sigmoid")? != "sigmoid" {
        config.refuse("scoring_func", "DeepSeek-V3 scores by sigmoid", "`sigmoid`");
    }
    if config.text_or("topk_method", "noaux_tc")? != "noaux_tc" {
        config.refuse("topk_method", "DeepSeek-V3 knows one", "`noaux_tc`");
    }
    let normalized = config.flag("norm_topk_prob");
    let gate = gate(config, true);
    let sparse = sparse(config, frame.as_ref()?, gate.as_ref()?.is_some());
    let depth = config.count("num_nextn_predict_layers");
    let (frame, positions, latent, gate, sparse) = (frame?, positions?, latent?, gate?, sparse?);
    heads(config, &frame);
    let mtp = mtp(config, &frame, depth?, &sparse, tensors);
    let inner = layers::dense_inner(config, &sparse)?;
    let paper = ("DeepSeekV3", "DeepSeek-V3 (arXiv 2412.19437)");
    let mut text = opening(paper, &frame, &latent, gate.as_ref(), (&sparse, inner));
    text += &positions.constants("d_nope + d_rope", true);
    text += &positions.function("d_rope", interleaved);
    text += &attention(&latent, "section 2.1.1");
    text += &mlp(frame.activation);
    if let Some(gate) = &gate {
        let rule = Rule {
            note: "Section 2.1.2: sigmoid scores; a bias, moved by the load, takes part in the choice only.",
            score: "sigmoid",
            state: "state bias: [experts] = \"gate.e_score_correction_bias\"\n",
            key: "score + bias",
            by: "sum_of_top(2)",
            normalized: normalized?,
        };
        text += &experts(gate, &frame, &rule);
    }
    text += &bodies(&frame, &sparse);
    text += &frame.rest(&sparse, mtp.as_deref());
    Some(text + "}\n")
}

fn latent(config: &mut Config<'_>) -> Option<Latent> {
    let nope = config.size("qk_nope_head_dim");
    let rope = config.size("qk_rope_head_dim");
    let value = config.size("v_head_dim");
    let kv_rank = config.size("kv_lora_rank");
    let q_rank =
        if config.has("q_lora_rank") { config.size("q_lora_rank").map(Some) } else { Some(None) };
    let latent =
        Latent { nope: nope?, rope: rope?, value: value?, kv_rank: kv_rank?, q_rank: q_rank? };
    config.must_be(
        "qk_head_dim",
        latent.nope + latent.rope,
        "the two parts of a head have other sizes",
    );
    config.must_be("head_dim", latent.rope, "transformers turns as many elements as it says");
    Some(latent)
}

/// Latent attention has as many heads of keys as of queries.
fn heads(config: &mut Config<'_>, frame: &Frame) {
    config.must_be(
        "num_key_value_heads",
        frame.heads,
        "latent attention gives each head keys of its own",
    );
}

/// The experts, if there are any.
fn gate(config: &mut Config<'_>, grouped: bool) -> Option<Option<Gate>> {
    let experts = config.count("n_routed_experts")?;
    let fields = [
        "moe_intermediate_size",
        "n_shared_experts",
        "num_experts_per_tok",
        "routed_scaling_factor",
        "n_group",
        "topk_group",
    ];
    if experts == 0 {
        fields.iter().for_each(|f| drop(config.value(f)));
        return Some(None);
    }
    let inner = config.size("moe_intermediate_size");
    let shared = config.count("n_shared_experts");
    let chosen = config.size("num_experts_per_tok");
    let scale = config.number("routed_scaling_factor");
    let groups = if grouped {
        let (count, keep) = (config.size("n_group"), config.size("topk_group"));
        let (count, keep) = (count?, keep?);
        if count == 1 && keep != 1 || keep > count {
            config.refuse("topk_group", "more groups than there are", &format!("at most {count}"));
        }
        (count > 1).then_some((count, keep))
    } else {
        None
    };
    Some(Some(Gate {
        experts,
        inner: inner?,
        shared: shared?,
        chosen: chosen?,
        groups,
        scale: scale?,
    }))
}

/// Which layers have experts: those from `first_k_dense_replace` on whose number
/// `moe_layer_freq` divides.
fn sparse(config: &mut Config<'_>, frame: &Frame, any: bool) -> Option<Vec<bool>> {
    let first = config.count("first_k_dense_replace");
    let every = config.size_or("moe_layer_freq", 1);
    let (first, every) = (first?, every?);
    let sparse: Vec<bool> =
        (0..frame.layers).map(|i| any && i >= first && i % every == 0).collect();
    Some(sparse)
}

fn opening(
    (name, paper): (&str, &str),
    frame: &Frame,
    latent: &Latent,
    gate: Option<&Gate>,
    (sparse, inner): (&[bool], Option<u64>),
) -> String {
    let mut text = format!("// {paper}.\nmodel {name} {{\n{}", frame.sizes());
    if let Some(dense) = layers::dense_layers(sparse) {
        text += &format!(", dense_layers = {dense}");
    }
    text += &format!(
        "\ndim heads = {}, d_nope = {}, d_rope = {}, d_v = {}",
        frame.heads, latent.nope, latent.rope, latent.value
    );
    if let Some(rank) = latent.q_rank {
        text += &format!(", q_rank = {rank}");
    }
    text += &format!(", kv_rank = {}\n", latent.kv_rank);
    let mut sizes = Vec::new();
    sizes.extend(inner.map(|n| format!("ff = {n}")));
    if let Some(gate) = gate {
        sizes.push(format!("ff_expert = {}", gate.inner));
        sizes.push(format!("experts = {}", gate.experts));
        if gate.shared > 1 {
            sizes.push(format!("shared_experts = {}", gate.shared));
        }
    }
    text + &format!("dim {}\n", sizes.join(", "))
}

/// How experts are chosen and weighted.
struct Rule {
    note: &'static str,
    /// Scores from the router's products.
    score: &'static str,
    /// Declaration of a state, or nothing.
    state: &'static str,
    /// What the best are chosen by.
    key: &'static str,
    /// What makes a group good.
    by: &'static str,
    normalized: bool,
}

/// The block `Experts`.
fn experts(gate: &Gate, frame: &Frame, rule: &Rule) -> String {
    let Rule { note, score, state, key, by, normalized } = rule;
    let groups = match gate.groups {
        Some((count, keep)) => format!(", groups = {count}, of_groups = {keep}, by = {by}"),
        None => String::new(),
    };
    let weight = if *normalized { "normalize(pick(score, chosen))" } else { "pick(score, chosen)" };
    let scale =
        if gate.scale == 1.0 { String::new() } else { format!(" * {}", number(gate.scale)) };
    let (used, added) = match gate.shared {
        0 => ("", ""),
        1 => ("use shared: Mlp(ff_expert) = \"shared_experts\"\n", " + shared(x)"),
        _ => ("use shared: Mlp(shared_experts * ff_expert) = \"shared_experts\"\n", " + shared(x)"),
    };
    let result = if added.is_empty() {
        route(frame.activation)
    } else {
        format!("let routed = {}\nrouted{added}", route(frame.activation))
    };
    format!(
        r#"
// {note}
block Experts {{
  param router: [experts, hidden] = "gate.weight"
  {state}param gate: [experts, ff_expert, hidden] = "experts.{{e}}.gate_proj.weight"
  param up: [experts, ff_expert, hidden] = "experts.{{e}}.up_proj.weight"
  param down: [experts, hidden, ff_expert] = "experts.{{e}}.down_proj.weight"
  {used}fn (x: [T, hidden]) -> [T, hidden] {{
    let score = {score}(linear(x, router))
    let chosen = top_k({key}, {chosen}{groups})
    let weight = {weight}{scale}
    {result}
  }}
}}
"#,
        chosen = gate.chosen
    )
}

/// The block `Attention`; the norms of the latent vectors have the default epsilon whatever
/// `rms_norm_eps` says, as in both sources.
fn attention(latent: &Latent, section: &str) -> String {
    let (params, q) = match latent.q_rank {
        Some(_) => (
            "param q_a: [q_rank, hidden] = \"q_a_proj.weight\"\n\
             param q_norm: [q_rank] = \"q_a_layernorm.weight\"\n\
             param q_b: [heads * (d_nope + d_rope), q_rank] = \"q_b_proj.weight\"",
            "linear(rms_norm(linear(x, q_a), q_norm), q_b)",
        ),
        None => {
            ("param w_q: [heads * (d_nope + d_rope), hidden] = \"q_proj.weight\"", "linear(x, w_q)")
        }
    };
    format!(
        r#"
// Multi-head latent attention ({section}): keys and values of all heads come from one latent
// vector per token, and only that is remembered.
block Attention {{
  {params}
  param kv_a: [kv_rank + d_rope, hidden] = "kv_a_proj_with_mqa.weight"
  param kv_norm: [kv_rank] = "kv_a_layernorm.weight"
  param kv_b: [heads * (d_nope + d_v), kv_rank] = "kv_b_proj.weight"
  param o: [hidden, heads * d_v] = "o_proj.weight"
  cache latent: [kv_rank + d_rope]
  fn (x: [T, hidden]) -> [T, hidden] {{
    let q = {q} as [T, heads, d_nope + d_rope]
    let q_n, q_r = split(q, d_nope, d_rope)
    let c, k_r = split(linear(x, kv_a), kv_rank, d_rope)
    let past = append(latent, concat(rms_norm(c, kv_norm), rope(k_r)))
    let c, k_r = split(past, kv_rank, d_rope)
    let k_n, v = split(linear(c, kv_b) as [S, heads, d_nope + d_v], d_nope, d_v)
    let k = concat(k_n, spread(k_r, heads))
    let a = attend(concat(q_n, rope(q_r)), k, v, scale = softmax_scale, causal)
    linear(a as [T, heads * d_v], o)
  }}
}}
"#
    )
}

/// The blocks of the layers that the model has.
fn bodies(frame: &Frame, sparse: &[bool]) -> String {
    let mut text = String::new();
    if sparse.contains(&false) {
        text += &layer("DenseLayer", "Mlp(ff)", "mlp", frame.eps);
    }
    if sparse.contains(&true) {
        text += &layer("SparseLayer", "Experts", "mlp", frame.eps);
    }
    text
}

/// Multi-token prediction, where the checkpoint has its tensors (DeepSeek-V3 2.2; stored as
/// one more layer, README_WEIGHTS of the release).
fn mtp(
    config: &mut Config<'_>,
    frame: &Frame,
    depth: u64,
    sparse: &[bool],
    tensors: Option<&BTreeSet<String>>,
) -> Option<String> {
    let prefix = format!("model.layers.{}", frame.layers);
    let stored = |name: &str| tensors.is_some_and(|t| t.contains(&format!("{prefix}.{name}")));
    if depth == 0 || !stored("eh_proj.weight") {
        return None;
    }
    if depth > 1 || sparse.last() != Some(&true) {
        config.refuse(
            "num_nextn_predict_layers",
            "one more layer, with experts, can be imported",
            "set it to 0 to leave multi-token prediction out",
        );
        return None;
    }
    let eps = epsilon(frame.eps);
    Some(format!(
        r#"
// Multi-token prediction (section 2.2): one more layer, from the normalised last hidden
// state and the next token. The checkpoint's projection takes the embedding first.
block NextToken {{
  param embed: [vocab, hidden] = "embed_tokens.weight"
  param embed_norm: [hidden] = "enorm.weight"
  param hidden_norm: [hidden] = "hnorm.weight"
  param join: [hidden, 2 * hidden] = "eh_proj.weight"
  use layer: SparseLayer = ""
  param norm: [hidden] = "shared_head.norm.weight"
  param head: [vocab, hidden] = "shared_head.head.weight"
  fn (h: [T, hidden], next: int[T]) -> [T, vocab] {{
    let e = rms_norm(lookup(embed, next), embed_norm{eps})
    let x = linear(concat(e, rms_norm(h, hidden_norm{eps})), join)
    linear(rms_norm(layer(x), norm{eps}), head)
  }}
}}

use next_token: NextToken = "{prefix}"
"#
    ))
}
