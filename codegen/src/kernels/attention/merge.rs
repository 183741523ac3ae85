//! Results of chunks of keys into one: each weighs what its sum of weights does (flash-decoding).

use crate::builder::{Builder, F32, I32};
use crate::kernels::elements::Grid;
use crate::kernels::{Design, Step};
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

struct Merge {
    partial: View,
    log_sums: View,
    out: View,
    chunks: u64,
    grid: Grid,
    width: u64,
}

/// The design of a `KernelSpec::AttentionMerge`.
pub(in crate::kernels) fn design(
    partial: &View,
    log_sums: &View,
    out: &View,
    step: Step,
) -> Box<dyn Design> {
    let width = vector_width(out).min(4);
    Box::new(Merge {
        partial: partial.clone(),
        log_sums: log_sums.clone(),
        out: out.clone(),
        chunks: partial.shape[1].constant().unwrap_or(1),
        grid: Grid::new(&out.shape, width, step.sizes),
        width,
    })
}

impl Design for Merge {
    fn geometry(&self) -> Geometry {
        self.grid.geometry()
    }

    fn operands(&self) -> usize {
        3
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let partial = Tensor::operand(b, 0, &self.partial).read_only();
        let log_sums = Tensor::operand(b, 1, &self.log_sums).read_only();
        let out = Tensor::operand(b, 2, &self.out);
        self.grid.each(b, |index| {
            let (token, head, column) = (index[0], index[1], index[2]);
            let log_sum = |chunk: I32<'k>| log_sums.load(&[token, chunk, head], 1)[0];
            let (zero, one, chunks) = (b.i32(0), b.i32(1), b.i32(self.chunks));
            let max = b.for_loop(one, chunks, one, log_sum(zero), |chunk, max: F32<'k>| {
                max.max(log_sum(chunk))
            });
            let start = (b.f32(0.0), vec![b.f32(0.0); self.width as usize]);
            let (total, sums) = b.for_loop(zero, chunks, one, start, |chunk, (total, sums)| {
                let weight = (log_sum(chunk) - max).ex2_approx();
                let values = partial.load(&[token, chunk, head, column], self.width);
                let add = |(value, sum): (F32<'k>, F32<'k>)| value.fma(weight, sum);
                (total + weight, values.into_iter().zip(sums).map(add).collect())
            });
            let results: Vec<F32<'k>> = sums.into_iter().map(|sum| sum / total).collect();
            out.store(index, &results);
        });
    }
}
