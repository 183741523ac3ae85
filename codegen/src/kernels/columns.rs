//! Matrix products with few rows whose weights are stored transposed: columns lie next to each
//! other, as where a projection of MLA is absorbed (DeepSeek-V2 2.1.2).
//!
//! A lane takes a vector of neighbouring columns and every fourth run of `k`; it reads a vector
//! of weights for each `k` and multiplies it with one element of each row. The four lanes that
//! share columns sum up at the end.

use super::product::{LONGEST, Product, RowIn, RowOut};
use crate::builder::{Builder, F32, I32};
use moec_ir::Sizes;

/// How such a product is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// Columns of a lane.
    width: u64,
    /// Elements along `k` that a lane takes in a run.
    run: u64,
    /// Rows of a block.
    pub(super) rows: u64,
    /// Threads of a CTA.
    pub(super) threads: u32,
}

/// Lanes that share columns.
const SHARES: u32 = 4;

impl Columns {
    /// For about `rows` rows.
    pub(super) fn new(product: &Product, rows: u64, step: Sizes) -> Self {
        let width = product.w.down;
        let run = product.a.along(&product.k).min(LONGEST);
        let rows = if rows >= 3 { 4 } else { rows.max(1) };
        let lanes = product.n.eval(&step) / width * u64::from(SHARES);
        let threads = lanes.next_multiple_of(32).clamp(32, 128) as u32;
        Self { width, run, rows, threads }
    }

    /// Columns that a CTA computes.
    pub(super) fn columns_per_cta(&self) -> u64 {
        u64::from(self.threads / SHARES) * self.width
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
        let shares = SHARES.cast_signed();
        let share = b.thread() % shares;
        let vector = column_block * (self.threads.cast_signed() / shares) + b.thread() / shares;
        let first = vector * self.width as i32;
        let n = b.size(&product.n);
        // Lanes past the end compute the last columns again and store nothing.
        let w = product.w.row_below(w, first.min(n - self.width as i32));
        let runs = b.size(&product.k) / self.run as i32;
        let zeros = vec![b.f32(0.0); a.len() * self.width as usize];
        let sums = b.for_loop(share, runs, b.i32(SHARES), zeros, |run, sums| {
            self.multiply(product, run * self.run as i32, a, w, sums)
        });
        let exists = first.lt(n);
        for (i, sums) in sums.chunks(self.width as usize).enumerate() {
            let row = out(b.i32(i));
            let per_round = sums.len().min(SHARES as usize);
            for (round, chunk) in sums.chunks(per_round).enumerate() {
                let (total, index) = b.sum_spread(chunk.to_vec(), share, SHARES);
                let same = shares / per_round as i32;
                let mine = (share & (same - 1)).eq(b.i32(0));
                b.if_(mine & exists & row.exists, || {
                    product.store(row, first + index + b.i32(round * per_round), &[total]);
                });
            }
        }
    }

    /// Adds the products of one run of `k`, which begins at `first`.
    fn multiply<'k>(
        &self,
        product: &Product,
        first: I32<'k>,
        a: &[RowIn<'k>],
        w: RowIn<'k>,
        mut sums: Vec<F32<'k>>,
    ) -> Vec<F32<'k>> {
        let load = |row: &RowIn<'k>| {
            let xs = row.data.index(first, product.a.column).load(product.a.dtype, self.run);
            // One scale each: neither the run nor the columns leave their blocks.
            let scales = (product.a.scale(row.scale, first), product.w.scale(w.scale, first));
            match scales {
                (Some(of_a), Some(of_w)) => {
                    let scale = of_a * of_w;
                    xs.into_iter().map(|x| x * scale).collect()
                }
                (Some(scale), None) | (None, Some(scale)) => {
                    xs.into_iter().map(|x| x * scale).collect()
                }
                (None, None) => xs,
            }
        };
        let rows: Vec<Vec<F32<'k>>> = a.iter().map(load).collect();
        let w = w.data.index(first, product.w.column);
        for k in 0..self.run {
            let ws = w.add_const(k * product.w.column).load(product.w.dtype, self.width);
            for (sums, xs) in sums.chunks_mut(ws.len()).zip(&rows) {
                for (sum, &y) in sums.iter_mut().zip(&ws) {
                    *sum = xs[k as usize].fma(y, *sum);
                }
            }
        }
        sums
    }
}
