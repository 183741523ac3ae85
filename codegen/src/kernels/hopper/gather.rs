//! Rows of `a` that lie anywhere, gathered into stages by the threads of the copying warpgroup:
//! no copy of them in the order of the experts is needed.
//!
//! Eight threads copy the 128 bytes of a row, 16 bytes each, to where a tensor copy with the
//! 128-byte swizzle would put them: chunk `c` of row `r` at `c ^ (r % 8)` (PTX ISA, "Swizzling
//! Modes").
//!
//! These copies write by the generic proxy, tensor cores read by the async proxy. A fence orders
//! the two only for what has already been written, so a thread arrives at a stage some steps
//! after it has started its copies: when they have ended, and after the fence (PTX ISA, memory
//! consistency model, "Proxy-Preserved Base Causality Order").

use super::ring::{Ring, Step};
use super::tile::{ROW_BYTES, WARPGROUP};
use crate::builder::{Builder, I32, Ptr};
use crate::kernels::product::RowIn;

/// Bytes that a thread copies at once.
const CHUNK: u64 = 16;
/// Rows that the warpgroup copies at once.
const AT_ONCE: u64 = WARPGROUP as u64 * CHUNK / ROW_BYTES;

/// What one thread copies of a tile.
pub(super) struct Gather<'k, 't, 'r> {
    b: &'k Builder<'k>,
    ring: &'r Ring<'k, 't>,
    /// Bytes of a row.
    row_bytes: u64,
    /// The thread within its warpgroup.
    thread: I32<'k>,
    /// Where this thread's chunks come from.
    from: Vec<Ptr<'k>>,
    /// Rows that exist from the first of this thread's on; nothing of others is read.
    exist: I32<'k>,
    /// Where, from the start of a stage, the first of them goes.
    to: I32<'k>,
    /// The first scale of the row whose scales this thread copies, and how much of a chunk of
    /// them is read.
    scales: Option<(Ptr<'k>, I32<'k>)>,
}

impl<'k, 't, 'r> Gather<'k, 't, 'r> {
    /// For the rows that `row_at` says, each of `row_bytes` bytes, of which `exist` exist.
    pub(super) fn new(
        b: &'k Builder<'k>,
        ring: &'r Ring<'k, 't>,
        row_bytes: u64,
        exist: I32<'k>,
        row_at: &dyn Fn(I32<'k>) -> RowIn<'k>,
    ) -> Self {
        let thread = b.thread() % WARPGROUP as i32;
        let (row, chunk) = (thread / 8, thread % 8);
        let read = |row: I32<'k>| b.i32(CHUNK).when(row.lt(exist), b.i32(0));
        let rows = (0..ring.tile.rows / AT_ONCE).map(|i| row + b.i32(i * AT_ONCE));
        let from = rows.map(|row| row_at(row).data.index(chunk, CHUNK)).collect();
        let to = row * ROW_BYTES as i32 + (chunk ^ (row % 8)) * CHUNK as i32;
        let scales = match ring.tile.scale_bytes {
            0 => None,
            _ => {
                let row = thread.min(b.i32(ring.tile.rows - 1));
                row_at(row).scale.map(|first| (first, read(row)))
            }
        };
        Self { b, ring, row_bytes, thread, from, exist: exist.max(row) - row, to, scales }
    }

    /// Steps whose copies are under way while a thread goes on. The stages of the two others are
    /// the one that is being multiplied and the next, which is full already.
    fn under_way(&self) -> u64 {
        self.ring.tile.stages - 2
    }

    /// Starts to copy the rows' part of one step, and arrives at the stage of an earlier one.
    pub(super) fn copy(&self, step: Step<'k>) {
        let (b, ring, tile) = (self.b, self.ring, self.ring.tile);
        let chunk = (self.thread % 8) * CHUNK as i32;
        let panels = tile.panels_of_a();
        let of_panel = |panel: u64| {
            let first = step.index * (panels * ROW_BYTES) as i32 + b.i32(panel * ROW_BYTES);
            let bytes = self.rest(self.row_bytes, first + chunk, ROW_BYTES);
            (bytes, ring.at(tile.a(step.stage) + panel * tile.rows * ROW_BYTES) + self.to)
        };
        let of_panels: Vec<_> = (0..panels).map(of_panel).collect();
        // Worked out anew: registers are for addresses.
        let exist = self.exist.anew();
        for (panel, (bytes, to)) in (0..).zip(of_panels) {
            for (i, from) in (0..).zip(&self.from) {
                let to = to + b.i32(i * AT_ONCE * ROW_BYTES);
                let bytes = bytes.when(b.i32(i * AT_ONCE).lt(exist), b.i32(0));
                let from = from.index(step.index, panels * ROW_BYTES);
                b.copy_chunk(to, from.add_const(panel * ROW_BYTES), bytes);
            }
        }
        if let Some(scales) = self.scales.filter(|_| step.stage == 0) {
            match tile.rows < u64::from(WARPGROUP) {
                true => b.if_(self.thread.lt(b.i32(tile.rows)), || self.copy_scales(step, scales)),
                false => self.copy_scales(step, scales),
            }
        }
        b.commit_copies();
        let earlier = (step.stage + tile.stages - self.under_way()) % tile.stages;
        // Those of the tile before have all ended.
        let exists = match step.stage < self.under_way() {
            true => b.i32(0).when(step.index.eq(b.i32(step.stage)), b.i32(1)),
            false => b.i32(1),
        };
        self.arrive(earlier, self.under_way(), exists);
    }

    /// Arrives at the stages of a tile's last steps.
    pub(super) fn end(&self) {
        let (b, steps) = (self.b, self.ring.steps);
        for left in (0..self.under_way().min(steps)).rev() {
            self.arrive((steps - 1 - left) % self.ring.tile.stages, left, b.i32(1));
        }
    }

    /// Waits until the copies of all steps but the last `under_way` have ended; then arrives, if
    /// `exists` is not 0.
    fn arrive(&self, stage: u64, under_way: u64, exists: I32<'k>) {
        let (b, ring) = (self.b, self.ring);
        b.wait_copies(under_way);
        b.fence_async();
        b.mbarrier_arrive(ring.full(stage), exists);
    }

    /// Copies one row's scales of a round.
    fn copy_scales(&self, step: Step<'k>, (scales, most): (Ptr<'k>, I32<'k>)) {
        let (b, ring, tile) = (self.b, self.ring, self.ring.tile);
        let of_row = tile.stages * tile.scale_bytes;
        let set = ring.at(tile.scales(0)) + step.round * tile.scale_set() as i32;
        let to = set + self.thread * of_row as i32;
        let from = scales.index(step.index, tile.scale_bytes);
        let all = ring.steps * tile.scale_bytes;
        for at in (0..of_row).step_by(CHUNK as usize) {
            let bytes = self.rest(all, step.index * tile.scale_bytes as i32 + at as i32, of_row);
            b.copy_chunk(to + at as i32, from.add_const(at), bytes.min(most));
        }
    }

    /// How many bytes of the chunk at `at` are before `end`; all where `period` divides `end`.
    fn rest(&self, end: u64, at: I32<'k>, period: u64) -> I32<'k> {
        let b = self.b;
        match end.is_multiple_of(period) {
            true => b.i32(CHUNK),
            false => (b.i32(end) - at.min(b.i32(end))).min(b.i32(CHUNK)),
        }
    }
}
