//! The `.moe` language: from text to the typed graph.
//!
//! A `.moe` file states the mathematics of a model once, as functions over tensors with named
//! sizes, and beside it how the model is stored, spread, trained and run. [`parse`] reads it,
//! [`check`] resolves names and shapes and gives a [`Model`], [`lower`] hands its graph to the
//! compiler, [`format()`] lays it out, [`import()`] writes it from a Hugging Face `config.json`.
//!
//! ```
//! let source = r#"
//! model Tiny {
//!   dim context = 16, vocab = 32, hidden = 8
//!   param embed: [vocab, hidden] = "embed.weight"
//!   entry main(ids: int[T]) -> [T, vocab] { linear(lookup(embed, ids), embed) }
//! }
//! "#;
//! let model = moec_frontend::check(&moec_frontend::parse(source).unwrap()).unwrap();
//! assert_eq!(model.graph.functions[0].name, "main");
//! ```
//!
//! In reading order: [`ast`] (what a file says), [`parse`](parse()) (text to tree),
//! [`check`](check()) (tree to graph), [`lower`](lower()) (what cannot be compiled yet),
//! [`format`](format()) (the canonical layout), [`import`](import()) (from `config.json`).

pub mod ast;
mod check;
mod format;
mod import;
mod lower;
mod parse;

pub use ast::Ast;
pub use check::{
    AdamW, Fp8, Fp8Cache, LossTerm, Model, Parallel, Precision, Spread, TargetSection, Train,
    Update, check,
};
pub use format::format;
pub use import::{Fp8Recipe, import};
pub use lower::lower;
pub use moec_ir::ScaleFormat;
pub use parse::parse;
