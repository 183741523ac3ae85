//! `moec numerics`.

use super::logits::read_ids;
use crate::args::{Format, NumericsArgs};
use crate::failure::Failure;
use crate::model::graph;
use crate::output;
use crate::progress::Work;
use moec_ir::Graph;
use moec_runtime::numerics::{Error, INTERVALS, Loss, RULES, random_loss};
use moec_runtime::{Checkpoint, Engine, Reference};
use std::fmt::Write;

/// Tokens of the sequence that is evaluated where none is given.
const TOKENS: u64 = 64;

/// Depth of the case that the literature measured (DeepSeek-V3 3.5.2).
const KNOWN_DEPTH: usize = 4096;

/// Prints the errors of every linear map, behind those of the known case.
pub(crate) fn numerics(args: &NumericsArgs) -> Result<(), Failure> {
    let graph = graph(&args.model)?;
    let checkpoint = Checkpoint::open(&args.weights)?;
    let tokens = match &args.ids {
        Some(path) => read_ids(path)?.sequences.swap_remove(0),
        None => spread(&graph, &checkpoint)?,
    };
    let work = Work::begin("evaluating in float64");
    let mut losses = vec![random_loss(KNOWN_DEPTH)];
    losses.extend(moec_runtime::numerics(&graph, &checkpoint, &tokens)?);
    drop(work);
    match args.format {
        Format::Text => output::write(table(&losses).as_bytes()),
        Format::Json => output::write(json(&losses).as_bytes()),
    }
}

/// Tokens from all over the vocabulary.
fn spread(graph: &Graph, checkpoint: &Checkpoint) -> Result<Vec<u32>, Failure> {
    let reference = Reference::new(graph, checkpoint)?;
    let (vocab, length) = (reference.vocab(), TOKENS.min(reference.context()));
    Ok((0..length).map(|i| (i * vocab / length) as u32).collect())
}

fn table(losses: &[Loss]) -> String {
    let mut text = String::from(
        "relative L2 error / greatest error; columns: products between promotions\n\n",
    );
    let heads = INTERVALS.map(|n| format!("{n:>17}")).concat();
    let _ = writeln!(text, "{:8}{heads}{:>17}", "", "never");
    for loss in losses {
        let Loss { weight, depth, quantised, .. } = loss;
        let quantised = cell(quantised);
        let _ = writeln!(text, "{weight}, depth {depth}: quantisation {quantised}");
        for ((rule, _), errors) in RULES.iter().zip(&loss.accumulated) {
            let cells: String = errors.iter().map(|e| format!("{:>17}", cell(e))).collect();
            let _ = writeln!(text, "  {rule:6}{cells}");
        }
    }
    text
}

fn cell(error: &Error) -> String {
    format!("{:.1e}/{:.1e}", error.l2, error.greatest)
}

fn json(losses: &[Loss]) -> String {
    let rules: Vec<&str> = RULES.iter().map(|(name, _)| *name).collect();
    let report = serde_json::json!({
        "rules": rules,
        "promoted_every": INTERVALS.map(Some).into_iter().chain([None]).collect::<Vec<_>>(),
        "losses": losses,
    });
    format!("{report:#}\n")
}
