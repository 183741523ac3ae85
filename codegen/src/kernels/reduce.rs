//! Reductions of rows: a number per row (`reduce`), or the row's softmax.

use super::rows::Team;
use super::{Design, Step};
use crate::builder::{Builder, F32};
use crate::tensor::{Tensor, vector_width};
use moec_ir::graph::ReduceFn;
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

struct Rows {
    x: View,
    out: View,
    what: What,
    team: Team,
    width: u64,
}

enum What {
    Reduce(ReduceFn),
    Softmax,
}

/// `[R, N] -> [R, 1]`.
pub(super) fn reduce(x: &View, out: &View, f: ReduceFn, step: Step) -> Box<dyn Design> {
    Box::new(Rows::new(x, out, What::Reduce(f), vector_width(x), step))
}

/// `[R, N] -> [R, N]`.
pub(super) fn softmax(x: &View, out: &View, step: Step) -> Box<dyn Design> {
    let width = vector_width(x).min(vector_width(out));
    Box::new(Rows::new(x, out, What::Softmax, width, step))
}

impl Rows {
    fn new(x: &View, out: &View, what: What, width: u64, step: Step) -> Self {
        let team = Team::new(x.shape[0].clone(), &x.shape[1], width, step.sizes);
        Self { x: x.clone(), out: out.clone(), what, team, width }
    }
}

impl Design for Rows {
    fn geometry(&self) -> Geometry {
        self.team.geometry()
    }

    fn operands(&self) -> usize {
        2
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let x = Tensor::operand(b, 0, &self.x);
        let out = Tensor::operand(b, 1, &self.out);
        let add = |p: F32<'k>, q: F32<'k>| p + q;
        self.team.for_row(b, |row| {
            let elements = row.elements(|at| x.load(&[row.index, at], self.width));
            let greatest = |elements: &super::rows::Elements<'k, '_>| {
                let low = b.f32(f32::NEG_INFINITY);
                row.combine(elements.fold(low, F32::max), f32::NEG_INFINITY, F32::max)
            };
            let f = match self.what {
                What::Reduce(f) => f,
                What::Softmax => {
                    // The greatest is subtracted so that no exponential overflows.
                    let top = greatest(&elements);
                    let powers = elements.map(move |x| (x - top).exp());
                    let share = b.f32(1.0) / row.combine(powers.fold(b.f32(0.0), add), 0.0, add);
                    powers.each(|at, values| {
                        let shares: Vec<_> = values.iter().map(|&v| v * share).collect();
                        out.store(&[row.index, at], &shares);
                    });
                    return;
                }
            };
            let result = match f {
                ReduceFn::Max => greatest(&elements),
                ReduceFn::Sum | ReduceFn::Mean => {
                    let sum = row.combine(elements.fold(b.f32(0.0), add), 0.0, add);
                    let n = b.size(&self.x.shape[1]).to_f32();
                    if f == ReduceFn::Mean { sum / n } else { sum }
                }
            };
            b.if_(row.is_first_thread(), || out.store(&[row.index, b.i32(0)], &[result]));
        });
    }
}
