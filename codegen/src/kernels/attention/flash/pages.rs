//! Keys and values in pages: where the rows of a block lie, and which of them no sequence owns.
//!
//! Blocks are of rows as sequences number them; a sequence begins with a page, so that what lies
//! behind its last key in that key's page is nobody's. Such a row may hold anything. No token sees
//! it, but a weight of 0 makes nothing of a value only where that is a number.

use super::Cta;
use super::consumer::Consumer;
use super::layout::{CONSUMERS, STAGES, WARPGROUP, panel_bytes};
use super::rows::Span;
use crate::builder::{Builder, I32, wgmma};

/// Threads that multiply.
const ALL: u64 = CONSUMERS * WARPGROUP as u64;
/// Bytes that a thread clears at once.
const CHUNK: u64 = 16;
/// Rows that all threads clear at once.
const CLEARED: u64 = ALL * CHUNK / wgmma::ROW_BYTES;
/// Rows of a page, at least: those that are cleared at once belong to one.
pub(super) const FEWEST_ROWS: u64 = CLEARED;
/// The barrier at which the multiplying threads meet; 0 is that of the whole CTA.
const MEETING: u64 = 1;

/// Before which key each between the first and the last that tokens of a CTA see is seen by some
/// token: the end, where all are of one sequence.
pub(super) fn dense_end<'k>(b: &'k Builder<'k>, spans: &[Span<'k>]) -> I32<'k> {
    let most = |numbers: &dyn Fn(&Span<'k>) -> I32<'k>| {
        spans.iter().map(numbers).reduce(I32::max).unwrap_or(b.i32(0)).warp_max()
    };
    let least = |numbers: &dyn Fn(&Span<'k>) -> I32<'k>| {
        spans.iter().map(numbers).reduce(I32::min).unwrap_or(b.i32(0)).warp_min()
    };
    let one = least(&|span| span.first).eq(most(&|span| span.first));
    // Of several sequences, the one that begins first has the least end.
    most(&|span| span.end).when(one, least(&|span| span.end))
}

impl<'k> Cta<'k, '_> {
    /// Where the rows of a block lie, each for as many as are copied at once. In place of a page
    /// behind the last comes that one again.
    pub(super) fn rows_of(&self, block: I32<'k>) -> Vec<I32<'k>> {
        let (b, layout) = (self.b, &self.design.layout);
        let first = self.first_key + block * layout.keys as i32;
        let Some((pages, size)) = self.operands.pages else { return vec![first] };
        let place = |row: I32<'k>| {
            let page = row.min(self.end - 1) / b.i32(size);
            let page: I32<'k> = pages.index(page, 4).load_scalar();
            page * b.i32(size) + row % b.i32(size)
        };
        (0..layout.keys).step_by(layout.copied as usize).map(|i| place(first + i as i32)).collect()
    }
}

impl<'k> Consumer<'k, '_, '_> {
    /// Writes zeros to the values of a block that no token sees, where there may be such; all
    /// threads that multiply come here.
    pub(super) fn clear_gaps(&self, block: I32<'k>) {
        let (b, cta, layout) = (self.cta.b, self.cta, &self.cta.design.layout);
        let Some(dense_end) = cta.dense_end else { return };
        let from = cta.first_key + block * layout.keys as i32;
        b.if_(dense_end.lt(from + layout.keys as i32), || {
            self.wait(block, STAGES);
            let spans = Span::of_lane(b, cta.operands, cta.first_token, cta.n_tokens);
            let chunk = b.thread() * CHUNK as i32;
            let row = chunk / wgmma::ROW_BYTES as i32;
            let to = b.dynamic_shared_ptr().add_const(layout.values_at());
            let to = to.index(self.stage(block), layout.values_bytes()).index(chunk, 1);
            for first in (0..layout.keys).step_by(CLEARED as usize) {
                let from = from + first as i32;
                // One sequence at most has keys among these; of one before it none are.
                let end_of = |span: &Span<'k>| span.end.when(span.first.le(from), b.i32(0));
                let ends = spans.iter().map(end_of).reduce(I32::max);
                let end = ends.unwrap_or(from).warp_max();
                b.if_(end.le(from + row), || {
                    for panel in 0..layout.value.panels {
                        let within = panel * panel_bytes(layout.keys) + first * wgmma::ROW_BYTES;
                        to.add_const(within).store_words(&[b.i32(0); 4]);
                    }
                });
            }
            b.fence_async();
            b.named_barrier(MEETING, ALL);
        });
    }
}
