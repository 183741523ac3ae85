//! Tables of dispatch and combine.

use crate::Row;
use crate::data::{Record, read};
use crate::report::Section;
use moec_ir::Target;
use moec_passes::cost::{Exchange, Traffic, Transfer};

/// Elements of a token (DeepSeek-V3 4.2); FP8 has a float32 scale for each 128.
const HIDDEN: f64 = 7_168.0;
const FP8_TOKEN: f64 = HIDDEN + HIDDEN / 128.0 * 4.0;
const BF16_TOKEN: f64 = 2.0 * HIDDEN;
/// SMs that DeepEP's first release took by default, and from April 2025 on.
const DEFAULT_SMS: u32 = 20;
const LATER_SMS: u32 = 24;

pub(crate) fn sections() -> Result<Vec<Section>, csv::Error> {
    Ok(vec![
        Section {
            file: "deepep_normal",
            about: "DeepEP's first release on H800s: 4,096 tokens of a rank, 8 experts on at most 4 nodes, FP8 out and bf16 back. Told to the model: 20 SMs, 24 for the later revisions.",
            rows: read("deepep_normal")?.iter().flat_map(normal).collect(),
        },
        Section {
            file: "deepep_v2",
            about: "DeepEP's second release, 8,192 tokens of a rank. Told to the model: an H100, since 90 GB/s between two nodes needs more NVLink than an H800 has.",
            rows: read("deepep_v2")?.iter().flat_map(second).collect(),
        },
        Section {
            file: "deepep_low_latency",
            about: "DeepEP's low-latency kernels, which hold no SM while they wait: 128 tokens of a rank.",
            rows: read("deepep_low_latency")?.iter().flat_map(low_latency).collect(),
        },
        Section {
            file: "deepep_misc",
            about: "Other measurements of the first release.",
            rows: read("deepep_misc")?.iter().flat_map(misc).collect(),
        },
        Section {
            file: "profile_train_comm",
            about: "Communication inside DeepSeek-V3's training: 64 ranks, 4,096 tokens, 20 SMs. Measured times hold the wait for other ranks.",
            rows: read("profile_train_comm")?.iter().map(of_trace).collect(),
        },
    ])
}

/// The SMs from which on links bound an exchange, of 32 and 64 ranks, and of 128 in decoding.
pub(crate) fn enough_sms() -> Vec<(&'static str, [u32; 2])> {
    let on = target("h800");
    let both = |ranks, transfer| {
        [FP8_TOKEN, BF16_TOKEN]
            .map(|token| exchange(ranks, 4_096.0, token).enough_sms(&on, transfer))
    };
    vec![
        ("prefill on 32 ranks, first release", both(32, Transfer::First)),
        ("prefill on 32 ranks, second release", both(32, Transfer::Second)),
        ("training on 64 ranks, first release", both(64, Transfer::First)),
        ("training on 64 ranks, second release", both(64, Transfer::Second)),
        ("decoding on 128 ranks, low latency", both(128, Transfer::LowLatency)),
    ]
}

fn target(name: &str) -> Target {
    Target::named(name).expect("a built-in target")
}

fn exchange(ranks: u32, tokens: f64, token_bytes: f64) -> Exchange {
    Exchange { ranks, ranks_per_node: 8, tokens, top_k: 8, most_nodes: 4, token_bytes }
}

fn covered(name: String, measured: f64, traffic: Traffic) -> Row {
    let Traffic { rdma, nvlink, sms, total } = traffic;
    let units = [("network", rdma), ("NVLink", nvlink), ("SMs", sms)];
    let busiest = units.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let bound = busiest.map_or("", |(name, _)| name);
    Row::Covered { name, measured, predicted: total, bound }
}

