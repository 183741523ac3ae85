//! Kernel specs of each family: those of real models and odd ones.

#![allow(unused_imports, reason = "each of the test programs runs some of the cases")]

mod attention;
mod exchange;
mod gradients;
mod masked;
mod packed;
mod routing;
mod scaled;
mod widened;

pub(crate) use attention::{
    attentions, attentions_in_chunks, latent_attentions, packed_attentions, paged_attentions,
};
pub(crate) use exchange::{Spread, exchanges, scale_row, swiglu as gated};
pub(crate) use gradients::weight_gradients;
pub(crate) use masked::{masked, scaled_masked};
pub(crate) use packed::{
    packed_appends, packed_attentions_on_cuda_cores, packed_attentions_on_tensor_cores,
    packed_gathers,
};
pub(crate) use routing::{route_plans, routers, top_ks};
pub(crate) use scaled::{
    norm_quantizations, pointwise_quantizations, quantizations, scaled_experts, scaled_gemms,
    transposed_quantizations, wide_experts, wide_gemms,
};
pub(crate) use widened::{wide_widened_gemms, widened_experts, widened_f32s, widened_gemms};

use moec_ir::graph::{BinaryFn, ReduceFn, UnaryFn};
use moec_ir::kernel::{KernelSpec, Scalar, View};
use moec_ir::{DType, Dim, Phase, Real, ScaleFormat, Sizes, Sym};

/// A spec and the step that it is designed for.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) spec: KernelSpec,
    pub(crate) tokens: u64,
}

impl Case {
    pub(crate) fn step(&self) -> moec_codegen::Step {
        let phase = if self.tokens <= 4 { Phase::Decode } else { Phase::Prefill };
        let sizes = Sizes { tokens: self.tokens, past: self.tokens.max(100), sequences: 2 };
        moec_codegen::Step { phase, sizes }
    }
}

pub(crate) fn t() -> Dim {
    Sym::Tokens.into()
}

/// A dense view; `None` is `T`.
pub(crate) fn dense(dtype: DType, shape: &[Option<u64>]) -> View {
    let shape: Vec<Dim> = shape.iter().map(|n| n.map_or(t(), Dim::from)).collect();
    View::dense(dtype, &shape).unwrap()
}

use DType::{Bf16, F32};

pub(crate) fn gemms() -> Vec<Case> {
    let gemm = |name, tokens, batch: u64, n: u64, k: u64, add: bool, types: [DType; 3]| {
        // Heads lie next to each other in a row of `a` and `c`.
        let rows = |dtype, cols: u64| {
            View::new(dtype, [Dim::from(batch), t(), Dim::from(cols)], [cols, batch * cols, 1])
        };
        let spec = KernelSpec::Gemm {
            a: rows(types[0], k),
            w: dense(types[1], &[Some(batch), Some(n), Some(k)]),
            add: add.then(|| rows(types[2], n)),
            c: rows(types[2], n),
        };
        Case { name, spec, tokens }
    };
    // Weights stored transposed: neighbouring columns lie next to each other.
    let transposed = |name, tokens, batch: u64, n: u64, k: u64, types: [DType; 3]| {
        let mut case = gemm(name, tokens, batch, n, k, true, types);
        if let KernelSpec::Gemm { w, .. } = &mut case.spec {
            w.strides = vec![2 * n * k, 1, n];
        }
        case
    };
    vec![
        transposed("decode absorbed", 1, 16, 512, 128, [Bf16; 3]),
        transposed("decode absorbed odd", 4, 3, 24, 30, [F32, Bf16, F32]),
        transposed("decode absorbed odd f32", 3, 1, 6, 7, [Bf16, F32, F32]),
        transposed("hopper absorbed v3", 64, 128, 512, 128, [Bf16; 3]),
        transposed("hopper absorbed", 40, 2, 128, 64, [Bf16; 3]),
        transposed("hopper absorbed ends", 77, 3, 200, 136, [Bf16, Bf16, F32]),
        transposed("hopper absorbed many steps", 20, 1, 72, 1096, [DType::F16; 3]),
        transposed("prefill absorbed", 40, 2, 128, 64, [F32; 3]),
        transposed("prefill absorbed odd", 11, 3, 36, 50, [Bf16, F32, F32]),
        gemm("decode bf16 7168", 1, 1, 2048, 7168, false, [Bf16; 3]),
        gemm("decode router", 1, 1, 256, 7168, false, [Bf16, Bf16, F32]),
        gemm("decode heads", 2, 16, 512, 128, false, [Bf16; 3]),
        gemm("decode residual", 4, 1, 64, 96, true, [Bf16; 3]),
        gemm("decode odd", 3, 1, 37, 33, true, [F32, Bf16, Bf16]),
        gemm("decode odd heads f32", 1, 3, 5, 7, false, [F32; 3]),
        gemm("decode long odd", 1, 1, 10, 1002, false, [F32, Bf16, F32]),
        gemm("prefill bf16", 64, 1, 2048, 7168, true, [Bf16; 3]),
        gemm("prefill heads", 33, 4, 24, 40, false, [Bf16; 3]),
        gemm("prefill odd", 17, 1, 37, 33, true, [F32, Bf16, Bf16]),
        gemm("prefill narrow", 20, 1, 6, 50, false, [F32; 3]),
        gemm("prefill small", 9, 2, 70, 18, false, [Bf16, F32, F32]),
    ]
}

