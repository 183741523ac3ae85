//! Keeps the pages true: links lead somewhere, the book lists every page, named files exist.

#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic is the failure")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use regex_lite::Regex;
use walkdir::WalkDir;
use xtask::tools::workspace_root;

#[test]
fn every_relative_link_leads_to_a_file() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let code = Regex::new("`[^`\n]*`").unwrap();
    let mut broken = Vec::new();
    for (page, text) in pages() {
        for found in link.captures_iter(&code.replace_all(&prose(&text), "")) {
            let target = &found[1];
            let outside =
                ["http://", "https://", "mailto:"].iter().any(|scheme| target.starts_with(scheme));
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if outside {
                continue;
            }
            let place = if file.is_empty() {
                page.clone()
            } else {
                normal(&page.parent().unwrap().join(file))
            };
            if !place.exists() {
                broken.push(format!("{}: `{target}` leads nowhere", page.display()));
            } else if !anchor.is_empty() && !anchors(&place).contains(anchor) {
                broken.push(format!("{}: `{target}` names no heading", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_summary_lists_every_page_of_the_book() {
    let docs = workspace_root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed: BTreeSet<PathBuf> = Regex::new(r"\]\(([^)]+\.md)\)")
        .unwrap()
        .captures_iter(&summary)
        .map(|found| docs.join(&found[1]))
        .collect();
    let missing: Vec<String> = pages()
        .into_iter()
        .map(|(page, _)| page)
        .filter(|page| {
            page.starts_with(&docs) && !page.ends_with("SUMMARY.md") && !listed.contains(page)
        })
        .map(|page| page.display().to_string())
        .collect();
    assert!(missing.is_empty(), "not in docs/SUMMARY.md:\n{}", missing.join("\n"));
}

/// A path in backticks that starts with a folder of the workspace names a file or folder that is there.
#[test]
fn every_path_named_in_a_page_exists() {
    let root = workspace_root();
    let path = Regex::new(
        r"`((?:ir|frontend|passes|codegen|runtime|cli|tests|examples|docs|xtask)/[A-Za-z0-9_./-]*)`",
    )
    .unwrap();
    let mut broken = Vec::new();
    for (page, text) in pages() {
        for found in path.captures_iter(&prose(&text)) {
            if !root.join(&found[1]).exists() {
                broken.push(format!("{}: `{}` is not there", page.display(), &found[1]));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_kernel_catalogue_lists_every_family() {
    let root = workspace_root();
    let source = fs::read_to_string(root.join("ir/src/kernel.rs")).unwrap();
    let families: BTreeSet<String> = Regex::new(r#"Self::\w+ ?[{(][ ._]+[)}] => "([a-z_]+)""#)
        .unwrap()
        .captures_iter(&source)
        .map(|found| found[1].to_owned())
        .collect();
    let page = fs::read_to_string(root.join("docs/kernels.md")).unwrap();
    let listed: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned).collect();
    assert!(!families.is_empty(), "`KernelSpec::family` has another shape now");
    assert_eq!(families, listed, "families in ir/src/kernel.rs, and headings of docs/kernels.md");
}

#[test]
fn the_rewrite_catalogue_lists_every_rule() {
    let root = workspace_root();
    let rule = Regex::new(r#"Rule::(?:equation|function)\(\s*"([a-z0-9-]+)""#).unwrap();
    let mut rules = BTreeSet::new();
    for family in ["algebra", "fusion", "lowering"] {
        let table = root.join("passes/src/rules").join(family).with_extension("rs");
        let source = fs::read_to_string(table).unwrap();
        rules.extend(rule.captures_iter(&source).map(|found| found[1].to_owned()));
    }
    let page = fs::read_to_string(root.join("docs/rewrites.md")).unwrap();
    let listed: BTreeSet<String> = Regex::new(r"(?m)^\| `([a-z0-9-]+)` \|")
        .unwrap()
        .captures_iter(&page)
        .map(|found| found[1].to_owned())
        .collect();
    assert!(!rules.is_empty(), "rules are declared in another way now");
    assert_eq!(rules, listed, "rules in passes/src/rules/, and rows of docs/rewrites.md");
}

/// The pages at the top and in `docs/`, and the README of each folder.
fn pages() -> Vec<(PathBuf, String)> {
    let root = workspace_root();
    let skip = ["target", ".git", ".venv", "node_modules", "book"];
    let mut found = Vec::new();
    let walk = WalkDir::new(&root)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| !skip.iter().any(|name| entry.file_name() == *name));
    for entry in walk {
        let path = entry.unwrap().into_path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    assert!(found.len() > 10, "only {} pages under {}", found.len(), root.display());
    found
}

/// The text without fenced code blocks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The anchors that mdBook and code forges give to the headings of a page.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).unwrap_or_default();
    let headings = prose(&text);
    let titles = headings.lines().filter_map(|line| line.strip_prefix('#'));
    titles
        .map(|title| {
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let plain: String = title.trim_start_matches('#').trim().chars().filter(kept).collect();
            plain.to_lowercase().replace(' ', "-")
        })
        .collect()
}

fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut built, part| {
        match part {
            Component::ParentDir => {
                built.pop();
            }
            Component::CurDir => {}
            other => built.push(other),
        }
        built
    })
}
