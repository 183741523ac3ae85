//! Copies by threads that need not wait for them (PTX ISA 9.7.9.25, `cp.async`), and the order
//! between such and the accesses of tensor cores.

use super::{Builder, I32, Ptr};

impl<'k> Builder<'k> {
    /// Orders accesses of threads to shared memory before those of tensor cores and tensor
    /// copies: `fence.proxy.async` (PTX ISA 9.7.13.4).
    pub(crate) fn fence_async(&'k self) {
        self.assembly("fence.proxy.async.shared::cta;", "~{memory}", &[], &[]);
    }

    /// Copies 16 bytes to shared memory, of which the first `bytes` are read and the others are
    /// zero: `cp.async.cg` (PTX ISA 9.7.9.25.3.1).
    pub(crate) fn copy_chunk(&'k self, to: I32<'k>, from: Ptr<'k>, bytes: I32<'k>) {
        self.assembly(
            "cp.async.cg.shared.global [$0], [$1], 16, $2;",
            "r,l,r,~{memory}",
            &[to.raw, from.raw(), bytes.raw],
            &[],
        );
    }

    /// Arrives at a barrier when this thread's copies until here have ended:
    /// `cp.async.mbarrier.arrive.noinc` (PTX ISA 9.7.13.15.14).
    pub(crate) fn arrive_after_copies(&'k self, barrier: I32<'k>) {
        let text = "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [$0];";
        self.assembly(text, "r,~{memory}", &[barrier.raw], &[]);
    }
}
