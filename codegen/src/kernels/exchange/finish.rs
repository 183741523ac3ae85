//! Results for this rank's tokens, weighted and summed (DeepSeek-V3 2.1.2, equation 12).

use super::member::{Member, Tasks};
use crate::builder::order::Scope;
use crate::builder::{Bool, Builder, F32, I32, Ptr};
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::{SpreadExperts, View};
use moec_ir::{DType, Sym};

/// How the lanes of a warp divide the columns of a result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    pub(super) dtype: DType,
    count: u64,
    /// Columns that a lane takes at once.
    width: u64,
}

impl Columns {
    /// Of the results of an exchange, as they can be read and, to `out`, written.
    pub(super) fn new(spec: &SpreadExperts) -> Self {
        let (count, dtype) = spec.exchange.result;
        let rows = View::dense(dtype, &[count.into()]);
        let width = rows.as_ref().map_or(1, vector_width).min(vector_width(&spec.out)).min(8);
        Self { dtype, count, width }
    }

    /// Runs `body` for the first of each of this lane's columns.
    pub(super) fn each<'k>(self, b: &'k Builder<'k>, body: impl FnOnce(I32<'k>)) {
        let vectors = b.i32(self.count / self.width);
        b.for_loop(b.lane(), vectors, b.i32(32), (), |vector, ()| body(vector * self.width as i32));
    }

    /// Where a column of a row lies.
    pub(super) fn row_at<'k>(self, row: Ptr<'k>, column: I32<'k>) -> Ptr<'k> {
        row.index(column, self.dtype.bytes())
    }

    /// A lane's columns of a row.
    fn load<'k>(self, row: Ptr<'k>, column: I32<'k>) -> Vec<F32<'k>> {
        self.row_at(row, column).load(self.dtype, self.width)
    }
}

/// A term of a sum: whether it exists, where that is open; its weight; its row.
pub(super) type Term<'k> = (Option<Bool<'k>>, F32<'k>, Ptr<'k>);

/// The sum of weighted rows, in order, from a column on.
pub(super) fn weighted<'k>(
    b: &'k Builder<'k>,
    columns: Columns,
    terms: &[Term<'k>],
    column: I32<'k>,
) -> Vec<F32<'k>> {
    let zeros = vec![b.f32(0.0); columns.width as usize];
    terms.iter().fold(zeros, |sums, &(exists, weight, row)| {
        let add = || {
            let values = columns.load(row, column);
            values.into_iter().zip(&sums).map(|(v, &sum)| v.fma(weight, sum)).collect()
        };
        match exists {
            None => add(),
            Some(exists) => b.if_else(exists, sums.clone(), add),
        }
    })
}

/// Results for this rank's tokens.
pub(super) struct Finish<'k, 'e> {
    pub(super) member: &'e Member<'k, 'e>,
    pub(super) columns: Columns,
    pub(super) chosen: Tensor<'k>,
    pub(super) weight: Tensor<'k>,
    pub(super) adds: Vec<Tensor<'k>>,
    pub(super) out: Tensor<'k>,
    /// Region `Results`.
    pub(super) results: Ptr<'k>,
    /// Region `Partials`.
    pub(super) partials: Ptr<'k>,
    pub(super) experts: u64,
}

impl<'k> Finish<'k, '_> {
    /// A token at a time: the results of this node's experts in the order in which they were
    /// chosen, the sums of other nodes in that of their first one, what is added.
    pub(super) fn run(&self, b: &'k Builder<'k>, tasks: Tasks<'k>) {
        b.note("role: sum results of this rank's tokens");
        let tokens = b.size(&Sym::Tokens.into());
        tasks.each(b, tokens, |token| self.token(b, token));
    }

    fn token(&self, b: &'k Builder<'k>, token: I32<'k>) {
        let (member, exchange) = (self.member, self.member.exchange);
        let (top_k, bytes) = (member.top_k(), exchange.result_bytes());
        let (lane, flag_at) = (b.lane(), exchange.result_flag_at());
        let chooses = lane.lt(b.i32(top_k));
        let result = |which: I32<'k>| self.results.index(token * top_k + which, bytes);
        let wait = |row: Ptr<'k>| row.add_const(flag_at).wait_acquire(member.epoch, Scope::System);
        let (near, others) = match member.is_one_node() {
            true => (chooses, vec![]),
            false => {
                let which = lane.min(b.i32(top_k - 1));
                let expert = self.chosen.at(&[token, which]).load_scalar::<i32>();
                let expert = expert.min(b.i32(self.experts - 1));
                let node = member.node_of(expert / member.each());
                let near = node.eq(member.node_of(member.me));
                let away = member.leads(node, chooses & !near);
                let partial =
                    |node: I32<'k>| self.partials.index(node * member.most + token, bytes);
                b.if_(away, || wait(partial(node)));
                let lanes = away.ballot();
                let other = |which: i32| {
                    let exists = ((lanes >> which) & 1).ne(b.i32(0));
                    (exists, partial(node.shuffle_from(b.i32(which))))
                };
                (chooses & near, (0..top_k).map(other).collect())
            }
        };
        b.if_(near, || wait(result(lane)));
        let lanes = near.ballot();
        b.warp_barrier();
        let weights = self.weight.load(&[token, b.i32(0)], exchange.top_k);
        let term = |(which, weight): (i32, F32<'k>)| {
            let exists = (!member.is_one_node()).then(|| ((lanes >> which) & 1).ne(b.i32(0)));
            (exists, weight, result(b.i32(which)))
        };
        let terms: Vec<Term<'k>> = (0..).zip(weights).map(term).collect();
        self.columns.each(b, |column| {
            let mut sums = weighted(b, self.columns, &terms, column);
            for &(exists, row) in &others {
                sums =
                    b.if_else(exists, sums.clone(), || add(&sums, self.columns.load(row, column)));
            }
            let at = [token, column];
            for added in &self.adds {
                sums = add(&sums, added.load(&at, self.columns.width));
            }
            self.out.store(&at, &sums);
        });
    }
}

fn add<'k>(sums: &[F32<'k>], values: Vec<F32<'k>>) -> Vec<F32<'k>> {
    sums.iter().zip(values).map(|(&sum, x)| sum + x).collect()
}
