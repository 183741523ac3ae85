//! Rows to FP8 with a scale per row and block of columns (DeepSeek-V3 3.3.2).

use super::blocks::Blocks;
use super::{Design, Step};
use crate::builder::{Builder, F32, I32};
use crate::tensor::{Tensor, vector_width};
use moec_ir::ScaleFormat;
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

struct Quantize {
    x: View,
    q: View,
    scale: View,
    format: ScaleFormat,
    blocks: Blocks,
}

pub(super) fn design(
    x: &View,
    q: &View,
    scale: &View,
    block: u64,
    format: ScaleFormat,
    step: Step,
) -> Box<dyn Design> {
    let width = vector_width(x).min(vector_width(q));
    let blocks = Blocks::new(&scale.shape, &q.shape[1], width, block, step.sizes);
    Box::new(Quantize { x: x.clone(), q: q.clone(), scale: scale.clone(), format, blocks })
}

impl Design for Quantize {
    fn geometry(&self) -> Geometry {
        self.blocks.geometry()
    }

    fn operands(&self) -> usize {
        3
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let x = Tensor::operand(b, 0, &self.x).read_only();
        let to = Quantized::operands(b, 1, &self.q, &self.scale, self.format);
        let width = self.blocks.width();
        self.blocks.each(b, |block| {
            let values = block.values(|index| x.load(index, width));
            let scale = to.scale_of(values.greatest());
            block.once(|index| to.scale.store(index, &[scale]));
            values.each(|index, values| to.store(index, values, scale));
        });
    }
}

/// A result in FP8 and its scales, in the kernel under construction.
pub(super) struct Quantized<'k> {
    b: &'k Builder<'k>,
    q: Tensor<'k>,
    pub(super) scale: Tensor<'k>,
    format: ScaleFormat,
}

/// The greatest e4m3 number (OCP 8-bit floating point specification 1.0, table 1).
const GREATEST: f32 = 448.0;

impl<'k> Quantized<'k> {
    /// The operands of that index and the next.
    pub(super) fn operands(
        b: &'k Builder<'k>,
        index: usize,
        q: &View,
        scale: &View,
        format: ScaleFormat,
    ) -> Self {
        let [q, scale] = [(index, q), (index + 1, scale)].map(|(i, v)| Tensor::operand(b, i, v));
        Self { b, q, scale, format }
    }

    /// The scale of a block whose greatest magnitude this is: a number above 0.
    pub(super) fn scale_of(&self, greatest: F32<'k>) -> F32<'k> {
        let b = self.b;
        let exact = greatest / GREATEST;
        let scale = match self.format {
            ScaleFormat::F32 => exact,
            // Any bit below the exponent carries into it; subnormals become the least normal.
            ScaleFormat::Ue8m0 => {
                let bits: I32<'k> = exact.bits();
                ((bits + 0x007f_ffff) & 0x7f80_0000).bits()
            }
        };
        b.f32(1.0).when(scale.equals(b.f32(0.0)), scale)
    }

    /// Stores numbers of one block, from an index on.
    pub(super) fn store(&self, index: &[I32<'k>], values: &[F32<'k>], scale: F32<'k>) {
        let scaled: Vec<F32<'k>> = values.iter().map(|&v| v / scale).collect();
        self.q.store(index, &scaled);
    }
}
