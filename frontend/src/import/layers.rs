//! What every model has around its blocks: sizes, layers, embedding, head, precision.

use super::config::Config;
use super::quantized::{self, Quantization};
use super::text::epsilon;
use serde_json::Value;

/// The fields that all types of models share.
pub(super) struct Frame {
    pub(super) hidden: u64,
    pub(super) heads: u64,
    pub(super) layers: u64,
    pub(super) eps: f64,
    /// The activation of the feed-forward blocks, as the language calls it.
    pub(super) activation: &'static str,
    vocab: u64,
    context: u64,
    is_tied: bool,
    storage: Option<&'static str>,
    fp8: Option<Quantization>,
}

impl Frame {
    /// Reads the shared fields; `architecture` is the class of models that gives logits.
    pub(super) fn read(config: &mut Config<'_>, architecture: &str) -> Option<Self> {
        if let Some(Value::Array(names)) = config.value("architectures")
            && !names.iter().any(|n| n.as_str() == Some(architecture))
        {
            config.refuse(
                "architectures",
                "only the model with logits can be imported",
                &format!("it should hold `{architecture}`"),
            );
        }
        config.must_be_false(
            "attention_bias",
            "biases of projections are not in the templates of this importer",
        );
        config.must_be_false(
            "mlp_bias",
            "biases of projections are not in the templates of this importer",
        );
        config.must_be_false("is_encoder_decoder", "these models only decode");
        config.must_be_false("add_cross_attention", "these models only decode");
        config.must_be_false("tie_encoder_decoder", "these models only decode");
        config.must_be_zero("attention_dropout", "nothing is dropped, in training neither");
        config.must_be_zero("hidden_dropout", "nothing is dropped, in training neither");
        config.must_be_zero("resid_pdrop", "nothing is dropped, in training neither");
        config.must_be_zero("embd_pdrop", "nothing is dropped, in training neither");
        let activation = activation(config);
        let storage = storage(config);
        let fp8 = quantized::read(config);
        let hidden = config.size("hidden_size");
        let heads = config.size("num_attention_heads");
        let layers = config.size("num_hidden_layers").filter(|&n| {
            let few = n <= 1000;
            if !few {
                config.refuse("num_hidden_layers", "more than 1000 layers", "check the field");
            }
            few
        });
        let eps = config.number("rms_norm_eps");
        let vocab = config.size("vocab_size");
        let context = config.size("max_position_embeddings");
        let is_tied = config.flag_or("tie_word_embeddings", false);
        Some(Self {
            hidden: hidden?,
            heads: heads?,
            layers: layers?,
            eps: eps?,
            activation: activation?,
            vocab: vocab?,
            context: context?,
            is_tied: is_tied?,
            storage: storage?,
            fp8: fp8?,
        })
    }

    /// The line of sizes that every model begins with.
    pub(super) fn sizes(&self) -> String {
        format!(
            "dim context = {}, vocab = {}, hidden = {}, layers = {}",
            self.context, self.vocab, self.hidden, self.layers
        )
    }

