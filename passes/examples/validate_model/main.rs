//! Predictions of the cost model beside published measurements: the page `docs/model-report.md`.
//!
//! `cargo xtask validate-model` runs it. Every row of a table in `data/published/` becomes a call
//! of the model, or is named with the reason why it cannot: nothing is left out, and nothing here
//! adjusts a prediction. In reading order: [`data`] (rows of a table), [`products`], [`attentions`],
//! [`exchanges`], [`splits`] (rows to calls of the model), [`report`] (the page).

mod attentions;
#[path = "../../tests/cells/mod.rs"]
mod cells;
mod data;
mod exchanges;
mod products;
mod report;
mod splits;

use report::{Section, page};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

/// The committed report.
const PAGE: &str = "docs/model-report.md";

/// What a row of a table becomes.
enum Row {
    /// Seconds measured and predicted, and what the model says is the bottleneck.
    Covered { name: String, measured: f64, predicted: f64, bound: &'static str },
    /// A row that the model says nothing about, and why.
    Not { name: String, why: &'static str },
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every table, as sections of the page.
fn sections() -> Result<Vec<Section>, csv::Error> {
    let mut sections = products::sections()?;
    sections.extend(attentions::sections()?);
    sections.extend(exchanges::sections()?);
    sections.extend(splits::sections()?);
    Ok(sections)
}

fn main() -> ExitCode {
    let text = match sections().and_then(|sections| page(&sections)) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("validate-model: a table of `data/published/` cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    let page = root().join(PAGE);
    if env::args().any(|argument| argument == "--check") {
        if fs::read_to_string(&page).unwrap_or_default() == text {
            return ExitCode::SUCCESS;
        }
        eprintln!("validate-model: `{PAGE}` is out of date");
        eprintln!("help: run `cargo xtask validate-model` and commit the page");
        return ExitCode::FAILURE;
    }
    if let Err(error) = fs::write(&page, text) {
        eprintln!("validate-model: cannot write `{PAGE}`: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_up_to_date() {
        let committed = fs::read_to_string(root().join(PAGE)).unwrap();
        assert!(
            page(&sections().unwrap()).unwrap() == committed,
            "`{PAGE}` is out of date; run `cargo xtask validate-model`"
        );
    }

    /// The aim for the kernels of DeepSeek's training trace.
    #[test]
    fn forward_kernels_of_the_trace_are_predicted_within_15_percent() {
        let sections = sections().unwrap();
        let trace = sections.iter().find(|s| s.file == "profile_train_gemms").unwrap();
        assert_eq!(trace.rows.len(), 11);
        for row in &trace.rows {
            let Row::Covered { name, measured, predicted, .. } = row else {
                panic!("a row is not covered")
            };
            let error = predicted / measured - 1.0;
            assert!(error.abs() < 0.15, "{name}: {:.1} %", 100.0 * error);
        }
    }

    /// The published splits, and the aim of hiding what communicates in prefill.
    #[test]
    fn splits_come_out_as_published() {
        let splits = splits::splits().unwrap();
        let best = |name: &str| {
            let split = splits.iter().find(|s| s.name.starts_with(name)).unwrap();
            (split.published, split.solution.as_ref().unwrap().best().clone())
        };
        let (published, prefill) = best("prefill");
        assert_eq!(published, 24);
        assert!((16..=28).contains(&prefill.comm_sms.unwrap()) && prefill.hidden() >= 0.95);
        let (published, decode) = best("decode");
        assert_eq!((published, decode.comm_sms), (0, Some(0)));
        assert!((4..=8).contains(&splits::second().best().comm_sms.unwrap()));
    }

    #[test]
    fn every_table_has_rows_and_every_time_is_a_number() {
        for section in sections().unwrap() {
            assert!(!section.rows.is_empty(), "{}", section.file);
            for row in section.rows {
                if let Row::Covered { name, measured, predicted, .. } = row {
                    assert!(measured > 0.0 && predicted > 0.0, "{name}");
                    assert!(measured.is_finite() && predicted.is_finite(), "{name}");
                }
            }
        }
    }
}
