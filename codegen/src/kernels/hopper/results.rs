//! Results from the registers of a warpgroup to memory.

use super::panels::Panels;
use crate::builder::{Builder, F32, I32};
use crate::kernels::product::{Product, RowOut};

/// Stores the sums of 64 rows whose places the threads look up: through panels where there are
/// some. As [`store`].
pub(super) fn scatter<'k>(
    b: &'k Builder<'k>,
    panels: Option<Panels>,
    product: &Product,
    row: I32<'k>,
    column: I32<'k>,
    sums: &[F32<'k>],
    out: &dyn Fn(I32<'k>) -> RowOut<'k>,
) {
    let Some(panels) = panels else { return store(b, product, row, column, sums, out) };
    let of_warp = row + (b.warp() % 4) * 16;
    panels.of_lane(b).write(sums, b.size(&product.n) - column, |row| {
        let out = out(of_warp + row);
        (out.exists, out.c.index(column, product.c.column))
    });
}

/// Stores the sums of 64 rows, the first of which is `row` of the tile, from column `column` on.
pub(super) fn store<'k>(
    b: &'k Builder<'k>,
    product: &Product,
    row: I32<'k>,
    column: I32<'k>,
    sums: &[F32<'k>],
    out: &dyn Fn(I32<'k>) -> RowOut<'k>,
) {
    let n = b.size(&product.n);
    let lane = b.lane();
    let row = row + (b.warp() % 4) * 16 + lane / 4;
    let column = column + (lane % 4) * 2;
    let pairs = product.n.div_exact(2).is_some();
    for half in 0..2 {
        let row = out(row + 8 * half as i32);
        b.if_(row.exists, || {
            for (group, sums) in sums.chunks(4).enumerate() {
                let at = column + 8 * group as i32;
                let pair = &sums[2 * half..2 * half + 2];
                if pairs {
                    b.if_(at.lt(n), || product.store(row, at, pair));
                } else {
                    for (i, &sum) in pair.iter().enumerate() {
                        let at = at + i as i32;
                        b.if_(at.lt(n), || product.store(row, at, &[sum]));
                    }
                }
            }
        });
    }
}
