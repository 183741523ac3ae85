//! Configurations: what is honoured, and what is refused by name.

#![allow(clippy::unwrap_used, reason = "a panic is the failure")]

use moec_frontend::{Fp8Recipe, check, import, lower, parse};
use moec_ir::{Op, ScaleFormat};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn config(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{name}.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The configuration with fields replaced; null fields stay as null.
fn with(name: &str, fields: Value) -> String {
    let mut config = config(name);
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    config.to_string()
}

fn ops(text: &str) -> Vec<Op> {
    let model = check(&parse(text).unwrap()).unwrap();
    model.graph.functions.iter().flat_map(|f| f.nodes.iter().map(|n| n.op.clone())).collect()
}

#[test]
fn every_configuration_at_hand_imports() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = import(&fs::read_to_string(&path).unwrap(), None, None)
            .unwrap_or_else(|e| panic!("{}: {e:?}", path.display()));
        let model = check(&parse(&text).unwrap()).unwrap();
        assert_eq!(moec_ir::graph::verify::verify(&model.graph), Vec::<String>::new());
    }
}

#[test]
fn fields_that_cannot_be_honoured_are_refused_by_name() {
    let cases = [
        ("mixtral", json!({"sliding_window": 4096}), "E0504", "sliding_window"),
        ("mixtral", json!({"hidden_act": "gelu"}), "E0504", "hidden_act"),
        ("mixtral", json!({"attention_dropout": 0.1}), "E0504", "attention_dropout"),
        (
            "mixtral",
            json!({"architectures": ["MixtralForSequenceClassification"]}),
            "E0504",
            "architectures",
        ),
        ("mixtral", json!({"hidden_size": 255}), "E0504", "num_attention_heads"),
        ("mixtral", json!({"hidden_size": null}), "E0502", "hidden_size"),
        ("mixtral", json!({"hidden_size": "many"}), "E0502", "hidden_size"),
        ("mixtral", json!({"num_local_experts": -1}), "E0502", "num_local_experts"),
        ("mixtral", json!({"logit_cap": 30.0}), "E0505", "logit_cap"),
        ("qwen3-moe", json!({"use_sliding_window": true}), "E0504", "use_sliding_window"),
        ("qwen3-moe", json!({"attention_bias": true}), "E0504", "attention_bias"),
        (
            "qwen3-moe",
            json!({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
            "E0504",
            "rope_type",
        ),
        (
            "qwen3-moe",
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "spin": 2}}),
            "E0505",
            "rope_parameters.spin",
        ),
        ("qwen3-moe", json!({"rope_scaling": {"type": "default"}}), "E0504", "rope_scaling"),
        ("deepseek-v2-lite", json!({"norm_topk_prob": true}), "E0504", "norm_topk_prob"),
        ("deepseek-v2-lite", json!({"scoring_func": "sigmoid"}), "E0504", "scoring_func"),
        ("deepseek-v2-lite", json!({"topk_method": "noaux_tc"}), "E0504", "topk_method"),
        ("deepseek-v3", json!({"topk_method": "greedy"}), "E0504", "topk_method"),
        ("deepseek-v3", json!({"num_key_value_heads": 8}), "E0504", "num_key_value_heads"),
        ("deepseek-v3", json!({"qk_head_dim": 100}), "E0504", "qk_head_dim"),
        (
            "deepseek-v3",
            json!({"quantization_config": {"quant_method": "awq", "weight_block_size": [128, 128]}}),
            "E0504",
            "quant_method",
        ),
        (
            "deepseek-v3",
            json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "ignored_layers": ["a"]}}),
            "E0505",
            "ignored_layers",
        ),
        ("deepseek-v3", json!({"topk_group": 9}), "E0504", "topk_group"),
        ("deepseek-v3", json!({"num_experts_per_tok": 300}), "E0504", "cannot be chosen"),
        ("deepseek-v3", json!({"model_type": "llama"}), "E0503", "llama"),
    ];
    for (name, fields, code, named) in cases {
        let text = with(name, fields.clone());
        let found = import(&text, None, None).expect_err(&format!("{fields} was accepted"));
        let hit = found.iter().find(|d| d.code == code && d.message.contains(named));
        assert!(hit.is_some(), "{fields}: {found:?}");
    }
}

/// What a configuration says of FP8 does not tell how numbers go from product to product.
#[test]
fn fp8_is_computed_as_by_the_one_who_wrote_the_checkpoint() {
    let published = import(&with("deepseek-v3", json!({})), None, None).unwrap();
    assert!(published.contains("accumulate f32 every 128\n"), "{published}");
    assert!(!published.contains("storage:") && !published.contains("experts: fp8"), "{published}");
    let fields = json!({"transformers_version": "5.23.0"});
    let written = import(&with("deepseek-v3", fields.clone()), None, None).unwrap();
    for line in [
        "storage: f32\n",
        "linear: fp8 e4m3, activation [1, 128], weight [128, 128], accumulate f32\n",
        "experts: fp8 e4m3, weight [128, 128], accumulate f32\n",
    ] {
        assert!(written.contains(line), "{line}{written}");
    }
    let asked = import(&with("deepseek-v3", fields), None, Some(Fp8Recipe::DeepSeek)).unwrap();
    assert_eq!(asked, published);
}

