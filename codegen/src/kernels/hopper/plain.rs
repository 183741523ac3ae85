//! Products of matrices of 16-bit types: sums stay in the tensor cores' registers.

use super::ring::{Releases, Ring, Step};
use crate::builder::{Builder, F32, I32, wgmma};

/// Multiplies the tiles of one CTA.
pub(super) struct Multiplier<'k, 't, 'r> {
    pub(super) b: &'k Builder<'k>,
    pub(super) ring: &'r Ring<'k, 't>,
    /// First row of this warpgroup in the tile: the same in all lanes.
    pub(super) first_row: I32<'k>,
    pub(super) releases: Releases<'k>,
}

impl<'k> Multiplier<'k, '_, '_> {
    /// Adds the products of one step; those of the step before have ended afterwards, and its
    /// stage is given back.
    pub(super) fn step(&self, step: Step<'k>, sums: &[F32<'k>]) -> Vec<F32<'k>> {
        let (b, ring, tile) = (self.b, self.ring, self.ring.tile);
        let stage = step.stage;
        ring.wait_full(step);
        let mut sums = b.wgmma_fence(sums);
        let [a, w] = ring.descriptors(stage, self.first_row);
        let count = (tile.columns / 2) as usize;
        for part in 0..wgmma::ROW_BYTES / wgmma::DEPTH_BYTES {
            let along = (part * wgmma::DEPTH_BYTES / 16) as i32;
            // As many rows of a panel as one product is deep.
            let deep =
                (part * wgmma::DEPTH_BYTES / tile.dtype.bytes() * wgmma::ROW_BYTES / 16) as i32;
            for wave in 0..tile.waves() {
                let down = (wave * wgmma::ROWS * wgmma::ROW_BYTES / 16) as i32;
                let from = wave as usize * count;
                let of_wave = &sums[from..from + count];
                let w = w + if tile.transposed { deep } else { along };
                let operands = [a + (along + down), w].map(|at| b.wgmma_descriptor_at(at));
                let of_wave = match tile.transposed {
                    true => b.wgmma_across(tile.dtype, tile.columns, operands, of_wave),
                    false => b.wgmma(tile.dtype, tile.columns, operands, of_wave, b.i32(1)),
                };
                sums.splice(from..from + count, of_wave);
            }
        }
        b.wgmma_commit();
        b.wgmma_wait(1, &[]);
        let before = (stage + tile.stages - 1) % tile.stages;
        let mut releases = self.releases;
        if stage == 0 {
            // Before the first step of a tile there is none.
            releases.who = b.i32(0).when(step.index.eq(b.i32(0)), releases.who);
        }
        ring.release(before, releases);
        sums
    }

    /// Ends a tile: all products have ended afterwards, and the last stage is given back.
    pub(super) fn end(&self, sums: &[F32<'k>]) -> Vec<F32<'k>> {
        let sums = self.b.wgmma_wait(0, sums);
        let last = (self.ring.steps - 1) % self.ring.tile.stages;
        self.ring.release(last, self.releases);
        sums
    }
}
