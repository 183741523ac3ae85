//! The examples at full size: what they compile to, how long that takes to depend on what, and
//! that it is the same every time.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use moec_ir::{Graph, KernelSpec, Phase, Plan, ScaleFormat, Sym, Target};
use std::fs;
use std::path::Path;

const EXAMPLES: [&str; 6] =
    ["tiny-v3", "deepseek-v3", "deepseek-v2", "deepseek-v2-lite", "mixtral-8x7b", "qwen3-30b-a3b"];

fn source(example: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    fs::read_to_string(root.join(example).join(format!("{example}.moe"))).unwrap()
}

fn graph(source: &str) -> Graph {
    let model = moec_frontend::check(&moec_frontend::parse(source).unwrap()).unwrap();
    moec_frontend::lower(&model).unwrap()
}

fn plan(graph: &Graph, phase: Phase) -> Plan {
    let target = Target::named("h800").unwrap();
    moec_passes::optimize(graph, &target, phase, &Default::default()).unwrap().plan
}

#[test]
fn graphs_are_as_they_were() {
    for example in EXAMPLES {
        insta::assert_snapshot!(format!("{example}.graph"), graph(&source(example)).to_string());
    }
}

#[test]
fn plans_are_as_they_were() {
    for example in EXAMPLES {
        for phase in Phase::ALL {
            let plan = plan(&graph(&source(example)), phase);
            insta::assert_snapshot!(format!("{example}.{phase}.plan"), plan.to_string());
        }
    }
}

#[test]
fn ptx_is_as_it_was() {
    for example in EXAMPLES {
        for phase in Phase::ALL {
            let plan = plan(&graph(&source(example)), phase);
            let ptx = moec_codegen::generate(&plan, Default::default()).unwrap().ptx;
            insta::assert_snapshot!(format!("{example}.{phase}.ptx"), ptx);
        }
    }
}

#[test]
fn every_router_is_one_kernel() {
    for example in EXAMPLES {
        for phase in Phase::ALL {
            let plan = plan(&graph(&source(example)), phase);
            let count = |families: &[&str]| {
                plan.kernels.iter().filter(|k| families.contains(&k.spec.family())).count()
            };
            assert_eq!(count(&["router"]), 1, "{example}, {phase}");
            assert_eq!(count(&["top_k", "pick", "softmax", "reduce"]), 0, "{example}, {phase}");
        }
    }
}

/// Keys and values come by tensor copies, from a cache in pages too.
#[test]
fn prefill_attends_on_tensor_cores() {
    for example in EXAMPLES {
        let mut plan = plan(&graph(&source(example)), Phase::Prefill);
        plan.kernels.retain(|kernel| kernel.spec.family() == "attention");
        let generated = moec_codegen::generate(&plan, Default::default()).unwrap();
        assert!(!plan.kernels.is_empty(), "{example}");
        for kernel in generated.plan.kernels {
            let KernelSpec::Attention { q, .. } = &kernel.spec else { panic!("{example}") };
            let maps = kernel.geometry.unwrap().tensor_maps;
            assert_eq!(maps.len(), 2 * q.len() + 1, "{example}: {}", kernel.spec.family());
        }
        assert!(generated.ptx.contains("wgmma.mma_async"), "{example}");
    }
}

/// What MLA remembers is normed and rotated on its way into the cache.
#[test]
fn a_latent_is_appended_by_one_kernel() {
    for example in ["tiny-v3", "deepseek-v3", "deepseek-v2", "deepseek-v2-lite"] {
        for phase in Phase::ALL {
            let plan = plan(&graph(&source(example)), phase);
            let count =
                |family: &str| plan.kernels.iter().filter(|k| k.spec.family() == family).count();
            assert_eq!([count("append_latent"), count("scatter")], [1, 0], "{example}, {phase}");
        }
    }
}

