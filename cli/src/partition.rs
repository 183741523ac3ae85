//! How the SMs are divided where a model's experts are spread over ranks, in text.

use comfy_table::{CellAlignment, Table, presets};
use moec_frontend::Model;
use moec_ir::{Phase, Ranks, Target, Transfer};
use moec_passes::partition::{Alternative, Partition, Spread, timeline};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Micro-batches where the file does not say how many: as in DeepSeek's prefill and decoding
/// (DeepSeek-V3 3.4).
const MICRO_BATCHES: u32 = 2;
/// Alternatives that are printed.
const ROWS: usize = 12;

/// What a model's file says of the exchange of a phase, and of the split of a target's SMs.
pub(crate) fn spread(model: &Model, phase: Phase, target: &Target, ranks: Ranks) -> Spread {
    let said = model.parallel_of(phase);
    let transfer = said.transfer.unwrap_or(match phase {
        Phase::Prefill => Transfer::Second,
        Phase::Decode => Transfer::LowLatency,
    });
    let parts = said.step.map_or(u64::from(MICRO_BATCHES), |step| step.count);
    let section = model.targets.iter().find(|t| t.target.name == target.name);
    Spread {
        ranks,
        micro_batches: u32::try_from(parts).unwrap_or(u32::MAX),
        transfer,
        skew: said.skew.unwrap_or(1.0),
        fixed: section.and_then(|t| t.comm_sms),
    }
}

/// The predicted schedule, as a trace.
pub(crate) fn trace(partition: &Partition, target: &Target) -> String {
    timeline(&partition.cell, partition.solution.best(), target).to_string()
}

/// What was decided, and the alternatives: the best with each number of SMs, fastest first.
pub(crate) fn table(partition: &Partition, target: &Target) -> String {
    let Partition { cell, solution } = partition;
    let best = solution.best();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{}: {} experts over {}, {} tokens of a rank, {} transfers: {} on {}",
        cell.phase,
        cell.experts,
        cell.ranks,
        cell.tokens,
        cell.transfer,
        decided(best, target.sms),
        target.name
    );
    let mut seen = BTreeSet::new();
    let firsts = solution.alternatives.iter().filter(|a| seen.insert(a.comm_sms));
    let (mut rows, rest): (Vec<_>, Vec<_>) = firsts.enumerate().partition(|(at, _)| *at < ROWS);
    // Never left out: what is taken, and what would be without overlap.
    let must = |a: &Alternative| a == best || a.comm_sms.is_none();
    rows.extend(rest.into_iter().filter(|(_, a)| must(a)));
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(HEADER);
    table.add_rows(rows.iter().map(|(_, a)| line(a, a == &best, cell.layers)));
    for (at, column) in table.column_iter_mut().enumerate() {
        let left = at == 0 || at + 1 == HEADER.len();
        column.set_cell_alignment(if left { CellAlignment::Left } else { CellAlignment::Right });
    }
    for row in table.lines() {
        text.push_str(row.trim_end());
        text.push('\n');
    }
    let shown = rows.len();
    let all = solution.alternatives.len();
    let _ = writeln!(text, "{all} alternatives, {shown} shown; times are of a layer");
    text
}

const HEADER: [&str; 10] = [
    "",
    "communicate",
    "compute",
    "micro-batches",
    "chunks",
    "gate, up",
    "down",
    "time",
    "hidden",
    "bound by",
];

fn line(a: &Alternative, taken: bool, layers: u32) -> [String; 10] {
    let comm = a.comm_sms.map_or_else(|| "in turn".into(), |sms| sms.to_string());
    let tile = |[rows, columns]: [f64; 2]| format!("{rows} x {columns}");
    [
        if taken { "*" } else { "" }.into(),
        comm,
        a.compute_sms.to_string(),
        a.micro_batches.to_string(),
        a.chunks.to_string(),
        tile(a.tiles[0]),
        tile(a.tiles[1]),
        time(a.seconds / f64::from(layers)),
        format!("{:.1} %", 100.0 * a.hidden()),
        format!("{} {:.0} %", a.bound, 100.0 * a.bound_share),
    ]
}

fn decided(best: &Alternative, sms: u32) -> String {
    match best.comm_sms {
        None => format!("not partitioned, all {sms} SMs communicate and compute in turn"),
        Some(comm) => {
            let hidden = 100.0 * best.hidden();
            format!("{comm} of {sms} SMs communicate, {hidden:.1} % of it hidden")
        }
    }
}

fn time(seconds: f64) -> String {
    if seconds >= 1e-3 {
        format!("{:.3} ms", seconds * 1e3)
    } else {
        format!("{:.1} us", seconds * 1e6)
    }
}
