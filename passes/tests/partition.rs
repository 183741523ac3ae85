//! What the partition of SMs comes to where the answer is published or known.

#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic is the failure")]

mod cells;

use cells::{decode, prefill};
use moec_ir::{Ranks, RanksError, Target};
use moec_passes::cost::Transfer;
use moec_passes::partition::{Cell, CellError, Lane, Solution, Stage, solve};
use proptest::prelude::*;

fn h800() -> Target {
    Target::named("h800").unwrap()
}

fn solved(cell: &Cell) -> Solution {
    solve(cell, &h800()).unwrap()
}

/// DeepSeek's prefill profile gives 24 of 132 SMs to communication (`profile_data_notes.csv`).
#[test]
fn prefill_with_the_first_release_takes_about_24_sms_and_hides_what_they_do() {
    let solution = solved(&prefill(Transfer::First));
    let best = solution.best();
    assert!((16..=28).contains(&best.comm_sms.unwrap()), "{best:?}");
    assert!(best.hidden() >= 0.95, "{best:?}");
    assert_eq!(best.micro_batches, 2);
    // The published number is nearly as good.
    let published = solution.with_sms(24).unwrap().seconds;
    assert!(published < 1.08 * best.seconds, "{published} beside {}", best.seconds);
    // Without overlap the step takes as long as both together.
    assert!(solution.in_turn().unwrap().seconds > 1.5 * best.seconds);
}

/// DeepEP's second release: "4 to 6 SMs" for such a model (README at dd758caf).
#[test]
fn prefill_with_the_second_release_takes_4_to_8_sms() {
    let best = solved(&prefill(Transfer::Second)).best().clone();
    assert!((4..=8).contains(&best.comm_sms.unwrap()), "{best:?}");
}

/// In DeepSeek's decoding profile no SM communicates (`profile_data_notes.csv`).
#[test]
fn decoding_with_messages_that_hold_no_sm_takes_none() {
    let solution = solved(&decode());
    let best = solution.best();
    assert_eq!((best.comm_sms, best.compute_sms, best.micro_batches), (Some(0), 132, 2));
    assert!(best.hidden() > 0.5, "{best:?}");
}

#[test]
fn one_rank_communicates_nothing_and_is_not_partitioned() {
    for transfer in [Transfer::First, Transfer::Second, Transfer::LowLatency] {
        let cell = Cell { ranks: Ranks::ONE, ..prefill(transfer) };
        let solution = solved(&cell);
        assert_eq!(solution.alternatives.len(), 1);
        let best = solution.best();
        assert_eq!((best.comm_sms, best.moving, best.hidden()), (None, 0.0, 1.0));
        assert!((best.computing - best.seconds).abs() < 1e-9 * best.seconds);
        assert_eq!(best.bound, "compute SMs");
    }
}

#[test]
fn a_single_node_is_never_bound_by_the_network() {
    let cell = Cell { ranks: Ranks::new(8, 8).unwrap(), ..prefill(Transfer::First) };
    let one = solved(&cell);
    assert!(one.alternatives.iter().all(|a| a.bound != "network"));
    // NVLink is four times as fast as the network, and needs fewer SMs to keep busy.
    let four = solved(&prefill(Transfer::First));
    assert!(one.best().comm_sms < four.best().comm_sms);
}

#[test]
fn a_fixed_split_is_kept_and_costs_what_the_table_says() {
    let free = solved(&prefill(Transfer::First));
    let fixed = solved(&Cell { fixed: Some(12), ..prefill(Transfer::First) });
    assert_eq!(fixed.best().comm_sms, Some(12));
    assert_eq!(Some(fixed.best()), free.with_sms(12));
    assert_eq!(fixed.alternatives, free.alternatives);
    // Beyond what is tried by itself.
    let many = solved(&Cell { fixed: Some(100), ..prefill(Transfer::First) });
    assert_eq!(many.best().comm_sms, Some(100));
}

#[test]
fn splits_that_transfers_do_not_take_are_refused() {
    let fault = |cell: Cell| solve(&cell, &h800()).unwrap_err().to_string();
    let first = |sms| Cell { fixed: Some(sms), ..prefill(Transfer::First) };
    assert_eq!(
        fault(first(7)),
        "7 of 132 SMs cannot communicate: a channel of the first release has two"
    );
    assert!(fault(first(0)).contains("a channel of the first release"));
    assert!(fault(first(132)).contains("none is left to compute"));
    let second = Cell { fixed: Some(2), ..prefill(Transfer::Second) };
    assert!(fault(second).contains("at least 4"));
}

#[test]
fn cells_that_make_no_sense_are_refused() {
    let cell = || prefill(Transfer::First);
    let fault = |cell: Cell| solve(&cell, &h800()).unwrap_err();
    assert_eq!(
        fault(Cell { experts: 100, ..cell() }),
        CellError::Ranks(RanksError::Experts { experts: 100, count: 32 })
    );
    assert_eq!(fault(Cell { skew: 0.5, ..cell() }), CellError::Skew(0.5));
    assert_eq!(fault(Cell { micro_batches: 9, ..cell() }), CellError::MicroBatches(9));
    assert_eq!(fault(Cell { top_k: 300, ..cell() }), CellError::TopK { top_k: 300, experts: 256 });
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(fault(Cell { tokens: bad, ..cell() }), CellError::Size { .. }));
    }
}

