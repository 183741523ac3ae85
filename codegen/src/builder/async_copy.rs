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

    /// Ends a group of this thread's copies: `cp.async.commit_group` (PTX ISA 9.7.9.25.3.2).
    pub(crate) fn commit_copies(&'k self) {
        self.assembly("cp.async.commit_group;", "~{memory}", &[], &[]);
    }

    /// Waits until at most the last `pending` groups of this thread's copies have not ended:
    /// `cp.async.wait_group` (PTX ISA 9.7.9.25.3.3).
    pub(crate) fn wait_copies(&'k self, pending: u64) {
        self.assembly(&format!("cp.async.wait_group {pending};"), "~{memory}", &[], &[]);
    }
}
