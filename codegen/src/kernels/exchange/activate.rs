//! What lies between the two products, a row at a time.

use super::member::Tasks;
use super::progress::{Progress, Stage};
use super::sorted::Plan;
use crate::builder::{Builder, F32, I32};
use crate::kernels::blocks::Blocks;
use crate::kernels::pointwise::evaluate;
use crate::kernels::quantize::Quantized;
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::exchange::ProductRow;
use moec_ir::kernel::{SpreadExperts, View};
use moec_ir::{Dim, Sizes};

/// Elements that a lane computes at once at most.
const AT_ONCE: u64 = 8;

/// The function between two products.
pub(super) struct Activate<'e> {
    spec: &'e SpreadExperts,
    inputs: Vec<View>,
    middle: View,
    scale: View,
    row: ProductRow,
    /// Where the second product is of FP8.
    blocks: Option<Blocks>,
    width: u64,
}

impl<'e> Activate<'e> {
    /// As a spec says.
    pub(super) fn new(spec: &'e SpreadExperts, sizes: Sizes) -> Self {
        let (exchange, row) = (&spec.exchange, spec.exchange.product_row());
        let (columns, dtype) = exchange.middle;
        let rows = exchange.most_rows();
        let part = |dtype: moec_ir::DType, columns: u64, from: u64| {
            let align = if from == 0 { View::ALIGN } else { 1 << from.trailing_zeros().min(4) };
            View {
                align,
                ..View::new(
                    dtype,
                    [rows.clone(), Dim::from(columns)],
                    [row.bytes / dtype.bytes(), 1],
                )
            }
        };
        let (_, hidden) = exchange.hidden;
        let inputs: Vec<View> = (spec.activation.inputs.iter())
            .map(|first| part(hidden, columns, first * hidden.bytes()))
            .collect();
        let middle = part(dtype, columns, row.middle);
        let scale = part(moec_ir::DType::F32, exchange.middle_scales, row.middle_scales);
        let width = vector_width(&middle).min(AT_ONCE);
        let blocks = spec
            .activation
            .quantized
            .map(|(block, _)| Blocks::new(&scale.shape, &Dim::from(columns), width, block, sizes));
        Self { spec, inputs, middle, scale, row, blocks, width }
    }

    /// A row at a time, when its first product is there.
    pub(super) fn run<'k>(
        &self,
        b: &'k Builder<'k>,
        progress: &Progress<'k>,
        plan: &Plan<'k>,
        tasks: Tasks<'k>,
    ) {
        b.note("role: function between the products");
        let tensor = |part: u64, view: &View| Tensor::new(progress.products.add_const(part), view);
        let (_, hidden) = self.spec.exchange.hidden;
        let inputs: Vec<_> = (self.spec.activation.inputs.iter().zip(&self.inputs))
            .map(|(first, view)| tensor(self.row.hidden + first * hidden.bytes(), view))
            .collect();
        let middle = tensor(self.row.middle, &self.middle);
        let scale = tensor(self.row.middle_scales, &self.scale);
        let width = self.blocks.as_ref().map_or(self.width, Blocks::width);
        let compute = |index: &[I32<'k>]| -> Vec<F32<'k>> {
            let read: Vec<Vec<F32<'k>>> = inputs.iter().map(|x| x.load(index, width)).collect();
            let element = |i: usize| {
                let operands: Vec<F32<'k>> = read.iter().map(|x| x[i]).collect();
                evaluate(b, &self.spec.activation.code, &operands)
            };
            (0..width as usize).map(element).collect()
        };
        plan.each_row(b, tasks, |row| {
            progress.wait(row, Stage::Hidden);
            match (&self.blocks, self.spec.activation.quantized) {
                (Some(blocks), Some((_, format))) => {
                    let to = Quantized::new(b, [middle.clone(), scale.clone()], format);
                    self.each_block(b, blocks, row, |block| {
                        to.store(&block, &block.values(compute))
                    });
                }
                _ => {
                    let vectors = b.i32(self.spec.exchange.middle.0 / width);
                    b.for_loop(b.lane(), vectors, b.i32(32), (), |vector, ()| {
                        let index = [row, vector * width as i32];
                        middle.store(&index, &compute(&index));
                    });
                }
            }
            progress.done(row, Stage::Middle);
        });
    }

    /// Runs `body` for the blocks of a row, as many at once as a warp has groups of lanes.
    fn each_block<'k, 'r>(
        &self,
        b: &'k Builder<'k>,
        blocks: &'r Blocks,
        row: I32<'k>,
        body: impl FnOnce(crate::kernels::blocks::Block<'k, 'r>),
    ) {
        let group = blocks.group().cast_signed();
        let at_once = (32 / group).cast_unsigned().into();
        let count = self.spec.exchange.middle_scales;
        let (zero, step) = (b.i32(0), b.i32(at_once));
        b.for_loop(zero, b.i32(count), step, (), |first, ()| {
            let block = first + b.lane() / group;
            let exists = (!count.is_multiple_of(at_once)).then(|| block.lt(b.i32(count)));
            body(blocks.block(b, vec![row, block], exists, b.lane() % group));
        });
    }
}
