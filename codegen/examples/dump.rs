//! Prints the PTX of a kernel whose spec is given as JSON: `dump SPEC.json TOKENS`.

use moec_codegen::{Options, Step, generate_kernel};
use moec_ir::{Phase, Sizes, Target};
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(tokens)) = (arguments.next(), arguments.next()) else {
        return Err("usage: dump SPEC.json TOKENS".into());
    };
    let spec = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let tokens = tokens.parse()?;
    let phase = if tokens <= 4 { Phase::Decode } else { Phase::Prefill };
    let step = Step { phase, sizes: Sizes { tokens, past: tokens, sequences: 1 } };
    let target = Target::named("h800").ok_or("no target")?;
    let options = Options { mlir: true, llvm: true };
    let code = generate_kernel(&spec, step, &target, "kernel", options)
        .map_err(|d| d.render("", "", false))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n{}\n{}", code.mlir, code.llvm, code.ptx)?;
    Ok(())
}
