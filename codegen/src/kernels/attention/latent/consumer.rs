//! The products of a warpgroup: scores of its page, weighted sums of its half of the values.

use super::super::softmax::{Softmax, half};
use super::Cta;
use super::layout::{CONSUMERS, Half, KEYS, PANEL_BYTES, ROWS, WARPGROUP};
use crate::builder::convert::pack;
use crate::builder::{F32, I32, Ptr, wgmma};
use moec_ir::DType;

/// Threads that multiply.
const ALL: u64 = CONSUMERS * WARPGROUP;

/// Barriers at which warpgroups meet; 0 is that of the whole CTA.
#[derive(Clone, Copy)]
enum Meeting {
    /// The first has told its greatest scores.
    FirstMax = 1,
    /// The second has told its greatest scores, and its weights.
    SecondWeights = 2,
    /// The first has told its weights.
    FirstWeights = 3,
    /// Both have told their sums of weights.
    Sums = 4,
    /// The first has cleared values that no key has; the second's is the next.
    Cleared = 5,
}

/// A warpgroup: the first (0) or the second.
pub(super) struct Consumer<'k, 'c, 'd> {
    cta: &'c Cta<'k, 'd>,
    which: u64,
    /// The upper of this thread's two rows.
    row: I32<'k>,
    /// The first of this thread's columns, of scores and of values.
    column: I32<'k>,
    /// Where this lane's row of weights goes, in the first 16 of the page's panel.
    weights_at: I32<'k>,
    /// What each warpgroup tells of this thread's upper row.
    told: [Ptr<'k>; 2],
    /// 1 in the lane that gives pages back, else 0.
    releases: I32<'k>,
}

/// What is known after some steps.
struct State<'k> {
    softmax: Softmax<'k>,
    sums: Vec<F32<'k>>,
}

impl<'k> State<'k> {
    fn flat(self) -> Vec<F32<'k>> {
        let Softmax { max, sum } = self.softmax;
        max.into_iter().chain(sum).chain(self.sums).collect()
    }

    fn from_flat(floats: Vec<F32<'k>>) -> Self {
        let softmax = Softmax { max: [floats[0], floats[1]], sum: [floats[2], floats[3]] };
        Self { softmax, sums: floats[4..].to_vec() }
    }
}

impl<'k, 'c, 'd> Consumer<'k, 'c, 'd> {
    pub(super) fn new(cta: &'c Cta<'k, 'd>, which: u64) -> Self {
        let (b, layout) = (cta.b, &cta.design.layout);
        let warp = b.warp() % 4;
        let row = warp * 16 + b.lane() / 4;
        // Of four matrices of 8 rows by 8 weights: upper and lower rows, then the next 8 weights.
        // Chunks of 16 bytes are permuted as the 128-byte swizzle has them.
        let (matrix, within) = (b.lane() / 8, b.lane() % 8);
        let to_row = (warp * 16 + matrix % 2 * 8 + within) * wgmma::ROW_BYTES as i32;
        let weights_at = to_row + ((matrix / 2) ^ within) * 16;
        let shared = b.dynamic_shared_ptr();
        let told = [0, 1].map(|w| shared.add_const(layout.told(w)).index(row, 4));
        let releases = b.i32(1).when(b.lane().eq(b.i32(0)), b.i32(0));
        Self { cta, which, row, column: b.lane() % 4 * 2, weights_at, told, releases }
    }

    /// All pages, and the results.
    pub(super) fn consume(&self) {
        let (b, problem) = (self.cta.b, &self.cta.design.problem);
        b.mbarrier_wait(self.cta.at(self.cta.design.layout.queries_full()), b.i32(0));
        let sums = vec![b.f32(0.0); (problem.value / CONSUMERS / 2) as usize];
        let start = State { softmax: Softmax::new(b, problem.scale), sums };
        let state = b.for_loop(b.i32(0), self.cta.steps, b.i32(1), start.flat(), |step, state| {
            let state = State::from_flat(state);
            match self.which {
                0 => self.first(step, state).flat(),
                _ => self.second(step, state).flat(),
            }
        });
        self.store(&State::from_flat(state));
    }

