//! Video instructions against the pseudo-code of the PTX ISA (9.7.18), in 64-bit and 128-bit
//! integers.

mod machine;

use machine::lanes32;

const EDGES: [u32; 9] = [
    0,
    1,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x80ff_7f01,
    0x1234_5678,
    0xfedc_ba98,
    0x00ff_ff00,
];

fn inputs() -> Vec<[u32; 3]> {
    let c = |a: u32, b: u32| a.wrapping_mul(0x9e37_79b1).rotate_left(11) ^ b;
    EDGES.iter().flat_map(|&a| EDGES.map(|b| [a, b, c(a, b)])).collect()
}

/// An instruction and what it makes of A, B and C.
type Form = (String, Box<dyn Fn(u32, u32, u32) -> u32>);

/// Runs every form on all inputs.
fn check(forms: &[Form]) {
    let inputs = inputs();
    for (text, expected) in forms {
        for (out, &[a, b, c]) in lanes32(text, &inputs).into_iter().zip(&inputs) {
            assert_eq!(out, expected(a, b, c), "{text} on {a:#x}, {b:#x}, {c:#x}");
        }
    }
}

/// `partSelectSignExtend`.
fn part(word: u32, signed: bool, select: &str) -> i64 {
    let bytes = word.to_le_bytes();
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    match (select, signed) {
        ("", true) => i64::from(word as i32),
        ("", false) => i64::from(word),
        ("h0" | "h1", signed) => {
            let half = half(if select == "h0" { 0 } else { 2 });
            if signed { i64::from(half as i16) } else { i64::from(half) }
        }
        (byte, signed) => {
            let byte = bytes[byte[1..].parse::<usize>().expect("a digit")];
            if signed { i64::from(byte as i8) } else { i64::from(byte) }
        }
    }
}

fn signed(ty: &str) -> bool {
    ty == "s32"
}

fn dot(select: &str) -> String {
    if select.is_empty() { String::new() } else { format!(".{select}") }
}

fn primary(op: &str, a: i64, b: i64) -> i64 {
    match op {
        "add" => a + b,
        "sub" => a - b,
        "avrg" => (if a + b >= 0 { a + b + 1 } else { a + b }).div_euclid(2),
        "absdiff" => (a - b).abs(),
        "min" => std::cmp::min(a, b),
        "max" => std::cmp::max(a, b),
        "eq" => (a == b).into(),
        "ne" => (a != b).into(),
        "lt" => (a < b).into(),
        "le" => (a <= b).into(),
        "gt" => (a > b).into(),
        _ => (a >= b).into(),
    }
}

fn clamp(value: i64, bits: u32, signed: bool) -> i64 {
    let (low, high) = match signed {
        true => (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1),
        false => (0, (1i64 << bits) - 1),
    };
    value.max(low).min(high)
}

#[test]
fn scalar_forms_extract_clamp_and_merge() {
    let mut forms: Vec<Form> = Vec::new();
    let types = ["u32", "s32"];
    for op in ["add", "sub", "absdiff", "min", "max"] {
        for (index, (d, a, b)) in types
            .iter()
            .flat_map(|&d| types.iter().flat_map(move |&a| types.map(|b| (d, a, b))))
            .enumerate()
        {
            let selects = ["", "b0", "b3", "h0", "h1", "b2", "", "b1"];
            let (asel, bsel) = (selects[index], selects[(index * 3 + 1) % 8]);
            for sat in [false, true] {
                let dotted = if sat { ".sat" } else { "" };
                let head = format!("v{op}.{d}.{a}.{b}{dotted}");
                let sources = format!("%a{}, %b{}", dot(asel), dot(bsel));
                let value = move |x: u32, y: u32, bits: u32| {
                    let t = primary(op, part(x, signed(a), asel), part(y, signed(b), bsel));
                    if sat { clamp(t, bits, signed(d)) } else { t }
                };
                forms.push((
                    format!("{head} %d, {sources};"),
                    Box::new(move |x, y, _| value(x, y, 32) as u32),
                ));
                for second in ["add", "min", "max"] {
                    forms.push((
                        format!("{head}.{second} %d, {sources}, %c;"),
                        Box::new(move |x, y, z| {
                            primary(second, value(x, y, 32), part(z, signed(d), "")) as u32
                        }),
                    ));
                }
                for (dsel, bits, at) in [("b0", 8, 0), ("b2", 8, 16), ("h0", 16, 0), ("h1", 16, 16)]
                {
                    let ones = ((1u64 << bits) - 1) as u32;
                    forms.push((
                        format!("{head} %d.{dsel}, {sources}, %c;"),
                        Box::new(move |x, y, z| {
                            (value(x, y, bits) as u32 & ones) << at | z & !(ones << at)
                        }),
                    ));
                }
            }
        }
    }
    check(&forms);
}

