//! What SMs of a launch do.

use moec_ir::KernelSpec;
use moec_ir::plan::Kernel;

/// What a CTA is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// All that there is to do.
    Whole,
    /// Sending, handing on and summing rows.
    Communicate,
    /// Multiplying.
    Compute,
}

impl Role {
    pub(super) const ALL: [Self; 3] = [Self::Whole, Self::Communicate, Self::Compute];

    /// The role of a CTA, by its number in the grid.
    pub(super) fn of(kernel: &Kernel, cta: u64) -> Self {
        match &kernel.spec {
            KernelSpec::SpreadExperts(s) if cta < u64::from(s.split.comm) => Self::Communicate,
            KernelSpec::SpreadExperts(_) => Self::Compute,
            _ => Self::Whole,
        }
    }

    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Whole => "SMs",
            Self::Communicate => "communicating SMs",
            Self::Compute => "computing SMs",
        }
    }
}
