//! Text to syntax tree.
//!
//! Before: any text. After: a tree whose expressions are at most [`MAX_DEPTH`] deep, so
//! that every later stage may recurse over it. Names and shapes are not looked at.

mod build;
mod errors;

use crate::ast::Ast;
use moec_ir::{Diagnostic, Span};
use pest::Parser;

/// Deepest nesting of brackets that is read.
pub(crate) const MAX_BRACKETS: usize = 64;
/// Deepest expression that is read; a chain of operators is as deep as it is long.
pub(crate) const MAX_DEPTH: usize = 128;

#[derive(pest_derive::Parser)]
#[grammar = "grammar.pest"]
#[allow(missing_docs, reason = "pest derives a public enum of rules without comments")]
struct Grammar;

/// Reads a `.moe` file.
///
/// # Errors
/// E0101 where the text is not of the grammar; E0102 where it is nested too deeply; E0103
/// where a string or a character is broken.
pub fn parse(source: &str) -> Result<Ast, Vec<Diagnostic>> {
    limit_nesting(source).map_err(|d| vec![d])?;
    let mut pairs =
        Grammar::parse(Rule::file, source).map_err(|e| vec![errors::explain(source, &e)])?;
    let file = pairs.next().ok_or_else(|| vec![Diagnostic::error("E0101", "the file is empty")])?;
    build::file(file).map_err(|d| vec![d])
}

/// Refuses brackets nested deeper than [`MAX_BRACKETS`]: the parser recurses at each.
fn limit_nesting(source: &str) -> Result<(), Diagnostic> {
    let mut open: Vec<usize> = Vec::new();
    let bytes = source.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => at = line_end(bytes, at),
            b'"' => {
                let end = line_end(bytes, at);
                at = bytes[at + 1..end].iter().position(|&b| b == b'"').map_or(end, |n| at + 1 + n);
            }
            b'(' | b'[' | b'{' => open.push(at),
            b')' | b']' | b'}' => {
                open.pop();
            }
            _ => {}
        }
        if open.len() > MAX_BRACKETS {
            return Err(too_deep(Span { start: at, end: at + 1 }));
        }
        at += 1;
    }
    Ok(())
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| from + n)
}

/// E0102 at the place where the limit is passed.
fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::error("E0102", "this is nested too deeply")
        .at(span, format!("more than {MAX_BRACKETS} brackets or {MAX_DEPTH} operations deep"))
        .help("name the parts with `let`")
}
