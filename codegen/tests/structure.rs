//! What the generated PTX is made of: determinism, one entry each, acceptance by ptxas.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "some parts are for other tests")]
mod cases;

use moec_codegen::{Options, Step, generate, generate_kernel, ptxas};
use moec_ir::graph::UnaryFn;
use moec_ir::kernel::{KernelSpec, Scalar};
use moec_ir::plan::{FORMAT, Kernel};
use moec_ir::{DType, Phase, Plan, Sizes, Target};
use std::path::Path;
use std::time::Instant;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All cases as the kernels of one plan.
fn plan(phase: Phase) -> Plan {
    let case = |(i, case): (usize, cases::Case)| Kernel {
        name: format!("{}_{i}", case.spec.family()),
        spec: case.spec,
        geometry: None,
        reads: vec![],
    };
    Plan {
        format: FORMAT,
        model: "cases".into(),
        context: 4096,
        target: Target::named("h800").unwrap(),
        phase,
        ranks: None,
        symmetric: vec![],
        workload: Sizes { tokens: 48, past: 100, sequences: 2 },
        kernels: cases::all().into_iter().enumerate().map(case).collect(),
        functions: vec![],
        entries: vec![],
    }
}

#[test]
fn a_plan_becomes_one_module_with_an_entry_per_kernel_in_order() {
    let plan = plan(Phase::Prefill);
    let generated = generate(&plan, Options { mlir: true, llvm: true }).unwrap();
    for once in [".version 8.7\n", ".target sm_90a\n", ".address_size 64\n"] {
        assert_eq!(generated.ptx.matches(once).count(), 1, "{once}");
    }
    let entry =
        |line: &str| line.strip_prefix(".visible .entry ")?.strip_suffix('(').map(str::to_owned);
    let entries: Vec<String> = generated.ptx.lines().filter_map(entry).collect();
    let names: Vec<String> = plan.kernels.iter().map(|k| k.name.clone()).collect();
    assert_eq!(entries, names);
    assert!(generated.plan.kernels.iter().all(|k| k.geometry.is_some()));
    for name in names {
        assert!(generated.mlir.contains(&format!("llvm.func @{name}(")), "{name}");
        assert!(generated.llvm.contains(&format!("define ptx_kernel void @{name}(")), "{name}");
    }
}

#[test]
fn same_plan_gives_same_bytes() {
    let plan = plan(Phase::Decode);
    let once = generate(&plan, Options { mlir: true, llvm: true }).unwrap();
    let again = generate(&plan, Options { mlir: true, llvm: true }).unwrap();
    assert_eq!(once, again);
    // A kernel's code does not depend on what else its thread has compiled.
    let step = Step { phase: plan.phase, sizes: plan.workload };
    for kernel in plan.kernels.iter().step_by(7) {
        let options = Options::default();
        let alone = generate_kernel(&kernel.spec, step, &plan.target, &kernel.name, options);
        let (_, entry) = alone.as_ref().unwrap().ptx.split_once(".address_size 64\n").unwrap();
        assert!(once.ptx.contains(entry), "{}", kernel.name);
    }
}

#[test]
fn elements_are_moved_16_bytes_at_a_time_where_the_layout_allows_it() {
    let target = Target::named("h800").unwrap();
    let ptx = |case: &cases::Case| {
        let options = Options::default();
        generate_kernel(&case.spec, case.step(), &target, "kernel", options).unwrap().ptx
    };
    for case in cases::all() {
        let wide =
            ["ld.global.nc.v4.b32", "ld.global.v4.b32"].iter().any(|l| ptx(&case).contains(l));
        match case.name {
            name if name.contains("experts hopper") => {
                // Weights come by tensor copies, routed rows by copies of threads.
                let code = ptx(&case);
                for part in ["cp.async.bulk.tensor.", "cp.async.cg.", "wgmma.mma_async"] {
                    assert!(code.contains(part), "{name}: {part}");
                }
            }
            name if name.contains("hopper absorbed") => {
                let code = ptx(&case);
                assert!(code.contains(", p, 1, 1, 0, 1;"), "{name}: read across its rows");
            }
            "prefill bf16" => assert!(ptx(&case).contains("cp.async.bulk.tensor.")),
            "decode bf16 7168" | "norm 7168" | "swiglu" | "combine v3" | "gather embedding"
            | "quantize v3" | "swiglu to fp8" | "norm to fp8 7168" | "fp8 decode 7168" => {
                assert!(wide, "{}", case.name)
            }
            "decode odd" | "norm odd" | "gather odd" | "fp8 decode odd" => {
                assert!(!wide, "{}", case.name)
            }
            _ => {}
        }
    }
}

