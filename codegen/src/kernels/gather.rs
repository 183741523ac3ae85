//! Rows taken from a table (`gather`) and put into one (`scatter`) by index.

use super::elements::Grid;
use super::{Design, Step};
use crate::builder::Builder;
use crate::tensor::{Tensor, vector_width};
use moec_ir::DType;
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

/// `dense[r, ..]` and `table[index[r], ..]`, one copied to the other.
struct Rows {
    dense: View,
    table: View,
    from_table: bool,
    grid: Grid,
    width: u64,
}

/// `out[r, ..] = table[index[r], ..]`.
pub(super) fn gather(table: &View, out: &View, step: Step) -> Box<dyn Design> {
    Box::new(Rows::new(out, table, true, step))
}

/// `table[index[r], ..] = x[r, ..]`.
pub(super) fn scatter(x: &View, table: &View, step: Step) -> Box<dyn Design> {
    Box::new(Rows::new(x, table, false, step))
}

impl Rows {
    fn new(dense: &View, table: &View, from_table: bool, step: Step) -> Self {
        let (mut dense, mut table) = (dense.clone(), table.clone());
        if dense.dtype == DType::I32 && table.dtype == DType::I32 {
            // Integers are moved as they are; float32 would hold 24 bits of them.
            (dense.dtype, table.dtype) = (DType::F32, DType::F32);
        }
        let width = vector_width(&dense).min(vector_width(&table)).min(8);
        let grid = Grid::new(&dense.shape, width, step.sizes);
        Self { dense, table, from_table, grid, width }
    }
}

impl Design for Rows {
    fn geometry(&self) -> Geometry {
        self.grid.geometry()
    }

    fn operands(&self) -> usize {
        3
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let (dense_at, table_at) = if self.from_table { (2, 0) } else { (0, 2) };
        let dense = Tensor::operand(b, dense_at, &self.dense);
        let table = Tensor::operand(b, table_at, &self.table);
        let rows = b.size(&self.table.shape[0]);
        self.grid.each(b, |at| {
            let index = b.operand(1).index(at[0], 4).load_scalar::<i32>();
            // Unsigned: a negative index is above every size.
            let inside = index.lt(rows);
            if self.from_table {
                let row = index.when(inside, b.i32(0));
                let values = table.load(&[row, at[1]], self.width);
                dense.store(at, &values);
            } else {
                b.if_(inside, || {
                    let values = dense.load(at, self.width);
                    table.store(&[index, at[1]], &values);
                });
            }
        });
    }
}
