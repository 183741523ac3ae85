//! `c = a * wᵀ (+ add)`, batched over heads; of plain numbers or of FP8 with scales.

use super::factors::Factors;
use super::product::{Product, RowOut};
use super::variant::{FEW_ROWS, Variant};
use super::{Design, Step, hopper};
use crate::builder::{Builder, I32};
use crate::tensor::Tensor;
use moec_ir::Target;
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

struct Gemm {
    factors: Factors,
    add: Option<View>,
    c: View,
    product: Product,
    variant: Variant,
}

pub(super) fn design(
    factors: Factors,
    add: Option<&View>,
    c: &View,
    step: Step,
    target: &Target,
) -> Box<dyn Design> {
    let rows = c.shape[1].eval(&step.sizes);
    if rows > FEW_ROWS
        && let Some(design) = hopper::design(&factors, add, c, step, target)
    {
        return Box::new(design);
    }
    let product = Product::new(&factors, add, c);
    let variant = Variant::new(&product, rows, step.sizes);
    Box::new(Gemm { factors, add: add.cloned(), c: c.clone(), product, variant })
}

impl Design for Gemm {
    /// Rows along x, so that CTAs that read the same weights are neighbours.
    fn geometry(&self) -> Geometry {
        let [batch, m, n] = [0, 1, 2].map(|axis| self.c.shape[axis].clone());
        let (rows, columns) = (self.variant.rows(), self.variant.columns());
        super::launch(&[(m, rows), (n, columns), (batch, 1)], self.variant.threads())
    }

    fn operands(&self) -> usize {
        self.factors.operands() + 1 + usize::from(self.add.is_some())
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let factors = self.factors.bind(b);
        let add_at = self.factors.operands();
        let add = self.add.as_ref().map(|view| Tensor::operand(b, add_at, view));
        let c = Tensor::operand(b, self.operands() - 1, &self.c);
        let (batch, m) = (b.cta(2), b.size(&self.c.shape[1]));
        let first = b.cta(0) * self.variant.rows() as i32;
        let row_of_a = |row: I32<'k>| factors.a.at(&[batch, (first + row).min(m - 1)]);
        let out = |row: I32<'k>| {
            let row = first + row;
            RowOut {
                exists: row.lt(m),
                c: c.at(&[batch, row]),
                add: add.as_ref().map(|add| add.at(&[batch, row])),
            }
        };
        let w = factors.w.at(&[batch]);
        self.variant.body(b, &self.product, b.cta(1), &row_of_a, w, &out);
    }
}
