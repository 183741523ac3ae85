//! The tensor memory accelerator: tensor maps, the boxes they cut out, and how rows of a box lie
//! in shared memory (PTX ISA 5.5, "Tensors"; 9.7.9.27, "Data movement and conversion
//! instructions: Tensor copy").
//!
//! Knows nothing of threads: it says which bytes go where, and the instructions move them.

pub(crate) mod map;
pub(crate) mod reduction;
pub(crate) mod tiles;

pub(crate) use map::{Field, replace};
pub use map::{Interleave, MapElement, Swizzle, TensorMap};
pub(crate) use reduction::Reduction;
pub(crate) use tiles::BoxRow;
