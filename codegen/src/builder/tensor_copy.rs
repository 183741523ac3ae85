//! Copies of boxes of tensors by the tensor memory accelerator (PTX ISA 9.7.9.27).

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

    /// Copies a box to shared memory of the own CTA and counts its bytes off `barrier`;
    /// coordinates are innermost first:
    /// `cp.async.bulk.tensor` (PTX ISA 9.7.9.27.5.2).
    pub(crate) fn tensor_copy(
        &'k self,
        to: I32<'k>,
        map: TensorMapPtr<'k>,
        at: &[I32<'k>],
        barrier: I32<'k>,
    ) {
        let rank = at.len();
        if !(1..=5).contains(&rank) {
            bug(format_args!("a tensor copy with {rank} coordinates"));
        }
        let coordinates: Vec<String> = (0..rank).map(|i| format!("${}", i + 3)).collect();
        let text = format!(
            "cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
             [$0], [$1, {{{}}}], [$2];",
            coordinates.join(", ")
        );
        let constraints = format!("r,l,r{},~{{memory}}", ",r".repeat(rank));
        let operands: Vec<_> =
            [to.raw, map.raw, barrier.raw].into_iter().chain(at.iter().map(|c| c.raw)).collect();
        self.assembly(&text, &constraints, &operands, &[]);
    }
}
