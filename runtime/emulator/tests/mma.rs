//! Products of one warp of every type and shape, laid out by the formulas of the PTX ISA
//! (9.7.14.5.1 to 9.7.14.5.13), on small numbers for which every order gives the same sums.

mod machine;

use half::{bf16, f16};
use machine::{block, kernel, run};

/// Runs `text` on one warp. `count` registers of each operand come from `value(operand, lane,
/// index)`, `D` are registers 0 on; operands are named `D`, `A`, `B`, `C` and `E` in the text.
fn warp(
    text: &str,
    wide: bool,
    counts: [usize; 5],
    value: impl Fn(usize, usize, usize) -> u64,
) -> Vec<Vec<u64>> {
    let size = if wide { 8 } else { 4 };
    let [d_count, inputs @ ..] = counts;
    let total: usize = inputs.iter().sum();
    let (prefix, ty) = if wide { ("%w", "b64") } else { ("%v", "b32") };
    let list = |first: usize, count: usize| {
        let names: Vec<String> = (first..first + count).map(|i| format!("{prefix}{i}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let mut body = format!(
        ".reg .b64 %w<60>; .reg .b32 %v<60>;\nmad.wide.u32 %rd1, %t, {}, %x;\n",
        total * size
    );
    let mut text = text.replace('D', &list(0, d_count));
    let (mut first, mut x) = (d_count, vec![Vec::new(); 32]);
    for (operand, (name, count)) in ["A", "B", "C", "E"].into_iter().zip(inputs).enumerate() {
        let names = if name == "E" { format!("{prefix}{first}") } else { list(first, count) };
        text = text.replace(name, &names);
        for index in 0..count {
            let at = first + index;
            body += &format!("ld.global.{ty} {prefix}{at}, [%rd1+{}];\n", (at - d_count) * size);
        }
        for (lane, bytes) in x.iter_mut().enumerate() {
            for index in 0..count {
                bytes.extend_from_slice(&value(operand, lane, index).to_le_bytes()[..size]);
            }
        }
        first += count;
    }
    body += &format!("{text}\nmad.wide.u32 %rd2, %t, {}, %y;\n", d_count * size);
    for at in 0..d_count {
        body += &format!("st.global.{ty} [%rd2+{}], {prefix}{at};\n", at * size);
    }
    let out = run(&kernel(&body), &block(32), &x.concat(), &vec![0; 32 * d_count * size])
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    out.chunks(d_count * size)
        .map(|lane| {
            lane.chunks(size)
                .map(|bytes| bytes.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte)))
                .collect()
        })
        .collect()
}

type Place = fn(usize, usize) -> (usize, usize);

/// Where elements lie: of A, B and C, by lane and number of the element.
struct Layout {
    shape: &'static str,
    bits: usize,
    depth: usize,
    /// Elements per lane.
    counts: [usize; 3],
    a: Place,
    b: Place,
    c: Place,
}

const C8: Place = |lane, i| (lane >> 2, lane % 4 * 2 + i);
const C16: Place = |lane, i| (lane >> 2 | if i < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1));

