//! Results of 16 bits on their way through shared memory, so that whole rows of a panel are
//! written at once: in registers a row's neighbours are two by two in different lanes.
//!
//! Each warp has two panels of its 16 rows: one is filled while the other is read. No other warp
//! has to be waited for.

use super::operand::boxed;
use super::tile::{ROW_BYTES, Tile};
use crate::builder::convert::pack;
use crate::builder::tensor_copy::TensorMapPtr;
use crate::builder::{Bool, Builder, F32, I32, Ptr};
use crate::tensor::vector_width;
use moec_ir::kernel::View;
use moec_ir::plan::TensorMap;
use moec_ir::{DType, Target};

/// Rows of a panel: those of a warp in a product of a warpgroup.
const ROWS: u64 = 16;
/// Panels of a warp.
const PER_WARP: u64 = 2;
/// Bytes of a chunk: what `stmatrix` writes at once, and what a swizzle permutes.
const CHUNK: u64 = 16;
/// Rows after which the permutation of chunks repeats itself.
const PATTERN_ROWS: u64 = 8;

/// Panels and their place in shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panels {
    dtype: DType,
    /// Columns: 64, 32 or 16.
    columns: u64,
    /// Where in shared memory the first lies.
    first: u64,
    /// Warps that have panels.
    warps: u64,
}

impl Panels {
    /// The widest panels that divide a tile and fit behind it; for results that 16 bytes of a row
    /// can be written of at once.
    pub(super) fn fit(tile: &Tile, c: &View, target: &Target) -> Option<Self> {
        let bytes = c.dtype.bytes();
        if bytes != 2 || vector_width(c) * bytes < CHUNK {
            return None;
        }
        let panels = |columns: u64| Self {
            dtype: c.dtype,
            columns,
            first: tile.shared_bytes().next_multiple_of(PATTERN_ROWS * columns * bytes),
            warps: tile.consumers() * 4,
        };
        [64, 32, 16]
            .into_iter()
            .filter(|&columns| tile.columns.is_multiple_of(columns))
            .map(panels)
            .find(|panels| panels.end() <= u64::from(target.shared_per_cta))
    }

    /// Where shared memory ends.
    pub(super) fn end(&self) -> u64 {
        self.first + self.warps * PER_WARP * self.bytes()
    }

    /// The tensor map of results that panels are stored to.
    pub(super) fn tensor_map(&self, operand: usize, c: &View) -> Option<TensorMap> {
        boxed(operand, c, [self.columns, ROWS], self.row_bytes() as u32)
    }

    fn row_bytes(&self) -> u64 {
        self.columns * self.dtype.bytes()
    }

    fn bytes(&self) -> u64 {
        ROWS * self.row_bytes()
    }

    /// This lane's share of the panels of its warp, worked out here and now: the loop over tiles has
    /// no registers for what is only needed at the end of each.
    pub(super) fn of_lane<'k>(&self, b: &'k Builder<'k>) -> LanePanels<'k> {
        let thread = b.thread().anew();
        let of_warp = b.dynamic_shared() + self.first as i32;
        let of_warp = of_warp + thread / 32 * (PER_WARP * self.bytes()) as i32;
        LanePanels { b, panels: *self, thread, of_warp }
    }

    /// What the number of a chunk in that row is combined with: the swizzle of as many bytes as a
    /// row has (PTX ISA 5.5.6): bits 4 to 6 of an address, as far as the swizzle reaches, with bits
    /// 7 to 9.
    fn permutation<'k>(&self, row: I32<'k>) -> I32<'k> {
        let rows_per_line = (ROW_BYTES / self.row_bytes()) as i32;
        (row / rows_per_line) % (self.row_bytes() / CHUNK) as i32
    }
}

/// Before a thread that stores by tensor copies ends: shared memory is read until then.
pub(super) fn end(b: &Builder<'_>) {
    b.if_(b.lane().eq(b.i32(0)), || b.wait_stores_read(0));
}

/// The panels of a warp as one of its lanes sees them.
pub(super) struct LanePanels<'k> {
    pub(super) b: &'k Builder<'k>,
    panels: Panels,
    thread: I32<'k>,
    /// The first panel of the warp.
    of_warp: I32<'k>,
}

