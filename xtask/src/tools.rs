//! Where the workspace and NVIDIA's tools lie.

use std::env;
use std::path::{Path, PathBuf};

/// A tool of NVIDIA's that verifies or inspects what the compiler wrote. None is needed to compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// The assembler from PTX to machine code; reports registers, spills and performance warnings.
    Ptxas,
    /// The disassembler of cubins.
    Nvdisasm,
    /// The inspector of cubins (`-res-usage`, `-sass`).
    Cuobjdump,
}

impl Tool {
    /// Every tool, in the order in which set-up links them.
    pub const ALL: [Self; 3] = [Self::Ptxas, Self::Nvdisasm, Self::Cuobjdump];

    /// The name of the executable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ptxas => "ptxas",
            Self::Nvdisasm => "nvdisasm",
            Self::Cuobjdump => "cuobjdump",
        }
    }

    /// The environment variable that overrides the search, for example `MOEC_PTXAS`.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Self::Ptxas => "MOEC_PTXAS",
            Self::Nvdisasm => "MOEC_NVDISASM",
            Self::Cuobjdump => "MOEC_CUOBJDUMP",
        }
    }
}

/// The folder that holds the workspace's `Cargo.toml`.
///
/// Cargo names this crate's folder in `CARGO_MANIFEST_DIR` when it runs us; a binary started by hand falls
/// back to the folder it was compiled in.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let own = env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.ends_with("xtask"))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    own.parent().map(Path::to_path_buf).unwrap_or(own)
}

/// Finds `tool`: first where its environment variable points, then in `.venv/bin` under `root`, then on `PATH`.
///
/// Returns `None` where none of the three is a file. The environment variable is trusted alone: where it is
/// set and names no file, the search ends, so that a typing mistake does not silently pick another version.
#[must_use]
pub fn find(root: &Path, tool: Tool) -> Option<PathBuf> {
    if let Some(given) = env::var_os(tool.variable()).filter(|value| !value.is_empty()) {
        return Some(PathBuf::from(given)).filter(|path| path.is_file());
    }
    let private = root.join(".venv/bin").join(tool.name());
    if private.is_file() { Some(private) } else { on_path(tool.name()) }
}

/// The first file called `name` in a folder of `PATH`, if any.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

/// The folder into which Cargo builds: `CARGO_TARGET_DIR` where set, else `target/` under `root`.
#[must_use]
pub fn target_dir(root: &Path) -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        Some(given) => root.join(given),
        None => root.join("target"),
    }
}
