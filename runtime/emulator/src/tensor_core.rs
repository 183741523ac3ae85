//! Tensor cores: the arithmetic of `wgmma` and `mma.sync` (PTX ISA 9.7.14 and 9.7.15).
//!
//! Knows nothing of threads. Operands are decoded into [`Panel`]s, from shared memory through a
//! [`descriptor`] or from registers through [`fragments`]; [`multiply_add`] then computes
//! `C + A·B` for the whole tile under a [`Rule`]. Columns of a tile are kept in the order in
//! which registers hold them, see [`panel`].

pub(crate) mod accumulate;
mod chain;
pub(crate) mod descriptor;
pub(crate) mod element;
pub(crate) mod fragments;
mod kernels;
mod lanes;
pub(crate) mod panel;
mod sparse;
mod transpose;
mod wide;

pub use accumulate::Accumulation;
pub(crate) use accumulate::{
    Rule, count_common_bits, half_bits, multiply_add, multiply_add_integers,
};
pub use chain::multiply_e4m3;
pub(crate) use element::{Accumulator, Element};
pub(crate) use panel::{Panel, padded};
pub(crate) use sparse::{Picked, multiply_add_sparse, multiply_sparse};