impl<'k> LanePanels<'k> {
    /// Stores results by tensor copies, a group for each panel: those of this thread in each
    /// product of 64 rows. `at` gives the coordinates of this warp's rows of a product, that many
    /// columns beside the first.
    pub(super) fn send(
        &self,
        map: TensorMapPtr<'k>,
        waves: &[Vec<F32<'k>>],
        at: impl Fn(usize, u64) -> Vec<I32<'k>>,
    ) {
        let b = self.b;
        let leads = self.lane().eq(b.i32(0));
        let mut count = 0;
        for (wave, sums) in waves.iter().enumerate() {
            for (beside, sums) in sums.chunks(self.sums()).enumerate() {
                let panel = self.of_warp + ((count % PER_WARP) * self.panels.bytes()) as i32;
                // The first wait of a tile is for both panels.
                if count != 1 {
                    let pending = if count == 0 { 0 } else { PER_WARP - 1 };
                    b.if_(leads, || b.wait_stores_read(pending));
                    b.warp_barrier();
                }
                self.fill(panel, sums);
                b.fence_async();
                b.warp_barrier();
                b.if_(leads, || {
                    b.tensor_store(map, &at(wave, beside as u64 * self.panels.columns), panel);
                    b.commit_stores();
                });
                count += 1;
            }
        }
    }

    fn lane(&self) -> I32<'k> {
        self.thread % 32
    }

    /// Writes the products of 64 rows by the lanes of each warp, 16 bytes each. `out` says for a
    /// row of the warp's 16 whether it exists and where its first result of these goes; of the
    /// columns, `exist` from there on.
    pub(super) fn write(
        &self,
        sums: &[F32<'k>],
        exist: I32<'k>,
        out: impl Fn(I32<'k>) -> (Bool<'k>, Ptr<'k>),
    ) {
        let (b, panels) = (self.b, &self.panels);
        let chunks = panels.row_bytes() / CHUNK;
        let rows_at_once = 32 / chunks;
        let chunk = self.lane() % chunks as i32;
        let rows: Vec<_> = (0..ROWS / rows_at_once)
            .map(|i| {
                let row = self.lane() / chunks as i32 + b.i32(i * rows_at_once);
                let from = row * panels.row_bytes() as i32
                    + (chunk ^ panels.permutation(row)) * CHUNK as i32;
                (out(row), from)
            })
            .collect();
        let elements = CHUNK / panels.dtype.bytes();
        let own = chunk * elements as i32;
        for (beside, sums) in (0..).zip(sums.chunks(self.sums())) {
            let offset = (beside % PER_WARP) * panels.bytes();
            self.fill(self.of_warp + offset as i32, sums);
            b.warp_barrier();
            let from_panel = b
                .dynamic_shared_ptr()
                .add_const(panels.first + offset)
                .index(self.thread / 32, PER_WARP * panels.bytes());
            let column = own + b.i32(beside * panels.columns);
            for &((exists, to), from) in &rows {
                b.if_(exists & column.lt(exist), || {
                    let words = from_panel.index(from, 1).load_words::<i32>(4);
                    to.index(column, panels.dtype.bytes()).store_words(&words);
                });
            }
        }
        // Panels are filled anew when all lanes have read these.
        b.warp_barrier();
    }

    /// Sums of a thread in a panel.
    fn sums(&self) -> usize {
        (self.panels.columns / 2) as usize
    }

    /// Puts sums into a panel: of each 16 columns a thread has two and two in the columns 8 to the
    /// right, in each of two rows 8 apart.
    fn fill(&self, panel: I32<'k>, sums: &[F32<'k>]) {
        let (b, panels) = (self.b, &self.panels);
        let row = self.lane() % 16;
        let chunk = (self.lane() / 16) ^ panels.permutation(row);
        let first = row * panels.row_bytes() as i32 + chunk * CHUNK as i32;
        for (pair, sums) in (0..).zip(sums.chunks(8)) {
            let words = [0, 2, 4, 6].map(|i| pack(panels.dtype, &sums[i..i + 2]));
            b.store_matrices(panel + (first ^ b.i32(2 * CHUNK * pair)), words);
        }
    }
}
