//! Tiles of queries, keys and values in shared memory, as float32.

use super::Operands;
use crate::builder::{Bool, Builder, F32, I32, Ptr};
use crate::tensor::Tensor;

/// Rows of queries, and keys, that a CTA holds at once.
pub(super) const ROWS: u64 = 64;
/// Bytes between neighbours along the depth of a tile of queries or keys.
pub(super) const PITCH: u64 = 4 * ROWS;

/// A tile of `ROWS` rows that lies depth outermost: every thread fills one row's vectors.
pub(super) struct Transposed<'k> {
    pub(super) shared: Ptr<'k>,
    /// The row that this thread fills, and the first of its vectors.
    pub(super) row: I32<'k>,
    vector: I32<'k>,
    /// Threads that fill one row.
    fillers: u64,
}

impl<'k> Transposed<'k> {
    pub(super) fn new(b: &'k Builder<'k>, shared: Ptr<'k>) -> Self {
        let row = b.thread() % b.i32(ROWS);
        let vector = b.thread() / b.i32(ROWS);
        Self { shared, row, vector, fillers: u64::from(b.threads()) / ROWS }
    }

    /// Fills the tile with elements `from .. from + depth` of a row each, `from` a multiple of
    /// the tensor's vectors; `scaled` says what becomes of those from a column on.
    pub(super) fn fill(
        &self,
        b: &'k Builder<'k>,
        (tensor, row): (&Tensor<'k>, Ptr<'k>),
        from: I32<'k>,
        depth: u64,
        scaled: impl Fn(I32<'k>, Vec<F32<'k>>) -> Vec<F32<'k>>,
    ) {
        let width = super::power_of_two_in(depth, tensor.vector_width());
        let to = self.shared.index(self.row, 4);
        let vectors = depth / width;
        for first in (0..vectors).step_by(self.fillers as usize) {
            let vector = self.vector + b.i32(first);
            let fill = || {
                let at = vector * b.i32(width);
                let values = row.index(from + at, tensor.stride(2)).load(tensor.dtype(), width);
                let values = scaled(from + at, values);
                let to = to.index(at, PITCH);
                for (i, value) in values.into_iter().enumerate() {
                    to.add_const(PITCH * i as u64).store_scalar(value);
                }
            };
            match first + self.fillers <= vectors {
                true => fill(),
                false => b.if_(vector.lt(b.i32(vectors)), fill),
            }
        }
    }
}

/// Values of some keys of a block, a row each.
pub(super) struct Values<'k> {
    pub(super) shared: Ptr<'k>,
    /// Rows held at once.
    pub(super) keys: u64,
    /// Elements of a row.
    pub(super) len: u64,
}

impl<'k> Values<'k> {
    /// Fills `keys` rows of the tile with rows `first ..`; rows after `last` are `last` again.
    pub(super) fn fill(
        &self,
        b: &'k Builder<'k>,
        operands: &Operands<'k>,
        head: I32<'k>,
        (first, last): (I32<'k>, I32<'k>),
        keys: I32<'k>,
    ) {
        let tensor = &operands.v;
        let width = tensor.vector_width();
        let vectors = self.len / width;
        let threads = u64::from(b.threads());
        let (to, step) = (keys * b.i32(vectors), b.i32(threads));
        let fill = |item: I32<'k>| {
            let (key, at) = (item / b.i32(vectors), item % b.i32(vectors) * b.i32(width));
            let row = operands.row(b, (first + key).min(last));
            let values = tensor.at(&[row, head, at]).load(tensor.dtype(), width);
            let values = match &operands.scales {
                Some(scales) => scales.times(b, row, at, values),
                None => values,
            };
            let to = self.shared.index(key, 4 * self.len).index(at, 4);
            store(to, &values);
        };
        b.for_loop(b.thread(), to, step, (), |item, ()| fill(item));
    }
}

/// Stores float32 in words as wide as their number allows.
fn store<'k>(to: Ptr<'k>, values: &[F32<'k>]) {
    let width = values.len().min(4);
    for (i, words) in values.chunks(width).enumerate() {
        to.add_const((4 * width * i) as u64).store_words(words);
    }
}

/// Which keys the rows of queries of a CTA see, in shared memory and in part in registers.
pub(super) struct Ranges<'k> {
    /// `ROWS` first keys, then as many ends; the first of a row that sees none is the greatest
    /// integer, and its end 0.
    pub(super) shared: Ptr<'k>,
    /// Those of rows `lane` and `lane + 32`.
    held: [(I32<'k>, I32<'k>); 2],
    /// The first key and the end over the rows of this warp.
    pub(super) of_warp: (I32<'k>, I32<'k>),
}

impl<'k> Ranges<'k> {
    /// `keys` are those of row `thread`, for threads below `ROWS`; a warp's rows are
    /// `rows_per_warp` neighbours (a power of two).
    pub(super) fn new(
        b: &'k Builder<'k>,
        rows_per_warp: u64,
        keys: impl FnOnce() -> (I32<'k>, I32<'k>),
    ) -> Self {
        let shared = b.shared_memory(8 * ROWS);
        b.if_(b.thread().lt(b.i32(ROWS)), || {
            let (first, end) = keys();
            let to = shared.index(b.thread(), 4);
            to.store_scalar(first);
            to.add_const(4 * ROWS).store_scalar(end);
        });
        b.barrier();
        let of_row = |row: I32<'k>| {
            let at = shared.index(row, 4);
            (at.load_scalar::<i32>(), at.add_const(4 * ROWS).load_scalar::<i32>())
        };
        let held = [of_row(b.lane()), of_row(b.lane() + 32)];
        let own = b.warp() * b.i32(rows_per_warp) + b.lane() % b.i32(rows_per_warp);
        let (first, end) = of_row(own);
        Self { shared, held, of_warp: (first.warp_min(), end.warp_max()) }
    }

    /// The least key from `from` on that some row sees, or the greatest integer.
    pub(super) fn next(&self, b: &'k Builder<'k>, from: I32<'k>) -> I32<'k> {
        let of_row = |&(first, end): &(I32<'k>, I32<'k>)| {
            first.max(from).when(from.lt(end), b.i32(i32::MAX))
        };
        self.held.iter().map(of_row).reduce(I32::min).unwrap_or(from).warp_min()
    }

    /// One past the last key of the block that begins at a key that some row sees: all keys in
    /// between are seen by one row, so that they exist.
    pub(super) fn block_end(&self, b: &'k Builder<'k>, from: I32<'k>) -> I32<'k> {
        let of_row = |&(first, end): &(I32<'k>, I32<'k>)| end.when(first.le(from), b.i32(0));
        let last = self.held.iter().map(of_row).reduce(I32::max).unwrap_or(from).warp_max();
        last.min(from + b.i32(ROWS))
    }

    /// Whether rows of this warp see keys of a block.
    pub(super) fn concern_warp(&self, from: I32<'k>, end: I32<'k>) -> Bool<'k> {
        self.of_warp.0.lt(end) & from.lt(self.of_warp.1)
    }
}