pub(crate) fn rows() -> Vec<Case> {
    let norm = |name, tokens, heads: u64, n: u64, fused: bool, dtype: DType| {
        let x = || dense(dtype, &[None, Some(heads), Some(n)]);
        let spec = KernelSpec::RmsNorm {
            x: x(),
            residual: fused.then(|| (x(), x())),
            weight: dense(dtype, &[Some(n)]),
            out: x(),
            eps: Real(1e-6),
        };
        Case { name, spec, tokens }
    };
    vec![
        norm("norm 7168", 1, 1, 7168, true, Bf16),
        norm("norm 512", 40, 1, 512, false, Bf16),
        norm("norm heads", 3, 4, 128, false, Bf16),
        norm("norm odd", 5, 1, 77, true, F32),
        norm("norm odd long", 2, 1, 3001, true, Bf16),
        norm("norm beyond registers", 2, 1, 40000, true, Bf16),
    ]
}

pub(crate) fn elements() -> Vec<Case> {
    let x = |n: u64| dense(Bf16, &[None, Some(n)]);
    let swiglu = vec![
        Scalar::Input(0),
        Scalar::Input(1),
        Scalar::Unary(UnaryFn::Silu, 0),
        Scalar::Binary(BinaryFn::Mul, 2, 1),
    ];
    let halves = |n: u64, at: u64| {
        let mut view = View::new(Bf16, [t(), Dim::from(n)], [2 * n, 1]);
        view.align = if (at * n * 2).is_multiple_of(16) { 16 } else { 2 };
        view
    };
    let spec = |inputs: Vec<View>, out: View, code: Vec<Scalar>| KernelSpec::Pointwise {
        inputs,
        out,
        code,
    };
    vec![
        Case {
            name: "swiglu",
            spec: spec(vec![halves(2048, 0), halves(2048, 1)], x(2048), swiglu.clone()),
            tokens: 3,
        },
        Case {
            name: "swiglu odd",
            spec: spec(vec![halves(37, 0), halves(37, 1)], x(37), swiglu),
            tokens: 5,
        },
        Case {
            name: "every function",
            spec: spec(
                vec![dense(F32, &[None, Some(50)])],
                dense(F32, &[None, Some(50)]),
                functions(),
            ),
            tokens: 2,
        },
        Case {
            name: "broadcast",
            spec: spec(
                vec![
                    View::new(F32, [t(), Dim::from(3), Dim::from(1)], [3, 1, 0]),
                    View::new(Bf16, [1, 1, 20].map(Dim::from), [0, 0, 1]),
                    View::new(F32, [1, 3, 20].map(Dim::from), [0, 20, 1]),
                ],
                dense(F32, &[None, Some(3), Some(20)]),
                vec![
                    Scalar::Input(0),
                    Scalar::Input(1),
                    Scalar::Input(2),
                    Scalar::Constant(Real(0.75)),
                    Scalar::Binary(BinaryFn::Mul, 0, 1),
                    Scalar::Binary(BinaryFn::Div, 4, 3),
                    Scalar::Binary(BinaryFn::Max, 5, 2),
                    Scalar::Binary(BinaryFn::Min, 6, 3),
                    Scalar::Binary(BinaryFn::Sub, 7, 2),
                ],
            ),
            tokens: 5,
        },
        Case {
            name: "transposed copy",
            spec: spec(
                vec![View::new(F32, [t(), Dim::from(6), Dim::from(10)], [60, 1, 6])],
                dense(Bf16, &[None, Some(6), Some(10)]),
                vec![Scalar::Input(0)],
            ),
            tokens: 5,
        },
        Case {
            name: "copy of integers into a part of rows",
            spec: spec(
                vec![dense(DType::I32, &[None, Some(12)])],
                View { align: 8, ..View::new(DType::I32, [t(), Dim::from(12)], [50, 1]) },
                vec![Scalar::Input(0), Scalar::Unary(UnaryFn::Identity, 0)],
            ),
            tokens: 5,
        },
        Case {
            name: "cast",
            spec: spec(
                vec![dense(F32, &[None, Some(256)])],
                dense(DType::F16, &[None, Some(256)]),
                vec![Scalar::Input(0)],
            ),
            tokens: 64,
        },
    ]
}

