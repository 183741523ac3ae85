//! What the optimizer finds in models of the DeepSeek-V3 family.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod models;

use models::{Builder, Config, TINY, V3, attention, experts, model};
use moec_ir::graph::{BinaryFn, Entry, NodeId, Step, UnaryFn, ValueId};
use moec_ir::kernel::Scalar;
use moec_ir::{DType, Dim, Graph, KernelSpec, Phase, Plan, Sizes, Sym, Target, TensorType};
use moec_passes::{Family, Options, optimize};

fn plan(c: &Config, phase: Phase, options: &Options) -> Plan {
    let graph = model("Model", c);
    let target = Target::named("h800").unwrap();
    optimize(&graph, &target, phase, options).unwrap().plan
}

fn families(plan: &Plan, function: &str) -> Vec<&'static str> {
    let function = plan.functions.iter().find(|f| f.name == function).unwrap();
    function.launches.iter().map(|l| plan.kernels[l.kernel].spec.family()).collect()
}

/// The shapes of the key parts of a function's attention.
fn key_shapes(plan: &Plan, function: &str) -> Vec<String> {
    let function = plan.functions.iter().find(|f| f.name == function).unwrap();
    let specs = function.launches.iter().map(|l| &plan.kernels[l.kernel].spec);
    let keys = specs.filter_map(|s| match s {
        KernelSpec::Attention { k, .. } => Some(k.iter().map(ToString::to_string)),
        _ => None,
    });
    keys.flatten().collect()
}

#[test]
fn decode_absorbs_the_up_projections_and_prefill_expands_them() {
    let decode = plan(&V3, Phase::Decode, &Options::default());
    assert_eq!(
        key_shapes(&decode, "sparse"),
        [
            "bf16[2147483647, 1, 512] strides [576, 0, 1]",
            "bf16[2147483647, 1, 64] strides [576, 0, 1]"
        ]
    );
    assert!(!families(&decode, "sparse").contains(&"gather"), "keys are read in the cache");
    let prefill = plan(&V3, Phase::Prefill, &Options::default());
    assert_eq!(
        key_shapes(&prefill, "sparse"),
        ["bf16[S, 128, 128] strides [32768, 256, 1]", "bf16[S, 1, 64] strides [576, 0, 1]"]
    );
    assert!(families(&prefill, "sparse").contains(&"gather"));
}

/// A batch fills the GPU as it is; for one sequence its keys are divided among CTAs.
#[test]
fn the_keys_of_few_sequences_are_divided_into_chunks() {
    let chunks = |sequences: u64, past: u64| {
        let sizes = Sizes { tokens: sequences, past: sequences * past, sequences };
        let options = Options { workload: Some(sizes), ..Default::default() };
        let plan = plan(&V3, Phase::Decode, &options);
        let merged = families(&plan, "sparse").contains(&"attention_merge");
        let chunks = plan.kernels.iter().find_map(|kernel| match &kernel.spec {
            KernelSpec::Attention { log_sums: Some(sums), .. } => sums.shape[1].constant(),
            _ => None,
        });
        assert_eq!(merged, chunks.is_some());
        chunks
    };
    // 132 SMs, two blocks of 64 heads for each token, at least 512 keys.
    assert_eq!(chunks(128, 4096), None);
    assert_eq!(chunks(8, 4096), Some(8));
    assert_eq!(chunks(16, 4096), Some(4));
    assert_eq!(chunks(1, 65536), Some(66));
    assert_eq!(chunks(1, 700), None);
}

#[test]
fn without_the_rule_of_absorption_decode_expands() {
    let without = Options { without: vec!["absorb-key-projection".into()], ..Default::default() };
    let plan = plan(&V3, Phase::Decode, &without);
    assert!(key_shapes(&plan, "sparse")[0].starts_with("bf16[S, 128, 128]"));
}

#[test]
fn lowering_alone_compiles_every_function() {
    let other = moec_passes::rules().into_iter().filter(|r| r.family != Family::Lowering);
    let without = other.map(|r| r.name.to_owned()).collect();
    let options = Options { without, ..Default::default() };
    for phase in Phase::ALL {
        let plan = plan(&TINY, phase, &options);
        assert_eq!(families(&plan, "sparse").iter().filter(|f| **f == "combine").count(), 1);
    }
}

