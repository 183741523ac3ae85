//! The kernels of experts that are spread over ranks: their code as it was, its parts, what
//! NVIDIA's assembler makes of it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "other families are for other tests")]
mod cases;

use cases::Case;
use moec_codegen::{KernelCode, Options, generate_kernel, ptxas};
use moec_ir::Target;
use std::path::Path;

fn generate(case: &Case) -> KernelCode {
    let target = Target::named("h800").unwrap();
    let name = format!("{}_0", case.spec.family());
    generate_kernel(&case.spec, case.step(), &target, &name, Options::default()).unwrap()
}

#[test]
fn ptx_is_as_it_was() {
    for case in cases::exchanges() {
        insta::assert_snapshot!(case.name.replace(' ', "-"), generate(&case).ptx);
    }
}

/// The module as it is once NVSHMEM's functions are linked: they become part of the kernel, so that
/// nothing is called in the end. Each gets a body that stores what it is given.
fn linked(ptx: &str) -> String {
    const DECLARED: &str = ".extern .func ";
    let mut linked = String::new();
    let mut rest = ptx;
    while let Some((before, declared)) = rest.split_once(DECLARED) {
        let (head, after) = declared.split_once("\n;\n").unwrap();
        linked += before;
        let names = head.lines().filter_map(|line| line.trim().strip_prefix(".param .b"));
        let (mut loads, mut stores) = (String::new(), String::new());
        for (i, (bits, name)) in names.filter_map(|p| p.split_once(' ')).enumerate() {
            let name = name.trim_end_matches(',');
            loads += &format!(".reg .b{bits} %v{i};\nld.param.b{bits} %v{i}, [{name}];\n");
            stores += &format!("st.volatile.b{bits} [%v0+{}], %v{i};\n", 8 * i);
        }
        linked += &format!(".func {head}\n{{\n{loads}{stores}ret;\n}}\n");
        rest = after;
    }
    linked + rest
}

#[test]
fn ptxas_accepts_them_without_spills() {
    let Some(ptxas) = ptxas::find(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()) else {
        eprintln!("skipped: {}", ptxas::Error::Missing);
        return;
    };
    for case in cases::exchanges() {
        let report = ptxas::verify(&ptxas, &linked(&generate(&case).ptx), "sm_90a")
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let entries: Vec<_> = report.entries.iter().filter(|e| e.name.ends_with("_0")).collect();
        let [entry] = entries[..] else { panic!("{}: {report:?}", case.name) };
        eprintln!("{}: {entry:?}", case.name);
        assert_eq!((entry.spills, entry.stack), (0, 0), "{}: {entry:?}", case.name);
        assert_eq!(report.warnings, Vec::<String>::new(), "{}", case.name);
    }
}

/// Who plays a part finds its name in the code.
#[test]
fn parts_have_names() {
    let parts = |name: &str| {
        let cases = cases::exchanges();
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let ptx = generate(case).ptx;
        let named = ptx.lines().filter_map(|line| line.trim().strip_prefix("// role: "));
        named.map(str::to_owned).collect::<Vec<_>>()
    };
    let within = ["send rows of this rank's tokens", "give results back"];
    let between = ["hand on rows from other nodes", "sum results for other nodes"];
    let computing = [
        "multiply, first product",
        "function between the products",
        "multiply, second product",
        "gather, first product",
        "gather, second product",
    ];
    let v3 = parts("spread experts v3");
    for part in within.iter().chain(&between).chain(&computing) {
        assert_eq!(v3.iter().filter(|name| name == part).count(), 1, "{part} in {v3:?}");
    }
    let tiny = parts("spread experts tiny");
    assert!(between.iter().all(|part| !tiny.iter().any(|name| name == part)), "{tiny:?}");
}

/// Flags and counters are ordered as the memory model asks: LLVM 22 drops `.release` and `.sys`
/// from its own atomics, so none of those may be there.
#[test]
fn what_hands_over_says_in_which_order() {
    for case in cases::exchanges() {
        let ptx = generate(&case).ptx;
        let mut wanted = vec!["ld.acquire.sys.global.b64", "st.release.sys.global.b64"];
        wanted.push("atom.acq_rel.gpu.global.add.u32");
        if case.name.starts_with("spread") {
            wanted.extend(["ld.acquire.gpu.global.b64", "st.release.gpu.global.b64"]);
        }
        for instruction in wanted {
            assert!(ptx.contains(instruction), "{}: {instruction}", case.name);
        }
        for line in ptx.lines().map(str::trim) {
            let atomic = ["atom.", "red."].iter().any(|name| line.starts_with(name));
            assert!(!atomic || line.starts_with("atom.acq_rel.gpu."), "{}: {line}", case.name);
        }
    }
}
