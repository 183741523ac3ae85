//! Which way a matrix product is divided.

use super::columns::Columns;
use super::lanes::Lanes;
use super::product::{Product, RowIn, RowOut};
use super::tiles::Tile;
use crate::builder::{Builder, I32};
use moec_ir::Sizes;

/// A division of a product among CTAs, each of which computes a block of rows and columns.
#[derive(Clone, Copy, Debug)]
pub(super) enum Variant {
    /// Few rows.
    Few(Lanes),
    /// Few rows, weights stored transposed.
    FewTransposed(Columns),
    /// Many rows.
    Many(Tile),
}

/// With more rows than this, tiles through shared memory take fewer instructions.
pub(super) const FEW_ROWS: u64 = 8;

impl Variant {
    /// For about `rows` rows.
    pub(super) fn new(product: &Product, rows: u64, step: Sizes) -> Self {
        if rows > FEW_ROWS {
            Self::Many(Tile::new(product, rows, step))
        } else if product.reads_down() {
            Self::FewTransposed(Columns::new(product, rows, step))
        } else {
            Self::Few(Lanes::new(product, rows, step))
        }
    }

    /// Rows of a CTA's block.
    pub(super) fn rows(&self) -> u64 {
        match self {
            Self::Few(lanes) => lanes.rows,
            Self::FewTransposed(columns) => columns.rows,
            Self::Many(tile) => tile.rows,
        }
    }

    /// Columns of a CTA's block.
    pub(super) fn columns(&self) -> u64 {
        match self {
            Self::Few(lanes) => lanes.columns_per_cta(),
            Self::FewTransposed(columns) => columns.columns_per_cta(),
            Self::Many(tile) => tile.columns,
        }
    }

    /// Threads of a CTA.
    pub(super) fn threads(&self) -> u32 {
        match self {
            Self::Few(lanes) => lanes.threads,
            Self::FewTransposed(columns) => columns.threads,
            Self::Many(tile) => tile.threads(),
        }
    }

    /// The code of one block. `a` gives a row of the block (any row, where that does not exist),
    /// `w` is the weights' first row, `out` says where a row of results goes. All threads of the CTA must come here.
    pub(super) fn body<'k>(
        &self,
        b: &'k Builder<'k>,
        product: &Product,
        column_block: I32<'k>,
        a: &dyn Fn(I32<'k>) -> RowIn<'k>,
        w: RowIn<'k>,
        out: &dyn Fn(I32<'k>) -> RowOut<'k>,
    ) {
        let rows = |n: u64| (0..n).map(|i| a(b.i32(i))).collect::<Vec<_>>();
        match self {
            Self::Few(lanes) => lanes.body(b, product, column_block, &rows(lanes.rows), w, out),
            Self::FewTransposed(columns) => {
                columns.body(b, product, column_block, &rows(columns.rows), w, out);
            }
            Self::Many(tile) => tile.body(b, product, column_block, a, w, out),
        }
    }
}
