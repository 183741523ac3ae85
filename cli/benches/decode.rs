//! Decodes with examples/tiny-v3 on the emulator: tokens and emulated instructions a second, and
//! what share of the time each kernel takes.
//!
//! `cargo bench -p moec --bench decode`; `MOEC_BENCH_TOKENS` tokens instead of 64.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it measures")]

use moec_ir::{Phase, Sizes, Target};
use moec_runtime::{Artefact, Checkpoint, Compiled, Engine, Rows, Session, artefact, device};
use std::path::Path;
use std::time::Instant;

const PROMPT: [u32; 8] = [11, 25, 36, 47, 58, 69, 80, 91];

fn compiled(source: &str) -> moec_runtime::Result<Artefact> {
    let model = moec_frontend::check(&moec_frontend::parse(source)?)?;
    let graph = moec_frontend::lower(&model)?;
    let target = Target::named("h800").expect("h800 is a built-in target");
    let mut phases = std::collections::BTreeMap::new();
    for phase in Phase::ALL {
        // What is run: one sequence.
        let tokens = if phase == Phase::Decode { 1 } else { PROMPT.len() as u64 };
        let workload = Sizes { tokens, past: 64, sequences: 1 };
        let options = moec_passes::Options { workload: Some(workload), ..Default::default() };
        let optimized = moec_passes::optimize(&graph, &target, phase, &options)?;
        let generated = moec_codegen::generate(&optimized.plan, Default::default())?;
        phases.insert(phase, Compiled { plan: generated.plan, ptx: generated.ptx });
    }
    Ok(Artefact { model: graph.name, source: artefact::digest(source), phases })
}

fn run(tokens: u64) -> moec_runtime::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tiny-v3");
    let source = std::fs::read_to_string(folder.join("tiny-v3.moe")).expect("the example is there");
    let begin = Instant::now();
    let artefact = compiled(&source)?;
    println!("compiled in {:.2} s", begin.elapsed().as_secs_f64());

    let begin = Instant::now();
    let device = Box::new(device::Emulator::default());
    let weights = Checkpoint::open(&folder)?;
    let capacity = PROMPT.len() as u64 + tokens + 1;
    let mut session = Session::new(device, artefact, &weights, capacity, &mut |_| {})?;
    println!("loaded in {:.2} s", begin.elapsed().as_secs_f64());

    let sequence = session.open(capacity)?;
    let begin = Instant::now();
    session.step(Phase::Prefill, &[(sequence, &PROMPT)], Rows::Last)?;
    println!("prefilled {} tokens in {:.3} s", PROMPT.len(), begin.elapsed().as_secs_f64());

    // One step to warm up.
    session.step(Phase::Decode, &[(sequence, &[1])], Rows::Last)?;
    session.reset_profile();
    let begin = Instant::now();
    for i in 0..tokens {
        session.step(Phase::Decode, &[(sequence, &[i as u32 % 1000])], Rows::Last)?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    report(&session, tokens, seconds);
    Ok(())
}

fn report(session: &Session, tokens: u64, seconds: f64) {
    let total = session.profile().total(Phase::Decode);
    let per_second = |n: u64| n as f64 / seconds;
    println!("decode: {:.1} tokens/s", per_second(tokens));
    println!(
        "        {:.1} launches a token, {:.2} M warp instructions a token",
        total.launches as f64 / tokens as f64,
        total.counters.warp_instructions as f64 / tokens as f64 / 1e6
    );
    println!(
        "        {:.1} M warp instructions/s, {:.2} G lane instructions/s",
        per_second(total.counters.warp_instructions) / 1e6,
        per_second(total.counters.lane_instructions) / 1e9
    );
    let outside = 1.0 - total.time.as_secs_f64() / seconds;
    println!("        {:.1} % of the time outside of kernels", outside * 100.0);
    let mut kernels: Vec<_> =
        session.profile().kernels().filter(|(p, _, _)| *p == Phase::Decode).collect();
    kernels.sort_by(|a, b| b.2.time.cmp(&a.2.time).then(a.1.cmp(b.1)));
    println!("\n share   us/launch  launches  warp instr./launch  kernel");
    for (_, name, k) in kernels {
        println!(
            "{:5.1} %  {:9.1}  {:8}  {:18}  {name}",
            k.time.as_secs_f64() / seconds * 100.0,
            k.time.as_secs_f64() * 1e6 / k.launches as f64,
            k.launches,
            k.counters.warp_instructions / k.launches
        );
    }
}

fn main() {
    // Run as a test (`cargo test --benches`), it measures little.
    let quick = std::env::args().any(|a| a == "--test");
    let asked = std::env::var("MOEC_BENCH_TOKENS").ok().and_then(|n| n.parse().ok());
    let tokens = if quick { 2 } else { asked.unwrap_or(64) };
    if let Err(errors) = run(tokens) {
        for error in errors {
            eprintln!("{}", error.render("", "", false));
        }
        std::process::exit(1);
    }
}
