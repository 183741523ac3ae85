//! Products, sums, norms and block-scaled FP8.

use super::Growth;
use moec_ir::graph::{BinaryFn, UnaryFn};
use moec_ir::{DType, Op, Real, ScaleFormat};

impl Growth<'_> {
    fn product(&mut self, x: usize) -> usize {
        let n = self.random.pick(&[2, 3, 4, 8]);
        let w = self.weight(&[n, self.width(x)]);
        let dtype = if self.random.one_in(5) { DType::F32 } else { self.dtype(x) };
        self.b.typed(Op::Linear, &[x, w], dtype)
    }

    /// `W₁ x`, `W₂ x`, .., side by side, by heads or each for itself.
    pub(super) fn products_of_one_operand(&mut self) {
        let x = self.row();
        let count = 1 + self.random.below(3);
        let mut made: Vec<usize> = (0..count).map(|_| self.product(x)).collect();
        if self.random.one_in(4) {
            let other = self.row();
            made.push(self.product(other));
        }
        let dtype = self.dtype(made[0]);
        let alike: Vec<usize> = made.iter().copied().filter(|y| self.dtype(*y) == dtype).collect();
        if self.random.one_in(2) {
            let together = self.b.op(Op::Concat { axis: 1 }, &alike);
            self.keep(together);
        }
        let first = made[0];
        if self.width(first).is_multiple_of(2) && self.random.one_in(2) {
            let by_heads = self.reshape(first, &[2, self.width(first) / 2]);
            let part = self.slice(by_heads, 2, 0, self.width(by_heads).div_ceil(2));
            let kept = if self.random.one_in(2) { part } else { by_heads };
            self.keep(kept);
        }
        made.into_iter().for_each(|y| self.keep(y));
    }

    /// Residual sums, with and without products in them, and norms of them.
    pub(super) fn sum_and_norm(&mut self) {
        let x = self.row();
        let y = if self.random.one_in(2) {
            let (z, n) = (self.row(), self.width(x));
            let w = self.weight(&[n, self.width(z)]);
            self.b.typed(Op::Linear, &[z, w], self.dtype(x))
        } else if self.random.one_in(4) {
            // A vector that all rows share.
            self.weight(&[self.width(x)])
        } else {
            self.like(x)
        };
        let sum = self.add(x, y);
        let is_row = self.b.0.nodes[y].ty.shape.len() == 2;
        let of = if is_row && self.random.one_in(4) { y } else { sum };
        let normed = self.norm(of);
        self.rows.extend([sum, normed]);
        if self.random.one_in(3) {
            let third = self.like(sum);
            let more = self.add(sum, third);
            let again = self.norm(more);
            self.rows.extend([more, again]);
        }
    }

    /// `down(silu(gate(x)) * up(x))`.
    pub(super) fn gated(&mut self) {
        let x = self.row();
        let n = self.random.pick(&[3, 4, 6]);
        let (g, u) = (self.weight(&[n, self.width(x)]), self.weight(&[n, self.width(x)]));
        let (g, u) = (self.b.linear(x, g), self.b.linear(x, u));
        let h = if self.random.one_in(3) {
            let s = self.unary(UnaryFn::Sigmoid, g);
            let s = self.b.binary(BinaryFn::Mul, g, s);
            self.b.binary(BinaryFn::Mul, u, s)
        } else {
            self.b.silu_times(g, u)
        };
        let h = if self.random.one_in(3) {
            let c = self.number();
            self.b.binary(BinaryFn::Mul, h, c)
        } else {
            h
        };
        let w = self.weight(&[self.width(x), n]);
        let y = self.b.linear(h, w);
        let out = self.add(x, y);
        self.rows.extend([h, y, out]);
    }

    /// `x` quantised and dequantised by rows, now and then with the scales of something else, or
    /// twice.
    pub(super) fn quantised(&mut self, x: usize, block: u64) -> usize {
        let scales = self.random.pick(&[ScaleFormat::F32, ScaleFormat::Ue8m0]);
        // Powers of two of what lies on a power of two are a matter of the last bit.
        let twice = scales == ScaleFormat::F32 && self.random.one_in(3);
        let mut of = x;
        for _ in 0..1 + usize::from(twice) {
            let q = self.b.typed(Op::Quantize { block, scales }, &[of], DType::F8e4m3);
            let astray = self.columns(x).len() == 1 && self.random.one_in(8);
            let scaled = if astray { self.like(of) } else { of };
            let s = self.b.typed(Op::BlockScale { block, scales }, &[scaled], DType::F32);
            let dtype = self.dtype(x);
            of = self.b.typed(Op::Dequantize { block: [1, block] }, &[q, s], dtype);
        }
        of
    }

    /// A weight in FP8 with its scales: `[.., rows, columns]`.
    pub(super) fn scaled_weight(&mut self, shape: &[u64], block: [u64; 2]) -> usize {
        let [outer @ .., n, k] = shape else { return self.weight(shape) };
        let (n, k) = (n.div_ceil(block[0]), k.div_ceil(block[1]));
        let name = format!("w{}", self.b.0.params.len());
        let w = self.b.param(&name, &name, DType::F8e4m3, shape);
        let scales = [outer, &[n, k]].concat();
        let s = self.b.param(&format!("{name}_s"), &format!("{name}_s"), DType::F32, &scales);
        self.b.typed(Op::Dequantize { block }, &[w, s], DType::Bf16)
    }

    /// FP8 products of one operand, whose blocks mostly agree.
    pub(super) fn quantised_products(&mut self) {
        let x = self.row();
        let x = match self.random.below(4) {
            0 => self.norm(x),
            1 => {
                let y = self.like(x);
                self.b.silu_times(x, y)
            }
            2 => {
                let y = self.like(x);
                let sum = self.add(x, y);
                self.rows.push(sum);
                self.norm(sum)
            }
            _ => x,
        };
        let block = self.random.pick(&[2, 4]);
        let dequantised = self.quantised(x, block);
        self.rows.push(dequantised);
        let n = self.random.pick(&[3, 4, self.width(x)]);
        for _ in 0..1 + self.random.below(2) {
            let columns = if self.random.one_in(5) { 6 - block } else { block };
            let rows = self.random.pick(&[1, 2, 2]);
            let w = self.scaled_weight(&[n, self.width(x)], [rows, columns]);
            let dtype = self.random.pick(&[DType::Bf16, DType::Bf16, DType::F32]);
            let y = self.b.typed(Op::Linear, &[dequantised, w], dtype);
            self.rows.push(y);
            if self.random.one_in(2) {
                let r = self.like(y);
                let sum = self.add(y, r);
                self.rows.push(sum);
            }
        }
    }

    /// Functions of each element, of a row and of both.
    pub(super) fn elements(&mut self) {
        let x = self.row();
        let mut y = x;
        for _ in 0..2 + self.random.below(4) {
            let f = self.random.pick(&[
                UnaryFn::Neg,
                UnaryFn::Sigmoid,
                UnaryFn::Silu,
                UnaryFn::Tanh,
                UnaryFn::Abs,
                UnaryFn::Relu,
                UnaryFn::Identity,
            ]);
            y = match self.random.below(6) {
                0 | 1 => self.unary(f, y),
                2 => {
                    let c = self.number();
                    let g = self.random.pick(&[BinaryFn::Mul, BinaryFn::Sub, BinaryFn::Max]);
                    self.b.binary(g, y, c)
                }
                3 => {
                    let other = self.like(x);
                    let g = self.random.pick(&[BinaryFn::Add, BinaryFn::Mul, BinaryFn::Min]);
                    if self.columns(other) == self.columns(y) {
                        self.b.binary(g, other, y)
                    } else {
                        y
                    }
                }
                4 => {
                    let (f, to) = (Op::Unary(UnaryFn::Identity), self.dtype(y));
                    let there = self.b.typed(f.clone(), &[y], DType::F32);
                    if self.random.one_in(2) { self.b.typed(f, &[there], to) } else { there }
                }
                _ => self.shares(y),
            };
        }
        self.keep(y);
    }

    /// A softmax, or a value divided by a sum of positive numbers or a root of them.
    fn shares(&mut self, x: usize) -> usize {
        let positive = self.unary(UnaryFn::Sigmoid, x);
        match self.random.below(4) {
            0 => self.b.op(Op::Softmax, &[x]),
            1 => {
                let f = self.random.pick(&[
                    moec_ir::graph::ReduceFn::Sum,
                    moec_ir::graph::ReduceFn::Mean,
                    moec_ir::graph::ReduceFn::Max,
                ]);
                let sum = self.b.op(Op::Reduce(f), &[positive]);
                let of = if self.random.one_in(2) { positive } else { x };
                self.b.binary(BinaryFn::Div, of, sum)
            }
            2 => {
                let f =
                    self.random.pick(&[UnaryFn::Sqrt, UnaryFn::Rsqrt, UnaryFn::Log, UnaryFn::Exp]);
                self.unary(f, positive)
            }
            _ => {
                let one = self.b.typed(Op::Constant(Real(1.0)), &[], DType::F32);
                let below = self.b.binary(BinaryFn::Add, positive, one);
                self.b.binary(BinaryFn::Div, x, below)
            }
        }
    }
}
