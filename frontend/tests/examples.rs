//! The examples are canonical, sound, and what import writes.

#![allow(clippy::unwrap_used, reason = "a panic is the failure")]

use moec_frontend::{Model, check, format, import, lower, parse};
use moec_ir::{DType, Phase, Transfer};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn example(name: &str) -> String {
    read(&root().join(format!("examples/{name}/{name}.moe")))
}

fn config(name: &str) -> String {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{name}.json")))
}

fn checked(name: &str, source: &str) -> Model {
    let told = |found: Vec<moec_ir::Diagnostic>| -> String {
        found.iter().map(|d| d.render(name, source, false)).collect()
    };
    parse(source).and_then(|ast| check(&ast)).map_err(told).unwrap_or_else(|e| panic!("{e}"))
}

fn all_examples() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in fs::read_dir(root().join("examples")).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        let path = root().join(format!("examples/{name}/{name}.moe"));
        if path.exists() {
            found.push((name, read(&path)));
        }
    }
    found.sort();
    assert!(found.len() >= 6, "only {} examples", found.len());
    found
}

#[test]
fn every_example_is_laid_out_canonically_and_gives_a_sound_graph() {
    for (name, source) in all_examples() {
        assert_eq!(format(&source).unwrap(), source, "{name}");
        let model = checked(&name, &source);
        assert_eq!(moec_ir::graph::verify::verify(&model.graph), Vec::<String>::new(), "{name}");
        assert_eq!(model.warnings, vec![], "{name}");
    }
}

#[test]
fn every_example_gives_the_same_graph_twice() {
    for (name, source) in all_examples() {
        assert_eq!(checked(&name, &source), checked(&name, &source), "{name}");
    }
}

/// A model without its first line and its name.
fn body(text: &str) -> String {
    text.lines().skip(2).collect::<Vec<_>>().join("\n")
}

#[test]
fn import_writes_the_examples() {
    for name in ["tiny-v3", "deepseek-v2-lite"] {
        let written = import(&config(name), None, None).unwrap();
        assert_eq!(body(&written), body(&example(name)), "{name}");
    }
    let tensors = BTreeSet::from(["model.layers.61.eh_proj.weight".to_owned()]);
    let written = import(&config("deepseek-v3"), Some(&tensors), None).unwrap();
    // The example has sections beside those that a configuration tells of.
    let shared = body(&written).trim_end_matches(['}', '\n']).to_owned();
    assert!(body(&example("deepseek-v3")).starts_with(&shared));
}

#[test]
fn multi_token_prediction_is_written_only_if_the_checkpoint_has_it() {
    let main_only = import(&config("deepseek-v3"), Some(&BTreeSet::new()), None).unwrap();
    let model = checked("imported", &main_only);
    assert!(model.graph.entry("mtp").is_none());
    let whole = checked("example", &example("deepseek-v3"));
    let mtp = whole.graph.entry("mtp").unwrap();
    assert_eq!(mtp.steps.len(), 1);
    let function = &whole.graph.functions[mtp.steps[0].function];
    let tensors: Vec<&str> = function.params.iter().map(|p| p.tensor.as_str()).collect();
    assert!(tensors.contains(&"model.layers.61.eh_proj.weight"), "{tensors:?}");
    assert!(tensors.contains(&"model.layers.61.self_attn.kv_b_proj.weight"), "{tensors:?}");
}

#[test]
fn layers_that_repeat_are_one_function_each() {
    let model = checked("example", &example("deepseek-v3"));
    let names: Vec<&str> = model.graph.functions.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["embed", "dense", "sparse", "head", "mtp"]);
    let main = model.graph.entry("main").unwrap();
    let layers: Vec<Option<u64>> = main.steps.iter().map(|s| s.layer).collect();
    let expected: Vec<Option<u64>> =
        std::iter::once(None).chain((0..61).map(Some)).chain([None]).collect();
    assert_eq!(layers, expected);
    assert_eq!(main.steps[3].function, 1);
    assert_eq!(main.steps[4].function, 2);
}

#[test]
fn the_sections_of_deepseek_v3_are_typed() {
    let model = checked("example", &example("deepseek-v3"));
    let fp8 = model.precision.fp8("attention.q_a", false).unwrap();
    assert_eq!((fp8.format, fp8.promote_every), (DType::F8e4m3, 128));
    assert!(model.precision.fp8("mlp.router", false).is_none());
    assert_eq!(model.parallel.experts.unwrap().count, 64);
    assert_eq!((model.targets[0].target.sms, model.targets[0].comm_sms), (132, None));
    let prefill = model.parallel_of(Phase::Prefill);
    assert_eq!(prefill.ranks.map(|r| (r.count(), r.per_node())), Some((32, 8)));
    assert_eq!((prefill.transfer, prefill.step.map(|s| s.count)), (Some(Transfer::First), Some(2)));
    let decode = model.parallel_of(Phase::Decode);
    assert_eq!(
        (decode.ranks.map(|r| r.count()), decode.transfer),
        (Some(128), Some(Transfer::LowLatency))
    );
    let train = model.train.as_ref().unwrap();
    assert_eq!(train.loss.len(), 3);
    assert_eq!(train.updates[0].state, "bias");
    assert_eq!(
        moec_ir::graph::verify::verify_function(&train.updates[0].function),
        vec![] as Vec<String>
    );
    let graph = lower(&model).unwrap();
    assert_eq!(moec_ir::graph::verify(&graph), Vec::<String>::new());
    let sparse = &graph.functions[2];
    let param = |name: &str| sparse.params.iter().find(|p| p.name == name).unwrap();
    assert_eq!(param("attention.kv_a").ty.to_string(), "f8e4m3[576, 7168]");
    assert_eq!(param("attention.kv_a_scale").ty.to_string(), "f32[5, 56]");
    assert_eq!(param("mlp.gate_scale").ty.to_string(), "f32[256, 16, 56]");
    assert!(param("mlp.gate_scale").tensor.ends_with("{e}.gate_proj.weight_scale_inv"));
    assert_eq!(param("mlp.router").ty.to_string(), "bf16[256, 7168]");
}

#[test]
fn the_router_is_float32_and_what_experts_give_is_stored() {
    let model = checked("example", &example("tiny-v3"));
    let sparse = model.graph.functions.iter().find(|f| f.name == "sparse").unwrap();
    let named = |name: &str| sparse.nodes.iter().find(|n| n.name.as_deref() == Some(name)).unwrap();
    assert_eq!(named("score").ty.to_string(), "f32[T, 16]");
    assert_eq!(named("chosen").ty.to_string(), "i32[T, 4]");
    assert_eq!(named("weight").ty.to_string(), "f32[T, 4]");
    assert_eq!(named("routed").ty.to_string(), "bf16[T, 256]");
    let param = |name: &str| sparse.params.iter().find(|p| p.name == name).unwrap();
    assert_eq!(param("mlp.router").ty.dtype, DType::Bf16);
    assert_eq!(param("mlp.bias").ty.dtype, DType::F32);
    assert!(lower(&model).is_ok());
}
