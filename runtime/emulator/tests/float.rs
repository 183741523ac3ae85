//! Floating point against exact arithmetic.

mod machine;

use machine::{lanes32, one32, one64};

fn f(value: f32) -> u32 {
    value.to_bits()
}

fn binary(op: &str, a: f32, b: f32) -> f32 {
    f32::from_bits(one32(&format!("{op} %d, %a, %b;"), f(a), f(b), 0))
}

#[test]
fn sums_round_in_each_mode() {
    // 1 + 2^-25 lies between 1 and the next float.
    let tiny = 2f32.powi(-25);
    assert_eq!(binary("add.rn.f32", 1.0, tiny), 1.0);
    assert_eq!(binary("add.rz.f32", 1.0, tiny), 1.0);
    assert_eq!(binary("add.rp.f32", 1.0, tiny), 1.0f32.next_up());
    assert_eq!(binary("add.rm.f32", -1.0, -tiny), (-1.0f32).next_down());
    assert_eq!(binary("sub.rm.f32", 1.0, tiny), 1.0f32.next_down());
    assert_eq!(f(binary("add.rm.f32", 1.0, -1.0)), f(-0.0));
    assert_eq!(f(binary("add.rz.f32", 1.0, -1.0)), 0);
}

#[test]
fn products_and_quotients_round_in_each_mode() {
    let a = 1.0 + f32::EPSILON;
    // a * a = 1 + 2 eps + eps^2.
    let below = 1.0 + 2.0 * f32::EPSILON;
    assert_eq!(binary("mul.rz.f32", a, a), below);
    assert_eq!(binary("mul.rp.f32", a, a), below.next_up());
    // 1/3 in binary is cut below, so that rounding up adds a step to truncation.
    let third = binary("div.rz.f32", 1.0, 3.0);
    assert!(f64::from(third) < 1.0 / 3.0 && f64::from(third.next_up()) > 1.0 / 3.0);
    assert_eq!(binary("div.rp.f32", 1.0, 3.0), third.next_up());
    assert_eq!(binary("mul.rz.f32", f32::MAX, 2.0), f32::MAX);
    assert_eq!(binary("mul.rn.f32", f32::MAX, 2.0), f32::INFINITY);
}

#[test]
fn fused_multiply_add_rounds_once() {
    let a = 1.0 + f32::EPSILON;
    let out = one32("fma.rn.f32 %d, %a, %b, %c;", f(a), f(a), f(-(1.0 + 2.0 * f32::EPSILON)));
    assert_eq!(f32::from_bits(out), f32::EPSILON * f32::EPSILON);
    let wide = 1.0 + f64::EPSILON;
    let out = one64(
        "fma.rn.f64 %d, %a, %b, %c;",
        wide.to_bits(),
        wide.to_bits(),
        (-(1.0 + 2.0 * f64::EPSILON)).to_bits(),
    );
    assert_eq!(f64::from_bits(out), f64::EPSILON * f64::EPSILON);
}

#[test]
fn double_sums_round_in_each_mode() {
    let tiny = 2f64.powi(-60);
    for (mode, expected) in [("rn", 1.0), ("rz", 1.0), ("rm", 1.0), ("rp", 1.0f64.next_up())] {
        let body = format!("add.{mode}.f64 %d, %a, %b;");
        assert_eq!(f64::from_bits(one64(&body, 1f64.to_bits(), tiny.to_bits(), 0)), expected);
    }
    let body = "fma.rz.f64 %d, %a, %b, %c;";
    let out = one64(body, 1f64.to_bits(), 1f64.to_bits(), (-tiny).to_bits());
    assert_eq!(f64::from_bits(out), 1.0f64.next_down());
}

#[test]
fn flushing_takes_subnormals_away() {
    let subnormal = f32::from_bits(1);
    assert_eq!(f(binary("add.f32", subnormal, 0.0)), 1);
    assert_eq!(f(binary("add.ftz.f32", subnormal, 0.0)), 0);
    assert_eq!(f(binary("mul.ftz.f32", -f32::MIN_POSITIVE, 0.5)), f(-0.0));
}