const LAYOUTS: [Layout; 9] = [
    Layout {
        shape: "m8n8k16",
        bits: 8,
        depth: 16,
        counts: [4, 4, 2],
        a: |lane, i| (lane >> 2, lane % 4 * 4 + i),
        b: |lane, i| (lane % 4 * 4 + i, lane >> 2),
        c: C8,
    },
    Layout {
        shape: "m16n8k16",
        bits: 8,
        depth: 16,
        counts: [8, 4, 4],
        a: |lane, i| (if i < 4 { lane >> 2 } else { (lane >> 2) + 8 }, lane % 4 * 4 + (i & 3)),
        b: |lane, i| (lane % 4 * 4 + i, lane >> 2),
        c: C16,
    },
    Layout {
        shape: "m16n8k32",
        bits: 8,
        depth: 32,
        counts: [16, 8, 4],
        a: |lane, i| {
            (
                if i < 4 || (8..12).contains(&i) { lane >> 2 } else { (lane >> 2) + 8 },
                lane % 4 * 4 + (i & 3) + if i < 8 { 0 } else { 16 },
            )
        },
        b: |lane, i| (lane % 4 * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, lane >> 2),
        c: C16,
    },
    Layout {
        shape: "m8n8k32",
        bits: 4,
        depth: 32,
        counts: [8, 8, 2],
        a: |lane, i| (lane >> 2, lane % 4 * 8 + i),
        b: |lane, i| (lane % 4 * 8 + i, lane >> 2),
        c: C8,
    },
    Layout {
        shape: "m16n8k32",
        bits: 4,
        depth: 32,
        counts: [16, 8, 4],
        a: |lane, i| (if i < 8 { lane >> 2 } else { (lane >> 2) + 8 }, lane % 4 * 8 + (i & 7)),
        b: |lane, i| (lane % 4 * 8 + i, lane >> 2),
        c: C16,
    },
    Layout {
        shape: "m16n8k64",
        bits: 4,
        depth: 64,
        counts: [32, 16, 4],
        a: |lane, i| {
            (
                if i < 8 || (16..24).contains(&i) { lane >> 2 } else { (lane >> 2) + 8 },
                lane % 4 * 8 + (i & 7) + if i < 16 { 0 } else { 32 },
            )
        },
        b: |lane, i| (lane % 4 * 8 + (i & 7) + if i < 8 { 0 } else { 32 }, lane >> 2),
        c: C16,
    },
    Layout {
        shape: "m8n8k128",
        bits: 1,
        depth: 128,
        counts: [32, 32, 2],
        a: |lane, i| (lane >> 2, lane % 4 * 32 + i),
        b: |lane, i| (lane % 4 * 32 + i, lane >> 2),
        c: C8,
    },
    Layout {
        shape: "m16n8k128",
        bits: 1,
        depth: 128,
        counts: [64, 32, 4],
        a: |lane, i| (if i < 32 { lane >> 2 } else { (lane >> 2) + 8 }, lane % 4 * 32 + (i & 31)),
        b: |lane, i| (lane % 4 * 32 + i, lane >> 2),
        c: C16,
    },
    Layout {
        shape: "m16n8k256",
        bits: 1,
        depth: 256,
        counts: [128, 64, 4],
        a: |lane, i| {
            (
                if i < 32 || (64..96).contains(&i) { lane >> 2 } else { (lane >> 2) + 8 },
                lane % 4 * 32 + (i & 31) + if i < 64 { 0 } else { 128 },
            )
        },
        b: |lane, i| (lane % 4 * 32 + (i & 31) + if i < 32 { 0 } else { 128 }, lane >> 2),
        c: C16,
    },
];

fn noise(seed: usize, x: usize, y: usize) -> u64 {
    let mixed = (seed * 7919 + x * 104_729 + y * 1_299_709 + 12_345) as u64;
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ mixed >> 7).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        >> 32
}

fn number(bits: u64, width: usize, signed: bool) -> i64 {
    let value = (bits & ((1 << width) - 1)) as i64;
    if signed && value >> (width - 1) != 0 { value - (1 << width) } else { value }
}

#[test]
fn integers_of_every_width_and_shape() {
    for layout in &LAYOUTS {
        let types: &[(&str, bool)] = match layout.bits {
            8 => &[("s8", true), ("u8", false)],
            4 => &[("s4", true), ("u4", false)],
            _ => &[("b1", false)],
        };
        for &(a_type, a_signed) in types {
            for &(b_type, b_signed) in types {
                let tails: &[&str] = if layout.bits == 1 {
                    &[".xor.popc", ".and.popc"]
                } else {
                    &["", ".satfinite"]
                };
                for &tail in tails {
                    check_integers(layout, (a_type, a_signed), (b_type, b_signed), tail);
                }
            }
        }
    }
}

