//! Kernels bound by memory move what they must and little more, between memory and L2 and between
//! L2 and the SMs.

use super::machine::{Array, Ran, Random, run_counting};
use crate::cases::{Case, dense, t};
use moec_ir::graph::{BinaryFn, ReduceFn, UnaryFn};
use moec_ir::kernel::{KernelSpec, Scalar, View};
use moec_ir::{DType, Dim, Real, ScaleFormat, Sizes};

use DType::{Bf16, F8e4m3, F32};

/// Rows of a step; enough that what is read once for all rows does not count.
const TOKENS: u64 = 48;
/// Bytes moved for each that must be.
const MOST: f64 = 1.05;

const SWIGLU: [Scalar; 4] = [
    Scalar::Input(0),
    Scalar::Input(1),
    Scalar::Unary(UnaryFn::Silu, 0),
    Scalar::Binary(BinaryFn::Mul, 2, 1),
];

fn x(n: u64) -> View {
    dense(Bf16, &[None, Some(n)])
}

/// One of two halves that lie side by side in a row.
fn half(n: u64) -> View {
    View::new(Bf16, [t(), Dim::from(n)], [2 * n, 1])
}

/// Rows of scales begin at multiples of 16 bytes.
fn scales(blocks: u64) -> View {
    View::new(F32, [t(), Dim::from(blocks)], [blocks.next_multiple_of(4), 1])
}

fn with_heads(view: View) -> View {
    let [rows, n] = [0, 1].map(|axis| view.shape[axis].clone());
    View::new(view.dtype, [rows, Dim::from(1), n], [view.strides[0], 0, 1])
}

fn quantize(n: u64) -> KernelSpec {
    let (q, scale) = (dense(F8e4m3, &[None, Some(n)]), scales(n / 128));
    KernelSpec::Quantize { x: x(n), q, scale, block: 128, format: ScaleFormat::F32 }
}

fn norm(residual: bool) -> KernelSpec {
    let x = || with_heads(x(7168));
    KernelSpec::RmsNorm {
        x: x(),
        residual: residual.then(|| (x(), x())),
        weight: dense(Bf16, &[Some(7168)]),
        out: x(),
        eps: Real(1e-6),
    }
}

fn norm_quantize(out: bool) -> KernelSpec {
    KernelSpec::RmsNormQuantize {
        x: with_heads(x(7168)),
        residual: None,
        weight: dense(Bf16, &[Some(7168)]),
        out: out.then(|| with_heads(x(7168))),
        q: with_heads(dense(F8e4m3, &[None, Some(7168)])),
        scale: with_heads(scales(56)),
        eps: Real(1e-6),
        block: 128,
        format: ScaleFormat::F32,
    }
}

fn swiglu_quantize() -> KernelSpec {
    KernelSpec::PointwiseQuantize {
        inputs: vec![half(2048), half(2048)],
        out: None,
        q: dense(F8e4m3, &[None, Some(2048)]),
        scale: scales(16),
        code: SWIGLU.to_vec(),
        block: 128,
        format: ScaleFormat::F32,
    }
}

/// Kernels in the sizes of DeepSeek-V3, and their operands in order.
fn kernels() -> Vec<(Case, Vec<View>)> {
    let views = |spec: &KernelSpec| -> Vec<View> {
        match spec {
            KernelSpec::RmsNorm { x, residual, weight, out, .. } => {
                let mut all = vec![x.clone()];
                all.extend(residual.iter().flat_map(|(r, sum)| [r.clone(), sum.clone()]));
                all.extend([weight.clone(), out.clone()]);
                all
            }
            KernelSpec::RmsNormQuantize { x, weight, out, q, scale, .. } => {
                let mut all = vec![x.clone(), weight.clone()];
                all.extend(out.iter().chain([q, scale]).cloned());
                all
            }
            KernelSpec::Quantize { x, q, scale, .. } => vec![x.clone(), q.clone(), scale.clone()],
            KernelSpec::Pointwise { inputs, out, .. } => {
                inputs.iter().chain([out]).cloned().collect()
            }
            KernelSpec::PointwiseQuantize { inputs, q, scale, .. } => {
                inputs.iter().chain([q, scale]).cloned().collect()
            }
            KernelSpec::Combine { y, weight, adds, out } => {
                [y, weight].into_iter().chain(adds).chain([out]).cloned().collect()
            }
            KernelSpec::Reduce { x, out, .. } | KernelSpec::Softmax { x, out } => {
                vec![x.clone(), out.clone()]
            }
            other => panic!("{} is not listed here", other.family()),
        }
    };
    let swiglu = KernelSpec::Pointwise {
        inputs: vec![half(2048), half(2048)],
        out: x(2048),
        code: SWIGLU.to_vec(),
    };
    let combine = KernelSpec::Combine {
        y: dense(Bf16, &[None, Some(8), Some(7168)]),
        weight: dense(F32, &[None, Some(8)]),
        adds: vec![x(7168), x(7168)],
        out: x(7168),
    };
    let sum = KernelSpec::Reduce {
        x: dense(F32, &[None, Some(256)]),
        out: dense(F32, &[None, Some(1)]),
        f: ReduceFn::Sum,
    };
    let scores = || dense(F32, &[None, Some(256)]);
    let all = [
        ("norm", norm(false)),
        ("residual and norm", norm(true)),
        ("norm and quantise", norm_quantize(false)),
        ("norm and quantise, and the norm", norm_quantize(true)),
        ("quantise", quantize(7168)),
        ("swiglu", swiglu),
        ("swiglu and quantise", swiglu_quantize()),
        ("combine", combine),
        ("sum", sum),
        ("softmax", KernelSpec::Softmax { x: scores(), out: scores() }),
    ];
    let with_views = |(name, spec): (&'static str, KernelSpec)| {
        let views = views(&spec);
        (Case { name, spec, tokens: TOKENS }, views)
    };
    all.into_iter().map(with_views).collect()
}

/// Bytes of all elements of a view.
fn bytes(view: &View, sizes: &Sizes) -> u64 {
    view.shape.iter().map(|dim| dim.eval(sizes)).product::<u64>() * view.dtype.bytes()
}

#[test]
fn memory_bound_kernels_move_each_byte_once() {
    let sizes = Sizes { tokens: TOKENS, past: TOKENS, sequences: 1 };
    for (case, views) in kernels() {
        let mut random = Random(7);
        let mut arrays: Vec<Array> =
            views.iter().map(|view| Array::random(view, &sizes, &mut random)).collect();
        let mut operands: Vec<&mut Array> = arrays.iter_mut().collect();
        let Ran { report, .. } =
            run_counting(case.name, &case.spec, case.step(), &sizes, &mut operands);
        let traffic = report.traffic.unwrap();
        let must: u64 = views.iter().map(|view| bytes(view, &sizes)).sum();
        let moved = traffic.loaded_bytes + traffic.stored_bytes;
        assert!(moved as f64 <= MOST * must as f64, "{}: {moved} of {must}", case.name);
        // Each row's CTA reads the weights of a norm anew, from L2.
        let again = match &case.spec {
            KernelSpec::RmsNorm { weight, .. } | KernelSpec::RmsNormQuantize { weight, .. } => {
                bytes(weight, &sizes) * (TOKENS - 1)
            }
            _ => 0,
        };
        let (requested, most) = (traffic.requested_bytes, MOST * (must + again) as f64);
        assert!(requested as f64 <= most, "{}: {requested} of {must} + {again}", case.name);
    }
}
