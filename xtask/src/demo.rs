//! `cargo xtask demo`: from a bare machine to generated text.

use std::path::Path;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::{setup, tools};

/// The model that the demo runs: a small DeepSeek-V3 with trained weights.
const MODEL: &str = "examples/tiny-v3/tiny-v3.moe";
/// Its folder of weights, `config.json` and tokenizer.
const WEIGHTS: &str = "examples/tiny-v3";

/// Sets up, builds a release `moec`, and lets it continue `prompt` with the tiny model on the emulator.
///
/// # Errors
/// Fails where set-up, the build or the generation fails; each prints its own reason first.
pub fn run(root: &Path, prompt: &str) -> Result<()> {
    setup::run(root)?;
    let shell = Shell::new()?;
    shell.change_dir(root);
    cmd!(shell, "cargo build --release --package moec").run()?;
    let built = tools::target_dir(root).join("release/moec");
    let moec = built.strip_prefix(root).unwrap_or(&built);
    cmd!(shell, "{moec} generate {MODEL} --weights {WEIGHTS} --prompt {prompt}")
        .run()
        .context("the demo built, but did not generate text")
}
