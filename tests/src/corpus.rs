//! Test files: a claim, a command, checks, a source and the text expected of it.
//!
//! ```text
//! // test: an unknown name is told with the nearest known one
//! // run: check
//! model M { … }
//! //> error[E0201]: …
//! ```
//!
//! `// check: TEXT` lines ask that the output hold `TEXT`, in that order; `//> ` lines at the
//! end of the file are the whole output, rewritten where `BLESS=1` is set. A file has one or
//! the other. An unknown directive is an error.

use std::fs;
use std::path::{Path, PathBuf};

/// A test read from a file.
#[derive(Debug)]
pub struct Case {
    /// Where it stands.
    pub path: PathBuf,
    /// What it tests.
    pub claim: String,
    /// What is run: the words after `run:`.
    pub command: Vec<String>,
    /// Texts that the output must hold, in order.
    pub checks: Vec<String>,
    /// The file without expected output: the input of the command, directives included (they
    /// are comments of the language), so that spans are those of the file.
    pub source: String,
    /// The output expected.
    pub expected: Option<String>,
}

impl Case {
    /// Reads a file.
    ///
    /// # Errors
    /// A sentence where the header or a directive is not as documented.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(path, &text).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let directive = |line: Option<&str>, name: &str| {
            line.and_then(|l| l.strip_prefix(&format!("// {name}: ")))
                .map(str::to_owned)
                .ok_or_else(|| format!("the header has no `// {name}: …` where it belongs"))
        };
        let claim = directive(lines.next(), "test")?;
        let command = directive(lines.next(), "run")?;
        let mut checks = Vec::new();
        for line in lines {
            let Some(rest) = line.strip_prefix("// ") else { break };
            match rest.split_once(": ") {
                Some(("check", wanted)) => checks.push(wanted.to_owned()),
                Some((word, _)) if word.chars().all(|c| c.is_ascii_lowercase()) => {
                    return Err(format!("`{word}` is not a directive"));
                }
                _ => break,
            }
        }
        let start = text.lines().position(|l| l.starts_with("//>"));
        let body: Vec<&str> = text.lines().take(start.unwrap_or(usize::MAX)).collect();
        let expected = start.map(|at| {
            let lines = text
                .lines()
                .skip(at)
                .map(|l| l.strip_prefix("//> ").or_else(|| l.strip_prefix("//>")).unwrap_or(l));
            lines.collect::<Vec<_>>().join("\n")
        });
        Ok(Self {
            path: path.to_owned(),
            claim,
            command: command.split_whitespace().map(str::to_owned).collect(),
            checks,
            source: body.join("\n") + "\n",
            expected,
        })
    }

    /// Compares the output with what the file expects; with `BLESS=1` in the environment writes
    /// it into the file instead.
    ///
    /// # Errors
    /// The first check that does not hold, or both texts.
    pub fn judge(&self, output: &str) -> Result<(), String> {
        if !self.checks.is_empty() {
            let mut rest = output;
            for check in &self.checks {
                let at = rest.find(check.as_str());
                let at = at.ok_or_else(|| format!("the output has no `{check}` here:\n{rest}"))?;
                rest = &rest[at + check.len()..];
            }
            return Ok(());
        }
        // Spaces at the ends of lines are not kept in files.
        let output: Vec<&str> = output.trim_end().lines().map(str::trim_end).collect();
        let output = output.join("\n");
        if self.expected.as_ref() == Some(&output) {
            return Ok(());
        }
        if std::env::var_os("BLESS").is_some() {
            let lines: Vec<String> =
                output.lines().map(|l| format!("//> {l}").trim_end().to_owned()).collect();
            let text = format!("{}{}\n", self.source, lines.join("\n"));
            return fs::write(&self.path, text).map_err(|e| e.to_string());
        }
        let wanted = self.expected.as_deref().unwrap_or("(nothing: run with BLESS=1)");
        Err(format!("expected:\n{wanted}\n\nfound:\n{output}\n"))
    }
}

/// All test files below a folder, in order of their paths.
///
/// # Errors
/// Where a folder cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
