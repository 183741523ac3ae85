//! Products of FP8 matrices with block scales (DeepSeek-V3 3.3.2).
//!
//! Tensor cores keep 14 bits of a sum of FP8 products, so the products of each 128 along `k` are
//! summed on their own and then, times the scales of their blocks, added to float32 registers.
//! Scales of rows of `a` come with its tiles, those of a round at once; those of `w`, one or two
//! per step, are read from memory a round ahead.
//!
//! The columns of a tile may lie in two blocks of `w`. Where the second begins differs between
//! tiles but in few ways; the loop over `k` is written once for each, so that each sum has its
//! factor without a question.

use super::ring::{Releases, Ring, Step};
use super::schedule::Place;
use super::widened;
use crate::builder::control::Carried;
use crate::builder::{Builder, F32, I32, Ptr, wgmma};
use crate::kernels::factors::Scales;
use crate::tensor::{Tensor, vector_width};
use melior::ir::Value;
use std::collections::BTreeSet;

/// Multiplies the tiles of one CTA.
pub(super) struct Multiplier<'k, 't, 'r> {
    pub(super) b: &'k Builder<'k>,
    pub(super) ring: &'r Ring<'k, 't>,
    /// None where factors are numbers as they stand.
    pub(super) scales: Option<&'t Scales>,
    /// Which operand the scales of `w` are.
    pub(super) of_w: usize,
    /// First row of this warpgroup in the tile: the same in all lanes.
    pub(super) first_row: I32<'k>,
    pub(super) releases: Releases<'k>,
    /// 0.
    pub(super) adds_nothing: I32<'k>,
    /// The tile's first column in another block of `w` than that of the first column; all columns
    /// of the tile where they lie in one block.
    pub(super) boundary: u64,
}

/// Where the boundary between blocks of `w` may lie in tiles of so many columns that lie side by
/// side `across` a product. `None` where a tile's columns would lie in three blocks.
pub(super) fn boundaries(columns: u64, across: u64, block: u64) -> Option<BTreeSet<u64>> {
    let first = |tile: u64| block - tile * columns % block;
    // After so many tiles the places repeat themselves.
    (0..across.min(block))
        .map(|tile| (first(tile) + block >= columns).then(|| first(tile).min(columns)))
        .collect()
}

/// What goes from step to step.
#[derive(Clone)]
pub(super) struct State<'k> {
    /// Sums in float32.
    pub(super) sums: Vec<F32<'k>>,
    /// The registers of the tensor cores' sums. The next products overwrite them without reading
    /// them; that this is not known until the kernel runs (`adds_nothing`) keeps ptxas from
    /// giving those other registers, of which there are too few.
    products: Vec<F32<'k>>,
    /// Scales of `w` of this round, by block of columns and step.
    now: Vec<Vec<F32<'k>>>,
    /// Scales of `w` of the next round.
    next: Vec<Vec<F32<'k>>>,
}

impl<'k> Carried<'k> for State<'k> {
    fn flatten(&self, into: &mut Vec<Value<'k, 'k>>) {
        [&self.sums, &self.products].into_iter().for_each(|part| part.flatten(into));
        [&self.now, &self.next].into_iter().for_each(|part| part.flatten(into));
    }
    fn rebuild(&self, from: &mut dyn Iterator<Item = Value<'k, 'k>>) -> Self {
        let [sums, products] = [&self.sums, &self.products].map(|part| part.rebuild(from));
        let [now, next] = [&self.now, &self.next].map(|part| part.rebuild(from));
        Self { sums, products, now, next }
    }
}

