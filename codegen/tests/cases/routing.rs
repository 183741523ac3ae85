//! Choice of experts and the order of their rows.

use super::{Case, dense, t};
use moec_ir::DType::{self, Bf16, F32, I32};
use moec_ir::Real;
use moec_ir::graph::{GroupScore, Groups};
use moec_ir::kernel::{KernelSpec, Scoring, View};

pub(crate) fn top_ks() -> Vec<Case> {
    let top_k = |name, tokens, dtype: DType, experts: u64, k: u64, groups: Option<Groups>| {
        let spec = KernelSpec::TopK {
            scores: dense(dtype, &[None, Some(experts)]),
            chosen: dense(I32, &[None, Some(k)]),
            groups,
        };
        Case { name, spec, tokens }
    };
    let groups = |count, keep, by| Some(Groups { count, keep, by });
    let strided = KernelSpec::TopK {
        scores: View { align: 4, ..View::new(F32, [t(), 45.into()], [97, 2]) },
        chosen: View { align: 4, ..View::new(I32, [t(), 5.into()], [11, 2]) },
        groups: groups(5, 2, GroupScore::SumOfTop(3)),
    };
    vec![
        top_k("v3", 1, F32, 256, 8, groups(8, 4, GroupScore::SumOfTop(2))),
        top_k("v2", 9, F32, 160, 6, groups(8, 3, GroupScore::Max)),
        top_k("v2-lite", 3, Bf16, 64, 6, None),
        top_k("mixtral", 5, F32, 8, 2, None),
        top_k("qwen3", 7, Bf16, 128, 8, None),
        top_k("kimi", 2, F32, 384, 8, None),
        top_k("all of 1024", 2, F32, 1024, 32, None),
        top_k("all of a few", 3, F32, 33, 33, None),
        top_k("one", 2, F32, 1, 1, None),
        top_k("many groups", 4, Bf16, 190, 3, groups(95, 40, GroupScore::SumOfTop(1))),
        top_k("groups of 7", 4, F32, 77, 9, groups(11, 3, GroupScore::SumOfTop(7))),
        Case { name: "strided", spec: strided, tokens: 6 },
    ]
}

/// Every router of the models that we know, and odd ones, each in four forms.
pub(crate) fn routers() -> Vec<Case> {
    let groups = |count, keep, by| Some(Groups { count, keep, by });
    let shapes = [
        ("v3", 1, F32, 256, 8, groups(8, 4, GroupScore::SumOfTop(2))),
        ("v2", 9, F32, 160, 6, groups(8, 3, GroupScore::Max)),
        ("v2-lite", 3, Bf16, 64, 6, None),
        ("mixtral", 5, F32, 8, 2, None),
        ("qwen3", 7, F32, 128, 8, None),
        ("kimi", 2, F32, 384, 8, None),
        ("512", 4, F32, 512, 10, groups(16, 5, GroupScore::SumOfTop(2))),
        ("groups of 7", 4, F32, 77, 9, groups(11, 3, GroupScore::SumOfTop(7))),
        ("odd", 6, Bf16, 45, 33, groups(5, 4, GroupScore::Max)),
        ("one", 2, F32, 1, 1, None),
    ];
    let forms = [
        (Scoring::Sigmoid, true, true, 2.5),
        (Scoring::Sigmoid, false, false, 1.0),
        (Scoring::Softmax, false, true, 1.0),
        (Scoring::Softmax, true, false, 16.0),
    ];
    type Shape = (&'static str, u64, DType, u64, u64, Option<Groups>);
    let case = |(name, tokens, dtype, experts, k, groups): Shape,
                form: (Scoring, bool, bool, f64)| {
        let (scoring, biased, normalize, scale) = form;
        let of_experts = View::dense(F32, &[moec_ir::Dim::from(experts)]).unwrap();
        let spec = KernelSpec::Router {
            logits: dense(dtype, &[None, Some(experts)]),
            bias: biased.then_some(of_experts),
            chosen: dense(I32, &[None, Some(k)]),
            weight: dense(F32, &[None, Some(k)]),
            scoring,
            groups,
            normalize,
            scale: Real(scale),
        };
        Case { name, spec, tokens }
    };
    shapes.into_iter().flat_map(|shape| forms.map(|form| case(shape, form))).collect()
}

pub(crate) fn route_plans() -> Vec<Case> {
    let plan = |name, tokens, n_experts: u64, k: u64| {
        let spec = KernelSpec::RoutePlan { chosen: dense(I32, &[None, Some(k)]), n_experts };
        Case { name, spec, tokens }
    };
    let strided = View { align: 4, ..View::new(I32, [t(), 3.into()], [7, 2]) };
    vec![
        plan("route v3", 1, 256, 8),
        plan("route v3 many", 600, 256, 8),
        plan("route v3 prefill", 4096, 256, 8),
        plan("route mixtral", 200, 8, 2),
        plan("route one expert", 3, 1, 1),
        plan("route 31 experts", 40, 31, 6),
        plan("route 1024 experts", 300, 1024, 8),
        Case {
            name: "route strided",
            spec: KernelSpec::RoutePlan { chosen: strided, n_experts: 12 },
            tokens: 50,
        },
    ]
}