#[test]
fn shifts_stop_at_the_width_or_wrap() {
    let mut forms: Vec<Form> = Vec::new();
    for (left, name) in [(true, "vshl"), (false, "vshr")] {
        for (wrap, mode) in [(true, "wrap"), (false, "clamp")] {
            for a in ["u32", "s32"] {
                forms.push((
                    format!("{name}.u32.{a}.u32.{mode} %d, %a, %b.b0;"),
                    Box::new(move |x, y, _| {
                        let by = part(y, false, "b0");
                        let by = if wrap { by % 32 } else { by.min(32) };
                        let x = i128::from(part(x, signed(a), ""));
                        (if left { x << by } else { x >> by }) as u32
                    }),
                ));
            }
        }
    }
    forms.push((
        "vshl.s32.s32.u32.sat.clamp.add %d, %a.h1, %b.b1, %c;".to_string(),
        Box::new(|x, y, z| {
            let wide = i128::from(part(x, true, "h1")) << part(y, false, "b1").min(32);
            let clamped = wide.max(i128::from(i32::MIN)).min(i128::from(i32::MAX)) as i64;
            (clamped + part(z, true, "")) as u32
        }),
    ));
    check(&forms);
}

#[test]
fn comparisons_give_one_or_zero() {
    let mut forms: Vec<Form> = Vec::new();
    for op in ["eq", "ne", "lt", "le", "gt", "ge"] {
        for (a, b) in [("u32", "u32"), ("s32", "u32"), ("s32", "s32")] {
            let value = move |x, y| primary(op, part(x, signed(a), ""), part(y, signed(b), "h1"));
            forms.push((
                format!("vset.{a}.{b}.{op} %d, %a, %b.h1;"),
                Box::new(move |x, y, _| value(x, y) as u32),
            ));
            forms.push((
                format!("vset.{a}.{b}.{op}.add %d, %a, %b.h1, %c;"),
                Box::new(move |x, y, z| (value(x, y) + i64::from(z)) as u32),
            ));
        }
    }
    check(&forms);
}

#[test]
fn multiply_adds_negate_round_up_and_scale() {
    let mut forms: Vec<Form> = Vec::new();
    for (a, b) in [("u32", "u32"), ("u32", "s32"), ("s32", "u32"), ("s32", "s32")] {
        for (minus_ab, minus_c, po) in [
            (false, false, false),
            (true, false, false),
            (false, true, false),
            (false, false, true),
        ] {
            for (scale, shift) in [("", 0), (".shr7", 7), (".shr15", 15)] {
                for sat in [false, true] {
                    let text = format!(
                        "vmad.{}.{a}.{b}{}{}{scale} %d, {}%a, %b.h0, {}%c;",
                        if signed(a) || signed(b) || minus_ab || minus_c { "s32" } else { "u32" },
                        if po { ".po" } else { "" },
                        if sat { ".sat" } else { "" },
                        if minus_ab { "-" } else { "" },
                        if minus_c { "-" } else { "" },
                    );
                    let is_signed = signed(a) || signed(b) || minus_ab || minus_c;
                    let expected = move |x, y, z: u32| {
                        let product = i128::from(part(x, signed(a), ""))
                            * i128::from(part(y, signed(b), "h0"));
                        let c = if minus_c { !z } else { z };
                        let c = i128::from(part(c, is_signed, ""));
                        let lsb = i128::from(po || minus_ab || minus_c);
                        let tmp = (if minus_ab { !product } else { product }) + c + lsb;
                        let result = tmp >> shift;
                        match (sat, is_signed) {
                            (false, _) => result as u32,
                            (true, true) => {
                                result.clamp(i32::MIN.into(), i32::MAX.into()) as i32 as u32
                            }
                            (true, false) => result.clamp(0, u32::MAX.into()) as u32,
                        }
                    };
                    forms.push((text, Box::new(expected)));
                }
            }
        }
    }
    check(&forms);
}

