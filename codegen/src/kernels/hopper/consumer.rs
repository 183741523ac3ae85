//! What a multiplying warpgroup does with a tile, whoever filled its stages.

use super::ring::{Parity, Ring};
use super::schedule::Place;
use super::{plain, scaled};
use crate::builder::{Builder, F32, I32};
use crate::kernels::factors::Factors;

/// A multiplying warpgroup.
pub(super) struct Consumer<'k, 't, 'r> {
    b: &'k Builder<'k>,
    ring: &'r Ring<'k, 't>,
    factors: &'t Factors,
    /// First row of this warpgroup in the tile: the same in all lanes.
    pub(super) first_row: I32<'k>,
    /// 1 in the lane that gives stages back, else 0.
    releases: I32<'k>,
}

impl<'k, 't, 'r> Consumer<'k, 't, 'r> {
    /// The warpgroup of this thread.
    pub(super) fn new(b: &'k Builder<'k>, ring: &'r Ring<'k, 't>, factors: &'t Factors) -> Self {
        let share = ring.tile.rows / ring.tile.consumers();
        let first_row = b.warpgroup() * share as i32;
        let releases = b.i32(1).when(b.lane().eq(b.i32(0)), b.i32(0));
        Self { b, ring, factors, first_row, releases }
    }

    /// The sums of this thread in a tile, and the parities after it.
    pub(super) fn multiply(
        &self,
        place: Place<'k>,
        parity: Parity<'k>,
    ) -> (Parity<'k>, Vec<F32<'k>>) {
        let &Self { b, ring, first_row, releases, .. } = self;
        let count = (ring.tile.waves() * ring.tile.columns / 2) as usize;
        match &self.factors.scales {
            None => {
                let multiplier = plain::Multiplier { b, ring, first_row, releases };
                let zeros = vec![b.f32(0.0); count];
                let (parity, sums) =
                    ring.each(parity, zeros, |step, sums| multiplier.step(step, &sums));
                (parity, multiplier.end(&sums))
            }
            Some(scales) => {
                let adds_nothing = b.i32(0).anew();
                let multiplier =
                    scaled::Multiplier { b, ring, scales, first_row, releases, adds_nothing };
                let row = multiplier.row_of_w(place);
                let start = multiplier.start(row, count);
                let (parity, state) =
                    ring.each(parity, start, |step, state| multiplier.step(row, step, state));
                (parity, state.sums)
            }
        }
    }
}
