//! What MLA remembers of a token, into its row of the cache: the latent, normed, and the key that
//! all heads share, rotated (DeepSeek-V2 2.1.2 and 2.1.3). Where only FP8 products read the
//! latent it is rounded as they would round it; in a packed cache it is kept so
//! (`moec_ir::graph::PackedRow`).

use super::blocks::Blocks;
use super::quantize::scale_of;
use super::rms_norm::factor;
use super::rms_norm_quantize::{NormedRows, normed};
use super::rotary::Pairing;
use super::rows::{Row, Team};
use super::{Design, Step};
use crate::builder::{Bool, Builder, F32, I32, Ptr};
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::{PackedParts, View};
use moec_ir::plan::Geometry;
use moec_ir::{DType, Diagnostic, Dim, Real, ScaleFormat};

/// Pairs that a thread turns at most: their turns are 16 bytes, so that neighbouring lanes read
/// whole sectors.
const PAIRS: u64 = 2;

struct AppendLatent {
    latent: View,
    weight: View,
    key: View,
    cache: View,
    packed: Option<PackedParts>,
    eps: Real,
    pairing: Pairing,
    norm: Norm,
    /// Elements of the latent that are read at once.
    width: u64,
    /// Elements of the latent: where the key begins in a row of the cache.
    len: u64,
}

/// How the rows of latents are divided.
enum Norm {
    Plain(Team),
    /// By blocks, each of which is rounded with a scale of that format.
    Rounded(NormedRows, ScaleFormat),
}

pub(super) fn design(
    [latent, weight, key, cache]: [&View; 4],
    eps: Real,
    interleaved: bool,
    rounded: Option<(u64, ScaleFormat)>,
    packed: Option<&PackedParts>,
    step: Step,
) -> Result<Box<dyn Design>, Diagnostic> {
    let to_key = packed.map_or(cache, |packed| &packed.key);
    let pairing = Pairing::new(key, to_key, interleaved)?.at_most(PAIRS);
    let columns = |view: &View| view.shape.last().and_then(Dim::constant).unwrap_or(0);
    let len = columns(latent);
    let block = rounded.map_or(1, |(block, _)| block);
    let fits = match packed {
        None => columns(cache) == len + columns(key),
        Some(PackedParts { scale, key: to_key }) => {
            cache.dtype == DType::F8e4m3
                && columns(cache) == len
                && columns(to_key) == columns(key)
                && rounded.is_some()
                && columns(scale) == len.div_ceil(block.max(1))
        }
    };
    if len == 0 || columns(weight) != len || !fits || block == 0 {
        let message = format!("an append_latent kernel writes {latent} and {key} to {cache}");
        return Err(Diagnostic::error("E0902", message).help("build the artefact again"));
    }
    let mut width = [latent, weight].map(vector_width).into_iter().min().unwrap_or(1);
    let rows = latent.shape[0].clone();
    let norm = match rounded {
        None => Norm::Plain(Team::new(rows, &latent.shape[1], width, step.sizes)),
        Some((block, format)) => {
            let [one, n, per_row] = [1, len, len.div_ceil(block)].map(Dim::from);
            let shape = [rows, one, per_row.clone()];
            let blocks = Blocks::new(&shape, &n, width, block, step.sizes);
            width = blocks.width();
            let [rows, one, _] = shape;
            Norm::Rounded(NormedRows::new(blocks, &[rows, one, n], &per_row, eps, step), format)
        }
    };
    let [latent, weight, key, cache] = [latent, weight, key, cache].map(View::clone);
    let packed = packed.cloned();
    Ok(Box::new(AppendLatent {
        latent,
        weight,
        key,
        cache,
        packed,
        eps,
        pairing,
        norm,
        width,
        len,
    }))
}

impl Design for AppendLatent {
    fn geometry(&self) -> Geometry {
        match &self.norm {
            Norm::Plain(team) => team.geometry(),
            Norm::Rounded(rows, _) => rows.team.geometry(),
        }
    }

    fn operands(&self) -> usize {
        if self.packed.is_some() { 9 } else { 7 }
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let operands = Operands {
            latent: Tensor::operand(b, 0, &self.latent),
            weight: Tensor::operand(b, 1, &self.weight).read_only(),
            key: Tensor::operand(b, 2, &self.key),
            turns: b.operand(3).read_only(),
            positions: b.operand(4).read_only(),
            slots: b.operand(5).read_only(),
            cache: Tensor::operand(b, 6, &self.cache),
            packed: self.packed.as_ref().map(|packed| {
                [(7, &packed.scale), (8, &packed.key)]
                    .map(|(at, view)| Tensor::operand(b, at, view))
            }),
        };
        match &self.norm {
            Norm::Plain(team) => team.for_row(b, |row| self.plain(row, &operands)),
            Norm::Rounded(rows, format) => {
                rows.team.for_row(b, |row| self.rounded(row, &operands, rows, *format));
            }
        }
    }
}

