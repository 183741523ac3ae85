//! Rows to FP8 with a scale per row and block of columns (DeepSeek-V3 3.3.2).

use super::blocks::{Block, Blocks, Values};
use super::{Design, Step};
use crate::builder::{Builder, F32, I32};
use crate::tensor::{Tensor, vector_width};

use moec_ir::kernel::View;
use moec_ir::plan::Geometry;
use moec_ir::{Dim, ScaleFormat};

/// What a kernel stores of each number that it computes: that number in FP8 with the scales of
/// blocks, and as it is, where something else reads it.
#[derive(Clone, Copy)]
pub(super) struct To<'s> {
    /// In another type.
    pub(super) out: Option<&'s View>,
    /// In FP8.
    pub(super) q: &'s View,
    /// As `q` but for the last axis, which counts blocks.
    pub(super) scale: &'s View,
    /// Elements of a block.
    pub(super) block: u64,
    /// What scales are rounded to.
    pub(super) format: ScaleFormat,
}

/// The same, kept by a design.
pub(super) struct Results {
    out: Option<View>,
    q: View,
    scale: View,
    format: ScaleFormat,
}

impl To<'_> {
    /// Copies what a body needs.
    pub(super) fn keep(&self) -> Results {
        let Self { out, q, scale, format, .. } = *self;
        Results { out: out.cloned(), q: q.clone(), scale: scale.clone(), format }
    }

    /// Blocks of the results; elements are read up to `width` at a time.
    pub(super) fn blocks(&self, width: u64, step: Step) -> Blocks {
        let columns = self.q.shape.last().cloned().unwrap_or_else(|| Dim::from(1));
        Blocks::new(&self.scale.shape, &columns, width, self.block, step.sizes)
    }
}

impl Results {
    /// How many operands these are: the kernel's last.
    pub(super) fn operands(&self) -> usize {
        2 + usize::from(self.out.is_some())
    }

    /// The operands from an index on.
    pub(super) fn bind<'k>(&self, b: &'k Builder<'k>, first: usize) -> Quantized<'k> {
        let last = first + self.operands() - 1;
        let out = self.out.as_ref().map(|view| Tensor::operand(b, first, view));
        let [q, scale] =
            [(last - 1, &self.q), (last, &self.scale)].map(|(i, v)| Tensor::operand(b, i, v));
        Quantized { b, out, q, scale, format: self.format }
    }
}

struct Quantize {
    x: View,
    to: Results,
    blocks: Blocks,
}

/// `x` to FP8.
pub(super) fn design(x: &View, to: To<'_>, step: Step) -> Box<dyn Design> {
    let width = vector_width(x).min(vector_width(to.q));
    Box::new(Quantize { x: x.clone(), to: to.keep(), blocks: to.blocks(width, step) })
}

impl Design for Quantize {
    fn geometry(&self) -> Geometry {
        self.blocks.geometry()
    }

    fn operands(&self) -> usize {
        1 + self.to.operands()
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let x = Tensor::operand(b, 0, &self.x).read_only();
        let to = self.to.bind(b, 1);
        let width = self.blocks.width();
        self.blocks.each(b, |block| {
            to.store(&block, &block.values(|index| x.load(index, width)));
        });
    }
}

/// Results in the kernel under construction.
pub(super) struct Quantized<'k> {
    b: &'k Builder<'k>,
    out: Option<Tensor<'k>>,
    q: Tensor<'k>,
    scale: Tensor<'k>,
    format: ScaleFormat,
}

/// The greatest e4m3 number (OCP 8-bit floating point specification 1.0, table 1).
const GREATEST: f32 = 448.0;

impl<'k> Quantized<'k> {
    /// Results in tensors that are no operands of their own: FP8 and scales.
    pub(super) fn new(
        b: &'k Builder<'k>,
        [q, scale]: [Tensor<'k>; 2],
        format: ScaleFormat,
    ) -> Self {
        Self { b, out: None, q, scale, format }
    }

    /// Stores a block: numbers, scale, FP8. All lanes of its group must come here.
    pub(super) fn store<'r>(&self, block: &Block<'k, 'r>, values: &Values<'k, 'r>)
    where
        'k: 'r,
    {
        let scale = scale_of(self.b, values.greatest(), self.format);
        block.once(|index| self.scale.store(index, &[scale]));
        values.each(|index, values| {
            if let Some(out) = &self.out {
                out.store(index, values);
            }
            let scaled: Vec<F32<'k>> = values.iter().map(|&v| v / scale).collect();
            self.q.store(index, &scaled);
        });
    }
}

/// The scale of a block whose greatest magnitude this is: a number above 0.
pub(super) fn scale_of<'k>(b: &'k Builder<'k>, greatest: F32<'k>, format: ScaleFormat) -> F32<'k> {
    let exact = greatest / GREATEST;
    let scale = match format {
        ScaleFormat::F32 => exact,
        // Any bit below the exponent carries into it; subnormals become the least normal.
        ScaleFormat::Ue8m0 => {
            let bits: I32<'k> = exact.bits();
            ((bits + 0x007f_ffff) & 0x7f80_0000).bits()
        }
    };
    b.f32(1.0).when(scale.equals(b.f32(0.0)), scale)
}
