//! What fusion saves in DeepSeek-V3: the page `docs/fusion-report.md`.
//!
//! `cargo xtask fusion-report` runs it. The same model is planned with all rules and with rules
//! switched off by name; launches, bytes and predicted time are those of the plans.

use moec_ir::{Diagnostic, Graph, Phase, Target};
use moec_passes::cost::Estimate;
use moec_passes::{Family, Options, optimize, rules};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

/// The committed report.
const PAGE: &str = "docs/fusion-report.md";
/// The model's graph, as the tests of the whole compiler keep it.
const GRAPH: &str = "tests/tests/snapshots/examples__deepseek-v3.graph.snap";
/// Rules of fusion that choose the arithmetic of a product: without them operands in FP8 are
/// dequantised and multiplied in bf16, which is another model of cost and no lack of fusion.
const OF_PRODUCTS: [&str; 2] = ["scale-inside-the-gemm", "scale-inside-the-gemm-of-experts"];

const INTRODUCTION: &str = "# What fusion saves

DeepSeek-V3 (`examples/deepseek-v3/deepseek-v3.moe`) on an H800, planned with all rules and without the rules of [fusion](rewrites.md#fusion), switched off by name. Launches and bytes are those of the plans, times the cost model's prediction ([how good it is](model-report.md)); nothing was run. Bytes are those between HBM and the kernels, each launch's operands and results once. Launches follow one another in all plans: nothing overlaps.

- **all rules**: the plan that is compiled.
- **unfused**: without all rules of fusion but the two that multiply FP8 operands as they are (`scale-inside-the-gemm` and the same of experts), which choose arithmetic.
- **unfused, bf16 products**: without those too; operands in FP8 are dequantised first.

To repeat it: `cargo xtask fusion-report`; with `--check` it compares instead of writing. For one model on the command line: `moec explain MODEL --phase PHASE --without-family fusion`.
";

/// A way of planning: its name and the rules that it does without.
struct Variant {
    name: &'static str,
    without: Vec<String>,
}

fn variants() -> Vec<Variant> {
    let fusion = rules().into_iter().filter(|r| r.family == Family::Fusion).map(|r| r.name);
    let fusion: Vec<&str> = fusion.collect();
    let named = |kept: &[&str]| {
        fusion.iter().filter(|name| !kept.contains(name)).map(|n| (*n).to_owned()).collect()
    };
    vec![
        Variant { name: "all rules", without: vec![] },
        Variant { name: "unfused", without: named(&OF_PRODUCTS) },
        Variant { name: "unfused, bf16 products", without: named(&[]) },
    ]
}

/// One plan: each function's calls, launches and cost, and launches by family of kernels.
struct Planned {
    functions: BTreeMap<String, (usize, usize, Estimate)>,
    families: BTreeMap<String, usize>,
}

fn planned(graph: &Graph, phase: Phase, variant: &Variant) -> Result<Planned, Vec<Diagnostic>> {
    let target = Target::named("h800").unwrap_or_else(|| panic!("bug in moec: no h800"));
    let options = Options { without: variant.without.clone(), ..Options::default() };
    let made = optimize(graph, &target, phase, &options)?;
    let (mut functions, mut families) = (BTreeMap::new(), BTreeMap::new());
    for f in &made.explanation.functions {
        let cost: Estimate = f.launches.iter().map(|l| l.cost).sum();
        functions.insert(f.name.clone(), (f.calls, f.launches.len(), cost));
        if f.name == "sparse" {
            for launch in &f.launches {
                let family = launch.kernel.trim_end_matches(|c: char| c.is_ascii_digit());
                *families.entry(family.trim_end_matches('_').to_owned()).or_insert(0) += 1;
            }
        }
    }
    Ok(Planned { functions, families })
}

fn page(graph: &Graph) -> Result<String, Vec<Diagnostic>> {
    let mut text = INTRODUCTION.to_owned();
    for phase in [Phase::Prefill, Phase::Decode] {
        let sizes = moec_passes::default_workload(phase);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "\n## {phase}\n\n{} tokens of {} sequences, {} tokens in their caches.\n",
            sizes.tokens, sizes.sequences, sizes.past
        );
        text += "| layer | rules | launches | bytes moved | predicted time | time of all rules |\n";
        text += "|---|---|---|---|---|---|\n";
        let variants = variants();
        let all: Vec<Planned> =
            variants.iter().map(|v| planned(graph, phase, v)).collect::<Result<_, _>>()?;
        for layer in ["dense", "sparse", "step"] {
            for (variant, plan) in variants.iter().zip(&all) {
                let (launches, cost) = of(plan, layer);
                let share = of(&all[0], layer).1.total / cost.total;
                let _ = writeln!(
                    text,
                    "| {layer} | {} | {launches} | {:.1} MB | {:.1} us | {:.1} % |",
                    variant.name,
                    cost.bytes / 1e6,
                    cost.total * 1e6,
                    100.0 * share
                );
            }
        }
        text += "\nLaunches of a sparse layer, by family of kernels:\n\n| family |";
        variants.iter().for_each(|v| text += &format!(" {} |", v.name));
        text += "\n|---|---|---|---|\n";
        let mut families: Vec<&String> = all.iter().flat_map(|p| p.families.keys()).collect();
        families.sort();
        families.dedup();
        for family in families {
            let _ = write!(text, "| `{family}` |");
            for plan in &all {
                let _ = write!(text, " {} |", plan.families.get(family).unwrap_or(&0));
            }
            text.push('\n');
        }
    }
    Ok(text)
}

