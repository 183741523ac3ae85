//! Results of this rank's experts to where their tokens came from.

use super::copy::copy;
use super::member::{Member, Tasks};
use super::progress::{Progress, Stage};
use super::sorted::Plan;
use crate::builder::order::Scope;
use crate::builder::{Builder, Ptr};

/// Results, and where they go.
pub(super) struct GiveBack<'k, 'e> {
    pub(super) member: &'e Member<'k, 'e>,
    pub(super) plan: Plan<'k>,
    pub(super) progress: Progress<'k>,
    /// Region `Results`.
    pub(super) results: Ptr<'k>,
    /// Region `RelayResults`.
    pub(super) relay: Ptr<'k>,
}

impl<'k> GiveBack<'k, '_> {
    /// A row at a time, in the order in which they are computed.
    pub(super) fn run(&self, b: &'k Builder<'k>, tasks: Tasks<'k>) {
        b.note("role: give results back");
        let (member, exchange) = (self.member, self.member.exchange);
        let (top_k, bytes) = (member.top_k(), exchange.result_bytes());
        self.plan.each_row(b, tasks, |row| {
            let pair = self.plan.pair(row);
            let (number, which) = (pair / top_k, pair % top_k);
            let (token, rank) = (number / member.ranks(), number % member.ranks());
            let direct =
                || self.results.index(token * top_k + which, bytes).of_peer(member.distance(rank));
            let to = match member.is_one_node() {
                true => direct(),
                false => {
                    let (node, here) = (member.node_of(rank), member.node_of(member.me));
                    let place = (node * member.most + token) * top_k + which;
                    let gateway = member.distance(member.at_node(here, rank));
                    let relayed = self.relay.index(place, bytes).of_peer(gateway);
                    // A rank of another node is not reached; nothing is read at its address.
                    Ptr::either(node.eq(here), direct(), relayed)
                }
            };
            self.progress.wait(row, Stage::Result);
            let from = self.progress.at(row, self.progress.row.result);
            copy(b, from, to, exchange.result_flag_at(), 16);
            b.warp_barrier();
            b.if_(b.lane().eq(b.i32(0)), || {
                let flag = to.add_const(exchange.result_flag_at());
                flag.store_release(member.epoch, Scope::System);
            });
        });
    }
}
