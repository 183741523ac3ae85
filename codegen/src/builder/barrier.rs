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

    /// Arrives at the barrier of that number and waits until `threads` threads of the CTA have:
    /// `barrier.sync` (PTX ISA 9.7.13.1).
    pub(crate) fn named_barrier(&'k self, number: u64, threads: u64) {
        self.assembly(&format!("bar.sync {number}, {threads};"), "~{memory}", &[], &[]);
    }

    /// Arrives at the barrier of that number, for `threads` threads of the CTA, without waiting:
    /// `barrier.arrive` (PTX ISA 9.7.13.1).
    pub(crate) fn named_arrive(&'k self, number: u64, threads: u64) {
        self.assembly(&format!("bar.arrive {number}, {threads};"), "~{memory}", &[], &[]);
    }
}
