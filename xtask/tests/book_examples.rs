//! Every `.moe` example of the book is true: a block marked `moe` has no mistake, a block marked `moe error` on the
//! page of a code has exactly that mistake.

#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic is the failure")]

use std::fs;
use std::path::Path;

use walkdir::WalkDir;
use xtask::tools::workspace_root;

/// A fenced block: what stands behind the fence, the line it begins at, and its text.
struct Example {
    marks: String,
    line: usize,
    source: String,
}

#[test]
fn examples_have_the_mistakes_that_their_pages_say() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    for entry in WalkDir::new(workspace_root().join("docs")).sort_by_file_name() {
        let page = entry.unwrap().into_path();
        if page.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        for example in examples(&page) {
            let code = page.file_stem().unwrap().to_str().unwrap();
            let wanted = match example.marks.as_str() {
                "moe" => vec![],
                "moe error" => vec![code],
                _ => continue,
            };
            checked += 1;
            let found = codes(&example.source);
            if found != wanted {
                let place = format!("{}:{}", page.display(), example.line);
                wrong.push(format!("{place}: expected {wanted:?}, found {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 20, "only {checked} examples are marked `moe` or `moe error`");
}

/// The codes of all that is said of a source, warnings included.
fn codes(source: &str) -> Vec<&'static str> {
    let checked = moec_frontend::parse(source).and_then(|tree| moec_frontend::check(&tree));
    match checked.and_then(|model| moec_frontend::lower(&model).map(|_| model)) {
        Ok(model) => model.warnings.iter().map(|found| found.code).collect(),
        Err(mistakes) => mistakes.iter().map(|found| found.code).collect(),
    }
}

fn examples(page: &Path) -> Vec<Example> {
    let mut found = Vec::new();
    let mut open: Option<Example> = None;
    for (index, line) in fs::read_to_string(page).unwrap().lines().enumerate() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(marks), None) => {
                let marks = marks.trim().to_owned();
                open = Some(Example { marks, line: index + 1, source: String::new() });
            }
            (None, Some(example)) => {
                example.source.push_str(line);
                example.source.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}