fn check_integers(layout: &Layout, a: (&str, bool), b: (&str, bool), tail: &str) {
    let (bits, depth) = (layout.bits, layout.depth);
    let mask = (1u64 << bits) - 1;
    let at = |operand: usize, row: usize, column: usize| noise(operand, row, column) & mask;
    // Near the ends of the range, so that sums overflow.
    let c_at = |row: usize, column: usize| match (row + column) % 3 {
        0 => i32::MAX - (noise(9, row, column) % 50) as i32,
        1 => i32::MIN + (noise(9, row, column) % 50) as i32,
        _ => noise(9, row, column) as i32,
    };
    let (text, saturates) = match bits {
        1 => (
            format!("mma.sync.aligned.{}.row.col.s32.b1.b1.s32{tail} D, A, B, C;", layout.shape),
            false,
        ),
        _ => (
            format!(
                "mma.sync.aligned.{}.row.col{tail}.s32.{}.{}.s32 D, A, B, C;",
                layout.shape, a.0, b.0
            ),
            tail == ".satfinite",
        ),
    };
    let per_word = 32 / bits;
    let counts = [
        layout.counts[2],
        layout.counts[0] / per_word,
        layout.counts[1] / per_word,
        layout.counts[2],
        0,
    ];
    let out = warp(&text, false, counts, |operand, lane, register| {
        let place = [layout.a, layout.b][operand.min(1)];
        if operand == 2 {
            let (row, column) = (layout.c)(lane, register);
            return u64::from(c_at(row, column) as u32);
        }
        (0..per_word).fold(0, |word, element| {
            let (row, column) = place(lane, register * per_word + element);
            word | at(operand, row, column) << (bits * element)
        })
    });
    for (lane, registers) in out.iter().enumerate() {
        for (register, &got) in registers.iter().enumerate() {
            let (row, column) = (layout.c)(lane, register);
            let sum: i64 = (0..depth)
                .map(|k| {
                    let (x, y) =
                        (number(at(0, row, k), bits, a.1), number(at(1, k, column), bits, b.1));
                    match tail {
                        ".xor.popc" => x ^ y,
                        _ => x * y,
                    }
                })
                .sum();
            let exact = sum + i64::from(c_at(row, column));
            let want = match saturates {
                true => exact.clamp(i32::MIN.into(), i32::MAX.into()),
                false => exact,
            };
            assert_eq!(got as u32, want as u32, "{text} row {row} column {column}");
        }
    }
}

