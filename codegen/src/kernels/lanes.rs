//! Matrix products with few rows: the lanes of a warp divide the sums.
//!
//! A group of lanes computes a small block of results. Its lanes read neighbouring vectors
//! along `k`, multiply-add in registers and sum up at the end. Weights are read once per block
//! of rows, in 16-byte accesses where their layout allows it.

use super::product::{Product, RowIn, RowOut, Side};
use crate::builder::{Builder, F32, I32, Ptr};
use moec_ir::Sizes;

/// How a product with few rows is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes {
    /// Lanes that share a sum: a power of two.
    group: u32,
    /// Columns of a group's block: divides `n`.
    columns: u64,
    /// Rows of a group's block.
    pub(super) rows: u64,
    /// Threads of a CTA.
    pub(super) threads: u32,
}

/// A group needs this many vectors per lane before more lanes share the sum: fewer lanes mean
/// fewer instructions for the final sums.
const VECTORS_PER_LANE: u64 = 4;

/// From this many warps on, the machine is busy with blocks of twice the columns.
const MANY_WARPS: u64 = 528;
/// Up to this many vectors per lane are unrolled; of more, two at a time.
const UNROLLED: u64 = 4;

impl Lanes {
    /// For about `rows` rows.
    pub(super) fn new(product: &Product, rows: u64, step: Sizes) -> Self {
        let vectors = product.k.eval(&step) / product.width;
        let group = (vectors / VECTORS_PER_LANE).max(1).ilog2().clamp(2, 5);
        let group = 1 << group;
        let n = product.n.eval(&step);
        let warps = |columns: u64| n.div_ceil(columns) * u64::from(group) / 32;
        let fits = |&c: &u64| {
            product.n.div_exact(c).is_some() && (c <= 4 || (rows == 1 && warps(c) >= MANY_WARPS))
        };
        let columns = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
        let rows = if rows >= 3 { 4 } else { rows.max(1) };
        let warps = warps(columns).max(1);
        // Of CTAs of up to 4 warps, those that leave the fewest idle.
        let idle = |per_cta: &u64| (warps.next_multiple_of(*per_cta), 4 - per_cta);
        let per_cta = (1..=4).min_by_key(idle).unwrap_or(1);
        Self { group, columns, rows, threads: 32 * per_cta as u32 }
    }

    /// Columns that a CTA computes.
    pub(super) fn columns_per_cta(&self) -> u64 {
        u64::from(self.threads / self.group) * self.columns
    }

    /// The code of one block; `a` are its rows, the rest as of [`super::variant::Variant::body`].
    pub(super) fn body<'k>(
        &self,
        b: &'k Builder<'k>,
        product: &Product,
        column_block: I32<'k>,
        a: &[RowIn<'k>],
        w: RowIn<'k>,
        out: &dyn Fn(I32<'k>) -> RowOut<'k>,
    ) {
        let groups = self.threads / self.group;
        let group = b.thread() / self.group.cast_signed();
        let lane = b.thread() % self.group.cast_signed();
        let first = (column_block * groups.cast_signed() + group) * self.columns as i32;
        let n = b.size(&product.n);
        // Groups past the end compute the last columns again and store nothing.
        let first_read = first.min(n - self.columns as i32);
        let w = Weights {
            data: product.w.row_below(w, first_read).data,
            scales: self.scale_rows(product, w, first_read),
        };
        let sums = self.sums(b, product, lane, a, &w);
        let exists = first.lt(n);
        // Each group holds its sums spread over its lanes; a lane stores at most one per round.
        let per_round = sums.len().min(self.group as usize);
        for (round, chunk) in sums.chunks(per_round).enumerate() {
            let (total, index) = b.sum_spread(chunk.to_vec(), lane, self.group);
            let index = index + b.i32(round * per_round);
            let (row, column) = (index / self.columns as i32, index % self.columns as i32);
            let same = self.group.cast_signed() / chunk.len() as i32;
            let mine = (lane & (same - 1)).eq(b.i32(0)) & exists;
            b.if_(mine, || {
                let row = out(row);
                b.if_(row.exists, || product.store(row, first + column, &[total]));
            });
        }
    }

    /// This lane's share of each sum, rows outermost.
    fn sums<'k>(
        &self,
        b: &'k Builder<'k>,
        product: &Product,
        lane: I32<'k>,
        a: &[RowIn<'k>],
        w: &Weights<'k>,
    ) -> Vec<F32<'k>> {
        let zeros = vec![b.f32(0.0); a.len() * self.columns as usize];
        let block =
            |vector: I32<'k>, sums: Vec<F32<'k>>| self.multiply(product, vector, a, w, sums);
        let group = u64::from(self.group);
        let Some(vectors) = product.k.constant().map(|k| k / product.width) else {
            let end = b.size(&product.k) / product.width as i32;
            return b.for_loop(lane, end, b.i32(group), zeros, block);
        };
        let full = vectors / group;
        let take = |first: I32<'k>, count: u64, sums: Vec<F32<'k>>| {
            (0..count).fold(sums, |sums, i| block(first + b.i32(i * group), sums))
        };
        let sums = if full <= UNROLLED {
            take(lane, full, zeros)
        } else {
            let (even, two) = (full / 2 * 2 * group, b.i32(2 * group));
            let sums = b.for_loop(b.i32(0), b.i32(even), two, zeros, |first, sums| {
                take(first + lane, 2, sums)
            });
            take(lane + b.i32(even), full % 2, sums)
        };
        if vectors.is_multiple_of(group) {
            return sums;
        }
        let vector = lane + b.i32(full * group);
        b.if_else(vector.lt(b.i32(vectors)), sums.clone(), || block(vector, sums))
    }

