//! `c = a * wᵀ (+ add)`, batched over heads.

use super::product::{Product, RowOut};
use super::variant::Variant;
use super::{Design, Step};
use crate::builder::{Builder, I32};
use crate::tensor::Tensor;
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

struct Gemm {
    a: View,
    w: View,
    add: Option<View>,
    c: View,
    product: Product,
    variant: Variant,
}

pub(super) fn design(
    a: &View,
    w: &View,
    add: Option<&View>,
    c: &View,
    step: Step,
) -> Box<dyn Design> {
    let product = Product::new(a, w, add, c);
    let variant = Variant::new(&product, c.shape[1].eval(&step.sizes), step.sizes);
    let (a, w, add, c) = (a.clone(), w.clone(), add.cloned(), c.clone());
    Box::new(Gemm { a, w, add, c, product, variant })
}

impl Design for Gemm {
    /// Rows along x, so that CTAs that read the same weights are neighbours.
    fn geometry(&self) -> Geometry {
        let [batch, m, n] = [0, 1, 2].map(|axis| self.c.shape[axis].clone());
        let (rows, columns) = (self.variant.rows(), self.variant.columns());
        super::launch(&[(m, rows), (n, columns), (batch, 1)], self.variant.threads())
    }

    fn operands(&self) -> usize {
        3 + usize::from(self.add.is_some())
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let a = Tensor::operand(b, 0, &self.a).read_only();
        let w = Tensor::operand(b, 1, &self.w).read_only();
        let add = self.add.as_ref().map(|view| Tensor::operand(b, 2, view));
        let c = Tensor::operand(b, self.operands() - 1, &self.c);
        let (batch, m) = (b.cta(2), b.size(&self.c.shape[1]));
        let first = b.cta(0) * self.variant.rows() as i32;
        let row_of_a = |row: I32<'k>| a.at(&[batch, (first + row).min(m - 1)]);
        let out = |row: I32<'k>| {
            let row = first + row;
            RowOut {
                exists: row.lt(m),
                c: c.at(&[batch, row]),
                add: add.as_ref().map(|add| add.at(&[batch, row])),
            }
        };
        self.variant.body(b, &self.product, b.cta(1), &row_of_a, w.at(&[batch]), &out);
    }
}
