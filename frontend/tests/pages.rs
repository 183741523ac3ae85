//! The examples on the pages of the errors: the bad ones have the page's code, the mended ones
//! have none. Also the examples on the page of the language.

#![allow(clippy::unwrap_used, reason = "a panic is the failure")]

use moec_frontend::{check, import, lower, parse};
use moec_ir::Diagnostic;
use std::fs;
use std::path::{Path, PathBuf};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The fenced blocks of a page: what stands behind the fence, and the text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(info), false) => {
                found.push((info.trim().to_owned(), String::new()));
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => {
                let text = &mut found.last_mut().unwrap().1;
                text.push_str(line);
                text.push('\n');
            }
            (None, false) => {}
        }
    }
    found
}

fn mistakes(kind: &str, text: &str) -> Vec<Diagnostic> {
    match kind {
        "json" => import(text, None, None).err().unwrap_or_default(),
        _ => match parse(text).and_then(|ast| check(&ast)) {
            Ok(model) => lower(&model).err().unwrap_or(model.warnings),
            Err(found) => found,
        },
    }
}

#[test]
fn bad_examples_have_the_code_of_their_page_and_mended_ones_none() {
    let mut pages = 0;
    for entry in fs::read_dir(docs().join("errors")).unwrap() {
        let path = entry.unwrap().path();
        let code = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !["E01", "E02", "E03", "E04", "E05"].iter().any(|stage| code.starts_with(stage)) {
            continue;
        }
        let mut bad = 0;
        for (info, text) in blocks(&fs::read_to_string(&path).unwrap()) {
            let (kind, is_bad) = match info.split_once(' ') {
                Some((kind, "error")) => (kind.to_owned(), true),
                _ => (info, false),
            };
            if kind != "moe" && kind != "json" {
                continue;
            }
            let found = mistakes(&kind, &text);
            let codes: Vec<&str> = found.iter().map(|d| d.code).collect();
            if is_bad {
                bad += 1;
                assert!(codes.contains(&code.as_str()), "{code}: gives {codes:?}\n{text}");
            } else {
                assert!(codes.is_empty(), "{code}: the mended example gives {codes:?}\n{text}");
            }
        }
        // These need more text than a page has room for; `robust.rs` causes them.
        let by_size = ["E0102", "E0209"].contains(&code.as_str());
        assert!(bad > 0 || by_size, "{code}: no bad example");
        pages += 1;
    }
    assert!(pages > 30, "only {pages} pages");
}

#[test]
fn the_examples_of_the_language_page_are_sound() {
    let page = fs::read_to_string(docs().join("language.md")).unwrap();
    let examples: Vec<_> = blocks(&page).into_iter().filter(|(info, _)| info == "moe").collect();
    assert!(!examples.is_empty());
    for (_, text) in examples {
        let found = mistakes("moe", &text);
        assert_eq!(found, vec![], "{text}");
    }
}
