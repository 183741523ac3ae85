//! The command line of `cargo xtask`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xshell::{Shell, cmd};

use xtask::checks::TestOptions;
use xtask::ptxas::PtxasOptions;
use xtask::tools::workspace_root;

/// All automation of the moec workspace.
///
/// A newcomer needs two commands: `cargo xtask demo` installs what is missing, builds, and lets a small
/// DeepSeek-V3 write a line on the emulator; `cargo xtask test` runs everything that has to pass.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the build needs (LLVM and MLIR 22, ptxas), or say which commands would.
    ///
    /// Quick and without effect where everything is there. Packages come from apt-get, as root or through a
    /// sudo that asks for no password; NVIDIA's tools come from Python wheels and go into `.venv/`.
    Setup,
    /// Set up, build a release, and generate text with the tiny DeepSeek-V3 on the emulator.
    Demo {
        /// The text to continue.
        #[arg(long, default_value = "In the beginning")]
        prompt: String,
    },
    /// Set up, then check format and lints and run all tests (cargo-nextest where installed).
    Test {
        /// Run only the tests whose name contains this text, and no lints.
        filter: Option<String>,
        /// Rewrite expected texts and accept new snapshots: look at `git diff` afterwards.
        #[arg(long)]
        bless: bool,
        /// Skip the set-up check.
        #[arg(long)]
        no_setup: bool,
    },
    /// What continuous integration runs: the same as `test`, with no filter and no blessing.
    Ci,
    /// Run the Criterion benchmarks.
    Bench {
        /// Run only the benchmarks whose name contains this text.
        filter: Option<String>,
    },
    /// Verify PTX files with ptxas; print registers, spills, shared memory and warnings for each entry.
    ///
    /// The assembler is the one that `MOEC_PTXAS` names, else the one in `.venv/bin`, else the one on `PATH`.
    Ptxas {
        /// PTX files, or folders to search for them [default: `examples/` and `tests/`].
        paths: Vec<PathBuf>,
        /// The architecture to assemble for.
        #[arg(long, default_value = "sm_90a")]
        arch: String,
        /// Fail on warnings and spills too.
        #[arg(long)]
        strict: bool,
        /// Use this assembler.
        #[arg(long, value_name = "PATH")]
        ptxas: Option<PathBuf>,
    },
    /// Count the instructions of tensor-core loops, per tile of 64 x 128 x 128.
    ///
    /// The figures come from machine code alone: nothing is run, and waits on memory are not in them.
    Sass {
        /// PTX files, cubins, or listings that `nvdisasm -c -hex` printed.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The architecture to assemble PTX for.
        #[arg(long, default_value = "sm_90a")]
        arch: String,
    },
    /// Write docs/sass-report.md: the machine code of DeepSeek-V3's kernels beside the best hand-written ones.
    SassReport {
        /// Compare with the committed page instead of writing it.
        #[arg(long)]
        check: bool,
    },
    /// Write docs/model-report.md: predicted beside published times, and what the model does not cover.
    ValidateModel {
        /// Compare with the committed page instead of writing it.
        #[arg(long)]
        check: bool,
    },
    /// Draw timelines, as `moec build --emit timeline` and `moec simulate --timeline` write them, for a page.
    Picture {
        /// The traces, drawn one below the other under the names of their files.
        #[arg(required = true)]
        traces: Vec<PathBuf>,
        /// Rows of each trace that are drawn.
        #[arg(long, default_value_t = 24)]
        rows: usize,
        /// Only what begins before so many microseconds.
        #[arg(long, default_value_t = f64::INFINITY)]
        until: f64,
        /// The SVG to write.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Write docs/fusion-report.md: DeepSeek-V3's launches, bytes and predicted times, with and without fusion.
    FusionReport {
        /// Compare with the committed page instead of writing it.
        #[arg(long)]
        check: bool,
    },
    /// Print the shell completions of `moec` (builds it first).
    ///
    /// For example: cargo xtask completions bash > ~/.local/share/bash-completion/completions/moec
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let root = workspace_root();
    match command {
        Command::Setup => xtask::setup::run(&root),
        Command::Demo { prompt } => xtask::demo::run(&root, &prompt),
        Command::Test { filter, bless, no_setup } => {
            xtask::checks::test(&root, &TestOptions { filter, bless, no_setup })
        }
        Command::Ci => xtask::checks::test(&root, &TestOptions::default()),
        Command::Bench { filter } => xtask::bench::run(&root, filter.as_deref()),
        Command::Ptxas { paths, arch, strict, ptxas } => {
            let text = xtask::ptxas::run(&root, &PtxasOptions { paths, arch, strict, ptxas })?;
            Ok(io::stdout().write_all(text.as_bytes())?)
        }
        Command::Sass { files, arch } => {
            let text = xtask::sass::run(&root, &files, &arch)?;
            Ok(io::stdout().write_all(text.as_bytes())?)
        }
        Command::SassReport { check } => {
            let text = xtask::sass_report::run(&root, check)?;
            Ok(io::stdout().write_all(text.as_bytes())?)
        }
        Command::ValidateModel { check } => {
            let text = xtask::validate_model::run(&root, check)?;
            Ok(io::stdout().write_all(text.as_bytes())?)
        }
        Command::Picture { traces, rows, until, output } => {
            xtask::picture::picture(&traces, rows, until, &output)
        }
        Command::FusionReport { check } => {
            let text = xtask::fusion_report::run(&root, check)?;
            Ok(io::stdout().write_all(text.as_bytes())?)
        }
        Command::Completions { shell } => {
            let session = Shell::new()?;
            session.change_dir(&root);
            Ok(cmd!(session, "cargo run --quiet --release --package moec -- completions {shell}")
                .run()?)
        }
    }
}