#[test]
fn products_of_one_operand_are_one_product_and_sums_join_kernels() {
    for phase in Phase::ALL {
        let plan = plan(&V3, phase, &Options::default());
        let f = plan.functions.iter().find(|f| f.name == "sparse").unwrap();
        let stacked = |name: &str| {
            f.weights.iter().any(|w| w.parts.len() == 2 && w.parts[0].tensor.ends_with(name))
        };
        // In prefill 2,112 columns of bf16 take two waves of tiles, the second half empty; 1,536
        // and 576 take one each.
        assert!(stacked("q_a_proj.weight") || phase == Phase::Prefill, "with kv_a_proj_with_mqa");
        assert!(
            stacked("experts.{e}.gate_proj.weight") && stacked("shared_experts.gate_proj.weight")
        );
        let specs: Vec<&KernelSpec> =
            f.launches.iter().map(|l| &plan.kernels[l.kernel].spec).collect();
        assert!(specs.iter().any(|s| matches!(s, KernelSpec::Gemm { add: Some(_), .. })));
        // The shared experts' output and the residual.
        assert!(
            specs.iter().any(|s| matches!(s, KernelSpec::Combine { adds, .. } if adds.len() == 2))
        );
        let silu = Scalar::Unary(UnaryFn::Silu, 0);
        let silu_times = |s: &&&KernelSpec| match s {
            KernelSpec::Pointwise { code, .. } => code.len() == 4 && code.contains(&silu),
            _ => false,
        };
        assert_eq!(specs.iter().filter(silu_times).count(), 2);
        assert!(
            specs
                .iter()
                .all(|s| !matches!(s, KernelSpec::Pointwise { code, .. } if code.len() == 1))
        );
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let text = |phase| {
        let graph = model("DeepSeekV3", &V3);
        let target = Target::named("h800").unwrap();
        let options = Options { explain: true, ..Default::default() };
        let made = optimize(&graph, &target, phase, &options).unwrap();
        let plan = serde_json::to_string(&made.plan).unwrap();
        (plan, made.explanation.to_string(), made.egraph)
    };
    for phase in Phase::ALL {
        assert_eq!(text(phase), text(phase));
    }
}

#[test]
fn a_layer_is_optimised_once_however_often_it_occurs() {
    let (few, many) = (Config { layers: 4, ..V3 }, V3);
    for phase in Phase::ALL {
        let (few, many) =
            (plan(&few, phase, &Options::default()), plan(&many, phase, &Options::default()));
        assert_eq!(few.functions, many.functions);
        assert_eq!(few.kernels, many.kernels);
        assert_eq!(many.entries[0].steps.len(), 63);
        // Two values take turns, beside the ids and the logits.
        let storages = many.entries[0].values.iter().map(|v| v.storage).max().unwrap() + 1;
        assert_eq!(storages, 4);
    }
}

/// Layers inlined into one function, as a model without repeated blocks has them.
fn inlined(n: usize) -> Graph {
    let x_type = TensorType::new(DType::Bf16, [Dim::from(Sym::Tokens), V3.hidden.into()]);
    let mut b = Builder::new("all", std::slice::from_ref(&x_type));
    let mut x = b.input(0);
    for layer in 0..n {
        let normed = b.norm(x, &format!("{layer}.input_layernorm.weight"));
        let a = attention(&mut b, &V3, normed);
        let y = b.binary(BinaryFn::Add, x, a);
        let normed = b.norm(y, &format!("{layer}.post_attention_layernorm.weight"));
        let m = experts(&mut b, &V3, normed);
        x = b.binary(BinaryFn::Add, y, m);
    }
    b.0.outputs = vec![NodeId(x)];
    let (inputs, outputs) = (vec![ValueId(0)], vec![ValueId(1)]);
    let step = Step { function: 0, layer: None, inputs, outputs: outputs.clone() };
    let main = Entry { name: "main".into(), inputs: vec![x_type], steps: vec![step], outputs };
    Graph {
        name: "Inlined".into(),
        context: 64,
        promote_every: None,
        functions: vec![b.0],
        entries: vec![main],
    }
}

#[test]
fn each_of_many_layers_in_one_function_is_planned_as_well_as_one() {
    let target = Target::named("h800").unwrap();
    for phase in Phase::ALL {
        let seconds = |n: usize| {
            let made = optimize(&inlined(n), &target, phase, &Options::default()).unwrap();
            made.explanation.seconds
        };
        let (one, many) = (seconds(1), seconds(9));
        assert!((many - 9.0 * one).abs() < 1e-9, "{many} for nine, {one} for one");
    }
}

#[test]
fn the_explanation_leads_from_lowering_alone_to_the_plan() {
    let graph = model("DeepSeekV3", &V3);
    let target = Target::named("h800").unwrap();
    let options = Options { explain: true, ..Default::default() };
    let made = optimize(&graph, &target, Phase::Decode, &options).unwrap().explanation;
    let step = |name: &str| made.steps.iter().position(|s| s.rule == name);
    assert!(step("attention-is-a-weighted-mix") < step("absorb-key-projection"));
    assert!(step("absorb-value-projection").is_some());
    for (a, b) in made.steps.iter().zip(&made.steps[1..]) {
        assert_eq!(a.after, b.before);
    }
    let (first, last) = (made.steps.first().unwrap(), made.steps.last().unwrap());
    assert!(last.after < 0.5 * first.before, "{made}");
    assert!((last.after - made.seconds).abs() < 1e-5 * made.seconds, "{made}");
    let shown = made.to_string();
    for what in ["absorb-key-projection", "q_a_proj, self_attn.kv_a_proj", "58 times"] {
        assert!(shown.contains(what), "{what}: {shown}");
    }
}

#[test]
fn other_targets_weigh_differently() {
    let graph = model("DeepSeekV3", &V3);
    let seconds = |name: &str| {
        let target = Target::named(name).unwrap();
        optimize(&graph, &target, Phase::Prefill, &Options::default()).unwrap().explanation.seconds
    };
    assert!(seconds("h20") > 2.0 * seconds("h800"), "148 TFLOP/s against 989");
}

#[test]
fn the_catalogue_of_rules_lists_every_rule_as_it_is() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rewrites.md");
    let page = std::fs::read_to_string(path).unwrap();
    let listed: Vec<&str> = page.lines().filter(|l| l.starts_with("| `")).collect();
    let mut rules = moec_passes::rules();
    // The page begins with what is interesting.
    rules.sort_by_key(|r| r.family);
    let line = |r: &moec_passes::RuleInfo| {
        let conditions = r.conditions.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>();
        format!("| `{}` | `{}` | {} |", r.name, r.equation, conditions.join(", "))
    };
    let wanted: Vec<String> = rules.iter().map(line).collect();
    if std::env::var_os("BLESS").is_some() && listed != wanted {
        let (mut text, mut family) = (String::new(), None);
        for l in page.lines().filter(|l| !l.starts_with("| `")) {
            text += &format!("{l}\n");
            family = rules.iter().map(|r| r.family).find(|f| {
                l.to_lowercase() == format!("## {f}") || family == Some(*f) && !l.starts_with('#')
            });
            if l.starts_with("|---") {
                let own = rules.iter().filter(|r| Some(r.family) == family);
                own.for_each(|r| text += &format!("{}\n", line(r)));
            }
        }
        return std::fs::write(path, text).unwrap();
    }
    assert_eq!(listed, wanted, "run this test with BLESS=1");
}

