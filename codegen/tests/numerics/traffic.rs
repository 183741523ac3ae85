//! Kernels bound by memory move what they must and little more, between memory and L2 and between
//! L2 and the SMs.

use super::machine::{Array, Random, run_counting};
use crate::cases::{Case, dense, t};
use moec_ir::graph::{BinaryFn, GroupScore, Groups, ReduceFn, UnaryFn};
use moec_ir::kernel::{KernelSpec, Scalar, Scoring, View};
use moec_ir::{DType, Dim, Real, ScaleFormat, Sizes};

use DType::{Bf16, F8e4m3, F32, I32};

/// Rows of a step; enough that what is read once for all rows does not count.
const TOKENS: u64 = 48;
const SIZES: Sizes = Sizes { tokens: TOKENS, past: TOKENS, sequences: 1 };
/// Rows of a table that is read or written by index.
const ROWS: u64 = 100;
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

fn norm_quantize(residual: bool, out: bool) -> KernelSpec {
    let x = || with_heads(x(7168));
    KernelSpec::RmsNormQuantize {
        x: x(),
        residual: residual.then(|| (x(), x())),
        weight: dense(Bf16, &[Some(7168)]),
        out: out.then(x),
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

fn norms() -> Vec<(&'static str, KernelSpec)> {
    vec![
        ("norm", norm(false)),
        ("residual and norm", norm(true)),
        ("norm and quantise", norm_quantize(false, false)),
        ("norm and quantise, and the norm", norm_quantize(false, true)),
        ("residual, norm and quantise", norm_quantize(true, false)),
    ]
}

fn elements() -> Vec<(&'static str, KernelSpec)> {
    let swiglu = KernelSpec::Pointwise {
        inputs: vec![half(2048), half(2048)],
        out: x(2048),
        code: SWIGLU.to_vec(),
    };
    let combine = |adds: usize| KernelSpec::Combine {
        y: dense(Bf16, &[None, Some(8), Some(7168)]),
        weight: dense(F32, &[None, Some(8)]),
        adds: vec![x(7168); adds],
        out: x(7168),
    };
    let columns = KernelSpec::QuantizeTransposed {
        x: x(7168),
        q: View::new(F8e4m3, [7168.into(), t()], [TOKENS, 1]),
        scale: View::new(F32, [7168.into(), 1.into()], [1, 7168]),
        block: 128,
        format: ScaleFormat::F32,
    };
    let sum =
        KernelSpec::Reduce { x: scores(), out: dense(F32, &[None, Some(1)]), f: ReduceFn::Sum };
    vec![
        ("quantise", quantize(7168)),
        ("quantise columns", columns),
        ("swiglu", swiglu),
        ("swiglu and quantise", swiglu_quantize()),
        ("combine", combine(2)),
        ("combine alone", combine(0)),
        ("sum", sum),
        ("softmax", KernelSpec::Softmax { x: scores(), out: scores() }),
    ]
}

fn scores() -> View {
    dense(F32, &[None, Some(256)])
}

fn chosen() -> View {
    dense(I32, &[None, Some(8)])
}

fn routing() -> Vec<(&'static str, KernelSpec)> {
    let by = |by| Some(Groups { count: 8, keep: 4, by });
    let top_k = |scores: View, groups| KernelSpec::TopK { scores, chosen: chosen(), groups };
    let router = |scoring, biased: bool, groups| KernelSpec::Router {
        logits: scores(),
        bias: biased.then(|| dense(F32, &[Some(256)])),
        chosen: chosen(),
        weight: dense(F32, &[None, Some(8)]),
        scoring,
        groups,
        normalize: true,
        scale: Real(2.5),
    };
    let two = GroupScore::SumOfTop(2);
    vec![
        ("top-k", top_k(scores(), None)),
        ("top-k, bf16", top_k(x(256), None)),
        ("top-k of groups", top_k(scores(), by(two))),
        ("top-k of groups by maximum", top_k(scores(), by(GroupScore::Max))),
        ("router", router(Scoring::Sigmoid, true, by(two))),
        ("softmax router", router(Scoring::Softmax, false, None)),
        ("route plan", KernelSpec::RoutePlan { chosen: chosen(), n_experts: 256 }),
        (
            "pick",
            KernelSpec::Pick { x: scores(), chosen: chosen(), out: dense(F32, &[None, Some(8)]) },
        ),
    ]
}

fn movements() -> Vec<(&'static str, KernelSpec)> {
    // The rotated part of queries of 128 + 64, and of keys behind a latent of 512.
    let rotary = |heads: u64, from: u64, interleaved| KernelSpec::Rotary {
        x: View::new(Bf16, [t(), heads.into(), 64.into()], [heads * from, from, 1]),
        out: dense(Bf16, &[None, Some(heads), Some(64)]),
        interleaved,
    };
    let cache = || dense(Bf16, &[Some(ROWS), Some(576)]);
    let of_projection = |len: u64| View::new(Bf16, [t(), len.into()], [576, 1]);
    let append = |rounded| KernelSpec::AppendLatent {
        latent: of_projection(512),
        weight: dense(Bf16, &[Some(512)]),
        key: of_projection(64),
        cache: cache(),
        eps: Real(1e-6),
        interleaved: true,
        rounded,
        packed: None,
    };
    let embedding = dense(Bf16, &[Some(ROWS), Some(7168)]);
    vec![
        ("rotary of queries", rotary(128, 192, true)),
        ("rotary of halves", rotary(128, 192, false)),
        ("rotary of a key", rotary(1, 576, true)),
        ("rotary of 8 heads", rotary(8, 64, false)),
        ("gather of a cache", KernelSpec::Gather { table: cache(), out: x(576) }),
        ("gather of embeddings", KernelSpec::Gather { table: embedding, out: x(7168) }),
        ("norm, rotary and append", append(None)),
        ("norm, FP8, rotary and append", append(Some((128, ScaleFormat::F32)))),
        ("scatter", KernelSpec::Scatter { x: x(576), table: cache() }),
    ]
}

/// A kernel's operands, and what it must and may move.
struct Operands {
    arrays: Vec<Array>,
    /// Bytes of what it reads and writes, each once.
    must: u64,
    /// Bytes that each row's CTA or warp reads anew, from L2: the weights of a norm, a bias.
    again: u64,
}

/// The operands of a kernel that has nothing but arrays of numbers, in order.
fn views(spec: &KernelSpec) -> Vec<&View> {
    match spec {
        KernelSpec::RmsNorm { x, residual, weight, out, .. } => {
            let kept = residual.iter().flat_map(|(r, sum)| [r, sum]);
            [x].into_iter().chain(kept).chain([weight, out]).collect()
        }
        KernelSpec::RmsNormQuantize { x, residual, weight, out, q, scale, .. } => {
            let kept = residual.iter().flat_map(|(r, sum)| [r, sum]);
            [x].into_iter().chain(kept).chain([weight]).chain(out).chain([q, scale]).collect()
        }
        KernelSpec::Quantize { x, q, scale, .. }
        | KernelSpec::QuantizeTransposed { x, q, scale, .. } => vec![x, q, scale],
        KernelSpec::Pointwise { inputs, out, .. } => inputs.iter().chain([out]).collect(),
        KernelSpec::PointwiseQuantize { inputs, q, scale, .. } => {
            inputs.iter().chain([q, scale]).collect()
        }
        KernelSpec::Combine { y, weight, adds, out } => {
            [y, weight].into_iter().chain(adds).chain([out]).collect()
        }
        KernelSpec::Reduce { x, out, .. } | KernelSpec::Softmax { x, out } => vec![x, out],
        KernelSpec::TopK { scores, chosen, .. } => vec![scores, chosen],
        KernelSpec::Router { logits, bias, chosen, weight, .. } => {
            [logits].into_iter().chain(bias).chain([chosen, weight]).collect()
        }
        other => panic!("{} has other operands", other.family()),
    }
}

/// Bytes of all elements of a view.
fn bytes(view: &View) -> u64 {
    view.shape.iter().map(|dim| dim.eval(&SIZES)).product::<u64>() * view.dtype.bytes()
}

/// Distinct places among `rows`, in no order.
fn places(rows: u64, random: &mut Random) -> Array {
    let mut left: Vec<i32> = (0..rows as i32).collect();
    let places = (0..TOKENS).map(|_| left.swap_remove(random.below(left.len() as u64) as usize));
    Array::integers(&places.collect::<Vec<_>>())
}

fn operands(spec: &KernelSpec) -> Operands {
    let mut random = Random(7);
    let index = 4 * TOKENS;
    let mut number = |view: &View| Array::random(view, &SIZES, &mut random);
    let (arrays, must) = match spec {
        KernelSpec::Rotary { x, out, .. } => {
            let pairs = x.shape[2].constant().unwrap() / 2;
            let table = dense(F32, &[Some(ROWS), Some(pairs), Some(2)]);
            let [x_of, table, out_of] = [x, &table, out].map(&mut number);
            let turns = TOKENS * pairs * 8;
            let must = bytes(x) + bytes(out) + turns + index;
            (vec![x_of, table, places(ROWS, &mut random), out_of], must)
        }
        KernelSpec::AppendLatent { latent, weight, key, cache, .. } => {
            let pairs = key.shape[1].constant().unwrap() / 2;
            let table = dense(F32, &[Some(ROWS), Some(pairs), Some(2)]);
            let [x, w, k, table, cache] = [latent, weight, key, &table, cache].map(&mut number);
            let [positions, slots] = [0, 1].map(|_| places(ROWS, &mut random));
            let rows = bytes(latent) + bytes(key);
            let must = 2 * rows + bytes(weight) + TOKENS * pairs * 8 + 2 * index;
            (vec![x, w, k, table, positions, slots, cache], must)
        }
        KernelSpec::Gather { table, out } => {
            let [table, out_of] = [table, out].map(&mut number);
            (vec![table, places(ROWS, &mut random), out_of], 2 * bytes(out) + index)
        }
        KernelSpec::Scatter { x, table } => {
            let [x_of, table] = [x, table].map(&mut number);
            (vec![x_of, places(ROWS, &mut random), table], 2 * bytes(x) + index)
        }
        KernelSpec::RoutePlan { chosen, n_experts } => {
            let mut chosen = Array::poisoned(chosen, &SIZES);
            chosen.each(|array, i| array.set(i, random.below(*n_experts) as f64));
            let pairs = TOKENS * chosen.shape[1];
            let route = Array::integers(&vec![-1; (n_experts + 1 + pairs) as usize]);
            (vec![chosen, route.in_buffer()], 4 * (2 * pairs + n_experts + 1))
        }
        KernelSpec::Pick { x, chosen, out } => {
            let [x, out_of] = [x, out].map(&mut number);
            let mut experts = Array::poisoned(chosen, &SIZES);
            experts.each(|array, i| array.set(i, (31 * i[1] + i[0] % 8) as f64));
            // Each chosen number is in another sector.
            (vec![x, experts, out_of], 32 * TOKENS * 8 + bytes(chosen) + bytes(out))
        }
        _ => {
            let views = views(spec);
            let must = views.iter().copied().map(bytes).sum();
            (views.into_iter().map(number).collect(), must)
        }
    };
    let again = match spec {
        KernelSpec::RmsNorm { weight, .. }
        | KernelSpec::RmsNormQuantize { weight, .. }
        | KernelSpec::AppendLatent { weight, .. } => bytes(weight) * (TOKENS - 1),
        KernelSpec::Router { bias, .. } => bias.as_ref().map_or(0, bytes) * (TOKENS - 1),
        _ => 0,
    };
    Operands { arrays, must, again }
}

/// Kernels in the sizes of DeepSeek-V3.
#[test]
fn memory_bound_kernels_move_each_byte_once() {
    let mut too_much = vec![];
    for (name, spec) in [norms(), elements(), routing(), movements()].concat() {
        let case = Case { name, spec, tokens: TOKENS };
        let Operands { mut arrays, must, again } = operands(&case.spec);
        let mut operands: Vec<&mut Array> = arrays.iter_mut().collect();
        let ran = run_counting(name, &case.spec, case.step(), &SIZES, &mut operands);
        let traffic = ran.report.traffic.unwrap();
        let moved = traffic.loaded_bytes + traffic.stored_bytes;
        let requested = traffic.requested_bytes;
        let share = |bytes: u64, of: u64| bytes as f64 / of as f64;
        let [memory, cache] = [share(moved, must), share(requested, must + again)];
        eprintln!(
            "{name}: {memory:.3} of {must} bytes from and to memory, {cache:.3} from and to L2"
        );
        if memory > MOST || cache > MOST {
            too_much.push(format!("{name}: {moved} and {requested} of {must} + {again}"));
        }
    }
    assert!(too_much.is_empty(), "{too_much:#?}");
}
