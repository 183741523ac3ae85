//! Synchronisation within a CTA and within a warp.

use super::Builder;

impl<'k> Builder<'k> {
    /// All threads of the CTA wait for each other: `barrier.sync 0` (PTX ISA 9.7.13.1).
    pub(crate) fn barrier(&'k self) {
        self.op("nvvm.barrier0", &[], &[], &[]);
    }

    /// All threads of the warp wait for each other and see each other's stores:
    /// `bar.warp.sync` (PTX ISA 9.7.13.2).
    pub(crate) fn warp_barrier(&'k self) {
        self.op("nvvm.bar.warp.sync", &[self.i32(-1).raw], &[], &[]);
    }
}
