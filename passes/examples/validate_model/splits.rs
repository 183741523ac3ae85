//! Tables of whole layers: segments of the training trace, steps, and splits of SMs.

use crate::Row;
use crate::cells::{decode, prefill, training};
use crate::data::{Record, read};
use crate::report::Section;
use moec_ir::{Target, Transfer};
use moec_passes::cost::{Load, Machine};
use moec_passes::partition::{Cell, Solution, solve};

/// SMs that compute in the training trace.
const TRAINING_SMS: u32 = 112;

pub(crate) fn sections() -> Result<Vec<Section>, csv::Error> {
    Ok(vec![
        Section {
            file: "profile_train_segments",
            about: "Parts of a layer in DeepSeek-V3's training on an H800: seconds in which the 112 SMs that compute are busy. Told to the model: the products, the attention and the streams of the forward pass, as this compiler divides it into kernels.",
            rows: read("profile_train_segments")?.iter().map(segment).collect(),
        },
        Section {
            file: "sglang_96xh100",
            about: "Throughput of whole systems, as seconds of a step. Told to the model: DeepSeek's published cells (`profile_data_notes`), with the published split of SMs, DeepEP's first release in prefill, 58 layers with routed experts. It is not told of the 3 layers without, of embedding and head.",
            rows: read("sglang_96xh100")?.iter().map(step).collect(),
        },
    ])
}

fn h800() -> Target {
    Target::named("h800").expect("a built-in target")
}

fn solved(cell: &Cell) -> Solution {
    solve(cell, &h800()).expect("a published cell")
}

fn segment(record: &Record) -> Row {
    let (segment, stream) = (record.text("segment"), record.text("stream"));
    let machine = Machine { target: h800(), sms: TRAINING_SMS, load: Load::Continuous };
    let cell = training(Transfer::First);
    let predicted = match segment {
        "attn(F)" => cell.before.seconds(&machine),
        "mlp(F)" => cell.beside.seconds(&machine) + cell.experts(&machine, 1, 1).1,
        _ if segment.starts_with("dispatch") || segment.starts_with("combine") => {
            let why = "an exchange, with its waits: see `profile_train_comm`";
            return Row::Not { name: segment.to_owned(), why };
        }
        _ => {
            let why = "a backward pass, which is not compiled";
            return Row::Not { name: format!("{segment}, stream {stream}"), why };
        }
    };
    let name = format!("{segment}, layer {}", record.text("layer"));
    let measured = record.number("busy_us") * 1e-6;
    Row::Covered { name, measured, predicted, bound: "tensor" }
}

fn step(record: &Record) -> Row {
    let (phase, setting) = (record.text("phase"), record.text("setting"));
    let name = format!("{phase}, {setting}");
    if !setting.starts_with("DeepSeek profile") {
        let why = "another system, or another load, than DeepSeek's profile";
        return Row::Not { name, why };
    }
    let (cell, sms) = match phase {
        "prefill" => (prefill(Transfer::First), 24),
        _ => (decode(), 0),
    };
    // Tokens of a second and node, which has 8 ranks.
    let measured = 8.0 * cell.tokens / record.number("tok_per_s_per_node");
    let solution = solved(&cell);
    let published = solution.with_sms(sms).expect("a split that is considered");
    Row::Covered { name, measured, predicted: published.seconds, bound: published.bound }
}

/// A published split beside the predicted one.
pub(crate) struct Split {
    pub(crate) name: String,
    /// SMs that communicate, as published.
    pub(crate) published: u32,
    /// What the model says; `None` where it has no such cell.
    pub(crate) solution: Option<Solution>,
}

/// The rows of `profile_data_notes`, and the second release.
pub(crate) fn splits() -> Result<Vec<Split>, csv::Error> {
    let row = |record: &Record| {
        let [phase, ranks] = ["phase", "ep"].map(|column| record.text(column));
        let cell = match phase {
            "prefill" => Some(prefill(Transfer::First)),
            "decode" => Some(decode()),
            _ => None,
        };
        Split {
            name: format!("{phase} on {ranks} ranks"),
            published: record.number("comm_sms") as u32,
            solution: cell.map(|cell| solved(&cell)),
        }
    };
    Ok(read("profile_data_notes")?.iter().map(row).collect())
}

/// Prefill with DeepEP's second release, for which its page gives a range.
pub(crate) fn second() -> Solution {
    solved(&prefill(Transfer::Second))
}
