//! `wmma` (PTX ISA 9.7.14.4): matrices go from memory to memory, so that no layout is assumed.

mod machine;

use half::{bf16, f16};
use machine::{block, kernel, run};

/// Types of D, A and B, C; shape; registers of each.
struct Form {
    types: [&'static str; 3],
    shape: (usize, usize, usize),
    registers: [usize; 4],
}

const fn form(
    types: [&'static str; 3],
    shape: (usize, usize, usize),
    registers: [usize; 4],
) -> Form {
    Form { types, shape, registers }
}

const FORMS: [Form; 20] = [
    form(["f32", "f16", "f32"], (16, 16, 16), [8, 8, 8, 8]),
    form(["f16", "f16", "f16"], (16, 16, 16), [4, 8, 8, 4]),
    form(["f32", "f16", "f16"], (8, 32, 16), [8, 8, 8, 4]),
    form(["f16", "f16", "f32"], (32, 8, 16), [4, 8, 8, 8]),
    form(["f32", "bf16", "f32"], (16, 16, 16), [8, 4, 4, 8]),
    form(["f32", "bf16", "f32"], (8, 32, 16), [8, 2, 8, 8]),
    form(["f32", "bf16", "f32"], (32, 8, 16), [8, 8, 2, 8]),
    form(["f32", "tf32", "f32"], (16, 16, 8), [8, 4, 4, 8]),
    form(["s32", "s8", "s32"], (16, 16, 16), [8, 2, 2, 8]),
    form(["s32", "u8", "s32"], (8, 32, 16), [8, 1, 4, 8]),
    form(["s32", "s8", "s32"], (32, 8, 16), [8, 4, 1, 8]),
    form(["f64", "f64", "f64"], (8, 8, 4), [2, 1, 1, 2]),
    form(["s32", "s4", "s32"], (8, 8, 32), [2, 1, 1, 2]),
    form(["s32", "u4", "s32"], (8, 8, 32), [2, 1, 1, 2]),
    form(["s32", "b1", "s32"], (8, 8, 128), [2, 1, 1, 2]),
    form(["s32", "u8", "s32"], (16, 16, 16), [8, 2, 2, 8]),
    form(["f32", "f16", "f32"], (8, 32, 16), [8, 8, 8, 8]),
    form(["f32", "f16", "f32"], (32, 8, 16), [8, 8, 8, 8]),
    form(["f16", "f16", "f16"], (8, 32, 16), [4, 8, 8, 4]),
    form(["f16", "f16", "f16"], (32, 8, 16), [4, 8, 8, 4]),
];

fn bits(ty: &str) -> usize {
    match ty {
        "f64" => 64,
        "f32" | "s32" | "tf32" => 32,
        "f16" | "bf16" => 16,
        "s8" | "u8" => 8,
        "s4" | "u4" => 4,
        _ => 1,
    }
}

fn encode(ty: &str, value: i64) -> u64 {
    match ty {
        "f64" => (value as f64).to_bits(),
        "f32" | "tf32" => (value as f32).to_bits().into(),
        "f16" => f16::from_f32(value as f32).to_bits().into(),
        "bf16" => bf16::from_f32(value as f32).to_bits().into(),
        _ => value as u64,
    }
}

/// A matrix in memory, with `stride` elements from one row (or column) to the next.
fn image(
    ty: &str,
    (rows, columns): (usize, usize),
    by_column: bool,
    stride: usize,
    value: impl Fn(usize, usize) -> i64,
) -> Vec<u8> {
    let lines = if by_column { columns } else { rows };
    let width = bits(ty);
    let mut bytes = vec![0u8; lines * stride * width / 8];
    for row in 0..rows {
        for column in 0..columns {
            let (major, minor) = if by_column { (column, row) } else { (row, column) };
            let at = (major * stride + minor) * width;
            let encoded = encode(ty, value(row, column));
            if width >= 8 {
                bytes[at / 8..(at + width) / 8]
                    .copy_from_slice(&encoded.to_le_bytes()[..width / 8]);
            } else {
                bytes[at / 8] |= ((encoded & ((1 << width) - 1)) << (at % 8)) as u8;
            }
        }
    }
    bytes
}

#[test]
fn products_go_from_memory_to_memory() {
    for form in &FORMS {
        let [d, ab, c] = form.types;
        let (m, n, k) = form.shape;
        let small = bits(ab) < 8;
        let layouts: &[(bool, bool)] = if small {
            &[(false, true)]
        } else {
            &[(false, false), (false, true), (true, false), (true, true)]
        };
        for (round, &(a_column, b_column)) in layouts.iter().enumerate() {
            let c_column = round % 2 == 1;
            let signed = !matches!(ab, "u8" | "u4" | "b1");
            let most = if ab == "b1" { 2 } else { 7 };
            let value = |seed: usize, row: usize, column: usize| {
                let mixed = (row * 31 + column * 17 + seed * 101) * 2_654_435_761 % 1_000_003;
                (mixed as i64 / 7) % most - if signed { 3 } else { 0 }
            };
            let spare = if small { 128 } else { 8 };
            let stride = |rows: usize, columns: usize, by_column: bool| {
                (if by_column { rows } else { columns }) + spare
            };
            let strides = [stride(m, k, a_column), stride(k, n, b_column), stride(m, n, c_column)];
            let parts = [
                image(ab, (m, k), a_column, strides[0], |r, c| value(0, r, c)),
                image(ab, (k, n), b_column, strides[1], |r, c| value(1, r, c)),
                image(c, (m, n), c_column, strides[2], |r, c| value(2, r, c)),
            ];
            let mut x = Vec::new();
            let mut starts = Vec::new();
            for part in &parts {
                x.resize(x.len().next_multiple_of(256), 0);
                starts.push(x.len());
                x.extend_from_slice(part);
            }
            let layout = |by_column: bool| if by_column { "col" } else { "row" };
            let prefix = if d == "f64" { "%w" } else { "%v" };
            let list = |first: usize, count: usize| {
                let names: Vec<String> =
                    (first..first + count).map(|index| format!("{prefix}{index}")).collect();
                format!("{{{}}}", names.join(", "))
            };
            let [dn, an, bn, cn] = form.registers;
            let shape = format!("m{m}n{n}k{k}");
            let (head, types) = match ab {
                "f16" => ("wmma.mma".to_string(), format!("{d}.{c}")),
                "b1" => ("wmma.mma.xor.popc".to_string(), format!("{d}.{ab}.{ab}.{c}")),
                _ => ("wmma.mma".to_string(), format!("{d}.{ab}.{ab}.{c}")),
            };
            let body = format!(
                ".reg .b32 %v<40>; .reg .b64 %w<40>;\n\
                 add.u64 %rd1, %x, {}; add.u64 %rd2, %x, {}; add.u64 %rd3, %x, {};\n\
                 mov.u32 %r1, {}; mov.u32 %r2, {}; mov.u32 %r3, {};\n\
                 wmma.load.a.sync.aligned.{}.{shape}.global.{ab} {}, [%rd1], %r1;\n\
                 wmma.load.b.sync.aligned.{}.{shape}.{ab} {}, [%rd2], %r2;\n\
                 wmma.load.c.sync.aligned.{}.{shape}.global.{c} {}, [%rd3], %r3;\n\
                 {head}.sync.aligned.{}.{}.{shape}.{types} {}, {}, {}, {};\n\
                 wmma.store.d.sync.aligned.row.{shape}.global.{d} [%y], {};",
                starts[0],
                starts[1],
                starts[2],
                strides[0],
                strides[1],
                strides[2],
                layout(a_column),
                list(8, an),
                layout(b_column),
                list(16, bn),
                layout(c_column),
                list(24, cn),
                layout(a_column),
                layout(b_column),
                list(0, dn),
                list(8, an),
                list(16, bn),
                list(24, cn),
                list(0, dn),
            );
            let out = run(&kernel(&body), &block(32), &x, &vec![0; m * n * bits(d) / 8])
                .unwrap_or_else(|error| panic!("{body}: {error}"));
            let want = image(d, (m, n), false, n, |row, column| {
                let product = |at: usize| match ab {
                    "b1" => value(0, row, at) ^ value(1, at, column),
                    _ => value(0, row, at) * value(1, at, column),
                };
                value(2, row, column) + (0..k).map(product).sum::<i64>()
            });
            assert!(out == want, "{body}");
        }
    }
}

#[test]
fn accumulators_of_all_types_hold_the_same_elements() {
    // Doubles each element between load and store, and copies one type to the other.
    let body = ".reg .b32 %v<8>; .reg .b16 %g<8>; .reg .f32 %f<8>;\n\
        wmma.load.c.sync.aligned.col.m16n16k16.global.f32 {%v0,%v1,%v2,%v3,%v4,%v5,%v6,%v7}, [%x];\n\
        cvt.rn.f16x2.f32 %r0, %v1, %v0; cvt.rn.f16x2.f32 %r1, %v3, %v2;\n\
        cvt.rn.f16x2.f32 %r2, %v5, %v4; cvt.rn.f16x2.f32 %r3, %v7, %v6;\n\
        wmma.store.d.sync.aligned.col.m16n16k16.global.f16 [%y], {%r0,%r1,%r2,%r3};";
    let x: Vec<u8> = (0..256).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let out = run(&kernel(body), &block(32), &x, &[0; 512]).unwrap();
    for (i, half) in out.chunks(2).enumerate() {
        assert_eq!(f16::from_le_bytes([half[0], half[1]]).to_f32(), i as f32);
    }
}

#[test]
fn saturation_and_bad_addresses() {
    let body = ".reg .b32 %v<8>;\n\
        mov.u32 %v0, 0x7ffffff0; mov.u32 %v1, 0x80000010; mov.u32 %v2, 0x77777777; mov.u32 %v3, 0x88888888;\n\
        wmma.mma.sync.aligned.row.col.m8n8k32.s32.s4.s4.s32.satfinite {%v4,%v5}, {%v2}, {%v2}, {%v0,%v0};\n\
        wmma.mma.sync.aligned.row.col.m8n8k32.s32.s4.s4.s32.satfinite {%v6,%v7}, {%v2}, {%v3}, {%v1,%v1};\n\
        wmma.store.d.sync.aligned.row.m8n8k32.global.s32 [%y], {%v4,%v7};";
    let out = run(&kernel(body), &block(32), &[0; 4], &[0; 256]).unwrap();
    let out: Vec<u32> = machine::words(&out);
    assert!(out.contains(&0x7fff_ffff) && out.contains(&0x8000_0000));
    assert!(out.iter().all(|&word| word == 0x7fff_ffff || word == 0x8000_0000));
    let body = ".reg .b32 %v<8>; wmma.load.c.sync.aligned.row.m16n16k16.global.f32 \
        {%v0,%v1,%v2,%v3,%v4,%v5,%v6,%v7}, [%x], 0x7fffffff;";
    assert!(run(&kernel(body), &block(32), &[0; 4096], &[0; 4]).is_err());
}
