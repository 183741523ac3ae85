//! Products on tensor cores move what the arithmetic of their tiles says.

use super::machine::{Array, Ran, Random, run_counting};
use super::products::{route, sizes, volume};
use crate::cases::{self, Case, t};
use moec_ir::DType::{Bf16, F8e4m3, F32};
use moec_ir::Dim;
use moec_ir::kernel::{KernelSpec, View};
use std::collections::BTreeMap;

/// Larger products are left to others: those would take long.
const LARGEST: u64 = 1 << 24;

/// Checks what a run moved; `rows` are those of each matrix of weights.
fn check(case: &Case, ran: &Ran, rows: &[u64]) {
    let tiles = ran.code.tiles.unwrap_or_else(|| panic!("{} has no tiles", case.name));
    let must = tiles.movement(rows);
    let (copied, stored) =
        (ran.report.bulk_load_bytes + ran.report.copy_load_bytes, ran.report.global_store_bytes);
    let name = format!("{}, {rows:?} rows, {} x {}", case.name, tiles.rows, tiles.columns);
    assert_eq!(copied, must.factors + must.scales, "{name}: loaded by tensor and other copies");
    assert_eq!(stored, must.results, "{name}: stored");
    // Tensor copies bring tiles of weights, whoever brings the rows of activations.
    assert!(ran.report.bulk_load_bytes > 0, "{name}");
}

/// `[1, T, N]` or `[E, N, K]` with rows `row` elements apart.
fn matrix(dtype: moec_ir::DType, outer: u64, rows: Dim, columns: u64, row: u64) -> View {
    let all = rows.constant().unwrap_or(0) * row;
    View::new(dtype, [Dim::from(outer), rows, Dim::from(columns)], [all, row, 1])
}

fn plain(name: &'static str, tokens: u64, n: u64, k: u64) -> Case {
    let spec = KernelSpec::Gemm {
        a: matrix(Bf16, 1, t(), k, k),
        w: matrix(Bf16, 1, n.into(), k, k),
        add: None,
        c: matrix(Bf16, 1, t(), n, n),
    };
    Case { name, spec, tokens }
}

fn scaled(name: &'static str, tokens: u64, n: u64, k: u64) -> Case {
    let blocks = k.div_ceil(128);
    let spec = KernelSpec::ScaledGemm {
        a: matrix(F8e4m3, 1, t(), k, k),
        a_scale: Some(matrix(F32, 1, t(), blocks, blocks.next_multiple_of(4))),
        w: matrix(F8e4m3, 1, n.into(), k, k),
        w_scale: matrix(F32, 1, n.div_ceil(128).into(), blocks, blocks),
        add: None,
        c: matrix(Bf16, 1, t(), n, n),
        block: [128, 128],
        promote_every: 128,
    };
    Case { name, spec, tokens }
}

/// Dense products with ends along every dimension, of few tiles and for many.
fn products() -> Vec<Case> {
    vec![
        plain("one tile", 64, 64, 64),
        plain("several tiles", 256, 512, 512),
        plain("ends of rows", 77, 256, 512),
        plain("ends of columns", 128, 200, 256),
        plain("ends of sums", 128, 128, 328),
        plain("ends of all", 300, 333, 88),
        plain("large tiles", 4096, 2000, 136),
        plain("wide tiles", 1500, 1040, 264),
        plain("low tiles", 64, 9000, 72),
        scaled("one fp8 tile", 64, 128, 128),
        scaled("several fp8 tiles", 256, 512, 512),
        scaled("fp8 ends of rows", 77, 256, 512),
        scaled("fp8 ends of columns", 128, 200, 256),
        scaled("fp8 ends of sums", 128, 128, 1168),
        scaled("fp8 ends of all", 300, 332, 176),
        scaled("large fp8 tiles", 4096, 2000, 144),
        scaled("wide fp8 tiles", 1500, 1040, 272),
        scaled("low fp8 tiles", 64, 9000, 80),
    ]
}

#[test]
fn dense_products_move_what_their_tiles_say() {
    let all = [products(), cases::gemms(), cases::scaled_gemms()].concat();
    let mut sizes_of_tiles = BTreeMap::new();
    for case in all {
        let views: Vec<&View> = match &case.spec {
            KernelSpec::Gemm { a, w, add, c } => [a, w].into_iter().chain(add).chain([c]).collect(),
            KernelSpec::ScaledGemm { a, a_scale, w, w_scale, add, c, .. } => {
                [a].into_iter().chain(a_scale).chain([w, w_scale]).chain(add).chain([c]).collect()
            }
            _ => panic!("{}", case.name),
        };
        let w = match &case.spec {
            KernelSpec::Gemm { w, .. } | KernelSpec::ScaledGemm { w, .. } => w,
            _ => panic!("{}", case.name),
        };
        let c = views[views.len() - 1];
        for tokens in [case.tokens.min(300), 13] {
            if volume(c, tokens) * w.shape[2].constant().unwrap() > LARGEST {
                continue;
            }
            let (sizes, mut random) = (sizes(tokens), Random(tokens));
            let mut arrays: Vec<Array> =
                views.iter().map(|view| Array::random(view, &sizes, &mut random)).collect();
            let mut operands: Vec<&mut Array> = arrays.iter_mut().collect();
            let ran = run_counting(case.name, &case.spec, case.step(), &sizes, &mut operands);
            let Some(tiles) = ran.code.tiles else { continue };
            *sizes_of_tiles.entry([tiles.rows, tiles.columns]).or_insert(0) += 1;
            let batch = w.shape[0].constant().unwrap();
            check(&case, &ran, &vec![tokens; batch as usize]);
        }
    }
    eprintln!("products by tile: {sizes_of_tiles:?}");
    assert!(sizes_of_tiles.values().sum::<u64>() >= 30, "{sizes_of_tiles:?}");
    assert!(sizes_of_tiles.len() >= 4, "{sizes_of_tiles:?}");
}

#[test]
fn products_of_experts_move_what_their_tiles_say() {
    let mut counted = 0;
    for case in [cases::experts(), cases::scaled_experts()].concat() {
        let (views, c, w, top_k): (Vec<&View>, _, _, _) = match &case.spec {
            KernelSpec::GroupedGemm { a, w, c, top_k } => (vec![a, w], c, w, *top_k),
            KernelSpec::ScaledGroupedGemm { a, a_scale, w, w_scale, c, top_k, .. } => {
                let factors = [a].into_iter().chain(a_scale).chain([w, w_scale]);
                (factors.collect(), c, w, *top_k)
            }
            _ => continue,
        };
        let experts = w.shape[0].constant().unwrap();
        if volume(w, 1) > LARGEST {
            continue;
        }
        for (tokens, used) in [(case.tokens, experts), (13, experts.div_ceil(2)), (70, 1)] {
            let (sizes, mut random) = (sizes(tokens), Random(tokens + used));
            let mut arrays: Vec<Array> =
                views.iter().map(|view| Array::random(view, &sizes, &mut random)).collect();
            let (chosen, plan) = route(tokens * top_k, experts, used, &mut random);
            arrays.extend([plan, Array::poisoned(c, &sizes)]);
            let mut operands: Vec<&mut Array> = arrays.iter_mut().collect();
            let ran = run_counting(case.name, &case.spec, case.step(), &sizes, &mut operands);
            if ran.code.tiles.is_none() {
                continue;
            }
            counted += 1;
            let of = |expert: u64| chosen.iter().filter(|&&c| c == expert).count() as u64;
            check(&case, &ran, &(0..experts).map(of).collect::<Vec<_>>());
        }
    }
    assert!(counted >= 20, "{counted} products on tensor cores");
}
