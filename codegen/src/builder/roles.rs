//! What warps of one CTA need to play different parts.

use super::memory::Space;
use super::{Bool, Builder, I32, Ptr, Val};
use melior::ir::attribute::FlatSymbolRefAttribute;

impl<'k> Builder<'k> {
    /// Lowers the registers that a thread of this warpgroup may use to `count`:
    /// `setmaxnreg.dec` (PTX ISA 9.7.19.5).
    pub(crate) fn give_registers(&'k self, count: u32) {
        self.assembly(&format!("setmaxnreg.dec.sync.aligned.u32 {count};"), "", &[], &[]);
    }

    /// Raises the registers that a thread of this warpgroup may use to `count`, once others have
    /// given as many: `setmaxnreg.inc` (PTX ISA 9.7.19.5).
    pub(crate) fn take_registers(&'k self, count: u32) {
        self.assembly(&format!("setmaxnreg.inc.sync.aligned.u32 {count};"), "", &[], &[]);
    }

    /// The warpgroup's index within its CTA, in a register that all lanes visibly share: what
    /// depends on it alone is computed once per warp.
    pub(crate) fn warpgroup(&'k self) -> I32<'k> {
        (self.thread() / 128).shuffle_from(self.i32(0))
    }

    /// Whether this lane is the one that acts for its warp: `elect.sync` (PTX ISA 9.7.13.14).
    pub(crate) fn elected(&'k self) -> Bool<'k> {
        let text = "{ .reg .pred p; elect.sync _|p, -1; selp.b32 $0, 1, 0, p; }";
        self.assembly_word::<i32>(text, "=r", &[]).ne(self.i32(0))
    }

    /// The first address of the dynamic shared memory, a multiple of 1024, in the window of
    /// shared memory.
    pub(crate) fn dynamic_shared(&'k self) -> I32<'k> {
        let raw = self.dynamic_shared_ptr().raw();
        Val::new(self, self.value("llvm.ptrtoint", &[raw], self.types.i32, &[]))
    }

    /// The same as a pointer.
    pub(crate) fn dynamic_shared_ptr(&'k self) -> Ptr<'k> {
        self.dynamic_shared.set(true);
        let symbol = FlatSymbolRefAttribute::new(self.context, &self.dynamic_shared_name());
        let attributes = [("global_name", symbol.into())];
        let raw = self.value("llvm.mlir.addressof", &[], self.types.shared, &attributes);
        Ptr::new(self, raw, Space::Shared)
    }
}