/// Tiles fill whole waves of multiprocessors with little padding: with one multiprocessor they are
/// as wide as the product allows, also across blocks of scales.
#[test]
fn fp8_tiles_have_the_columns_that_suit_the_product() {
    let h800 = Target::named("h800").unwrap();
    let columns_of = |case: &cases::Case, target: &Target| {
        let options = Options::default();
        let code = generate_kernel(&case.spec, case.step(), target, "kernel", options).unwrap();
        let (_, from) = code.ptx.split_once("wgmma.mma_async.sync.aligned.m64n").unwrap();
        from.split_once('k').unwrap().0.parse::<u64>().unwrap()
    };
    let small = Target { sms: 1, ..h800.clone() };
    for case in cases::wide_gemms().into_iter().chain(cases::wide_experts()) {
        let wanted = case.name.split(' ').find_map(|word| word.parse::<u64>().ok());
        assert_eq!(Some(columns_of(&case, &small)), wanted, "{}", case.name);
    }
    for case in cases::scaled_experts() {
        if case.name.contains("hopper v3") && case.tokens == 4096 {
            assert_eq!(columns_of(&case, &h800), 192, "{}", case.name);
        }
    }
}

/// Half-precision results of tensor cores leave through shared memory: by tensor copies, or 16
/// bytes a lane where rows are scattered. Float32 results need no detour.
#[test]
fn results_of_16_bits_leave_in_whole_sectors() {
    let target = Target::named("h800").unwrap();
    let products =
        [cases::gemms(), cases::scaled_gemms(), cases::experts(), cases::scaled_experts()];
    for case in products.concat() {
        let (c, scattered) = match &case.spec {
            KernelSpec::Gemm { c, .. } | KernelSpec::ScaledGemm { c, .. } => (c, false),
            KernelSpec::GroupedGemm { c, .. } | KernelSpec::ScaledGroupedGemm { c, .. } => {
                (c, true)
            }
            _ => continue,
        };
        let options = Options::default();
        let code = generate_kernel(&case.spec, case.step(), &target, "kernel", options).unwrap();
        let rows = c.shape.len() - 2;
        let aligned = c.strides[rows].is_multiple_of(8) && c.shape[2].div_exact(8).is_some();
        let panels = code.ptx.contains("wgmma") && c.dtype.bytes() == 2 && aligned;
        assert_eq!(code.ptx.contains("stmatrix"), panels, "{}", case.name);
        let stores = code.ptx.contains("global.shared::cta.tile.bulk_group");
        assert_eq!(stores, panels && !scattered, "{}", case.name);
        assert!(!(panels && scattered) || code.ptx.contains("st.global.v4"), "{}", case.name);
    }
}

