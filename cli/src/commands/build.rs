//! `moec build` and `moec rules`.

use crate::args::{BuildArgs, Emit};
use crate::compile::{Request, Stage, compile};
use crate::failure::{Failure, Source, tell};
use crate::model::use_threads;
use crate::progress::Work;
use crate::{output, partition, sass};
use moec_ir::Phase;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Compiles to an artefact, or prints what a stage made.
pub(crate) fn build(args: &BuildArgs) -> Result<(), Failure> {
    use_threads(&args.compile);
    let source = Source::read(&args.model)?;
    if let Some(emit) = args.emit {
        let text = emitted(args, emit, &source)?;
        return output::write_to(args.output.as_deref(), text.as_bytes());
    }
    let path = args.output.clone().unwrap_or_else(|| {
        PathBuf::from(args.model.file_stem().unwrap_or_default()).with_extension("artefact")
    });
    let mut request = Request::new(&args.compile);
    if let Some(phase) = args.phase {
        request.phases = vec![phase];
    }
    request.output = Some(path.clone());
    let (work, mut warnings) = (Work::begin("compiling"), vec![]);
    let mut tables = String::new();
    let compiled = compile(&source.text, &request, &mut |stage| {
        match stage {
            Stage::Checked(model) => warnings = model.warnings.clone(),
            Stage::Optimized(o) => {
                let table = o.partition.as_ref().map(|p| partition::table(p, &o.plan.target));
                tables.extend(table.map(|table| format!("\n{table}")));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    drop(work);
    tell(&warnings, Some(&source));
    compiled.map_err(|d| source.failure(d))?;
    let phases: Vec<&str> = request.phases.iter().map(|p| p.name()).collect();
    let line = format!("{}: {}\n{tables}", path.display(), phases.join(" and "));
    output::write(line.as_bytes())
}

/// The text of a stage. Later stages do not run.
fn emitted(args: &BuildArgs, emit: Emit, source: &Source) -> Result<String, Failure> {
    let request = Request {
        phases: vec![args.phase.unwrap_or(Phase::Decode)],
        texts: moec_codegen::Options { mlir: emit == Emit::Mlir, llvm: emit == Emit::Llvm },
        ..Request::new(&args.compile)
    };
    let mut text = None;
    let mut hook = |stage: Stage<'_>| {
        text = match (emit, stage) {
            (Emit::Ast, Stage::Parsed(ast)) => Some(Ok(ast.to_string())),
            (Emit::Graph, Stage::Lowered(graph)) => Some(Ok(graph.to_string())),
            (Emit::Partition | Emit::Timeline, Stage::Optimized(o)) => Some(match &o.partition {
                Some(p) if emit == Emit::Partition => Ok(partition::table(p, &o.plan.target)),
                Some(p) => Ok(partition::trace(p, &o.plan.target)),
                None => Err(Failure::Message(format!(
                    "no experts are spread over ranks in {}: write `parallel {{ experts over 32 \
                     ranks }}`, or give --ranks",
                    o.plan.phase
                ))),
            }),
            (Emit::Egraph, Stage::Optimized(o)) => Some(Ok(o.egraph.clone())),
            (Emit::Plan, Stage::Generated(g)) => Some(plan_text(&g.plan)),
            (Emit::Mlir, Stage::Generated(g)) => Some(Ok(g.mlir.clone())),
            (Emit::Llvm, Stage::Generated(g)) => Some(Ok(g.llvm.clone())),
            (Emit::Ptx, Stage::Generated(g)) => Some(Ok(g.ptx.clone())),
            (Emit::Sass, Stage::Generated(g)) => {
                Some(sass::disassemble(&g.ptx, &g.plan.target.arch))
            }
            _ => None,
        };
        if text.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    compile(&source.text, &request, &mut hook).map_err(|d| source.failure(d))?;
    let mut text = text.unwrap_or_else(|| Err(Failure::Message("no stage made this".into())))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn plan_text(plan: &moec_ir::Plan) -> Result<String, Failure> {
    serde_json::to_string_pretty(plan)
        .map_err(|e| Failure::Message(format!("the plan has no JSON form: {e}")))
}

/// Lists every rule with its equation.
pub(crate) fn rules() -> Result<(), Failure> {
    let rules = moec_passes::rules();
    let width = rules.iter().map(|r| r.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for rule in rules {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:width$}  {:?}: {}", rule.name, rule.family, rule.equation);
    }
    output::write(text.as_bytes())
}
