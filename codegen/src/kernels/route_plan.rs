//! Sorts (token, expert) pairs by expert, stably: a counting sort by one CTA.
//!
//! Each warp takes a run of neighbouring pairs and counts them per expert; prefix sums over
//! experts and warps say where each warp's pairs of each expert begin; then each warp places
//! its pairs in order, 32 at a time, with ranks among equals from `match.sync`. No result
//! depends on the order in which warps run.
//!
//! As many pairs as a step is weighed for, if shared memory holds them, are read once and sorted
//! there, so that both the reading and the writing of memory go in order. More are read twice, and
//! each written to its place.

use super::{Design, Step};
use crate::builder::{Bool, Builder, I32, Ptr};
use crate::tensor::Tensor;
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;
use moec_ir::{Diagnostic, Dim, Target};

/// Shared memory that the counters may take, in bytes.
const SHARED: u64 = 48 << 10;
/// Bytes of a pair in shared memory: its expert in 16 bits, and the row that is its place's.
const STAGED: u64 = 2 + 4;
/// Fewer warps do not make room for more pairs.
const FEWEST_WARPS: u64 = 8;
/// Counters that a lane sums at most before the warp does.
const PER_LANE: u64 = 8;

struct RoutePlan {
    chosen: View,
    n_experts: u64,
    /// Counters per warp: at least one more than experts, a whole number of scan steps.
    counters: u64,
    warps: u64,
    /// Pairs that are sorted in shared memory.
    staged: u64,
}

pub(super) fn design(
    chosen: &View,
    n_experts: u64,
    step: Step,
    target: &Target,
) -> Result<Box<dyn Design>, Diagnostic> {
    // Up to 256 counters in one step of the scan, more in several.
    let per_lane = (n_experts + 1).div_ceil(32).next_power_of_two().min(PER_LANE);
    let counters = (n_experts + 1).next_multiple_of(32 * per_lane);
    let fit = (SHARED / (4 * counters)).saturating_sub(1);
    if fit == 0 || chosen.shape.len() != 2 {
        return Err(Diagnostic::error(
            "E0902",
            format!("a route_plan kernel for {n_experts} experts and {chosen}"),
        )
        .help("pairs are `[T, k]`, and experts at most 5000"));
    }
    let pairs = Dim::product(&chosen.shape).eval(&step.sizes);
    let wanted = (pairs / 128).next_power_of_two().clamp(1, 32);
    let chosen = chosen.clone();
    let mut plan =
        RoutePlan { chosen, n_experts, counters, warps: wanted.min(1 << fit.ilog2()), staged: 0 };
    let room =
        |plan: &RoutePlan| u64::from(target.shared_per_cta).saturating_sub(plan.before_pairs());
    while room(&plan) < pairs * STAGED && plan.warps > FEWEST_WARPS {
        plan.warps /= 2;
    }
    plan.staged = pairs.next_multiple_of(2).min(room(&plan) / STAGED);
    Ok(Box::new(plan))
}

impl Design for RoutePlan {
    fn geometry(&self) -> Geometry {
        let shared_bytes = (self.experts_at() + 2 * self.staged) as u32;
        Geometry { shared_bytes, ..super::launch(&[], 32 * self.warps as u32) }
    }

    fn operands(&self) -> usize {
        2
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let pairs = Pairs::new(b, self);
        let shared = b.dynamic_shared_ptr();
        let list = shared.add_const(self.list_at());
        let here = Staged { list, experts: shared.add_const(self.experts_at()) };
        b.if_or(
            pairs.total.le(b.i32(self.staged)),
            || self.sort(b, &pairs, shared, Some(here)),
            || self.sort(b, &pairs, shared, None),
        );
    }
}

/// Where pairs are sorted that fit shared memory.
#[derive(Clone, Copy)]
struct Staged<'k> {
    /// The route as it will lie in memory.
    list: Ptr<'k>,
    /// The expert of each pair, in 16 bits.
    experts: Ptr<'k>,
}

/// The pairs that a warp takes.
struct Pairs<'k> {
    b: &'k Builder<'k>,
    chosen: Tensor<'k>,
    per_token: I32<'k>,
    dense: bool,
    n_experts: u64,
    total: I32<'k>,
    from: I32<'k>,
    to: I32<'k>,
}

