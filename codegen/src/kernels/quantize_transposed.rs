//! Columns to FP8 with a scale per column and block of rows, stored as rows: an operand of a
//! product that sums over tokens, as the gradient of a weight does (DeepSeek-V3 3.3.3).
//!
//! A CTA takes a block of rows by 64 columns. Neighbouring lanes read neighbouring columns, a
//! thread four rows of eight; FP8 numbers pass through shared memory, 16 bytes of a column side by
//! side, and leave along the columns.

use super::quantize::scale_of;
use super::{Design, Step};
use crate::builder::convert::pack;
use crate::builder::{Bool, Builder, F32, I32, Ptr};
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;
use moec_ir::{DType, Diagnostic, ScaleFormat};

/// Columns of a CTA.
const COLUMNS: u64 = 64;
/// Lanes that read a row of them.
const LANES: u64 = 8;
/// Rows of a thread: their FP8 numbers of a column fill a 32-bit word.
const ROWS: u64 = 4;
/// Rows whose FP8 numbers of a column are stored at once: 16 bytes.
const CHUNK: u64 = 16;

struct QuantizeTransposed {
    x: View,
    q: View,
    scale: View,
    /// Rows that share a scale: a power of two, 16 to 512.
    block: u64,
    format: ScaleFormat,
    /// Columns that are read at once.
    width: u64,
}

pub(super) fn design(
    x: &View,
    [q, scale]: [&View; 2],
    block: u64,
    format: ScaleFormat,
    _: Step,
) -> Result<Box<dyn Design>, Diagnostic> {
    // A thread for each 4 x 8 numbers: 32 to 1024 of them.
    if !block.is_power_of_two() || !(16..=512).contains(&block) {
        let message = format!("a quantize_transposed kernel has blocks of {block} rows");
        return Err(
            Diagnostic::error("E0902", message).help("blocks are 16, 32, 64, 128, 256 or 512 rows")
        );
    }
    let width = vector_width(x).min(COLUMNS / LANES);
    let [x, q, scale] = [x, q, scale].map(View::clone);
    Ok(Box::new(QuantizeTransposed { x, q, scale, block, format, width }))
}

/// What a thread holds: for each of its columns four rows.
type Held<'k> = Vec<[F32<'k>; ROWS as usize]>;

impl Design for QuantizeTransposed {
    fn geometry(&self) -> Geometry {
        let [rows, columns] = [0, 1].map(|axis| self.x.shape[axis].clone());
        super::launch(&[(rows, self.block), (columns, COLUMNS)], self.threads() as u32)
    }

    fn operands(&self) -> usize {
        3
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let tile = Tile {
            rows: b.size(&self.x.shape[0]),
            columns: b.size(&self.x.shape[1]),
            first_row: b.cta(0) * self.block as i32,
            first_column: b.cta(1) * COLUMNS as i32,
            lane: b.thread() % LANES as i32,
            quad: b.thread() / LANES as i32,
        };
        let held = self.read(b, &tile);
        let scales = self.scales(b, &tile, &held);
        let bytes = b.shared_memory(COLUMNS * self.block);
        for (at, (rows, scale)) in (0..).zip(held.iter().zip(scales)) {
            let word = pack(DType::F8e4m3, &rows.map(|x| x / scale));
            let chunk = self.chunk(tile.quad / (CHUNK / ROWS) as i32, tile.lane);
            bytes
                .index(self.column(&tile, at), self.block)
                .index(chunk, CHUNK)
                .index(tile.quad % (CHUNK / ROWS) as i32, ROWS)
                .store_scalar(word);
        }
        b.barrier();
        self.store(b, &tile, bytes);
    }
}

/// A CTA's part of the matrix, and a thread's part of that.
struct Tile<'k> {
    rows: I32<'k>,
    columns: I32<'k>,
    first_row: I32<'k>,
    first_column: I32<'k>,
    /// Which of the lanes that read a row.
    lane: I32<'k>,
    /// Which four rows.
    quad: I32<'k>,
}

impl QuantizeTransposed {
    fn threads(&self) -> u64 {
        self.block / ROWS * LANES
    }

