//! A router from its logits on, a warp per token: scores, group limit, choice and weights in one
//! reading of the logits (DeepSeek-V2 2.2.1, DeepSeek-V3 2.1.2).
//!
//! Each lane holds neighbouring experts, as in `top_k`, whose choice this is: of equals the lower
//! index. Scores pass through shared memory to the lanes that hold them, score groups and weigh
//! the chosen.

use super::expert_row::{ExpertRow, Vector};
use super::top_k::{SHARED, check_choice, choose, keep_best_groups, order_key};
use super::{Design, Step};
use crate::builder::{Builder, F32, I32, Ptr};
use crate::tensor::{Tensor, vector_width};
use moec_ir::graph::Groups;
use moec_ir::kernel::{Scoring, View};
use moec_ir::plan::Geometry;
use moec_ir::{Diagnostic, Real};

/// What a router writes, and how it makes weights of scores.
pub(super) struct Results<'s> {
    pub(super) chosen: &'s View,
    pub(super) weight: &'s View,
    pub(super) normalize: bool,
    pub(super) scale: Real,
}

struct Router {
    logits: View,
    bias: Option<View>,
    chosen: View,
    weight: View,
    scoring: Scoring,
    groups: Option<Groups>,
    normalize: bool,
    scale: f32,
    n_experts: u64,
    k: u64,
    warps: u32,
}

pub(super) fn design(
    logits: &View,
    bias: Option<&View>,
    scoring: Scoring,
    groups: Option<Groups>,
    results: Results<'_>,
    step: Step,
) -> Result<Box<dyn Design>, Diagnostic> {
    let Results { chosen, weight, normalize, scale } = results;
    let columns = |v: &View| v.shape.last().and_then(moec_ir::Dim::constant).unwrap_or(0);
    let (n_experts, k) = (columns(logits), columns(chosen));
    check_choice("router", n_experts, k, groups)?;
    let mut router = Router {
        logits: logits.clone(),
        bias: bias.cloned(),
        chosen: chosen.clone(),
        weight: weight.clone(),
        scoring,
        groups,
        normalize,
        scale: scale.0 as f32,
        n_experts,
        k,
        warps: 1,
    };
    let sizes_agree = columns(weight) == k && bias.is_none_or(|b| columns(b) == n_experts);
    let fit = SHARED / router.shared_per_warp();
    if !sizes_agree || fit == 0 {
        return Err(Diagnostic::error(
            "E0902",
            format!("a router kernel chooses {k} of {n_experts} experts into {weight}"),
        )
        .help("weights are as many as experts chosen, biases as experts, of which 6000 fit"));
    }
    let wanted = logits.shape[0].eval(&step.sizes).clamp(1, 4).min(fit);
    router.warps = u32::try_from(wanted).unwrap_or(1);
    Ok(Box::new(router))
}

impl Design for Router {
    fn geometry(&self) -> Geometry {
        let rows = self.logits.shape[0].clone();
        super::launch(&[(rows, self.warps.into())], 32 * self.warps)
    }

    fn operands(&self) -> usize {
        3 + usize::from(self.bias.is_some())
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let shared = b.shared_memory(self.shared_per_warp() * u64::from(self.warps));
        let scores = shared.index(b.warp(), self.shared_per_warp());
        let row = b.cta(0) * self.warps.cast_signed() + b.warp();
        b.if_(row.lt(b.size(&self.logits.shape[0])), || {
            let keys = self.keys(b, row, scores);
            let chosen = choose(b, keys, self.k);
            self.store(b, row, scores, &chosen);
        });
    }
}

impl Router {
    fn row(&self) -> ExpertRow {
        let views = [&self.logits].into_iter().chain(&self.bias);
        let width = views.map(vector_width).min().unwrap_or(1).min(8);
        ExpertRow { n_experts: self.n_experts, width }
    }

    /// Whether other numbers than weights are made of pass through shared memory too.
    fn keeps_biased(&self) -> bool {
        self.bias.is_some() && (self.groups.is_some() || !self.row().is_in_place())
    }

