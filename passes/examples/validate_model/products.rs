//! Tables of matrix products.

use crate::Row;
use crate::data::{Record, read};
use crate::report::Section;
use moec_ir::Target;
use moec_passes::cost::{Attention, Estimate, Load, Machine, Product, Tiles};
use std::collections::BTreeMap;

/// Bytes of the elements of FP8, bf16 and float32.
const FP8: f64 = 1.0;
const BF16: f64 = 2.0;
const F32: f64 = 4.0;

/// Tiles of the training trace: its gate, whose grid shows them, has 32 x 2 for 4096 x 256.
const SQUARE: [f64; 2] = [128.0, 128.0];
/// DeepGEMM's tiles by revision: up to 128 x 128, then 160 columns (pull request 74), then 256
/// rows (81); pairs of CTAs share an operand.
const FIRST: Tiles = Tiles { rows: 128, columns: 128, cluster: 2 };
const WIDER: Tiles = Tiles { rows: 128, columns: 160, cluster: 2 };
const TALLER: Tiles = Tiles { rows: 256, columns: 160, cluster: 2 };

pub(crate) fn sections() -> Result<Vec<Section>, csv::Error> {
    Ok(vec![
        Section {
            file: "profile_train_gemms",
            about: "Forward kernels of DeepSeek-V3's training on an H800, 112 SMs beside 20 that communicate. Told to the model: 112 SMs, a continuous load, tiles of 128 x 128 (the grid of the gate's kernel, 32 x 2) whose CTAs share an operand in pairs (the grids of 2 x 56).",
            rows: read("profile_train_gemms")?.iter().map(of_trace).collect(),
        },
        Section {
            file: "deepgemm_readme_dense",
            about: "DeepGEMM's own figures, H800, FP8. Told to the model: the tiles that the revision had in which a figure stood first; one that a later revision repeats was not measured anew. Rows of m = 64 and 128 were taken before a fault in the benchmark was found and are too fast.",
            rows: rows("deepgemm_readme_dense", ["", "m"])?,
        },
        Section {
            file: "deepgemm_readme_grouped_contiguous",
            about: "The same, experts with their rows one behind the other.",
            rows: rows("deepgemm_readme_grouped_contiguous", ["groups", "m_per_group"])?,
        },
        Section {
            file: "deepgemm_readme_grouped_masked",
            about: "The same, experts with room for more rows than they have.",
            rows: rows("deepgemm_readme_grouped_masked", ["groups", "m_per_group"])?,
        },
        Section {
            file: "deepgemm_user_reports",
            about: "DeepGEMM's test as users ran it, H800 and H100, times rounded to 1 us. Told to the model: tiles of up to 256 x 128 or 128 x 192.",
            rows: read("deepgemm_user_reports")?.iter().map(of_user).collect(),
        },
        Section {
            file: "deepgemm_pr_ablations",
            about: "DeepGEMM before and after a change, H800. Told to the model: the tiles before and after; the third change, how results are written, is nothing that the model sees.",
            rows: read("deepgemm_pr_ablations")?.iter().flat_map(of_change).collect(),
        },
        Section {
            file: "deepgemm_wgrad_dense",
            about: "Gradients of weights: FP8 operands, float32 results that are added to. Told to the model: results are read and written, tiles of at most 128 x 160.",
            rows: read("deepgemm_wgrad_dense")?.iter().map(gradient).collect(),
        },
    ])
}

/// A table of DeepGEMM's page, by revision; it names the columns of groups, if it has any, and of
/// the rows of each.
fn rows(table: &str, [groups, rows]: [&str; 2]) -> Result<Vec<Row>, csv::Error> {
    let mut first: BTreeMap<String, Tiles> = BTreeMap::new();
    let row = |record: &Record| {
        let groups = if groups.is_empty() { 1.0 } else { record.number(groups) };
        let shape = [record.number(rows), record.number("n"), record.number("k")];
        let of = if groups > 1.0 { format!("{groups} of ") } else { String::new() };
        let name = named(&of, shape);
        let figure = format!("{name} at {}", record.text("tflops"));
        let commit = record.text("commit");
        let tiles = *first.entry(figure).or_insert(match commit {
            "a6d97a1c" => FIRST,
            "55ab91f7" => WIDER,
            _ => TALLER,
        });
        let measured = seconds(record, "tflops", groups, shape);
        let product = Product::dense(groups, shape, FP8, BF16);
        let estimate = product.estimate(&alone("h800"), tiles);
        covered(format!("{commit}: {name}"), measured, estimate)
    };
    Ok(read(table)?.iter().map(row).collect())
}