#[test]
fn doubles_are_multiplied_and_added_along_the_depth() {
    type Double = (&'static str, [usize; 3], usize, Place, Place, Place);
    let shapes: [Double; 4] = [
        (
            "m8n8k4",
            [1, 1, 2],
            4,
            |lane, _| (lane >> 2, lane % 4),
            |lane, _| (lane % 4, lane >> 2),
            C8,
        ),
        (
            "m16n8k4",
            [2, 1, 4],
            4,
            |lane, i| ((lane >> 2) + 8 * i, lane % 4),
            |lane, _| (lane % 4, lane >> 2),
            C16,
        ),
        (
            "m16n8k8",
            [4, 2, 4],
            8,
            |lane, i| {
                (
                    if i == 0 || i == 2 { lane >> 2 } else { (lane >> 2) + 8 },
                    lane % 4 + if i < 2 { 0 } else { 4 },
                )
            },
            |lane, i| (lane % 4 + 4 * i, lane >> 2),
            C16,
        ),
        (
            "m16n8k16",
            [8, 4, 4],
            16,
            |lane, i| (if i % 2 == 0 { lane >> 2 } else { (lane >> 2) + 8 }, i / 2 * 4 + lane % 4),
            |lane, i| (lane % 4 + i * 4, lane >> 2),
            C16,
        ),
    ];
    let value = |operand: usize, row: usize, column: usize| {
        let bits = noise(operand, row, column);
        f64::from(bits as u32 as i32) * 2f64.powi((bits % 40) as i32 - 20)
    };
    for (shape, [a_count, b_count, c_count], depth, a, b, c) in shapes {
        for round in ["", ".rn"] {
            let text =
                format!("mma.sync.aligned.{shape}.row.col{round}.f64.f64.f64.f64 D, A, B, C;");
            let out =
                warp(&text, true, [c_count, a_count, b_count, c_count, 0], |operand, lane, i| {
                    let (row, column) = [a, b, c][operand](lane, i);
                    value(operand, row, column).to_bits()
                });
            for (lane, registers) in out.iter().enumerate() {
                for (register, &got) in registers.iter().enumerate() {
                    let (row, column) = c(lane, register);
                    let want = (0..depth).fold(value(2, row, column), |sum, k| {
                        value(0, row, k).mul_add(value(1, k, column), sum)
                    });
                    assert_eq!(f64::from_bits(got), want, "{text} row {row} column {column}");
                }
            }
        }
    }
    // 1 + 2^-60 rounded up.
    let text = "mma.sync.aligned.m8n8k4.row.col.rp.f64.f64.f64.f64 D, A, B, C;";
    let out = warp(text, true, [2, 1, 1, 2, 0], |operand, _, _| {
        [2f64.powi(-31), 2f64.powi(-31), 1.0][operand].to_bits()
    });
    assert!(out.iter().flatten().all(|&bits| bits == (1f64 + 4.0 * f64::EPSILON).to_bits()));
}

#[test]
fn quads_of_lanes_compute_four_products() {
    let row_of = |lane: usize| lane % 4 + if lane < 16 { 0 } else { 4 };
    let value = |operand: usize, quad: usize, row: usize, column: usize| {
        (noise(operand + 10 * quad, row, column) % 15) as f32 - 7.0
    };
    for (a_layout, b_layout) in [("row", "row"), ("row", "col"), ("col", "row"), ("col", "col")] {
        for (d_type, c_type) in [("f32", "f32"), ("f32", "f16"), ("f16", "f16")] {
            let count = |ty: &str| if ty == "f32" { 8 } else { 4 };
            let text = format!(
                "mma.sync.aligned.m8n8k4.{a_layout}.{b_layout}.{d_type}.f16.f16.{c_type} D, A, B, C;"
            );
            let of_c = |lane: usize, i: usize, ty: &str| match ty {
                "f32" => (
                    (lane & 1) + (i & 2) + if lane < 16 { 0 } else { 4 },
                    (i & 4) + (lane & 2) + (i & 1),
                ),
                _ => (row_of(lane), i),
            };
            let out = warp(
                &text,
                false,
                [count(d_type), 2, 2, count(c_type), 0],
                |operand, lane, register| {
                    let quad = lane % 16 / 4;
                    let half = |i: usize| {
                        let (row, column) = match (operand, a_layout, b_layout) {
                            (0, "row", _) => (row_of(lane), i),
                            (0, ..) => (i + if lane < 16 { 0 } else { 4 }, lane % 4),
                            (1, _, "row") => (lane % 4, i + if lane < 16 { 0 } else { 4 }),
                            (1, ..) => (i, row_of(lane)),
                            _ => of_c(lane, i, c_type),
                        };
                        u64::from(f16::from_f32(value(operand, quad, row, column)).to_bits())
                    };
                    if operand == 2 && c_type == "f32" {
                        let (row, column) = of_c(lane, register, c_type);
                        return u64::from(value(2, quad, row, column).to_bits());
                    }
                    half(2 * register) | half(2 * register + 1) << 16
                },
            );
            for (lane, registers) in out.iter().enumerate() {
                for i in 0..8 {
                    let (row, column) = of_c(lane, i, d_type);
                    let quad = lane % 16 / 4;
                    let want = (0..4).fold(value(2, quad, row, column), |sum, k| {
                        sum + value(0, quad, row, k) * value(1, quad, k, column)
                    });
                    let got = match d_type {
                        "f32" => f32::from_bits(registers[i] as u32),
                        _ => f16::from_bits((registers[i / 2] >> (16 * (i % 2))) as u16).to_f32(),
                    };
                    assert_eq!(got, want, "{text} lane {lane} element {i}");
                }
            }
        }
    }
}

/// A sparse form: type, bits, dense depth, registers of A and B, whether a row has words of its
/// own, and how many selectors exist.
type Sparse = (&'static str, usize, usize, [usize; 2], bool, usize);

const SPARSE: [Sparse; 9] = [
    ("f16", 16, 16, [2, 2], false, 4),
    ("bf16", 16, 32, [4, 4], false, 2),
    ("tf32", 32, 8, [2, 2], false, 4),
    ("tf32", 32, 16, [4, 4], false, 2),
    ("e4m3", 8, 64, [4, 4], true, 1),
    ("s8", 8, 32, [2, 2], true, 2),
    ("u8", 8, 64, [4, 4], true, 1),
    ("s4", 4, 64, [2, 2], true, 2),
    ("u4", 4, 128, [4, 4], true, 1),
];

fn encode(ty: &str, value: i64) -> u64 {
    match ty {
        "f16" => f16::from_f32(value as f32).to_bits().into(),
        "bf16" => bf16::from_f32(value as f32).to_bits().into(),
        "tf32" => (value as f32).to_bits().into(),
        // 0 to 7 and their negatives, in e4m3.
        "e4m3" => {
            let magnitude =
                [0, 0x38, 0x40, 0x44, 0x48, 0x4a, 0x4c, 0x4e][value.unsigned_abs() as usize];
            magnitude | if value < 0 { 0x80 } else { 0 }
        }
        _ => value as u64,
    }
}

#[test]
fn sparse_rows_meet_the_columns_that_metadata_names() {
    for (ty, bits, depth, [a_count, b_count], row_is_word, selectors) in SPARSE {
        let is_float = !ty.starts_with(['s', 'u']);
        let signed = !ty.starts_with('u');
        let per_word = 32 / bits;
        let value = |operand: usize, row: usize, column: usize| {
            let value = (noise(operand, row, column) % 7) as i64;
            if signed { value - 3 } else { value }
        };
        // Index pairs of each chunk; for one of two, the first or the second.
        let pairs: &[u64] = match bits {
            32 => &[0b0100, 0b1110],
            _ => &[0b0100, 0b1000, 0b1001, 0b1100, 0b1101, 0b1110],
        };
        let chunk = match bits {
            32 => 2,
            4 => 8,
            _ => 4,
        };
        let nibble = |row: usize, chunk: usize| pairs[noise(77, row, chunk) as usize % pairs.len()];
        // The dense column of the stored element at `place`.
        let column = |row: usize, place: usize| {
            let nibble = nibble(row, place / (chunk / 2)) as usize;
            match bits {
                32 => 2 * place + usize::from(nibble == 0b1110),
                4 => place / 4 * 8 + (nibble >> (place % 4 / 2 * 2) & 3) * 2 + place % 2,
                _ => place / 2 * 4 + (nibble >> (place % 2 * 2) & 3),
            }
        };
        for selector in 0..selectors {
            let (d, modifier) = if is_float { ("f32", "") } else { ("s32", ".satfinite") };
            let text = format!(
                "mma.sp.sync.aligned.m16n8k{depth}.row.col{modifier}.{d}.{ty}.{ty}.{d} D, A, B, C, E, 0x{selector};"
            );
            let number = |value: i64| match is_float {
                true => u64::from((value as f32).to_bits()),
                false => u64::from(value as u32),
            };
            let mask = if bits == 32 { u64::from(u32::MAX) } else { (1 << bits) - 1 };
            let out = warp(&text, false, [4, a_count, b_count, 4, 1], |operand, lane, register| {
                let (group, member) = (lane / 4, lane % 4);
                match operand {
                    0 => (0..per_word).fold(0, |word, element| {
                        let row = group + 8 * (register % 2);
                        let place = per_word * (member + 4 * (register / 2)) + element;
                        let value = value(0, row, column(row, place));
                        word | (encode(ty, value) & mask) << (bits * element)
                    }),
                    1 => (0..per_word).fold(0, |word, element| {
                        let k = per_word * (member + 4 * register) + element;
                        word | (encode(ty, value(1, k, group)) & mask) << (bits * element)
                    }),
                    2 => {
                        let (row, column) = C16(lane, register);
                        number(value(2, row, column))
                    }
                    // Lanes that do not contribute hold nonsense.
                    _ => {
                        let nibbles = |row: usize, first: usize, count: usize| {
                            (0..count).fold(0, |all, i| all | nibble(row, first + i) << (4 * i))
                        };
                        match (row_is_word, selectors) {
                            (false, 4) if member == selector => {
                                nibbles(group, 0, 4) | nibbles(group + 8, 0, 4) << 16
                            }
                            (false, 2) if member / 2 == selector => {
                                let first = 4 * (member % 2);
                                nibbles(group, first, 4) | nibbles(group + 8, first, 4) << 16
                            }
                            (true, 2) if member / 2 == selector => {
                                nibbles(group + 8 * (member % 2), 0, 8)
                            }
                            (true, 1) => nibbles(group + 8 * (member % 2), 8 * (member / 2), 8),
                            _ => noise(5, lane, 0),
                        }
                    }
                }
            });
            for (lane, registers) in out.iter().enumerate() {
                for (register, &got) in registers.iter().enumerate() {
                    let (row, n) = C16(lane, register);
                    let sum: i64 = (0..depth / 2)
                        .map(|place| column(row, place))
                        .map(|k| value(0, row, k) * value(1, k, n))
                        .sum();
                    assert_eq!(got, number(sum + value(2, row, n)), "{text} row {row} column {n}");
                }
            }
        }
    }
}

#[test]
fn accumulators_may_change_places() {
    let body = "mov.u32 %r0, 10; mov.u32 %r1, 20; mov.u32 %r4, 0x01010101; mov.u32 %r5, 0x01010101;\n\
        mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%r0, %r1}, {%r4}, {%r5}, {%r1, %r0};\n\
        mad.wide.u32 %rd1, %t, 8, %y; st.global.v2.b32 [%rd1], {%r0, %r1};";
    let out = run(&kernel(body), &block(32), &[0; 4], &[0; 256]).unwrap();
    assert!(machine::words(&out).chunks(2).all(|pair| pair == [36, 26]));
}

#[test]
fn forms_that_do_not_exist_are_refused() {
    for text in [
        "mma.sync.aligned.m16n8k16.row.col.s32.s4.s4.s32 {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%r6}, {%r0,%r1,%r2,%r3};",
        "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32 {%r0,%r1}, {%r4}, {%r6}, {%r0,%r1};",
        "mma.sync.aligned.m8n8k16.row.col.s32.s8.s4.s32 {%r0,%r1}, {%r4}, {%r6}, {%r0,%r1};",
        "mma.sync.aligned.m8n8k4.row.col.f16.f16.f16.f32 {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%r6,%r7}, {%r0,%r1,%r2,%r3,%r4,%r5,%r6,%r7};",
        "mma.sync.aligned.m8n8k8.row.col.f64.f64.f64.f64 {%rd0,%rd1}, {%rd2}, {%rd3}, {%rd0,%rd1};",
        "mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%r0,%r1,%r2,%r3}, {%r4,%r5,%r6,%r7}, {%r4,%r5,%r6,%r7}, {%r0,%r1,%r2,%r3}, %r8, 2;",
        "mma.sync.aligned.m16n8k4294967295.row.col.f32.f16.f16.f32 {%r0,%r1,%r2,%r3}, {%r4}, {%r6}, {%r0,%r1,%r2,%r3};",
    ] {
        assert!(machine::module(&kernel(text)).is_err(), "{text}");
    }
}
