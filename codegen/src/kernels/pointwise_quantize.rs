//! A function of each element of broadcast inputs, its result in FP8 with scales: activations on
//! their way to the next product.

use super::blocks::Blocks;
use super::pointwise::evaluate;
use super::quantize::{Results, To};
use super::{Design, Step};
use crate::builder::{Builder, F32, I32};
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::{Scalar, View};
use moec_ir::plan::Geometry;

struct PointwiseQuantize {
    inputs: Vec<View>,
    code: Vec<Scalar>,
    to: Results,
    blocks: Blocks,
}

/// Elements that a lane computes at once at most.
const AT_ONCE: u64 = 8;

pub(super) fn design(inputs: &[View], code: &[Scalar], to: To<'_>, step: Step) -> Box<dyn Design> {
    let blocks = to.blocks(vector_width(to.q).min(AT_ONCE), step);
    Box::new(PointwiseQuantize {
        inputs: inputs.to_vec(),
        code: code.to_vec(),
        to: to.keep(),
        blocks,
    })
}

impl Design for PointwiseQuantize {
    fn geometry(&self) -> Geometry {
        self.blocks.geometry()
    }

    fn operands(&self) -> usize {
        self.inputs.len() + self.to.operands()
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let inputs: Vec<Tensor<'k>> = (self.inputs.iter().enumerate())
            .map(|(i, view)| Tensor::operand(b, i, view).read_only())
            .collect();
        let to = self.to.bind(b, inputs.len());
        let width = self.blocks.width();
        let compute = |index: &[I32<'k>]| {
            let read: Vec<Vec<F32<'k>>> = inputs.iter().map(|x| x.load(index, width)).collect();
            let element = |i: usize| {
                let operands: Vec<F32<'k>> = read.iter().map(|x| x[i]).collect();
                evaluate(b, &self.code, &operands)
            };
            (0..width as usize).map(element).collect()
        };
        self.blocks.each(b, |block| to.store(&block, &block.values(compute)));
    }
}
