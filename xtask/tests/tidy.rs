//! Keeps the house tidy: arrows between crates, one heavy dependency per room, file sizes, names, error pages.

#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic is the failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use walkdir::WalkDir;
use xtask::tools::workspace_root;

/// The rooms, and which of our own crates each may use outside its tests. ARCHITECTURE.md says why.
const ARROWS: &[(&str, &[&str])] = &[
    ("ir", &[]),
    ("frontend", &["moec-ir"]),
    ("passes", &["moec-ir"]),
    ("codegen", &["moec-ir"]),
    ("runtime/emulator", &[]),
    ("runtime", &["moec-ir", "moec-emulator"]),
    (
        "cli",
        &[
            "moec-ir",
            "moec-frontend",
            "moec-passes",
            "moec-codegen",
            "moec-runtime",
            "moec-emulator",
        ],
    ),
    (
        "tests",
        &[
            "moec-ir",
            "moec-frontend",
            "moec-passes",
            "moec-codegen",
            "moec-runtime",
            "moec-emulator",
            "moec",
        ],
    ),
    // Its tests alone: the examples of the book are checked by the front end.
    ("xtask", &["moec-frontend"]),
];

/// Heavy dependencies, and the rooms that may name them.
const HEAVY: &[(&str, &[&str])] = &[
    ("pest", &["frontend"]),
    ("egg", &["passes"]),
    ("melior", &["codegen"]),
    ("mlir-sys", &["codegen"]),
    ("inkwell", &["codegen"]),
    ("llvm-sys", &["codegen"]),
    ("cudarc", &["runtime"]),
    ("clap", &["cli", "xtask"]),
    ("codespan-reporting", &["ir"]),
];

const LONGEST_FILE: usize = 800;
const BANNED_MODULES: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc"];

#[test]
fn no_crate_depends_on_a_room_it_must_not_know() {
    let mut wrong = Vec::new();
    for (room, allowed) in ARROWS {
        for (section, name) in dependencies(room) {
            // A test may put rooms together only in `tests/`; a crate's own tests see what the crate sees.
            let ours = name == "moec" || name.starts_with("moec-");
            let built = *room == "xtask" && section != "dev-dependencies";
            // Kernels are tested by running them: the machine is their oracle, not their means.
            let oracle = *room == "codegen" && section == "dev-dependencies";
            let allowed = allowed.contains(&name.as_str()) || (oracle && name == "moec-emulator");
            if ours && (built || !allowed) {
                wrong.push(format!("{room}/Cargo.toml [{section}]: `{name}` is a forbidden arrow"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\nhelp: ARCHITECTURE.md lists the arrows", wrong.join("\n"));
}

#[test]
fn each_heavy_dependency_is_named_in_its_own_room_only() {
    let mut wrong = Vec::new();
    for (room, _) in ARROWS {
        for (section, name) in dependencies(room) {
            let limit = HEAVY.iter().find(|(heavy, _)| {
                name == *heavy || name.strip_prefix(heavy).is_some_and(|rest| rest.starts_with('_'))
            });
            if let Some((_, rooms)) = limit
                && !rooms.contains(room)
            {
                wrong.push(format!("{room}/Cargo.toml [{section}]: `{name}` belongs to {rooms:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_member_of_the_workspace_is_a_known_room() {
    let manifest = read_toml(&workspace_root().join("Cargo.toml"));
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<&str> = members.iter().map(|member| member.as_str().unwrap()).collect();
    let rooms: BTreeSet<&str> = ARROWS.iter().map(|(room, _)| *room).collect();
    assert_eq!(members, rooms, "say in ARROWS what a new crate may use");
}

#[test]
fn every_member_follows_the_lints_of_the_workspace() {
    for (room, _) in ARROWS {
        let manifest = read_toml(&workspace_root().join(room).join("Cargo.toml"));
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(
            inherits.and_then(toml::Value::as_bool),
            Some(true),
            "{room}/Cargo.toml lacks `[lints] workspace = true`"
        );
    }
}

#[test]
fn long_files_give_a_reason_in_their_header() {
    let mut wrong = Vec::new();
    for (path, text) in rust_sources() {
        let lines = text.lines().count();
        if lines > LONGEST_FILE && !header(&text).contains("long because") {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "over {LONGEST_FILE} lines without a reason:\n{}\nhelp: split the file, or say in its `//!` header \
         that it is `long because …`",
        wrong.join("\n")
    );
}

#[test]
fn no_module_is_called_utils() {
    let declaration = Regex::new(r"(?m)^\s*(?:pub(?:\([a-z]+\))? )?mod ([a-z0-9_]+)").unwrap();
    let mut wrong = Vec::new();
    for (path, text) in rust_sources() {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let declared = declaration.captures_iter(&text).map(|found| found.get(1).unwrap().as_str());
        for name in declared.chain([stem]).chain(folder) {
            if BANNED_MODULES.contains(&name) {
                wrong.push(format!("{}: `{name}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "named after nothing:\n{}", wrong.join("\n"));
}

#[test]
fn every_diagnostic_code_has_a_page_and_every_page_a_code() {
    let code = Regex::new(r#""(E[0-9]{4})""#).unwrap();
    let mut in_sources: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (path, text) in rust_sources() {
        let own = path.starts_with("xtask");
        for found in code.captures_iter(&text).filter(|_| !own) {
            in_sources.entry(found[1].to_owned()).or_insert_with(|| path.clone());
        }
    }
    let pages: BTreeSet<String> = WalkDir::new(workspace_root().join("docs/errors"))
        .into_iter()
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .filter(|stem| Regex::new("^E[0-9]{4}$").unwrap().is_match(stem))
        .collect();
    let lacking: Vec<String> = in_sources
        .iter()
        .filter(|(code, _)| !pages.contains(*code))
        .map(|(code, path)| format!("{code} ({}): no page docs/errors/{code}.md", path.display()))
        .collect();
    let stale: Vec<&String> = pages.iter().filter(|page| !in_sources.contains_key(*page)).collect();
    assert!(
        lacking.is_empty() && stale.is_empty(),
        "{}\nstale pages: {stale:?}",
        lacking.join("\n")
    );
}

/// The dependencies of one room, with the section of the manifest that names each.
fn dependencies(room: &str) -> Vec<(&'static str, String)> {
    let manifest = read_toml(&workspace_root().join(room).join("Cargo.toml"));
    let mut found = Vec::new();
    let mut tables = vec![&manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values());
    }
    for table in tables {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(entries) = table.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for (key, value) in entries {
                let renamed = value.get("package").and_then(toml::Value::as_str);
                found.push((section, renamed.unwrap_or(key).to_owned()));
            }
        }
    }
    found
}

fn read_toml(path: &Path) -> toml::Value {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The leading `//!` lines.
fn header(text: &str) -> String {
    text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join(" ")
}

/// Every `.rs` file of the members, with its path relative to the root; sorted.
fn rust_sources() -> Vec<(PathBuf, String)> {
    let root = workspace_root();
    let mut found = Vec::new();
    for folder in
        ["ir", "frontend", "passes", "codegen", "runtime", "cli", "tests", "xtask", "examples"]
    {
        let place = root.join(folder);
        if !place.is_dir() {
            continue; // git keeps no empty folders
        }
        for entry in WalkDir::new(place).sort_by_file_name() {
            let entry = entry.unwrap();
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(entry.path()).unwrap();
                found.push((entry.path().strip_prefix(&root).unwrap().to_path_buf(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources under {}", root.display());
    found
}
