//! Sizes of heads for which attention has no kernel, or none on tensor cores.

use super::Problem;
use crate::builder::Builder;
use crate::kernels::Design;
use moec_ir::plan::Geometry;
use moec_ir::{Diagnostic, Target};

/// Sizes of values, and of queries over all parts, up to which sums and slices of a head fit the
/// registers of a warp and of a CTA's share.
const MOST_VALUE: u64 = 512;
const MOST_DEPTH: u64 = 2048;

/// Whether there is a kernel.
///
/// # Errors
/// E0903 where registers do not hold a head.
pub(super) fn check(problem: &Problem) -> Result<(), Diagnostic> {
    let (depth, value) = (problem.depth.iter().sum::<u64>(), problem.value);
    if depth <= MOST_DEPTH && value <= MOST_VALUE {
        return Ok(());
    }
    let message = format!(
        "attention of queries of {depth} elements and values of {value} is not compiled: \
         registers hold {MOST_DEPTH} and {MOST_VALUE}"
    );
    Err(Diagnostic::error("E0903", message).help("divide them among more heads"))
}

/// A design on CUDA cores, where sizes alone keep attention from tensor cores.
pub(super) struct Slow {
    pub(super) design: Box<dyn Design>,
    /// What does not fit.
    pub(super) limit: String,
}

impl Design for Slow {
    fn geometry(&self) -> Geometry {
        self.design.geometry()
    }

    fn operands(&self) -> usize {
        self.design.operands()
    }

    fn warning(&self) -> Option<Diagnostic> {
        let message = format!("attention runs on CUDA cores: {}", self.limit);
        Some(Diagnostic::warning("E0904", message).help("divide heads, or expect it to be slow"))
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        self.design.body(b);
    }
}

/// That so many bytes do not fit the shared memory of a CTA.
pub(super) fn shared(what: &str, bytes: u64, target: &Target) -> String {
    format!(
        "{what} take {bytes} bytes of shared memory, of which a CTA has {}",
        target.shared_per_cta
    )
}
