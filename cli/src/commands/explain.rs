//! `moec explain`.

use crate::args::ExplainArgs;
use crate::compile::{self, Request, Stage};
use crate::failure::{Failure, Source, tell};
use crate::model::use_threads;
use crate::progress::Work;
use crate::{output, partition};
use moec_frontend::Model;
use moec_ir::{Diagnostic, Graph, Phase, Span};
use std::ops::ControlFlow;

/// Prints which rules led to the plan and what each gained, or why one did not.
pub(crate) fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    use_threads(&args.compile);
    let source = Source::read(&args.model)?;
    let phase = args.phase.unwrap_or(Phase::Decode);
    let request = Request {
        phases: vec![phase],
        explain: args.why_not.is_none() && !args.mla,
        ..Request::new(&args.compile)
    };
    let (mut text, mut checked): (Result<String, Vec<Diagnostic>>, Option<Model>) =
        (Ok(String::new()), None);
    let work = Work::begin("optimising");
    let explained = compile::compile(&source.text, &request, &mut |stage| {
        match stage {
            Stage::Checked(model) => checked = Some(model.clone()),
            Stage::Lowered(graph) if !request.explain => {
                if let Some(model) = &checked {
                    text = asked(args, phase, graph, model, &source);
                    return ControlFlow::Break(());
                }
            }
            Stage::Optimized(optimized) => {
                text = Ok(optimized.explanation.to_string());
                return ControlFlow::Break(());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    drop(work);
    tell(&checked.map(|m| m.warnings).unwrap_or_default(), Some(&source));
    explained.map_err(|d| source.failure(d))?;
    output::write(text.map_err(|d| source.failure(d))?.as_bytes())
}

/// The page of `--why-not` or `--mla`.
fn asked(
    args: &ExplainArgs,
    phase: Phase,
    graph: &Graph,
    model: &Model,
    source: &Source,
) -> Result<String, Vec<Diagnostic>> {
    let target = compile::target(&args.compile, model);
    let options = compile::options(&args.compile, phase);
    let Some(rule) = &args.why_not else {
        // Each phase has its own batch.
        let options = moec_passes::Options { workload: None, ..options };
        return Ok(moec_passes::mla_table(graph, &target, &options)?.to_string());
    };
    let ranks = compile::ranks(&args.compile, model, phase)?;
    let exchange = ranks.map(|ranks| partition::spread(model, phase, &target, ranks));
    let options = moec_passes::Options { ranks, exchange, ..options };
    let why = moec_passes::why_not(graph, &target, phase, &options, rule)?;
    Ok(why.page(&|span| place(source, span)))
}

/// `file:line:column`, and what stands there.
fn place(source: &Source, span: Span) -> String {
    let before = source.text.get(..span.start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let text = source.text.get(span.start..span.end).unwrap_or_default();
    let text = text.lines().next().unwrap_or_default();
    format!("{}:{line}:{column}: {text}", source.name)
}
