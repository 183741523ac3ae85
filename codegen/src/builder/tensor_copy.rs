//! Copies of boxes of tensors by the tensor memory accelerator (PTX ISA 9.7.9.27).
//! Coordinates are innermost first.

use super::{Builder, I32, argument_of, bug};
use melior::ir::Value;

/// A tensor map among the parameters: its generic address.
#[derive(Clone, Copy)]
pub(crate) struct TensorMapPtr<'k> {
    raw: Value<'k, 'k>,
}

impl<'k> Builder<'k> {
    /// The tensor map parameter of that index.
    pub(crate) fn tensor_map(&'k self, index: usize) -> TensorMapPtr<'k> {
        let raw = argument_of(self.entry, self.signature.operands + 3 + index);
        TensorMapPtr { raw }
    }

    /// Brings a tensor map near: `prefetch.tensormap` (PTX ISA 9.7.9.15).
    pub(crate) fn prefetch_tensor_map(&'k self, map: TensorMapPtr<'k>) {
        self.assembly("prefetch.tensormap [$0];", "l,~{memory}", &[map.raw], &[]);
    }

    /// Copies a box to shared memory of the own CTA and counts its bytes off `barrier`:
    /// `cp.async.bulk.tensor` (PTX ISA 9.7.9.27.5.2).
    pub(crate) fn tensor_copy(
        &'k self,
        to: I32<'k>,
        map: TensorMapPtr<'k>,
        at: &[I32<'k>],
        barrier: I32<'k>,
    ) {
        let (rank, place) = coordinates(at, 3);
        let text = format!(
            "cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
             [$0], [$1, {place}], [$2];",
        );
        let constraints = format!("r,l,r{},~{{memory}}", ",r".repeat(rank));
        let operands: Vec<_> =
            [to.raw, map.raw, barrier.raw].into_iter().chain(at.iter().map(|c| c.raw)).collect();
        self.assembly(&text, &constraints, &operands, &[]);
    }

    /// As [`Builder::tensor_copy`], to the same place in all of the first `ctas` CTAs of the
    /// cluster, whose barriers in the same place count the bytes: `.multicast::cluster`.
    pub(crate) fn tensor_copy_to_all(
        &'k self,
        ctas: u64,
        to: I32<'k>,
        map: TensorMapPtr<'k>,
        at: &[I32<'k>],
        barrier: I32<'k>,
    ) {
        let (rank, place) = coordinates(at, 4);
        let text = format!(
            "{{ .reg .b16 all; cvt.u16.u32 all, $3; \
             cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes\
             .multicast::cluster [$0], [$1, {place}], [$2], all; }}",
        );
        let constraints = format!("r,l,r,r{},~{{memory}}", ",r".repeat(rank));
        let all = self.i32((1_i64 << ctas) - 1);
        let operands: Vec<_> = [to.raw, map.raw, barrier.raw, all.raw]
            .into_iter()
            .chain(at.iter().map(|c| c.raw))
            .collect();
        self.assembly(&text, &constraints, &operands, &[]);
    }

    /// Copies a box from shared memory, but for what lies outside the tensor; part of this
    /// thread's group of stores: `cp.async.bulk.tensor` (PTX ISA 9.7.9.27.5.2).
    pub(crate) fn tensor_store(&'k self, map: TensorMapPtr<'k>, at: &[I32<'k>], from: I32<'k>) {
        let (rank, place) = coordinates(at, 2);
        let text = format!(
            "cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [$0, {place}], [$1];"
        );
        let constraints = format!("l,r{},~{{memory}}", ",r".repeat(rank));
        let operands: Vec<_> =
            [map.raw, from.raw].into_iter().chain(at.iter().map(|c| c.raw)).collect();
        self.assembly(&text, &constraints, &operands, &[]);
    }

    /// Ends a group of this thread's stores: `cp.async.bulk.commit_group` (PTX ISA 9.7.9.25.4.1).
    pub(crate) fn commit_stores(&'k self) {
        self.assembly("cp.async.bulk.commit_group;", "~{memory}", &[], &[]);
    }

    /// Waits until all but the last `pending` groups of this thread's stores have read shared
    /// memory: `cp.async.bulk.wait_group.read` (PTX ISA 9.7.9.25.4.2).
    pub(crate) fn wait_stores_read(&'k self, pending: u64) {
        let text = format!("cp.async.bulk.wait_group.read {pending};");
        self.assembly(&text, "~{memory}", &[], &[]);
    }
}

/// How many coordinates there are, and how an instruction names them, the first being operand
/// `first`.
fn coordinates(at: &[I32<'_>], first: usize) -> (usize, String) {
    let rank = at.len();
    if !(1..=5).contains(&rank) {
        bug(format_args!("a tensor copy with {rank} coordinates"));
    }
    let names: Vec<String> = (first..first + rank).map(|i| format!("${i}")).collect();
    (rank, format!("{{{}}}", names.join(", ")))
}
