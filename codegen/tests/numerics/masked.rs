//! Products of counted rows: those that are used are written in full, the others not at all.

use super::machine::{Array, Random, run_counting};
use super::products::{LARGEST, sizes};
use super::scaled::{Scaled, error, inner, lost};
use crate::cases::{self, Case};
use moec_ir::kernel::KernelSpec;

/// How many rows each expert may have, in ways that are told apart.
fn loads(experts: u64, capacity: u64, random: &mut Random) -> Vec<(&'static str, Vec<u64>)> {
    let mut each = |f: &mut dyn FnMut(u64, &mut Random) -> u64| {
        (0..experts).map(|e| f(e, random).min(capacity)).collect::<Vec<_>>()
    };
    // exp of a sum of uniform numbers, which is nearly normal.
    let mut log_normal = |_, r: &mut Random| {
        let normal: f64 = (0..12).map(|_| r.number() / 2.0).sum();
        (capacity as f64 / 8.0 * normal.exp()) as u64
    };
    vec![
        ("nothing", each(&mut |_, _| 0)),
        ("one row each", each(&mut |_, _| 1)),
        ("all that fit", each(&mut |_, _| capacity)),
        ("log-normal", each(&mut log_normal)),
        ("all to one expert", each(&mut |e, _| if e == experts / 2 { capacity } else { 0 })),
        ("some without", each(&mut |e, r| if e % 3 == 1 { 0 } else { r.below(capacity + 1) })),
    ]
}

/// What a result should be, by expert, row and column and by whether tensor cores multiplied: the
/// sum, and the sum of magnitudes that its error is relative to.
type Wanted<'a> = dyn Fn(&[u64], bool) -> (f64, f64) + 'a;

/// Runs a case with every load and checks its results and what was moved.
fn check(case: &Case, inputs: &mut [&mut Array], c: &Array, error: f64, of: &Wanted<'_>) -> usize {
    let (experts, capacity) = (c.shape[0], c.shape[1]);
    let all = loads(experts, capacity, &mut Random(7));
    for (load, counts) in &all {
        let (name, mut c) = (format!("{}, {load}", case.name), c.clone());
        // More than fit are as many as fit.
        let more = |&n: &u64| if n == capacity && *load == "all that fit" { n + 5 } else { n };
        let given: Vec<i32> = counts.iter().map(|n| more(n) as i32).collect();
        let mut count = Array::integers(&given);
        let mut operands: Vec<&mut Array> = inputs.iter_mut().map(|array| &mut **array).collect();
        operands.extend([&mut count, &mut c]);
        let ran = run_counting(&name, &case.spec, case.step(), &sizes(case.tokens), &mut operands);
        assert!(ran.tensor_cores || !case.name.contains("hopper"), "{name}");
        c.check(&name, error, |index| {
            match index[1] < counts[index[0] as usize] {
                true => of(index, ran.tensor_cores),
                // What was there.
                false => {
                    assert!(c.is_untouched(index), "{name}: {index:?} was written");
                    (f64::NAN, 0.0)
                }
            }
        });
        let Some(tiles) = ran.code.tiles else { continue };
        // Whole tiles are copied as far as there is a place, and no tile without rows.
        let copied = counts.iter().map(|n| n.next_multiple_of(tiles.rows).min(capacity));
        let must = tiles.movement(&copied.collect::<Vec<_>>());
        assert_eq!(ran.report.bulk_load_bytes, must.factors + must.scales, "{name}");
        assert_eq!(ran.report.global_store_bytes, tiles.movement(counts).results, "{name}");
    }
    all.len()
}

#[test]
fn scaled_masked_gemm_multiplies_the_rows_that_are_used() {
    let mut shapes = 0;
    for case in cases::scaled_masked() {
        let KernelSpec::ScaledMaskedGemm { a, a_scale, w, w_scale, c, block, .. } = &case.spec
        else {
            panic!()
        };
        let (sizes, random) = (sizes(case.tokens), &mut Random(case.name.len() as u64));
        if c.shape.iter().chain(&w.shape[2..]).map(|n| n.eval(&sizes)).product::<u64>() > LARGEST {
            continue;
        }
        let memory = |view| Array::poisoned(view, &sizes);
        let mut a = Scaled::new(memory(a), memory(a_scale), [1, block[1]], random);
        let mut w = Scaled::new(memory(w), memory(w_scale), *block, random);
        let (k, parts) = (a.data.shape[2], [a.clone(), w.clone()]);
        let (a_rows, w_rows) = (a.rows(), w.rows());
        let of = |index: &[u64], tensor_cores: bool| {
            let [e, m, n] = [0, 1, 2].map(|axis| index[axis] as usize);
            let (sum, magnitude) = inner(&a_rows[e][m], &w_rows[e][n]);
            let lost = match tensor_cores {
                true => {
                    let (a, a_scales) = parts[0].parts(index[0], index[1]);
                    let (w, w_scales) = parts[1].parts(index[0], index[2]);
                    lost(&a, &w, |j| a_scales[j] * w_scales[j])
                }
                false => 0.0,
            };
            (sum, magnitude + lost / error(k))
        };
        let mut inputs = [&mut a.data, &mut a.scale, &mut w.data, &mut w.scale];
        shapes += check(&case, &mut inputs, &memory(c), error(k), &of);
    }
    assert!(shapes >= 30, "{shapes}");
}

#[test]
fn masked_gemm_multiplies_the_rows_that_are_used() {
    let mut shapes = 0;
    for case in cases::masked() {
        let KernelSpec::MaskedGemm { a, w, c, .. } = &case.spec else { panic!() };
        let (sizes, random) = (sizes(case.tokens), &mut Random(case.name.len() as u64));
        if c.shape.iter().chain(&w.shape[2..]).map(|n| n.eval(&sizes)).product::<u64>() > LARGEST {
            continue;
        }
        let mut a = Array::random(a, &sizes, random);
        let mut w = Array::random(w, &sizes, random);
        let k = w.shape[2];
        let row = |of: &Array, e, row| (0..k).map(|i| of.get(&[e, row, i])).collect::<Vec<_>>();
        let (a_copy, w_copy) = (a.clone(), w.clone());
        let of = |i: &[u64], _| inner(&row(&a_copy, i[0], i[1]), &row(&w_copy, i[0], i[2]));
        shapes += check(&case, &mut [&mut a, &mut w], &Array::poisoned(c, &sizes), error(k), &of);
    }
    assert!(shapes >= 30, "{shapes}");
}
