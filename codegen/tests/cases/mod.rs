//! Kernel specs of each family: those of real models and odd ones.

use moec_ir::graph::{BinaryFn, UnaryFn};
use moec_ir::kernel::{KernelSpec, Scalar, View};
use moec_ir::{DType, Dim, Phase, Real, Sizes, Sym};

/// A spec and the step that it is designed for.
pub struct Case {
    pub name: &'static str,
    pub spec: KernelSpec,
    pub tokens: u64,
}

impl Case {
    pub fn step(&self) -> moec_codegen::Step {
        let phase = if self.tokens <= 4 { Phase::Decode } else { Phase::Prefill };
        let sizes = Sizes { tokens: self.tokens, past: self.tokens.max(100), sequences: 2 };
        moec_codegen::Step { phase, sizes }
    }
}

pub fn t() -> Dim {
    Sym::Tokens.into()
}

/// A dense view; `None` is `T`.
pub fn dense(dtype: DType, shape: &[Option<u64>]) -> View {
    let shape: Vec<Dim> = shape.iter().map(|n| n.map_or(t(), Dim::from)).collect();
    View::dense(dtype, &shape).unwrap()
}

use DType::{Bf16, F32};

pub fn gemms() -> Vec<Case> {
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
    vec![
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

pub fn rows() -> Vec<Case> {
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

pub fn elements() -> Vec<Case> {
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
    ]
}

pub fn all() -> Vec<Case> {
    [gemms(), rows(), elements()].into_iter().flatten().collect()
}
