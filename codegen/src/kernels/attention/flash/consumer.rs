//! The products of a warpgroup: scores, weighted sums of values, results.

use super::super::softmax::{Softmax, half};
use super::layout::{self, STAGES};
use super::rows::{self, Seen};
use super::{Cta, WARPGROUP};
use crate::builder::convert::pack;
use crate::builder::{F32, I32, I64, wgmma};

/// A warpgroup of 64 tokens.
pub(super) struct Consumer<'k, 'c, 'd> {
    pub(super) cta: &'c Cta<'k, 'd>,
    /// The first row of the warpgroup's queries in shared memory: the same in all lanes.
    first_row: I32<'k>,
    /// The upper of this thread's two tokens.
    token: I32<'k>,
    /// The first of this thread's columns, of scores and of values.
    column: I32<'k>,
    seen: Seen<'k>,
    /// 1 in the lane that gives stages back, else 0.
    releases: I32<'k>,
}

/// What is known after some blocks: weights are of the last one, whose values are not yet added.
struct State<'k> {
    softmax: Softmax<'k>,
    sums: Vec<F32<'k>>,
    weights: Vec<I32<'k>>,
}

impl<'k> State<'k> {
    fn flat(self) -> (Vec<F32<'k>>, Vec<I32<'k>>) {
        let Softmax { max, sum } = self.softmax;
        (max.into_iter().chain(sum).chain(self.sums).collect(), self.weights)
    }

    fn from_flat((floats, weights): (Vec<F32<'k>>, Vec<I32<'k>>)) -> Self {
        let softmax = Softmax { max: [floats[0], floats[1]], sum: [floats[2], floats[3]] };
        Self { softmax, sums: floats[4..].to_vec(), weights }
    }
}

impl<'k, 'c, 'd> Consumer<'k, 'c, 'd> {
    pub(super) fn new(cta: &'c Cta<'k, 'd>) -> Self {
        let b = cta.b;
        let first_row = b.warpgroup() * wgmma::ROWS as i32;
        let row = b.thread() / WARPGROUP as i32 * wgmma::ROWS as i32;
        let row = row + b.warp() % 4 * 16 + b.lane() / 4;
        let token = cta.first_token + row;
        let column = b.lane() % 4 * 2;
        let seen = Seen::new(b, cta.operands, (token, cta.n_tokens), cta.first_key + column);
        Self {
            cta,
            first_row,
            token,
            column,
            seen,
            releases: b.i32(1).when(b.lane().eq(b.i32(0)), b.i32(0)),
        }
    }

    /// All blocks, and the results.
    pub(super) fn consume(&self) {
        let (b, layout) = (self.cta.b, &self.cta.design.layout);
        b.mbarrier_wait(self.cta.at(layout.queries_full()), b.i32(0));
        let sums = vec![b.f32(0.0); (self.cta.design.problem.value / 2) as usize];
        let start = Softmax::new(b, self.cta.design.problem.scale);
        let zero = b.i32(0);
        let scores = self.scores(zero);
        let scores = b.wgmma_wait(0, &scores);
        self.release(zero, 0);
        let (softmax, weights, _) = self.weigh(zero, &start, scores);
        let weights = self.in_pairs(&weights);
        let state = State { softmax, sums, weights };
        let state =
            b.for_loop(b.i32(1), self.cta.blocks, b.i32(1), state.flat(), |block, state| {
                self.step(block, State::from_flat(state)).flat()
            });
        let State { softmax, sums, weights } = State::from_flat(state);
        self.clear_gaps(self.cta.blocks - 1);
        let weights = b.hold(&weights);
        let sums = b.wgmma_fence(&sums);
        let sums = self.add_values(self.cta.blocks - 1, &weights, sums);
        let sums = b.wgmma_wait(0, &sums);
        self.store(&softmax, &sums);
    }