/// The sum of every function, each of a number that it is defined for.
fn functions() -> Vec<Scalar> {
    let any = [
        UnaryFn::Identity,
        UnaryFn::Neg,
        UnaryFn::Exp,
        UnaryFn::Sigmoid,
        UnaryFn::Silu,
        UnaryFn::Tanh,
        UnaryFn::Relu,
        UnaryFn::Sign,
        UnaryFn::Abs,
    ];
    let mut code = vec![Scalar::Input(0), Scalar::Unary(UnaryFn::Abs, 0)];
    let positive = [UnaryFn::Log, UnaryFn::Sqrt, UnaryFn::Rsqrt].map(|f| Scalar::Unary(f, 1));
    let each: Vec<Scalar> = any.map(|f| Scalar::Unary(f, 0)).into_iter().chain(positive).collect();
    let mut sum = 0;
    for scalar in each {
        code.push(scalar);
        code.push(Scalar::Binary(BinaryFn::Add, sum, code.len() - 1));
        sum = code.len() - 1;
    }
    code
}

/// One function of rows of 50 numbers.
pub(crate) fn function(f: UnaryFn) -> KernelSpec {
    let x = || dense(F32, &[None, Some(50)]);
    let code = vec![Scalar::Input(0), Scalar::Unary(f, 0)];
    KernelSpec::Pointwise { inputs: vec![x()], out: x(), code }
}

pub(crate) fn reductions() -> Vec<Case> {
    let x = |dtype, n: u64| dense(dtype, &[None, Some(n)]);
    let softmax = |name, tokens, n: u64, dtype| Case {
        name,
        spec: KernelSpec::Softmax { x: x(dtype, n), out: x(dtype, n) },
        tokens,
    };
    let reduce = |name, tokens, n: u64, dtype, f| Case {
        name,
        spec: KernelSpec::Reduce { x: x(dtype, n), out: x(dtype, 1), f },
        tokens,
    };
    vec![
        softmax("softmax experts", 5, 64, F32),
        softmax("softmax odd", 3, 33, Bf16),
        softmax("softmax long", 2, 5000, Bf16),
        softmax("softmax beyond registers", 1, 33_333, F32),
        reduce("sum", 7, 256, F32, ReduceFn::Sum),
        reduce("mean odd", 3, 77, Bf16, ReduceFn::Mean),
        reduce("max long", 2, 40_000, Bf16, ReduceFn::Max),
    ]
}

