//! Matrix products with many rows: tiles through shared memory, blocks in registers.
//!
//! A CTA computes a tile of results. For each slice of `k` it converts a tile of `a` and one of
//! `w` to float32 in shared memory, `k` outermost, so that a thread reads the operands of its
//! block in vectors: 3 reads for 32 multiply-adds at the largest size. FP8 elements are multiplied
//! with their block's scale on the way.

use super::product::{LONGEST, Product, RowIn, RowOut, Side};
use crate::builder::{Builder, F32, I32, Ptr};
use moec_ir::{DType, Sizes};

/// Sizes of a tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    /// Rows of a CTA's tile.
    pub(super) rows: u64,
    /// Columns of a CTA's tile.
    pub(super) columns: u64,
    /// Rows of a thread's block: a multiple of 4.
    block_rows: u64,
    /// Columns of a thread's block: 2 or 4.
    block_columns: u64,
}

/// Elements along `k` that a CTA holds in shared memory.
const SLICE: u64 = 16;
/// Unused float32 at the end of each row in shared memory: consecutive rows begin in different
/// banks, and stay aligned to 16 bytes.
const PAD: u64 = 4;

impl Tile {
    /// For about `rows` rows.
    pub(super) fn new(product: &Product, rows: u64, step: Sizes) -> Self {
        let columns = product.n.eval(&step);
        let (rows, columns, block_rows, block_columns) = match (rows, columns) {
            (33.., 33..) => (64, 64, 8, 4),
            (17.., 33..) => (32, 64, 8, 4),
            (_, 33..) => (16, 64, 8, 4),
            (33.., 17..) => (64, 32, 8, 4),
            (17.., 17..) => (32, 32, 8, 4),
            (_, 17..) => (16, 32, 4, 4),
            (33.., _) => (64, 16, 8, 4),
            (17.., _) => (32, 16, 4, 4),
            (_, _) => (16, 16, 4, 2),
        };
        Self { rows, columns, block_rows, block_columns }
    }

    /// Threads of a CTA.
    pub(super) fn threads(&self) -> u32 {
        ((self.rows / self.block_rows) * (self.columns / self.block_columns)) as u32
    }

    /// The code of one block; parameters as of [`super::variant::Variant::body`].
    pub(super) fn body<'k>(
        &self,
        b: &'k Builder<'k>,
        product: &Product,
        column_block: I32<'k>,
        a: &dyn Fn(I32<'k>) -> RowIn<'k>,
        w: RowIn<'k>,
        out: &dyn Fn(I32<'k>) -> RowOut<'k>,
    ) {
        let n = b.size(&product.n);
        let first = column_block * self.columns as i32;
        let way_of_w = match product.w.along(&product.k).min(LONGEST) {
            1 if product.reads_down() => Way::Down(product.w.down),
            width => Way::Along(width),
        };
        let rows_at_once = way_of_w.rows() as i32;
        let w_row = |row: I32<'k>| product.w.row_below(w, (first + row).min(n - rows_at_once));
        let way_of_a = Way::Along(product.a.along(&product.k).min(LONGEST));
        let a = Filled::new(b, self.rows, way_of_a, product.a, a);
        let w = Filled::new(b, self.columns, way_of_w, product.w, &w_row);
        let across = (self.columns / self.block_columns) as i32;
        // Threads that have no block of their own compute the last one again and store nothing.
        let busy = (b.threads() > self.threads()).then(|| b.thread().lt(b.i32(self.threads())));
        let thread = match busy {
            None => b.thread(),
            Some(_) => b.thread().min(b.i32(self.threads() - 1)),
        };
        let row = (thread / across) * self.block_rows as i32;
        let column = (thread % across) * self.block_columns as i32;
        let k = b.size(&product.k);
        let whole = product.k.div_exact(SLICE).is_some();
        let zeros = vec![b.f32(0.0); (self.block_rows * self.block_columns) as usize];
        let sums = b.for_loop(b.i32(0), k, b.i32(SLICE), zeros, |from, sums| {
            let end = (!whole).then_some(k);
            let (of_a, of_w) = (a.read(b, from, end), w.read(b, from, end));
            b.barrier();
            a.write(b, &of_a);
            w.write(b, &of_w);
            b.barrier();
            self.multiply(a.shared.index(row, 4), w.shared.index(column, 4), sums)
        });
        for (i, values) in sums.chunks(self.block_columns as usize).enumerate() {
            let row = out(row + b.i32(i));
            let exists = busy.map_or(row.exists, |busy| row.exists & busy);
            b.if_(exists, || self.store(b, product, row, first + column, values));
        }
    }

    /// Adds the products of one slice to a thread's block of sums.
    fn multiply<'k>(&self, a: Ptr<'k>, w: Ptr<'k>, mut sums: Vec<F32<'k>>) -> Vec<F32<'k>> {
        for k in 0..SLICE {
            let xs = a.add_const(k * pitch(self.rows)).load_f32(self.block_rows as usize);
            let ys = w.add_const(k * pitch(self.columns)).load_f32(self.block_columns as usize);
            for (i, &x) in xs.iter().enumerate() {
                for (j, &y) in ys.iter().enumerate() {
                    let sum = &mut sums[i * ys.len() + j];
                    *sum = x.fma(y, *sum);
                }
            }
        }
        sums
    }

    /// Stores a row of a thread's block, or what of it exists.
    fn store<'k>(
        &self,
        b: &'k Builder<'k>,
        product: &Product,
        row: RowOut<'k>,
        column: I32<'k>,
        values: &[F32<'k>],
    ) {
        let n = b.size(&product.n);
        if product.n.div_exact(self.block_columns).is_some() {
            b.if_(column.lt(n), || product.store(row, column, values));
            return;
        }
        for (j, &value) in values.iter().enumerate() {
            let column = column + b.i32(j);
            b.if_(column.lt(n), || product.store(row, column, &[value]));
        }
    }
}