impl<'k> Multiplier<'k, '_, '_> {
    /// Before the first step of a tile.
    pub(super) fn start(&self, rows_of_w: &[Ptr<'k>], count: usize) -> State<'k> {
        let zeros = |count: usize| vec![self.b.f32(0.0); count];
        let now = self.scales_of_w(rows_of_w, self.b.i32(0));
        let products = zeros((self.ring.tile.columns / 2) as usize);
        State { sums: zeros(count), products, now: now.clone(), next: now }
    }

    /// Where the scales of a tile's one or two blocks of columns begin.
    pub(super) fn rows_of_w(&self, place: Place<'k>) -> Vec<Ptr<'k>> {
        let Some(scales) = self.scales else { return vec![] };
        let Scales { w: of_w, block: [rows, _], .. } = scales;
        let scales = Tensor::operand(self.b, self.of_w, of_w).read_only();
        let block = place.column / *rows as i32;
        // The last tile may end before its second block, or have no columns: those blocks do not
        // exist.
        let last = self.b.i32(of_w.shape[1].constant().unwrap_or(1) - 1);
        let row = |block: I32<'k>| scales.at(&[place.batch, block.min(last)]);
        let has_first = self.ring.tile.cluster[1] == 1;
        let first = if has_first { scales.at(&[place.batch, block]) } else { row(block) };
        match self.boundary < self.ring.tile.columns {
            false => vec![first],
            true => vec![first, row(block + 1)],
        }
    }

    /// The scales of the round that begins with step `index`; of any, past the end.
    fn scales_of_w(&self, rows: &[Ptr<'k>], index: I32<'k>) -> Vec<Vec<F32<'k>>> {
        let (b, steps, stages) = (self.b, self.ring.steps, self.ring.tile.stages);
        let four = steps.is_multiple_of(4) && stages.is_multiple_of(4);
        let vectors = four && self.scales.is_some_and(|scales| vector_width(&scales.w) >= 4);
        let of_row = |row: &Ptr<'k>| match vectors {
            true => (0..stages / 4)
                .map(|i| (index + b.i32(4 * i)).min(b.i32(steps - 4)))
                .flat_map(|k| row.index(k, 4).load_f32(4))
                .collect(),
            false => (0..stages)
                .map(|i| (index + b.i32(i)).min(b.i32(steps - 1)))
                .map(|k| row.index(k, 4).load_scalar())
                .collect(),
        };
        rows.iter().map(of_row).collect()
    }

    /// Adds the products of one step.
    pub(super) fn step(
        &self,
        rows_of_w: &[Ptr<'k>],
        step: Step<'k>,
        state: State<'k>,
    ) -> State<'k> {
        let (b, ring, tile) = (self.b, self.ring, self.ring.tile);
        let State { mut sums, mut products, mut now, mut next } = state;
        if step.stage == 0 {
            now = next;
            next = match ring.steps <= tile.stages {
                true => now.clone(),
                false => self.scales_of_w(rows_of_w, step.index + b.i32(tile.stages)),
            };
        }
        let count = (tile.columns / 2) as usize;
        // Of 8 columns a thread has two in each of two rows.
        let boundary = (self.boundary / 8 * 4) as usize;
        match tile.widened {
            None => ring.wait_full(step),
            Some(_) => ring.wait_widened(step),
        }
        for wave in 0..tile.waves() {
            let of_a = self.scales_of_a(step, wave);
            let of_rows = |of_w: &Vec<F32<'k>>| {
                let of_w = of_w[step.stage as usize];
                of_a.map_or([of_w; 2], |of_a| of_a.map(|of_a| of_a * of_w))
            };
            let factors: Vec<[F32<'k>; 2]> = now.iter().map(of_rows).collect();
            // What was added before is settled here: there is no room for products of two waves.
            let fenced = b.wgmma_fence(&[&sums[..], &products].concat());
            (sums, products) = (fenced[..sums.len()].to_vec(), fenced[sums.len()..].to_vec());
            products = match tile.widened {
                None => self.products(step, wave, &products),
                Some(form) => {
                    let first_row = self.first_row + b.i32(wave * wgmma::ROWS);
                    let adds = self.adds_nothing.anew();
                    widened::products(ring, form, step, first_row, &products, adds)
                }
            };
            if wave + 1 == tile.waves() {
                ring.release(step.stage, self.releases);
            }
            let of_wave = &mut sums[wave as usize * count..][..count];
            for (i, (sum, product)) in of_wave.iter_mut().zip(&products).enumerate() {
                *sum = match factors.get(usize::from(i >= boundary)) {
                    Some(factors) => product.fma(factors[i / 2 % 2], *sum),
                    None => *product + *sum,
                };
            }
        }
        State { sums, products, now, next }
    }

    /// The sums of the products of one step and 64 rows, in the registers of those `before`.
    fn products(&self, step: Step<'k>, wave: u64, before: &[F32<'k>]) -> Vec<F32<'k>> {
        let (b, ring, tile) = (self.b, self.ring, self.ring.tile);
        let [a, w] = ring.descriptors(step.stage, self.first_row);
        let down = (wave * wgmma::ROWS * wgmma::ROW_BYTES / 16) as i32;
        let mut sums = before.to_vec();
        for part in 0..wgmma::ROW_BYTES / wgmma::DEPTH_BYTES {
            let along = (part * wgmma::DEPTH_BYTES / 16) as i32;
            let adds = if part == 0 { self.adds_nothing.anew() } else { b.i32(1) };
            let operands = [a + (along + down), w + along].map(|at| b.wgmma_descriptor_at(at));
            sums = b.wgmma(tile.dtype, tile.columns, operands, &sums, adds);
        }
        b.wgmma_commit();
        b.wgmma_wait(0, &sums)
    }

    /// The scales of this thread's two rows of a wave, where rows have some.
    fn scales_of_a(&self, step: Step<'k>, wave: u64) -> Option<[F32<'k>; 2]> {
        let (b, tile) = (self.b, self.ring.tile);
        if tile.scale_bytes == 0 {
            return None;
        }
        let row = self.first_row + (b.warp() % 4) * 16 + b.lane() / 4;
        let row_bytes = tile.stages * tile.scale_bytes;
        let row = b
            .dynamic_shared_ptr()
            .add_const(tile.scales(0) + step.stage * tile.scale_bytes)
            .index(step.round, tile.scale_set())
            .index(row, row_bytes);
        let scale = |below| row.add_const((wave * wgmma::ROWS + below) * row_bytes).load_scalar();
        Some([0, 8].map(scale))
    }
}
