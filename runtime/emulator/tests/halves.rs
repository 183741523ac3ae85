//! 16-bit floats with modifiers, and packing of small integers, against float64 and i128.

mod machine;

use half::{bf16, f16};
use machine::{lanes32, one32};

const HALVES: [f32; 12] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    65504.0,
    -65504.0,
    5.960_464_5e-8,
    -3.0e-5,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    0.333,
];

/// Pairs of values in both halves of a word, the second half in reverse order.
fn inputs(bits: fn(f32) -> u16) -> Vec<[u32; 3]> {
    let at = |index: usize| u32::from(bits(HALVES[index % HALVES.len()]));
    let pair = |index: usize| at(index) | at(HALVES.len() + 5 - index % HALVES.len()) << 16;
    let count = HALVES.len();
    (0..count * count)
        .map(|i| [pair(i), pair(i / count + 3 * (i % 2)), pair(i + 7 * (i / count))])
        .collect()
}

/// A 16-bit format and its conversions.
#[derive(Clone, Copy)]
struct Format {
    name: &'static str,
    bits: fn(f32) -> u16,
    value: fn(u16) -> f64,
    /// Smallest normal number.
    normal: f64,
}

const F16: Format = Format {
    name: "f16",
    bits: |x| f16::from_f32(x).to_bits(),
    value: |x| f16::from_bits(x).to_f64(),
    normal: 6.103_515_625e-5,
};
const BF16: Format = Format {
    name: "bf16",
    bits: |x| bf16::from_f32(x).to_bits(),
    value: |x| bf16::from_bits(x).to_f64(),
    normal: 1.175_494_350_822_287_5e-38,
};

impl Format {
    /// Runs the packed form and compares each half; results that are NaN are the canonical one.
    fn check(self, text: &str, expected: impl Fn([f64; 3], [u16; 3]) -> f64) {
        let inputs = inputs(self.bits);
        let text = text.replace("TYPE", &format!("{}x2", self.name));
        let third = if text.starts_with("fma") { ", %c" } else { "" };
        let body = format!("{text} %d, %a, %b{third};");
        for (out, input) in lanes32(&body, &inputs).into_iter().zip(&inputs) {
            for half in [0, 16] {
                let bits = input.map(|word| (word >> half) as u16);
                let want = expected(bits.map(self.value), bits);
                let got = (out >> half) as u16;
                let value = (self.value)(got);
                let same = if want.is_nan() {
                    got == 0x7fff
                } else {
                    value == want && value.is_sign_negative() == want.is_sign_negative()
                };
                assert!(same, "{body} on {bits:x?}: {got:#x} = {value}, not {want}");
            }
        }
    }
}

#[test]
fn xorsign_takes_the_magnitude_and_the_product_of_signs() {
    for format in [F16, BF16] {
        for (op, larger) in [("min", false), ("max", true)] {
            for nan_wins in [false, true] {
                let nan = if nan_wins { ".NaN" } else { "" };
                format.check(&format!("{op}{nan}.xorsign.abs.TYPE"), |[a, b, _], _| {
                    let sign =
                        if a.is_sign_negative() != b.is_sign_negative() { -1.0 } else { 1.0 };
                    let (x, y) = (a.abs(), b.abs());
                    if nan_wins && (x.is_nan() || y.is_nan()) {
                        return f64::NAN;
                    }
                    // These ignore one NaN.
                    (if larger { x.max(y) } else { x.min(y) }) * sign
                });
            }
        }
    }
    F16.check("min.ftz.xorsign.abs.TYPE", |[a, b, _], _| {
        let flush = |x: f64| if x.abs() < F16.normal { 0.0f64.copysign(x) } else { x };
        let sign = if a.is_sign_negative() != b.is_sign_negative() { -1.0 } else { 1.0 };
        flush(a).abs().min(flush(b).abs()) * sign
    });
}

