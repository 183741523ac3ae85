//! `cargo run --release -p moec-tests --example fuzz -- SUBJECT [SECONDS] [SEED]`: feeds broken
//! inputs to a parser or loader for a while and stops at the first panic.

#![allow(clippy::print_stdout, reason = "a program that reports")]

use moec_tests::fuzz::{Budget, Subject, run};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(subject) = args.next().as_deref().and_then(Subject::named) else {
        let names: Vec<&str> = Subject::ALL.iter().map(|(n, _)| *n).collect();
        println!("usage: fuzz {} [SECONDS] [SEED]", names.join("|"));
        return ExitCode::from(2);
    };
    let mut number = |default| args.next().and_then(|a| a.parse().ok()).unwrap_or(default);
    let (seconds, seed) = (number(60), number(1));
    match run(subject, seed, Budget::Time(Duration::from_secs(seconds))) {
        Ok(fed) => {
            println!("{subject:?}: {fed} broken inputs in {seconds} s, no panic");
            ExitCode::SUCCESS
        }
        Err(path) => {
            println!("{subject:?}: a panic on {}", path.display());
            ExitCode::FAILURE
        }
    }
}