/// Part `index` of `b:a`, of `8 size` bits.
fn chosen(a: u32, b: u32, index: usize, size: usize, signed: bool) -> i64 {
    let bytes: Vec<u8> = a.to_le_bytes().into_iter().chain(b.to_le_bytes()).collect();
    match size {
        1 if signed => i64::from(bytes[index] as i8),
        1 => i64::from(bytes[index]),
        _ => {
            let half = u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]);
            if signed { i64::from(half as i16) } else { i64::from(half) }
        }
    }
}

/// `mask` and choices of parts, lowest lane first.
type Choices = (&'static str, u32, &'static str, [usize; 4], &'static str, [usize; 4]);

const OF_TWO: [Choices; 3] = [
    ("", 3, "", [0, 1, 0, 0], "", [2, 3, 0, 0]),
    (".h0", 1, ".h32", [2, 3, 0, 0], ".h01", [1, 0, 0, 0]),
    (".h10", 3, ".h13", [3, 1, 0, 0], "", [2, 3, 0, 0]),
];
const OF_FOUR: [Choices; 3] = [
    ("", 15, "", [0, 1, 2, 3], "", [4, 5, 6, 7]),
    (".b2", 4, ".b7531", [1, 3, 5, 7], ".b0123", [3, 2, 1, 0]),
    (".b310", 11, "", [0, 1, 2, 3], ".b4567", [7, 6, 5, 4]),
];

#[test]
fn simd_forms_choose_clamp_merge_and_add() {
    let mut forms: Vec<Form> = Vec::new();
    let ops = ["add", "sub", "avrg", "absdiff", "min", "max", "lt", "ne"];
    for (lanes, table) in [(2usize, OF_TWO), (4, OF_FOUR)] {
        for (number, op) in ops.into_iter().enumerate() {
            for (d, a, b) in [("u32", "u32", "u32"), ("s32", "s32", "s32"), ("s32", "u32", "s32")] {
                for (tail, sat, adds) in
                    [("", false, false), (".sat", true, false), (".add", false, true)]
                {
                    let is_set = number >= 6;
                    if is_set && sat {
                        continue;
                    }
                    for (dsel, mask, asel, from_a, bsel, from_b) in table {
                        let head = match is_set {
                            true => format!("vset{lanes}.{a}.{b}.{op}{tail}"),
                            false => format!("v{op}{lanes}.{d}.{a}.{b}{tail}"),
                        };
                        let size = 4 / lanes;
                        let bits = 8 * size as u32;
                        let expected = move |x: u32, y: u32, z: u32| {
                            let mut sum = i64::from(z);
                            let mut merged = u64::from(z);
                            for lane in 0..lanes {
                                if mask >> lane & 1 == 0 {
                                    continue;
                                }
                                let u = chosen(x, y, from_a[lane], size, signed(a));
                                let v = chosen(x, y, from_b[lane], size, signed(b));
                                let t = primary(op, u, v);
                                let t = if sat { clamp(t, bits, signed(d)) } else { t };
                                sum += t;
                                let ones = ((1u64 << bits) - 1) << (lane as u32 * bits);
                                merged = merged & !ones | (t as u64) << (lane as u32 * bits) & ones;
                            }
                            if adds { sum as u32 } else { merged as u32 }
                        };
                        forms.push((
                            format!("{head} %d{dsel}, %a{asel}, %b{bsel}, %c;"),
                            Box::new(expected),
                        ));
                    }
                }
            }
        }
    }
    check(&forms);
}

#[test]
fn parts_that_do_not_exist_are_refused() {
    for body in [
        "vadd.u32.u32.u32 %d, %a.b4, %b;",
        "vadd.u32.u32.u32 %d.h0, %a, %b;",
        "vadd.u32.u16.u32 %d, %a, %b;",
        "vadd2.u32.u32.u32 %d.h2, %a, %b, %c;",
        "vadd4.u32.u32.u32 %d, %a.b321, %b, %c;",
        "vmad.s32.u32.u32 %d, -%a, %b, -%c;",
        "vset.u32.u32 %d, %a, %b;",
    ] {
        let text = machine::kernel(&format!(".reg .b32 %a, %b, %c, %d; {body}"));
        assert!(machine::module(&text).is_err(), "{body}");
    }
}
