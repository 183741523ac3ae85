//! Rows that ranks of other nodes sent to this one, to the ranks of this node.

use super::copy::copy;
use super::member::{Member, Tasks};
use crate::builder::order::Scope;
use crate::builder::{Builder, I32, Ptr};

/// Rows of other nodes, and where they go.
pub(super) struct HandOn<'k, 'e> {
    pub(super) member: &'e Member<'k, 'e>,
    /// Region `Relay`.
    pub(super) relay: Ptr<'k>,
    /// Region `Rows`.
    pub(super) rows: Ptr<'k>,
}

/// A token of a rank of another node that has this rank's index.
pub(super) struct Guest<'k> {
    /// Its node.
    pub(super) node: I32<'k>,
    /// Its rank.
    pub(super) rank: I32<'k>,
    /// The token.
    pub(super) token: I32<'k>,
    /// Its expert in this lane, of the first `k`, and the bits of its weight.
    pub(super) expert: I32<'k>,
    pub(super) weight: I32<'k>,
}

impl<'k> Member<'k, '_> {
    /// Runs `body` for each of this warp's tokens of other nodes' ranks of this index.
    pub(super) fn each_guest(&self, tasks: Tasks<'k>, body: impl FnOnce(Guest<'k>)) {
        let b = self.b;
        let others = self.exchange.ranks.nodes().cast_signed() - 1;
        tasks.each(b, self.most * others, |task| {
            let (node, token) = (self.other_node(task % others), task / others);
            let rank = self.at_node(node, self.me);
            b.if_(token.lt(self.tokens_of(rank)), || {
                let lane = b.lane().min(b.i32(self.top_k() - 1));
                let [expert, weight] = self.pair_of(rank, token * self.top_k() + lane);
                body(Guest { node, rank, token, expert, weight });
            });
        });
    }
}

impl<'k> HandOn<'k, '_> {
    /// A token at a time, as soon as it is there: its rank sends it before it waits for anything.
    pub(super) fn run(&self, b: &'k Builder<'k>, tasks: Tasks<'k>) {
        b.note("role: hand on rows from other nodes");
        let (member, exchange) = (self.member, self.member.exchange);
        member.each_guest(tasks, |guest| {
            let rank = guest.expert / member.each();
            let chooses = b.lane().lt(b.i32(member.top_k()));
            let near = member.node_of(rank).eq(member.node_of(member.me));
            let leads = member.leads(rank, chooses & near);
            b.if_(leads.ballot().ne(b.i32(0)), || {
                let place = guest.node * member.most + guest.token;
                let from = self.relay.index(place, exchange.row_bytes());
                let flag = from.add_const(exchange.row_flag_at());
                flag.wait_acquire(member.epoch, Scope::System);
                let number = member.number(guest.token, guest.rank);
                let own = self.rows.index(number, exchange.row_bytes());
                member.each_lane(leads, |leader| {
                    let to = own.of_peer(member.distance(rank.shuffle_from(leader)));
                    copy(b, from, to, exchange.row_flag_at(), 16);
                });
                b.warp_barrier();
                b.if_(leads, || {
                    let flag = own.of_peer(member.distance(rank));
                    let flag = flag.add_const(exchange.row_flag_at());
                    flag.store_release(member.epoch, Scope::System);
                });
            });
        });
    }
}