    fn shared_per_warp(&self) -> u64 {
        self.row().bytes() * if self.keeps_biased() { 2 } else { 1 }
    }

    /// The keys of this lane's experts, 0 for those out of the question; leaves scores in shared
    /// memory.
    fn keys<'k>(&self, b: &'k Builder<'k>, row: I32<'k>, scores: Ptr<'k>) -> Vec<I32<'k>> {
        let line = self.row();
        let logits = Tensor::operand(b, 0, &self.logits).read_only();
        let mut ranked = line.read(b, |at| logits.load(&[row, at], line.width));
        self.score(b, &mut ranked);
        line.write(b, scores, &ranked);
        let mut ranked_at = scores;
        if let Some(view) = &self.bias {
            let bias = Tensor::operand(b, 1, view).read_only();
            let bias = line.read(b, |at| bias.load(&[at], line.width));
            for (part, bias) in ranked.iter_mut().zip(bias) {
                part.values = part.values.iter().zip(bias.values).map(|(&s, b)| s + b).collect();
            }
            if self.keeps_biased() {
                ranked_at = scores.add_const(line.bytes());
                line.write(b, ranked_at, &ranked);
            }
        }
        b.warp_barrier();
        let own = line.own(b, &ranked, ranked_at);
        let keys = own.iter().map(|&(x, inside)| order_key(b, x).when(inside, b.i32(0))).collect();
        let Some(groups) = self.groups else { return keys };
        keep_best_groups(b, self.n_experts, groups, keys, ranked_at)
    }

    /// Turns logits into scores.
    fn score<'k>(&self, b: &'k Builder<'k>, row: &mut [Vector<'k>]) {
        if self.scoring == Scoring::Sigmoid {
            for value in row.iter_mut().flat_map(|part| &mut part.values) {
                *value = value.sigmoid();
            }
            return;
        }
        // The greatest is subtracted so that no exponential overflows.
        let all = |x: F32<'k>, f: fn(F32<'k>, F32<'k>) -> F32<'k>| x.across(32, f);
        let of_lane = row.iter().flat_map(|part| &part.values).copied();
        let top = all(of_lane.reduce(F32::max).unwrap_or(b.f32(0.0)), F32::max);
        let mut sum = b.f32(0.0);
        for part in row.iter_mut() {
            for value in &mut part.values {
                let power: F32<'k> = (*value - top).exp();
                *value = power.when(part.inside, b.f32(0.0));
                sum = sum + *value;
            }
        }
        let share = b.f32(1.0) / all(sum, |p, q| p + q);
        for value in row.iter_mut().flat_map(|part| &mut part.values) {
            *value = *value * share;
        }
    }

    /// Writes the chosen experts and their weights.
    fn store<'k>(&self, b: &'k Builder<'k>, row: I32<'k>, scores: Ptr<'k>, chosen: &[I32<'k>]) {
        let first = 1 + usize::from(self.bias.is_some());
        let experts = Tensor::operand(b, first, &self.chosen);
        let weights = Tensor::operand(b, first + 1, &self.weight);
        let place = |i: usize| b.lane() + b.i32(32 * i as u64);
        let exists = |i: usize| place(i).lt(b.i32(self.k));
        let score = |(i, &expert): (usize, &I32<'k>)| {
            let score: F32<'k> = scores.index(expert, 4).load_scalar();
            score.when(exists(i), b.f32(0.0))
        };
        let mut own: Vec<F32<'k>> = chosen.iter().enumerate().map(score).collect();
        if self.normalize {
            let sum = own.iter().copied().reduce(|p, q| p + q).unwrap_or(b.f32(0.0));
            let sum = sum.across(32, |p, q| p + q);
            own = own.into_iter().map(|w| w / sum).collect();
        }
        if self.scale != 1.0 {
            own = own.into_iter().map(|w| w * self.scale).collect();
        }
        for (i, (&expert, weight)) in chosen.iter().zip(own).enumerate() {
            b.if_(exists(i), || {
                experts.at(&[row, place(i)]).store_scalar(expert);
                weights.store(&[row, place(i)], &[weight]);
            });
        }
    }
}
