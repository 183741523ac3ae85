//! `cargo xtask ptxas`: has NVIDIA's assembler verify PTX files and tabulates what it reports.

mod report;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools::{self, Tool};

pub use report::{EntryReport, FileReport, parse};

/// What `cargo xtask ptxas` is asked to do.
#[derive(Debug, Clone)]
pub struct PtxasOptions {
    /// PTX files, and folders searched for `*.ptx`. Empty: every `*.ptx` under `examples/` and `tests/`.
    pub paths: Vec<PathBuf>,
    /// The architecture that ptxas assembles for.
    pub arch: String,
    /// Fail on warnings and spills too.
    pub strict: bool,
    /// The assembler to use instead of the one that is found.
    pub ptxas: Option<PathBuf>,
}

/// Verifies the files and returns the table and the findings as text, to be printed by the caller.
///
/// # Errors
/// Fails where there is no ptxas or no file, where ptxas rejects a file, and with `strict` where it warns or
/// spills; the message holds the findings.
pub fn run(root: &Path, options: &PtxasOptions) -> Result<String> {
    let ptxas = match &options.ptxas {
        Some(given) => given.clone(),
        None => installed(root)?,
    };
    let files = collect(root, &options.paths)?;
    let mut text = String::new();
    let mut bad = 0_usize;
    for file in &files {
        let report = assemble(&ptxas, file, &options.arch, Path::new("/dev/null"))?;
        text.push_str(&section(file, &report));
        if report.rejected || (options.strict && !report.is_clean()) {
            bad += 1;
        }
    }
    if bad > 0 {
        bail!("{bad} of {} files did not pass\n{text}", files.len());
    }
    Ok(format!("{text}{} files passed ({})\n", files.len(), ptxas.display()))
}

fn installed(root: &Path) -> Result<PathBuf> {
    tools::find(root, Tool::Ptxas).context(
        "no ptxas: not where `MOEC_PTXAS` points, not in `.venv/bin`, not on `PATH`\nhelp: run \
         `cargo xtask setup`",
    )
}

/// The release of the ptxas that is installed, as `ptxas 13.5.37`.
pub(crate) fn version(root: &Path) -> Result<String> {
    let output = Command::new(installed(root)?).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let release = text.split_whitespace().find_map(|word| word.strip_prefix('V'));
    Ok(format!("ptxas {}", release.unwrap_or("of a release that it does not tell")))
}

/// Assembles a file for Hopper with the ptxas that is installed.
pub(crate) fn assemble_to(root: &Path, file: &Path, cubin: &Path) -> Result<FileReport> {
    assemble(&installed(root)?, file, "sm_90a", cubin)
}

/// Runs ptxas on one file.
fn assemble(ptxas: &Path, file: &Path, arch: &str, cubin: &Path) -> Result<FileReport> {
    // Functions of others are linked later.
    let calls = std::fs::read_to_string(file).is_ok_and(|ptx| ptx.contains(".extern .func"));
    let output = Command::new(ptxas)
        .arg(format!("-arch={arch}"))
        .args(calls.then_some("-c"))
        .args(["-v", "--warn-on-spills", "-o"])
        .arg(cubin)
        .arg(file)
        .output()
        .with_context(|| format!("cannot run `{}`", ptxas.display()))?;
    // ptxas writes information to stdout or stderr, depending on its release.
    let text = [output.stdout, output.stderr].concat();
    Ok(parse(&String::from_utf8_lossy(&text), output.status.success()))
}

/// One file's part of the table: its path, a line for each entry, its complaints.
fn section(file: &Path, report: &FileReport) -> String {
    let mut text = format!("{}\n", file.display());
    if !report.entries.is_empty() {
        text.push_str("    regs  stack  spill st  spill ld    smem  bars  entry\n");
    }
    for (name, entry) in &report.entries {
        text.push_str(&format!(
            "    {:>4}  {:>5}  {:>8}  {:>8}  {:>6}  {:>4}  {name}\n",
            entry.registers,
            entry.stack_bytes,
            entry.spill_store_bytes,
            entry.spill_load_bytes,
            entry.smem_bytes,
            entry.barriers,
        ));
    }
    for complaint in &report.complaints {
        text.push_str(&format!("    {complaint}\n"));
    }
    text
}

/// The files to verify, sorted, each once.
fn collect(root: &Path, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    if paths.is_empty() {
        for folder in ["examples", "tests"] {
            walk(&root.join(folder), &mut found)?;
        }
    }
    for path in paths {
        if path.is_dir() {
            walk(path, &mut found)?;
        } else if path.is_file() {
            found.insert(path.clone());
        } else {
            bail!("`{}` is no file and no folder", path.display());
        }
    }
    if found.is_empty() {
        bail!(
            "no `.ptx` file to verify\nhelp: name some, for example `cargo xtask ptxas out/*.ptx`"
        );
    }
    Ok(found.into_iter().collect())
}

fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read `{}`", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            walk(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "ptx") {
            found.insert(path);
        }
    }
    Ok(())
}
