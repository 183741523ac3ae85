//! The rows of this rank's experts in the order of the plan, as the two products find them.

use super::member::{Member, Tasks};
use super::progress::{Progress, Stage};
use crate::builder::order::Scope;
use crate::builder::{Builder, I32, Ptr};
use crate::kernels::hopper::{
    ExpertTile, ExpertTiles, First, Rows as TileRows, SortedRows, TOGETHER,
};
use crate::kernels::product::{RowIn, RowOut};
use moec_ir::kernel::Exchange;

/// The plan of the routes to this rank's experts: offsets of their rows, where the last ones end
/// and those that are not this rank's, then the rows.
#[derive(Clone, Copy)]
pub(super) struct Plan<'k> {
    /// Where it begins.
    pub(super) route: Ptr<'k>,
    /// Where the rows' pairs begin.
    pairs: Ptr<'k>,
    /// Rows of this rank's experts.
    pub(super) total: I32<'k>,
    experts: u64,
}

/// Rows of an expert that are computed before those of the next: the first ones of every expert are
/// there when ranks have sent their first tokens, and they are enough that reading the expert's
/// matrix takes less time than multiplying with it (a row is 2 operations for each byte of FP8; an
/// H800 does 1979e12 of them a second and reads 3.35e12 bytes, its whitepaper: 295 rows).
const ROWS_AT_ONCE: u64 = 512;

/// Blocks of so many rows that experts take turns with; none where they do not, since there are too
/// many of them.
pub(super) fn turns(experts: u64, rows: u64) -> Option<u64> {
    (experts <= TOGETHER).then_some(ROWS_AT_ONCE.div_ceil(rows))
}

impl<'k> Plan<'k> {
    /// The plan that an operand has.
    pub(super) fn new(b: &'k Builder<'k>, operand: usize, exchange: &Exchange) -> Self {
        let each = exchange.experts_each();
        let route = b.operand(operand).read_only();
        let total = route.add_const(4 * each).load_scalar();
        Self { route, pairs: route.add_const(4 * (each + 2)), total, experts: each }
    }

    /// Runs `body` for each of this warp's rows, in the order in which they are computed.
    pub(super) fn each_row(
        &self,
        b: &'k Builder<'k>,
        tasks: Tasks<'k>,
        body: impl FnOnce(I32<'k>),
    ) {
        let tiles = ExpertTiles {
            b,
            rows: TileRows::Sorted(self.route),
            experts: self.experts,
            tile: [1, 1],
            across: 1,
            step: tasks.step,
            first: First::Is(tasks.first),
            at_once: turns(self.experts, 1),
        };
        tiles.each((), |tile, ()| body(tile.place.row));
    }

    /// The pair of a row: the token's number times `k`, and which of the token's experts.
    pub(super) fn pair(&self, row: I32<'k>) -> I32<'k> {
        self.pairs.index(row, 4).load_scalar()
    }
}

/// One of the two products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    First,
    Second,
}

/// The rows of a product.
pub(super) struct Rows<'k, 'e> {
    pub(super) b: &'k Builder<'k>,
    pub(super) member: &'e Member<'k, 'e>,
    pub(super) plan: Plan<'k>,
    pub(super) progress: Progress<'k>,
    /// Region `Rows`.
    pub(super) rows: Ptr<'k>,
    pub(super) which: Which,
    /// Whether its operands are of FP8.
    pub(super) scaled: bool,
    /// Rows of a block, and parts in which its results are counted.
    pub(super) block: [u64; 2],
}

/// The number of the barrier at which the threads of the gathering warpgroup meet.
const GATHERING: u64 = 2;
/// Threads of a warpgroup.
const WARPGROUP: u64 = 128;

impl<'k> Rows<'k, '_> {
    /// The token of a row.
    fn sent(&self, row: I32<'k>) -> Ptr<'k> {
        let number = self.plan.pair(row) / self.member.top_k();
        self.rows.index(number, self.member.exchange.row_bytes())
    }

    /// Waits until a row can be read.
    pub(super) fn wait(&self, row: I32<'k>) {
        match self.which {
            Which::First => {
                let flag = self.sent(row).add_const(self.member.exchange.row_flag_at());
                flag.wait_acquire(self.member.epoch, Scope::System);
            }
            Which::Second => self.progress.wait(row, Stage::Middle),
        }
    }

    /// Waits in thread `i` of at least so many as a block has rows for row `i` of a tile.
    pub(super) fn wait_all(&self, tile: &ExpertTile<'k>, thread: I32<'k>) {
        let row = tile.place.row + thread;
        let exists = thread.lt(self.b.i32(self.block[0])) & row.lt(tile.end);
        self.b.if_(exists, || self.wait(row));
    }

    /// Counts a part of a tile's results, by a warp.
    pub(super) fn count(&self, tile: &ExpertTile<'k>) {
        let [rows, parts] = self.block;
        let first = tile.place.row;
        let stage = match self.which {
            Which::First => Stage::Hidden,
            Which::Second => Stage::Result,
        };
        self.progress.count(stage, [first, (first + self.b.i32(rows)).min(tile.end)], parts);
    }
}

impl<'k> SortedRows<'k> for Rows<'k, '_> {
    fn a(&self, row: I32<'k>) -> RowIn<'k> {
        let (data, scales) = match self.which {
            Which::First => (self.sent(row), self.member.exchange.scales_at()),
            Which::Second => {
                let parts = self.progress.row;
                (self.progress.at(row, parts.middle), parts.middle_scales - parts.middle)
            }
        };
        RowIn { data, scale: self.scaled.then(|| data.add_const(scales)) }
    }

    fn out(&self, row: I32<'k>, end: I32<'k>) -> RowOut<'k> {
        let part = match self.which {
            Which::First => self.progress.row.hidden,
            Which::Second => self.progress.row.result,
        };
        let c = self.progress.at(row.min(end - 1), part);
        RowOut { exists: row.lt(end), c, add: None }
    }

    fn before(&self, tile: &ExpertTile<'k>) {
        self.wait_all(tile, self.b.thread() % WARPGROUP as i32);
        self.b.named_barrier(GATHERING, WARPGROUP);
    }

    fn after(&self, tile: &ExpertTile<'k>) {
        self.count(tile);
    }
}