fn shape(record: &Record) -> [f64; 3] {
    ["m", "n", "k"].map(|column| record.number(column))
}

fn named(prefix: &str, [m, n, k]: [f64; 3]) -> String {
    format!("{prefix}{m} x {n} x {k}")
}

/// The target by name, a kernel timed alone.
pub(crate) fn alone(target: &str) -> Machine {
    let target = Target::named(target).expect("a built-in target");
    Machine { load: Load::Alone, ..Machine::new(target) }
}

pub(crate) fn covered(name: String, measured: f64, estimate: Estimate) -> Row {
    Row::Covered { name, measured, predicted: estimate.total, bound: estimate.bound() }
}

fn of_trace(record: &Record) -> Row {
    let target = Target::named("h800").expect("a built-in target");
    let machine = Machine { sms: 112, ..Machine::new(target) };
    let [m, n, k] = shape(record);
    let op = record.text("op");
    let estimate = if op.starts_with("FA ") {
        // 128 heads of 128 + 64 elements (DeepSeek-V3 4.2), which the label names.
        let [heads, depth, value] = [128.0, 192.0, 128.0];
        let bytes = m * heads * (2.0 * depth + 2.0 * value) * BF16;
        let attention = Attention {
            sequences: 1.0,
            tokens: m,
            visible: (m + 1.0) / 2.0,
            causal: true,
            heads,
            key_heads: heads,
            depth,
            value,
            element: BF16,
            bytes,
        };
        attention.estimate(&machine)
    } else if record.text("dtype") == "bf16" {
        Product::dense(1.0, [m, n, k], BF16, F32).with_tile(&machine, SQUARE, 2.0)
    } else {
        // Four experts, each with its own weights.
        let experts = if op.starts_with("grouped") { 4.0 } else { 1.0 };
        Product::dense(experts, [m / experts, n, k], FP8, BF16).with_tile(&machine, SQUARE, 2.0)
    };
    covered(op.to_owned(), record.number("dur_us") * 1e-6, estimate)
}

/// Seconds of the FLOPs of so many products, at the rate of a column.
fn seconds(record: &Record, column: &str, products: f64, [m, n, k]: [f64; 3]) -> f64 {
    2.0 * products * m * n * k / (record.number(column) * 1e12)
}

fn of_user(record: &Record) -> Row {
    let gpu = record.text("gpu");
    let shape = shape(record);
    let name = named(&format!("{gpu}: "), shape);
    let target = match gpu {
        "H800" => "h800",
        "H100" => "h100",
        _ => return Row::Not { name, why: "a GPU that is no target (HBM of 4 TB/s)" },
    };
    let tiles = Tiles { columns: 192, ..TALLER };
    let estimate = Product::dense(1.0, shape, FP8, BF16).estimate(&alone(target), tiles);
    covered(name, record.number("us") * 1e-6, estimate)
}

fn of_change(record: &Record) -> Vec<Row> {
    let shape = shape(record);
    let groups = if record.text("kind") == "grouped4" { 4.0 } else { 1.0 };
    let product = Product::dense(groups, shape, FP8, BF16);
    let change = record.text("pr");
    let [before, after] = match change {
        "#74" => [FIRST, WIDER],
        "#81" => [WIDER, TALLER],
        _ => [TALLER, TALLER],
    };
    let row = |when: &str, tiles: Tiles| {
        let measured = seconds(record, &format!("tflops_{when}"), groups, shape);
        let of = if groups > 1.0 { "4 of " } else { "" };
        let name = named(&format!("{when} {change}: {of}"), shape);
        covered(name, measured, product.estimate(&alone("h800"), tiles))
    };
    vec![row("before", before), row("after", after)]
}

fn gradient(record: &Record) -> Row {
    let shape = shape(record);
    let [m, n, _] = shape;
    let product = Product::dense(1.0, shape, FP8, F32);
    let product = Product { bytes: product.bytes + m * n * F32, ..product };
    let measured = seconds(record, "tflops", 1.0, shape);
    covered(named("", shape), measured, product.estimate(&alone("h800"), WIDER))
}
