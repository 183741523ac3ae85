//! Scalar arithmetic as the PTX ISA defines it: flushing, NaNs, saturation, rounding modes.

use half::{bf16, f16};

/// A rounding mode (PTX ISA 9.7.3, "Floating-Point Instructions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// `.rn`: to nearest, ties to even.
    Nearest,
    /// `.rz`.
    Zero,
    /// `.rm`.
    Down,
    /// `.rp`.
    Up,
    /// `.rna`: to nearest, ties away from zero.
    Away,
}

/// The NaN that float32 instructions make.
pub(crate) const NAN32: f32 = f32::from_bits(0x7fff_ffff);
/// The NaN that float64 instructions make.
pub(crate) const NAN64: f64 = f64::from_bits(0x7ff8_0000_0000_0000);

/// `.ftz`: a subnormal becomes a zero of its sign.
#[inline(always)]
pub(crate) fn flush(value: f32) -> f32 {
    let bits = value.to_bits();
    if bits & 0x7f80_0000 == 0 { f32::from_bits(bits & 0x8000_0000) } else { value }
}

/// Every NaN becomes the one that the hardware makes.
#[inline(always)]
pub(crate) fn canon(value: f32) -> f32 {
    if value.is_nan() { NAN32 } else { value }
}

/// Every NaN becomes the one that the hardware makes.
#[inline(always)]
pub(crate) fn canon64(value: f64) -> f64 {
    if value.is_nan() { NAN64 } else { value }
}

/// `.sat`: into [0, 1], NaN to 0.
#[inline(always)]
pub(crate) fn saturate(value: f32) -> f32 {
    if value > 0.0 { if value < 1.0 { value } else { 1.0 } } else { 0.0 }
}

/// `.sat` of float64.
#[inline(always)]
pub(crate) fn saturate64(value: f64) -> f64 {
    if value > 0.0 { if value < 1.0 { value } else { 1.0 } } else { 0.0 }
}

/// `min` (9.7.3.12): a NaN loses, -0 is below +0.
#[inline(always)]
pub(crate) fn min32(a: f32, b: f32) -> f32 {
    let smaller = if a < b || (a == b && a.is_sign_negative()) { a } else { b };
    if a.is_nan() {
        canon(b)
    } else if b.is_nan() {
        a
    } else {
        smaller
    }
}

/// `max` (9.7.3.13).
#[inline(always)]
pub(crate) fn max32(a: f32, b: f32) -> f32 {
    let larger = if a > b || (a == b && a.is_sign_positive()) { a } else { b };
    if a.is_nan() {
        canon(b)
    } else if b.is_nan() {
        a
    } else {
        larger
    }
}

/// `min.NaN`: a NaN wins.
#[inline(always)]
pub(crate) fn min32_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { NAN32 } else { min32(a, b) }
}

/// `max.NaN`: a NaN wins.
#[inline(always)]
pub(crate) fn max32_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { NAN32 } else { max32(a, b) }
}

/// `.xorsign.abs`: the magnitude of `op` on magnitudes, negative where one of the two is.
#[inline(always)]
pub(crate) fn xorsign32(a: f32, b: f32, op: impl Fn(f32, f32) -> f32) -> f32 {
    let magnitude = op(a.abs(), b.abs());
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    if magnitude.is_nan() { magnitude } else { f32::from_bits(magnitude.to_bits() | sign) }
}

/// `min` of float64.
#[inline(always)]
pub(crate) fn min64(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        canon64(b)
    } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// `max` of float64.
#[inline(always)]
pub(crate) fn max64(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        canon64(b)
    } else if b.is_nan() || a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    }
}

/// Sum and error of a float64 addition (Knuth's TwoSum): exact without overflow.
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let back = sum - a;
    (sum, (a - (sum - back)) + (b - back))
}

/// Rounds the exact value `high + error` (error below half a unit of `high`) to float32.
pub(crate) fn round32(high: f64, error: f64, round: Round) -> f32 {
    let near = high as f32;
    if !high.is_finite() {
        return canon(near);
    }
    let wide = f64::from(near);
    if wide == high && error == 0.0 {
        return near;
    }
    let above = wide > high || (wide == high && error < 0.0);
    let (low, up) = if above { (near.next_down(), near) } else { (near, near.next_up()) };
    match round {
        Round::Nearest | Round::Away => nearest32(high, error, low, up),
        Round::Zero if high > 0.0 => low,
        Round::Zero => up,
        Round::Down => low,
        Round::Up => up,
    }
}