    /// A block's scores, while the values of the one before are added.
    fn step(&self, block: I32<'k>, state: State<'k>) -> State<'k> {
        let b = self.cta.b;
        let before = block - 1;
        self.clear_gaps(before);
        let weights = b.hold(&state.weights);
        let sums = b.wgmma_fence(&state.sums);
        let scores = self.scores(block);
        let sums = self.add_values(before, &weights, sums);
        let scores = b.wgmma_wait(1, &scores);
        self.release(block, 0);
        let (softmax, weights, factors) = self.weigh(block, &state.softmax, scores);
        // The registers of the weights before may be written only from here on.
        let all = b.wgmma_wait(0, &[sums, weights].concat());
        let (sums, weights) = all.split_at((self.cta.design.problem.value / 2) as usize);
        self.release(before, STAGES);
        let scaled = sums.iter().enumerate().map(|(i, &sum)| sum * factors[half(i)]);
        State { softmax, sums: scaled.collect(), weights: self.in_pairs(weights) }
    }

    /// The weights of a block, and by what the sums before are to be multiplied.
    fn weigh(
        &self,
        block: I32<'k>,
        softmax: &Softmax<'k>,
        scores: Vec<F32<'k>>,
    ) -> (Softmax<'k>, Vec<F32<'k>>, [F32<'k>; 2]) {
        let (b, design) = (self.cta.b, self.cta.design);
        let scores = rows::mask(b, &self.seen, self.cta.first_key, block, scores);
        softmax.take(b, &scores, design.problem.scale, None)
    }

    /// Weights as the left operand of a product has them.
    fn in_pairs(&self, weights: &[F32<'k>]) -> Vec<I32<'k>> {
        let dtype = self.cta.design.problem.v.dtype;
        weights.chunks(2).map(|pair| pack(dtype, pair)).collect()
    }

    /// The products of the queries with a block of keys, as a group of their own.
    fn scores(&self, block: I32<'k>) -> Vec<F32<'k>> {
        let (b, layout) = (self.cta.b, &self.cta.design.layout);
        let dtype = self.cta.design.problem.v.dtype;
        self.wait(block, 0);
        b.wgmma_fence(&[]);
        let queries = self.cta.base + self.first_row * wgmma::ROW_BYTES as i32;
        let keys = self.cta.base + self.stage(block) * layout.keys_bytes() as i32;
        let mut scores: Option<Vec<F32<'k>>> = None;
        for (part, columns) in layout.parts.iter().enumerate() {
            let q = b.wgmma_descriptor(queries.anew() + layout.queries(part) as i32).anew();
            let k = b.wgmma_descriptor(keys + layout.keys_at(part) as i32).anew();
            for step in 0..columns.steps {
                let both = [at_step(q, step, layout::ROWS), at_step(k, step, layout.keys)];
                scores = Some(match scores {
                    None => b.wgmma_anew(dtype, layout.keys, both),
                    Some(scores) => b.wgmma(dtype, layout.keys, both, &scores, b.i32(1)),
                });
            }
        }
        b.wgmma_commit();
        scores.unwrap_or_default()
    }

    /// Adds the weighted values of a block to the sums, as a group of its own.
    fn add_values(
        &self,
        block: I32<'k>,
        weights: &[I32<'k>],
        mut sums: Vec<F32<'k>>,
    ) -> Vec<F32<'k>> {
        let (b, layout) = (self.cta.b, &self.cta.design.layout);
        let problem = &self.cta.design.problem;
        self.wait(block, STAGES);
        let stage = self.cta.base + self.stage(block) * layout.values_bytes() as i32;
        let address = stage + layout.values_at() as i32;
        let values = b.wgmma_descriptor_across(address, layout::panel_bytes(layout.keys)).anew();
        for (step, weights) in (0i64..).zip(weights.chunks_exact(4)) {
            // 16 keys, a row of 128 bytes each.
            let values = values + step * (16 * wgmma::ROW_BYTES / 16) as i64;
            let weights = [weights[0], weights[1], weights[2], weights[3]];
            sums = b.wgmma_of_registers(problem.v.dtype, problem.value, weights, values, &sums);
        }
        b.wgmma_commit();
        sums
    }

    pub(super) fn stage(&self, block: I32<'k>) -> I32<'k> {
        block % STAGES as i32
    }

    /// Waits until a block of keys (`first` is 0) or values (`STAGES`) has come.
    pub(super) fn wait(&self, block: I32<'k>, first: u64) {
        let (b, layout) = (self.cta.b, &self.cta.design.layout);
        let full = self.cta.at(layout.full(first)) + self.stage(block) * 8;
        b.mbarrier_wait(full, block / STAGES as i32 % 2);
    }

    /// Gives a block of keys or values back.
    fn release(&self, block: I32<'k>, first: u64) {
        let (b, layout) = (self.cta.b, &self.cta.design.layout);
        let empty = self.cta.at(layout.empty(first)) + self.stage(block) * 8;
        b.mbarrier_arrive(empty, self.releases);
    }

    /// Stores the results of the tokens that exist.
    fn store(&self, softmax: &Softmax<'k>, sums: &[F32<'k>]) {
        let (b, cta) = (self.cta.b, self.cta);
        let out = &cta.operands.out;
        let inverse = softmax.inverse();
        for row in 0..2 {
            let token = self.token + 8 * row as i32;
            b.if_(token.lt(cta.n_tokens), || {
                for (group, sums) in sums.chunks_exact(4).enumerate() {
                    let pair = [sums[2 * row] * inverse[row], sums[2 * row + 1] * inverse[row]];
                    let column = self.column + 8 * group as i32;
                    out.store(&[token, cta.head, column], &pair);
                }
            });
        }
    }
}

/// The descriptor of the 16 columns of a step, in matrices of `rows` rows.
fn at_step<'k>(first: I64<'k>, step: u64, rows: u64) -> I64<'k> {
    let bytes = step * wgmma::DEPTH_BYTES;
    let (panel, within) = (bytes / wgmma::ROW_BYTES, bytes % wgmma::ROW_BYTES);
    first + ((panel * layout::panel_bytes(rows) + within) / 16) as i64
}
