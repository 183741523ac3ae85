//! Kernels of block-scaled FP8.

use super::{Done, as_batch_of_one, as_rows};
use crate::plan::emit::Emitter;
use crate::plan::place::Place;
use moec_ir::kernel::KernelSpec;
use moec_ir::{DType, Diagnostic, Dim, ScaleFormat, TensorType};

/// A row of scales begins at a multiple of this many of them: 16 bytes, as TMA demands of the
/// strides of a tensor (PTX ISA 5.5.1, tensor dimension, size and stride).
const ROW_OF_SCALES: u64 = 4;

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
        let (first, second) = self.results(value);
        let q = self.target(first.unwrap_or(value), &shape)?;
        let scale = self.scales(value, second, block)?;
        let spec =
            KernelSpec::Quantize { x: x.view(), q: q.view(), scale: scale.view(), block, format };
        self.launch(value, spec, &[&x, &q, &scale]);
        for written in first.into_iter().chain(second) {
            self.written(written)?;
        }
        Ok(())
    }

    /// Room for the scales of a quantised value, as rows; `second` is the value that they are.
    fn scales(
        &mut self,
        value: usize,
        second: Option<usize>,
        block: u64,
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
        scales.reshape(&as_rows(&ty)).ok_or_else(|| self.no_layout(value))
    }

    pub(super) fn scaled_gemm(
        &mut self,
        value: usize,
        block: [u64; 2],
        operands: &[usize],
    ) -> Done {
        let shape = as_batch_of_one(self.ty(value));
        let mut read =
            operands.iter().map(|o| self.operand(*o, &as_batch_of_one(&self.ty(*o).clone())));
        let places = read.by_ref().collect::<Result<Vec<Place>, _>>()?;
        let c = self.target(value, &shape)?;
        let spec = KernelSpec::ScaledGemm {
            a: places[0].view(),
            a_scale: places[1].view(),
            w: places[2].view(),
            w_scale: places[3].view(),
            add: places.get(4).map(Place::view),
            c: c.view(),
            block,
            promote_every: block[1],
        };
        let all: Vec<&Place> = places.iter().chain([&c]).collect();
        self.launch(value, spec, &all);
        self.written(value)
    }

    pub(super) fn scaled_grouped_gemm(
        &mut self,
        value: usize,
        top_k: u64,
        block: [u64; 2],
        operands: &[usize],
    ) -> Done {
        let a = self.routed_rows(operands[0])?;
        let a_scale = self.routed_rows(operands[1])?;
        let w = self.place(operands[2])?;
        let w_scale = self.place(operands[3])?;
        let route = self.dense_operand(operands[4])?;
        let c = self.target(value, &self.ty(value).shape.clone())?;
        let spec = KernelSpec::ScaledGroupedGemm {
            a: a.view(),
            a_scale: a_scale.view(),
            w: w.view(),
            w_scale: w_scale.view(),
            c: c.view(),
            top_k,
            block,
            promote_every: block[1],
        };
        self.launch(value, spec, &[&a, &a_scale, &w, &w_scale, &route, &c]);
        self.written(value)
    }
}
