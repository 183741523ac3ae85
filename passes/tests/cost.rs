//! What the cost model says where the answer is known.

#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic is the failure")]

use moec_ir::Target;
use moec_passes::cost::{Exchange, Load, Machine, Product, Tiles, Transfer};

fn h800() -> Machine {
    Machine::new(Target::named("h800").unwrap())
}

/// Seconds of tiles of 128 x 128, so many of them.
fn tiles(machine: &Machine, count: f64) -> f64 {
    let product = Product::dense(1.0, [128.0 * count, 128.0, 7168.0], 1.0, 2.0);
    product.with_tile(machine, [128.0, 128.0], 1.0).tensor
}

#[test]
fn one_tile_more_than_there_are_sms_costs_a_whole_wave() {
    let machine = h800();
    assert_eq!(tiles(&machine, 1.0), tiles(&machine, 132.0));
    assert_eq!(tiles(&machine, 133.0), 2.0 * tiles(&machine, 132.0));
    let fewer = Machine { sms: 112, ..machine };
    assert_eq!(tiles(&fewer, 113.0), 2.0 * tiles(&fewer, 112.0));
}

#[test]
fn nothing_is_faster_than_the_peaks() {
    for name in Target::NAMES {
        let target = Target::named(name).unwrap();
        for load in [Load::Alone, Load::Continuous] {
            let machine = Machine { load, ..Machine::new(target.clone()) };
            for element in [1.0, 2.0] {
                for rows in [1.0, 64.0, 1000.0, 16384.0] {
                    let product = Product::dense(1.0, [rows, 7168.0, 2048.0], element, 2.0);
                    let total = product.estimate(&machine, Tiles::OURS).total;
                    let flops = 2.0 * rows * 7168.0 * 2048.0;
                    assert!(total > flops * element / 2.0 / target.bf16_flops, "{name}");
                    assert!(total > product.bytes / target.hbm_bytes_per_s, "{name}");
                }
            }
        }
    }
}

#[test]
fn products_of_few_rows_are_bound_by_memory_and_of_many_by_tensor_cores() {
    let bound = |rows: f64| {
        let product = Product::dense(1.0, [rows, 7168.0, 16384.0], 1.0, 2.0);
        product.estimate(&h800(), Tiles { cluster: 2, ..Tiles::OURS }).bound()
    };
    assert_eq!([bound(64.0), bound(4096.0)], ["HBM", "tensor"]);
}

#[test]
fn units_are_never_busy_longer_than_the_whole() {
    for rows in [1.0, 100.0, 10_000.0] {
        let product = Product::dense(3.0, [rows, 4096.0, 7168.0], 2.0, 4.0);
        let estimate = product.estimate(&h800(), Tiles::OURS);
        for (unit, seconds) in estimate.units() {
            assert!(seconds < estimate.total, "{unit}");
        }
    }
}

/// DeepSeek gives 20 SMs to communication in training and 24 in prefill; DeepEP's second release
/// says that 4 to 6 are enough, and its low-latency kernels hold none.
#[test]
fn communication_needs_the_sms_that_deepseek_gives_it() {
    let target = Target::named("h800").unwrap();
    let exchange = |ranks| Exchange {
        ranks,
        ranks_per_node: 8,
        tokens: 4096.0,
        top_k: 8,
        most_nodes: 4,
        token_bytes: 7392.0,
    };
    let enough = |ranks, transfer| exchange(ranks).enough_sms(&target, transfer);
    assert!((16..=28).contains(&enough(32, Transfer::First)));
    assert!((16..=28).contains(&enough(64, Transfer::First)));
    assert!((4..=8).contains(&enough(32, Transfer::Second)));
    assert_eq!(enough(128, Transfer::LowLatency), 0);
}

#[test]
fn more_sms_do_not_help_where_links_are_the_bound() {
    let target = Target::named("h800").unwrap();
    let exchange = Exchange {
        ranks: 64,
        ranks_per_node: 8,
        tokens: 4096.0,
        top_k: 8,
        most_nodes: 4,
        token_bytes: 7392.0,
    };
    let seconds = |sms| exchange.estimate(&target, Transfer::First, sms).total;
    assert!(seconds(10) > 1.9 * seconds(20));
    assert_eq!(seconds(40), seconds(80));
    assert_eq!(seconds(0), f64::INFINITY);
}
