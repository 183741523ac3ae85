//! `out = s / sqrt(mean(s²) + eps) * weight`, `s = x` or `x + residual`, rounded where kept
//! (RMSNorm: Zhang and Sennrich, arXiv 1910.07467).

use super::rows::{Elements, Row, Team};
use super::{Design, Step};
use crate::builder::{Builder, F32};
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;
use moec_ir::{Dim, Real};

struct RmsNorm {
    x: View,
    residual: Option<(View, View)>,
    weight: View,
    out: View,
    eps: Real,
    team: Team,
    width: u64,
}

pub(super) fn design(
    x: &View,
    residual: Option<&(View, View)>,
    weight: &View,
    out: &View,
    eps: Real,
    step: Step,
) -> Box<dyn Design> {
    let kept = residual.into_iter().flat_map(|(r, s)| [r, s]);
    let width = [x, weight, out].into_iter().chain(kept).map(vector_width).min().unwrap_or(1);
    let rows = Dim::product(&out.shape[..2]);
    let team = Team::new(rows, &out.shape[2], width, step.sizes);
    Box::new(RmsNorm {
        x: x.clone(),
        residual: residual.cloned(),
        weight: weight.clone(),
        out: out.clone(),
        eps,
        team,
        width,
    })
}

impl Design for RmsNorm {
    fn geometry(&self) -> Geometry {
        self.team.geometry()
    }

    fn operands(&self) -> usize {
        3 + if self.residual.is_some() { 2 } else { 0 }
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let weight_at = self.operands() - 2;
        let x = Tensor::operand(b, 0, &self.x);
        let weight = Tensor::operand(b, weight_at, &self.weight).read_only();
        let out = Tensor::operand(b, weight_at + 1, &self.out);
        let fused = self
            .residual
            .as_ref()
            .map(|(residual, sum)| (Tensor::operand(b, 1, residual), Tensor::operand(b, 2, sum)));
        self.team.for_row(b, |row| {
            let heads = b.size(&self.out.shape[1]);
            let (r, h) = (row.index / heads, row.index % heads);
            let width = self.width;
            let elements = row
                .elements(|at| {
                    let values = x.load(&[r, h, at], width);
                    match &fused {
                        None => values,
                        Some((residual, sum)) => {
                            let add = residual.load(&[r, h, at], width);
                            add_and_keep(sum, &[r, h, at], &values, &add)
                        }
                    }
                })
                .then_read(|at| {
                    let kept = fused.as_ref().map_or(&x, |(_, sum)| sum);
                    kept.load(&[r, h, at], width)
                });
            let factor = factor(row, &elements, &self.out.shape[2], self.eps);
            elements.each(|at, values| {
                let weights = weight.load(&[at], width);
                let scaled: Vec<F32<'k>> =
                    values.iter().zip(weights).map(|(&s, w)| s * factor * w).collect();
                out.store(&[r, h, at], &scaled);
            });
        });
    }
}

/// What the elements of a row of `len` are multiplied with, beside their weights.
pub(super) fn factor<'k>(
    row: Row<'k>,
    elements: &Elements<'k, '_>,
    len: &Dim,
    eps: Real,
) -> F32<'k> {
    let b = row.b;
    let squares = elements.fold(b.f32(0.0), |acc, s| s.fma(s, acc));
    let total = row.combine(squares, 0.0, |p, q| p + q);
    (total / b.size(len).to_f32() + eps.0 as f32).rsqrt_approx()
}

/// Adds, stores the sums and returns them as they were rounded.
pub(super) fn add_and_keep<'k>(
    sum: &Tensor<'k>,
    index: &[crate::builder::I32<'k>],
    values: &[F32<'k>],
    add: &[F32<'k>],
) -> Vec<F32<'k>> {
    let sums: Vec<_> = values.iter().zip(add).map(|(&x, &y)| x + y).collect();
    sum.store(index, &sums);
    sums.into_iter().map(|s| s.rounded(sum.dtype())).collect()
}
