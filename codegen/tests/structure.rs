//! What the generated PTX is made of: determinism, one entry each, acceptance by ptxas.

mod cases;

use moec_codegen::{Options, generate_kernel, ptxas};
use moec_ir::Target;
use std::path::Path;
use std::time::Instant;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn ptxas_accepts_every_kernel_without_spills() {
    let target = Target::named("h800").unwrap();
    let Some(ptxas) = ptxas::find(root()) else {
        eprintln!("skipped: {}", ptxas::Error::Missing);
        return;
    };
    for case in cases::all() {
        let start = Instant::now();
        let name = format!("{}_0", case.spec.family());
        let code =
            generate_kernel(&case.spec, case.step(), &target, &name, Options::default()).unwrap();
        let took = start.elapsed();
        let report = ptxas::verify(&ptxas, &code.ptx, &target.arch)
            .unwrap_or_else(|e| panic!("{}: {e}\n{}", case.name, code.ptx));
        let [entry] = &report.entries[..] else { panic!("{}: {report:?}", case.name) };
        assert_eq!((entry.spills, entry.stack), (0, 0), "{}: {entry:?}", case.name);
        assert_eq!(report.warnings, Vec::<String>::new(), "{}", case.name);
        eprintln!("{}: {} registers, {took:?}", case.name, entry.registers);
    }
}
