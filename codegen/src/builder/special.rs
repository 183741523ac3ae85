//! Special registers (PTX ISA 10) and the sizes of a step.

use super::{Builder, I32, Val, argument_of, bug};
use moec_ir::{Dim, Sym};

impl<'k> Builder<'k> {
    /// A special register whose value is below `bound`.
    fn register(&'k self, name: &str, bound: u64) -> I32<'k> {
        let range = self.parse(&format!("#llvm.constant_range<i32, 0, {bound}>"));
        Val::new(self, self.value(name, &[], self.types.i32, &[("range", range)]))
    }

    /// The thread's index within its CTA: `%tid.x` (PTX ISA 10.1).
    pub(crate) fn thread(&'k self) -> I32<'k> {
        self.register("nvvm.read.ptx.sreg.tid.x", self.threads().into())
    }

    /// The thread's index within its warp; CTAs are one-dimensional.
    pub(crate) fn lane(&'k self) -> I32<'k> {
        self.thread() % 32
    }

    /// The warp's index within its CTA.
    pub(crate) fn warp(&'k self) -> I32<'k> {
        self.thread() / 32
    }

    /// The CTA's index along an axis of the grid: `%ctaid` (PTX ISA 10.6; bounds from the CUDA
    /// C++ Programming Guide, technical specifications per compute capability).
    pub(crate) fn cta(&'k self, axis: usize) -> I32<'k> {
        match axis {
            0 => self.register("nvvm.read.ptx.sreg.ctaid.x", (1 << 31) - 1),
            1 => self.register("nvvm.read.ptx.sreg.ctaid.y", 65_535),
            2 => self.register("nvvm.read.ptx.sreg.ctaid.z", 65_535),
            _ => bug("a grid has three axes"),
        }
    }

    /// The value of a size in this step.
    pub(crate) fn size(&'k self, dim: &Dim) -> I32<'k> {
        if let Some(constant) = dim.constant() {
            return self.i32(i64::try_from(constant).unwrap_or(i64::MAX));
        }
        let symbol = |sym: Sym| {
            let place = Sym::ALL.into_iter().position(|s| s == sym).unwrap_or_default();
            Val::new(self, argument_of(self.entry, self.signature.operands + place))
        };
        dim.terms().fold(self.i32(0), |sum, (monomial, factor)| {
            sum + monomial.iter().fold(self.i32(factor), |p, &s| p * symbol(s))
        })
    }
}
