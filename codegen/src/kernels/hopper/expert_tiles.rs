//! Which tile of which expert a CTA computes next.
//!
//! The rows of each expert are cut into blocks; how many there are is known only on the device.
//! Tiles are counted by blocks of all experts in turn, the tiles of a block side by side. Where rows
//! come little by little, in the order of the blocks of each expert, a few blocks of each expert are
//! counted, then a few more of each.

use super::schedule::Place;
use crate::builder::{Builder, Carried, I32, Ptr};

/// The experts' tiles, as a warp finds them.
pub(in crate::kernels) struct ExpertTiles<'k> {
    pub(in crate::kernels) b: &'k Builder<'k>,
    pub(in crate::kernels) rows: Rows<'k>,
    pub(in crate::kernels) experts: u64,
    /// Rows and columns of a tile.
    pub(in crate::kernels) tile: [u64; 2],
    /// Tiles side by side.
    pub(in crate::kernels) across: u64,
    /// From one tile of a CTA (or a warp) to its next.
    pub(in crate::kernels) step: u64,
    pub(in crate::kernels) first: First<'k>,
    /// Blocks of an expert that are counted before the next expert's; all without. At most 32
    /// experts then.
    pub(in crate::kernels) at_once: Option<u64>,
}

/// The first tile.
#[derive(Clone, Copy)]
pub(in crate::kernels) enum First<'k> {
    /// That of the CTA's number.
    Cta,
    /// That one.
    Is(I32<'k>),
}

/// Experts whose blocks a warp looks at together.
pub(in crate::kernels) const TOGETHER: u64 = 32;

/// Where the experts' rows are.
#[derive(Clone, Copy)]
pub(in crate::kernels) enum Rows<'k> {
    /// Those of all experts in turn, between the offsets that a plan of routes begins with.
    Sorted(Ptr<'k>),
    /// Each expert's in a place of its own, from its beginning on: how many of `capacity` rows are
    /// used.
    Counted { count: Ptr<'k>, capacity: I32<'k> },
}

/// A tile of an expert.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct ExpertTile<'k> {
    /// First row among those of all experts or of its place, first column, and the expert.
    pub(in crate::kernels) place: Place<'k>,
    /// Where the expert's rows end.
    pub(in crate::kernels) end: I32<'k>,
}

impl<'k> ExpertTiles<'k> {
    /// Runs `body` for each of this CTA's tiles. Whole warps come here.
    pub(in crate::kernels) fn each<C: Carried<'k>>(
        &self,
        carried: C,
        body: impl FnOnce(ExpertTile<'k>, C) -> C,
    ) {
        let b = self.b;
        let (zero, across) = (b.i32(0), b.i32(self.across));
        let all = b.i32(self.experts.next_multiple_of(32));
        let blocks = match self.at_once {
            None => b.for_loop(zero, all, b.i32(32), zero, |from, before| {
                before + self.blocks(from).through.shuffle_from(b.i32(31))
            }),
            Some(_) => self.blocks_of(zero, |_, own| own).through.shuffle_from(b.i32(31)),
        };
        // Tiles come in ascending order, so that the search goes on from the last tile's place.
        let start = (vec![zero, zero], carried);
        let step = b.i32(self.step);
        let first = match self.first {
            First::Cta => b.cta(0),
            First::Is(first) => first,
        };
        b.for_loop(first, blocks * across, step, start, |index, (at, carried)| {
            let (tile, at) = self.find(index / across, (index % across) * self.columns(), at);
            (at, body(tile, carried))
        });
    }

    fn columns(&self) -> i32 {
        self.tile[1] as i32
    }

    /// The blocks of 32 experts from `from` on, or where experts take turns those of turn `from`:
    /// those of this lane's expert.
    fn blocks(&self, from: I32<'k>) -> Blocks<'k> {
        let b = self.b;
        let Some(at_once) = self.at_once else { return self.blocks_of(from, |_, own| own) };
        let earlier = from * b.i32(at_once);
        self.blocks_of(b.i32(0), |first, own| {
            let earlier = earlier.min(own);
            *first = *first + earlier * self.tile[0] as i32;
            (own - earlier).min(b.i32(at_once))
        })
    }

    /// The blocks of 32 experts from `from` on, of which `part` takes some from a first row on.
    fn blocks_of(
        &self,
        from: I32<'k>,
        part: impl FnOnce(&mut I32<'k>, I32<'k>) -> I32<'k>,
    ) -> Blocks<'k> {
        let b = self.b;
        let n_experts = b.i32(self.experts);
        let expert = from + b.lane();
        let known = expert.min(n_experts - 1);
        let word = |from: Ptr<'k>| from.index(known, 4).load_scalar::<i32>();
        let (mut first, end) = match self.rows {
            Rows::Sorted(offsets) => (word(offsets), word(offsets.add_const(4))),
            Rows::Counted { count, capacity } => (b.i32(0), word(count).min(capacity)),
        };
        let own = (end - first).div_ceil(self.tile[0] as i32);
        let own = own.when(expert.lt(n_experts), b.i32(0));
        let own = part(&mut first, own);
        Blocks { first, end, own, through: own.inclusive_sum() }
    }

    /// The tile in block `wanted`, which exists; `at` is a multiple of 32 experts up to that
    /// block's expert, and the number of blocks before those: both are moved on.
    fn find(
        &self,
        wanted: I32<'k>,
        column: I32<'k>,
        at: Vec<I32<'k>>,
    ) -> (ExpertTile<'k>, Vec<I32<'k>>) {
        let b = self.b;
        let total = |from| self.blocks(from).through.shuffle_from(b.i32(31));
        let (from, before) = (at[0], at[1]);
        let next = if self.at_once.is_some() { 1 } else { 32 };
        let state = vec![from, before, before + total(from)];
        let state = b.while_loop(
            state,
            |s| s[2].le(wanted),
            |s| vec![s[0] + next, s[2], s[2] + total(s[0] + next)],
        );
        let (from, before) = (state[0], state[1]);
        let blocks = self.blocks(from);
        let through = blocks.through + before;
        let earlier = wanted - (through - blocks.own);
        let lane = wanted.lt(through).ballot().lowest_one();
        let row = (blocks.first + earlier * self.tile[0] as i32).shuffle_from(lane);
        let end = blocks.end.shuffle_from(lane);
        let batch = if self.at_once.is_some() { lane } else { from + lane };
        let place = Place { row, column, batch };
        (ExpertTile { place, end }, vec![from, before])
    }
}

/// What a lane knows of the blocks of 32 experts.
struct Blocks<'k> {
    /// Where the rows of this lane's expert begin and end.
    first: I32<'k>,
    end: I32<'k>,
    /// Its blocks.
    own: I32<'k>,
    /// Blocks up to and with its own.
    through: I32<'k>,
}
