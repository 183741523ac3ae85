//! Order between the accesses of threads that do not meet at a barrier: of other CTAs, of other
//! GPUs (PTX ISA 8, "Memory Consistency Model").
//!
//! A thread that releases a flag makes seen all that it has stored, and all that it has seen of
//! others' stores: at a barrier, by acquiring. They are inline assembly: LLVM 22 drops `.release`
//! and `.sys` from its own atomics on the way to PTX.

use super::value::Scalar;
use super::{Builder, I32, I64, Ptr, Val};

/// Among which threads accesses are ordered (PTX ISA 8.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those of this GPU.
    Gpu,
    /// Those of all GPUs and of the host.
    System,
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::System => "sys",
        }
    }
}

impl<'k> Ptr<'k> {
    /// Waits until the flag of 8 bytes has that value: `ld.acquire` (PTX ISA 9.7.9.8).
    pub(crate) fn wait_acquire(self, value: I64<'k>, scope: Scope) {
        let text = format!(
            "{{ .reg .pred p; .reg .b64 seen; again: ld.acquire.{}.global.b64 seen, [$0]; \
             setp.ne.b64 p, seen, $1; @p bra again; }}",
            scope.name()
        );
        self.builder().assembly(&text, "l,l,~{memory}", &[self.raw(), value.raw], &[]);
    }

    /// Sets a flag of 8 bytes: `st.release` (PTX ISA 9.7.9.12).
    pub(crate) fn store_release(self, value: I64<'k>, scope: Scope) {
        let text = format!("st.release.{}.global.b64 [$0], $1;", scope.name());
        self.builder().assembly(&text, "l,l,~{memory}", &[self.raw(), value.raw], &[]);
    }

    /// Adds to an integer of 4 bytes, in order with what was done before and is done after, for
    /// all threads of this GPU; the old value: `atom.acq_rel.gpu.add` (PTX ISA 9.7.13.5).
    pub(crate) fn add_acquire_release(self, value: I32<'k>) -> I32<'k> {
        let text = "atom.acq_rel.gpu.global.add.u32 $0, [$1], $2;";
        self.builder().assembly_word(text, "=r,l,r,~{memory}", &[self.raw(), value.raw])
    }

    /// The same place in the memory of a rank that is that far away.
    pub(crate) fn of_peer(self, distance: I64<'k>) -> Self {
        let b = self.builder();
        let address: I64<'k> =
            Val::new(b, b.value("llvm.ptrtoint", &[self.raw()], i64::mlir(b), &[]));
        let address = address + distance;
        Ptr::global(b, b.value("llvm.inttoptr", &[address.raw], b.types.global, &[]))
    }
}

impl<'k> Builder<'k> {
    /// Orders this thread's accesses before it with those after it, for all GPUs:
    /// `fence.acq_rel.sys` (PTX ISA 9.7.13.4).
    pub(crate) fn fence_system(&'k self) {
        self.assembly("fence.acq_rel.sys;", "~{memory}", &[], &[]);
    }

    /// Ends the kernel as a mistake where the condition holds: `trap` (PTX ISA 9.7.19.4).
    pub(crate) fn trap_if(&'k self, condition: super::Bool<'k>) {
        self.if_(condition, || {
            self.assembly("trap;", "~{memory}", &[], &[]);
        });
    }

    /// A line for people in the generated code.
    pub(crate) fn note(&'k self, text: &str) {
        self.assembly(&format!("// {text}"), "~{memory}", &[], &[]);
    }
}
