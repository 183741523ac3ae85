//! How SMs are divided, as `moec build` prints it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

/// Whether a command succeeds, and what it prints.
fn moec(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_moec")).args(args).output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn v3(args: &[&str]) -> (bool, String) {
    let model = format!("{EXAMPLES}/deepseek-v3/deepseek-v3.moe");
    moec(&[&["build", &model], args].concat())
}

/// DeepSeek's published cells; `BLESS=1` rewrites the tables.
#[test]
fn tables_of_deepseek_v3_are_as_they_were() {
    let cells = [("prefill", &["--batch", "4"][..]), ("decode", &[])];
    for (phase, step) in cells {
        let (done, table) = v3(&[&["--phase", phase, "--emit", "partition"], step].concat());
        assert!(done, "{table}");
        let path =
            format!("{}/tests/partition/deepseek-v3.{phase}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &table).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(table == expected, "{path} should be\n{table}");
    }
}

#[test]
fn the_timeline_is_a_trace_with_a_track_for_each_role_and_link() {
    let (done, text) = v3(&["--phase", "prefill", "--batch", "4", "--emit", "timeline"]);
    assert!(done, "{text}");
    let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let tracks = events.iter().filter(|e| e["name"] == "thread_name");
    let tracks: Vec<&str> = tracks.map(|e| e["args"]["name"].as_str().unwrap()).collect();
    assert_eq!(tracks.len(), 4, "{tracks:?}");
    for track in ["compute", "communicate", "network", "NVLink"] {
        assert!(tracks.iter().any(|t| t.contains(track)), "{tracks:?}");
    }
    // Nothing overlaps on a track of SMs, and both have all layers.
    for tid in 1..=2 {
        let spans: Vec<_> = events.iter().filter(|e| e["ph"] == "X" && e["tid"] == tid).collect();
        assert_eq!(spans.last().unwrap()["args"]["layer"], 57);
        for pair in spans.windows(2) {
            let end = pair[0]["ts"].as_f64().unwrap() + pair[0]["dur"].as_f64().unwrap();
            assert!(end <= pair[1]["ts"].as_f64().unwrap() + 0.002, "{pair:?}");
        }
    }
    let (_, again) = v3(&["--phase", "prefill", "--batch", "4", "--emit", "timeline"]);
    assert_eq!(text, again);
}

#[test]
fn one_rank_and_impossible_splits_are_told() {
    let (done, error) = v3(&["--ranks", "1", "--emit", "timeline"]);
    assert!(!done && error.contains("no experts are spread"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let example = Path::new(EXAMPLES).join("deepseek-v3/deepseek-v3.moe");
    let source = std::fs::read_to_string(example).unwrap();
    let odd = source.replace("sms 132\n", "sms 132 = comm 7 + compute\n");
    assert_ne!(odd, source);
    let path = folder.path().join("odd.moe").display().to_string();
    std::fs::write(&path, odd).unwrap();
    let (done, error) = moec(&["build", &path, "--phase", "prefill", "--emit", "partition"]);
    assert!(!done && error.contains("E0808") && error.contains("has two"), "{error}");
}
