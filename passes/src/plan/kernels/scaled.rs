//! Kernels of block-scaled FP8.

use super::{Done, as_batch_of_one, as_rows, with_heads};
use crate::language::Kernel;
use crate::plan::emit::Emitter;
use crate::plan::place::Place;
use moec_ir::kernel::{KernelSpec, Scalar};
use moec_ir::{DType, Diagnostic, Dim, Real, ScaleFormat, TensorType};

/// A row of scales begins at a multiple of this many of them: 16 bytes, as TMA demands of the
/// strides of a tensor (PTX ISA 5.5.1, tensor dimension, size and stride).
const ROW_OF_SCALES: u64 = 4;

/// Results of a kernel that quantises.
struct Quantized {
    /// What was quantised, where something else reads it.
    out: Option<Place>,
    q: Place,
    scale: Place,
}

impl Quantized {
    /// In the order of the kernel's operands.
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.out.iter().chain([&self.q, &self.scale])
    }
}

impl Emitter<'_> {
    /// One launch writes elements and scales, which stand later in the list.
    pub(super) fn quantize(
        &mut self,
        value: usize,
        block: u64,
        format: ScaleFormat,
        operands: &[usize],
    ) -> Done {
        let shape = as_rows(self.ty(value));
        let x = self.operand(operands[0], &shape)?;
        let results = self.quantized(value, block, as_rows)?;
        let Quantized { q, scale, .. } = &results;
        let spec =
            KernelSpec::Quantize { x: x.view(), q: q.view(), scale: scale.view(), block, format };
        self.launch(value, spec, &[&x, q, scale]);
        self.all_written(value)
    }

    pub(super) fn rms_norm_quantize(
        &mut self,
        value: usize,
        eps: Real,
        (block, format): (u64, ScaleFormat),
        operands: &[usize],
    ) -> Done {
        let x = self.operand(operands[0], &with_heads(self.ty(value)))?;
        let weight = self.place(operands[1])?;
        let results = self.quantized(value, block, with_heads)?;
        let spec = KernelSpec::RmsNormQuantize {
            x: x.view(),
            residual: None,
            weight: weight.view(),
            out: results.out.as_ref().map(Place::view),
            q: results.q.view(),
            scale: results.scale.view(),
            eps,
            block,
            format,
        };
        let all: Vec<&Place> = [&x, &weight].into_iter().chain(results.places()).collect();
        self.launch(value, spec, &all);
        self.all_written(value)
    }

    pub(super) fn pointwise_quantize(
        &mut self,
        value: usize,
        code: &[Scalar],
        (block, format): (u64, ScaleFormat),
        operands: &[usize],
    ) -> Done {
        let shape = self.ty(value).shape.clone();
        let inputs = operands.iter().map(|o| Ok(self.place(*o)?.broadcast(&shape)));
        let inputs = inputs.collect::<Result<Vec<Place>, Diagnostic>>()?;
        let results = self.quantized(value, block, |ty| ty.shape.clone())?;
        let spec = KernelSpec::PointwiseQuantize {
            inputs: inputs.iter().map(Place::view).collect(),
            out: results.out.as_ref().map(Place::view),
            q: results.q.view(),
            scale: results.scale.view(),
            code: code.to_vec(),
            block,
            format,
        };
        let all: Vec<&Place> = inputs.iter().chain(results.places()).collect();
        self.launch(value, spec, &all);
        self.all_written(value)
    }

    /// Where the results of a kernel that quantises go, in the shapes that it wants.
    fn quantized(
        &mut self,
        value: usize,
        block: u64,
        shape: impl Fn(&TensorType) -> Vec<Dim>,
    ) -> Result<Quantized, Diagnostic> {
        let [first, second, third] = self.results(value);
        let own = shape(self.ty(value));
        let q = self.target(first.unwrap_or(value), &own)?;
        let out = third.map(|third| self.target(third, &own)).transpose()?;
        let scale = self.scales(value, second, block, shape)?;
        Ok(Quantized { out, q, scale })
    }

    fn all_written(&mut self, value: usize) -> Done {
        self.results(value).into_iter().flatten().try_for_each(|result| self.written(result))
    }

    /// Room for the scales of a quantised value, in the shape that the kernel wants; `second` is
    /// the value that they are.
    fn scales(
        &mut self,
        value: usize,
        second: Option<usize>,
        block: u64,
        wanted: impl Fn(&TensorType) -> Vec<Dim>,
    ) -> Result<Place, Diagnostic> {
        let mut shape = self.ty(value).shape.clone();
        let last = shape.len() - 1;
        let columns = shape[last].constant().ok_or_else(|| self.no_layout(value))?.div_ceil(block);
        shape[last] = Dim::from(columns.next_multiple_of(ROW_OF_SCALES));
        let padded = self.temp(&TensorType::new(DType::F32, shape), value)?;
        let scales = padded.slice(last, 0, columns);
        if let Some(second) = second {
            self.set_place(second, scales.clone());
        }
        let ty = TensorType::new(DType::F32, scales.shape.iter().cloned());
        scales.reshape(&wanted(&ty)).ok_or_else(|| self.no_layout(value))
    }

    /// Products that a tensor core may sum: those of a block, or what the model says.
    fn promote_every(&self, block: [u64; 2]) -> u64 {
        self.cost.promote_every.unwrap_or(block[1])
    }

    pub(super) fn scaled_gemm(
        &mut self,
        value: usize,
        kernel: &Kernel,
        operands: &[usize],
    ) -> Done {
        let at = kernel.scaled(operands.len()).ok_or_else(|| self.no_layout(value))?;
        let shape = as_batch_of_one(self.ty(value));
        let mut read =
            operands.iter().map(|o| self.operand(*o, &as_batch_of_one(&self.ty(*o).clone())));
        let places = read.by_ref().collect::<Result<Vec<Place>, _>>()?;
        let c = self.target(value, &shape)?;
        let spec = KernelSpec::ScaledGemm {
            a: places[0].view(),
            a_scale: at.x_scale.map(|at| places[at].view()),
            w: places[at.w].view(),
            w_scale: places[at.w + 1].view(),
            add: places.get(at.w + 2).map(Place::view),
            c: c.view(),
            block: at.block,
            promote_every: self.promote_every(at.block),
        };
        let all: Vec<&Place> = places.iter().chain([&c]).collect();
        self.launch(value, spec, &all);
        self.written(value)
    }

    pub(super) fn scaled_grouped_gemm(
        &mut self,
        value: usize,
        kernel: &Kernel,
        operands: &[usize],
    ) -> Done {
        let at = kernel.scaled(operands.len()).ok_or_else(|| self.no_layout(value))?;
        let a = self.routed_rows(operands[0])?;
        let a_scale = at.x_scale.map(|at| self.routed_rows(operands[at])).transpose()?;
        let w = self.place(operands[at.w])?;
        let w_scale = self.place(operands[at.w + 1])?;
        let route = self.dense_operand(operands[at.w + 2])?;
        let c = self.target(value, &self.ty(value).shape.clone())?;
        let spec = KernelSpec::ScaledGroupedGemm {
            a: a.view(),
            a_scale: a_scale.as_ref().map(Place::view),
            w: w.view(),
            w_scale: w_scale.view(),
            c: c.view(),
            top_k: at.top_k,
            block: at.block,
            promote_every: self.promote_every(at.block),
        };
        let places: Vec<&Place> =
            [&a].into_iter().chain(&a_scale).chain([&w, &w_scale, &route, &c]).collect();
        self.launch(value, spec, &places);
        self.written(value)
    }
}
