//! Rows of a packed cache (`moec_ir::graph::PackedRow`) as they were before they were packed.

use super::elements::Grid;
use super::{Design, Step};
use crate::builder::{Builder, F32};
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::{PackedParts, View};
use moec_ir::plan::Geometry;
use moec_ir::{DType, Diagnostic, Dim};

struct GatherLatent {
    latent: View,
    packed: PackedParts,
    out: View,
    /// Elements of a latent, and those that share a scale.
    len: u64,
    block: u64,
    grid: Grid,
    width: u64,
}

/// The design of a `KernelSpec::GatherLatent`.
pub(super) fn design(
    latent: &View,
    packed: &PackedParts,
    out: &View,
    block: u64,
    step: Step,
) -> Result<Box<dyn Design>, Diagnostic> {
    let columns = |view: &View| view.shape.last().and_then(Dim::constant).unwrap_or(0);
    let (len, key) = (columns(latent), columns(&packed.key));
    let fits = latent.dtype == DType::F8e4m3
        && columns(out) == len + key
        && columns(&packed.scale) == len.div_ceil(block.max(1));
    if len == 0 || block == 0 || !fits {
        let message = format!("a gather_latent kernel reads {latent} and {} to {out}", packed.key);
        return Err(Diagnostic::error("E0902", message).help("build the artefact again"));
    }
    // A vector is of the latent or of the key, and has one scale.
    let most = 1 << (len | block).trailing_zeros().min(3);
    let width = [latent, &packed.key, out].map(vector_width).into_iter().fold(most, u64::min);
    Ok(Box::new(GatherLatent {
        latent: latent.clone(),
        packed: packed.clone(),
        out: out.clone(),
        len,
        block,
        grid: Grid::new(&out.shape, width, step.sizes),
        width,
    }))
}

impl Design for GatherLatent {
    fn geometry(&self) -> Geometry {
        self.grid.geometry()
    }

    fn operands(&self) -> usize {
        5
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let [latent, scale, key] =
            [(0, &self.latent), (1, &self.packed.scale), (2, &self.packed.key)]
                .map(|(at, view)| Tensor::operand(b, at, view).read_only());
        let out = Tensor::operand(b, 4, &self.out);
        let rows = b.size(&self.latent.shape[0]);
        let len = b.i32(self.len);
        self.grid.each(b, |at| {
            let index = b.operand(3).index(at[0], 4).load_scalar::<i32>();
            // Unsigned: a negative index is above every size.
            let row = index.when(index.lt(rows), b.i32(0));
            let of_latent = || {
                let scale = scale.load(&[row, at[1] / b.i32(self.block)], 1)[0];
                let values = latent.load(&[row, at[1]], self.width);
                values.into_iter().map(|x| x * scale).collect::<Vec<F32<'k>>>()
            };
            let of_key = || key.load(&[row, at[1] - len], self.width);
            out.store(at, &b.either(at[1].lt(len), of_latent, of_key));
        });
    }
}