/// Dispatch and combine at published rates, which count a token once for each node that it goes
/// to, and within one node once for each rank.
fn at_rates(
    record: &Record,
    name: &str,
    on: &Target,
    of: [f64; 2],
    how: (Transfer, u32),
) -> Vec<Row> {
    let [ranks, tokens] = of;
    let both = [("dispatch", FP8_TOKEN), ("combine", BF16_TOKEN)];
    let row = |(op, token): (&str, f64)| {
        let rate = record.number(&format!("{op}_gbps")) * 1e9;
        let exchange = exchange(ranks as u32, tokens, token);
        let copies = match (ranks / 8.0).min(4.0) {
            // 8 experts on 8 ranks.
            nodes if nodes <= 1.0 => 8.0 * (1.0 - (7.0_f64 / 8.0).powi(8)),
            nodes => nodes,
        };
        let name = format!("{name}, {op}");
        if rate.is_nan() {
            return Row::Not { name, why: "no figure is given" };
        }
        let measured = copies * tokens * token / rate;
        covered(name, measured, exchange.estimate(on, how.0, how.1))
    };
    both.into_iter().map(row).collect()
}

fn normal(record: &Record) -> Vec<Row> {
    let commit = record.text("commit");
    let sms = if commit == "ebfe47e4" { DEFAULT_SMS } else { LATER_SMS };
    let ranks = record.number("ep");
    let name = format!("{commit}: {ranks} ranks");
    at_rates(record, &name, &target("h800"), [ranks, 4_096.0], (Transfer::First, sms))
}

fn second(record: &Record) -> Vec<Row> {
    let topology = record.text("topology");
    let sms = record.number("num_sms");
    let name = format!("{} {topology}, {sms} SMs", record.text("arch"));
    if record.text("arch") != "SM90" {
        return vec![Row::Not { name, why: "a GPU that is no target (Blackwell)" }];
    }
    let nodes = topology.rsplit('x').next().and_then(|n| n.parse().ok()).unwrap_or(1.0);
    let of = [8.0 * nodes, 8_192.0];
    at_rates(record, &name, &target("h100"), of, (Transfer::Second, sms as u32))
}

fn low_latency(record: &Record) -> Vec<Row> {
    let ranks = record.number("ep");
    let both = [("dispatch", FP8_TOKEN), ("combine", BF16_TOKEN)];
    let row = |(op, token): (&str, f64)| {
        let exchange = exchange(ranks as u32, 128.0, token);
        let measured = record.number(&format!("{op}_us")) * 1e-6;
        let traffic = exchange.estimate(&target("h800"), Transfer::LowLatency, 0);
        covered(format!("{ranks} ranks, {op}"), measured, traffic)
    };
    both.into_iter().map(row).collect()
}

fn misc(record: &Record) -> Vec<Row> {
    let what = [record.text("what"), record.text("setting")].join(", ");
    let ranks = record.text("setting").split(' ').next().and_then(|ep| ep.strip_prefix("EP"));
    let ranks = ranks.and_then(|n| n.parse().ok());
    let (on, ranks) = match (ranks, &*what) {
        (Some(ranks), _) => ("h800", ranks),
        (None, what) if what.starts_with("H200 2 nodes") => ("h200", 16.0),
        _ => {
            return vec![Row::Not {
                name: what,
                why: "bytes of a token and of what is counted are not stated",
            }];
        }
    };
    if what.contains("BF16 dispatch") {
        return vec![Row::Not { name: what, why: "bf16 both ways, which nothing here sends" }];
    }
    at_rates(record, &what, &target(on), [ranks, 4_096.0], (Transfer::First, LATER_SMS))
}

fn of_trace(record: &Record) -> Row {
    let kernel = record.text("kernel");
    let token = match kernel {
        _ if kernel.contains("::dispatch<") => FP8_TOKEN,
        _ if kernel.contains("::combine<") => BF16_TOKEN,
        _ => {
            let name = kernel.split('<').next().unwrap_or(kernel).to_owned();
            let why = "exchanges counts and waits, or shares SMs with products";
            return Row::Not { name, why };
        }
    };
    let name = format!("{}, layer {}", record.text("segment"), record.text("layer"));
    let measured = record.number("dur_us") * 1e-6;
    let exchange = exchange(64, 4_096.0, token);
    covered(name, measured, exchange.estimate(&target("h800"), Transfer::First, DEFAULT_SMS))
}
