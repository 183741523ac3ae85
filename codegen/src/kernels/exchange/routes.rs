//! Ranks tell each other their tokens' routes.
//!
//! CTA `p` writes this rank's routes to rank `p` and its flag, waits for the flag of rank `p`, and
//! writes which of that rank's tokens chose an expert of this rank. So the launch ends when all
//! ranks have entered it.
//!
//! Two blocks of each rank are used in turn. Who writes one of exchange `n` has seen that all have
//! entered exchange `n - 1`, and so have read for the last time what is overwritten, that of
//! `n - 2`. Who waits in exchange `n` cannot miss a flag: nobody leaves exchange `n + 1`, to set it
//! to `n + 2`, before all have entered that.

use super::check;
use super::member::Member;
use crate::builder::network::{Callers, Put};
use crate::builder::order::Scope;
use crate::builder::{Builder, I32, Ptr};
use crate::kernels::{Design, launch};
use crate::tensor::Tensor;
use moec_ir::kernel::exchange::routes;
use moec_ir::kernel::{Exchange, View};
use moec_ir::plan::Geometry;
use moec_ir::{Diagnostic, Dim, Sym};

/// Threads of a CTA.
const THREADS: u32 = 512;

struct Routes {
    exchange: Exchange,
    chosen: View,
    weight: View,
}

/// Operands: chosen, weight, group, regions `Routes` and `Chosen`.
pub(in crate::kernels) fn design(
    exchange: &Exchange,
    chosen: &View,
    weight: &View,
) -> Result<Box<dyn Design>, Diagnostic> {
    check("exchange_routes", exchange)?;
    let (exchange, chosen, weight) = (exchange.clone(), chosen.clone(), weight.clone());
    Ok(Box::new(Routes { exchange, chosen, weight }))
}

impl Design for Routes {
    fn geometry(&self) -> Geometry {
        launch(&[(Dim::from(u64::from(self.exchange.ranks.count())), 1)], THREADS)
    }

    fn operands(&self) -> usize {
        5
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let member = Member::new(b, &self.exchange, [2, 3], 1);
        let (peer, tokens) = (b.cta(0), b.size(&Sym::Tokens.into()));
        b.trap_if(member.most.lt(tokens));
        let own = member.block(member.me);
        match member.is_one_node() {
            true => self.tell(b, &member, own, peer, tokens),
            false => b.if_or(
                member.node_of(peer).eq(member.node_of(member.me)),
                || self.tell(b, &member, own, peer, tokens),
                || self.send(b, &member, own, peer, tokens),
            ),
        }
        self.hear(b, &member, peer);
        b.barrier();
        b.if_(b.thread().eq(b.i32(0)), || {
            let ended = member.routes.add_const(routes::ENDED);
            let before = ended.add_acquire_release(b.i32(1));
            b.if_(before.eq(b.i32(member.ranks() - 1)), || {
                ended.store_scalar(b.i32(0));
                member.routes.add_const(routes::DONE).store_scalar(member.epoch);
            });
        });
    }
}

impl Routes {
    /// Runs `body` for this thread's of `count` numbers.
    fn spread<'k>(&self, b: &'k Builder<'k>, count: I32<'k>, body: impl FnOnce(I32<'k>)) {
        b.for_loop(b.thread(), count, b.i32(THREADS), (), |i, ()| body(i));
    }

    /// Writes this rank's routes to a rank of the node.
    fn tell<'k>(
        &self,
        b: &'k Builder<'k>,
        member: &Member<'k, '_>,
        own: Ptr<'k>,
        peer: I32<'k>,
        tokens: I32<'k>,
    ) {
        b.note("role: tell a rank of the node");
        let chosen = Tensor::operand(b, 0, &self.chosen).read_only();
        let weight = Tensor::operand(b, 1, &self.weight).read_only();
        let to = own.of_peer(member.distance(peer));
        self.spread(b, tokens * member.top_k(), |pair| {
            let at = [pair / member.top_k(), pair % member.top_k()];
            let expert = chosen.at(&at).load_scalar::<i32>().min(b.i32(self.exchange.experts - 1));
            let words = [expert, weight.load(&at, 1)[0].bits()];
            to.add_const(routes::PAIRS).index(pair, routes::PAIR).store_words(&words);
        });
        let first = b.thread().eq(b.i32(0));
        b.if_(first, || to.add_const(routes::TOKENS).store_scalar(tokens));
        b.barrier();
        b.if_(first, || to.add_const(routes::FLAG).store_release(member.epoch, Scope::System));
    }

    /// Sends this rank's routes, which another CTA has written to this rank itself, to another
    /// node.
    fn send<'k>(
        &self,
        b: &'k Builder<'k>,
        member: &Member<'k, '_>,
        own: Ptr<'k>,
        peer: I32<'k>,
        tokens: I32<'k>,
    ) {
        b.note("role: tell a rank of another node");
        let flag = own.add_const(routes::FLAG);
        flag.wait_acquire(member.epoch, Scope::System);
        b.fence_system();
        let told = own.add_const(routes::TOKENS);
        let pairs = tokens.wide() * (self.exchange.top_k * routes::PAIR) as i64;
        let bytes = pairs + (routes::PAIRS - routes::TOKENS) as i64;
        let value = member.epoch;
        let put = Put { to: told, from: told, bytes, flag, value, rank: peer };
        b.put_signal(Callers::Cta, put);
    }

    /// Waits for the routes of a rank's tokens and writes which are to experts of this rank.
    fn hear<'k>(&self, b: &'k Builder<'k>, member: &Member<'k, '_>, peer: I32<'k>) {
        b.note("role: hear of a rank");
        let flag = member.block(peer).add_const(routes::FLAG);
        b.if_(b.thread().eq(b.i32(0)), || flag.wait_acquire(member.epoch, Scope::System));
        b.barrier();
        let (out, tokens) = (b.operand(4), member.tokens_of(peer));
        let (top_k, each) = (member.top_k(), b.i32(member.each()));
        let first = member.me * member.each();
        self.spread(b, member.most * top_k, |pair| {
            let (token, which) = (pair / top_k, pair % top_k);
            let known = token.lt(tokens);
            let expert = b.if_else(known, each, || {
                let [expert, _] = member.pair_of(peer, pair);
                let own = expert - first;
                own.when(own.lt(each), each)
            });
            let at = member.number(token, peer) * top_k + which;
            out.index(at, 4).store_scalar(expert);
        });
    }
}
