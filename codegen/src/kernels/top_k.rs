//! The best `k` of each row, best first, of equals the lower index; a warp per row.
//!
//! A number becomes an integer of the same order, so that one `redux.sync` finds the greatest
//! of a warp. Each lane holds neighbouring elements: of equals, the lowest lane has the lowest
//! index. Group limits: DeepSeek-V2 2.2.2 (maximum), DeepSeek-V3 2.1.2 (sum of the best two).

use super::expert_row::ExpertRow;
use super::{Design, Step};
use crate::builder::{Builder, Carried, F32, I32, Ptr};
use crate::tensor::{Tensor, vector_width};
use moec_ir::Diagnostic;
use moec_ir::graph::{GroupScore, Groups};
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

/// Static shared memory of a CTA, in bytes (CUDA C++ programming guide, technical specifications).
pub(super) const SHARED: u64 = 48 << 10;

struct TopK {
    scores: View,
    chosen: View,
    groups: Option<Groups>,
    /// Elements per row.
    n_experts: u64,
    k: u64,
    warps: u32,
}

pub(super) fn design(
    scores: &View,
    chosen: &View,
    groups: Option<Groups>,
    step: Step,
) -> Result<Box<dyn Design>, Diagnostic> {
    let [n_experts, k] = [scores, chosen].map(|v| match v.shape.as_slice() {
        [_, n] => n.constant().unwrap_or(0),
        _ => 0,
    });
    check_choice("top_k", n_experts, k, groups)?;
    let (scores, chosen) = (scores.clone(), chosen.clone());
    let mut top_k = TopK { scores, chosen, groups, n_experts, k, warps: 1 };
    let fit = SHARED / top_k.shared_per_warp().max(1);
    if fit == 0 {
        return Err(Diagnostic::error("E0902", format!("a top_k kernel of {n_experts} experts"))
            .help("rows of up to 12288 fit"));
    }
    let wanted = top_k.scores.shape[0].eval(&step.sizes).clamp(1, 4).min(fit);
    top_k.warps = u32::try_from(wanted).unwrap_or(1);
    Ok(Box::new(top_k))
}

/// Refuses a choice of none, or of more than there are to choose from.
pub(super) fn check_choice(
    family: &str,
    n_experts: u64,
    k: u64,
    groups: Option<Groups>,
) -> Result<(), Diagnostic> {
    let of = groups.map_or(1, |g| g.count);
    let candidates = match groups {
        None => n_experts,
        Some(g) if g.count > 0 && n_experts.is_multiple_of(g.count) => {
            n_experts / g.count * g.keep.min(g.count)
        }
        Some(_) => 0,
    };
    if k == 0 || k > candidates {
        return Err(Diagnostic::error(
            "E0902",
            format!("a {family} kernel chooses {k} of {n_experts} experts in {of} groups"),
        )
        .help("choose at least one, and at most as many as the kept groups have"));
    }
    Ok(())
}

/// An integer that orders (unsigned) as the number does: zeros alike, NaN above all; never 0,
/// which stands for what cannot be chosen.
pub(super) fn order_key<'k>(b: &'k Builder<'k>, x: F32<'k>) -> I32<'k> {
    let bits: I32<'k> = (x + 0.0).bits();
    let flipped = bits ^ (bits.shift_signed(31) | i32::MIN);
    b.i32(-1).when(x.is_nan(), flipped)
}

/// Takes out the greatest `rounds` times: a lane holds the keys of elements
/// `lane * keys.len() ..`; `each` gets the round, the element and what is carried.
fn take_best<'k, C: Carried<'k>>(
    b: &'k Builder<'k>,
    keys: Vec<I32<'k>>,
    rounds: u64,
    init: C,
    each: impl FnOnce(I32<'k>, I32<'k>, C) -> C,
) -> C {
    let lane = b.lane();
    let first = lane * b.i32(keys.len() as u64);
    let places: Vec<I32<'k>> = (0..keys.len()).map(|i| first + b.i32(i as u64)).collect();
    let start = (keys, init);
    let (_, carried) = b.for_loop(b.i32(0), b.i32(rounds), b.i32(1), start, |round, (keys, c)| {
        let of_lane = keys.iter().copied().reduce(I32::max).unwrap_or(b.i32(0));
        let best = of_lane.warp_max();
        let holder = of_lane.eq(best).ballot().lowest_one();
        let candidates = keys.iter().zip(&places).rev();
        let place = candidates
            .fold(first, |found, (&key, &place)| place.when(key.eq(best), found))
            .shuffle_from(holder);
        let c = each(round, place, c);
        let zero = b.i32(0);
        let left = keys.iter().zip(&places).map(|(&key, &p)| zero.when(p.eq(place), key));
        (left.collect(), c)
    });
    carried
}