impl<'k> Pairs<'k> {
    fn new(b: &'k Builder<'k>, plan: &RoutePlan) -> Self {
        let total = b.size(&Dim::product(&plan.chosen.shape));
        let run = total.div_ceil(32 * plan.warps as i32) * 32;
        let from = b.warp() * run;
        Self {
            b,
            chosen: Tensor::operand(b, 0, &plan.chosen).read_only(),
            per_token: b.size(&plan.chosen.shape[1]),
            dense: plan.chosen.is_dense(),
            n_experts: plan.n_experts,
            total,
            from,
            to: (from + run).min(total),
        }
    }

    /// For each 32 pairs: the lane's pair, whether there is one, and its expert, which `read`
    /// gives of a pair that exists.
    fn each(
        &self,
        read: impl Fn(I32<'k>) -> I32<'k>,
        body: impl FnOnce(I32<'k>, Bool<'k>, I32<'k>),
    ) {
        let b = self.b;
        b.for_loop(self.from, self.to, b.i32(32), (), |base, ()| {
            let pair = base + b.lane();
            body(pair, pair.lt(self.total), read(pair.min(self.total - 1)));
        });
    }

    /// The expert of a pair, kept in range.
    fn expert(&self, pair: I32<'k>) -> I32<'k> {
        let at = match self.dense {
            true => self.chosen.at(&[]).index(pair, 4),
            false => self.chosen.at(&[pair / self.per_token, pair % self.per_token]),
        };
        at.load_scalar::<i32>().min(self.b.i32(self.n_experts - 1))
    }
}

impl RoutePlan {
    /// Behind the counters of all warps: where each expert's rows begin, and then those rows.
    fn list_at(&self) -> u64 {
        4 * self.counters * self.warps
    }

    /// Behind those: the expert of each pair.
    fn experts_at(&self) -> u64 {
        self.list_at() + 4 * self.counters.max(self.n_experts + 1 + self.staged)
    }

    /// Bytes of shared memory before what depends on the number of pairs.
    fn before_pairs(&self) -> u64 {
        self.list_at() + 4 * (self.n_experts + 1)
    }

    /// Sorts all pairs; all threads of the CTA come here.
    fn sort<'k>(
        &self,
        b: &'k Builder<'k>,
        pairs: &Pairs<'k>,
        shared: Ptr<'k>,
        staged: Option<Staged<'k>>,
    ) {
        let own = shared.index(b.warp(), 4 * self.counters);
        // With one warp where its expert's rows begin takes the counters' place.
        let starts = if self.warps > 1 { shared.add_const(self.list_at()) } else { shared };
        self.clear(b, shared);
        b.barrier();
        let read = |pair| pairs.expert(pair);
        pairs.each(read, |pair, inside, expert| {
            b.if_(inside, || {
                own.index(expert, 4).atomic_add(b.i32(1));
                if let Some(Staged { experts, .. }) = staged {
                    experts.index(pair, 2).store_scalar(expert.low_half());
                }
            });
        });
        b.barrier();
        if self.warps > 1 {
            self.sum_over_warps(b, shared, starts);
            b.barrier();
        }
        b.if_(b.warp().eq(b.i32(0)), || self.scan(b, starts));
        b.barrier();
        let route = b.operand(1);
        let list = staged.map_or(route, |staged| staged.list);
        let (end, step) = (b.i32(self.n_experts + 1), b.i32(b.threads()));
        if staged.is_none() || self.warps == 1 {
            b.for_loop(b.thread(), end, step, (), |expert, ()| {
                list.index(expert, 4).store_scalar(starts.index(expert, 4).load_scalar::<i32>());
            });
            b.warp_barrier();
        }
        let read = |pair: I32<'k>| match staged {
            Some(Staged { experts, .. }) => experts.index(pair, 2).load_scalar::<u16>().wide(),
            None => pairs.expert(pair),
        };
        let rows = list.add_const(4 * (self.n_experts + 1));
        pairs.each(read, |pair, inside, expert| {
            self.place(b, rows, own, starts, pair, inside, expert);
        });
        if staged.is_some() {
            b.barrier();
            b.for_loop(b.thread(), end + pairs.total, step, (), |at, ()| {
                route.index(at, 4).store_scalar(list.index(at, 4).load_scalar::<i32>());
            });
        }
    }

    fn clear<'k>(&self, b: &'k Builder<'k>, shared: Ptr<'k>) {
        let total = self.counters * self.warps;
        let zeros = vec![b.i32(0); 4];
        let from = b.thread() * 4;
        b.for_loop(from, b.i32(total), b.i32(4 * b.threads()), (), |at, ()| {
            shared.index(at, 4).store_words(&zeros);
        });
    }

