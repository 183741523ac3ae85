//! `moec`, the command line: glue between the rooms, and nothing else.
//!
//! In reading order: [`args`] (what can be asked for), [`compile`] (the whole compiler on one
//! screen), [`commands`] (one file each), [`failure`] (how mistakes reach the user),
//! [`progress`] and [`output`].

mod args;
mod commands;
mod compile;
mod failure;
mod model;
mod output;
mod partition;
mod progress;
mod sass;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use std::io::IsTerminal;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    tell_of_bugs();
    start_tracing(cli.verbose);
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), failure::Failure> {
    match command {
        Command::Import(args) => commands::import(&args),
        Command::Check(args) => commands::check(&args),
        Command::Fmt(args) => commands::fmt(&args),
        Command::Build(args) => commands::build(&args),
        Command::Explain(args) => commands::explain(&args),
        Command::Logits(args) => commands::logits(&args),
        Command::Generate(args) => commands::generate(&args),
        Command::Simulate(args) => commands::simulate(&args),
        Command::Numerics(args) => commands::numerics(&args),
        Command::Emulate(args) => commands::emulate(&args),
        Command::Rules => commands::rules(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "moec", &mut script);
            output::write(&script)
        }
    }
}

/// A panic is our mistake, not the user's, and says so.
fn tell_of_bugs() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        eprintln!("\nthis is a bug in moec: please report it with the command and the files");
    }));
}

/// Timings and decisions on standard error: `-v` stages, `-vv` also functions and steps.
fn start_tracing(verbose: u8) {
    use tracing::Level;
    let level = match verbose {
        0 => return,
        1 => Level::INFO,
        2 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // Fails only where a subscriber is set already, which nobody does.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .try_init();
}