    /// The column within the tile of the `at`-th that a thread holds; the first of each vector is
    /// a multiple of its width.
    fn column<'k>(&self, tile: &Tile<'k>, at: u64) -> I32<'k> {
        let (vector, within) = (at / self.width, at % self.width);
        (tile.lane + (vector * LANES) as i32) * self.width as i32 + within as i32
    }

    /// Where a chunk of a column lies: chunks are permuted by the lane that holds the column, so
    /// that those of a warp lie in different banks.
    fn chunk<'k>(&self, chunk: I32<'k>, lane: I32<'k>) -> I32<'k> {
        chunk ^ (lane & (self.block / CHUNK - 1).min(LANES - 1) as i32)
    }

    /// This thread's numbers; zeros beyond the matrix.
    fn read<'k>(&self, b: &'k Builder<'k>, tile: &Tile<'k>) -> Held<'k> {
        let x = Tensor::operand(b, 0, &self.x).read_only();
        let zero = b.f32(0.0);
        let mut held = vec![];
        for vector in 0..COLUMNS / LANES / self.width {
            let column = tile.first_column + self.column(tile, vector * self.width);
            let rows: Vec<Vec<F32<'k>>> = (0..ROWS)
                .map(|i| {
                    let row = tile.first_row + tile.quad * ROWS as i32 + i as i32;
                    let inside = row.lt(tile.rows) & column.lt(tile.columns);
                    let zeros = vec![zero; self.width as usize];
                    b.if_else(inside, zeros, || x.load(&[row, column], self.width))
                })
                .collect();
            held.extend((0..self.width as usize).map(|j| [0, 1, 2, 3].map(|i: usize| rows[i][j])));
        }
        held
    }

    /// The scales of this thread's columns; those of the tile are stored.
    fn scales<'k>(&self, b: &'k Builder<'k>, tile: &Tile<'k>, held: &Held<'k>) -> Vec<F32<'k>> {
        let warps = self.threads() / 32;
        let greatest = b.shared_memory(4 * COLUMNS * warps);
        let scales = b.shared_memory(4 * COLUMNS);
        let of_warp: Vec<F32<'k>> = held
            .iter()
            .map(|rows| {
                let own = rows.iter().fold(b.f32(0.0), |most, x| most.max(x.abs()));
                // Lanes 8 and 16 apart hold the same columns.
                [8, 16].into_iter().fold(own, |most, far| most.max(most.shuffle_xor(far)))
            })
            .collect();
        let at = |row: Ptr<'k>, i: u64| row.index(self.column(tile, i), 4);
        let words = self.width.min(4);
        b.if_(b.lane().lt(b.i32(LANES)), || {
            let row = greatest.index(b.warp(), 4 * COLUMNS);
            for (i, chunk) in (0..).zip(of_warp.chunks(words as usize)) {
                at(row, i * words).store_words(chunk);
            }
        });
        b.barrier();
        let step = b.i32(self.threads());
        b.for_loop(b.thread(), b.i32(COLUMNS), step, (), |column, ()| {
            let most = (0..warps).fold(b.f32(0.0), |most, warp| {
                let of_warp = greatest.add_const(4 * COLUMNS * warp).index(column, 4);
                most.max(of_warp.load_scalar())
            });
            let scale = scale_of(b, most, self.format);
            scales.index(column, 4).store_scalar(scale);
            let out = Tensor::operand(b, 2, &self.scale);
            let column = tile.first_column + column;
            b.if_(column.lt(tile.columns), || out.store(&[column, b.cta(0)], &[scale]));
        });
        b.barrier();
        (0..COLUMNS / LANES / words)
            .flat_map(|i| at(scales, i * words).load_words(words as usize))
            .collect()
    }

    /// Stores the tile from shared memory, a chunk of a column per thread and turn.
    fn store<'k>(&self, b: &'k Builder<'k>, tile: &Tile<'k>, bytes: Ptr<'k>) {
        let chunks = self.block / CHUNK;
        let q = Tensor::operand(b, 1, &self.q);
        let (end, step) = (b.i32(COLUMNS * chunks), b.i32(self.threads()));
        b.for_loop(b.thread(), end, step, (), |at, ()| {
            let (column, chunk) = (at / chunks as i32, at % chunks as i32);
            let lane = column / self.width as i32 % LANES as i32;
            let place = bytes.index(column, self.block).index(self.chunk(chunk, lane), CHUNK);
            let words: Vec<I32<'k>> = place.load_words(4);
            let row = tile.first_row + chunk * CHUNK as i32;
            let column = tile.first_column + column;
            let exists = |further: u64| -> Bool<'k> {
                (row + further as i32).lt(tile.rows) & column.lt(tile.columns)
            };
            let each = || {
                for i in 0..CHUNK {
                    b.if_(exists(i), || {
                        let byte = (words[i as usize / 4] >> (i % 4 * 8) as i32).low_byte();
                        q.at(&[column, row + i as i32]).store_scalar(byte);
                    });
                }
            };
            match self.is_aligned() {
                true => {
                    b.if_or(exists(CHUNK - 1), || q.at(&[column, row]).store_words(&words), each)
                }
                false => each(),
            }
        });
    }

    /// Whether chunks begin at multiples of their size.
    fn is_aligned(&self) -> bool {
        let [to_column, to_row] = [self.q.strides[0], self.q.strides[1]];
        to_row == 1 && self.q.align >= CHUNK && to_column.is_multiple_of(CHUNK)
    }
}
