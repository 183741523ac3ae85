//! Routed experts that are spread over ranks give what one GPU gives, bit for bit, in whatever
//! order things happen.

use super::exchange_group::{Code, Load, Problem, Tokens, Weights, exchange};
use super::machine::Random;
use crate::cases::Spread;
use half::bf16;
use moec_emulator::Schedule;

/// Seeds of a problem; `EMULATOR_SEEDS` gives their number.
fn seeds(few: u64) -> u64 {
    std::env::var("EMULATOR_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(few)
}

/// Layers that are run in a row, on the same regions.
const LAYERS: usize = 3;

const BASE: Spread = Spread {
    ranks: [1, 1],
    experts: 4,
    top_k: 2,
    sizes: [128, 64],
    fp8: false,
    promote_every: 128,
    split: [1, 2],
};

fn problem(name: &'static str, spread: Spread, tokens: &[u64]) -> Problem {
    let tokens = tokens.to_vec();
    Problem { name, spread, designed: 24, tokens, load: Load::Even }
}

/// Runs a problem in order and under seeds.
fn check(problem: &Problem, few: u64) -> Code {
    let random = &mut Random(problem.tokens.iter().sum());
    let weights = Weights::new(problem, random);
    let layers: Vec<Tokens> = (0..LAYERS).map(|_| Tokens::new(problem, random)).collect();
    let expected: Vec<_> = layers.iter().map(|tokens| problem.expected(&weights, tokens)).collect();
    let code = Code::new(problem);
    let seeded = (0..seeds(few)).map(Schedule::Seeded);
    for schedule in [Schedule::InOrder].into_iter().chain(seeded) {
        let got = exchange(problem, &code, &weights, &layers, schedule);
        for (layer, (got, want)) in got.iter().zip(&expected).enumerate() {
            for (rank, (got, want)) in got.iter().zip(want).enumerate() {
                let differs = got.iter().zip(want).position(|(got, want)| got != want);
                let name = problem.name;
                let at = |list: &[u16], i: usize| bf16::from_bits(list[i]);
                assert!(
                    differs.is_none() && got.len() == want.len(),
                    "{name}, {schedule:?}, layer {layer}, rank {rank}: {:?}",
                    differs.map(|i| (i, at(got, i), at(want, i)))
                );
            }
        }
    }
    code
}

#[test]
fn experts_of_one_rank() {
    let code = check(&problem("one rank", BASE, &[12]), 2);
    assert!(code.experts().contains("wgmma.mma_async"));
}

#[test]
fn experts_of_a_node() {
    let two = Spread { ranks: [2, 2], experts: 8, top_k: 3, split: [1, 1], ..BASE };
    check(&problem("two ranks", two, &[9, 14]), 2);
    let fp8 = Spread { sizes: [256, 128], fp8: true, ..BASE };
    let four = Spread { ranks: [4, 4], experts: 8, top_k: 4, split: [2, 2], ..fp8 };
    let code = check(&problem("four ranks, one without tokens", four, &[20, 0, 33, 7]), 2);
    assert!(code.experts().contains("e4m3.e4m3"));
    let tiny = Spread { ranks: [8, 8], experts: 16, top_k: 4, sizes: [256, 128], ..BASE };
    check(&problem("eight ranks", tiny, &[5, 24, 0, 1, 24, 17, 3, 24]), 2);
}

#[test]
fn experts_of_several_nodes() {
    let two = Spread { ranks: [4, 2], experts: 8, top_k: 3, ..BASE };
    let code = check(&problem("two nodes of two", two, &[9, 14, 0, 6]), 2);
    assert!(code.experts().contains("nvshmemx_putmem_signal_nbi_warp"));
    let fp8 = Spread { sizes: [256, 128], fp8: true, top_k: 4, ..BASE };
    let four = Spread { ranks: [8, 4], experts: 16, split: [2, 2], ..fp8 };
    check(&problem("two nodes of four, fp8", four, &[5, 12, 0, 1, 12, 7, 3, 12]), 2);
    let nodes = Spread { ranks: [8, 2], experts: 8, top_k: 5, ..BASE };
    check(&problem("four nodes of two", nodes, &[5, 4, 0, 1, 6, 7, 3, 2]), 2);
}

#[test]
fn uneven_loads() {
    let four = Spread { ranks: [4, 2], experts: 16, top_k: 4, ..BASE };
    let tokens = [30, 11, 1, 30];
    for load in [Load::OneRank, Load::NotTheFirst, Load::LogNormal(1.5)] {
        check(&Problem { load, ..problem("uneven", four, &tokens) }, 1);
    }
    check(&problem("no tokens at all", four, &[0; 4]), 1);
    // A block of rows of one expert is not enough.
    let one = Spread { ranks: [2, 2], experts: 2, top_k: 1, ..BASE };
    check(&Problem { load: Load::OneRank, ..problem("many rows", one, &[90, 130]) }, 1);
    // Nor are the blocks with which experts take turns; more experts than lanes take none.
    let turns = Spread { ranks: [1, 1], experts: 2, top_k: 1, sizes: [64, 32], ..BASE };
    check(&problem("experts in turn", turns, &[1300]), 1);
    let many = Spread { ranks: [2, 2], experts: 80, top_k: 8, sizes: [64, 32], ..BASE };
    check(&problem("many experts", many, &[40, 25]), 1);
}

/// What tensor cores do not multiply.
#[test]
fn experts_on_cuda_cores() {
    let tiny = Spread { ranks: [4, 2], experts: 8, top_k: 2, ..BASE };
    let cases = [
        (Problem { designed: 1, ..problem("few rows", tiny, &[1, 0, 1, 2]) }, tiny),
        (problem("rows of odd sizes", tiny, &[20, 9, 0, 13]), Spread { sizes: [100, 37], ..tiny }),
        (
            problem("float32 sums", tiny, &[33, 20, 1, 40]),
            Spread { fp8: true, promote_every: 32, sizes: [256, 128], ..tiny },
        ),
    ];
    for (problem, spread) in cases {
        let code = check(&Problem { spread, ..problem }, 1);
        assert!(!code.experts().contains("wgmma"), "{}", code.experts());
    }
}
