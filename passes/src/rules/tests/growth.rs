//! Random well-typed functions that hold what rules look for, and what almost is that.
//!
//! A function grows by motifs: small graphs of the shapes that models have (products of one
//! operand, norms of sums, quantised operands, routers and experts, attention in several forms,
//! chains of views), whose sizes, operands, element types and small deviations are drawn.

mod attention;
mod experts;
mod layout;
mod products;

use super::models::Builder;
use moec_ir::graph::{BinaryFn, NodeId, UnaryFn};
use moec_ir::{DType, Dim, Function, Op, Real, Sym, TensorType};

/// Nodes after which a function grows no more.
const MOST_NODES: usize = 70;

/// Random numbers from a seed (SplitMix64, Steele and others 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Whether something of a probability of 1 / `n` happens.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// A function that grows.
pub(super) struct Growth<'a> {
    b: Builder,
    random: &'a mut Random,
    /// Values `[T, n]`.
    rows: Vec<usize>,
}

fn tokens() -> Dim {
    Sym::Tokens.into()
}

/// A function of a seed.
pub(crate) fn function(random: &mut Random) -> Function {
    let inputs = [8, 6, 8].map(|n: u64| TensorType::new(DType::Bf16, [tokens(), n.into()]));
    let mut g = Growth { b: Builder::new("random", &inputs), random, rows: vec![] };
    g.rows = (0..inputs.len()).map(|i| g.b.input(i)).collect();
    for _ in 0..2 + g.random.below(4) {
        if g.b.0.nodes.len() > MOST_NODES {
            break;
        }
        match g.random.below(9) {
            0 => g.products_of_one_operand(),
            1 => g.sum_and_norm(),
            2 => g.gated(),
            3 => g.quantised_products(),
            4 => g.experts(),
            5 => g.attention(),
            6 => g.views(),
            7 => g.elements(),
            _ => g.rows_of_a_table(),
        }
    }
    let last = *g.rows.last().unwrap_or(&0);
    let mut outputs = vec![last];
    for _ in 0..g.random.below(3) {
        let any = g.random.below(g.b.0.nodes.len());
        // A cache is no value of its own.
        if !matches!(g.b.0.nodes[any].op, Op::Cache(_)) {
            outputs.push(any);
        }
    }
    g.b.0.outputs = outputs.into_iter().map(NodeId).collect();
    g.b.0
}

impl Growth<'_> {
    /// Sizes of a value beside its tokens.
    fn columns(&self, x: usize) -> Vec<u64> {
        self.b.0.nodes[x].ty.shape[1..].iter().filter_map(Dim::constant).collect()
    }

    fn width(&self, x: usize) -> u64 {
        self.columns(x).last().copied().unwrap_or(1)
    }

    fn dtype(&self, x: usize) -> DType {
        self.b.0.nodes[x].ty.dtype
    }

    /// A value `[T, n]`, often a late one.
    fn row(&mut self) -> usize {
        let n = self.rows.len();
        let at = if self.random.one_in(2) { n - 1 } else { self.random.below(n) };
        self.rows[at]
    }

    /// Another value of the same type, or one made for it.
    fn like(&mut self, x: usize) -> usize {
        let ty = self.b.0.nodes[x].ty.clone();
        let same: Vec<usize> =
            self.rows.iter().copied().filter(|y| *y != x && self.b.0.nodes[*y].ty == ty).collect();
        if same.is_empty() {
            let (y, n) = (self.row(), self.width(x));
            let w = self.weight(&[n, self.width(y)]);
            return self.b.typed(Op::Linear, &[y, w], ty.dtype);
        }
        self.random.pick(&same)
    }

    fn weight(&mut self, shape: &[u64]) -> usize {
        let name = format!("w{}", self.b.0.params.len());
        self.b.param(&name, &name, DType::Bf16, shape)
    }

    fn number(&mut self) -> usize {
        let c = self.random.pick(&[0.5, 2.5, -1.25, 1.0]);
        self.b.typed(Op::Constant(Real(c)), &[], DType::F32)
    }

    fn unary(&mut self, f: UnaryFn, x: usize) -> usize {
        self.b.op(Op::Unary(f), &[x])
    }

    fn add(&mut self, x: usize, y: usize) -> usize {
        let (x, y) = if self.random.one_in(2) { (x, y) } else { (y, x) };
        self.b.binary(BinaryFn::Add, x, y)
    }

    fn slice(&mut self, x: usize, axis: usize, start: u64, len: u64) -> usize {
        self.b.op(Op::Slice { axis, start, len }, &[x])
    }

    fn norm(&mut self, x: usize) -> usize {
        let w = self.weight(&[self.width(x)]);
        let eps = self.random.pick(&[0.01, 0.1]);
        self.b.op(Op::RmsNorm { eps: Real(eps) }, &[x, w])
    }

    fn with_tokens(columns: &[u64]) -> Vec<Dim> {
        std::iter::once(tokens()).chain(columns.iter().map(|&n| n.into())).collect()
    }

    fn reshape(&mut self, x: usize, columns: &[u64]) -> usize {
        self.b.reshape(x, &Self::with_tokens(columns))
    }

    /// A value that other motifs may go on from; wide ones are cut.
    fn keep(&mut self, x: usize) {
        let columns = self.columns(x);
        let flat = match columns.as_slice() {
            [_] => x,
            _ => self.reshape(x, &[columns.iter().product()]),
        };
        let narrow = if self.width(flat) > 12 { self.slice(flat, 1, 1, 8) } else { flat };
        self.rows.push(narrow);
    }
}
