//! The fields of a `config.json`: each is read once, and what was not read is refused.

use super::Fp8Recipe;
use moec_ir::{Diagnostic, Span};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Fields that change nothing that is computed from tokens to logits.
const HARMLESS: [&str; 38] = [
    "_attn_implementation",
    "_name_or_path",
    "auto_map",
    "aux_loss_alpha",
    "bos_token_id",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "eos_token_id",
    "ep_size",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "max_window_layers",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "router_aux_loss_coef",
    "sep_token_id",
    "seq_aux",
    "task_specific_params",
    "tokenizer_class",
    "torchscript",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
    "use_flash_attention_2",
];

/// Fields that importers read. Where a mistake ended the reading of a configuration early, what
/// was not read may still be one of these, which is no mistake then.
const READ: [&str; 57] = [
    "add_cross_attention",
    "architectures",
    "attention_bias",
    "attention_dropout",
    "decoder_sparse_step",
    "dtype",
    "embd_pdrop",
    "first_k_dense_replace",
    "head_dim",
    "hidden_act",
    "hidden_dropout",
    "hidden_size",
    "intermediate_size",
    "is_encoder_decoder",
    "kv_lora_rank",
    "max_position_embeddings",
    "mlp_bias",
    "mlp_only_layers",
    "model_type",
    "moe_intermediate_size",
    "moe_layer_freq",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_attention_heads",
    "num_experts",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "num_nextn_predict_layers",
    "partial_rotary_factor",
    "q_lora_rank",
    "qk_head_dim",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "quantization_config",
    "resid_pdrop",
    "rms_norm_eps",
    "rope_interleave",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "routed_scaling_factor",
    "router_jitter_noise",
    "scoring_func",
    "sliding_window",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "topk_group",
    "topk_method",
    "torch_dtype",
    "transformers_version",
    "use_sliding_window",
    "v_head_dim",
    "vocab_size",
];

/// Largest size that is read.
const MAX_SIZE: u64 = 1 << 40;

/// A configuration, the fields that were read, and what was wrong with them.
pub(super) struct Config<'a> {
    /// How FP8 is to be computed, where the caller says so.
    pub(super) fp8: Option<Fp8Recipe>,
    source: &'a str,
    fields: Map<String, Value>,
    read: BTreeSet<String>,
    found: Vec<Diagnostic>,
}

