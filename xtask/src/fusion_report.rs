//! `cargo xtask fusion-report`: DeepSeek-V3 planned with and without the rules of fusion.
//!
//! The work is done by the example `fusion_report` of `moec-passes`, which knows plans; it needs no LLVM.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

/// The committed report.
const PAGE: &str = "docs/fusion-report.md";

/// Writes the page, or with `check` compares it with the committed one; returns what to print.
///
/// # Errors
/// Fails where the example does not build or the model's graph cannot be read, and with `check` where the page is
/// out of date.
pub fn run(root: &Path, check: bool) -> Result<String> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    let check_flag = check.then_some("--check");
    cmd!(
        shell,
        "cargo run --quiet --package moec-passes --example fusion_report -- {check_flag...}"
    )
    .quiet()
    .run()?;
    if check {
        return Ok(format!("{PAGE} is up to date\n"));
    }
    fs::read_to_string(root.join(PAGE)).with_context(|| format!("cannot read `{PAGE}`"))
}
