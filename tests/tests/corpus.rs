//! Runs every file of `corpus/`.
//!
//! Commands: `check` (diagnostics), `fmt`, `lower` (the graph), `import` (from a `config.json`
//! behind the header), `plan PHASE`, `explain PHASE`, `ptx PHASE`, and `agree TOKENS..`: with
//! random weights, sequences of so many tokens have the same logits on the emulator and the
//! reference, in one step and token by token, however the kernels are chosen.

use libtest_mimic::{Arguments, Trial};
use moec_ir::{Diagnostic, Phase, Target};
use moec_tests::corpus::{Case, files};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let paths = files(&root).unwrap_or_else(|e| panic!("{e}"));
    let trials = paths.into_iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        Trial::test(name, move || run(&path).map_err(Into::into))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn run(path: &Path) -> Result<(), String> {
    let case = Case::read(path)?;
    let words: Vec<&str> = case.command.iter().map(String::as_str).collect();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let output = match words.as_slice() {
        ["check"] => told(&name, &case.source, model(&case.source).map(|_| "ok\n".to_owned())),
        ["fmt"] => told(&name, &case.source, moec_frontend::format(&case.source)),
        ["lower"] => told(&name, &case.source, lowered(&case.source).map(|g| g.to_string())),
        ["import"] => {
            let config: Vec<&str> = case.source.lines().filter(|l| !l.starts_with("//")).collect();
            let config = config.join("\n");
            told(&name, &config, moec_frontend::import(&config, None, None))
        }
        [stage @ ("plan" | "explain" | "ptx"), phase] => {
            let phase = phase.parse()?;
            told(&name, &case.source, compiled(stage, phase, &case.source))
        }
        ["agree", tokens @ ..] => {
            let tokens: Result<Vec<usize>, _> = tokens.iter().map(|t| t.parse()).collect();
            let tokens = tokens.map_err(|e| e.to_string())?;
            let graph = lowered(&case.source).map_err(|d| told(&name, &case.source, Err(d)))?;
            return moec_tests::agree::agree(&graph, &tokens)
                .map_err(|d| told(&name, "", Err(d)))?;
        }
        _ => return Err(format!("`{}` is not a command", case.command.join(" "))),
    };
    case.judge(&output)
}

fn model(source: &str) -> Result<moec_frontend::Model, Vec<Diagnostic>> {
    let model = moec_frontend::check(&moec_frontend::parse(source)?)?;
    let faults = moec_ir::graph::verify(&model.graph);
    assert!(faults.is_empty(), "the checked graph is not well formed: {faults:?}");
    Ok(model)
}

fn lowered(source: &str) -> Result<moec_ir::Graph, Vec<Diagnostic>> {
    let graph = moec_frontend::lower(&model(source)?)?;
    let faults = moec_ir::graph::verify(&graph);
    assert!(faults.is_empty(), "the lowered graph is not well formed: {faults:?}");
    Ok(graph)
}

fn compiled(stage: &str, phase: Phase, source: &str) -> Result<String, Vec<Diagnostic>> {
    let graph = lowered(source)?;
    let target = Target::named("h800").unwrap_or_else(|| panic!("h800 is a target"));
    let options = moec_passes::Options { explain: stage == "explain", ..Default::default() };
    let optimized = moec_passes::optimize(&graph, &target, phase, &options)?;
    match stage {
        "plan" => Ok(optimized.plan.to_string()),
        "explain" => Ok(optimized.explanation.to_string()),
        _ => Ok(moec_codegen::generate(&optimized.plan, Default::default())?.ptx),
    }
}

/// The output, or the diagnostics as a user sees them.
fn told(name: &str, source: &str, result: Result<String, Vec<Diagnostic>>) -> String {
    result.unwrap_or_else(|diagnostics| {
        diagnostics.iter().map(|d| d.render(name, source, false)).collect::<Vec<_>>().join("\n")
    })
}
