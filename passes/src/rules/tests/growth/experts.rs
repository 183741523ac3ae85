//! Routers, experts and what is added to them.

use super::Growth;
use crate::rules::tests::GROUPS;
use moec_ir::graph::{BinaryFn, GroupScore, Groups, ReduceFn, UnaryFn};
use moec_ir::{DType, Op, Real};

const EXPERTS: u64 = 6;

impl Growth<'_> {
    /// The experts chosen and their weights: `[T, k]` both.
    fn router(&mut self, x: usize, k: u64) -> (usize, usize) {
        let w = self.weight(&[EXPERTS, self.width(x)]);
        let dtype = if self.random.one_in(5) { DType::Bf16 } else { DType::F32 };
        let logits = self.b.typed(Op::Linear, &[x, w], dtype);
        let score = if self.random.one_in(3) {
            self.b.op(Op::Softmax, &[logits])
        } else {
            self.unary(UnaryFn::Sigmoid, logits)
        };
        let key = if self.random.one_in(2) {
            let name = format!("bias{}", self.b.0.params.len());
            let bias = self.b.param(&name, &name, DType::F32, &[EXPERTS]);
            self.add(score, bias)
        } else {
            score
        };
        let max = Groups { by: GroupScore::Max, ..GROUPS };
        let groups = self.random.pick(&[None, Some(GROUPS), Some(max)]);
        let chosen = self.b.typed(Op::TopK { k, groups }, &[key], DType::I32);
        let from = if self.random.one_in(8) { key } else { score };
        let mut weight = self.b.op(Op::Pick, &[from, chosen]);
        if self.random.one_in(2) {
            let f = if self.random.one_in(8) { ReduceFn::Max } else { ReduceFn::Sum };
            let sum = self.b.op(Op::Reduce(f), &[weight]);
            weight = self.b.binary(BinaryFn::Div, weight, sum);
        }
        if self.random.one_in(2) {
            let scale = self.b.typed(Op::Constant(Real(2.5)), &[], DType::F32);
            weight = self.b.binary(BinaryFn::Mul, weight, scale);
        }
        (chosen, weight)
    }

    /// A gated network of each expert, combined; sometimes without the middle.
    pub(super) fn experts(&mut self) {
        let x = self.row();
        let k = self.random.pick(&[1, 2, 3]);
        let (chosen, weight) = self.router(x, k);
        let (hidden, n) = (self.width(x), self.random.pick(&[3, 4]));
        let fp8 = self.random.one_in(2);
        let block = [2, self.random.pick(&[2, 4])];
        let linear = |g: &mut Self, x: usize, n: u64| {
            let k = g.width(x);
            let w = if fp8 {
                g.scaled_weight(&[EXPERTS, n, k], block)
            } else {
                g.weight(&[EXPERTS, n, k])
            };
            g.b.typed(Op::ExpertLinear, &[x, w, chosen], DType::Bf16)
        };
        let mut operand = if fp8 { self.quantised(x, block[1]) } else { x };
        let spread = self.random.one_in(4);
        if spread {
            operand = self.b.op(Op::Dispatch, &[operand, chosen]);
        }
        let (gate, up) = (linear(self, operand, n), linear(self, operand, n));
        let mut h = self.b.silu_times(gate, up);
        if self.random.one_in(4) {
            // The weights of experts, on the way in.
            let wide = self.reshape(weight, &[k, 1]);
            h = self.b.binary(BinaryFn::Mul, h, wide);
        }
        if fp8 {
            h = self.quantised(h, block[1]);
        }
        let mut y = linear(self, h, hidden);
        if self.random.one_in(4) {
            let wide = self.reshape(weight, &[k, 1]);
            y = self.b.binary(BinaryFn::Mul, y, wide);
        }
        if spread {
            y = self.b.op(Op::Collect, &[y, chosen]);
        }
        let mut routed = self.b.typed(Op::Combine, &[y, weight], DType::Bf16);
        if self.random.one_in(3) {
            let a = self.number();
            routed = self.b.binary(BinaryFn::Mul, routed, a);
        }
        for _ in 0..self.random.below(4) {
            let other = self.like(routed);
            let sum = self.add(routed, other);
            self.rows.push(if self.random.one_in(3) { routed } else { sum });
            routed = sum;
        }
        self.rows.push(routed);
    }
}
