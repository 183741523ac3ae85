//! All automation of the workspace, in Rust and without LLVM, so that it builds in seconds on a bare machine.
//!
//! Run it as `cargo xtask COMMAND`; `cargo xtask --help` teaches the commands. As a library it answers one
//! question, where the tools that [`setup`] installed lie:
//!
//! ```
//! use xtask::tools::{Tool, find, workspace_root};
//!
//! match find(&workspace_root(), Tool::Ptxas) {
//!     Some(path) => assert!(path.is_file()),
//!     None => eprintln!("no ptxas here: run `cargo xtask setup`"),
//! }
//! ```
//!
//! In reading order: [`tools`] (where tools lie), [`requirements`] (what the build needs and which Debian
//! package gives it), [`setup`] (installs what is missing), [`checks`] (format, lints, tests), [`demo`],
//! [`bench`](mod@bench), [`ptxas`] (verifies PTX files),
//! [`sass`] (what the loops of machine code are made of), [`sass_report`] (that of DeepSeek-V3's kernels),
//! [`validate_model`] (predicted beside published times), [`fusion_report`] (what fusion saves), [`picture`]
//! (timelines for pages).

pub mod bench;
pub mod checks;
pub mod demo;
pub mod fusion_report;
pub mod picture;
pub mod ptxas;
pub mod requirements;
pub mod sass;
pub mod sass_report;
pub mod setup;
pub mod tools;
pub mod validate_model;
