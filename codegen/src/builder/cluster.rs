//! CTAs that run together and reach each other's shared memory (PTX ISA 2.2.3, 5.1.6).

use super::{Builder, I32};

impl<'k> Builder<'k> {
    /// All threads of the cluster wait for each other and see each other's stores:
    /// `barrier.cluster` (PTX ISA 9.7.13.4).
    pub(crate) fn cluster_barrier(&'k self) {
        let text = "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;";
        self.assembly(text, "~{memory}", &[], &[]);
    }

    /// Where that address of the own CTA's shared memory lies in the CTA of that rank:
    /// `mapa.shared::cluster` (PTX ISA 9.7.9.24).
    pub(crate) fn in_cta(&'k self, address: I32<'k>, rank: I32<'k>) -> I32<'k> {
        let text = "mapa.shared::cluster.u32 $0, $1, $2;";
        self.assembly_word(text, "=r,r,r", &[address.raw, rank.raw])
    }

    /// As [`Builder::mbarrier_arrive`], at a barrier of any CTA of the cluster.
    pub(crate) fn mbarrier_arrive_in_cluster(&'k self, barrier: I32<'k>, who: I32<'k>) {
        let text = "{ .reg .pred p; setp.ne.b32 p, $1, 0; \
                    @p mbarrier.arrive.release.cluster.shared::cluster.b64 _, [$0]; }";
        self.assembly(text, "r,r,~{memory}", &[barrier.raw, who.raw], &[]);
    }

    /// As [`Builder::mbarrier_wait`], for what all CTAs of the cluster did before they arrived.
    pub(crate) fn mbarrier_wait_for_cluster(&'k self, barrier: I32<'k>, parity: I32<'k>) {
        let text = "{ .reg .pred p; again: \
                    mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [$0], $1; \
                    @!p bra again; }";
        self.assembly(text, "r,r,~{memory}", &[barrier.raw, parity.raw], &[]);
    }
}
