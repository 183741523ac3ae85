//! Verification by NVIDIA's assembler. Compilation does not need it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What `ptxas` says of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Name of the PTX entry.
    pub name: String,
    /// 32-bit registers per thread.
    pub registers: u32,
    /// Bytes of spill stores and loads per thread.
    pub spills: u32,
    /// Bytes of stack per thread.
    pub stack: u32,
    /// Bytes of static shared memory per CTA.
    pub shared: u32,
}

/// What `ptxas` says of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the module's order.
    pub entries: Vec<Entry>,
    /// Performance and other warnings.
    pub warnings: Vec<String>,
}

/// Why a module was not verified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No assembler on this machine.
    #[error(
        "no ptxas found; name one in `MOEC_PTXAS`, or install the Python wheel `nvidia-cuda-nvcc` \
         (`cargo xtask setup` does)"
    )]
    Missing,
    /// It could not be run.
    #[error("running `{0}`: {1}")]
    Run(PathBuf, std::io::Error),
    /// It refused the module.
    #[error("ptxas refused the module:\n{0}")]
    Refused(String),
}

/// The assembler: `MOEC_PTXAS`, else one below `.venv` in `root`, else one in the path.
pub fn find(root: &Path) -> Option<PathBuf> {
    let named = std::env::var_os("MOEC_PTXAS").map(PathBuf::from);
    let in_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|d| d.join("ptxas")).find(|p| p.is_file())
    };
    named.or_else(|| search(&root.join(".venv"), 8)).or_else(in_path)
}

/// The first (by name) `bin/ptxas` below a folder.
fn search(folder: &Path, depth: usize) -> Option<PathBuf> {
    let here = folder.join("bin/ptxas");
    if here.is_file() {
        return Some(here);
    }
    if depth == 0 {
        return None;
    }
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let mut folders: Vec<_> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    folders.iter().find_map(|f| search(f, depth - 1))
}

/// Assembles a module for an architecture (`sm_90a`) and discards the result.
///
/// # Errors
///
/// See [`Error`].
pub fn verify(ptxas: &Path, ptx: &str, arch: &str) -> Result<Report, Error> {
    let run = |e| Error::Run(ptxas.to_owned(), e);
    let folder = tempfile::tempdir().map_err(run)?;
    let (source, binary) = (folder.path().join("module.ptx"), folder.path().join("module.cubin"));
    std::fs::write(&source, ptx).map_err(run)?;
    // Functions of others are linked later.
    let alone = ptx.contains(".extern .func").then_some("-c");
    let output = Command::new(ptxas)
        .args(["-v", &format!("-arch={arch}")])
        .args(alone)
        .arg("-o")
        .args([&binary, &source])
        .output()
        .map_err(run)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(read(&text)) } else { Err(Error::Refused(text)) }
}

/// Reads what `ptxas -v` prints.
fn read(text: &str) -> Report {
    let mut report = Report::default();
    for line in text.lines() {
        if let Some(rest) = line.split_once("Compiling entry function '").map(|(_, r)| r) {
            let name = rest.split('\'').next().unwrap_or_default().to_owned();
            report.entries.push(Entry { name, ..Entry::default() });
        } else if line.contains("warning") {
            report.warnings.push(line.trim().to_owned());
        }
        let Some(entry) = report.entries.last_mut() else { continue };
        for (value, what) in line.split(',').filter_map(figure) {
            match what.as_str() {
                "registers" => entry.registers = value,
                "bytes stack frame" => entry.stack = value,
                "bytes spill stores" | "bytes spill loads" => entry.spills += value,
                "bytes smem" => entry.shared = value,
                _ => {}
            }
        }
    }
    report
}

/// `Used 32 registers` or `0 bytes spill stores`: the number and what it counts.
fn figure(part: &str) -> Option<(u32, String)> {
    let part = part.rsplit(": ").next()?.trim().trim_start_matches("Used ").trim();
    let (number, what) = part.split_once(' ')?;
    Some((number.parse().ok()?, what.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_read_from_what_ptxas_prints() {
        let text = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'gemm_0' for 'sm_90a'\n\
            ptxas info    : Function properties for gemm_0\n\
            \x20   8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n\
            ptxas info    : Used 40 registers, used 1 barriers, 8704 bytes smem\n\
            ptxas warning : something is slow\n";
        let entry =
            Entry { name: "gemm_0".into(), registers: 40, spills: 16, stack: 8, shared: 8704 };
        let report = read(text);
        assert_eq!(report.entries, [entry]);
        assert_eq!(report.warnings, ["ptxas warning : something is slow"]);
    }
}