/// Scores and sums of values come from tensor cores, the latter with weights in registers and
/// values read across their rows; the queries, keys and values by tensor copies.
#[test]
fn attention_of_many_tokens_runs_on_tensor_cores() {
    let target = Target::named("h800").unwrap();
    let code = |case: &cases::Case| {
        let options = Options::default();
        generate_kernel(&case.spec, case.step(), &target, "kernel", options).unwrap()
    };
    for case in cases::packed_attentions().into_iter().chain(cases::paged_attentions()) {
        let KernelSpec::Attention { q, v, .. } = &case.spec else { panic!("{}", case.name) };
        let code = code(&case);
        let maps: Vec<usize> = code.geometry.tensor_maps.iter().map(|map| map.operand).collect();
        assert_eq!(maps, (0..2 * q.len() + 1).collect::<Vec<_>>(), "{}", case.name);
        let value = v.shape[2].constant().unwrap();
        let products = |what: &str| {
            let of_this = |line: &&str| line.contains("wgmma.mma_async") && line.contains(what);
            code.ptx.lines().filter(of_this).count() as u64
        };
        // Scores before the loop and in it; values in the loop and after it.
        let steps: u64 = q.iter().map(|q| q.shape[2].constant().unwrap().div_ceil(16)).sum();
        assert_eq!(products(", p, 1, 1, 0, 0;"), 2 * steps, "{}", case.name);
        let with_values = products(", p, 1, 1, 1;");
        assert!([4, 8, 16].contains(&with_values), "{}: {with_values}", case.name);
        assert_eq!(products(&format!("m64n{value}k16")).min(with_values), with_values);
        assert!(code.ptx.contains("cp.async.bulk.tensor."), "{}", case.name);
    }
    // Rows anywhere in a cache, odd sizes and float32 are for other kernels.
    for case in cases::attentions() {
        assert!(!code(&case).ptx.contains("wgmma"), "{}", case.name);
    }
}

#[test]
fn fp8_is_converted_in_pairs_or_not_at_all() {
    let target = Target::named("h800").unwrap();
    for case in cases::all() {
        let wanted = match &case.spec {
            KernelSpec::ScaledGemm { .. }
            | KernelSpec::ScaledGroupedGemm { .. }
            | KernelSpec::ScaledMaskedGemm { .. } => "cvt.rn.f16x2.e4m3x2 ",
            KernelSpec::Quantize { .. }
            | KernelSpec::QuantizeTransposed { .. }
            | KernelSpec::RmsNormQuantize { .. }
            | KernelSpec::PointwiseQuantize { .. } => "cvt.rn.satfinite.e4m3x2.f32 ",
            _ => continue,
        };
        let options = Options::default();
        let code = generate_kernel(&case.spec, case.step(), &target, "kernel", options).unwrap();
        // Tensor cores multiply FP8 as it is.
        let multiplied = code.ptx.contains(".f32.e4m3.e4m3");
        assert!(multiplied || code.ptx.contains(wanted), "{}", case.name);
    }
}

#[test]
fn scales_that_do_not_cover_their_numbers_are_refused() {
    let target = Target::named("h800").unwrap();
    let case = cases::scaled_gemms().into_iter().find(|c| c.name == "fp8 decode ends").unwrap();
    let step = case.step();
    let code = |change: &dyn Fn(&mut KernelSpec)| {
        let mut spec = case.spec.clone();
        change(&mut spec);
        let code = generate_kernel(&spec, step, &target, "kernel", Options::default());
        code.err().map(|mistake| mistake.code)
    };
    assert_eq!(code(&|_| {}), None);
    let refused = |change: &dyn Fn(&mut KernelSpec)| {
        assert_eq!(code(change), Some("E0902"));
    };
    refused(&|spec| {
        let KernelSpec::ScaledGemm { block, .. } = spec else { panic!() };
        block[0] = 0;
    });
    refused(&|spec| {
        let KernelSpec::ScaledGemm { block, .. } = spec else { panic!() };
        block[1] = 64;
    });
    refused(&|spec| {
        let KernelSpec::ScaledGemm { w, .. } = spec else { panic!() };
        w.dtype = DType::Bf16;
    });
    refused(&|spec| {
        let KernelSpec::ScaledGemm { a_scale, .. } = spec else { panic!() };
        a_scale.as_mut().unwrap().dtype = DType::Bf16;
    });
    refused(&|spec| {
        let KernelSpec::ScaledGemm { w_scale, .. } = spec else { panic!() };
        w_scale.shape[1] = 1.into();
    });
}