/// `scale_fmt` of a checkpoint reaches every kernel that quantises.
#[test]
fn scales_are_powers_of_two_in_every_kernel_where_the_checkpoint_says_so() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../frontend/tests/data");
    let config = fs::read_to_string(root.join("deepseek-v3-fp8.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    for wanted in [ScaleFormat::F32, ScaleFormat::Ue8m0] {
        if wanted == ScaleFormat::Ue8m0 {
            config["quantization_config"]["scale_fmt"] = "ue8m0".into();
        }
        let graph = graph(&moec_frontend::import(&config.to_string(), None, None).unwrap());
        for phase in Phase::ALL {
            let formats = plan(&graph, phase).kernels.into_iter().filter_map(|k| match k.spec {
                KernelSpec::Quantize { format, .. }
                | KernelSpec::RmsNormQuantize { format, .. }
                | KernelSpec::PointwiseQuantize { format, .. } => Some(format),
                _ => None,
            });
            let formats: Vec<ScaleFormat> = formats.collect();
            assert!(formats.len() >= 3 && formats.iter().all(|f| *f == wanted), "{formats:?}");
        }
    }
}

#[test]
fn decode_absorbs_what_prefill_expands() {
    let attention = |plan: &Plan| {
        let spec = plan.kernels.iter().find_map(|k| match &k.spec {
            moec_ir::KernelSpec::Attention { k, v, .. } => Some((k.clone(), v.clone())),
            _ => None,
        });
        spec.unwrap()
    };
    let graph = graph(&source("deepseek-v3"));
    // Absorbed: one head of keys for all, 512 latent elements that are the values as well.
    let (keys, values) = attention(&plan(&graph, Phase::Decode));
    assert!(keys.iter().all(|k| k.shape[1].is_one()), "{keys:?}");
    assert_eq!(values.shape[1..], [1.into(), 512.into()]);
    // Expanded: 128 heads of values of 128 elements.
    let (_, values) = attention(&plan(&graph, Phase::Prefill));
    assert_eq!(values.shape[1..], [128.into(), 128.into()]);
}

#[test]
fn layers_are_compiled_once_however_many_there_are() {
    let few = source("deepseek-v3")
        .replace("layers = 61", "layers = 4")
        .replace("layers over 16 stages", "layers over 4 stages");
    for phase in Phase::ALL {
        let (few, many) = (plan(&graph(&few), phase), plan(&graph(&source("deepseek-v3")), phase));
        assert_eq!(few.kernels, many.kernels);
        assert_eq!(few.functions, many.functions);
        assert!(few.entries[0].steps.len() < many.entries[0].steps.len());
    }
}

#[test]
fn a_cuda_graph_of_a_decoding_step_serves_caches_of_any_length() {
    for name in ["deepseek-v3", "tiny-v3"] {
        let graph = graph(&source(name));
        let fixed = |phase| {
            let plan = plan(&graph, phase);
            let generated = moec_codegen::generate(&plan, Default::default()).unwrap();
            let fixed = generated.plan.fixed_by_capture("main").unwrap();
            for size in Sym::ALL.into_iter().filter(|size| !fixed.contains(size)) {
                holds_for_any(&generated, size);
            }
            fixed
        };
        assert_eq!(fixed(Phase::Decode), [Sym::Tokens], "{name}");
        // Expanded keys and values are as many as the tokens remembered.
        assert_eq!(fixed(Phase::Prefill), [Sym::Tokens, Sym::Past], "{name}");
    }
}

/// No launch depends on a size: neither how it is launched nor what its code reads.
fn holds_for_any(generated: &moec_codegen::Generated, size: Sym) {
    let place = Sym::ALL.iter().position(|s| *s == size).unwrap();
    for kernel in &generated.plan.kernels {
        let geometry = kernel.geometry.as_ref().unwrap();
        let dims = geometry.grid.iter().map(|extent| &extent.size);
        let maps = geometry.tensor_maps.iter().flat_map(|map| &map.dims);
        assert!(dims.chain(maps).all(|dim| !dim.symbols().contains(&size)), "{}", kernel.name);
        let launch = generated.plan.functions.iter().flat_map(|f| &f.launches);
        let of_kernel =
            |l: &&moec_ir::plan::Launch| generated.plan.kernels[l.kernel].name == kernel.name;
        let operands = launch.clone().find(of_kernel).unwrap().operands.len();
        let parameter = format!("[{}_param_{}]", kernel.name, operands + place);
        assert!(!generated.ptx.contains(&parameter), "{parameter} is read");
    }
}

