//! Attention: grouped queries, and MLA in its forms.

use super::{Growth, tokens};
use crate::rules::tests::rotary;
use moec_ir::graph::{BinaryFn, Cache};
use moec_ir::{DType, Dim, Op, Real, Sym, TensorType};

fn past() -> Dim {
    Sym::Past.into()
}

impl Growth<'_> {
    /// What is remembered of a value `[T, ..]`: `[S, ..]`.
    fn remember(&mut self, x: usize) -> usize {
        let columns = self.columns(x);
        let dtype = if self.random.one_in(6) { DType::F32 } else { self.dtype(x) };
        let shape = columns.iter().map(|&n| Dim::from(n));
        let name = format!("cache{}", self.b.0.caches.len());
        self.b.0.caches.push(Cache { name, ty: TensorType::new(dtype, shape), packed: None });
        let cache = self.b.typed(Op::Cache(self.b.0.caches.len() - 1), &[], dtype);
        self.b.typed(Op::Append, &[cache, x], dtype)
    }

    fn heads(&mut self, x: usize, heads: u64, n: u64) -> usize {
        let w = self.weight(&[heads * n, self.width(x)]);
        let y = self.b.typed(Op::Linear, &[x, w], DType::Bf16);
        self.reshape(y, &[heads, n])
    }

    fn past_reshape(&mut self, x: usize, columns: &[u64]) -> usize {
        let shape: Vec<Dim> =
            std::iter::once(past()).chain(columns.iter().map(|&n| n.into())).collect();
        self.b.reshape(x, &shape)
    }

    /// Of queries, keys and values, as one operation or in parts.
    fn attend(&mut self, q: usize, k: usize, v: usize) {
        let scale = Real(self.random.pick(&[0.5, 0.25]));
        let out = if self.random.one_in(2) {
            self.b.op(Op::Attend { scale }, &[q, k, v])
        } else {
            let scores = self.b.typed(Op::Scores, &[q, k], DType::F32);
            let c = self.b.typed(Op::Constant(scale), &[], DType::F32);
            let scores = match self.random.below(3) {
                0 => scores,
                1 => self.b.binary(BinaryFn::Mul, c, scores),
                _ => self.b.binary(BinaryFn::Mul, scores, c),
            };
            let weights = self.b.typed(Op::CausalSoftmax, &[scores], DType::F32);
            self.b.typed(Op::Mix, &[weights, v], DType::Bf16)
        };
        self.keep(out);
    }

    pub(super) fn attention(&mut self) {
        if self.random.one_in(3) { self.grouped_queries() } else { self.latent() }
    }

    fn grouped_queries(&mut self) {
        let x = self.row();
        let (heads, shared) = self.random.pick(&[(4, 2), (2, 1), (2, 2)]);
        let (n, m) = (4, self.random.pick(&[3, 4]));
        let mut q = self.heads(x, heads, n);
        let mut k = self.heads(x, shared, n);
        if self.random.one_in(2) {
            (q, k) = (self.norm(q), self.norm(k));
        }
        if self.random.one_in(2) {
            let turn = Op::Rotary(rotary(4));
            (q, k) = (self.b.op(turn.clone(), &[q]), self.b.op(turn, &[k]));
        }
        let v = self.heads(x, shared, m);
        let (mut k, mut v) = (self.remember(k), self.remember(v));
        if shared == 1 {
            k = self.for_each_head(k, heads);
            v = self.for_each_head(v, heads);
        }
        self.attend(q, k, v);
    }

    /// `[S, 1, n]` repeated, or as it is.
    fn for_each_head(&mut self, x: usize, heads: u64) -> usize {
        let n = self.width(x);
        if self.random.one_in(2) {
            self.b.op(Op::Broadcast(vec![past(), heads.into(), n.into()]), &[x])
        } else {
            x
        }
    }

    /// MLA (DeepSeek-V2 2.1), expanded: the latent, and a key that heads share.
    fn latent(&mut self) {
        let x = self.row();
        let heads = self.random.pick(&[2, 4]);
        let (rank, nope, rope, m) = (4, self.random.pick(&[2, 3]), 2, self.random.pick(&[2, 3]));
        let w = self.weight(&[rank + rope, self.width(x)]);
        let down = self.b.typed(Op::Linear, &[x, w], DType::Bf16);
        let latent = self.slice(down, 1, 0, rank);
        let mut latent = if self.random.one_in(4) { latent } else { self.norm(latent) };
        if self.random.one_in(3) {
            latent = self.quantised(latent, 2);
        }
        let key = self.slice(down, 1, rank, rope);
        let key = self.b.op(Op::Rotary(rotary(rope)), &[key]);
        let both = self.b.op(Op::Concat { axis: 1 }, &[latent, key]);
        let all = self.remember(both);
        let (c, key) = (self.slice(all, 1, 0, rank), self.slice(all, 1, rank, rope));
        let fp8 = self.random.one_in(3);
        let up = if fp8 {
            self.scaled_weight(&[heads * (nope + m), rank], [1, 2])
        } else {
            self.weight(&[heads * (nope + m), rank])
        };
        let kv = self.b.typed(Op::Linear, &[c, up], self.dtype(all));
        let kv = self.past_reshape(kv, &[heads, nope + m]);
        let (k, v) = (self.slice(kv, 2, 0, nope), self.slice(kv, 2, nope, m));
        let q = self.heads(x, heads, nope + rope);
        let (qn, qr) = (self.slice(q, 2, 0, nope), self.slice(q, 2, nope, rope));
        let qr = self.b.op(Op::Rotary(rotary(rope)), &[qr]);
        if self.random.one_in(5) {
            return self.attend(qn, k, v);
        }
        let q = self.b.op(Op::Concat { axis: 2 }, &[qn, qr]);
        let key = self.past_reshape(key, &[1, rope]);
        let wide = Op::Broadcast(vec![past(), heads.into(), rope.into()]);
        let key = self.b.op(wide, &[key]);
        let k = self.b.op(Op::Concat { axis: 2 }, &[k, key]);
        self.attend(q, k, v);
    }

    /// Rows of a table by indices, which are an input of their own.
    pub(super) fn rows_of_a_table(&mut self) {
        let ids = TensorType::new(DType::I32, [tokens()]);
        self.b.0.inputs.push(ids);
        let ids = self.b.input(self.b.0.inputs.len() - 1);
        let table = self.weight(&[5, 8]);
        let rows = self.b.typed(Op::Lookup, &[table, ids], DType::Bf16);
        self.rows.push(rows);
    }
}
