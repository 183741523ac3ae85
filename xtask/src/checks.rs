//! `cargo xtask test` and `cargo xtask ci`: format, lints, doc tests, tests.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use xshell::{Cmd, Shell, cmd};

use crate::{setup, tools};

/// What `cargo xtask test` is asked to do.
#[derive(Debug, Clone, Default)]
pub struct TestOptions {
    /// Run only the tests whose name contains this text, and no lints.
    pub filter: Option<String>,
    /// Rewrite the expected texts (`BLESS=1`) and accept new snapshots instead of failing on them.
    pub bless: bool,
    /// Skip the set-up check.
    pub no_setup: bool,
}

/// Runs every check, goes on after a failure, and fails in the end where one failed.
///
/// The tests come last, so that the runner's own closing lines end the output.
///
/// # Errors
/// Fails where set-up fails or where a check does; the message names the checks that failed.
pub fn test(root: &Path, options: &TestOptions) -> Result<()> {
    if !options.no_setup {
        setup::run(root)?;
    }
    let shell = Shell::new()?;
    shell.change_dir(root);
    if options.bless {
        shell.set_var("BLESS", "1");
        shell.set_var("INSTA_UPDATE", "always");
    }
    let mut failed: Vec<&str> = Vec::new();
    for (name, command) in steps(&shell, options) {
        let start = Instant::now();
        let passed = command.run().is_ok();
        let verdict = if passed { "passed" } else { "FAILED" };
        eprintln!("xtask: {name} {verdict} after {} s\n", start.elapsed().as_secs());
        if !passed {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The checks in order, each with its name. One screen: this is all that has to pass.
fn steps<'a>(shell: &'a Shell, options: &TestOptions) -> Vec<(&'static str, Cmd<'a>)> {
    let nextest = tools::on_path("cargo-nextest").is_some();
    let filter: &[String] = options.filter.as_slice();
    let tests = if nextest {
        cmd!(shell, "cargo nextest run --workspace --no-fail-fast --no-tests=fail {filter...}")
    } else {
        cmd!(shell, "cargo test --workspace --no-fail-fast --lib --bins --tests {filter...}")
    };
    if options.filter.is_some() {
        return vec![("tests", tests)];
    }
    vec![
        ("format", cmd!(shell, "cargo fmt --all --check")),
        ("lints", cmd!(shell, "cargo clippy --workspace --all-targets -- -D warnings")),
        ("doc tests", cmd!(shell, "cargo test --workspace --doc --no-fail-fast --quiet")),
        ("tests", tests),
    ]
}