#[test]
fn contradictory_operands_are_refused() {
    let target = Target::named("h800").unwrap();
    let refused = |spec: &KernelSpec| {
        let step = Step { phase: Phase::Decode, sizes: plan(Phase::Decode).workload };
        let mistake = generate_kernel(spec, step, &target, "kernel", Options::default());
        mistake.expect_err(&format!("{spec:?}")).code
    };
    let rows = |dtype| cases::dense(dtype, &[None, Some(8)]);
    let x = rows(DType::F64);
    assert_eq!(refused(&KernelSpec::Softmax { x: x.clone(), out: x }), "E0901");
    let deep = cases::dense(DType::F32, &[None, Some(8), Some(8)]);
    assert_eq!(refused(&KernelSpec::Softmax { x: deep.clone(), out: deep }), "E0902");
    let mut crooked = rows(DType::F32);
    crooked.strides.pop();
    assert_eq!(refused(&KernelSpec::Softmax { x: crooked.clone(), out: crooked }), "E0902");
    let mut columns = cases::transposed_quantizations().remove(0).spec;
    let KernelSpec::QuantizeTransposed { block, .. } = &mut columns else { panic!() };
    *block = 48;
    assert_eq!(refused(&columns), "E0902");
    let gradient = |change: &dyn Fn(&mut KernelSpec)| {
        let mut spec = cases::weight_gradients().remove(3).spec;
        change(&mut spec);
        assert_eq!(refused(&spec), "E0902");
    };
    gradient(&|spec| {
        let KernelSpec::WeightGradient { promote_every, .. } = spec else { panic!() };
        *promote_every = 64;
    });
    gradient(&|spec| {
        let KernelSpec::WeightGradient { dw, .. } = spec else { panic!() };
        dw.dtype = DType::Bf16;
    });
    gradient(&|spec| {
        let KernelSpec::WeightGradient { x_scale, .. } = spec else { panic!() };
        x_scale.strides = vec![16, 1];
    });
    gradient(&|spec| {
        let KernelSpec::WeightGradient { dw, .. } = spec else { panic!() };
        dw.shape[1] = 130.into();
    });
    let out = rows(DType::F32);
    for code in [vec![], vec![Scalar::Input(1)], vec![Scalar::Unary(UnaryFn::Neg, 0)]] {
        let inputs = vec![out.clone()];
        assert_eq!(refused(&KernelSpec::Pointwise { inputs, out: out.clone(), code }), "E0902");
    }
}

#[test]
fn ptxas_accepts_every_kernel_without_spills() {
    let target = Target::named("h800").unwrap();
    let Some(ptxas) = ptxas::find(root()) else {
        eprintln!("skipped: {}", ptxas::Error::Missing);
        return;
    };
    let mut spilling = vec![];
    for case in cases::all() {
        let start = Instant::now();
        let name = format!("{}_0", case.spec.family());
        let code =
            generate_kernel(&case.spec, case.step(), &target, &name, Options::default()).unwrap();
        let took = start.elapsed();
        let report = ptxas::verify(&ptxas, &code.ptx, &target.arch)
            .unwrap_or_else(|e| panic!("{}: {e}\n{}", case.name, code.ptx));
        let [entry] = &report.entries[..] else { panic!("{}: {report:?}", case.name) };
        if (entry.spills, entry.stack) != (0, 0) {
            spilling.push(format!("{}: {entry:?}", case.name));
        }
        assert_eq!(report.warnings, Vec::<String>::new(), "{}", case.name);
        eprintln!("{}: {} registers, {took:?}", case.name, entry.registers);
    }
    assert_eq!(spilling, Vec::<String>::new());
}
