//! Which tile a CTA computes next.

use super::tile::Tile;
use crate::builder::control::Carried;
use crate::builder::{Builder, I32};

/// Columns of tiles that are computed together, so that the tiles in flight read few different
/// rows of both operands from L2.
const GROUP: u64 = 8;

/// The tiles of a product: of those of a cluster, which are computed at the same time, each CTA
/// takes its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Clusters' tiles side by side.
    pub(super) across: u64,
    /// Products.
    pub(super) batch: u64,
}

/// A tile: its first row and column, and which product it is of.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Place<'k> {
    pub(in crate::kernels) row: I32<'k>,
    pub(in crate::kernels) column: I32<'k>,
    pub(in crate::kernels) batch: I32<'k>,
}

impl Schedule {
    /// For results of `columns` columns.
    pub(super) fn new(tile: &Tile, columns: u64, batch: u64) -> Self {
        Self { across: columns.div_ceil(tile.columns * tile.cluster[1]), batch }
    }

    /// Clusters' tiles per row of those, of all products.
    pub(super) fn others(&self) -> u64 {
        self.across * self.batch
    }

    /// Runs `body` for each of this CTA's tiles.
    pub(super) fn each<'k, C: Carried<'k>>(
        &self,
        b: &'k Builder<'k>,
        tile: &Tile,
        rows: I32<'k>,
        init: C,
        body: impl FnOnce(Place<'k>, C) -> C,
    ) -> C {
        let down = rows.div_ceil((tile.rows * tile.cluster[0]) as i32);
        let total = down * b.i32(self.others());
        let ctas = tile.ctas_of_cluster();
        let first = b.cta(0) / ctas as i32;
        b.for_loop(first, total, b.i32(tile.ctas / ctas), init, |index, carried| {
            body(self.place(b, tile, down, index), carried)
        })
    }

    fn place<'k>(
        &self,
        b: &'k Builder<'k>,
        tile: &Tile,
        down: I32<'k>,
        index: I32<'k>,
    ) -> Place<'k> {
        let (batch, index) = match self.batch {
            1 => (b.i32(0), index),
            _ => (index / (down * b.i32(self.across)), index % (down * b.i32(self.across))),
        };
        let group = GROUP.min(self.across) as i32;
        let (first, within) = match self.across <= GROUP {
            true => (b.i32(0), index),
            false => ((index / (down * group)) * group, index % (down * group)),
        };
        let width = match self.across.is_multiple_of(group as u64) {
            true => b.i32(group),
            false => (b.i32(self.across) - first).min(b.i32(group)),
        };
        let [below, beside] = tile.cluster.map(|n| n as i32);
        let rank = |n: i32| if n == 1 { b.i32(0) } else { b.cta(0) % n };
        Place {
            row: (within / width * below + rank(below)) * tile.rows as i32,
            column: ((first + within % width) * beside + rank(beside)) * tile.columns as i32,
            batch,
        }
    }
}
