//! Whole-compiler tests.
//!
//! - `corpus/`: a test is a file that is dropped in; its first line says what it tests, its
//!   second what is run. [`corpus`] reads them, `tests/corpus.rs` runs them.
//! - `tests/`: snapshots of the examples and numerics against references.
//! - [`mutate`]: broken inputs made from good ones, for the parsers and loaders.

pub mod agree;
pub mod corpus;
pub mod fuzz;
pub mod mutate;