#[test]
fn scales_are_powers_of_two_where_the_checkpoint_says_so() {
    let text = |scale_fmt: Value| {
        let mut config = config("deepseek-v3-fp8");
        config["quantization_config"]["scale_fmt"] = scale_fmt;
        import(&config.to_string(), None, None)
    };
    let powers = text(json!("ue8m0")).unwrap();
    let line = powers.lines().find(|line| line.contains("linear: fp8")).unwrap();
    assert!(line.ends_with(", scales ue8m0"), "{line}");
    let formats = |text: &str| -> Vec<ScaleFormat> {
        let graph = lower(&check(&parse(text).unwrap()).unwrap()).unwrap();
        let ops = graph.functions.iter().flat_map(|f| &f.nodes).map(|n| n.op.clone());
        let quantized = ops.filter_map(|op| match op {
            Op::Quantize { scales, .. } | Op::BlockScale { scales, .. } => Some(scales),
            _ => None,
        });
        quantized.collect()
    };
    let found = formats(&powers);
    assert!(found.len() > 10 && found.iter().all(|f| *f == ScaleFormat::Ue8m0), "{found:?}");
    let any = text(json!("float")).unwrap();
    assert!(formats(&any).iter().all(|f| *f == ScaleFormat::F32), "{any}");
    assert_eq!(text(json!("e5m2")).unwrap_err()[0].code, "E0504");
}

#[test]
fn a_field_is_pointed_at_where_it_stands() {
    let text = with("mixtral", json!({"sliding_window": 4096}));
    let found = import(&text, None, None).unwrap_err();
    let span = found[0].labels[0].span;
    assert_eq!(&text[span.start..span.end], "\"sliding_window\"");
}

#[test]
fn all_mistakes_of_a_configuration_are_told_at_once() {
    let text = with("mixtral", json!({"sliding_window": 4096, "hidden_act": "gelu", "extra": 1}));
    let found = import(&text, None, None).unwrap_err();
    let codes: Vec<_> = found.iter().map(|d| d.code).collect();
    assert_eq!(codes.len(), 3, "{found:?}");
}

#[test]
fn what_is_not_json_is_said_where() {
    let found = import("{\"model_type\": mixtral}", None, None).unwrap_err();
    assert_eq!(found[0].code, "E0501");
    assert_eq!(found[0].labels[0].span.start, 15);
    assert_eq!(import("[1]", None, None).unwrap_err()[0].code, "E0501");
}

#[test]
fn the_epsilon_of_the_latent_norms_stays_that_of_the_publishers() {
    let text = import(&with("deepseek-v3", json!({"rms_norm_eps": 1e-5})), None, None).unwrap();
    assert!(text.contains("rms_norm(x, attention_norm, eps = 1e-5)"), "{text}");
    assert!(text.contains("rms_norm(c, kv_norm)"), "{text}");
}

#[test]
fn yarn_sharpens_the_softmax_and_scales_sine_and_cosine() {
    let scale = |config: &str| {
        ops(&import(config, None, None).unwrap()).into_iter().find_map(|op| match op {
            Op::Attend { scale } => Some(scale.0),
            _ => None,
        })
    };
    let m = 0.1 * 0.707 * 40f64.ln() + 1.0;
    let expected = m * m / 192f64.sqrt();
    let found = scale(&config("deepseek-v2-lite").to_string()).unwrap();
    assert!((found - expected).abs() < 1e-15, "{found} {expected}");
    let rope = json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 512}});
    let text = import(&with("qwen3-moe", rope), None, None).unwrap();
    let amplitude = ops(&text).into_iter().find_map(|op| match op {
        Op::Rotary(r) => Some((r.amplitude.0, r.yarn.unwrap().factor.0, r.interleaved)),
        _ => None,
    });
    assert_eq!(amplitude, Some((0.1 * 4f64.ln() + 1.0, 4.0, false)));
}

#[test]
fn dense_layers_among_sparse_ones_are_runs_of_the_same_functions() {
    let fields = json!({"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]});
    let text = import(&with("qwen3-moe", fields), None, None).unwrap();
    let model = check(&parse(&text).unwrap()).unwrap();
    let main = model.graph.entry("main").unwrap();
    let names: Vec<&str> = main
        .steps
        .iter()
        .filter(|s| s.layer.is_some())
        .map(|s| model.graph.functions[s.function].name.as_str())
        .collect();
    assert_eq!(names, ["dense_0", "sparse_1", "dense_0", "dense_0", "dense_0", "sparse_1"]);
}

#[test]
fn tied_embeddings_are_read_twice() {
    let text = import(&with("mixtral", json!({"tie_word_embeddings": true})), None, None).unwrap();
    let model = check(&parse(&text).unwrap()).unwrap();
    for name in ["embed", "head"] {
        let function = model.graph.functions.iter().find(|f| f.name == name).unwrap();
        assert!(function.params.iter().any(|p| p.tensor == "model.embed_tokens.weight"), "{name}");
    }
}

#[test]
fn a_model_without_compression_or_shared_experts_or_groups_is_written() {
    let fields = json!({"q_lora_rank": null, "n_shared_experts": null, "n_group": 1, "topk_group": 1, "norm_topk_prob": false, "routed_scaling_factor": 1.0});
    let text = import(&with("deepseek-v3", fields), None, None).unwrap();
    assert!(text.contains("q_proj.weight") && !text.contains("shared"), "{text}");
    assert!(text.contains("let chosen = top_k(score + bias, 8)\n"), "{text}");
    assert!(text.contains("let weight = pick(score, chosen)\n"), "{text}");
}