#[test]
fn one_thread_and_two_give_the_same_bytes() {
    let plan = plan(&graph(&source("tiny-v3")), Phase::Decode);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| moec_codegen::generate(&plan, Default::default()).unwrap())
    };
    let (one, two) = (on(1), on(2));
    assert_eq!(one.ptx, two.ptx);
    assert_eq!(
        serde_json::to_string(&one.plan).unwrap(),
        serde_json::to_string(&two.plan).unwrap()
    );
}

#[test]
fn ptxas_accepts_every_kernel_of_v3_without_spills() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let Some(ptxas) = moec_codegen::ptxas::find(&root) else {
        eprintln!("no ptxas is installed: `cargo xtask setup` installs it");
        return;
    };
    for phase in Phase::ALL {
        let plan = plan(&graph(&source("deepseek-v3")), phase);
        let ptx = moec_codegen::generate(&plan, Default::default()).unwrap().ptx;
        let report = moec_codegen::ptxas::verify(&ptxas, &ptx, "sm_90a").unwrap();
        assert_eq!(report.warnings, Vec::<String>::new());
        assert_eq!(report.entries.len(), plan.kernels.len());
        for entry in &report.entries {
            assert_eq!((entry.spills, entry.stack), (0, 0), "{entry:?}");
        }
    }
}

/// DeepSeek-V3 with its cache in FP8: 656 bytes a token, written by one kernel, and read by tensor
/// cores where it lies.
#[test]
fn a_packed_cache_is_written_and_read_part_by_part() {
    let line = "  precision {\n    caches: fp8 e4m3 [1, 128]\n";
    let graph = graph(&source("deepseek-v3").replace("  precision {\n", line));
    for phase in Phase::ALL {
        let mut plan = plan(&graph, phase);
        let caches: Vec<_> = plan.functions.iter().flat_map(|f| &f.caches).collect();
        assert!(!caches.is_empty() && caches.iter().all(|c| c.row * c.dtype.bytes() == 656));
        let families: Vec<&str> = plan.kernels.iter().map(|k| k.spec.family()).collect();
        let count = |family| families.iter().filter(|f| **f == family).count();
        assert_eq!([count("append_latent"), count("scatter")], [1, 0], "{phase}");
        assert_eq!(count("gather_latent"), usize::from(phase == Phase::Prefill));
        let reads_cache = |k: &moec_ir::plan::Kernel| match &k.spec {
            KernelSpec::AppendLatent { packed, .. } => packed.is_some(),
            KernelSpec::Attention { quantized, .. } => quantized.is_some(),
            spec => spec.family() == "gather_latent",
        };
        plan.kernels.retain(reads_cache);
        assert_eq!(plan.kernels.len(), 2, "{phase}");
        let ptx = moec_codegen::generate(&plan, Default::default()).unwrap().ptx;
        assert_eq!(ptx.contains("wgmma.mma_async"), phase == Phase::Decode);
        insta::assert_snapshot!(format!("deepseek-v3-packed.{phase}.ptx"), ptx);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let Some(ptxas) = moec_codegen::ptxas::find(&root) else { continue };
        let report = moec_codegen::ptxas::verify(&ptxas, &ptx, "sm_90a").unwrap();
        assert_eq!(report.warnings, Vec::<String>::new());
        assert!(report.entries.iter().all(|e| (e.spills, e.stack) == (0, 0)), "{report:?}");
    }
}
