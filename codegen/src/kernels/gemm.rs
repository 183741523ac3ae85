//! `c = a * wᵀ (+ add)`, batched over heads.

use super::lanes::Lanes;
use super::product::{Product, RowOut};
use super::tiles::Tile;
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

enum Variant {
    Few(Lanes),
    Many(Tile),
}

/// With more rows than this, tiles through shared memory take fewer instructions.
const FEW_ROWS: u64 = 8;

pub(super) fn design(
    a: &View,
    w: &View,
    add: Option<&View>,
    c: &View,
    step: Step,
) -> Box<dyn Design> {
    let product = Product::new(a, w, add, c);
    let rows = c.shape[1].eval(&step.sizes);
    let variant = if rows <= FEW_ROWS {
        Variant::Few(Lanes::new(&product, rows, step.sizes))
    } else {
        Variant::Many(Tile::new(&product, rows, step.sizes))
    };
    Box::new(Gemm { a: a.clone(), w: w.clone(), add: add.cloned(), c: c.clone(), product, variant })
}

impl Design for Gemm {
    /// Rows along x, so that CTAs that read the same weights are neighbours.
    fn geometry(&self) -> Geometry {
        let (rows, columns, threads) = match &self.variant {
            Variant::Few(lanes) => (lanes.rows, lanes.columns_per_cta(), lanes.threads),
            Variant::Many(tile) => (tile.rows, tile.columns, tile.threads()),
        };
        let [batch, m, n] = [0, 1, 2].map(|axis| self.c.shape[axis].clone());
        super::launch(&[(m, rows), (n, columns), (batch, 1)], threads)
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
        let weights = w.at(&[batch]);
        let out = |row: I32<'k>| RowOut {
            exists: row.lt(m),
            c: c.at(&[batch, row]),
            add: add.as_ref().map(|add| add.at(&[batch, row])),
        };
        let row_of_a = |row: I32<'k>| a.at(&[batch, row.min(m - 1)]);
        match &self.variant {
            Variant::Few(lanes) => {
                let first = b.cta(0) * lanes.rows as i32;
                let rows: Vec<_> = (0..lanes.rows).map(|i| row_of_a(first + b.i32(i))).collect();
                lanes.body(b, &self.product, b.cta(1), &rows, weights, &|row| out(first + row));
            }
            Variant::Many(tile) => {
                let first = b.cta(0) * tile.rows as i32;
                let a = |row| row_of_a(first + row);
                tile.body(b, &self.product, b.cta(1), &a, weights, &|row| out(first + row));
            }
        }
    }
}
