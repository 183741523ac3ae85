//! Experts that are spread over ranks: products of the rows that the ranks send, while rows move.

use super::{CostModel, Estimate, Exchange, Transfer};
use crate::language::{EGraph, Spread};
use egg::Id;
use moec_ir::kernel;
use moec_ir::kernel::exchange::Split;
use moec_ir::{Dim, Ranks, TensorType};

/// Bytes of a vector that a lane stores: rows are moved by so many.
const VECTOR: u64 = 16;

impl CostModel {
    /// The kernel and the two before it, all ranks having as many tokens: products of as many rows
    /// as one rank would have of its own tokens, by a share of the matrices, beside the exchange.
    pub(super) fn spread_experts(
        &self,
        egraph: &EGraph,
        spread: &Spread,
        operands: &[Id],
        out: &TensorType,
    ) -> Estimate {
        let ranks = self.ranks.unwrap_or(Ranks::ONE);
        let ty = |i: usize| &egraph[operands[i]].data.ty;
        let at = spread.places();
        let own = |i: usize| {
            let mut own = ty(i).clone();
            if let Some(experts) = own.shape[0].constant() {
                own.shape[0] = Dim::from(experts / u64::from(ranks.count()).max(1));
            }
            own
        };
        let rows = |(width, dtype): (u64, moec_ir::DType)| {
            TensorType::new(dtype, [ty(0).shape[0].clone(), spread.top_k.into(), width.into()])
        };
        let (hidden, middle, result) =
            (rows(spread.hidden), rows(spread.middle), rows(spread.result));
        let product = |a: &TensorType, w: &TensorType, c: &TensorType| {
            let bytes = self.bytes(a) + self.bytes(w) + self.bytes(c);
            self.grouped([a, w, c], spread.top_k, bytes)
        };
        let compute = product(ty(0), &own(at.w), &hidden).total
            + self.stream(self.bytes(&hidden) + self.bytes(&middle), 0.0).total
            + product(&middle, &own(at.v), &result).total;
        let row = ty(0).last().unwrap_or(0) * ty(0).dtype.bytes();
        let back = out.last().unwrap_or(0) * spread.result.1.bytes();
        let sms = f64::from(self.machine.target.sms);
        let moved = |comm: u32| {
            let seconds = |bytes: u64| self.exchange(spread.top_k, bytes, comm).total;
            seconds(row.next_multiple_of(VECTOR)) + seconds(back.next_multiple_of(VECTOR))
        };
        let comm = self.comm_sms(compute, &moved);
        let beside = compute * sms / (sms - f64::from(comm)).max(1.0);
        let total = beside.max(moved(comm)) + 3.0 * self.machine.target.launch_s;
        Estimate { tensor: beside, exposed: total - beside, total, ..Estimate::default() }
    }

    /// The SMs that leave the longer of computing and moving shortest.
    fn comm_sms(&self, compute: f64, moved: &dyn Fn(u32) -> f64) -> u32 {
        let sms = self.machine.target.sms;
        let time = |comm: u32| (compute * f64::from(sms) / f64::from(sms - comm)).max(moved(comm));
        (1..sms).min_by(|a, b| time(*a).total_cmp(&time(*b))).unwrap_or(1)
    }

    fn exchange(&self, top_k: u64, row_bytes: u64, comm: u32) -> super::Traffic {
        let ranks = self.ranks.unwrap_or(Ranks::ONE);
        let exchange = Exchange {
            ranks: ranks.count(),
            ranks_per_node: ranks.per_node(),
            tokens: self.sizes.tokens as f64,
            top_k: top_k as u32,
            most_nodes: ranks.nodes(),
            token_bytes: row_bytes as f64,
        };
        exchange.estimate(&self.machine.target, Transfer::Second, comm)
    }

    /// How many CTAs of a launch send rows and how many multiply.
    pub(crate) fn split(&self, exchange: &kernel::Exchange) -> Split {
        let bytes = |(width, dtype): (u64, moec_ir::DType)| width * dtype.bytes();
        let sms = self.machine.target.sms;
        let pairs = self.sizes.tokens as f64 * exchange.top_k as f64;
        let macs = exchange.row.0 * exchange.hidden.0 + exchange.middle.0 * exchange.result.0;
        let peak = self.machine.target.bf16_flops * if exchange.scales > 0 { 2.0 } else { 1.0 };
        let matrices = (macs * exchange.experts_each() * exchange.row.1.bytes()) as f64;
        let compute =
            (2.0 * pairs * macs as f64 / peak).max(matrices / self.machine.target.hbm_bytes_per_s);
        let moved = |comm: u32| {
            let seconds = |bytes: u64| self.exchange(exchange.top_k, bytes, comm).total;
            seconds(bytes(exchange.row)) + seconds(bytes(exchange.result))
        };
        let comm = self.comm_sms(compute, &moved);
        Split { comm, compute: sms - comm }
    }
}
