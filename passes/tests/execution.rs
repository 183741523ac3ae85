//! Plans compute what their graphs mean: both are executed in float64.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod interpreter;
mod models;

use interpreter::{Caches, Step, checkpoint, fill, run};
use models::{Config, TINY, model};
use moec_ir::graph::Param;
use moec_ir::graph::eval::{Evaluator, Tensor};
use moec_ir::{Graph, Phase, Plan, Sizes, Target};
use moec_passes::{Family, Options, default_workload, optimize, rules};

/// Both sides compute in float64, in different orders.
const TOLERANCE: f64 = 1e-9;

const SMALL: Config = Config {
    hidden: 12,
    vocab: 9,
    ff: 10,
    ff_expert: 6,
    q_rank: 8,
    kv_rank: 6,
    nope: 4,
    rope: 2,
    v: 4,
    layers: 3,
    ..TINY
};

fn load(param: &Param, layer: Option<u64>) -> Result<Tensor, String> {
    let shape: Vec<usize> = param.ty.shape.iter().map(|d| d.constant().unwrap() as usize).collect();
    let count: usize = shape.iter().product();
    let data = if param.tensor.contains("{e}") {
        let each = count / shape[0];
        let tensor = |e: usize| checkpoint(&fill(&param.tensor, layer, e as u64), each);
        (0..shape[0]).flat_map(tensor).collect()
    } else {
        checkpoint(&fill(&param.tensor, layer, 0), count)
    };
    Tensor::new(shape, data)
}

fn plan(graph: &Graph, phase: Phase, options: &Options) -> Plan {
    optimize(graph, &Target::named("h800").unwrap(), phase, options).unwrap().plan
}

fn compare(given: &Tensor, wanted: &Tensor, what: &str) {
    assert_eq!(given.data.len(), wanted.data.len(), "{what}");
    for (i, (a, b)) in given.data.iter().zip(&wanted.data).enumerate() {
        assert!((a - b).abs() <= TOLERANCE * (1.0 + b.abs()), "{what}, element {i}: {a}, not {b}");
    }
}

fn ids(ids: &[usize]) -> Tensor {
    Tensor::new(vec![ids.len()], ids.iter().map(|i| *i as f64).collect()).unwrap()
}

/// A ragged batch of two sequences is prefilled and then decoded; the reference evaluates each
/// sequence alone.
fn check_batch(graph: &Graph, prefill: &Options, decode: &Options) {
    let prompts: [&[usize]; 2] = [&[3, 1, 4, 1, 5], &[2, 7, 1]];
    let next = [6, 8];
    let (n, m) = (prompts[0].len(), prompts[1].len());
    let mut caches = Caches::default();
    let pages = [3, 1];
    let step = Step::new(&[0, 0], &[n, m], &pages);
    let tokens = ids(&prompts.concat());
    let first = run(&plan(graph, Phase::Prefill, prefill), "main", &step, &[tokens], &mut caches);
    let step = Step::new(&[n, m], &[1, 1], &pages);
    let tokens = ids(&next);
    let second = run(&plan(graph, Phase::Decode, decode), "main", &step, &[tokens], &mut caches);
    let vocab = first[0].shape[1];
    let rows = |t: &Tensor, from: usize, n: usize| {
        Tensor::new(vec![n, vocab], t.data[from * vocab..][..n * vocab].to_vec()).unwrap()
    };
    for (b, prompt) in prompts.into_iter().enumerate() {
        let mut evaluator = Evaluator::new(graph, load).unwrap();
        let wanted = evaluator.run("main", &[ids(prompt)]).unwrap();
        let given = rows(&first[0], if b == 0 { 0 } else { n }, prompt.len());
        compare(&given, &wanted[0], &format!("prefill of sequence {b}"));
        let wanted = evaluator.run("main", &[ids(&next[b..=b])]).unwrap();
        compare(&rows(&second[0], b, 1), &wanted[0], &format!("decode of sequence {b}"));
    }
}

