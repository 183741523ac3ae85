//! What a multiplying warpgroup does with a tile, whoever filled its stages.

use super::ring::{Parity, Releases, Ring};
use super::schedule::Place;
use super::{plain, scaled};
use crate::builder::{Builder, F32, I32, bug};
use crate::kernels::factors::{Factors, Scales};

/// A multiplying warpgroup.
pub(super) struct Consumer<'k, 't, 'r> {
    b: &'k Builder<'k>,
    ring: &'r Ring<'k, 't>,
    factors: &'t Factors,
    /// First row of this warpgroup in the tile: the same in all lanes.
    pub(super) first_row: I32<'k>,
    releases: Releases<'k>,
}

impl<'k, 't, 'r> Consumer<'k, 't, 'r> {
    /// The warpgroup of this thread.
    pub(super) fn new(b: &'k Builder<'k>, ring: &'r Ring<'k, 't>, factors: &'t Factors) -> Self {
        let share = ring.tile.rows / ring.tile.consumers();
        let first_row = b.warpgroup() * share as i32;
        Self { b, ring, factors, first_row, releases: ring.releases() }
    }

    /// The sums of this thread in a tile, and the parities after it.
    pub(super) fn multiply(
        &self,
        place: Place<'k>,
        parity: Parity<'k>,
    ) -> (Parity<'k>, Vec<F32<'k>>) {
        let &Self { b, ring, first_row, releases, .. } = self;
        let count = (ring.tile.waves() * ring.tile.columns / 2) as usize;
        let scales = self.factors.scales.as_ref();
        if scales.is_none() && ring.tile.widened.is_none() {
            let multiplier = plain::Multiplier { b, ring, first_row, releases };
            let zeros = vec![b.f32(0.0); count];
            let (parity, sums) =
                ring.each(parity, zeros, |step, sums| multiplier.step(step, &sums));
            return (parity, multiplier.end(&sums));
        }
        let columns = ring.tile.columns;
        let Some(block) = scales.map(|scales| scales.block[0]) else {
            let first = b.i32(columns);
            return self
                .multiply_scaled(&Start { place, parity, scales, first, count }, &[columns]);
        };
        // Of a cluster's tiles the last may have no columns.
        let across = self.factors.columns().div_ceil(columns);
        let across = across.next_multiple_of(ring.tile.cluster[1]);
        let boundaries: Vec<u64> = scaled::boundaries(columns, across, block)
            .unwrap_or_else(|| bug("a tile across three blocks"))
            .into_iter()
            .collect();
        let first = b.i32(block) - place.column % block as i32;
        let first = first.min(b.i32(columns));
        self.multiply_scaled(&Start { place, parity, scales, first, count }, &boundaries)
    }

    /// The same where the sums of steps are promoted: one loop for each place where a boundary
    /// between blocks may be.
    fn multiply_scaled(
        &self,
        at: &Start<'k, 't>,
        boundaries: &[u64],
    ) -> (Parity<'k>, Vec<F32<'k>>) {
        let &Self { b, ring, first_row, releases, .. } = self;
        let run = |boundary: u64| {
            let adds_nothing = b.i32(0).anew();
            let Start { scales, place, count, .. } = *at;
            let multiplier = scaled::Multiplier {
                b,
                ring,
                scales,
                of_w: self.factors.places.w_scale,
                first_row,
                releases,
                adds_nothing,
                boundary,
            };
            let rows = multiplier.rows_of_w(place);
            let start = multiplier.start(&rows, count);
            let step = |step, state| multiplier.step(&rows, step, state);
            let (parity, state) = ring.each(at.parity.clone(), start, step);
            (parity, state.sums)
        };
        match *boundaries {
            [] => bug("a tile without a boundary"),
            [only] => run(only),
            [boundary, ref others @ ..] => b.either(
                at.first.eq(b.i32(boundary)),
                || run(boundary),
                || self.multiply_scaled(at, others),
            ),
        }
    }
}

/// What a tile of promoted sums begins with.
struct Start<'k, 't> {
    place: Place<'k>,
    parity: Parity<'k>,
    scales: Option<&'t Scales>,
    /// The boundary between blocks of `w`.
    first: I32<'k>,
    /// Sums of a thread.
    count: usize,
}
