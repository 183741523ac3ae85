//! The canonical layout of `.moe` text.
//!
//! Before: text that parses. After: the same tree and the same comments in one layout, two
//! spaces per level, lines of at most [`WIDTH`] columns where an expression can be broken.
//! Formatting twice gives the same text. A comment stands before what it was written before
//! or in, or behind what it was written behind.

mod comments;
mod flat;
mod items;
mod wrap;

use comments::Comments;
use moec_ir::Diagnostic;

/// Columns that a line may take.
pub(crate) const WIDTH: usize = 100;

/// The canonical layout of a `.moe` file.
///
/// # Errors
/// What [`crate::parse`] says of the text.
pub fn format(source: &str) -> Result<String, Vec<Diagnostic>> {
    let ast = crate::parse(source)?;
    let mut printer = items::Printer::new(source, Comments::of(source));
    printer.file(&ast);
    Ok(printer.finish())
}
