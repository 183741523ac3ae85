//! One function per command.

mod build;
mod emulate;
mod explain;
mod generate;
mod import;
mod logits;
mod numerics;
mod place;
mod simulate;
mod source;

pub(crate) use build::{build, rules};
pub(crate) use emulate::emulate;
pub(crate) use explain::explain;
pub(crate) use generate::generate;
pub(crate) use import::import;
pub(crate) use logits::logits;
pub(crate) use numerics::numerics;
pub(crate) use simulate::simulate;
pub(crate) use source::{check, fmt};
