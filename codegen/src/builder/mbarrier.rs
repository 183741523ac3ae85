//! Barriers in shared memory that count arrivals and bytes (PTX ISA 9.7.13.15, `mbarrier`).
//! Addresses are those of [`Builder::dynamic_shared`].

use super::{Builder, I32};

impl<'k> Builder<'k> {
    /// Makes a barrier whose phases end after `arrivals` arrivals and all bytes expected:
    /// `mbarrier.init` (PTX ISA 9.7.13.15.9).
    pub(crate) fn mbarrier_init(&'k self, barrier: I32<'k>, arrivals: u64) {
        let text = format!("mbarrier.init.shared::cta.b64 [$0], {arrivals};");
        self.assembly(&text, "r,~{memory}", &[barrier.raw], &[]);
    }

    /// Makes barriers known to the asynchronous copies and to the cluster:
    /// `fence.mbarrier_init` (PTX ISA 9.7.13.4).
    pub(crate) fn fence_mbarrier_init(&'k self) {
        self.assembly("fence.mbarrier_init.release.cluster;", "~{memory}", &[], &[]);
    }

    /// Arrives, and lets the phase wait for `bytes` more:
    /// `mbarrier.arrive.expect_tx` (PTX ISA 9.7.13.15.13).
    pub(crate) fn mbarrier_expect(&'k self, barrier: I32<'k>, bytes: u64) {
        let text = format!("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], {bytes};");
        self.assembly(&text, "r,~{memory}", &[barrier.raw], &[]);
    }

    /// Arrives where `who` is not 0: `mbarrier.arrive` (PTX ISA 9.7.13.15.13).
    pub(crate) fn mbarrier_arrive(&'k self, barrier: I32<'k>, who: I32<'k>) {
        let text = "{ .reg .pred p; setp.ne.b32 p, $1, 0; \
                    @p mbarrier.arrive.shared::cta.b64 _, [$0]; }";
        self.assembly(text, "r,r,~{memory}", &[barrier.raw, who.raw], &[]);
    }

    /// Waits until the phase of that parity (0 is the first) has ended:
    /// `mbarrier.try_wait.parity` (PTX ISA 9.7.13.15.16), which gives up after a while.
    pub(crate) fn mbarrier_wait(&'k self, barrier: I32<'k>, parity: I32<'k>) {
        let text = "{ .reg .pred p; again: \
                    mbarrier.try_wait.parity.shared::cta.b64 p, [$0], $1; \
                    @!p bra again; }";
        self.assembly(text, "r,r,~{memory}", &[barrier.raw, parity.raw], &[]);
    }
}
