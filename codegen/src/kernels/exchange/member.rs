//! This rank in its group, and the routes that ranks told.

use crate::builder::{Bool, Builder, I32, I64, Ptr};
use moec_ir::kernel::Exchange;
use moec_ir::kernel::exchange::routes;

/// This rank.
pub(super) struct Member<'k, 'e> {
    pub(super) b: &'k Builder<'k>,
    pub(super) exchange: &'e Exchange,
    /// What the runtime says of the group.
    group: Ptr<'k>,
    /// Region `Routes`.
    pub(super) routes: Ptr<'k>,
    /// Its number.
    pub(super) me: I32<'k>,
    /// The most tokens of any rank.
    pub(super) most: I32<'k>,
    /// The number of this exchange.
    pub(super) epoch: I64<'k>,
}

impl<'k, 'e> Member<'k, 'e> {
    /// In the exchange that is `ahead` of the last one that has ended.
    pub(super) fn new(
        b: &'k Builder<'k>,
        exchange: &'e Exchange,
        [group, routes]: [usize; 2],
        ahead: i64,
    ) -> Self {
        let group = b.operand(group).read_only();
        let routes = b.operand(routes);
        let word = |i: u64| group.add_const(8 * i).load_scalar::<i64>().low_word();
        let done: I64<'k> = routes.add_const(routes::DONE).load_scalar();
        let me = if exchange.ranks.is_one() { b.i32(0) } else { word(0) };
        Self { b, exchange, group, routes, me, most: word(1), epoch: done + ahead }
    }

    /// Ranks of the group.
    pub(super) fn ranks(&self) -> i32 {
        self.exchange.ranks.count().cast_signed()
    }

    /// Whether all ranks reach each other's memory.
    pub(super) fn is_one_node(&self) -> bool {
        self.exchange.ranks.nodes() == 1
    }

    /// Experts of a token.
    pub(super) fn top_k(&self) -> i32 {
        self.exchange.top_k as i32
    }

    /// Experts of a rank.
    pub(super) fn each(&self) -> i32 {
        self.exchange.experts_each() as i32
    }

    /// The node of a rank.
    pub(super) fn node_of(&self, rank: I32<'k>) -> I32<'k> {
        match self.is_one_node() {
            true => self.b.i32(0),
            false => rank / self.exchange.ranks.per_node().cast_signed(),
        }
    }

    /// The rank of that node which has the index of `rank`.
    pub(super) fn at_node(&self, node: I32<'k>, rank: I32<'k>) -> I32<'k> {
        let per_node = self.exchange.ranks.per_node().cast_signed();
        match self.is_one_node() {
            true => rank,
            false => node * per_node + rank % per_node,
        }
    }

    /// Of so many nodes but this one, the one of that index.
    pub(super) fn other_node(&self, index: I32<'k>) -> I32<'k> {
        let own = self.node_of(self.me);
        index + self.b.i32(0).when(index.lt(own), self.b.i32(1))
    }

    /// What to add to an address of this rank for the same place of another of the node.
    pub(super) fn distance(&self, rank: I32<'k>) -> I64<'k> {
        match self.exchange.ranks.is_one() {
            true => self.b.i64(0),
            false => self.group.index(rank, 8).add_const(16).load_scalar(),
        }
    }

    /// What a rank told of its routes.
    pub(super) fn block(&self, rank: I32<'k>) -> Ptr<'k> {
        let b = self.b;
        let parity = self.epoch.low_word() % 2;
        let pairs = self.most.wide() * (self.exchange.top_k * routes::PAIR) as i64;
        let bytes = pairs + routes::PAIRS as i64;
        self.routes.add_const(routes::BLOCKS).index_by(parity * b.i32(self.ranks()) + rank, bytes)
    }

    /// How many tokens a rank has.
    pub(super) fn tokens_of(&self, rank: I32<'k>) -> I32<'k> {
        self.block(rank).add_const(routes::TOKENS).load_scalar()
    }

    /// The expert and the weight of a pair of a rank's tokens.
    pub(super) fn pair_of(&self, rank: I32<'k>, pair: I32<'k>) -> [I32<'k>; 2] {
        let pair = self.block(rank).add_const(routes::PAIRS).index(pair, routes::PAIR);
        let words = pair.load_words(2);
        [words[0], words[1]]
    }

    /// The number of a token of a rank in the group.
    pub(super) fn number(&self, token: I32<'k>, rank: I32<'k>) -> I32<'k> {
        token * self.ranks() + rank
    }

    /// Of the lanes for which `counts` holds, those that are the first with their `value`.
    pub(super) fn leads(&self, value: I32<'k>, counts: Bool<'k>) -> Bool<'k> {
        let same = value.when(counts, self.b.i32(-1)).match_any();
        counts & same.lowest_one().eq(self.b.lane())
    }

    /// Calls `body` with each lane for which `holds` does, in order; whole warps come here.
    pub(super) fn each_lane(&self, holds: Bool<'k>, body: impl FnOnce(I32<'k>)) {
        let zero = self.b.i32(0);
        self.b.while_loop(
            holds.ballot(),
            |lanes| lanes.ne(zero),
            |lanes| {
                body(lanes.lowest_one());
                lanes & (lanes - 1)
            },
        );
    }
}

/// The tasks of a warp: every so manyth.
#[derive(Clone, Copy)]
pub(super) struct Tasks<'k> {
    /// Its first.
    pub(super) first: I32<'k>,
    /// From one to the next.
    pub(super) step: u64,
}

impl<'k> Tasks<'k> {
    /// Runs `body` for each of this warp's of so many tasks.
    pub(super) fn each(self, b: &'k Builder<'k>, count: I32<'k>, body: impl FnOnce(I32<'k>)) {
        b.for_loop(self.first, count, b.i32(self.step), (), |task, ()| body(task));
    }
}
