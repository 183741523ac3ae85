//! Tables of attention.

use crate::Row;
use crate::data::{Record, read};
use crate::products::{alone, covered};
use crate::report::Section;
use moec_passes::cost::Attention;

/// Bytes of an element: f16 and bf16.
const HALF: f64 = 2.0;
/// Elements of absorbed MLA's key, of which the first 512 are the value (DeepSeek-V2 2.1.2).
const LATENT: [f64; 2] = [576.0, 512.0];

pub(crate) fn sections() -> Result<Vec<Section>, csv::Error> {
    let table = |file| -> Result<Vec<Record>, csv::Error> { read(file) };
    Ok(vec![
        Section {
            file: "flash_attention_h100",
            about: "FlashAttention on an H100, f16, 16,384 tokens in sequences of several lengths, 2,048 elements in heads of several sizes.",
            rows: table("flash_attention_h100")?.iter().map(flash).collect(),
        },
        Section {
            file: "flash_attention3_ablation",
            about: "FlashAttention-3 and the same with parts switched off, H100: 4 sequences of 8,448 tokens, 16 heads of 128, not causal.",
            rows: table("flash_attention3_ablation")?.iter().map(ablation).collect(),
        },
        Section {
            file: "flashmla_h100_measured",
            about: "FlashMLA's first kernel on an H100: decoding for 128 sequences of 4,096 tokens, in the mean where lengths vary.",
            rows: table("flashmla_h100_measured")?.iter().map(measured_latent).collect(),
        },
        Section {
            file: "mla_decode_tilelang_figs_digitised",
            about: "Decoding with 128 heads on an H100, f16, read from figures to 5 TFLOP/s.",
            rows: table("mla_decode_tilelang_figs_digitised")?.iter().map(figure).collect(),
        },
        Section {
            file: "mla_decode_tilelang_issue1859",
            about: "The same, 128 sequences of 1,151 tokens.",
            rows: table("mla_decode_tilelang_issue1859")?.iter().map(reported).collect(),
        },
        Section {
            file: "flashmla_headline",
            about: "Figures that FlashMLA states of its kernels, H800, without their shapes. Told to the model: 128 sequences of 8,192 tokens, 2 queries with 128 heads where products are the bound, one with 16 where memory is.",
            rows: table("flashmla_headline")?.iter().map(headline).collect(),
        },
    ])
}

/// Attention with a key head per query head.
fn multi_head([sequences, tokens, heads, size]: [f64; 4], causal: bool) -> (Attention, f64) {
    let visible = if causal { (tokens + 1.0) / 2.0 } else { tokens };
    let attention = Attention {
        sequences,
        tokens,
        visible,
        causal,
        heads,
        key_heads: heads,
        depth: size,
        value: size,
        element: HALF,
        bytes: 4.0 * sequences * tokens * heads * size * HALF,
    };
    // Causal counts half the FLOPs.
    let seen = if causal { tokens / 2.0 } else { tokens };
    (attention, 4.0 * sequences * tokens * heads * seen * size)
}

/// Decoding: each sequence's latent is read once.
fn latent([sequences, tokens, heads, keys]: [f64; 4]) -> (Attention, f64) {
    let [depth, value] = LATENT;
    let queries = sequences * tokens * heads;
    let attention = Attention {
        sequences,
        tokens,
        visible: keys - (tokens - 1.0) / 2.0,
        causal: true,
        heads,
        key_heads: 1.0,
        depth,
        value,
        element: HALF,
        bytes: (sequences * keys * depth + queries * (depth + value)) * HALF,
    };
    (attention, 2.0 * queries * keys * (depth + value))
}

fn flash(record: &Record) -> Row {
    let [size, length] = ["head_dim", "seqlen"].map(|column| record.number(column));
    let (implementation, direction) = (record.text("impl"), record.text("direction"));
    if direction != "fwd" {
        let name = format!("{implementation}, {direction}");
        return Row::Not { name, why: "a backward pass, which no kernel here computes" };
    }
    if implementation != "FA3" {
        let why = "another design than the modelled one (two warpgroups with `wgmma`, as FA3)";
        return Row::Not { name: implementation.to_owned(), why };
    }
    let causal = record.text("causal") == "1";
    let of = [16_384.0 / length, length, 2_048.0 / size, size];
    let (attention, flops) = multi_head(of, causal);
    let name = format!("head {size}, {length}{}", if causal { ", causal" } else { "" });
    let measured = flops / (record.number("tflops") * 1e12);
    covered(name, measured, attention.estimate(&alone("h100")))
}

fn ablation(record: &Record) -> Row {
    let name = record.text("config").to_owned();
    if !name.starts_with("full") {
        let why = "a design that the model does not distinguish, or a figure without its shape";
        return Row::Not { name, why };
    }
    let (attention, _) = multi_head([4.0, 8_448.0, 16.0, 128.0], false);
    covered(name, record.number("ms") * 1e-3, attention.estimate(&alone("h100")))
}

fn measured_latent(record: &Record) -> Row {
    let [tokens, heads] = ["s_q", "h_q"].map(|column| record.number(column));
    let lengths = if record.text("varlen") == "T" { ", lengths vary" } else { "" };
    let (attention, _) = latent([128.0, tokens, heads, 4_096.0]);
    let name = format!("{tokens} tokens, {heads} heads{lengths}");
    covered(name, record.number("ms") * 1e-3, attention.estimate(&alone("h100")))
}

fn figure(record: &Record) -> Row {
    let implementation = record.text("impl");
    if implementation != "FlashMLA" {
        return other(implementation);
    }
    let [batch, keys] = ["batch", "ctx"].map(|column| record.number(column));
    let (attention, flops) = latent([batch, 1.0, 128.0, keys]);
    let measured = flops / (record.number("tflops") * 1e12);
    covered(format!("{batch} sequences of {keys}"), measured, attention.estimate(&alone("h100")))
}

fn reported(record: &Record) -> Row {
    let implementation = record.text("impl");
    if implementation != "flash_mla" {
        return other(implementation);
    }
    let (attention, _) = latent([128.0, 1.0, 128.0, 1_151.0]);
    covered(
        implementation.to_owned(),
        record.number("ms") * 1e-3,
        attention.estimate(&alone("h100")),
    )
}

fn headline(record: &Record) -> Row {
    let name = format!("{}, {}", record.text("kernel"), record.text("config"));
    let rate = record.number("value");
    let measured = |(attention, flops): (Attention, f64)| {
        let seconds = match record.text("unit") {
            "GB/s" => attention.bytes / (rate * 1e9),
            _ => flops / (rate * 1e12),
        };
        covered(name.clone(), seconds, attention.estimate(&alone("h800")))
    };
    match [record.text("kernel"), record.text("config")] {
        ["dense decode v2 seesaw", "memory-bound"] => measured(latent([128.0, 1.0, 16.0, 8_192.0])),
        ["dense decode v2 seesaw", _] => measured(latent([128.0, 2.0, 128.0, 8_192.0])),
        ["dense decode v1", _] => Row::Not { name, why: "the kernel that v2 replaced" },
        ["dense decode", _] => Row::Not { name, why: "a property of the machine, not a kernel" },
        _ => Row::Not { name, why: "a kernel of another kind (sparse, FP8 cache)" },
    }
}

fn other(implementation: &str) -> Row {
    let why = "another design than the modelled one (one tile of values for two warpgroups)";
    Row::Not { name: implementation.to_owned(), why }
}