    /// Replaces each warp's count by the sum of the warps before it, and keeps the total.
    fn sum_over_warps<'k>(&self, b: &'k Builder<'k>, shared: Ptr<'k>, totals: Ptr<'k>) {
        let (to, step) = (b.i32(self.counters), b.i32(b.threads()));
        b.for_loop(b.thread(), to, step, (), |expert, ()| {
            let (to, step) = (b.i32(self.warps), b.i32(1));
            let total = b.for_loop(b.i32(0), to, step, b.i32(0), |warp, sum| {
                let counter = shared.index(warp, 4 * self.counters).index(expert, 4);
                let count: I32<'k> = counter.load_scalar();
                counter.store_scalar(sum);
                sum + count
            });
            totals.index(expert, 4).store_scalar(total);
        });
    }

    /// Replaces each count by the sum of those before it; one warp.
    fn scan<'k>(&self, b: &'k Builder<'k>, counts: Ptr<'k>) {
        let per_lane = (self.counters / 32).min(PER_LANE);
        let width = per_lane.min(4) as usize;
        let lane = b.lane();
        let (to, step) = (b.i32(self.counters), b.i32(32 * per_lane));
        b.for_loop(b.i32(0), to, step, b.i32(0), |base, before| {
            let own = counts.index(base + lane * b.i32(per_lane), 4);
            let at = |i: u64| own.add_const(4 * width as u64 * i);
            let vectors = per_lane / width as u64;
            let counts: Vec<I32<'k>> = (0..vectors).flat_map(|i| at(i).load_words(width)).collect();
            let of_lane = counts.iter().copied().reduce(|p, q| p + q).unwrap_or(b.i32(0));
            let up_to_lane = of_lane.inclusive_sum();
            let mut sum = before + up_to_lane - of_lane;
            let starts: Vec<I32<'k>> = counts
                .iter()
                .map(|&count| {
                    let start = sum;
                    sum = sum + count;
                    start
                })
                .collect();
            starts.chunks(width).zip(0..).for_each(|(words, i)| at(i).store_words(words));
            before + up_to_lane.shuffle_from(b.i32(31))
        });
    }

    /// Writes 32 pairs to their places and moves the warp's cursors on.
    #[expect(clippy::too_many_arguments, reason = "the state of one step")]
    fn place<'k>(
        &self,
        b: &'k Builder<'k>,
        rows: Ptr<'k>,
        own: Ptr<'k>,
        starts: Ptr<'k>,
        pair: I32<'k>,
        inside: Bool<'k>,
        expert: I32<'k>,
    ) {
        let equals = expert.when(inside, b.i32(-1)).match_any();
        let below = (b.i32(1) << b.lane()) - 1;
        let rank = (equals & below).count_ones();
        let cursor = own.index(expert, 4);
        let next: I32<'k> = cursor.load_scalar();
        let start =
            if self.warps > 1 { starts.index(expert, 4).load_scalar() + next } else { next };
        b.warp_barrier();
        b.if_(inside, || {
            rows.index(start + rank, 4).store_scalar(pair);
            b.if_(rank.eq(b.i32(0)), || cursor.store_scalar(next + equals.count_ones()));
        });
        b.warp_barrier();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moec_ir::{DType, Phase, Sizes, Sym};

    #[test]
    fn experts_beyond_shared_memory_are_refused() {
        let chosen = View::dense(DType::I32, &[Sym::Tokens.into(), 8.into()]).unwrap();
        let sizes = Sizes { tokens: 1 << 20, past: 1, sequences: 1 };
        let step = Step { phase: Phase::Prefill, sizes };
        let target = Target::named("h800").unwrap();
        assert!(design(&chosen, 5000, step, &target).is_ok());
        assert!(design(&chosen, 7000, step, &target).is_err());
    }
}
