//! Syntax tree to code that runs.
//!
//! A module is decoded once. Operands become rows of a frame, constants and special registers
//! included; labels become indices; branches learn where their sides meet. An instruction or a
//! modifier that this machine does not know is refused here, never skipped.

mod body;
mod flow_graph;
mod lifetime;
mod module;
pub(crate) mod operand;
pub(crate) mod words;

pub(crate) use body::{Decoder, Goes, Place};
pub(crate) use module::{MAX_SHARED, decode};
pub(crate) use words::Words;