impl Design for TopK {
    fn geometry(&self) -> Geometry {
        let rows = self.scores.shape[0].clone();
        super::launch(&[(rows, self.warps.into())], 32 * self.warps)
    }

    fn operands(&self) -> usize {
        2
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let shared = b.shared_memory((self.shared_per_warp() * u64::from(self.warps)).max(16));
        let row = b.cta(0) * self.warps.cast_signed() + b.warp();
        b.if_(row.lt(b.size(&self.scores.shape[0])), || {
            let scores = Tensor::operand(b, 0, &self.scores).read_only();
            let own = shared.index(b.warp(), self.shared_per_warp());
            let keys = self.keys(b, |at, n| scores.load(&[row, at], n), own);
            let lane = b.lane();
            let chosen = choose(b, keys, self.k);
            let out = Tensor::operand(b, 1, &self.chosen);
            for (i, place) in chosen.into_iter().enumerate() {
                let j = lane + b.i32(32 * i as u64);
                b.if_(j.lt(b.i32(self.k)), || out.at(&[row, j]).store_scalar(place));
            }
        });
    }
}

impl TopK {
    fn line(&self) -> ExpertRow {
        ExpertRow { n_experts: self.n_experts, width: vector_width(&self.scores).min(8) }
    }

    /// Bytes of shared memory of a warp; none where each lane reads what it holds.
    fn shared_per_warp(&self) -> u64 {
        let line = self.line();
        if line.is_in_place() && self.groups.is_none() { 0 } else { line.bytes() }
    }

    /// The keys of this lane's elements; 0 for those out of the question.
    fn keys<'k>(
        &self,
        b: &'k Builder<'k>,
        load: impl Fn(I32<'k>, u64) -> Vec<F32<'k>>,
        shared: Ptr<'k>,
    ) -> Vec<I32<'k>> {
        let line = self.line();
        let row = line.read(b, |at| load(at, line.width));
        if self.shared_per_warp() > 0 {
            line.write(b, shared, &row);
            b.warp_barrier();
        }
        let own = line.own(b, &row, shared);
        let keys = own.iter().map(|&(x, inside)| order_key(b, x).when(inside, b.i32(0))).collect();
        match self.groups {
            None => keys,
            Some(groups) => keep_best_groups(b, self.n_experts, groups, keys, shared),
        }
    }
}

/// The `k` elements of the greatest keys: lane `j % 32` holds the `j`-th in word `j / 32`.
pub(super) fn choose<'k>(b: &'k Builder<'k>, keys: Vec<I32<'k>>, k: u64) -> Vec<I32<'k>> {
    let lane = b.lane();
    let none = vec![b.i32(0); k.div_ceil(32) as usize];
    take_best(b, keys, k, none, |round, place, chosen| {
        let here = |i: usize| round.eq(lane + b.i32(32 * i as u64));
        chosen.iter().enumerate().map(|(i, &c)| place.when(here(i), c)).collect()
    })
}

