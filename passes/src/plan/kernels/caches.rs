//! Kernels that write and read caches.

use super::{Done, UNKNOWN_ROWS, as_rows, step};
use crate::language::Term;
use crate::plan::emit::Emitter;
use crate::plan::place::{Place, Root};
use moec_ir::graph::{PackedLayout, PackedRow, Rotary};
use moec_ir::kernel::{KernelSpec, PackedParts};
use moec_ir::plan::StepInput;
use moec_ir::{DType, Diagnostic, Dim, Op, Real, ScaleFormat, TensorType};

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
        let (cache, packed) = match self.packed_behind(&whole) {
            Some(places) => {
                let (latent, scale, key) = places.parts();
                (latent, Some([scale, key]))
            }
            None => (cache, None),
        };
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
            packed: packed
                .as_ref()
                .map(|[scale, key]| PackedParts { scale: scale.view(), key: key.view() }),
        };
        let turns = self.turns(rotary);
        let [positions, slots] = [StepInput::Positions, StepInput::Slots].map(step);
        let all = [&latent, &weight, &key, &turns, &positions, &slots, &cache];
        let all: Vec<&Place> = all.into_iter().chain(packed.iter().flatten()).collect();
        self.launch(value, spec, &all);
        self.set_place(value, whole);
        Ok(())
    }

    pub(super) fn gather_past(&mut self, value: usize, operands: &[usize]) -> Done {
        let Root::Cache(cache) = self.place(operands[0])?.root else {
            unreachable!("bug in moec: rows are gathered from something that is not a cache")
        };
        if let Some(places) = self.packed(cache) {
            return self.gather_latent(value, &places);
        }
        let ty = self.ty(value).clone();
        let table = self.cache_rows(cache, &ty)?;
        let out = self.target(value, &[ty.shape[0].clone(), table.shape[1].clone()])?;
        let spec = KernelSpec::Gather { table: table.view(), out: out.view() };
        self.launch(value, spec, &[&table, &step(StepInput::PastSlots), &out]);
        self.written(value)
    }
}

/// Where the parts of the rows of a packed cache lie.
pub(super) struct PackedPlaces {
    packed: PackedRow,
    layout: PackedLayout,
    cache: usize,
    /// Type of the keys.
    dtype: DType,
}

impl PackedPlaces {
    /// Columns of all rows: `len` elements of a type, from a byte on.
    fn columns(&self, dtype: DType, len: u64, at: u64) -> Place {
        let shape = vec![UNKNOWN_ROWS.into(), len.into()];
        let strides = vec![self.layout.bytes / dtype.bytes(), u64::from(len > 1)];
        Place { root: Root::Cache(self.cache), offset: at, dtype, shape, strides }
    }

    fn latent(&self) -> Place {
        self.columns(DType::F8e4m3, self.packed.latent, 0)
    }

    fn scale(&self) -> Place {
        self.columns(DType::F32, self.layout.n_scales, self.layout.scales_at)
    }

    fn key(&self) -> Place {
        self.columns(self.dtype, self.layout.key, self.layout.key_at)
    }

    /// Latent, scale and key.
    fn parts(&self) -> (Place, Place, Place) {
        (self.latent(), self.scale(), self.key())
    }

    /// The scales as attention reads them.
    pub(super) fn quantized(&self) -> (Place, u64, ScaleFormat) {
        (self.scale(), self.packed.block, self.packed.scales)
    }

    /// What lies in memory of a view `[S, H, d]` on rows as they would lie unpacked; whether it is
    /// the latent. `None` where it is neither that nor the key.
    pub(super) fn seen(&self, view: &Place) -> Option<(Place, bool)> {
        let len = view.shape.last()?.constant()?;
        let (latent, key) = (self.packed.latent, self.layout.key);
        let column = view.offset / view.dtype.bytes();
        let (part, is_latent) = match (column, len) {
            (0, n) if n == latent => (self.latent(), true),
            (at, n) if at == latent && n == key => (self.key(), false),
            _ => return None,
        };
        let one_head = view.strides[1] == 0 && view.shape.len() == 3;
        let strides = vec![part.strides[0], 0, part.strides[1]];
        one_head.then(|| (Place { shape: view.shape.clone(), strides, ..part }, is_latent))
    }
}

impl Emitter<'_> {
    /// The parts of the packed cache that a place is in.
    pub(super) fn packed_behind(&self, place: &Place) -> Option<PackedPlaces> {
        match place.root {
            Root::Cache(cache) => self.packed(cache),
            _ => None,
        }
    }

    /// The parts of a packed cache; `None` where rows lie as they are.
    pub(super) fn packed(&self, cache: usize) -> Option<PackedPlaces> {
        let cache_of = self.function.caches.get(cache)?;
        let packed = cache_of.packed?;
        let layout = packed.layout(&cache_of.ty)?;
        Some(PackedPlaces { packed, layout, cache, dtype: cache_of.ty.dtype })
    }

    /// Takes the rows of a packed cache out of it.
    fn gather_latent(&mut self, value: usize, places: &PackedPlaces) -> Done {
        let (latent, scale, key) = places.parts();
        let ty = self.ty(value).clone();
        let row = Dim::product(&ty.shape[1..]);
        let out = self.target(value, &[ty.shape[0].clone(), row])?;
        let spec = KernelSpec::GatherLatent {
            latent: latent.view(),
            packed: PackedParts { scale: scale.view(), key: key.view() },
            out: out.view(),
            block: places.packed.block,
        };
        let all = [&latent, &scale, &key, &step(StepInput::PastSlots), &out];
        self.launch(value, spec, &all);
        self.written(value)
    }
}
