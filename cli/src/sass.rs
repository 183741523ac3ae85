//! Machine code for people: ptxas and nvdisasm, where they are installed.

use crate::failure::Failure;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Assembles PTX and disassembles the result.
pub(crate) fn disassemble(ptx: &str, arch: &str) -> Result<String, Failure> {
    let ptxas = find("ptxas", "MOEC_PTXAS", "nvidia-cuda-nvcc")?;
    let nvdisasm = find("nvdisasm", "MOEC_NVDISASM", "nvidia-cuda-nvdisasm")?;
    let io = |e: std::io::Error| Failure::Message(format!("a temporary file: {e}"));
    let folder = tempfile::tempdir().map_err(io)?;
    let (source, binary) = (folder.path().join("module.ptx"), folder.path().join("module.cubin"));
    std::fs::write(&source, ptx).map_err(io)?;
    let arch = format!("-arch={arch}");
    run(Command::new(&ptxas).arg(arch).arg("-o").arg(&binary).arg(&source))?;
    run(Command::new(&nvdisasm).arg("-c").arg(&binary))
}

fn run(command: &mut Command) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |why: String| Failure::Message(format!("`{program}` failed: {why}"));
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A tool by its variable, below `.venv` of this folder and those above it and above the
/// program, else in the path.
fn find(tool: &str, variable: &str, wheel: &str) -> Result<PathBuf, Failure> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    for start in starts.iter().flatten() {
        for folder in start.ancestors() {
            if let Some(found) = below(&folder.join(".venv"), tool, 8) {
                return Ok(found);
            }
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|p| p.join(tool)).find(|p| p.is_file());
    in_path.ok_or_else(|| {
        Failure::Message(format!(
            "no {tool} found; name one in `{variable}`, or install the Python wheel `{wheel}`"
        ))
    })
}

/// `bin/TOOL` somewhere below a folder.
fn below(folder: &Path, tool: &str, depth: usize) -> Option<PathBuf> {
    let here = folder.join("bin").join(tool);
    if here.is_file() {
        return Some(here);
    }
    if depth == 0 {
        return None;
    }
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect();
    folders.sort();
    folders.iter().find_map(|f| below(f, tool, depth - 1))
}
