//! The report as a page.

use super::published::{self, Figure};
use super::{Case, Row, per_tile};

const HEAD: &str = "\
# Machine code beside the best

What ptxas makes of DeepSeek-V3's kernels for the H800, from the machine code alone: nothing was run. *insn* \
and *stall* are the instructions, and their static stall cycles, that one warp issues in the steady loop while \
its warpgroup multiplies 64 x 128 x 128; waits on memory are not in them. The tensor core needs 256 cycles for \
such a tile in FP8 and 512 in bf16. *tile* is what a CTA copies \
of the rows of both factors; \"for 2\" says that of one of them it copies half a tile, for itself and its \
neighbour in a cluster. Beside ours stands what is published for the same work (ptxas 12.9.86), \
where there is any.

To repeat it: `cargo xtask setup`, then `cargo xtask sass-report`; with `--check` it compares instead of \
writing. The files behind it: `moec build examples/deepseek-v3/deepseek-v3.moe --ranks 1 --batch B -o OUT`, then \
`cargo xtask ptxas OUT/PHASE/kernels.ptx` and `cargo xtask sass OUT/PHASE/kernels.ptx`; for the forms that no \
step has, `cargo run -p moec-codegen --example forms -- OUT`.
";

pub(super) fn page(sections: &[(&Case, Vec<Row>)], ptxas: &str) -> String {
    let mut text = format!("{HEAD}\nAssembled by {ptxas}.\n");
    for (case, rows) in sections {
        text.push_str(&format!("\n## {}\n\n", case.title));
        let (multiply, rest): (Vec<&Row>, Vec<&Row>) =
            rows.iter().partition(|row| !row.steady.is_empty());
        text.push_str(
            "| kernel | computes | N x K | tile | threads | regs | spills | shared | insn | stall | published |\n\
             |---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        multiply.iter().for_each(|row| text.push_str(&product(row, case)));
        if rest.is_empty() {
            continue;
        }
        text.push_str(
            "\nKernels without tensor-core instructions:\n\n\
             | kernel | computes | N x K | threads | regs | spills | shared | published |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        rest.iter().for_each(|row| text.push_str(&other(row, case)));
    }
    text
}

fn product(row: &Row, case: &Case) -> String {
    let figures: Vec<[f64; 2]> = row.steady.iter().map(per_tile).collect();
    let column = |at: usize| {
        let mut texts: Vec<String> = figures.iter().map(|f| format!("{:.1}", f[at])).collect();
        texts.dedup();
        texts.join(" / ")
    };
    let figure = published::for_work(&row.work, case.of);
    let tile: Vec<String> = row.work.boxes.iter().map(u64::to_string).collect();
    let cluster = match row.work.cluster {
        1 => String::new(),
        ctas => format!(", for {ctas}"),
    };
    format!(
        "{} | {}{cluster} | {} | {} | {} | {} |\n",
        start(row),
        tile.join(" x "),
        resources(row),
        column(0),
        column(1),
        figure.map(theirs).unwrap_or_default()
    )
}

fn other(row: &Row, case: &Case) -> String {
    let figure = published::for_work(&row.work, case.of);
    format!("{} | {} | {} |\n", start(row), resources(row), figure.map(theirs).unwrap_or_default())
}

fn start(row: &Row) -> String {
    let size = row.work.product.map(|[n, k]| format!("{n} x {k}")).unwrap_or_default();
    // A table's cells end at a bar.
    let computes = row.work.computes.split(" by ").next().unwrap_or_default().replace('|', "/");
    format!("| `{}` | {computes} | {size}", row.work.name)
}

fn resources(row: &Row) -> String {
    let entry = &row.entry;
    let shared = row.work.shared_bytes + u64::from(entry.smem_bytes);
    let spills = entry.spill_store_bytes + entry.spill_load_bytes + entry.stack_bytes;
    format!("{} | {} | {spills} | {shared}", row.work.threads, entry.registers)
}

fn theirs(figure: Figure) -> String {
    let Figure { whose, instructions, stall } = figure;
    let stall = if stall.is_nan() { String::new() } else { format!(" / {stall:.0}") };
    format!("{instructions:.0}{stall} ({whose})")
}
