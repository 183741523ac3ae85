//! Conversions, exhaustively where the source has few bits.

mod machine;

use half::{bf16, f16};
use machine::{lanes32, one32, one64};

#[test]
fn integers_saturate_and_extend() {
    assert_eq!(one32("cvt.sat.u8.s32 %h1, %a; cvt.u32.u16 %d, %h1;", 300, 0, 0), 255);
    assert_eq!(one32("cvt.sat.u8.s32 %h1, %a; cvt.u32.u16 %d, %h1;", -5i32 as u32, 0, 0), 0);
    assert_eq!(one32("cvt.s32.s8 %d, %a;", 0x80, 0, 0), 0xffff_ff80);
    assert_eq!(one64("cvt.s64.s32 %d, %r1;", 0, 0, 0), 0);
    let body = "cvt.u32.u64 %r1, %a; cvt.s64.s32 %d, %r1;";
    assert_eq!(one64(body, 0x8000_0000, 0, 0), 0xffff_ffff_8000_0000);
}

#[test]
fn floats_become_integers_in_each_mode() {
    for (mode, value, expected) in [
        ("rni", 2.5f32, 2),
        ("rni", 3.5, 4),
        ("rzi", -2.7, -2),
        ("rmi", -2.1, -3),
        ("rpi", 2.1, 3),
        ("rzi", 3e9, i32::MAX),
        ("rzi", -3e9, i32::MIN),
        ("rzi", f32::NAN, 0),
    ] {
        let body = format!("cvt.{mode}.s32.f32 %d, %a;");
        assert_eq!(one32(&body, value.to_bits(), 0, 0) as i32, expected, "{mode} {value}");
    }
    assert_eq!(one32("cvt.rni.f32.f32 %d, %a;", 2.5f32.to_bits(), 0, 0), 2f32.to_bits());
    assert_eq!(one64("cvt.rzi.s64.f64 %d, %a;", f64::NAN.to_bits(), 0, 0), 1 << 63);
}

#[test]
fn integers_become_floats_with_one_rounding() {
    // 2^24 + 1 is a tie.
    for (mode, expected) in [("rn", 16777216.0f32), ("rz", 16777216.0), ("rp", 16777218.0)] {
        let body = format!("cvt.{mode}.f32.s32 %d, %a;");
        assert_eq!(one32(&body, (1 << 24) + 1, 0, 0), expected.to_bits(), "{mode}");
    }
    // 2^63 + 2^39 + 1: above the tie of float32, which float64 would lose.
    let body = "cvt.rn.f32.u64 %r1, %a; cvt.u64.u32 %d, %r1;";
    let value = (1u64 << 63) + (1 << 39) + 1;
    assert_eq!(one64(body, value, 0, 0), u64::from((value as f32).to_bits()));
}

#[test]
fn every_float16_and_bfloat16_widens_exactly() {
    for start in (0..65536u32).step_by(1024) {
        let inputs: Vec<[u32; 3]> = (start..start + 1024).map(|bits| [bits, 0, 0]).collect();
        let half = lanes32("cvt.u16.u32 %h1, %a; cvt.f32.f16 %d, %h1;", &inputs);
        let brain = lanes32("cvt.u16.u32 %h1, %a; cvt.f32.bf16 %d, %h1;", &inputs);
        for (index, bits) in (start..start + 1024).enumerate() {
            let expected = f32::from(f16::from_bits(bits as u16));
            let got = f32::from_bits(half[index]);
            assert!(got == expected || got.is_nan() && expected.is_nan(), "f16 {bits:#x}");
            let expected = f32::from(bf16::from_bits(bits as u16));
            let got = f32::from_bits(brain[index]);
            assert!(got == expected || got.is_nan() && expected.is_nan(), "bf16 {bits:#x}");
        }
    }
}

/// The value of an e4m3 byte, from its definition (OCP 8-bit floating point specification).
fn e4m3(byte: u32) -> f64 {
    let (exponent, mantissa) = ((byte >> 3 & 15) as i32, f64::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa * 2f64.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if byte & 0x80 != 0 { -magnitude } else { magnitude }
}

/// The nearest finite e4m3 byte to a value, ties to the even byte, by search.
fn nearest_e4m3(value: f64) -> u32 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = value.abs();
    let best = (0..0x7f).min_by(|&a, &b| {
        let far = |byte: u32| (e4m3(byte) - magnitude).abs();
        far(a).total_cmp(&far(b)).then((a & 1).cmp(&(b & 1)))
    });
    sign | best.expect("there are bytes")
}