pub(crate) fn experts() -> Vec<Case> {
    let grouped = |name, tokens, top_k: u64, per_pair: bool, e: u64, n: u64, k: u64, dtype| {
        let spec = KernelSpec::GroupedGemm {
            a: dense(dtype, &[None, Some(if per_pair { top_k } else { 1 }), Some(k)]),
            w: dense(dtype, &[Some(e), Some(n), Some(k)]),
            c: dense(dtype, &[None, Some(top_k), Some(n)]),
            top_k,
        };
        Case { name, spec, tokens }
    };
    let combine = |name, tokens, k: u64, n: u64, adds: usize, dtype| {
        let spec = KernelSpec::Combine {
            y: dense(dtype, &[None, Some(k), Some(n)]),
            weight: dense(F32, &[None, Some(k)]),
            adds: vec![dense(dtype, &[None, Some(n)]); adds],
            out: dense(dtype, &[None, Some(n)]),
        };
        Case { name, spec, tokens }
    };
    let pick = |name, tokens, e: u64, k: u64, dtype| {
        let spec = KernelSpec::Pick {
            x: dense(dtype, &[None, Some(e)]),
            chosen: dense(DType::I32, &[None, Some(k)]),
            out: dense(F32, &[None, Some(k)]),
        };
        Case { name, spec, tokens }
    };
    vec![
        grouped("experts decode v3", 1, 8, false, 256, 4096, 7168, Bf16),
        grouped("experts few rows", 16, 8, true, 24, 40, 70, Bf16),
        grouped("experts hopper few rows", 16, 8, true, 24, 40, 72, Bf16),
        grouped("experts hopper two rows each", 16, 4, false, 32, 64, 192, Bf16),
        grouped("experts odd", 7, 3, false, 5, 33, 21, F32),
        grouped("experts tiles", 64, 2, false, 8, 96, 64, Bf16),
        grouped("experts tiles odd", 50, 3, true, 3, 37, 50, Bf16),
        grouped("experts hopper mixtral", 4096, 2, false, 8, 28672, 4096, Bf16),
        grouped("experts hopper pairs", 40, 3, true, 5, 72, 200, Bf16),
        grouped("experts hopper many steps", 33, 4, false, 6, 40, 1096, DType::F16),
        grouped("experts hopper many experts", 160, 4, false, 40, 24, 136, Bf16),
        grouped("experts hopper one expert", 70, 1, false, 1, 96, 320, Bf16),
        grouped("experts hopper odd columns", 70, 2, true, 4, 33, 64, Bf16),
        combine("combine v3", 2, 8, 7168, 2, Bf16),
        combine("combine odd", 3, 3, 37, 0, F32),
        combine("combine many", 1, 20, 50, 1, Bf16),
        pick("pick", 9, 256, 8, F32),
        pick("pick odd", 5, 7, 3, Bf16),
    ]
}

pub(crate) fn rotations() -> Vec<Case> {
    let rotary = |name, tokens, heads: u64, dim: u64, stride: u64, interleaved, dtype| {
        let view = |row: u64| {
            View::new(dtype, [t(), Dim::from(heads), Dim::from(dim)], [heads * row, row, 1])
        };
        Case {
            name,
            spec: KernelSpec::Rotary { x: view(stride), out: view(dim), interleaved },
            tokens,
        }
    };
    vec![
        rotary("rotary interleaved", 3, 4, 64, 192, true, Bf16),
        rotary("rotary halves", 3, 8, 128, 128, false, Bf16),
        rotary("rotary odd pairs", 5, 1, 6, 11, true, F32),
        rotary("rotary odd halves", 5, 3, 10, 13, false, Bf16),
        rotary("rotary short", 40, 2, 8, 8, true, F32),
    ]
}

