//! How kernels that work on single elements divide a tensor: a vector of the last axis per
//! thread.

use crate::builder::{Builder, I32};
use moec_ir::plan::Geometry;
use moec_ir::{Dim, Sizes};

/// An index space whose innermost axis is cut into vectors; one thread per vector.
///
/// Fewer than 2^31 vectors: at 16 bytes each, tensors of up to 32 GiB.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    /// Sizes of the axes, the innermost in vectors.
    shape: Vec<Dim>,
    width: u64,
    threads: u32,
}

impl Grid {
    /// Vectors of `width` elements, which divides the last axis.
    pub(super) fn new(shape: &[Dim], width: u64, step: Sizes) -> Self {
        let mut shape = shape.to_vec();
        if let Some(last) = shape.last_mut() {
            *last = last.div_exact(width).unwrap_or_else(|| last.clone());
        }
        let total = Dim::product(&shape).eval(&step);
        let threads = total.next_multiple_of(32).clamp(32, 256) as u32;
        Self { shape, width, threads }
    }

    /// The launch.
    pub(super) fn geometry(&self) -> Geometry {
        super::launch(&[(Dim::product(&self.shape), self.threads.into())], self.threads)
    }

    /// Runs `body` for each vector, with the index of its first element.
    pub(super) fn each<'k>(&self, b: &'k Builder<'k>, body: impl FnOnce(&[I32<'k>])) {
        let linear = b.cta(0) * self.threads.cast_signed() + b.thread();
        let total = b.size(&Dim::product(&self.shape));
        b.if_(linear.lt(total), || {
            let mut rest = linear;
            let mut index = Vec::new();
            for axis in (0..self.shape.len()).rev() {
                let size = b.size(&self.shape[axis]);
                let here = if axis == 0 { rest } else { rest % size };
                rest = rest / size;
                index.insert(0, here);
            }
            if let Some(last) = index.last_mut() {
                *last = *last * self.width as i32;
            }
            body(&index);
        });
    }
}
