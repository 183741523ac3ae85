//! The command line as users meet it: exit statuses, what is printed where, files.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/tiny-v3");

fn moec(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moec")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a command that succeeds.
fn ok(args: &[&str]) -> String {
    let output = moec(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Standard error of a command that stops with a status.
fn fails(status: i32, args: &[&str]) -> String {
    let output = moec(args);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {}", text(&output.stderr));
    assert!(output.stdout.is_empty(), "{args:?}");
    text(&output.stderr)
}

fn tiny() -> String {
    format!("{TINY}/tiny-v3.moe")
}

fn written(folder: &tempfile::TempDir, name: &str, content: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn help_teaches_by_examples() {
    for command in [
        "import", "fmt", "build", "explain", "logits", "generate", "simulate", "numerics",
        "emulate",
    ] {
        let help = ok(&[command, "--help"]);
        assert!(help.contains("Examples:") && help.contains(&format!("moec {command} ")), "{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(ok(&["completions", shell]).contains("without-rule"), "{shell}");
    }
}

#[test]
fn bad_usage_exits_with_2_and_a_mistake_with_1() {
    fails(2, &["build"]);
    fails(2, &["build", "x.moe", "--target", "a100"]);
    fails(2, &["generate", "x.moe", "--weights", "."]);
    fails(2, &["explain", "x.moe", "--phase", "training"]);
    assert!(fails(1, &["check", "nowhere.moe"]).contains("`nowhere.moe` cannot be read"));
    let folder = tempfile::tempdir().unwrap();
    let bad = written(&folder, "bad.moe", "model M {\n  dim hidden 64\n}\n");
    let error = fails(1, &["check", &bad]);
    assert!(error.contains("E0101") && error.contains("bad.moe:2:"), "{error}");
    let unknown = fails(1, &["explain", &tiny(), "--phase", "decode", "--without-rule", "absorb"]);
    assert!(unknown.contains("E0801") && unknown.contains("`absorb`"), "{unknown}");
}

#[test]
fn explain_says_why_a_rule_does_not_shape_the_plan() {
    let why = |rule: &str| ok(&["explain", &tiny(), "--phase", "prefill", "--why-not", rule]);
    let absorbed = why("absorb-key-projection");
    assert!(absorbed.contains("scores(q, head_linear(c, w)) =>"), "{absorbed}");
    assert!(absorbed.contains("head: no match: there is no `scores`"), "{absorbed}");
    // A place in the file, where something of the rule was found.
    let scaled = why("scale-inside-the-gemm");
    assert!(scaled.contains("is missing") && scaled.contains("tiny-v3.moe:"), "{scaled}");
    let phase = ["explain", &tiny(), "--phase", "decode"];
    let unknown = fails(1, &[&phase[..], &["--why-not", "absorb-keys"]].concat());
    assert!(unknown.contains("E0801") && unknown.contains("absorb-key-projection"), "{unknown}");
    let table = ok(&["explain", &tiny(), "--mla"]);
    assert!(table.contains("prefill") && table.contains("decode"), "{table}");
    fails(2, &["explain", &tiny(), "--mla", "--phase", "decode"]);
    fails(2, &["explain", &tiny()]);
    let plain = ok(&[&phase[..], &["--without-family", "fusion"]].concat());
    assert!(!plain.contains("(fusion;") && plain.contains("(algebra;"), "{plain}");
}

#[test]
fn fmt_check_tells_and_fmt_mends() {
    let folder = tempfile::tempdir().unwrap();
    let source = std::fs::read_to_string(tiny()).unwrap();
    let path = written(&folder, "loose.moe", &source.replace("  dim", "    dim"));
    assert!(fails(1, &["fmt", "--check", &path]).contains("is not formatted"));
    ok(&["fmt", &path]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), source);
    ok(&["fmt", "--check", &path]);
}

#[test]
fn import_writes_what_check_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.moe").display().to_string();
    ok(&["import", TINY, "-o", &path]);
    assert!(ok(&["check", &path]).contains("well formed"));
    assert_eq!(ok(&["import", TINY]), std::fs::read_to_string(&path).unwrap());
    assert!(fails(1, &["import", folder.path().to_str().unwrap()]).contains("config.json"));
}

#[test]
fn every_stage_can_be_printed() {
    let emits = [
        ("ast", "model"),
        ("graph", "graph "),
        ("egraph", "fn dense"),
        ("plan", "\"phase\": \"decode\""),
        ("mlir", "nvvm.kernel"),
        ("llvm", "define"),
        ("ptx", ".target sm_90a"),
    ];
    for (emit, part) in emits {
        let printed = ok(&["build", &tiny(), "--emit", emit]);
        assert!(printed.contains(part), "{emit}: {}", &printed[..printed.len().min(500)]);
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn an_artefact_is_the_same_each_time_and_generates_as_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a.artefact", "b.artefact"].map(|n| folder.path().join(n));
    ok(&["build", &tiny(), "-o", a.to_str().unwrap(), "--threads", "1"]);
    ok(&["build", &tiny(), "-o", b.to_str().unwrap(), "--threads", "3"]);
    assert_eq!(files(&a).len(), 5);
    for (x, y) in files(&a).iter().zip(files(&b)) {
        assert!(std::fs::read(x).unwrap() == std::fs::read(y).unwrap(), "{}", x.display());
    }
    let prompt = ["--prompt", "In the beginning", "--max-new-tokens", "8", "--format", "json"];
    let from = |model: &str| ok(&[&["generate", model, "--weights", TINY], &prompt[..]].concat());
    let generated = from(a.to_str().unwrap());
    assert_eq!(generated, from(&tiny()));
    let json: serde_json::Value = serde_json::from_str(&generated).unwrap();
    assert_eq!(json["ids"].as_array().map(Vec::len), Some(8));
    assert!(json["text"].as_str().is_some_and(|t| !t.is_empty()));
}

#[test]
fn a_weights_folder_that_does_not_fit_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let error = fails(1, &["generate", &tiny(), "--weights", at, "--prompt-ids", "1"]);
    assert!(error.contains("E0601"), "{error}");
    let error = fails(1, &["generate", &tiny(), "--weights", at, "--prompt", "text"]);
    assert!(error.contains("E0701") && error.contains("--prompt-ids"), "{error}");
}

#[test]
fn settings_out_of_range_are_told_before_any_work() {
    let hot = ["generate", &tiny(), "--weights", TINY, "--prompt", "x", "--temperature", "-1"];
    assert!(fails(1, &hot).contains("E1205"));
    let long = ["generate", &tiny(), "--weights", TINY, "--prompt-ids", "1", "--max-new-tokens"];
    let error = fails(1, &[&long[..], &["5000"]].concat());
    assert!(error.contains("E1201") && error.contains("2048"), "{error}");
}
