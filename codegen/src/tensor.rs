//! Operands with their layout: from indices to addresses.

use crate::builder::{Builder, F32, I32, Ptr};
use moec_ir::DType;
use moec_ir::kernel::View;

/// An operand of the kernel under construction.
#[derive(Clone)]
pub(crate) struct Tensor<'k> {
    base: Ptr<'k>,
    view: View,
}

impl<'k> Tensor<'k> {
    /// The operand of that index, laid out as the view says.
    pub(crate) fn operand(b: &'k Builder<'k>, index: usize, view: &View) -> Self {
        Self { base: b.operand(index), view: view.clone() }
    }

    /// What lies from an address on, laid out as the view says.
    pub(crate) fn new(base: Ptr<'k>, view: &View) -> Self {
        Self { base, view: view.clone() }
    }

    /// The same operand; nothing writes it while the kernel runs.
    pub(crate) fn read_only(self) -> Self {
        Self { base: self.base.read_only(), ..self }
    }

    /// Element type.
    pub(crate) fn dtype(&self) -> DType {
        self.view.dtype
    }

    /// How many elements along the last axis can be read or written at once.
    pub(crate) fn vector_width(&self) -> u64 {
        vector_width(&self.view)
    }

    /// Bytes between neighbours along an axis; 0 where all indices share the element.
    pub(crate) fn stride(&self, axis: usize) -> u64 {
        if self.view.shape[axis].is_one() {
            return 0;
        }
        self.view.strides[axis] * self.view.dtype.bytes()
    }

    /// The address of an element; trailing indices that are left out are 0.
    pub(crate) fn at(&self, index: &[I32<'k>]) -> Ptr<'k> {
        index.iter().enumerate().fold(self.base, |p, (axis, &i)| p.index(i, self.stride(axis)))
    }

    /// Elements `count` at a time along the last axis, from an index that is a multiple of the
    /// power of two `count`: as few accesses as the layout allows.
    pub(crate) fn load(&self, index: &[I32<'k>], count: u64) -> Vec<F32<'k>> {
        let (at, dtype) = (self.at(index), self.dtype());
        let stride = self.stride(self.view.shape.len() - 1);
        if stride == 0 {
            return vec![at.load(dtype, 1)[0]; count as usize];
        }
        let width = vector_width(&self.view).min(count);
        let part = |i| at.add_const(i * width * stride).load(dtype, width);
        (0..count / width).flat_map(part).collect()
    }

    /// Stores elements along the last axis; as [`Tensor::load`].
    pub(crate) fn store(&self, index: &[I32<'k>], values: &[F32<'k>]) {
        let at = self.at(index);
        let stride = self.stride(self.view.shape.len() - 1);
        let width = vector_width(&self.view).min(values.len() as u64);
        for (i, chunk) in values.chunks(width as usize).enumerate() {
            at.add_const(i as u64 * width * stride).store(self.dtype(), chunk);
        }
    }
}

/// How many elements along the last axis can be read or written at once: a power of two, so
/// that an access takes at most 16 bytes, is aligned, and never crosses the end of the axis.
pub(crate) fn vector_width(view: &View) -> u64 {
    let Some((last, outer)) = view.shape.len().checked_sub(1).map(|l| (l, 0..l)) else { return 1 };
    let bytes = view.dtype.bytes();
    let fits = |width: u64| {
        let aligned = |n: u64| n.is_multiple_of(width * bytes);
        width * bytes <= View::ALIGN
            && aligned(view.align)
            && view.strides[last] == 1
            && view.shape[last].div_exact(width).is_some()
            && outer.clone().all(|a| view.shape[a].is_one() || aligned(view.strides[a] * bytes))
    };
    [16, 8, 4, 2].into_iter().find(|&w| fits(w)).unwrap_or(1)
}
