//! Broken inputs never make a parser or loader panic. Always the same inputs here;
//! `examples/fuzz.rs` goes on for as long as it is told.

use moec_tests::fuzz::{Budget, Subject, run};

fn never_panics(subject: Subject) {
    assert_eq!(run(subject, 7, Budget::Inputs(1_000)), Ok(1_000));
}

#[test]
fn broken_models_are_answered() {
    never_panics(Subject::Moe);
}

#[test]
fn broken_configurations_are_answered() {
    never_panics(Subject::Config);
}

#[test]
fn broken_ptx_is_answered() {
    never_panics(Subject::Ptx);
}

#[test]
fn broken_checkpoints_are_answered() {
    never_panics(Subject::Safetensors);
}