#[test]
fn saturation_and_nan_follow_the_manual() {
    assert_eq!(binary("add.sat.f32", 0.75, 0.5), 1.0);
    assert_eq!(f(binary("add.sat.f32", f32::NAN, 0.5)), 0);
    assert_eq!(f(binary("add.f32", f32::INFINITY, f32::NEG_INFINITY)), 0x7fff_ffff);
    assert_eq!(binary("min.f32", f32::NAN, 2.0), 2.0);
    assert_eq!(f(binary("max.NaN.f32", f32::NAN, 2.0)), 0x7fff_ffff);
    assert_eq!(f(binary("min.f32", 0.0, -0.0)), f(-0.0));
    assert_eq!(f(binary("max.f32", -0.0, 0.0)), 0);
}

#[test]
fn comparisons_know_unordered_operands() {
    let test = |relation: &str, a: f32, b: f32| {
        let body = format!("setp.{relation}.f32 %p1, %a, %b; selp.u32 %d, 1, 0, %p1;");
        one32(&body, f(a), f(b), 0) == 1
    };
    assert!(!test("lt", f32::NAN, 1.0) && test("ltu", f32::NAN, 1.0));
    assert!(!test("ne", f32::NAN, 1.0) && test("neu", f32::NAN, 1.0));
    assert!(test("equ", 1.0, f32::NAN) && test("nan", 1.0, f32::NAN));
    assert!(test("num", 1.0, 2.0) && test("geu", 2.0, 1.0) && !test("gtu", 1.0, 2.0));
}

/// Distance in units in the last place.
fn ulps(a: f32, b: f64) -> f64 {
    let near = b as f32;
    let unit = (f64::from(near.next_up()) - f64::from(near)).abs();
    ((f64::from(a) - b) / unit).abs()
}

#[test]
fn approximate_functions_are_rounded_correctly() {
    let arguments: Vec<f32> = (0..512).map(|i| 0.013 + 0.37 * i as f32).collect();
    let inputs: Vec<[u32; 3]> = arguments.iter().map(|&a| [f(a), 0, 0]).collect();
    type Function = fn(f64) -> f64;
    let functions: [(&str, Function); 8] = [
        ("rcp.approx.f32", |a| 1.0 / a),
        ("sqrt.approx.f32", f64::sqrt),
        ("rsqrt.approx.f32", |a| 1.0 / a.sqrt()),
        ("lg2.approx.f32", f64::log2),
        ("sin.approx.f32", f64::sin),
        ("cos.approx.f32", f64::cos),
        ("tanh.approx.f32", f64::tanh),
        ("ex2.approx.f32", |a| a.exp2()),
    ];
    for (op, exact) in functions {
        let outs = lanes32(&format!("{op} %d, %a;"), &inputs);
        for (out, &a) in outs.into_iter().zip(&arguments).filter(|(_, a)| **a < 120.0) {
            let (out, exact) = (f32::from_bits(out), exact(f64::from(a)));
            assert!(ulps(out, exact) <= 0.5001, "{op}({a}) = {out}, exactly {exact}");
        }
    }
}

#[test]
fn powers_of_two_are_exact_to_the_ends() {
    let ex2 = |a: f32| f32::from_bits(one32("ex2.approx.f32 %d, %a;", f(a), 0, 0));
    assert_eq!(ex2(0.0), 1.0);
    assert_eq!(ex2(-149.0), f32::from_bits(1));
    assert_eq!(ex2(127.0), 2f32.powi(127));
    assert_eq!(ex2(128.0), f32::INFINITY);
    assert_eq!(ex2(-200.0), 0.0);
    assert_eq!(ex2(f32::NEG_INFINITY), 0.0);
    assert_eq!(f(ex2(f32::NAN)), 0x7fff_ffff);
    let flushed = one32("ex2.approx.ftz.f32 %d, %a;", f(-149.0), 0, 0);
    assert_eq!(flushed, 0);
}

