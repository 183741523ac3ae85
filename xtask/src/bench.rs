//! `cargo xtask bench`: every benchmark of the workspace.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

/// Runs the Criterion benchmarks of every member that has a `benches/` folder; `filter` picks by name.
///
/// # Errors
/// Fails where no member has benchmarks, or where one does not build or run.
pub fn run(root: &Path, filter: Option<&str>) -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    let packages = packages_with_benches(root)?;
    if packages.is_empty() {
        bail!("no member of the workspace has a `benches/` folder");
    }
    let selected = packages.iter().flat_map(|name| ["--package", name.as_str()]);
    cmd!(shell, "cargo bench {selected...} --bench * -- {filter...}").run()?;
    Ok(())
}

/// The names of the members that have a `benches/` folder, sorted.
fn packages_with_benches(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for folder in
        ["ir", "frontend", "passes", "codegen", "runtime", "runtime/emulator", "cli", "tests"]
    {
        let member = root.join(folder);
        if member.join("benches").is_dir() {
            let manifest = member.join("Cargo.toml");
            let text = fs::read_to_string(&manifest)
                .with_context(|| format!("cannot read `{}`", manifest.display()))?;
            let name =
                text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
            names.push(
                name.with_context(|| format!("`{}` has no name", manifest.display()))?.to_owned(),
            );
        }
    }
    names.sort();
    Ok(names)
}
