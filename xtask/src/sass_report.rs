//! `cargo xtask sass-report`: every kernel of DeepSeek-V3 as ptxas assembles it, beside what the best
//! hand-written kernels reach for the same work.
//!
//! Nothing is run: registers, spills and shared memory come from ptxas and the plan, instructions and static
//! stall cycles from the machine code of the loop that multiplies (see [`crate::sass`]). In reading order:
//! `work` (what a kernel computes, from the plan), `published` (what others reach), `table` (the page).

mod published;
mod table;
mod work;

use std::fs;
use std::path::Path;
use std::process;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::ptxas;
use crate::sass::{self, Mix, TILE_MACS, tensor_loops};
use crate::tools;
use work::Work;

/// The model whose kernels are reported.
const MODEL: &str = "examples/deepseek-v3/deepseek-v3.moe";
/// The committed report.
const PAGE: &str = "docs/sass-report.md";

/// Kernels that are compiled together.
struct Case {
    title: &'static str,
    of: Kernels,
}

/// Where kernels come from.
#[derive(Clone, Copy)]
enum Kernels {
    /// A step of the model.
    Step { phase: &'static str, batch: &'static str },
    /// Forms that no step has.
    Forms,
}

/// The steps for which figures are published, of 4,096 rows and of 64, and what they do not have.
const CASES: [Case; 3] = [
    Case {
        title: "Prefill: one sequence of 4,096 tokens",
        of: Kernels::Step { phase: "prefill", batch: "1" },
    },
    Case {
        title: "Decoding: 64 sequences, 4,096 tokens each in the cache",
        of: Kernels::Step { phase: "decode", batch: "64" },
    },
    Case { title: "Forms that these steps do not have", of: Kernels::Forms },
];

/// A kernel and what its machine code is like.
struct Row {
    work: Work,
    /// Registers, spills, stack.
    entry: ptxas::EntryReport,
    /// The loop with the most multiply-adds, or the loops where warpgroups have one each.
    steady: Vec<Mix>,
}

/// Compiles, assembles and measures; writes the page, or with `check` compares it with the committed one.
///
/// # Errors
/// Fails where a tool is missing, where a step fails, and with `check` where the page is out of date.
pub fn run(root: &Path, check: bool) -> Result<String> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    cmd!(shell, "cargo build --quiet --release --package moec").run()?;
    let moec = tools::target_dir(root).join("release/moec");
    let folder = shell.create_temp_dir()?;
    let mut sections = vec![];
    for case in &CASES {
        let kernels = match case.of {
            Kernels::Step { phase, batch } => {
                let artefact = folder.path().join(phase);
                cmd!(
                    shell,
                    "{moec} build {MODEL} --ranks 1 --phase {phase} --batch {batch} -o {artefact}"
                )
                .quiet()
                .ignore_stderr()
                .run()?;
                artefact.join(phase)
            }
            Kernels::Forms => {
                let forms = folder.path().join("forms");
                cmd!(
                    shell,
                    "cargo run --quiet --release --package moec-codegen --example forms -- {forms}"
                )
                .quiet()
                .run()?;
                forms
            }
        };
        sections.push((case, rows(root, &kernels)?));
    }
    let text = table::page(&sections, &ptxas::version(root)?);
    let page = root.join(PAGE);
    if !check {
        fs::write(&page, &text).with_context(|| format!("cannot write `{}`", page.display()))?;
        return Ok(text);
    }
    let committed = fs::read_to_string(&page).unwrap_or_default();
    if committed != text {
        bail!("`{PAGE}` is out of date\nhelp: run `cargo xtask sass-report` and commit the page");
    }
    Ok(format!("{PAGE} is up to date\n"))
}

/// The kernels of a phase of an artefact, those that multiply first.
fn rows(root: &Path, phase: &Path) -> Result<Vec<Row>> {
    let plan = fs::read_to_string(phase.join("plan.json"))?;
    let ptx = phase.join("kernels.ptx");
    let cubin = std::env::temp_dir().join(format!("xtask-sass-report-{}.cubin", process::id()));
    let report = ptxas::assemble_to(root, &ptx, &cubin)?;
    let listing = sass::disassemble(root, &cubin);
    fs::remove_file(&cubin)?;
    let code = sass::parse(&listing?);
    if let Some(complaint) = report.complaints.first() {
        bail!("ptxas complains: {complaint}");
    }
    let mut rows = vec![];
    for work in work::of_plan(&plan)? {
        let entry = report.entries.get(&work.name).cloned().unwrap_or_default();
        let code = code.get(&work.name).map_or(&[][..], Vec::as_slice);
        let mixes = tensor_loops(code).into_iter();
        let mixes = mixes.map(|found| Mix::of(found.hot.iter().map(|at| &code[*at])));
        let mut steady: Vec<Mix> = mixes.collect();
        let most = steady.iter().map(|mix| mix.macs).max();
        steady.retain(|mix| Some(mix.macs) == most);
        rows.push(Row { work, entry, steady });
    }
    rows.sort_by_key(|row| row.steady.is_empty());
    Ok(rows)
}

/// Instructions and stall cycles per tile of 64 x 128 x 128.
fn per_tile(mix: &Mix) -> [f64; 2] {
    let tiles = mix.macs as f64 / TILE_MACS as f64;
    [mix.instructions as f64 / tiles, mix.stall_cycles as f64 / tiles]
}