#[test]
fn the_same_cell_gives_the_same_table_in_order() {
    let [first, second] = [solved(&decode()), solved(&decode())];
    assert_eq!(first, second);
    let seconds: Vec<f64> = first.alternatives.iter().map(|a| a.seconds).collect();
    assert!(seconds.is_sorted());
}

#[test]
fn a_lane_does_one_thing_at_a_time_and_nothing_before_its_cause() {
    let cell = Cell { layers: 3, ..prefill(Transfer::First) };
    for alternative in &solved(&cell).alternatives {
        let schedule = alternative.schedule(&cell);
        for lane in [Lane::Compute, Lane::Communicate] {
            let slots: Vec<_> = schedule.slots.iter().filter(|s| s.lane == lane).collect();
            for pair in slots.windows(2) {
                assert!(pair[0].end() <= pair[1].start);
            }
        }
        let of = |stage: Stage, layer, b, chunk| {
            schedule.slots.iter().find(move |s| {
                (s.stage, s.layer, s.micro_batch, s.chunk) == (stage, layer, b, chunk)
            })
        };
        for slot in schedule.slots.iter().filter(|s| s.stage == Stage::Experts) {
            let (layer, b, chunk) = (slot.layer, slot.micro_batch, slot.chunk);
            assert!(of(Stage::Dispatch, layer, b, chunk).unwrap().seen() <= slot.start);
            assert!(of(Stage::Attention, layer, b, 0).unwrap().end() <= slot.start);
            let combine = of(Stage::Combine, layer, b, chunk).unwrap();
            assert!(slot.end() <= combine.start);
            if let Some(next) = of(Stage::Attention, layer + 1, b, 0) {
                assert!(combine.seen() <= next.start);
            }
        }
        // Nothing is faster than either lane alone.
        let total = schedule.seconds();
        assert!(schedule.busy(Lane::Compute) <= total && schedule.busy(Lane::Communicate) <= total);
        assert!((0.0..=1.0).contains(&alternative.hidden()), "{alternative:?}");
    }
}

fn transfer() -> impl Strategy<Value = Transfer> {
    prop_oneof![Just(Transfer::First), Just(Transfer::Second), Just(Transfer::LowLatency)]
}

fn small(transfer: Transfer, tokens: f64, skew: f64) -> Cell {
    let full = prefill(transfer);
    let n = (full.tokens / tokens) as u32;
    let (before, beside) = (full.before.part(n), full.beside.part(n));
    Cell { tokens, skew, layers: 4, before, beside, ..full }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_heavier_load_is_never_faster(
        transfer in transfer(), tokens in 6_u32..13, skew in 1.0..4.0_f64,
    ) {
        let tokens = f64::from(1 << tokens);
        let even = solved(&small(transfer, tokens, 1.0));
        let skewed = solved(&small(transfer, tokens, skew));
        prop_assert!(skewed.best().seconds >= even.best().seconds);
        let more = solved(&small(transfer, 2.0 * tokens, 1.0));
        prop_assert!(more.best().seconds >= even.best().seconds);
    }

    #[test]
    fn more_sms_of_either_kind_are_never_slower(transfer in transfer(), tokens in 6_u32..13) {
        let cell = small(transfer, f64::from(1 << tokens), 1.0);
        let on = |sms: u32| {
            // Peaks belong to SMs.
            let (share, target) = (f64::from(sms) / 132.0, h800());
            let (bf16_flops, f32_flops) = (target.bf16_flops * share, target.f32_flops * share);
            let target = Target { sms, bf16_flops, f32_flops, ..target };
            let solution = solve(&Cell { fixed: Some(8), ..cell.clone() }, &target).unwrap();
            (solution.best().seconds, cell.traffic(&target, 1, sms).map(|t| t.total))
        };
        let mut last = on(64);
        for sms in [78, 100, 114, 132] {
            let next = on(sms);
            prop_assert!(next.0 <= last.0, "{sms}: {next:?} after {last:?}");
            prop_assert!(next.1.iter().zip(&last.1).all(|(a, b)| a <= b));
            last = next;
        }
    }

    #[test]
    fn faster_links_are_never_slower(transfer in transfer(), tokens in 6_u32..13) {
        let cell = small(transfer, f64::from(1 << tokens), 1.0);
        let with = |factor: f64| {
            let target = h800();
            let target = Target {
                rdma_bytes_per_s: target.rdma_bytes_per_s * factor,
                nvlink_bytes_per_s: target.nvlink_bytes_per_s * factor,
                ..target
            };
            solve(&cell, &target).unwrap().best().seconds
        };
        prop_assert!(with(2.0) <= with(1.0));
        prop_assert!(with(1.0) <= with(0.5));
    }
}
