//! This rank's tokens to the ranks that have experts of theirs.

use super::copy::{copy, unit};
use super::member::{Member, Tasks};
use crate::builder::network::{Callers, Put};
use crate::builder::order::Scope;
use crate::builder::{Builder, I32, Ptr};
use crate::tensor::Tensor;
use moec_ir::Sym;
use moec_ir::kernel::SpreadExperts;

/// Rows of tokens, and where they go.
pub(super) struct Send<'k, 'e> {
    pub(super) member: &'e Member<'k, 'e>,
    pub(super) spec: &'e SpreadExperts,
    pub(super) x: Tensor<'k>,
    pub(super) x_scale: Option<Tensor<'k>>,
    pub(super) chosen: Tensor<'k>,
    /// Region `Rows`.
    pub(super) rows: Ptr<'k>,
    /// Region `Relay`.
    pub(super) relay: Ptr<'k>,
}

impl<'k> Send<'k, '_> {
    /// A token at a time. Nobody is waited for.
    pub(super) fn run(&self, b: &'k Builder<'k>, tasks: Tasks<'k>) {
        b.note("role: send rows of this rank's tokens");
        let tokens = b.size(&Sym::Tokens.into());
        tasks.each(b, tokens, |token| self.token(b, token));
    }

    fn token(&self, b: &'k Builder<'k>, token: I32<'k>) {
        let (member, exchange) = (self.member, &self.spec.exchange);
        let lane = b.lane();
        let chooses = lane.lt(b.i32(exchange.top_k));
        let expert = b.if_else(chooses, b.i32(0), || {
            let expert = self.chosen.at(&[token, lane]).load_scalar::<i32>();
            expert.min(b.i32(exchange.experts - 1))
        });
        let rank = expert / member.each();
        let own = self.rows.index(member.number(token, member.me), exchange.row_bytes());
        if member.is_one_node() {
            return self.within_node(b, token, own, rank, member.leads(rank, chooses));
        }
        let (node, here) = (member.node_of(rank), member.node_of(member.me));
        let away = member.leads(node, chooses & node.ne(here));
        let leaves = away.ballot().ne(b.i32(0));
        // What the network reads lies in symmetric memory: a lane more sends to this rank itself.
        let stages = lane.eq(b.i32(exchange.top_k)) & leaves;
        let (rank, counts) = (rank.when(chooses, member.me), (chooses & node.eq(here)) | stages);
        self.within_node(b, token, own, rank, member.leads(rank, counts));
        b.if_(leaves, || {
            b.fence_system();
            b.warp_barrier();
        });
        let place = member.node_of(member.me) * member.most + token;
        let to = self.relay.index(place, exchange.row_bytes());
        member.each_lane(away, |leader| {
            b.put_signal(
                Callers::Warp,
                Put {
                    to,
                    from: own,
                    bytes: b.i64(exchange.row_flag_at() as i64),
                    flag: to.add_const(exchange.row_flag_at()),
                    value: member.epoch,
                    rank: member.at_node(node.shuffle_from(leader), member.me),
                },
            );
        });
    }

    /// Copies a row to the ranks of the node that leading lanes have, and sets its flag there.
    fn within_node(
        &self,
        b: &'k Builder<'k>,
        token: I32<'k>,
        own: Ptr<'k>,
        rank: I32<'k>,
        leads: crate::builder::Bool<'k>,
    ) {
        let (member, exchange) = (self.member, &self.spec.exchange);
        member.each_lane(leads, |leader| {
            let to = own.of_peer(member.distance(rank.shuffle_from(leader)));
            let (elements, dtype) = exchange.row;
            let bytes = elements * dtype.bytes();
            copy(b, self.x.at(&[token]), to, bytes, unit(&self.spec.x));
            if let (Some(scales), Some(view)) = (&self.x_scale, &self.spec.x_scale) {
                let to = to.add_const(exchange.scales_at());
                match view.strides[1] == 1 {
                    true => copy(b, scales.at(&[token]), to, 4 * exchange.scales, unit(view)),
                    false => {
                        b.for_loop(b.lane(), b.i32(exchange.scales), b.i32(32), (), |scale, ()| {
                            let value = scales.at(&[token, scale]).load_scalar::<f32>();
                            to.index(scale, 4).store_scalar(value);
                        })
                    }
                }
            }
        });
        b.warp_barrier();
        b.if_(leads, || {
            let flag = own.of_peer(member.distance(rank)).add_const(exchange.row_flag_at());
            flag.store_release(member.epoch, Scope::System);
        });
    }
}