#[test]
fn xorsign_of_float32() {
    let run = |op: &str, a: f32, b: f32| {
        f32::from_bits(one32(&format!("{op} %d, %a, %b;"), a.to_bits(), b.to_bits(), 0))
    };
    assert_eq!(run("min.xorsign.abs.f32", -3.0, 2.0), -2.0);
    assert_eq!(run("max.xorsign.abs.f32", -3.0, -2.0), 3.0);
    assert_eq!(run("max.xorsign.abs.f32", f32::NAN, -2.0), -2.0);
    assert_eq!(run("max.NaN.xorsign.abs.f32", f32::NAN, -2.0).to_bits(), 0x7fff_ffff);
    let tiny = -f32::from_bits(3);
    assert_eq!(run("max.ftz.xorsign.abs.f32", tiny, 0.0).to_bits(), (-0.0f32).to_bits());
    assert_eq!(run("max.xorsign.abs.f32", tiny, 0.0), tiny);
    let text = machine::kernel(".reg .b32 %d, %a, %b; min.xorsign.f32 %d, %a, %b;");
    assert!(machine::module(&text).is_err());
}

#[test]
fn operands_from_outside_a_tensor_make_zeros() {
    // Products of these numbers and sums with them fit float64, whose one rounding is then undone
    // by the comparison with the format's own rounding below.
    let round = |format: Format, value: f64| {
        // Two roundings would differ only at ties of the first, which these inputs avoid.
        (format.value)((format.bits)(value as f32))
    };
    for format in [F16, BF16] {
        for relu in [false, true] {
            let modifier = if relu { ".relu" } else { "" };
            format.check(&format!("fma.rn.oob{modifier}.TYPE"), |[a, b, c], bits| {
                if bits.contains(&0x7fff) {
                    return 0.0;
                }
                let sum = round(format, a.mul_add(b, c));
                if relu && sum <= 0.0 { 0.0 } else { sum }
            });
        }
    }
}

#[test]
fn saturation_and_flushing_go_together() {
    let flush = |x: f64| if x.abs() < F16.normal { 0.0f64.copysign(x) } else { x };
    // max and min take the other operand of a NaN: 0.
    let sat = |x: f64| if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 };
    let round = |x: f64| f16::from_f64(x).to_f64();
    F16.check("sub.ftz.sat.TYPE", |[a, b, _], _| flush(sat(round(flush(a) - flush(b)))));
    F16.check("sub.sat.TYPE", |[a, b, _], _| sat(round(a - b)));
    F16.check("fma.rn.ftz.sat.TYPE", |[a, b, c], _| {
        flush(sat(round(flush(a).mul_add(flush(b), flush(c)))))
    });
}

#[test]
fn small_integers_are_packed_below_the_third_operand() {
    for (ty, bits, low, high) in [
        ("s4", 4, -8i64, 7i64),
        ("u4", 4, 0, 15),
        ("s2", 2, -2, 1),
        ("u2", 2, 0, 3),
        ("u8", 8, 0, 255),
    ] {
        let values = [0u32, 1, 7, 8, 0xffff_ffff, 0x8000_0000, 300, 0xffff_fff0];
        let inputs: Vec<[u32; 3]> =
            values.iter().flat_map(|&a| values.map(|b| [a, b, a ^ 0x1357_9bdf])).collect();
        let body = format!("cvt.pack.sat.{ty}.s32.b32 %d, %a, %b, %c;");
        for (out, &[a, b, c]) in lanes32(&body, &inputs).into_iter().zip(&inputs) {
            let cut = |x: u32| i64::from(x as i32).clamp(low, high).rem_euclid(1 << bits) as u128;
            let all = u128::from(c) << (2 * bits) | cut(a) << bits | cut(b);
            assert_eq!(out, all as u32, "{body} on {a:#x}, {b:#x}, {c:#x}");
        }
    }
}

#[test]
fn products_of_24_bits_saturate_their_sum() {
    let inputs =
        [[0x7f_ffff, 0x7f_ffff, 0x7fff_0000], [0x80_0000, 0x7f_ffff, 0x8000_0100], [5, 7, 9]];
    for (out, [a, b, c]) in
        lanes32("mad24.hi.sat.s32 %d, %a, %b, %c;", &inputs).into_iter().zip(inputs)
    {
        let cut = |x: u32| i128::from(x & 0xff_ffff);
        let signed = |x: u32| (cut(x) ^ 0x80_0000) - 0x80_0000;
        let sum = ((signed(a) * signed(b)) >> 16) + i128::from(c as i32);
        assert_eq!(out, sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32);
    }
}