/// The operands in the kernel under construction.
struct Operands<'k> {
    latent: Tensor<'k>,
    weight: Tensor<'k>,
    key: Tensor<'k>,
    turns: Ptr<'k>,
    positions: Ptr<'k>,
    slots: Ptr<'k>,
    cache: Tensor<'k>,
    /// Scales and key of a packed row.
    packed: Option<[Tensor<'k>; 2]>,
}

impl<'k> Operands<'k> {
    /// The row of the cache for a token's row, and whether the token is remembered. Unsigned: a
    /// negative slot is above every size.
    fn slot(&self, row: Row<'k>, size: &Dim) -> (I32<'k>, Bool<'k>) {
        let slot = self.slots.index(row.index, 4).load_scalar::<i32>();
        (slot, slot.lt(row.b.size(size)))
    }
}

impl AppendLatent {
    /// One row whose latent is stored as it is.
    fn plain<'k>(&self, row: Row<'k>, operands: &Operands<'k>) {
        let elements = row.elements(|at| operands.latent.load(&[row.index, at], self.width));
        let factor = factor(row, &elements, &self.latent.shape[1], self.eps);
        let (slot, remembered) = operands.slot(row, &self.cache.shape[0]);
        row.b.if_(remembered, || {
            elements.each(|at, values| {
                let weights = operands.weight.load(&[at], self.width);
                let normed: Vec<F32<'k>> =
                    values.iter().zip(weights).map(|(&s, w)| s * factor * w).collect();
                operands.cache.store(&[slot, at], &normed);
            });
            self.append_key(row, operands, slot);
        });
    }

    /// One row whose latent is rounded by blocks.
    fn rounded<'k>(
        &self,
        row: Row<'k>,
        operands: &Operands<'k>,
        rows: &NormedRows,
        format: ScaleFormat,
    ) {
        let b = row.b;
        let read = |index: &[I32<'k>]| operands.latent.load(&[index[0], index[2]], self.width);
        let (slot, remembered) = operands.slot(row, &self.cache.shape[0]);
        rows.row(row, &read, &read, &|block, values, factor| {
            let values = normed(values, factor, &operands.weight, self.width);
            let scale = scale_of(b, values.greatest(), format);
            if let Some([scales, _]) = &operands.packed {
                let nan = values.fold(b.f32(0.0), |most, v| most.max_nan(v.abs()));
                let nan = nan.across(rows.blocks.group(), F32::max_nan);
                let scale = nan.when(nan.is_nan(), scale);
                b.if_(remembered, || {
                    block.once(|index| scales.store(&[slot, index[2]], &[scale]));
                    values.each(|index, values| {
                        let scaled: Vec<F32<'k>> = values.iter().map(|&x| x / scale).collect();
                        operands.cache.store(&[slot, index[2]], &scaled);
                    });
                });
                return;
            }
            b.if_(remembered, || {
                values.each(|index, values| {
                    let round = |&x: &F32<'k>| (x / scale).rounded(DType::F8e4m3) * scale;
                    let values: Vec<F32<'k>> = values.iter().map(round).collect();
                    operands.cache.store(&[slot, index[2]], &values);
                });
            });
        });
        b.if_(remembered, || self.append_key(row, operands, slot));
    }

    /// The rotated key behind the latent, by the threads of the row.
    fn append_key<'k>(&self, row: Row<'k>, operands: &Operands<'k>, slot: I32<'k>) {
        let b = row.b;
        let position = operands.positions.index(row.index, 4).load_scalar::<i32>();
        let turns = self.pairing.turns_at(operands.turns, position);
        let (end, step) = (b.i32(self.pairing.vectors()), b.i32(row.threads));
        b.for_loop(row.thread, end, step, (), |vector, ()| {
            let store = |at: I32<'k>, values: &[F32<'k>]| match &operands.packed {
                Some([_, key]) => key.store(&[slot, at], values),
                None => operands.cache.store(&[slot, at + b.i32(self.len)], values),
            };
            self.pairing.turn(turns, vector, |at, n| operands.key.load(&[row.index, at], n), store);
        });
    }
}
