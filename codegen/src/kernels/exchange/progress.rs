//! How far the rows of this rank's experts are.

use crate::builder::order::Scope;
use crate::builder::{Builder, I32, I64, Ptr};
use moec_ir::kernel::exchange::ProductRow;

/// What a row's flags tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The first product is there.
    Hidden,
    /// The operand of the second product is there.
    Middle,
    /// The second product is there.
    Result,
}

/// The rows of region `Products`.
#[derive(Clone, Copy)]
pub(super) struct Progress<'k> {
    pub(super) b: &'k Builder<'k>,
    /// The region.
    pub(super) products: Ptr<'k>,
    pub(super) row: ProductRow,
    /// The number of this exchange.
    pub(super) epoch: I64<'k>,
}

impl<'k> Progress<'k> {
    /// A part of a row.
    pub(super) fn at(&self, row: I32<'k>, part: u64) -> Ptr<'k> {
        self.products.index(row, self.row.bytes).add_const(part)
    }

    fn flag(&self, row: I32<'k>, stage: Stage) -> Ptr<'k> {
        self.at(row, self.row.flags + 8 * stage as u64)
    }

    /// Waits until a row is that far.
    pub(super) fn wait(&self, row: I32<'k>, stage: Stage) {
        self.flag(row, stage).wait_acquire(self.epoch, Scope::Gpu);
    }

    /// Says that a row is that far, when all lanes of the warp have stored their part of it.
    pub(super) fn done(&self, row: I32<'k>, stage: Stage) {
        let b = self.b;
        b.warp_barrier();
        b.if_(b.lane().eq(b.i32(0)), || {
            self.flag(row, stage).store_release(self.epoch, Scope::Gpu);
        });
    }

    /// Counts one more of `parts` of the rows `first..end` done, when all lanes of the warp have
    /// stored theirs. Whoever counts the last one has seen all others', and says so to who waits;
    /// nobody else will look at the counter in this exchange, which is 0 again for the next.
    pub(super) fn count(&self, stage: Stage, [first, end]: [I32<'k>; 2], parts: u64) {
        let b = self.b;
        let counter = self.at(first, self.row.counters + 4 * u64::from(stage == Stage::Result));
        let leads = b.lane().eq(b.i32(0));
        b.warp_barrier();
        let before = b.if_else(leads, b.i32(0), || counter.add_acquire_release(b.i32(1)));
        b.if_(before.shuffle_from(b.i32(0)).eq(b.i32(parts - 1)), || {
            b.if_(leads, || counter.store_scalar(b.i32(0)));
            b.warp_barrier();
            b.for_loop(first + b.lane(), end, b.i32(32), (), |row, ()| {
                self.flag(row, stage).store_release(self.epoch, Scope::Gpu);
            });
        });
    }
}