fn nearest32(high: f64, error: f64, low: f32, up: f32) -> f32 {
    if low.is_infinite() || up.is_infinite() {
        return high as f32;
    }
    let middle = (f64::from(low) + f64::from(up)) / 2.0;
    let below = high < middle || (high == middle && error < 0.0);
    let tie = high == middle && error == 0.0;
    match (tie, below) {
        (true, _) if low.to_bits() & 1 == 0 => low,
        (true, _) => up,
        (false, true) => low,
        (false, false) => up,
    }
}

/// Float32 addition in any rounding mode.
pub(crate) fn add32(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return canon(a + b);
    }
    let (sum, error) = two_sum(f64::from(a), f64::from(b));
    if sum == 0.0 && error == 0.0 && a.is_sign_negative() != b.is_sign_negative() {
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    round32(sum, if sum.is_finite() { error } else { 0.0 }, round)
}

/// Float32 subtraction in any rounding mode.
pub(crate) fn sub32(a: f32, b: f32, round: Round) -> f32 {
    add32(a, -b, round)
}

/// Float32 reciprocal in any rounding mode.
pub(crate) fn rcp32(a: f32, round: Round) -> f32 {
    div32(1.0, a, round)
}

/// Float64 subtraction in any rounding mode.
pub(crate) fn sub64(a: f64, b: f64, round: Round) -> f64 {
    add64(a, -b, round)
}

/// Float64 reciprocal in any rounding mode.
pub(crate) fn rcp64(a: f64, round: Round) -> f64 {
    div64(1.0, a, round)
}

/// Float32 multiplication in any rounding mode; the product of two is exact in float64.
pub(crate) fn mul32(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return canon(a * b);
    }
    round32(f64::from(a) * f64::from(b), 0.0, round)
}