impl<'a> Config<'a> {
    /// Reads JSON (E0501).
    pub(super) fn read(source: &'a str, fp8: Option<Fp8Recipe>) -> Result<Self, Diagnostic> {
        let fields = match serde_json::from_str(source) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => {
                return Err(Diagnostic::error("E0501", "the configuration is not a JSON object")
                    .at(Span { start: 0, end: source.len().min(1) }, "not `{`"));
            }
            Err(e) => {
                let line_start = source
                    .split_inclusive('\n')
                    .take(e.line().saturating_sub(1))
                    .map(str::len)
                    .sum::<usize>();
                let start = (line_start + e.column().saturating_sub(1)).min(source.len());
                return Err(Diagnostic::error("E0501", "the configuration is not JSON")
                    .at(Span { start, end: (start + 1).min(source.len()) }, e.to_string()));
            }
        };
        Ok(Self { fp8, source, fields, read: BTreeSet::new(), found: vec![] })
    }

    /// What was wrong, and which fields were not read (E0505); `is_whole` says that the reading
    /// came to its end.
    pub(super) fn finish(mut self, is_whole: bool) -> Vec<Diagnostic> {
        let is_known = |key: &str| {
            self.read.contains(key) || HARMLESS.contains(&key) || (!is_whole && READ.contains(&key))
        };
        let unread: Vec<String> = self.fields.keys().filter(|k| !is_known(k)).cloned().collect();
        for key in unread {
            let d = Diagnostic::error("E0505", format!("the field `{key}` is not known"));
            let d = self.at(d, &key, "may change what the model computes");
            self.found.push(d.help(
                "remove it if it changes nothing; write the model in the language if it does",
            ));
        }
        self.found.sort_by_key(|d| (d.labels.first().map(|l| l.span), d.message.clone()));
        self.found
    }

    /// Adds the place of a field to a diagnostic.
    pub(super) fn at(&self, d: Diagnostic, key: &str, label: &str) -> Diagnostic {
        let last = key.rsplit('.').next().unwrap_or(key);
        let quoted = format!("\"{last}\"");
        let is_key = |at: &usize| self.source[at + quoted.len()..].trim_start().starts_with(':');
        let found = self.source.match_indices(&quoted).map(|(at, _)| at).find(is_key);
        match found {
            Some(start) => d.at(Span { start, end: start + quoted.len() }, label),
            None => d,
        }
    }

    /// E0504: the value of a field cannot be computed.
    pub(super) fn refuse(&mut self, key: &str, why: &str, help: &str) {
        let value = self.peek(key).map_or_else(|| "nothing".to_owned(), |v| brief(&v));
        let d = Diagnostic::error("E0504", format!("`{key}` is {value}: {why}"));
        let d = self.at(d, key, "this value").help(help);
        self.found.push(d);
    }

    /// E0502: a field is missing or of another kind.
    fn wrong<T>(&mut self, key: &str, wanted: &str) -> Option<T> {
        let d = match self.peek(key) {
            None => Diagnostic::error("E0502", format!("the field `{key}` is missing"))
                .help(format!("give {wanted}")),
            Some(value) => {
                let d = Diagnostic::error(
                    "E0502",
                    format!("`{key}` is {}, not {wanted}", brief(&value)),
                );
                self.at(d, key, "this value")
            }
        };
        self.found.push(d);
        None
    }

    /// The value at a key; `a.b` is the field `b` of the object `a`. Null is nothing.
    fn peek(&self, key: &str) -> Option<Value> {
        let mut parts = key.split('.');
        let mut value = self.fields.get(parts.next()?)?;
        for part in parts {
            value = value.as_object()?.get(part)?;
        }
        (!value.is_null()).then(|| value.clone())
    }

    /// The value at a key, which counts as read.
    pub(super) fn value(&mut self, key: &str) -> Option<Value> {
        debug_assert!(key.contains('.') || READ.contains(&key), "`{key}` is not in `READ`");
        self.read.insert(key.to_owned());
        self.peek(key)
    }

    /// Whether a field is there and not null.
    pub(super) fn has(&mut self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// The keys of an object that none of `known` is: refused (E0505).
    pub(super) fn only(&mut self, key: &str, known: &[&str]) {
        let Some(Value::Object(fields)) = self.value(key) else {
            if self.has(key) {
                self.wrong::<()>(key, "an object");
            }
            return;
        };
        for field in fields.keys().filter(|f| !known.contains(&f.as_str())) {
            let full = format!("{key}.{field}");
            let d = Diagnostic::error("E0505", format!("the field `{full}` is not known"));
            let d = self.at(d, &full, "may change what the model computes");
            self.found.push(d.help("remove it if it changes nothing"));
        }
    }

    /// A text that must be there.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match self.value(key) {
            Some(Value::String(s)) => Some(s),
            _ => self.wrong(key, "a text"),
        }
    }

    /// A text, or the default where it is not there.
    pub(super) fn text_or(&mut self, key: &str, default: &str) -> Option<String> {
        if self.has(key) { self.text(key) } else { Some(default.to_owned()) }
    }

    /// A positive whole number that must be there.
    pub(super) fn size(&mut self, key: &str) -> Option<u64> {
        match self.value(key).and_then(|v| v.as_u64()) {
            Some(n) if (1..=MAX_SIZE).contains(&n) => Some(n),
            _ => self.wrong(key, "a whole number of at least 1"),
        }
    }

    /// A positive whole number, or the default where it is not there.
    pub(super) fn size_or(&mut self, key: &str, default: u64) -> Option<u64> {
        if self.has(key) { self.size(key) } else { Some(default) }
    }

    /// A whole number, 0 where it is not there.
    pub(super) fn count(&mut self, key: &str) -> Option<u64> {
        match self.value(key) {
            None => Some(0),
            Some(v) => match v.as_u64().filter(|&n| n <= MAX_SIZE) {
                Some(n) => Some(n),
                None => self.wrong(key, "a whole number"),
            },
        }
    }

    /// A finite number of at least 0 that must be there.
    pub(super) fn number(&mut self, key: &str) -> Option<f64> {
        match self.value(key).and_then(|v| v.as_f64()) {
            Some(x) if x.is_finite() && x >= 0.0 => Some(x),
            _ => self.wrong(key, "a number of at least 0"),
        }
    }

    /// A number, or the default where it is not there.
    pub(super) fn number_or(&mut self, key: &str, default: f64) -> Option<f64> {
        if self.has(key) { self.number(key) } else { Some(default) }
    }

    /// True or false, or the default where it is not there.
    pub(super) fn flag_or(&mut self, key: &str, default: bool) -> Option<bool> {
        match self.value(key) {
            None => Some(default),
            Some(Value::Bool(b)) => Some(b),
            Some(_) => self.wrong(key, "true or false"),
        }
    }

    /// True or false that must be there.
    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        if self.has(key) { self.flag_or(key, false) } else { self.wrong(key, "true or false") }
    }

    /// A list of whole numbers; empty where it is not there.
    pub(super) fn sizes(&mut self, key: &str) -> Option<Vec<u64>> {
        match self.value(key) {
            None => Some(vec![]),
            Some(Value::Array(items)) => {
                let numbers: Option<Vec<u64>> = items.iter().map(Value::as_u64).collect();
                numbers.or_else(|| self.wrong(key, "a list of whole numbers"))
            }
            Some(_) => self.wrong(key, "a list of whole numbers"),
        }
    }

    /// A field that must be false where it is there.
    pub(super) fn must_be_false(&mut self, key: &str, why: &str) {
        if self.flag_or(key, false) == Some(true) {
            self.refuse(key, why, "import a configuration where it is false");
        }
    }

    /// A field that must be 0 where it is there.
    pub(super) fn must_be_zero(&mut self, key: &str, why: &str) {
        if self.number_or(key, 0.0).is_some_and(|x| x != 0.0) {
            self.refuse(key, why, "set it to 0.0");
        }
    }

    /// A field that must be null where it is there.
    pub(super) fn must_be_null(&mut self, key: &str, why: &str) {
        if self.has(key) {
            self.refuse(key, why, "import a configuration where it is null");
        }
    }

    /// A field that, where it is there, must be what follows from others.
    pub(super) fn must_be(&mut self, key: &str, size: u64, why: &str) {
        if self.has(key) && self.size(key).is_some_and(|n| n != size) {
            self.refuse(key, why, &format!("it should be {size}"));
        }
    }
}

/// A value as messages show it.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("`{}…`", &text[..at]),
        None => format!("`{text}`"),
    }
}