#[test]
fn e4m3_conversion_is_to_nearest_even_and_saturates() {
    let mut values: Vec<f32> = (0..0x7f).map(|byte| e4m3(byte) as f32).collect();
    let ties: Vec<f32> = values.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    values.extend(ties.iter().flat_map(|tie| [*tie, tie.next_up(), tie.next_down(), -tie]));
    values.extend([448.0, 464.0, 1e30, f32::INFINITY, f32::NEG_INFINITY, 1e-30, -0.0]);
    let inputs: Vec<[u32; 3]> =
        values.iter().map(|value| [value.to_bits(), 1f32.to_bits(), 0]).collect();
    let body = "cvt.rn.satfinite.e4m3x2.f32 %h1, %a, %b; cvt.u32.u16 %d, %h1;";
    for chunk in inputs.chunks(512) {
        for (out, input) in lanes32(body, chunk).into_iter().zip(chunk) {
            let value = f32::from_bits(input[0]);
            let expected = nearest_e4m3(f64::from(value).clamp(-448.0, 448.0)) << 8 | 0x38;
            assert_eq!(out, expected, "{value}");
        }
    }
    assert_eq!(one32(body, f32::NAN.to_bits(), 0, 0), 0x7f00);
}

#[test]
fn e4m3_and_e5m2_widen_to_halves() {
    let inputs: Vec<[u32; 3]> = (0..256u32).map(|byte| [byte << 8 | 0x38, 0, 0]).collect();
    let body = "cvt.u16.u32 %h1, %a; cvt.rn.f16x2.e4m3x2 %d, %h1;";
    for (byte, out) in (0..256).zip(lanes32(body, &inputs)) {
        let upper = f64::from(f16::from_bits((out >> 16) as u16));
        assert_eq!(out & 0xffff, 0x3c00);
        assert!(upper == e4m3(byte) || upper.is_nan() && e4m3(byte).is_nan(), "{byte:#x}");
    }
    let body = "cvt.u16.u32 %h1, %a; cvt.rn.f16x2.e5m2x2 %d, %h1;";
    assert_eq!(one32(body, 0x3c_7b, 0, 0), 0x3c00_7b00);
}

#[test]
fn the_first_operand_of_a_pair_goes_up() {
    let (one, two) = (1f32.to_bits(), 2f32.to_bits());
    assert_eq!(one32("cvt.rn.bf16x2.f32 %d, %a, %b;", one, two, 0), 0x3f80_4000);
    assert_eq!(one32("cvt.rn.f16x2.f32 %d, %a, %b;", one, two, 0), 0x3c00_4000);
    assert_eq!(one32("cvt.rn.relu.bf16x2.f32 %d, %a, %b;", one | 1 << 31, two, 0), 0x0000_4000);
    assert_eq!(one32("cvt.rna.tf32.f32 %d, %a;", 0x3f80_1000, 0, 0), 0x3f80_2000);
}

#[test]
fn satfinite_and_relu_of_packed_halves() {
    let pair = |op: &str, a: f32, b: f32| {
        one32(&format!("cvt.{op}.f32 %d, %a, %b;"), a.to_bits(), b.to_bits(), 0)
    };
    assert_eq!(pair("rn.satfinite.f16x2", 1e6, -f32::INFINITY), 0x7bff_fbff);
    assert_eq!(pair("rn.f16x2", 1e6, -f32::INFINITY), 0x7c00_fc00);
    assert_eq!(pair("rn.satfinite.bf16x2", f32::MAX, -1.0), 0x7f7f_bf80);
    assert_eq!(pair("rn.satfinite.relu.bf16x2", f32::INFINITY, -1.0), 0x7f7f_0000);
    assert_eq!(pair("rn.satfinite.f16x2", f32::NAN, 1.0), 0x7fff_3c00);
    // 1 + 2^-10 - 2^-20 is cut, not rounded.
    assert_eq!(pair("rz.relu.f16x2", 1.0 + 0.0009765625 - 9.5e-7, -1.0), 0x3c00_0000);
    assert_eq!(pair("rz.relu.bf16x2", -3.0, 1.0078), 0x0000_3f80);
    let body = "cvt.rn.satfinite.relu.e5m2x2.f16x2 %h1, %a; cvt.u32.u16 %d, %h1;";
    assert_eq!(one32(body, 0xbc00_3c00, 0, 0), 0x003c);
    let body = "cvt.rn.satfinite.relu.e4m3x2.f16x2 %h1, %a; cvt.u32.u16 %d, %h1;";
    assert_eq!(one32(body, 0x3c00_bc00, 0, 0), 0x3800);
}

#[test]
fn tf32_drops_negative_values_with_relu() {
    let tf32 = |op: &str, a: f32| one32(&format!("cvt.{op}.tf32.f32 %d, %a;"), a.to_bits(), 0, 0);
    assert_eq!(tf32("rn.relu", -1.5), 0);
    assert_eq!(tf32("rz.relu", -1.5), 0);
    let above = f32::from_bits(0x3f80_1fff);
    assert_eq!(tf32("rz.relu", above), 0x3f80_0000);
    assert_eq!(tf32("rn.relu", above), 0x3f80_2000);
}