/// `silu(x)` is stored for a product; who reads `x` as well computes it again, and reads less.
#[test]
fn what_is_stored_for_others_is_computed_again_where_that_reads_less() {
    let text = r#"
graph One context 16
fn f(bf16[T, 1024]) {
  param w: bf16[512, 1024] = "w"
  %0 = input 0 () : bf16[T, 1024]
  %1 = unary "silu" (%0) : bf16[T, 1024]
  %2 = param 0 () : bf16[512, 1024]
  %3 = linear (%1, %2) : bf16[T, 512]
  %4 = binary "mul" (%1, %0) : bf16[T, 1024]
  return %3, %4
}
entry main(bf16[T, 1024]) {
  %1, %2 = f(%0)
  return %1, %2
}
"#;
    let graph: Graph = text.trim().parse().unwrap();
    let target = Target::named("h800").unwrap();
    let inputs = |without: &[&str]| {
        let without = without.iter().map(|r| (*r).to_owned()).collect();
        let options = Options { without, ..Default::default() };
        let made = optimize(&graph, &target, Phase::Prefill, &options).unwrap();
        let specs = made.plan.kernels.into_iter().map(|k| k.spec);
        let read = specs.filter_map(|spec| match spec {
            KernelSpec::Pointwise { inputs, .. } => Some(inputs.len()),
            _ => None,
        });
        (read.sum::<usize>(), made.explanation.seconds)
    };
    let (again, stored) = (inputs(&[]), inputs(&["recompute-what-would-be-read"]));
    assert_eq!((again.0, stored.0), (2, 3));
    assert!(again.1 < stored.1);
}
