//! Experts over ranks, from the command line: the tiny model on groups of emulated GPUs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Output};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/tiny-v3");

fn moec(args: &[&str]) -> Output {
    let model = format!("{TINY}/tiny-v3.moe");
    let replaced = args.iter().map(|&arg| if arg == "MODEL" { &model } else { arg });
    Command::new(env!("CARGO_BIN_EXE_moec")).args(replaced).output().unwrap()
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

/// Standard error of a command that stops with status 1.
fn fails(args: &[&str]) -> String {
    let output = moec(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

#[test]
fn ranks_of_a_node_give_the_bits_of_one_rank_under_every_schedule() {
    for ranks in ["2", "4"] {
        let args = ["--weights", TINY, "--ranks", ranks, "--schedules", "3", "--tokens", "2"];
        let out = ok(&[&["simulate", "MODEL"], &args[..]].concat());
        assert!(out.contains("in order: the same bits as one rank"), "{out}");
        assert!(out.contains("3 schedules: all gave the same bits"), "{out}");
    }
}

#[test]
fn two_nodes_of_four_agree_within_the_bound() {
    let args = ["--weights", TINY, "--ranks", "8", "--ranks-per-node", "4"];
    let more = ["--schedules", "2", "--tokens", "2", "--routing", "exact-capacity"];
    let out = ok(&[&["simulate", "MODEL"], &args[..], &more].concat());
    assert!(out.contains("2 schedules: all gave the same bits"), "{out}");
    // Each token has a row on the rank whose turn it is, for each of its experts, and, since that
    // has only two of the four that a token chooses, on the next.
    let loads = "of layer 1: tokens of each expert 0 0 | 24 24 | 24 24 | 0 0";
    assert!(out.contains(loads), "{out}");
}

#[test]
fn generation_over_ranks_writes_what_one_rank_writes() {
    let prompt = ["--prompt-ids", "5,17,3", "--max-new-tokens", "3", "--temperature", "0"];
    let generate = [&["generate", "MODEL", "--weights", TINY, "--format", "json"], &prompt[..]];
    let one = ok(&generate.concat());
    let group = [&generate.concat()[..], &["--ranks", "2", "--schedule-seed", "3"]].concat();
    assert_eq!(one, ok(&group));
}

#[test]
fn what_cannot_run_is_told() {
    let error = fails(&["simulate", "MODEL", "--ranks", "1", "--schedules", "1"]);
    assert!(error.contains("takes several ranks: --ranks 8 --ranks-per-node 4"), "{error}");
    let error = fails(&["simulate", "MODEL", "--ranks", "3", "--schedules", "1"]);
    assert!(error.contains("E0810"), "{error}");
    let generate = ["generate", "MODEL", "--weights", TINY, "--prompt-ids", "1"];
    let error = fails(&[&generate[..], &["--ranks", "4", "--device", "cuda"]].concat());
    assert!(error.contains("E1106") && error.contains("a process for each GPU"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let artefact = folder.path().join("two.artefact").display().to_string();
    ok(&["build", "MODEL", "--ranks", "2", "--phase", "decode", "-o", &artefact]);
    let run = ["generate", &artefact, "--weights", TINY, "--prompt-ids", "1", "--ranks", "4"];
    let error = fails(&run);
    assert!(error.contains("E1004") && error.contains("for 2 ranks"), "{error}");
}