pub(crate) fn movements() -> Vec<Case> {
    let gather = |name, tokens, rows: u64, n: u64, from, to| {
        let spec = KernelSpec::Gather {
            table: dense(from, &[Some(rows), Some(n)]),
            out: dense(to, &[None, Some(n)]),
        };
        Case { name, spec, tokens }
    };
    let scatter = |name, tokens, rows: u64, n: u64, from, to| {
        let spec = KernelSpec::Scatter {
            x: dense(from, &[None, Some(n)]),
            table: dense(to, &[Some(rows), Some(n)]),
        };
        Case { name, spec, tokens }
    };
    vec![
        gather("gather embedding", 3, 1000, 7168, Bf16, Bf16),
        gather("gather odd", 7, 13, 37, F32, Bf16),
        gather("gather integers", 5, 9, 3, DType::I32, DType::I32),
        scatter("scatter cache", 2, 300, 576, Bf16, Bf16),
        scatter("scatter odd", 6, 20, 35, Bf16, F32),
    ]
}

/// Latent and key are slices of one projection, `gap` elements wider than both.
pub(crate) fn appended_latents() -> Vec<Case> {
    use ScaleFormat::{F32 as Any, Ue8m0};
    let case = |name, tokens, [n, dim, gap]: [u64; 3], interleaved, types: [DType; 2], rounded| {
        let row = n + dim + gap;
        let align = |at: u64| match (at * types[0].bytes()) % 16 {
            0 => 16,
            rest => 1 << rest.trailing_zeros(),
        };
        let slice = |at: u64, len: u64| View {
            align: align(at),
            ..View::new(types[0], [t(), Dim::from(len)], [row, 1])
        };
        let spec = KernelSpec::AppendLatent {
            latent: slice(0, n),
            weight: dense(types[0], &[Some(n)]),
            key: slice(n, dim),
            cache: View::new(types[1], [i32::MAX as u64, n + dim].map(Dim::from), [n + dim, 1]),
            eps: Real(1e-6),
            interleaved,
            rounded,
            packed: None,
        };
        Case { name, spec, tokens }
    };
    let v3 = Some((128, Any));
    vec![
        case("latent v3", 1, [512, 64, 0], true, [Bf16; 2], None),
        case("latent v3 beside queries", 40, [512, 64, 1536], true, [Bf16; 2], None),
        case("latent of halves", 5, [512, 64, 0], false, [Bf16; 2], None),
        case("latent f16", 5, [128, 32, 8], true, [DType::F16; 2], None),
        case("latent f32", 5, [96, 16, 0], false, [F32; 2], None),
        case("latent to f32", 5, [96, 16, 3], true, [Bf16, F32], None),
        case("latent in fp8", 1, [512, 64, 0], true, [Bf16; 2], v3),
        case("latent in fp8 beside queries", 40, [512, 64, 1536], true, [Bf16; 2], v3),
        case("latent in fp8 powers of two", 5, [192, 32, 0], false, [Bf16; 2], Some((64, Ue8m0))),
        case("latent in fp8 short end", 5, [200, 16, 0], true, [F32; 2], v3),
        case("latent in fp8 odd", 7, [77, 10, 2], true, [Bf16; 2], Some((16, Any))),
        case("latent in fp8 long", 2, [9000, 64, 0], true, [Bf16; 2], v3),
        case("latent odd", 7, [77, 10, 2], true, [Bf16; 2], None),
        case("latent odd halves", 7, [33, 6, 1], false, [F32, Bf16], None),
        case("latent long", 2, [1536, 128, 0], true, [Bf16; 2], None),
        case("latent beyond registers", 2, [40_000, 64, 0], true, [Bf16; 2], None),
    ]
}

pub(crate) fn all() -> Vec<Case> {
    let families = [
        gemms,
        rows,
        elements,
        reductions,
        experts,
        rotations,
        movements,
        appended_latents,
        attentions,
        attentions_in_chunks,
        latent_attentions,
        packed_attentions_on_tensor_cores,
        packed_attentions_on_cuda_cores,
        packed_appends,
        packed_gathers,
        packed_attentions,
        paged_attentions,
        top_ks,
        routers,
        route_plans,
        quantizations,
        transposed_quantizations,
        norm_quantizations,
        pointwise_quantizations,
        scaled_gemms,
        scaled_experts,
        widened_gemms,
        widened_experts,
        widened_f32s,
        masked,
        scaled_masked,
        weight_gradients,
    ];
    families.into_iter().flat_map(|family| family()).collect()
}
