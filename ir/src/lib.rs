//! The two values everything in moec turns on, and what they are made of.
//!
//! A [`Graph`] is the mathematics of a model: functions of typed tensor operations.
//! A [`Plan`] is what a target executes: kernels, launches, buffers. Passes turn one into
//! the other; code generation and the runtime read plans and never see graphs.
//!
//! ```
//! use moec_ir::{Dim, Sym};
//! let rows = Dim::from(Sym::Tokens) * 8;
//! assert_eq!(rows.to_string(), "8*T");
//! assert_eq!(rows.eval(&moec_ir::Sizes { tokens: 3, past: 3, sequences: 1 }), 24);
//! ```
//!
//! In reading order: [`dim`], [`dtype`] and [`e4m3`] (what a tensor's type is made of), [`graph`]
//! (the mathematics), [`kernel`] (what one launch can compute), [`plan`] (the program of
//! launches), [`target`] and [`ranks`] (the machines), [`timeline`] (what ran when),
//! [`diagnostic`] (how mistakes are told).

pub mod diagnostic;
pub mod dim;
pub mod dtype;
pub mod e4m3;
pub mod graph;
pub mod kernel;
pub mod plan;
pub mod ranks;
pub mod real;
pub mod target;
pub mod timeline;

pub use diagnostic::{Diagnostic, Label, Severity, Span};
pub use dim::{Dim, Sizes, Sym};
pub use dtype::{DType, ScaleFormat};
pub use graph::{Function, Graph, Node, NodeId, Op, TensorType};
pub use kernel::KernelSpec;
pub use plan::{Phase, Plan};
pub use ranks::{Ranks, RanksError, Transfer};
pub use real::Real;
pub use target::Target;
