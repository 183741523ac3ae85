//! Stores to ranks of other nodes, by NVSHMEM (device functions that the artefact is linked with).

use super::{Builder, I32, I64, Ptr};
use melior::ir::attribute::{FlatSymbolRefAttribute, StringAttribute, TypeAttribute};
use melior::ir::operation::OperationBuilder;
use melior::ir::{Location, Region, Value};

/// `NVSHMEM_SIGNAL_SET` (NVSHMEM 3, `device_host/nvshmem_types.h`): the signal is stored, not added.
const SIGNAL_SET: i64 = 9;

/// Who calls: what NVSHMEM calls a thread group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Callers {
    /// All threads of a warp.
    Warp,
    /// All threads of a CTA.
    Cta,
}

impl Callers {
    /// `nvshmemx_putmem_signal_nbi_warp` or `.._block` (NVSHMEM 3 API, "Signaling Operations").
    fn put_signal(self) -> &'static str {
        match self {
            Self::Warp => "nvshmemx_putmem_signal_nbi_warp",
            Self::Cta => "nvshmemx_putmem_signal_nbi_block",
        }
    }
}

/// What is sent: `bytes` bytes from `from`, to `to` on another rank; then `flag` there gets
/// `value`. All three addresses are of the own symmetric memory.
#[derive(Clone, Copy)]
pub(crate) struct Put<'k> {
    pub(crate) to: Ptr<'k>,
    pub(crate) from: Ptr<'k>,
    pub(crate) bytes: I64<'k>,
    pub(crate) flag: Ptr<'k>,
    pub(crate) value: I64<'k>,
    /// The rank.
    pub(crate) rank: I32<'k>,
}

/// `(dest, source, bytes, sig_addr, signal, sig_op, pe)`
const PUT_SIGNAL: &str = "!llvm.func<void (ptr, ptr, i64, ptr, i64, i32, i32)>";

impl<'k> Builder<'k> {
    /// Sends without waiting; what is sent must not change until it has arrived.
    pub(crate) fn put_signal(&'k self, callers: Callers, put: Put<'k>) {
        let name = callers.put_signal();
        self.externs.borrow_mut().insert(name);
        let generic = |ptr: Ptr<'k>| -> Value<'k, 'k> {
            self.value("llvm.addrspacecast", &[ptr.raw()], self.types.generic, &[])
        };
        let operands = [
            generic(put.to),
            generic(put.from),
            put.bytes.raw,
            generic(put.flag),
            put.value.raw,
            self.i32(SIGNAL_SET).raw,
            put.rank.raw,
        ];
        let count = operands.len();
        let attributes = [
            ("callee", FlatSymbolRefAttribute::new(self.context, name).into()),
            ("op_bundle_sizes", self.parse("array<i32>")),
            ("operandSegmentSizes", self.parse(&format!("array<i32: {count}, 0>"))),
            ("convergent", self.parse("unit")),
        ];
        self.op("llvm.call", &operands, &[], &attributes);
    }

    /// The declarations of what is called.
    pub(super) fn declarations(&self) -> Vec<melior::ir::Operation<'k>> {
        let declare = |name: &&'static str| {
            let attributes = [
                ("sym_name", StringAttribute::new(self.context, name).into()),
                (
                    "function_type",
                    TypeAttribute::new(super::parse_type(self.context, PUT_SIGNAL)).into(),
                ),
                ("linkage", self.parse("#llvm.linkage<external>")),
                ("convergent", self.parse("unit")),
            ]
            .map(|(name, value)| (self.identifier(name), value));
            OperationBuilder::new("llvm.func", Location::unknown(self.context))
                .add_attributes(&attributes)
                .add_regions([Region::new()])
                .build()
                .unwrap_or_else(|e| super::bug(e))
        };
        self.externs.borrow().iter().map(declare).collect()
    }
}
