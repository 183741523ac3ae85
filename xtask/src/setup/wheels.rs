//! NVIDIA's tools, from Python wheels, in a private folder: nothing outside `.venv/` is touched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::tools::Tool;

/// The pinned wheels, relative to the workspace root.
pub const PYTHON_TOOLS: &str = "xtask/python-tools.txt";

/// What a person would type where Debian's packages are missing too.
pub(super) const BY_HAND: &str =
    "    python3 -m venv .venv && .venv/bin/python -m pip install -r xtask/python-tools.txt\n";

/// Whether every tool is linked into `.venv/bin` and prints the pinned release.
pub(super) fn ready(root: &Path) -> bool {
    let Some(wanted) = pinned_release(root) else { return false };
    Tool::ALL.iter().all(|tool| release(&link(root, *tool)) == Some(wanted.clone()))
}

/// One phrase for the closing line, for example `ptxas 13.5`.
pub(super) fn summary(root: &Path) -> String {
    let found = release(&link(root, Tool::Ptxas)).unwrap_or_else(|| "missing".to_owned());
    format!("ptxas {found}")
}

/// Whether this machine's Python can make a virtual environment or at least run pip.
pub(super) fn python_can_install() -> bool {
    python_has_venv() || python_has_pip()
}

fn python_has_venv() -> bool {
    python_runs(&["-c", "import venv, ensurepip"])
}

fn python_has_pip() -> bool {
    python_runs(&["-m", "pip", "--version"])
}

/// Installs the pinned wheels and links the tools.
pub(super) fn install(root: &Path) -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    if python_has_venv() {
        cmd!(shell, "python3 -m venv .venv").run()?;
        cmd!(shell, ".venv/bin/python -m pip install --quiet --requirement {PYTHON_TOOLS}")
            .run()?;
    } else if python_has_pip() {
        // Debian without python3-venv: pip alone can still unpack the wheels into a folder.
        cmd!(
            shell,
            "python3 -m pip install --quiet --upgrade --target .venv/wheels --requirement {PYTHON_TOOLS}"
        )
        .run()?;
    } else {
        bail!(
            "python3 has neither venv nor pip\nhelp: install Debian's `python3-venv`, or run\n{BY_HAND}"
        );
    }
    for tool in Tool::ALL {
        link_tool(root, tool)?;
    }
    if !ready(root) {
        bail!(
            "the tools were installed, but do not all run at release {}\nhelp: remove `.venv/` and run \
             `cargo xtask setup` again",
            pinned_release(root).unwrap_or_default(),
        );
    }
    Ok(())
}

fn link(root: &Path, tool: Tool) -> PathBuf {
    root.join(".venv/bin").join(tool.name())
}

/// Links `.venv/bin/TOOL` to where the wheel put the tool, with a relative path, so that the tree may move.
fn link_tool(root: &Path, tool: Tool) -> Result<()> {
    let venv = root.join(".venv");
    let found = search(&venv, tool.name(), 0)
        .with_context(|| format!("the wheels hold no `{}`; see {PYTHON_TOOLS}", tool.name()))?;
    let relative = Path::new("..").join(found.strip_prefix(&venv)?);
    let place = link(root, tool);
    fs::create_dir_all(venv.join("bin"))?;
    if place.symlink_metadata().is_ok() {
        fs::remove_file(&place)?;
    }
    symlink(&relative, &place).with_context(|| format!("cannot link `{}`", place.display()))
}

/// Finds `nvidia/*/bin/NAME` below `dir`. Sorted, so that the same tree gives the same answer.
fn search(dir: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    const DEEPEST: usize = 8;
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    let here = dir.ends_with("bin") && dir.components().any(|part| part.as_os_str() == "nvidia");
    if here && let Some(found) = entries.iter().find(|path| path.ends_with(name) && path.is_file())
    {
        return Some(found.clone());
    }
    let below =
        entries.iter().filter(|path| path.is_dir() && !path.is_symlink() && depth < DEEPEST);
    below.into_iter().find_map(|path| search(path, name, depth + 1))
}

/// The release (`13.5`) that the wheels are pinned to.
fn pinned_release(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join(PYTHON_TOOLS)).ok()?;
    major_minor(text.lines().find_map(|line| line.strip_prefix("nvidia-cuda-nvcc=="))?)
}

/// The release that a tool prints of itself: `Cuda compilation tools, release 13.5, V13.5.37`.
fn release(tool: &Path) -> Option<String> {
    let printed = Command::new(tool).arg("--version").output().ok()?;
    let text = String::from_utf8(printed.stdout).ok()?;
    major_minor(text.split("release ").nth(1)?)
}

/// The leading `13.5` of `13.5.37` or `13.5, V13.5.37`.
fn major_minor(text: &str) -> Option<String> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    let (major, minor) = (parts.next()?, parts.next()?);
    (!major.is_empty() && !minor.is_empty()).then(|| format!("{major}.{minor}"))
}

fn python_runs(arguments: &[&str]) -> bool {
    Command::new("python3")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::workspace_root;

    #[test]
    fn releases_are_read_from_both_spellings() {
        assert_eq!(major_minor("13.5.37").as_deref(), Some("13.5"));
        assert_eq!(major_minor("12.9, V12.9.86").as_deref(), Some("12.9"));
        assert_eq!(major_minor("unknown"), None);
    }

    #[test]
    fn all_wheels_are_pinned_to_one_version() {
        let text = fs::read_to_string(workspace_root().join(PYTHON_TOOLS)).unwrap();
        let versions: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once("=="))
            .map(|(_, v)| v)
            .collect();
        assert_eq!(versions.len(), Tool::ALL.len());
        assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
    }
}