    /// Embedding, layers, head, entries and precision. `sparse` says of each layer whether it
    /// has experts; `mtp` is the text of multi-token prediction.
    pub(super) fn rest(&self, sparse: &[bool], mtp: Option<&str>) -> String {
        let eps = epsilon(self.eps);
        let mut text =
            String::from("\nparam embed: [vocab, hidden] = \"model.embed_tokens.weight\"\n");
        let mut call = "lookup(embed, ids)".to_owned();
        for run in runs(sparse) {
            let block = if run.sparse { "SparseLayer" } else { "DenseLayer" };
            let Run { name, first, end, .. } = &run;
            text +=
                &format!("use {name}: {block} for i in {first}..{end} = \"model.layers.{{i}}\"\n");
            call = format!("{name}({call})");
        }
        text += "param norm: [hidden] = \"model.norm.weight\"\n";
        let head = if self.is_tied {
            "embed"
        } else {
            text += "param head: [vocab, hidden] = \"lm_head.weight\"\n";
            "head"
        };
        text += &match mtp {
            None => format!(
                "\nentry main(ids: int[T]) -> [T, vocab] {{ linear(rms_norm({call}, norm{eps}), {head}) }}\n"
            ),
            Some(mtp) => format!(
                "{mtp}\nentry main(ids: int[T]) -> [T, vocab], [T, hidden] {{\n\
                 let h = rms_norm({call}, norm{eps})\nlinear(h, {head}), h }}\n\
                 // The logits of the token after `next`.\n\
                 entry mtp(h: [T, hidden], next: int[T]) -> [T, vocab] {{ next_token(h, next) }}\n"
            ),
        };
        let router = if sparse.contains(&true) { "router, " } else { "" };
        text += "\nprecision {\n";
        if let Some(storage) = self.fp8.as_ref().and_then(Quantization::storage).or(self.storage) {
            text += &format!("storage: {storage}\n");
        }
        text += &format!("f32: {router}{head}\n");
        if let Some(fp8) = &self.fp8 {
            let embed = if self.is_tied { "" } else { "embed, " };
            text += &format!("keep: {embed}{router}{head}\n{}", fp8.lines(!router.is_empty()));
        }
        text + "}\n"
    }
}

/// Layers of one kind that follow each other.
struct Run {
    sparse: bool,
    name: String,
    first: String,
    end: String,
}

/// The runs of a model: `dense` and `sparse` where each kind is one run.
fn runs(sparse: &[bool]) -> Vec<Run> {
    let mut bounds = vec![0];
    bounds.extend((1..sparse.len()).filter(|&i| sparse[i] != sparse[i - 1]));
    bounds.push(sparse.len());
    let few = bounds.len() <= 3;
    let kind = |i: usize| if sparse[i] { "sparse" } else { "dense" };
    let bound = |i: usize| match i {
        i if i == sparse.len() => "layers".to_owned(),
        0 => "0".to_owned(),
        _ if few && !sparse[0] => "dense_layers".to_owned(),
        i => i.to_string(),
    };
    bounds
        .windows(2)
        .map(|b| Run {
            sparse: sparse[b[0]],
            name: if few { kind(b[0]).to_owned() } else { format!("{}_{}", kind(b[0]), b[0]) },
            first: bound(b[0]),
            end: bound(b[1]),
        })
        .collect()
}

/// Number of the first layers that are dense, where `dense_layers` names it.
pub(super) fn dense_layers(sparse: &[bool]) -> Option<usize> {
    let first = sparse.iter().position(|&s| s)?;
    (first > 0 && sparse[first..].iter().all(|&s| s)).then_some(first)
}

/// Inner size of the dense layers, if there are any.
pub(super) fn dense_inner(config: &mut Config<'_>, sparse: &[bool]) -> Option<Option<u64>> {
    if sparse.contains(&false) {
        return config.size("intermediate_size").map(Some);
    }
    config.value("intermediate_size");
    Some(None)
}

fn activation(config: &mut Config<'_>) -> Option<&'static str> {
    match config.text("hidden_act")?.as_str() {
        "silu" | "swish" => Some("silu"),
        "relu" => Some("relu"),
        _ => {
            config.refuse(
                "hidden_act",
                "this activation is not in the templates of this importer",
                "`silu` and `relu` are",
            );
            None
        }
    }
}

/// How weights are stored, where it is not bf16.
fn storage(config: &mut Config<'_>) -> Option<Option<&'static str>> {
    let (new, old) = (config.has("dtype"), config.has("torch_dtype"));
    let key = if new || !old { "dtype" } else { "torch_dtype" };
    Some(match config.text_or(key, "bfloat16")?.as_str() {
        "bfloat16" => None,
        "float16" => Some("f16"),
        "float32" => Some("f32"),
        _ => {
            config.refuse(
                key,
                "not a type that can be stored",
                "`bfloat16`, `float16` or `float32`",
            );
            return None;
        }
    })
}
