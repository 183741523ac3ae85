//! Sums of this node's results for tokens of other nodes, on to those.

use super::finish::{Columns, weighted};
use super::member::{Member, Tasks};
use crate::builder::network::{Callers, Put};
use crate::builder::order::Scope;
use crate::builder::{Builder, Ptr};

/// Results for tokens of ranks of other nodes that have this rank's index.
pub(super) struct Gateway<'k, 'e> {
    pub(super) member: &'e Member<'k, 'e>,
    pub(super) columns: Columns,
    /// Region `RelayResults`.
    pub(super) relay: Ptr<'k>,
    /// Region `Partials`.
    pub(super) partials: Ptr<'k>,
}

impl<'k> Gateway<'k, '_> {
    /// A token at a time. Its sum takes the place of the first of its results: a lane reads all
    /// that it is about to overwrite.
    pub(super) fn run(&self, b: &'k Builder<'k>, tasks: Tasks<'k>) {
        b.note("role: sum results for other nodes");
        let (member, exchange) = (self.member, self.member.exchange);
        let (top_k, bytes) = (member.top_k(), exchange.result_bytes());
        let flag_at = exchange.result_flag_at();
        member.each_guest(tasks, |guest| {
            let lane = b.lane();
            let here = member.node_of(member.me);
            let near = member.node_of(guest.expert / member.each()).eq(here);
            let near = near & lane.lt(b.i32(top_k));
            let lanes = near.ballot();
            b.if_(lanes.ne(b.i32(0)), || {
                let first = (guest.node * member.most + guest.token) * top_k;
                let row = |which| self.relay.index(first + which, bytes);
                b.if_(near, || {
                    row(lane).add_const(flag_at).wait_acquire(member.epoch, Scope::System)
                });
                b.warp_barrier();
                let terms: Vec<_> = (0..top_k)
                    .map(|which| {
                        let exists = ((lanes >> which) & 1).ne(b.i32(0));
                        let weight = guest.weight.shuffle_from(b.i32(which)).bits();
                        (Some(exists), weight, row(b.i32(which)))
                    })
                    .collect();
                let sum = row(lanes.lowest_one());
                self.columns.each(b, |column| {
                    let sums = weighted(b, self.columns, &terms, column);
                    self.columns.row_at(sum, column).store(self.columns.dtype, &sums);
                });
                b.fence_system();
                b.warp_barrier();
                let to = self.partials.index(here * member.most + guest.token, bytes);
                let put = Put {
                    to,
                    from: sum,
                    bytes: b.i64(flag_at as i64),
                    flag: to.add_const(flag_at),
                    value: member.epoch,
                    rank: guest.rank,
                };
                b.put_signal(Callers::Warp, put);
            });
        });
    }
}