#[test]
fn halves_round_once() {
    // 1 + 2^-11 is a tie in float16 and goes to even.
    assert_eq!(
        one32("cvt.rn.f16.f32 %h1, %a; cvt.u32.u16 %d, %h1;", f(1.0 + 2f32.powi(-11)), 0, 0),
        0x3c00
    );
    // fma: 1 * 1 + 2^-11 + something tiny is above the tie; two roundings would lose it.
    let body = "cvt.u16.u32 %h1, %a; cvt.u16.u32 %h2, %b; cvt.u16.u32 %h3, %c;\n\
                fma.rn.f16 %h4, %h1, %h2, %h3; cvt.u32.u16 %d, %h4;";
    // (1 + 2^-10) * 2^-11 = 2^-11 + 2^-21, plus 1: just above the tie between 1 and 1 + 2^-10.
    assert_eq!(one32(body, 0x3c01, 0x1000, 0x3c00), 0x3c01);
    // Packed bfloat16: 1 + 1 and 2 * 3.
    assert_eq!(one32("add.rn.bf16x2 %d, %a, %b;", 0x3f80_4000, 0x3f80_4040, 0), 0x4000_40a0);
    assert_eq!(one32("mul.rn.f16x2 %d, %a, %b;", 0x4000_4200, 0x4200_3c00, 0), 0x4600_4200);
    assert_eq!(one32("max.NaN.bf16x2 %d, %a, %b;", 0x7fc0_3f80, 0x3f80_4000, 0), 0x7fff_4000);
    assert_eq!(
        one32("fma.rn.relu.f16x2 %d, %a, %b, %c;", 0x3c00_bc00, 0x3c00_3c00, 0),
        0x3c00_0000
    );
}

#[test]
fn packed_halves_are_compared_into_halves() {
    // Lower halves 1 and 2, upper halves NaN and 2.
    let (a, b) = (0x7e00_3c00, 0x4000_4000);
    assert_eq!(one32("set.lt.f16x2.f16x2 %d, %a, %b;", a, b, 0), 0x3c00);
    assert_eq!(one32("set.geu.f16x2.f16x2 %d, %a, %b;", a, b, 0), 0x3c00_0000);
    assert_eq!(one32("set.ltu.u32.f16x2 %d, %a, %b;", a, b, 0), 0xffff_ffff);
    assert_eq!(one32("set.lt.s32.f16x2 %d, %a, %b;", a, b, 0), 0x0000_ffff);
    let (a, b) = (0xbf80_3f80, 0x4000_3f80);
    assert_eq!(one32("set.eq.bf16x2.bf16x2 %d, %a, %b;", a, b, 0), 0x3f80);
    assert_eq!(one32("set.lt.u32.bf16x2 %d, %a, %b;", a, b, 0), 0xffff_0000);
    // With .ftz the smallest subnormal equals zero.
    assert_eq!(one32("set.gt.f16x2.f16x2 %d, %a, %b;", 1, 0, 0), 0x3c00);
    assert_eq!(one32("set.gt.ftz.f16x2.f16x2 %d, %a, %b;", 1, 0, 0), 0);
    let body = "setp.ne.u32 %p1, %c, 0; setp.eq.and.bf16x2 %p1|%p2, %a, %b, %p1;\n\
                selp.b32 %r1, 1, 0, %p1; selp.b32 %r2, 2, 0, %p2; or.b32 %d, %r1, %r2;";
    assert_eq!(one32(body, 0x3f80_3f80, 0x3f80_3f80, 1), 3);
    assert_eq!(one32(body, 0x3f80_3f80, 0x3f80_3f80, 0), 0);
}

#[test]
fn fma_flushes_and_clamps_at_once() {
    let body = "fma.rn.ftz.relu.f16x2 %d, %a, %b, %c;";
    // Upper: 1 * 1 - 2; lower: a subnormal times 1 plus 0.
    assert_eq!(one32(body, 0x3c00_0001, 0x3c00_3c00, 0xc000_0000), 0);
    // Upper: NaN stays; lower: 2 * 2 + 1.
    assert_eq!(one32(body, 0x7e00_4000, 0x3c00_4000, 0x3c00_3c00), 0x7fff_4500);
}