#[test]
fn optimised_plans_compute_the_model() {
    check_batch(&model("Small", &SMALL), &Options::default(), &Options::default());
}

/// A packed cache: written part by part, gathered, and read where it lies by attention that is
/// absorbed, whose parts may come in either order.
#[test]
fn plans_with_packed_caches_compute_the_model() {
    for packed in [4, 6] {
        let graph = model("Small", &Config { packed: Some(packed), ..SMALL });
        let absorbed =
            Options { workload: Some(default_workload(Phase::Decode)), ..Default::default() };
        let families = |phase, options: &Options| -> Vec<&str> {
            plan(&graph, phase, options).kernels.iter().map(|k| k.spec.family()).collect()
        };
        for options in [&Options::default(), &absorbed] {
            check_batch(&graph, options, options);
            let prefill = families(Phase::Prefill, options);
            assert!(prefill.contains(&"append_latent") && !prefill.contains(&"scatter"));
        }
        assert!(!families(Phase::Decode, &Options::default()).contains(&"gather_latent"));
        let expanded = Options {
            without: ["absorb-key-projection", "absorb-value-projection"].map(Into::into).into(),
            ..Default::default()
        };
        assert!(families(Phase::Decode, &expanded).contains(&"gather_latent"));
        check_batch(&graph, &expanded, &expanded);
    }
}

#[test]
fn plans_of_either_phase_compute_the_model_whatever_was_weighed() {
    let workload = |phase| Some(moec_passes::default_workload(phase));
    let swapped = |phase| Options { workload: workload(phase), ..Default::default() };
    check_batch(&model("Small", &SMALL), &swapped(Phase::Decode), &swapped(Phase::Prefill));
    let one = Sizes { tokens: 1, past: 1, sequences: 1 };
    let one = Options { workload: Some(one), ..Default::default() };
    check_batch(&model("Small", &SMALL), &one, &one);
}

#[test]
fn plans_without_any_one_rule_compute_the_model() {
    let graph = model("Small", &SMALL);
    for rule in rules().into_iter().filter(|r| r.family != Family::Lowering) {
        let options = Options { without: vec![rule.name.into()], ..Default::default() };
        check_batch(&graph, &options, &options);
    }
}

#[test]
fn lowering_alone_computes_the_model() {
    let other = rules().into_iter().filter(|r| r.family != Family::Lowering);
    let without: Vec<String> = other.map(|r| r.name.to_owned()).collect();
    let options = Options { without, ..Default::default() };
    check_batch(&model("Small", &SMALL), &options, &options);
}

/// Small models as the frontend lowers them: MLA with and without query compression, softmax
/// routers with and without groups, grouped queries, norms of queries and keys.
#[test]
fn plans_of_other_families_compute_their_models() {
    let models = [
        include_str!("data/v2.graph"),
        include_str!("data/v2_lite.graph"),
        include_str!("data/mixtral.graph"),
        include_str!("data/qwen3_moe.graph"),
    ];
    for text in models {
        let graph: Graph = text.parse().unwrap();
        check_batch(&graph, &Options::default(), &Options::default());
    }
}

