//! The page.

use crate::splits::{self, Split};
use crate::{Row, exchanges};
use moec_passes::partition::Alternative;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A table and what became of its rows.
pub(crate) struct Section {
    /// The table's name.
    pub(crate) file: &'static str,
    /// What was measured, and what the model was told.
    pub(crate) about: &'static str,
    pub(crate) rows: Vec<Row>,
}

/// What stands above the tables.
const INTRODUCTION: &str = "# Predicted and measured times

What the cost model (`passes/src/cost.rs`) says of kernels whose times are published, beside those times. The tables are in `data/published/`, each with its source in its first line. An error is predicted over measured time, less one: positive where the model is too slow. Nothing adjusts a prediction to its row; a constant that was calibrated says on which rows (`passes/src/cost/`), and those rows stand here with the others.

Predictions are of kernels as this compiler tiles them, unless a table says what tiles the measured kernel had. Kernels timed alone are predicted at the clock that they sustain, 1,600 MHz; those of a training step at the power limit, FP8 at 1,400 MHz.

To repeat it: `cargo xtask validate-model`; with `--check` it compares instead of writing.

## Summary

| table | rows | not covered | median error | 90 % within | largest |
|---|---|---|---|---|---|
";

/// What stands above the last table.
const ENOUGH: &str = "
## SMs that communication needs

On an H800, with 8 experts of a token on at most 4 nodes: the number of SMs from which on links, not SMs, bound the exchange. DeepSeek gives 20 to training and 24 to prefill with the first release; DeepEP's page says 4 to 6 of the second.

| | dispatch | combine |
|---|---|---|
";

/// What stands above the splits.
const SPLITS: &str = "
## Splits of SMs

SMs that communicate in DeepSeek's profiles (`profile_data_notes`), and by `passes/src/partition.rs`, on H800s: with DeepEP's first release in prefill and its low-latency kernels in decoding. A layer's time is predicted for the split that is found; in brackets, how much longer the published one is predicted to take.

| | published | found | layer | hidden | bound by |
|---|---|---|---|---|---|
";

/// What the page says in the end.
const REMAINS: &str = "## What error remains