/// Float32 fused multiply-add in any rounding mode.
pub(crate) fn fma32(a: f32, b: f32, c: f32, round: Round) -> f32 {
    if round == Round::Nearest {
        return canon(a.mul_add(b, c));
    }
    let product = f64::from(a) * f64::from(b);
    let (sum, error) = two_sum(product, f64::from(c));
    if sum == 0.0 && error == 0.0 && product.is_sign_negative() != c.is_sign_negative() {
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    round32(sum, if sum.is_finite() { error } else { 0.0 }, round)
}

/// Float32 division in any rounding mode.
pub(crate) fn div32(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Nearest || b == 0.0 || !a.is_finite() || !b.is_finite() {
        return canon(a / b);
    }
    let (a, b) = (f64::from(a), f64::from(b));
    let quotient = a / b;
    let rest = (-quotient).mul_add(b, a);
    round32(quotient, if b > 0.0 { rest } else { -rest }, round)
}

/// Float32 square root in any rounding mode.
pub(crate) fn sqrt32(a: f32, round: Round) -> f32 {
    if round == Round::Nearest || a <= 0.0 || !a.is_finite() {
        return canon(a.sqrt());
    }
    let wide = f64::from(a);
    let root = wide.sqrt();
    round32(root, (-root).mul_add(root, wide), round)
}

/// Steps a float64 result that was rounded to nearest, given the sign of its error.
fn directed64(near: f64, error: f64, round: Round) -> f64 {
    if near.is_nan() || error == 0.0 || round == Round::Nearest {
        return canon64(near);
    }
    let up = round == Round::Up || (round == Round::Zero && near < 0.0);
    match (up, error > 0.0) {
        (true, true) => near.next_up(),
        (false, false) => near.next_down(),
        _ => near,
    }
}

fn overflow64(near: f64, exact: bool, round: Round) -> f64 {
    let keeps = exact
        || round == Round::Nearest
        || (round == Round::Up && near > 0.0)
        || (round == Round::Down && near < 0.0);
    if keeps { near } else { f64::MAX.copysign(near) }
}

/// Float64 addition in any rounding mode.
pub(crate) fn add64(a: f64, b: f64, round: Round) -> f64 {
    let (sum, error) = two_sum(a, b);
    if sum.is_infinite() {
        return overflow64(sum, a.is_infinite() || b.is_infinite(), round);
    }
    if sum == 0.0 && a.is_sign_negative() != b.is_sign_negative() {
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    directed64(sum, error, round)
}

/// Float64 multiplication in any rounding mode. Below 2^-969 the direction of the error is that of
/// a float64 product, which can be lost: results there may be one subnormal unit off.
pub(crate) fn mul64(a: f64, b: f64, round: Round) -> f64 {
    let product = a * b;
    if product.is_infinite() {
        return overflow64(product, a.is_infinite() || b.is_infinite(), round);
    }
    directed64(product, a.mul_add(b, -product), round)
}

/// Float64 fused multiply-add in any rounding mode (error term: Boldo and Muller, "Exact and
/// approximated error of the FMA", 2011).
pub(crate) fn fma64(a: f64, b: f64, c: f64, round: Round) -> f64 {
    let near = a.mul_add(b, c);
    if round == Round::Nearest || !near.is_finite() {
        let exact = [a, b, c].iter().any(|value| value.is_infinite());
        return if near.is_infinite() { overflow64(near, exact, round) } else { canon64(near) };
    }
    let product = a * b;
    let low = a.mul_add(b, -product);
    let (first, second) = two_sum(c, low);
    let (third, fourth) = two_sum(product, first);
    let rest = (third - near) + fourth;
    if near == 0.0 && product.is_sign_negative() != c.is_sign_negative() {
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    directed64(near, rest + second, round)
}

/// Float64 division in any rounding mode.
pub(crate) fn div64(a: f64, b: f64, round: Round) -> f64 {
    let near = a / b;
    if round == Round::Nearest || !near.is_finite() || b.is_infinite() {
        return canon64(near);
    }
    let rest = (-near).mul_add(b, a);
    directed64(near, if b > 0.0 { rest } else { -rest }, round)
}

/// Float64 square root in any rounding mode.
pub(crate) fn sqrt64(a: f64, round: Round) -> f64 {
    let near = a.sqrt();
    if round == Round::Nearest || !near.is_finite() || near == 0.0 {
        return canon64(near);
    }
    directed64(near, (-near).mul_add(near, a), round)
}

/// Float64 to float32 with rounding to odd: a further rounding to at most 22 bits is then exact.
fn to_odd32(high: f64, error: f64) -> f32 {
    let cut = round32(high, error, Round::Zero);
    if f64::from(cut) == high && error == 0.0 || !cut.is_finite() {
        return cut;
    }
    f32::from_bits(cut.to_bits() | 1)
}

/// `a * b + c` of float16, rounded once.
pub(crate) fn fma16(a: f16, b: f16, c: f16) -> f16 {
    let (sum, error) = two_sum(f64::from(a) * f64::from(b), f64::from(c));
    canon16(f16::from_f32(to_odd32(sum, if sum.is_finite() { error } else { 0.0 })))
}

/// `a * b + c` of bfloat16, rounded once.
pub(crate) fn fma_bf16(a: bf16, b: bf16, c: bf16) -> bf16 {
    let (sum, error) = two_sum(f64::from(a) * f64::from(b), f64::from(c));
    canon_bf16(bf16::from_f32(to_odd32(sum, if sum.is_finite() { error } else { 0.0 })))
}

/// Float64 to float16, rounded once to nearest.
pub(crate) fn f64_to_f16(value: f64) -> f16 {
    canon16(f16::from_f32(to_odd32(value, 0.0)))
}

/// Float64 to bfloat16, rounded once to nearest.
pub(crate) fn f64_to_bf16(value: f64) -> bf16 {
    canon_bf16(bf16::from_f32(to_odd32(value, 0.0)))
}

/// Every NaN becomes the one that float16 instructions make.
#[inline(always)]
pub(crate) fn canon16(value: f16) -> f16 {
    if value.is_nan() { f16::from_bits(0x7fff) } else { value }
}

/// Every NaN becomes the one that bfloat16 instructions make.
#[inline(always)]
pub(crate) fn canon_bf16(value: bf16) -> bf16 {
    if value.is_nan() { bf16::from_bits(0x7fff) } else { value }
}

/// Float32 to bfloat16 bits, to nearest even; NaN to 0x7fff.
#[inline(always)]
pub(crate) fn bf16_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { 0x7fff } else { rounded }
}

/// Float32 to float16 bits in a rounding mode; NaN to 0x7fff.
pub(crate) fn f16_bits(value: f32, round: Round) -> u32 {
    let near = f16::from_f32(value);
    if value.is_nan() {
        return 0x7fff;
    }
    if round == Round::Nearest || f32::from(near) == value || value.is_infinite() {
        return u32::from(near.to_bits());
    }
    // One step back where rounding to nearest went past the value.
    let passed = f32::from(near).abs() > value.abs();
    let toward_zero = u32::from(near.to_bits()) - u32::from(passed);
    let grows = match round {
        Round::Up => value > 0.0,
        Round::Down => value < 0.0,
        _ => false,
    };
    toward_zero + u32::from(grows)
}

/// Float32 to bfloat16 bits in a rounding mode; NaN to 0x7fff.
pub(crate) fn bf16_bits_rounded(value: f32, round: Round) -> u32 {
    let bits = value.to_bits();
    if round == Round::Nearest || value.is_nan() || value.is_infinite() || bits & 0xffff == 0 {
        return bf16_bits(value);
    }
    let grows = match round {
        Round::Up => value > 0.0,
        Round::Down => value < 0.0,
        _ => false,
    };
    (bits >> 16) + u32::from(grows)
}

/// Float32 to 8-bit float bits: `exponent` bits of exponent, to nearest even, saturating to the
/// largest finite value, NaN to `nan` (PTX ISA 9.7.9.21, "cvt": `.satfinite`).
fn fp8_bits(value: f32, exponent: u32, largest: u32, nan: u32) -> u32 {
    let sign = value.to_bits() >> 24 & 0x80;
    if value.is_nan() {
        return nan;
    }
    let mantissa = 7 - exponent;
    let bias = (1 << (exponent - 1)) - 1;
    let magnitude = f64::from(value.abs());
    // The unit in the last place, subnormals included; float32 exponents fit easily.
    let power = (i64::from(value.abs().to_bits() >> 23) - 127).max(1 - bias);
    let unit = 2f64.powi((power - i64::from(mantissa)) as i32);
    let steps = (magnitude / unit).round_ties_even();
    if magnitude.is_infinite() {
        return sign | largest;
    }
    let implicit = f64::from(1u32 << mantissa);
    let bits = if steps < implicit {
        steps as u64
    } else {
        (((power + bias) as u64) << mantissa) + (steps - implicit) as u64
    };
    sign | (bits.min(u64::from(largest)) as u32)
}

/// Float32 to e4m3.
pub(crate) fn e4m3_bits(value: f32) -> u32 {
    fp8_bits(value, 4, 0x7e, 0x7f)
}

/// Float32 to e5m2.
pub(crate) fn e5m2_bits(value: f32) -> u32 {
    fp8_bits(value, 5, 0x7b, 0x7f)
}

/// e4m3 to float32, exact.
pub(crate) fn e4m3_value(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => return NAN32,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits & 0x80 != 0 { -magnitude } else { magnitude }
}

/// e4m3 to float16 bits, exact; NaN to 0x7fff. In integers, so that lanes go side by side.
#[inline(always)]
pub(crate) fn e4m3_as_f16(byte: u8) -> u32 {
    let (sign, rest) = (u32::from(byte & 0x80) << 8, u32::from(byte & 0x7f));
    // The bias of float16 is greater by 8.
    let normal = (rest << 7) + (8 << 10);
    // A subnormal is `rest` times 2^-9: the float32 `rest`, its bias less by 112.
    let subnormal = ((rest as f32).to_bits() >> 13).wrapping_sub((112 + 9) << 10);
    let magnitude = if rest < 8 { subnormal } else { normal };
    let magnitude = if rest == 0 { 0 } else { magnitude };
    if rest == 0x7f { 0x7fff } else { sign | magnitude }
}

/// float16 to float32, exact, NaN to the canonical one. Without branches, so that lanes go side
/// by side.
#[inline(always)]
pub(crate) fn f16_value(value: f16) -> f32 {
    /// The difference of the biases of float32 and float16, as a power of two.
    const BIAS: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(value.to_bits());
    let (sign, rest) = ((bits & 0x8000) << 16, bits & 0x7fff);
    let finite = (f32::from_bits(rest << 13) * BIAS).to_bits();
    let infinite = if rest > 0x7c00 { NAN32.to_bits() } else { sign | f32::INFINITY.to_bits() };
    f32::from_bits(if rest >= 0x7c00 { infinite } else { sign | finite })
}

/// e5m2 to float32, exact: its bits are the upper half of a float16.
pub(crate) fn e5m2_value(bits: u8) -> f32 {
    f32::from(f16::from_bits(u16::from(bits) << 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_conversions_are_exact_for_every_number() {
        for byte in 0..=u8::MAX {
            assert_eq!(e4m3_as_f16(byte), f16_bits(e4m3_value(byte), Round::Nearest), "{byte:#x}");
        }
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            assert_eq!(f16_value(value).to_bits(), canon(f32::from(value)).to_bits(), "{bits:#x}");
        }
    }
}