/// A graph of one function over `x bf16[T, 6]` and `w bf16[4, 6]`.
fn one_function(body: &str, outputs: usize) -> Graph {
    let results: Vec<String> = (1..=outputs).map(|i| format!("%{i}")).collect();
    let results = results.join(", ");
    let text = format!(
        "graph One context 16\n\nfn f(bf16[T, 6]) {{\n  param w: bf16[4, 6] = \"w\"\n{body}\n}}\n\n\
         entry main(bf16[T, 6]) {{\n  {results} = f(%0)\n  return {results}\n}}"
    );
    text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn check_function(body: &str, outputs: usize) {
    let graph = one_function(body, outputs);
    let input = Tensor::new(vec![3, 6], checkpoint("input", 18)).unwrap();
    let wanted =
        Evaluator::new(&graph, load).unwrap().run("main", std::slice::from_ref(&input)).unwrap();
    for phase in Phase::ALL {
        let step = Step::new(&[0], &[3], &[0]);
        let plan = plan(&graph, phase, &Options::default());
        let given = run(&plan, "main", &step, std::slice::from_ref(&input), &mut Caches::default());
        for (i, (given, wanted)) in given.iter().zip(&wanted).enumerate() {
            compare(given, wanted, &format!("output {i} of\n{body}"));
        }
    }
}

#[test]
fn outputs_that_are_no_kernels_results_are_copied() {
    // An input, a view of it, a weight, the same twice, a view of a product.
    check_function("  %0 = input 0 () : bf16[T, 6]\n  return %0, %0", 2);
    check_function(
        "  %0 = input 0 () : bf16[T, 6]\n  \
         %1 = slice {\"axis\":1,\"start\":1,\"len\":3} (%0) : bf16[T, 3]\n  \
         %2 = param 0 () : bf16[4, 6]\n  \
         %3 = linear (%0, %2) : bf16[T, 4]\n  \
         %4 = slice {\"axis\":1,\"start\":1,\"len\":2} (%3) : bf16[T, 2]\n  \
         return %1, %2, %3, %3, %4",
        5,
    );
}

#[test]
fn pieces_are_written_side_by_side_or_copied() {
    check_function(
        "  %0 = input 0 () : bf16[T, 6]\n  \
         %1 = param 0 () : bf16[4, 6]\n  \
         %2 = linear (%0, %1) : bf16[T, 4]\n  \
         %3 = unary \"silu\" (%2) : bf16[T, 4]\n  \
         %4 = concat {\"axis\":1} (%2, %3, %2, %0) : bf16[T, 18]\n  \
         %5 = concat {\"axis\":1} (%3, %4) : bf16[T, 22]\n  \
         return %4, %5, %2",
        3,
    );
}

#[test]
fn views_that_no_strides_express_are_copied() {
    check_function(
        "  %0 = input 0 () : bf16[T, 6]\n  \
         %1 = reshape [\"T\",2,3] (%0) : bf16[T, 2, 3]\n  \
         %2 = transpose [0,2,1] (%1) : bf16[T, 3, 2]\n  \
         %3 = reshape [\"T\",6] (%2) : bf16[T, 6]\n  \
         %4 = param 0 () : bf16[4, 6]\n  \
         %5 = linear (%3, %4) : bf16[T, 4]\n  \
         %6 = slice {\"axis\":1,\"start\":0,\"len\":1} (%3) : bf16[T, 1]\n  \
         %7 = broadcast [\"T\",6] (%6) : bf16[T, 6]\n  \
         %8 = binary \"add\" (%7, %3) : bf16[T, 6]\n  \
         return %5, %7, %8, %2",
        4,
    );
}

#[test]
fn both_results_of_an_added_norm_reach_their_places() {
    check_function(
        "  %0 = input 0 () : bf16[T, 6]\n  \
         %1 = unary \"neg\" (%0) : bf16[T, 6]\n  \
         %2 = softmax (%1) : bf16[T, 6]\n  \
         %3 = binary \"add\" (%0, %2) : bf16[T, 6]\n  \
         %4 = param 0 () : bf16[4, 6]\n  \
         %5 = slice {\"axis\":0,\"start\":2,\"len\":1} (%4) : bf16[1, 6]\n  \
         %6 = reshape [6] (%5) : bf16[6]\n  \
         %7 = rms_norm {\"eps\":0.001} (%3, %6) : bf16[T, 6]\n  \
         %8 = concat {\"axis\":1} (%7, %0) : bf16[T, 12]\n  \
         return %3, %8",
        2,
    );
}

/// `x` quantised once for two products that share it, whose sum with `y` is quantised again.
#[test]
fn quantised_products_are_scaled_products_and_compute_the_same() {
    let round = |from: usize, x: usize, width: &str| {
        let scale = if width == "6" { 2 } else { 1 };
        format!(
            "  %{from} = quantize {{\"block\":4,\"scales\":\"f32\"}} (%{x}) : f8e4m3[T, {width}]\n  \
             %{} = block_scale {{\"block\":4,\"scales\":\"f32\"}} (%{x}) : f32[T, {scale}]\n  \
             %{} = dequantize {{\"block\":[1,4]}} (%{from}, %{}) : bf16[T, {width}]\n",
            from + 1,
            from + 2,
            from + 1
        )
    };
    let text = format!(
        "graph One context 16\n\nfn f(bf16[T, 6]) {{\n  \
         param w: f8e4m3[4, 6] = \"w\"\n  param ws: f32[2, 2] = \"w_scale_inv\"\n  \
         param u: f8e4m3[3, 6] = \"u\"\n  param us: f32[2, 2] = \"u_scale_inv\"\n  \
         param v: f8e4m3[6, 4] = \"v\"\n  param vs: f32[3, 1] = \"v_scale_inv\"\n  \
         %0 = input 0 () : bf16[T, 6]\n{}  \
         %4 = param 0 () : f8e4m3[4, 6]\n  %5 = param 1 () : f32[2, 2]\n  \
         %6 = dequantize {{\"block\":[2,4]}} (%4, %5) : bf16[4, 6]\n  \
         %7 = param 2 () : f8e4m3[3, 6]\n  %8 = param 3 () : f32[2, 2]\n  \
         %9 = dequantize {{\"block\":[2,4]}} (%7, %8) : bf16[3, 6]\n  \
         %10 = linear (%3, %6) : bf16[T, 4]\n  %11 = linear (%3, %9) : bf16[T, 3]\n{}  \
         %15 = param 4 () : f8e4m3[6, 4]\n  %16 = param 5 () : f32[3, 1]\n  \
         %17 = dequantize {{\"block\":[2,4]}} (%15, %16) : bf16[6, 4]\n  \
         %18 = linear (%14, %17) : bf16[T, 6]\n  %19 = binary \"add\" (%18, %0) : bf16[T, 6]\n  \
         return %19, %11\n}}\n\n\
         entry main(bf16[T, 6]) {{\n  %1, %2 = f(%0)\n  return %1, %2\n}}",
        round(1, 0, "6"),
        round(12, 10, "4"),
    );
    let graph: Graph = text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"));
    let input = Tensor::new(vec![3, 6], checkpoint("input", 18)).unwrap();
    let inputs = std::slice::from_ref(&input);
    let wanted = Evaluator::new(&graph, load).unwrap().run("main", inputs).unwrap();
    let other = rules().into_iter().filter(|r| r.family != Family::Lowering);
    let lowering =
        Options { without: other.map(|r| r.name.into()).collect(), ..Default::default() };
    for phase in Phase::ALL {
        for (options, scaled) in [(&Options::default(), 2), (&lowering, 0)] {
            let step = Step::new(&[0], &[3], &[0]);
            let plan = plan(&graph, phase, options);
            let family = |l: &moec_ir::plan::Launch| plan.kernels[l.kernel].spec.family();
            let launches = &plan.functions[0].launches;
            let count = |name| launches.iter().filter(|l| family(l) == name).count();
            assert_eq!((count("quantize"), count("scaled_gemm")), (2, scaled), "{plan}");
            let given = run(&plan, "main", &step, inputs, &mut Caches::default());
            for (given, wanted) in given.iter().zip(&wanted) {
                compare(given, wanted, &format!("{plan}"));
            }
            for kernel in &plan.kernels {
                if let moec_ir::KernelSpec::Quantize { scale, .. } = &kernel.spec {
                    assert_eq!(scale.strides[0] % 4, 0, "rows of scales are 16 bytes apart");
                }
            }
        }
    }
}