    /// A step of the first warpgroup: its weights go by the greatest score so far, and once more by
    /// that of the second's page.
    fn first(&self, step: I32<'k>, state: State<'k>) -> State<'k> {
        let (b, scale) = (self.cta.b, self.cta.design.problem.scale);
        let scores = self.scores(step);
        let (softmax, weights, factors) = state.softmax.take(b, &scores, scale, None);
        self.tell(softmax.max);
        b.named_arrive(Meeting::FirstMax as u64, ALL);
        let sums = scaled(&state.sums, factors);
        let sums = self.add_own(&self.in_pairs(&weights), sums);
        b.named_barrier(Meeting::SecondWeights as u64, ALL);
        let (softmax, factors) = softmax.raised(self.heard(), scale);
        self.share(&self.in_pairs(&scaled(&weights, factors)));
        b.named_arrive(Meeting::FirstWeights as u64, ALL);
        let sums = b.wgmma_wait(0, &sums);
        self.release(Half::Near);
        let sums = self.add_others(b.wgmma_fence(&scaled(&sums, factors)));
        let sums = b.wgmma_wait(0, &sums);
        self.release(Half::Far);
        State { softmax, sums }
    }

    /// A step of the second warpgroup: it hears of the first's greatest scores before it weighs.
    fn second(&self, step: I32<'k>, state: State<'k>) -> State<'k> {
        let (b, scale) = (self.cta.b, self.cta.design.problem.scale);
        let scores = self.scores(step);
        b.named_barrier(Meeting::FirstMax as u64, ALL);
        let (softmax, weights, factors) = state.softmax.take(b, &scores, scale, Some(self.heard()));
        self.tell(softmax.max);
        let weights = self.in_pairs(&weights);
        self.share(&weights);
        b.named_arrive(Meeting::SecondWeights as u64, ALL);
        let sums = self.add_own(&weights, scaled(&state.sums, factors));
        b.named_barrier(Meeting::FirstWeights as u64, ALL);
        let sums = self.add_others(sums);
        b.wgmma_wait(1, &[]);
        self.release(Half::Near);
        let sums = b.wgmma_wait(0, &sums);
        self.release(Half::Far);
        State { softmax, sums }
    }

    /// What is multiplied, quantised or not.
    fn dtype(&self) -> DType {
        self.cta.design.problem.q[0].dtype
    }

    /// The scores of this warpgroup's page; those of rows that are no keys are taken out.
    fn scores(&self, step: I32<'k>) -> Vec<F32<'k>> {
        let (b, layout) = (self.cta.b, &self.cta.design.layout);
        b.wgmma_fence(&[]);
        let base = self.cta.base.anew();
        let of_first = |at: u64| b.wgmma_descriptor(base + at as i32).anew();
        let first = [of_first(layout.queries(0)), of_first(layout.keys(self.which, 0))];
        let mut scores: Option<Vec<F32<'k>>> = None;
        for half in [Half::Near, Half::Far] {
            b.mbarrier_wait(self.cta.at(layout.full(self.which, half)), step % 2);
            for (panel, source) in layout.panels_of(self.which, half) {
                for step in 0..source.steps {
                    // Panels of either lie one after the other.
                    let further = panel * PANEL_BYTES + step * wgmma::DEPTH_BYTES;
                    let both = first.map(|descriptor| descriptor + (further / 16) as i64);
                    scores = Some(match scores {
                        None => b.wgmma_anew(self.dtype(), KEYS, both),
                        Some(scores) => b.wgmma(self.dtype(), KEYS, both, &scores, b.i32(1)),
                    });
                }
            }
        }
        b.wgmma_commit();
        let scores = b.wgmma_wait(0, &scores.unwrap_or_default());
        let page = step * CONSUMERS as i32 + self.which as i32;
        let before = (page * KEYS as i32).min(self.cta.count);
        self.mask(self.cta.count - before, scores)
    }

    /// Takes out scores of keys from `left` on, and clears their values, where those are copied:
    /// whatever lies there, a weight of 0 is to make it 0.
    fn mask(&self, left: I32<'k>, scores: Vec<F32<'k>>) -> Vec<F32<'k>> {
        let b = self.cta.b;
        b.if_else(left.lt(b.i32(KEYS)), scores.clone(), || {
            if self.cta.design.problem.quantized.is_none() {
                self.clear(left);
            }
            let masked = |(number, score): (usize, F32<'k>)| {
                let key = self.column + (number / 4 * 8 + number % 2) as i32;
                score.when(key.lt(left), b.f32(f32::NEG_INFINITY))
            };
            scores.into_iter().enumerate().map(masked).collect()
        })
    }

    /// Writes zeros to the rows of values from `left` on.
    fn clear(&self, left: I32<'k>) {
        let (b, layout) = (self.cta.b, &self.cta.design.layout);
        // 16 bytes each: 8 of a row.
        let chunk = (b.thread() % WARPGROUP as i32) * 16;
        let row = chunk / wgmma::ROW_BYTES as i32;
        let at = b.dynamic_shared_ptr().add_const(layout.keys(self.which, 0)).index(chunk, 1);
        let zeros = [b.i32(0); 4];
        let panels = layout.values_of(CONSUMERS - 1).end;
        b.for_loop(b.i32(0), b.i32(panels), b.i32(1), (), |panel, ()| {
            let at = at.index(panel, PANEL_BYTES);
            for block in 0..PANEL_BYTES / (16 * WARPGROUP) {
                let row = row + (block * 16 * WARPGROUP / wgmma::ROW_BYTES) as i32;
                let at = at.add_const(block * 16 * WARPGROUP);
                b.if_(left.le(row), || at.store_words(&zeros));
            }
        });
        b.fence_async();
        b.named_barrier(Meeting::Cleared as u64 + self.which, WARPGROUP);
    }

    /// Weights as the left operand of a product has them.
    fn in_pairs(&self, weights: &[F32<'k>]) -> Vec<I32<'k>> {
        weights.chunks(2).map(|pair| pack(self.dtype(), pair)).collect()
    }

    /// Adds the values of this warpgroup's page, with weights in registers, as a group of its own.
    fn add_own(&self, weights: &[I32<'k>], sums: Vec<F32<'k>>) -> Vec<F32<'k>> {
        let b = self.cta.b;
        let weights = b.hold(weights);
        let mut sums = b.wgmma_fence(&sums);
        let values = self.values(self.which);
        for (step, weights) in (0..).zip(weights.chunks_exact(4)) {
            let weights = [weights[0], weights[1], weights[2], weights[3]];
            let values = values + step * VALUES_STEP;
            sums = b.wgmma_of_registers(self.dtype(), self.columns(), weights, values, &sums);
        }
        b.wgmma_commit();
        sums
    }

    /// Adds the values of the other warpgroup's page, with weights in shared memory, as a group of
    /// its own.
    fn add_others(&self, mut sums: Vec<F32<'k>>) -> Vec<F32<'k>> {
        let (b, layout) = (self.cta.b, &self.cta.design.layout);
        let other = 1 - self.which;
        let at = self.cta.base.anew() + layout.weights(other) as i32;
        let (weights, values) = (b.wgmma_descriptor(at).anew(), self.values(other));
        for step in 0..(KEYS / 16) as i64 {
            let weights = weights + step * (wgmma::DEPTH_BYTES / 16) as i64;
            let both = [weights, values + step * VALUES_STEP];
            sums = b.wgmma_across(self.dtype(), self.columns(), both, &sums);
        }
        b.wgmma_commit();
        sums
    }

    /// Values that this warpgroup sums.
    fn columns(&self) -> u64 {
        self.cta.design.problem.value / CONSUMERS
    }

    /// This warpgroup's half of the values of a page.
    fn values(&self, page: u64) -> crate::builder::I64<'k> {
        let (b, layout) = (self.cta.b, &self.cta.design.layout);
        let first = layout.values_of(self.which).start;
        let at = self.cta.base.anew() + layout.keys(page, first) as i32;
        b.wgmma_descriptor_across(at, PANEL_BYTES).anew()
    }

    /// Puts the weights of this warpgroup's page where the other's tensor cores read them.
    fn share(&self, weights: &[I32<'k>]) {
        let (b, layout) = (self.cta.b, &self.cta.design.layout);
        let to = self.cta.at(layout.weights(self.which));
        for (step, words) in (0..).zip(weights.chunks_exact(4)) {
            let at = self.weights_at ^ b.i32(step * wgmma::DEPTH_BYTES);
            b.store_matrices(to + at, [words[0], words[1], words[2], words[3]]);
        }
        b.fence_async();
    }

    /// Tells the other warpgroup a number of each row.
    fn tell(&self, rows: [F32<'k>; 2]) {
        let b = self.cta.b;
        b.if_(self.column.eq(b.i32(0)), || {
            let at = self.told[self.which as usize];
            for (row, value) in (0..).zip(rows) {
                at.add_const(8 * 4 * row).store_scalar(value);
            }
        });
    }

    /// What the other has told of this thread's rows.
    fn heard(&self) -> [F32<'k>; 2] {
        let at = self.told[1 - self.which as usize];
        [0, 1].map(|row| at.add_const(8 * 4 * row).load_scalar())
    }

    /// Gives the page back of which this warpgroup has read that half last.
    fn release(&self, half: Half) {
        let page = if half == Half::Near { self.which } else { 1 - self.which };
        let empty = self.cta.at(self.cta.design.layout.empty(page, half));
        self.cta.b.mbarrier_arrive(empty, self.releases);
    }

    /// Stores this warpgroup's half of the results of the heads that exist.
    fn store(&self, state: &State<'k>) {
        let (b, cta) = (self.cta.b, self.cta);
        let own = state.softmax.sum.map(|sum| sum.across(4, |x, y| x + y));
        // What was told before has been heard: the last step of each began with the other's word.
        b.named_barrier(Meeting::Sums as u64, ALL);
        self.tell(own);
        b.named_barrier(Meeting::Sums as u64, ALL);
        let others = self.heard();
        let totals = [0, 1].map(|row| own[row] + others[row]);
        let inverse = totals.map(|total| match cta.operands.log_sums {
            // A chunk may have no keys; of all there is one.
            Some(_) => total.rcp_approx().when(total.gt(b.f32(0.0)), b.f32(0.0)),
            None => total.rcp_approx(),
        });
        let out = &cta.operands.out;
        let first = self.which * self.columns();
        for row in 0..2 {
            let head = cta.first_head + self.row + 8 * row as i32;
            b.if_(head.lt(b.i32(cta.design.problem.heads)), || {
                let place = cta.operands.result([cta.token, cta.chunk, head]);
                if let Some(log_sums) = cta.operands.log_sums.as_ref().filter(|_| self.which == 1) {
                    // The last greatest scores are this warpgroup's.
                    let max = state.softmax.max[row] * cta.design.problem.scale;
                    b.if_(self.column.eq(b.i32(0)), || {
                        let at = [cta.token, cta.chunk, head];
                        log_sums.store(&at, &[max + totals[row].lg2_approx()]);
                    });
                }
                for (group, sums) in (0..).zip(state.sums.chunks_exact(4)) {
                    let pair = [sums[2 * row] * inverse[row], sums[2 * row + 1] * inverse[row]];
                    let column = self.column + (first + 8 * group) as i32;
                    out.store(&[place.clone(), vec![column]].concat(), &pair);
                }
            });
        }
    }
}

/// 16 keys of a row of 128 bytes each, in units of a descriptor.
const VALUES_STEP: i64 = (16 * wgmma::ROW_BYTES / 16) as i64;

/// Each number times the factor of its row.
fn scaled<'k>(numbers: &[F32<'k>], factors: [F32<'k>; 2]) -> Vec<F32<'k>> {
    numbers.iter().enumerate().map(|(i, &number)| number * factors[half(i)]).collect()
}

const _: () = assert!(ROWS == KEYS, "weights of a page are as many rows as columns");
