//! Compiles DeepSeek-V3 from nothing cached: each kernel alone, on one core, and each phase as a
//! whole. Nothing is assembled by ptxas.
//!
//! `cargo bench -p moec --bench compile`.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it measures")]

use moec_codegen::{Options, Step, generate, generate_kernel};
use moec_ir::{Phase, Target};
use std::path::Path;
use std::time::Instant;

fn run() -> Result<(), Vec<moec_ir::Diagnostic>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/deepseek-v3");
    let source = std::fs::read_to_string(folder.join("deepseek-v3.moe")).expect("it is there");
    let target = Target::named("h800").expect("h800 is a built-in target");
    for phase in Phase::ALL {
        let begin = Instant::now();
        let model = moec_frontend::check(&moec_frontend::parse(&source)?)?;
        let graph = moec_frontend::lower(&model)?;
        let plan = moec_passes::optimize(&graph, &target, phase, &Default::default())?.plan;
        let planned = begin.elapsed().as_secs_f64();
        generate(&plan, Options::default())?;
        let whole = begin.elapsed().as_secs_f64();
        println!("{phase}: {whole:.2} s, of which {planned:.2} s to the plan");

        let step = Step { phase, sizes: plan.workload };
        let mut times = Vec::new();
        for kernel in &plan.kernels {
            let begin = Instant::now();
            generate_kernel(&kernel.spec, step, &target, &kernel.name, Options::default())
                .map_err(|e| vec![e])?;
            times.push((begin.elapsed().as_secs_f64() * 1e3, &kernel.name));
        }
        times.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let (median, _) = times[times.len() / 2];
        let (worst, name) = times[times.len() - 1];
        let count = times.len();
        println!("  {count} kernels alone: median {median:.0} ms, at most {worst:.0} ms ({name})");
    }
    Ok(())
}

fn main() {
    if let Err(errors) = run() {
        panic!("{errors:?}");
    }
}
