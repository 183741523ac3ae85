//! `out[t, n] = sum_j y[t, j, n] * weight[t, j] (+ adds)`: the experts' outputs, weighted
//! (DeepSeek-V3 2.1.2, equation 12).

use super::elements::Grid;
use super::{Design, Step};
use crate::builder::{Builder, F32, I32};
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

struct Combine {
    y: View,
    weight: View,
    adds: Vec<View>,
    out: View,
    grid: Grid,
    width: u64,
}

/// Sums of up to this many terms are unrolled.
const UNROLLED: u64 = 16;

pub(super) fn design(
    y: &View,
    weight: &View,
    adds: &[View],
    out: &View,
    step: Step,
) -> Box<dyn Design> {
    let width = vector_width(out).min(8);
    let grid = Grid::new(&out.shape, width, step.sizes);
    Box::new(Combine {
        y: y.clone(),
        weight: weight.clone(),
        adds: adds.to_vec(),
        out: out.clone(),
        grid,
        width,
    })
}

impl Design for Combine {
    fn geometry(&self) -> Geometry {
        self.grid.geometry()
    }

    fn operands(&self) -> usize {
        3 + self.adds.len()
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let y = Tensor::operand(b, 0, &self.y);
        let weight = Tensor::operand(b, 1, &self.weight);
        self.grid.each(b, |index| {
            let (t, n) = (index[0], index[1]);
            let term = |j: I32<'k>, share: F32<'k>, sums: Vec<F32<'k>>| -> Vec<F32<'k>> {
                let values = y.load(&[t, j, n], self.width);
                values.into_iter().zip(sums).map(|(v, sum)| v.fma(share, sum)).collect()
            };
            let zeros = vec![b.f32(0.0); self.width as usize];
            let sums = match self.y.shape[1].constant().filter(|&k| k <= UNROLLED) {
                Some(k) => {
                    // A token's weights lie side by side, and all of its threads read them.
                    let shares = weight.load(&[t, b.i32(0)], k);
                    (0..).zip(shares).fold(zeros, |sums, (j, share)| term(b.i32(j), share, sums))
                }
                None => {
                    let k = b.size(&self.y.shape[1]);
                    b.for_loop(b.i32(0), k, b.i32(1), zeros, |j, sums| {
                        term(j, weight.load(&[t, j], 1)[0], sums)
                    })
                }
            };
            let sums = self.adds.iter().enumerate().fold(sums, |sums, (i, view)| {
                let added = Tensor::operand(b, 2 + i, view).load(index, self.width);
                sums.into_iter().zip(added).map(|(sum, x)| sum + x).collect()
            });
            Tensor::operand(b, self.operands() - 1, &self.out).store(index, &sums);
        });
    }
}
