//! What the build needs from the machine, as a table: a probe, and the Debian package that satisfies it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools;

/// The major version of LLVM and MLIR that the bindings (melior, inkwell) are made for.
pub const LLVM_MAJOR: u32 = 22;

/// How to tell whether a requirement is met.
#[derive(Debug, Clone, Copy)]
enum Probe {
    /// `bin/llvm-config` under the LLVM prefix, of the right major version.
    LlvmConfig,
    /// A file under the LLVM prefix.
    UnderLlvm(&'static str),
    /// A C header in one of the usual include folders (Debian's multi-arch folder among them).
    Header(&'static str),
    /// An executable on `PATH`.
    OnPath(&'static str),
}

/// One requirement: the package that gives it, what it is for, and its probe.
#[derive(Debug, Clone, Copy)]
pub struct Requirement {
    /// The Debian package.
    pub package: &'static str,
    /// What needs it, in a few words.
    pub purpose: &'static str,
    probe: Probe,
}

const fn need(package: &'static str, purpose: &'static str, probe: Probe) -> Requirement {
    Requirement { package, purpose, probe }
}

/// Everything the native side of the build needs. The Rust side comes from crates.io.
pub const REQUIREMENTS: &[Requirement] = &[
    need("g++", "links Rust programs; compiles melior's TableGen bridge", Probe::OnPath("c++")),
    need("llvm-22-dev", "LLVM's NVPTX back end (inkwell)", Probe::LlvmConfig),
    need("libmlir-22-dev", "MLIR (melior)", Probe::UnderLlvm("include/mlir-c/IR.h")),
    need("mlir-22-tools", "TableGen of the dialects (melior)", Probe::UnderLlvm("bin/mlir-tblgen")),
    need("libpolly-22-dev", "named by LLVM's link line", Probe::UnderLlvm("lib/libPolly.a")),
    need(
        "libclang-22-dev",
        "reads MLIR's C headers (bindgen)",
        Probe::UnderLlvm("lib/libclang.so"),
    ),
    need("clang-22", "C++ include paths for bindgen", Probe::UnderLlvm("bin/clang")),
    need("zlib1g-dev", "named by LLVM's link line", Probe::Header("zlib.h")),
    need("libzstd-dev", "named by LLVM's link line", Probe::Header("zstd.h")),
];

/// The LLVM prefix: where `MLIR_SYS_220_PREFIX` points, which `.cargo/config.toml` sets to Debian's place.
#[must_use]
pub fn llvm_prefix() -> PathBuf {
    env::var_os("MLIR_SYS_220_PREFIX")
        .map_or_else(|| PathBuf::from("/usr/lib/llvm-22"), PathBuf::from)
}

/// The requirements that this machine does not meet, in the table's order.
#[must_use]
pub fn missing() -> Vec<Requirement> {
    let prefix = llvm_prefix();
    REQUIREMENTS.iter().copied().filter(|wanted| !holds(wanted.probe, &prefix)).collect()
}

fn holds(probe: Probe, prefix: &Path) -> bool {
    match probe {
        Probe::LlvmConfig => llvm_major(&prefix.join("bin/llvm-config")) == Some(LLVM_MAJOR),
        Probe::UnderLlvm(file) => prefix.join(file).exists(),
        Probe::Header(name) => header_exists(name),
        Probe::OnPath(name) => tools::on_path(name).is_some(),
    }
}

/// The major version that `llvm-config --version` prints; `None` where it does not run.
fn llvm_major(llvm_config: &Path) -> Option<u32> {
    let printed = Command::new(llvm_config).arg("--version").output().ok()?;
    let text = String::from_utf8(printed.stdout).ok()?;
    text.trim().split('.').next()?.parse().ok()
}

fn header_exists(name: &str) -> bool {
    let multiarch = format!("/usr/include/{}-linux-gnu", env::consts::ARCH);
    ["/usr/include", "/usr/local/include", multiarch.as_str()]
        .iter()
        .any(|dir| Path::new(dir).join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_prefix_meets_no_llvm_requirement() {
        let nowhere = Path::new("/nonexistent");
        let under_llvm = REQUIREMENTS
            .iter()
            .filter(|wanted| matches!(wanted.probe, Probe::LlvmConfig | Probe::UnderLlvm(_)));
        for wanted in under_llvm {
            assert!(!holds(wanted.probe, nowhere), "{} passes without LLVM", wanted.package);
        }
    }

    #[test]
    fn a_header_that_no_package_has_is_missing() {
        assert!(!header_exists("no-such-header-anywhere.h"));
    }
}