/// Launches and cost of one call of a function, or of a step: all calls of all functions.
fn of(plan: &Planned, layer: &str) -> (usize, Estimate) {
    if let Some((_, launches, cost)) = plan.functions.get(layer) {
        return (*launches, *cost);
    }
    let calls = plan.functions.values();
    let each = calls.flat_map(|(calls, launches, cost)| vec![(*launches, *cost); *calls]);
    let (launches, costs): (Vec<usize>, Vec<Estimate>) = each.unzip();
    (launches.iter().sum(), costs.into_iter().sum())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn graph() -> Result<Graph, String> {
    let text = fs::read_to_string(root().join(GRAPH)).map_err(|e| format!("`{GRAPH}`: {e}"))?;
    let (_, graph) = text.split_once("\n---\n").ok_or(format!("`{GRAPH}` has no header"))?;
    graph.trim_end().parse().map_err(|e| format!("`{GRAPH}`: {e}"))
}

fn report() -> Result<String, String> {
    page(&graph()?).map_err(|faults| format!("{faults:?}"))
}

fn main() -> ExitCode {
    let text = match report() {
        Ok(text) => text,
        Err(fault) => {
            eprintln!("fusion-report: {fault}");
            return ExitCode::FAILURE;
        }
    };
    let page = root().join(PAGE);
    if env::args().any(|argument| argument == "--check") {
        if fs::read_to_string(&page).unwrap_or_default() == text {
            return ExitCode::SUCCESS;
        }
        eprintln!("fusion-report: `{PAGE}` is out of date");
        eprintln!("help: run `cargo xtask fusion-report` and commit the page");
        return ExitCode::FAILURE;
    }
    if let Err(error) = fs::write(&page, text) {
        eprintln!("fusion-report: cannot write `{PAGE}`: {error}");
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
        let same = report().unwrap() == committed;
        assert!(same, "`{PAGE}` is out of date; run `cargo xtask fusion-report`");
    }

    #[test]
    fn fusion_saves_launches_bytes_and_time_in_every_layer() {
        let graph = graph().unwrap();
        for phase in Phase::ALL {
            let variants = variants();
            let plans = [0, 1, 2].map(|v| planned(&graph, phase, &variants[v]).unwrap());
            for layer in ["dense", "sparse", "step"] {
                let [fused, unfused, plain] = [0, 1, 2].map(|v| of(&plans[v], layer));
                assert!(fused.0 < unfused.0 && unfused.0 <= plain.0, "{phase}, {layer}");
                assert!(fused.1.bytes < unfused.1.bytes, "{phase}, {layer}");
                assert!(fused.1.total < unfused.1.total, "{phase}, {layer}");
                assert!(unfused.1.total < plain.1.total, "{phase}, {layer}");
            }
        }
    }
}
