//! `out[t, j] = x[t, chosen[t, j]]`: the weights of the chosen experts.

use super::elements::Grid;
use super::{Design, Step};
use crate::builder::Builder;
use crate::tensor::Tensor;
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

struct Pick {
    x: View,
    chosen: View,
    out: View,
    grid: Grid,
}

pub(super) fn design(x: &View, chosen: &View, out: &View, step: Step) -> Box<dyn Design> {
    let grid = Grid::new(&out.shape, 1, step.sizes);
    Box::new(Pick { x: x.clone(), chosen: chosen.clone(), out: out.clone(), grid })
}

impl Design for Pick {
    fn geometry(&self) -> Geometry {
        self.grid.geometry()
    }

    fn operands(&self) -> usize {
        3
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let x = Tensor::operand(b, 0, &self.x);
        let chosen = Tensor::operand(b, 1, &self.chosen);
        let out = Tensor::operand(b, 2, &self.out);
        self.grid.each(b, |index| {
            // An index outside the row reads its last element rather than someone else's memory.
            let last = b.size(&self.x.shape[1]) - 1;
            let at = chosen.at(index).load_scalar::<i32>().min(last);
            out.store(index, &x.load(&[index[0], at], 1));
        });
    }
}