    /// Where the scales of the block's columns begin: at one place, where they share them.
    fn scale_rows<'k>(&self, product: &Product, w: RowIn<'k>, first: I32<'k>) -> Vec<Ptr<'k>> {
        let Some(scaling) = product.w.scaling else { return vec![] };
        let shared = scaling.rows.is_multiple_of(self.columns);
        let columns = if shared { 1 } else { self.columns as i32 };
        (0..columns).filter_map(|j| product.w.scale_row(w, first + j)).collect()
    }

    /// Adds the products of one vector of each row and column.
    fn multiply<'k>(
        &self,
        product: &Product,
        vector: I32<'k>,
        a: &[RowIn<'k>],
        w: &Weights<'k>,
        mut sums: Vec<F32<'k>>,
    ) -> Vec<F32<'k>> {
        let width = product.width;
        let load = |row: Ptr<'k>, side: &Side| {
            row.index(vector, width * side.column).load(side.dtype, width)
        };
        let columns: Vec<Vec<F32<'k>>> = (0..self.columns)
            .map(|j| load(w.data.add_const(j * product.w.row), &product.w))
            .collect();
        // The first of the vector's elements: all have one scale.
        let k = vector * width as i32;
        let scale_of_w = |&row: &Ptr<'k>| product.w.scale(Some(row), k);
        let scales: Vec<F32<'k>> = w.scales.iter().filter_map(scale_of_w).collect();
        for (i, row) in a.iter().enumerate() {
            let xs = load(row.data, &product.a);
            let sums = &mut sums[i * columns.len()..][..columns.len()];
            let of_row = product.a.scale(row.scale, k);
            if scales.is_empty() {
                for (sum, ws) in sums.iter_mut().zip(&columns) {
                    *sum = xs.iter().zip(ws).fold(*sum, |sum, (&x, &y)| x.fma(y, sum));
                }
                continue;
            }
            let scaled = |&s: &F32<'k>| of_row.map_or(s, |of_row| s * of_row);
            let scales: Vec<F32<'k>> = scales.iter().map(scaled).collect();
            for (j, (sum, ws)) in sums.iter_mut().zip(&columns).enumerate() {
                let first = xs[0] * ws[0];
                let part = xs.iter().zip(ws).skip(1).fold(first, |sum, (&x, &y)| x.fma(y, sum));
                *sum = part.fma(scales[j % scales.len()], *sum);
            }
        }
        sums
    }
}

/// The weights of a block's columns.
struct Weights<'k> {
    /// The first column's first element.
    data: Ptr<'k>,
    /// The first scale of each column, or of all; none where weights have no scales.
    scales: Vec<Ptr<'k>>,
}
