//! `cargo xtask setup`: installs what is missing, or says which commands would.
//!
//! Before: a Debian machine with Rust and the package registries. After: LLVM and MLIR 22, a C++ compiler, and
//! NVIDIA's tools in `.venv/bin`. Where all is there it only looks (well under a second) and changes nothing.
//! It cannot see whether an installed library is damaged; only the build tells.

mod apt;
mod wheels;

use std::path::Path;

use anyhow::{Result, bail};

use crate::requirements;

pub use wheels::PYTHON_TOOLS;

/// Makes the machine ready to build and test the workspace at `root`.
///
/// # Errors
/// Fails where something is missing that it may not install (the message lists the commands to run), where a
/// package manager fails, or where an installed tool has the wrong version.
pub fn run(root: &Path) -> Result<()> {
    let mut packages: Vec<&str> =
        requirements::missing().iter().map(|wanted| wanted.package).collect();
    let tools_ready = wheels::ready(root);
    if !tools_ready && !wheels::python_can_install() {
        packages.push("python3-venv");
    }
    if packages.is_empty() && tools_ready {
        eprintln!(
            "setup: everything is there (LLVM {}, {})",
            requirements::LLVM_MAJOR,
            wheels::summary(root)
        );
        return Ok(());
    }
    if !packages.is_empty() {
        install_packages(&packages, tools_ready)?;
    }
    if !tools_ready {
        wheels::install(root)?;
    }
    let still: Vec<&str> = requirements::missing().iter().map(|wanted| wanted.package).collect();
    if !still.is_empty() {
        bail!(
            "installed, but still not found under `{}`: what {} should give\nhelp: is \
             `MLIR_SYS_220_PREFIX` set to an LLVM {} prefix?",
            requirements::llvm_prefix().display(),
            still.join(", "),
            requirements::LLVM_MAJOR,
        );
    }
    eprintln!("setup: ready (LLVM {}, {})", requirements::LLVM_MAJOR, wheels::summary(root));
    Ok(())
}

fn install_packages(packages: &[&str], tools_ready: bool) -> Result<()> {
    match apt::Installer::find() {
        Some(installer) => installer.install(packages),
        None => {
            let wheels = if tools_ready { "" } else { wheels::BY_HAND };
            bail!(
                "missing: {}\nand this account may not install packages (no root, no passwordless sudo, or no \
                 apt-get)\nhelp: have these commands run, then try again:\n{}{wheels}",
                packages.join(", "),
                apt::by_hand(packages),
            )
        }
    }
}
