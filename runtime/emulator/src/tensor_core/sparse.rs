//! Products with a sparse A: only stored elements meet elements of B, so that what lies beside
//! them in B, infinities included, has no part in a sum.

use super::accumulate::{Rule, multiply_add, multiply_add_integers};
use super::element::Accumulator;
use super::panel::Panel;

/// Room for [`multiply_add_sparse`], kept from one product to the next.
#[derive(Debug, Default)]
pub(crate) struct Picked {
    a: Panel,
    b: Panel,
    tile: Vec<f32>,
    sums: Vec<f32>,
}

/// Rows that the kernels take at once.
const ROWS: usize = 4;

/// Adds `A·B` to C. A holds the stored elements only; `column(line, place)` says to which depth of
/// B the element at `place` belongs. Integers wrap; see [`multiply_add_integers`].
pub(crate) fn multiply_add_sparse(
    rule: Rule,
    (a, b): (&Panel, &Panel),
    c: &mut [f32],
    picked: &mut Picked,
    column: impl Fn(usize, usize) -> usize,
) {
    multiply_sparse(rule, (a, b), c, picked, false, column);
}

/// As [`multiply_add_sparse`]; integers may saturate.
pub(crate) fn multiply_sparse(
    rule: Rule,
    (a, b): (&Panel, &Panel),
    c: &mut [f32],
    picked: &mut Picked,
    saturates: bool,
    column: impl Fn(usize, usize) -> usize,
) {
    let Picked { a: rows, b: chosen, tile, sums } = picked;
    for line in 0..a.lines {
        // Every row picks other elements of B; the kernels want four rows, so that it is there
        // four times.
        rows.repeat_row(a, line, ROWS);
        chosen.pick_depths(b, (0..a.depth).map(|place| column(line, place)));
        let own = &mut c[line * b.lines..(line + 1) * b.lines];
        tile.clear();
        (0..ROWS).for_each(|_| tile.extend_from_slice(own));
        if rule.accumulator == Accumulator::S32 {
            multiply_add_integers((rows, chosen), tile, sums, saturates);
        } else {
            multiply_add(rule, rows, chosen, tile);
        }
        own.copy_from_slice(&tile[..b.lines]);
    }
}