/// The keys, with 0 for elements outside of the best groups. A lane scores whole groups of the row
/// in shared memory at `row`.
pub(super) fn keep_best_groups<'k>(
    b: &'k Builder<'k>,
    n_experts: u64,
    groups: Groups,
    keys: Vec<I32<'k>>,
    row: Ptr<'k>,
) -> Vec<I32<'k>> {
    let size = n_experts / groups.count;
    let width = 1 << size.trailing_zeros().min(2);
    let load = |at: I32<'k>| row.index(at, 4).load_f32(width as usize);
    let per_lane = groups.count.div_ceil(32);
    let of_group = (0..per_lane).map(|i| {
        let group = b.lane() * b.i32(per_lane) + b.i32(i);
        let inside = group.lt(b.i32(groups.count));
        let first = group.when(inside, b.i32(0)) * b.i32(size);
        let score = group_score(b, [first, first + b.i32(size)], size, groups.by, width, load);
        order_key(b, score).when(inside, b.i32(0))
    });
    let words = groups.count.div_ceil(32);
    let none = vec![b.i32(0); words as usize];
    let kept = take_best(b, of_group.collect(), groups.keep, none, |_, group, kept| {
        let bit = b.i32(1) << (group & 31);
        let word = group >> 5;
        let here = |i: usize| bit.when(word.eq(b.i32(i as u64)), b.i32(0));
        kept.iter().enumerate().map(|(i, &w)| w | here(i)).collect()
    });
    let first = b.lane() * b.i32(keys.len() as u64);
    let mask = |i: usize| {
        let group = (first + b.i32(i as u64)) / b.i32(size);
        let word = (1..kept.len())
            .fold(kept[0], |found, w| kept[w].when((group >> 5).eq(b.i32(w as u64)), found));
        ((word >> (group & 31)) & 1).ne(b.i32(0))
    };
    // A lane's elements often lie in one group.
    let together = size.is_multiple_of(keys.len() as u64).then(|| mask(0));
    let keep = |(i, key): (usize, I32<'k>)| key.when(together.unwrap_or_else(|| mask(i)), b.i32(0));
    keys.into_iter().enumerate().map(keep).collect()
}

/// The score of the group that spans these elements.
fn group_score<'k>(
    b: &'k Builder<'k>,
    [first, last]: [I32<'k>; 2],
    size: u64,
    by: GroupScore,
    width: u64,
    load: impl Fn(I32<'k>) -> Vec<F32<'k>>,
) -> F32<'k> {
    let count = match by {
        GroupScore::Max => 1,
        GroupScore::SumOfTop(n) => n.clamp(1, size),
    };
    let none = vec![b.f32(f32::NEG_INFINITY); count as usize];
    let best = b.for_loop(first, last, b.i32(width), none, |at, best| {
        load(at).into_iter().fold(best, |best, x| insert(best, x))
    });
    best.into_iter().reduce(|sum, x| sum + x).unwrap_or(b.f32(0.0))
}

/// The greatest of `best` (in falling order) and `x`, one of them dropped; NaN stays.
fn insert<'k>(best: Vec<F32<'k>>, x: F32<'k>) -> Vec<F32<'k>> {
    let step = |rest: &mut F32<'k>, slot: F32<'k>| {
        let (greater, less) = (slot.max_nan(*rest), slot.min_nan(*rest));
        *rest = less;
        Some(greater)
    };
    best.into_iter().scan(x, step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use moec_ir::{DType, Phase, Sizes, Sym};

    fn is_refused(n_experts: u64, k: u64, groups: Option<(u64, u64)>) -> bool {
        let view = |dtype, n: u64| View::dense(dtype, &[Sym::Tokens.into(), n.into()]).unwrap();
        let groups = groups.map(|(count, keep)| Groups { count, keep, by: GroupScore::Max });
        let sizes = Sizes { tokens: 1, past: 1, sequences: 1 };
        let step = Step { phase: Phase::Decode, sizes };
        design(&view(DType::F32, n_experts), &view(DType::I32, k), groups, step).is_err()
    }

    #[test]
    fn top_k_above_the_candidates_is_refused() {
        assert!(!is_refused(16, 16, None));
        assert!(is_refused(16, 17, None));
        assert!(is_refused(16, 0, None));
        assert!(is_refused(0, 1, None));
        assert!(!is_refused(16, 8, Some((4, 2))));
        assert!(is_refused(16, 9, Some((4, 2))));
        assert!(is_refused(16, 1, Some((5, 2))));
        assert!(is_refused(16, 1, Some((0, 1))));
    }
}
