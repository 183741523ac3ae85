//! `cargo xtask sass`: what the tensor-core loops of a kernel are made of, from its machine code alone.
//!
//! The figure to compare is *instructions per tile*: how many instructions one warp issues while its warpgroup
//! multiplies 64 x 128 x 128. Next to it stand the static stall cycles of those instructions (a lower bound of
//! the issue time) and the cycles that the tensor core needs for the tile. Waits on memory are not in any of
//! them. What it cannot see: how often a loop runs, and what other warps do.

mod listing;
mod loops;
mod mix;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, bail};

use crate::tools::{self, Tool};

pub use listing::{Instruction, parse};
pub use loops::{TensorLoop, tensor_loops};
pub use mix::{Mix, TILE_MACS};

/// Describes the tensor-core loops of PTX files, cubins or `nvdisasm -c -hex` listings, as text.
///
/// # Errors
/// Fails where a tool is missing, where a file is refused by it, or where no file is given.
pub fn run(root: &Path, files: &[PathBuf], arch: &str) -> Result<String> {
    let mut text = String::new();
    for file in files {
        text.push_str(&format!("{}\n", file.display()));
        for (kernel, code) in parse(&listing_of(root, file, arch)?) {
            text.push_str(&section(&kernel, &code));
        }
    }
    Ok(text)
}

fn section(kernel: &str, code: &[Instruction]) -> String {
    let mut text = format!("  {kernel}: {} instructions\n", code.len());
    let found = tensor_loops(code);
    if found.is_empty() {
        text.push_str("    no loop with tensor-core instructions\n");
    }
    for found in found {
        let mix = Mix::of(found.hot.iter().map(|index| &code[*index]));
        text.push_str(&format!("    loop 0x{:x} to 0x{:x}: {mix}\n", found.start, found.end));
    }
    text
}

/// The disassembly of `file`, which may be PTX, a cubin, or already a listing.
fn listing_of(root: &Path, file: &Path, arch: &str) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    if bytes.starts_with(b"\x7fELF") {
        return disassemble(root, file);
    }
    if file.extension().is_some_and(|extension| extension == "ptx") {
        let cubin = std::env::temp_dir().join(format!("xtask-sass-{}.cubin", process::id()));
        let ptxas = require(root, Tool::Ptxas)?;
        output(Command::new(ptxas).arg(format!("-arch={arch}")).arg("-o").arg(&cubin).arg(file))?;
        let listing = disassemble(root, &cubin);
        fs::remove_file(&cubin)?;
        return listing;
    }
    String::from_utf8(bytes)
        .with_context(|| format!("`{}` is no PTX, cubin or listing", file.display()))
}

pub(crate) fn disassemble(root: &Path, cubin: &Path) -> Result<String> {
    output(Command::new(require(root, Tool::Nvdisasm)?).args(["-c", "-hex"]).arg(cubin))
}

fn require(root: &Path, tool: Tool) -> Result<PathBuf> {
    tools::find(root, tool).with_context(|| {
        format!("no {}: not where `{}` points, not in `.venv/bin`, not on `PATH`\nhelp: run `cargo xtask setup`", tool.name(), tool.variable())
    })
}

fn output(command: &mut Command) -> Result<String> {
    let result = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !result.status.success() {
        bail!("{command:?} failed\n{}", String::from_utf8_lossy(&result.stderr));
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}
