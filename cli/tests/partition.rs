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

/// The row that is taken: SMs that communicate, and the share of it that is hidden, in percent.
fn taken(table: &str) -> (u32, f64) {
    let row = table.lines().find(|line| line.trim_start().starts_with('*')).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    let percent = words.iter().position(|word| *word == "%").unwrap();
    (words[1].parse().unwrap(), words[percent - 1].parse().unwrap())
}

/// DeepSeek's published cells: about 24 SMs in prefill, none in decoding
/// (`data/published/profile_data_notes.csv`).
#[test]
fn tables_of_deepseek_v3_take_about_what_is_published() {
    let (done, table) = v3(&["--phase", "prefill", "--batch", "4", "--emit", "partition"]);
    assert!(done, "{table}");
    let first = "prefill: 256 experts over 32 ranks, 8 per node, 16384 tokens of a rank, first";
    assert!(table.starts_with(first), "{table}");
    let (sms, hidden) = taken(&table);
    assert!((16..=28).contains(&sms) && hidden >= 95.0, "{table}");
    // What is left without overlap stands in every table.
    assert!(table.contains("in turn"), "{table}");
    let (done, table) = v3(&["--phase", "decode", "--emit", "partition"]);
    assert!(done, "{table}");
    assert!(table.starts_with("decode: 256 experts over 128 ranks, 8 per node, 128 tokens"));
    assert_eq!(taken(&table).0, 0, "{table}");
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