/// Bytes between neighbours along `k` of a tile in shared memory.
fn pitch(rows: u64) -> u64 {
    (rows + PAD) * 4
}

/// What a vector of a tile holds.
#[derive(Clone, Copy)]
enum Way {
    /// That many neighbours along `k` of one row.
    Along(u64),
    /// That many neighbouring rows at one `k`.
    Down(u64),
}

impl Way {
    /// Rows of a vector.
    fn rows(self) -> u64 {
        match self {
            Self::Along(_) => 1,
            Self::Down(width) => width,
        }
    }

    /// Elements along `k` of a vector.
    fn depth(self) -> u64 {
        match self {
            Self::Along(width) => width,
            Self::Down(_) => 1,
        }
    }
}

/// A tile that the CTA fills together: which vectors this thread moves.
struct Filled<'k> {
    side: Side,
    way: Way,
    /// Bytes between neighbours along `k` in shared memory.
    pitch: u64,
    shared: Ptr<'k>,
    parts: Vec<Part<'k>>,
}

/// A vector of a tile: where it comes from and where it goes.
struct Part<'k> {
    /// The (first) row.
    row: RowIn<'k>,
    /// The vector's place along `k` within the slice.
    k: I32<'k>,
    to: Ptr<'k>,
    /// Whether this thread takes part: threads may outnumber vectors.
    busy: Option<crate::builder::Bool<'k>>,
}

impl<'k> Filled<'k> {
    fn new(
        b: &'k Builder<'k>,
        rows: u64,
        way: Way,
        side: Side,
        row_at: &dyn Fn(I32<'k>) -> RowIn<'k>,
    ) -> Self {
        let shared = b.shared_memory(SLICE * pitch(rows));
        let (across, depth) = (rows / way.rows(), way.depth());
        let vectors = across * (SLICE / depth);
        let threads = u64::from(b.threads());
        let parts = (0..vectors.div_ceil(threads)).map(|part| {
            let vector = b.thread() + b.i32(part * threads);
            let row = (vector % across as i32) * way.rows() as i32;
            let k = (vector / across as i32) * depth as i32;
            let busy = ((part + 1) * threads > vectors).then(|| vector.lt(b.i32(vectors)));
            Part { row: row_at(row), k, to: shared.index(row, 4).index(k, pitch(rows)), busy }
        });
        let parts = parts.collect();
        Self { side, way, pitch: pitch(rows), shared, parts }
    }

    /// Reads this thread's vectors of the slice that begins at `from`; zeros from `end` on.
    fn read(&self, b: &'k Builder<'k>, from: I32<'k>, end: Option<I32<'k>>) -> Vec<Vec<F32<'k>>> {
        let count = self.way.rows() * self.way.depth();
        let read = |part: &Part<'k>| {
            let k = from + part.k;
            let load = || {
                let at = part.row.data.index(k, self.side.column);
                let values = at.load(self.side.dtype, count);
                match self.side.scale(part.row.scale, k) {
                    None => values,
                    Some(scale) => values.into_iter().map(|v| v * scale).collect(),
                }
            };
            let inside = match (end.map(|end| k.lt(end)), part.busy) {
                (Some(within), Some(busy)) => Some(within & busy),
                (within, busy) => within.or(busy),
            };
            match inside {
                None => load(),
                Some(inside) => b.if_else(inside, vec![b.f32(0.0); count as usize], load),
            }
        };
        self.parts.iter().map(read).collect()
    }

    /// Puts them into shared memory.
    fn write(&self, b: &'k Builder<'k>, values: &[Vec<F32<'k>>]) {
        for (part, values) in self.parts.iter().zip(values) {
            let store = || match self.way {
                Way::Down(_) => part.to.store(DType::F32, values),
                Way::Along(_) => {
                    for (k, &value) in values.iter().enumerate() {
                        part.to.add_const(k as u64 * self.pitch).store_scalar(value);
                    }
                }
            };
            match part.busy {
                None => store(),
                Some(busy) => b.if_(busy, store),
            }
        }
    }
}
