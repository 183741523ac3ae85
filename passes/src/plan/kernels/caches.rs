//! Kernels that write and read caches.

use super::{Done, UNKNOWN_ROWS, as_rows, step};
use crate::language::Term;
use crate::plan::emit::Emitter;
use crate::plan::place::{Place, Root};
use moec_ir::graph::Rotary;
use moec_ir::kernel::KernelSpec;
use moec_ir::plan::StepInput;
use moec_ir::{Diagnostic, Dim, Op, Real, ScaleFormat, TensorType};

impl Emitter<'_> {
    /// The cache that a value of this type lies in, as rows of unknown number.
    fn cache_rows(&self, cache: usize, ty: &TensorType) -> Result<Place, Diagnostic> {
        let row = Dim::product(&ty.shape[1..]);
        let rows =
            TensorType::new(self.function.caches[cache].ty.dtype, [UNKNOWN_ROWS.into(), row]);
        Place::dense(Root::Cache(cache), &rows).ok_or_else(|| {
            Diagnostic::error("E0803", format!("the cache of {ty} has rows of unknown size"))
        })
    }

    /// The rows of the cache to which a value appends, and the place of the value.
    fn appended(&self, value: usize, cache: usize) -> Result<(Place, Place), Diagnostic> {
        let Term::Math(Op::Cache(cache)) = self.extracted.values[cache].node.term else {
            unreachable!("bug in moec: rows are appended to something that is not a cache")
        };
        let ty = self.ty(value);
        let table = self.cache_rows(cache, ty)?;
        let whole = self.dense(Root::Cache(cache), ty, value)?;
        let whole = Place { dtype: table.dtype, ..whole };
        Ok((table, whole))
    }

    pub(super) fn scatter(&mut self, value: usize, operands: &[usize]) -> Done {
        let (table, whole) = self.appended(value, operands[0])?;
        let x = self.operand(
            operands[1],
            &[self.ty(operands[1]).shape[0].clone(), table.shape[1].clone()],
        )?;
        let spec = KernelSpec::Scatter { x: x.view(), table: table.view() };
        self.launch(value, spec, &[&x, &step(StepInput::Slots), &table]);
        self.set_place(value, whole);
        Ok(())
    }

    /// Latent and key are normed and rotated on their way into the cache.
    pub(super) fn append_latent(
        &mut self,
        value: usize,
        eps: Real,
        rotary: Rotary,
        rounded: Option<(u64, ScaleFormat)>,
        operands: &[usize],
    ) -> Done {
        let (cache, whole) = self.appended(value, operands[0])?;
        let latent = self.operand(operands[1], &as_rows(&self.ty(operands[1]).clone()))?;
        let weight = self.place(operands[2])?;
        let key = self.operand(operands[3], &as_rows(&self.ty(operands[3]).clone()))?;
        let spec = KernelSpec::AppendLatent {
            latent: latent.view(),
            weight: weight.view(),
            key: key.view(),
            cache: cache.view(),
            eps,
            interleaved: rotary.interleaved,
            rounded,
        };
        let turns = self.turns(rotary);
        let [positions, slots] = [StepInput::Positions, StepInput::Slots].map(step);
        let all = [&latent, &weight, &key, &turns, &positions, &slots, &cache];
        self.launch(value, spec, &all);
        self.set_place(value, whole);
        Ok(())
    }

    pub(super) fn gather_past(&mut self, value: usize, operands: &[usize]) -> Done {
        let Root::Cache(cache) = self.place(operands[0])?.root else {
            unreachable!("bug in moec: rows are gathered from something that is not a cache")
        };
        let ty = self.ty(value).clone();
        let table = self.cache_rows(cache, &ty)?;
        let out = self.target(value, &[ty.shape[0].clone(), table.shape[1].clone()])?;
        let spec = KernelSpec::Gather { table: table.view(), out: out.view() };
        self.launch(value, spec, &[&table, &step(StepInput::PastSlots), &out]);
        self.written(value)
    }
}
