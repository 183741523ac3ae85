//! Checkpoints that transformers computes in float32 from FP8 weights: those stay FP8 in memory, and
//! tensor cores multiply them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use moec_codegen::{Step, generate_kernel};
use moec_ir::kernel::{KernelSpec, View};
use moec_ir::{DType, Graph, Phase, Plan, Target};
use std::fs;
use std::path::Path;

/// Configurations of two checkpoints.
const CHECKPOINTS: [&str; 2] = ["tiny-v3-fp8", "v3-random-fp8"];

fn graph(checkpoint: &str) -> Graph {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let config = fs::read_to_string(data.join(format!("{checkpoint}.json"))).unwrap();
    let source = moec_frontend::import(&config, None, None).unwrap();
    assert!(source.contains("accumulate f32\n"), "{checkpoint} is summed in float32");
    let model = moec_frontend::check(&moec_frontend::parse(&source).unwrap()).unwrap();
    moec_frontend::lower(&model).unwrap()
}

fn plan(graph: &Graph, phase: Phase) -> Plan {
    let target = Target::named("h800").unwrap();
    moec_passes::optimize(graph, &target, phase, &Default::default()).unwrap().plan
}

/// The factors of a product, and how many rows each matrix of weights is multiplied with.
struct Product<'a> {
    a: &'a View,
    w: &'a View,
    rows: u64,
}

fn product<'a>(spec: &'a KernelSpec, plan: &Plan) -> Option<Product<'a>> {
    let (a, w, c, top_k) = match spec {
        KernelSpec::Gemm { a, w, c, .. } | KernelSpec::ScaledGemm { a, w, c, .. } => (a, w, c, 0),
        KernelSpec::GroupedGemm { a, w, c, top_k }
        | KernelSpec::ScaledGroupedGemm { a, w, c, top_k, .. } => (a, w, c, *top_k),
        _ => return None,
    };
    let rows = match top_k {
        0 => c.shape[1].eval(&plan.workload),
        _ => c.shape[0].eval(&plan.workload) * top_k / w.shape[0].constant().unwrap(),
    };
    Some(Product { a, w, rows })
}

/// Whether tensor copies can read a matrix: elements side by side along one axis, and 16 bytes or a
/// multiple of that along the others (CUDA Driver API, `cuTensorMapEncodeTiled`).
fn can_be_copied(view: &View) -> bool {
    let bytes = view.dtype.bytes();
    let beside = |axis: usize| view.strides[axis] == 1 || view.shape[axis].is_one();
    let apart =
        |axis: usize| view.shape[axis].is_one() || (view.strides[axis] * bytes).is_multiple_of(16);
    (1..3).any(|axis| beside(axis) && (0..3).all(|other| other == axis || apart(other)))
}

#[test]
fn every_product_runs_on_tensor_cores_in_both_phases() {
    let target = Target::named("h800").unwrap();
    for checkpoint in CHECKPOINTS {
        let graph = graph(checkpoint);
        for phase in Phase::ALL {
            let plan = plan(&graph, phase);
            let step = Step { phase, sizes: plan.workload };
            let (mut of_fp8, mut of_experts) = (0, 0);
            for kernel in &plan.kernels {
                let Some(Product { a, w, rows }) = product(&kernel.spec, &plan) else { continue };
                let what = format!("{checkpoint}, {phase}, {}: {a} * {w}", kernel.name);
                assert!(can_be_copied(a) && can_be_copied(w) && rows > 8, "{what}, {rows} rows");
                let code =
                    generate_kernel(&kernel.spec, step, &target, "k", Default::default()).unwrap();
                // Sums of FP8 products keep 13 bits on tensor cores, those of 16 bits 25.
                let types = if a.dtype == DType::F32 { ".f32.bf16.bf16" } else { ".f32.f16.f16" };
                for part in ["wgmma.mma_async.", types, "cp.async.bulk.tensor."] {
                    assert!(code.ptx.contains(part), "{what} without {part}");
                }
                of_fp8 += usize::from(w.dtype == DType::F8e4m3);
                of_experts += usize::from(kernel.spec.family().contains("grouped"));
            }
            assert!(of_fp8 >= 9, "{checkpoint}, {phase}: {of_fp8} products of FP8 weights");
            assert_eq!(of_experts, 2, "{checkpoint}, {phase}: gate and up together, and down");
        }
    }
}

/// What is float32 in a plan never was FP8: the router and the output head; and the projections
/// that decoding absorbs, which are multiplied from the other side.
#[test]
fn no_weight_of_a_linear_map_is_kept_in_float32() {
    for checkpoint in CHECKPOINTS {
        let graph = graph(checkpoint);
        for phase in Phase::ALL {
            let plan = plan(&graph, phase);
            let plain = plan.kernels.iter().filter_map(|kernel| match &kernel.spec {
                KernelSpec::Gemm { w, .. } | KernelSpec::GroupedGemm { w, .. } => Some(w),
                _ => None,
            });
            let (heads, others): (Vec<&View>, Vec<&View>) =
                plain.partition(|w| !w.shape[0].is_one());
            let absorbed = if phase == Phase::Decode { 2 } else { 0 };
            assert_eq!(heads.len(), absorbed, "{checkpoint}, {phase}: {heads:?}");
            assert_eq!(others.len(), 2, "{checkpoint}, {phase}: {others:?}");
        }
    }
}