- **64 and 128 rows.** As users report them, these kernels are predicted up to 18 % too fast where `k` is 7,168: a stage of few columns has a latency that the model does not see, and times of 6 to 20 us are rounded to 1 us. DeepGEMM's own figures for them are up to 48 % shorter than predicted; they were taken with operands partly in L2, and users do not reach them either.
- **The first revision of DeepGEMM** where `k` is short (32768 x 512, 20 % too fast): it waited for a tile's results to be written before it began the next, which the model does not charge.
- **Gradients of weights** (20 to 29 % too fast): both operands have a scale per row, more work for CUDA cores than one per block, and results are added to in L2; the model has neither. Nothing here computes them yet.
- **Attention of short sequences**, and of heads of 256 under a causal mask (8 to 24 % too fast): tiles of unlike length, and their beginnings and ends, idle more than the model says.
- **Lengths that vary** within a batch (11 to 16 % too fast): the model knows the mean.
- **Decoding with 128 heads** (25 to 43 % too fast): measured with FlashMLA's first kernel, which reached 580 TFLOP/s where the modelled one reaches 660, on figures that are read off a picture; short caches pay for chunks that the model takes as free.
- **Dispatch and combine inside a training step** (11 to 42 % too fast): measured times hold the wait for other ranks.
- **Whole layers of a trace and whole steps** (16 to 39 % too fast): measured ones hold kernels that this compiler does not launch (casts, permutations of tokens, communication's own), gaps between kernels, and contention of communication and computation for HBM, none of which is predicted.
- **Two nodes**: 29 % too slow for a combine that was published for one day, 29 % too fast for a dispatch on H200.
- Clocks are the least certain of the inputs: no published time says at which clock it was taken. 1,600 MHz for kernels alone and 1,400 for FP8 within a step are single figures for what a power limit moves.
";

/// The page.
///
/// # Errors
/// A table that cannot be read.
pub(crate) fn page(sections: &[Section]) -> Result<String, csv::Error> {
    let mut text = INTRODUCTION.to_owned();
    let mut all = vec![];
    for section in sections {
        let errors = errors(&section.rows);
        let link = format!("[{}](#{})", section.file, section.file);
        summary(&mut text, &link, &errors, section.rows.len() - errors.len());
        all.extend(errors);
    }
    let missing = sections.iter().map(|s| s.rows.len()).sum::<usize>() - all.len();
    summary(&mut text, "all", &all, missing);
    for section in sections {
        table(&mut text, section);
    }
    text.push_str(ENOUGH);
    for (of, [dispatch, combine]) in exchanges::enough_sms() {
        let _ = writeln!(text, "| {of} | {dispatch} | {combine} |");
    }
    text.push_str(SPLITS);
    for split in splits::splits()? {
        published(&mut text, &split);
    }
    let second = splits::second();
    let best = second.best();
    let _ = writeln!(text, "| prefill, second release | 4 to 6 | {} |", found(best));
    text.push('\n');
    text.push_str(REMAINS);
    Ok(text)
}

/// A row of the table of splits.
fn published(text: &mut String, split: &Split) {
    let Split { name, published, solution } = split;
    let Some(solution) = solution else {
        let _ = writeln!(text, "| {name} | {published} | not covered: a backward pass | | | |");
        return;
    };
    let best = solution.best();
    let at = solution.with_sms(*published).map(|a| a.seconds / best.seconds - 1.0);
    let at = at.map(|more| format!(" (published: {:+.1} %)", 100.0 * more)).unwrap_or_default();
    let _ = writeln!(
        text,
        "| {name} | {published} | {} |",
        found(best).replacen(" ms", &format!(" ms{at}"), 1)
    );
}

/// What was found: SMs, milliseconds of a layer, hidden share, bound.
fn found(best: &Alternative) -> String {
    let sms = best.comm_sms.map_or("in turn".into(), |sms| sms.to_string());
    let (ms, hidden) = (best.seconds / 58.0 * 1e3, 100.0 * best.hidden());
    format!("{sms} | {ms:.2} ms | {hidden:.1} % | {} {:.0} %", best.bound, 100.0 * best.bound_share)
}

/// Relative errors of the rows that are covered.
fn errors(rows: &[Row]) -> Vec<f64> {
    let error = |row: &Row| match row {
        Row::Covered { measured, predicted, .. } => Some(predicted / measured - 1.0),
        Row::Not { .. } => None,
    };
    rows.iter().filter_map(error).collect()
}

// Writing to a string cannot fail.

fn summary(text: &mut String, name: &str, errors: &[f64], missing: usize) {
    let mut sizes: Vec<f64> = errors.iter().map(|e| e.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let quantile = |q: f64| match sizes.len() {
        0 => "".to_owned(),
        n => format!("{:.1} %", 100.0 * sizes[((q * n as f64).ceil() as usize).clamp(1, n) - 1]),
    };
    let [median, most, largest] = [0.5, 0.9, 1.0].map(quantile);
    let _ =
        writeln!(text, "| {name} | {} | {missing} | {median} | {most} | {largest} |", errors.len());
}

fn table(text: &mut String, section: &Section) {
    let _ = writeln!(text, "\n## {}\n\n{}", section.file, section.about);
    let covered = section.rows.iter().any(|row| matches!(row, Row::Covered { .. }));
    if covered {
        let _ = writeln!(text, "\n| row | measured | predicted | error | bound by |");
        let _ = writeln!(text, "|---|---|---|---|---|");
    }
    let mut reasons: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for row in &section.rows {
        match row {
            Row::Covered { name, measured, predicted, bound } => {
                let error = 100.0 * (predicted / measured - 1.0);
                let [measured, predicted] =
                    [measured, predicted].map(|s| format!("{:.1} us", s * 1e6));
                let _ = writeln!(
                    text,
                    "| {name} | {measured} | {predicted} | {error:+.1} % | {bound} |"
                );
            }
            Row::Not { name, why } => {
                *reasons.entry(why).or_default().entry(name).or_default() += 1
            }
        }
    }
    if !reasons.is_empty() {
        let _ = writeln!(text, "\nNot covered:\n");
    }
    for (why, names) in reasons {
        let names: Vec<String> = names
            .iter()
            .map(|(name, n)| if *n > 1 { format!("{name} ({n} rows)") } else { (*name).to_owned() })
            .collect();
        let _ = writeln!(text, "- {why}: {}", names.join("; "));
    }
}
