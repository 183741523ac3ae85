//! One matrix per expert: rows in places of fixed capacity, of which the device knows how many are
//! used.

use super::factors::Factors;
use super::product::{Product, RowOut};
use super::variant::Variant;
use super::{Design, Step, hopper};
use crate::builder::{Builder, I32};
use crate::tensor::Tensor;
use moec_ir::Target;
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

struct MaskedGemm {
    factors: Factors,
    c: View,
    product: Product,
    variant: Variant,
}

pub(super) fn design(
    factors: Factors,
    c: &View,
    expected: u64,
    step: Step,
    target: &Target,
) -> Box<dyn Design> {
    if factors.sum_by_blocks()
        && let Some(design) = hopper::masked(&factors, c, expected, target)
    {
        return Box::new(design);
    }
    let product = Product::new(&factors, None, c);
    let variant = Variant::new(&product, expected, step.sizes);
    Box::new(MaskedGemm { factors, c: c.clone(), product, variant })
}

impl Design for MaskedGemm {
    /// For all rows that there may be; CTAs of rows beyond an expert's count end at once.
    fn geometry(&self) -> Geometry {
        let [experts, capacity, n] = [0, 1, 2].map(|axis| self.c.shape[axis].clone());
        let (rows, columns) = (self.variant.rows(), self.variant.columns());
        super::launch(&[(capacity, rows), (n, columns), (experts, 1)], self.variant.threads())
    }

    fn operands(&self) -> usize {
        self.factors.operands() + 2
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let factors = self.factors.bind(b);
        let expert = b.cta(2);
        let count = b.operand(self.factors.operands()).read_only().index(expert, 4);
        let count = count.load_scalar::<i32>().min(b.size(&self.c.shape[1]));
        let c = Tensor::operand(b, self.operands() - 1, &self.c);
        let first = b.cta(0) * self.variant.rows() as i32;
        let row_of_a = |row: I32<'k>| factors.a.at(&[expert, (first + row).min(count - 1)]);
        let out = |row: I32<'k>| {
            let row = first + row;
            RowOut { exists: row.lt(count), c: c.at(&[expert, row]), add: None }
        };
        b.if_(first.lt(count), || {
            let weights = factors.w.at(&[expert]);
            self.variant.body(b, &self.product, b.cta(1), &row_of_a, weights, &out);
        });
    }
}
