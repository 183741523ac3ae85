//! Element types of matrix operands and what the tensor cores see of them.

/// Exponent that stands for a zero: below every sum of two real exponents, so that products with
/// a zero never set the scale of a sum.
pub(crate) const ZERO: i16 = -2000;

/// Exponent that stands for an infinity or a NaN: above every finite sum, even beside a zero.
pub(crate) const SPECIAL: i16 = 8000;

/// Element type of A and B (PTX ISA 9.7.14.2, "Matrix Data-types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
    /// float32 of which 10 fraction bits count.
    Tf32,
    /// FP8 with 4 exponent bits, no infinity.
    E4m3,
    /// FP8 with 5 exponent bits.
    E5m2,
    /// Signed byte.
    S8,
    /// Unsigned byte.
    U8,
}

/// Type of C and D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accumulator {
    /// float32, one per register.
    F32,
    /// binary16, two per register.
    F16,
    /// int32, one per register.
    S32,
}

impl Element {
    /// Bytes of one element.
    pub(crate) fn bytes(self) -> u32 {
        match self {
            Element::Tf32 => 4,
            Element::Bf16 | Element::F16 => 2,
            _ => 1,
        }
    }

    /// Whether the element is an 8-bit float.
    pub(crate) fn is_fp8(self) -> bool {
        matches!(self, Element::E4m3 | Element::E5m2)
    }

    /// Whether the element is an integer.
    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Element::S8 | Element::U8)
    }

    /// The value and the exponent of `bits`. The exponent is that of the encoding: subnormals
    /// have the smallest exponent, zeros [`ZERO`], infinities and NaNs [`SPECIAL`].
    pub(crate) fn decode(self, bits: u32) -> (f32, i16) {
        match self {
            Element::Bf16 => decode_bf16(bits),
            Element::F16 => decode_f16(bits),
            Element::Tf32 => decode_tf32(bits),
            Element::E4m3 => decode_e4m3(bits),
            Element::E5m2 => decode_e5m2(bits),
            Element::S8 => (f32::from(bits as u8 as i8), 0),
            Element::U8 => (f32::from(bits as u8), 0),
        }
    }
}

/// The exponent of a format with `bias` from its field and whether the value is zero.
#[inline(always)]
const fn exponent(field: u32, bias: i16, is_zero: bool, is_special: bool) -> i16 {
    let field = if field == 0 { 1 } else { field };
    let plain = field as i16 - bias;
    if is_special {
        SPECIAL
    } else if is_zero {
        ZERO
    } else {
        plain
    }
}

#[inline(always)]
pub(super) const fn decode_bf16(bits: u32) -> (f32, i16) {
    let bits = bits & 0xffff;
    let field = bits >> 7 & 0xff;
    (f32::from_bits(bits << 16), exponent(field, 127, bits & 0x7fff == 0, field == 0xff))
}

#[inline(always)]
pub(super) const fn decode_f16(bits: u32) -> (f32, i16) {
    let (sign, rest, field) = ((bits & 0x8000) << 16, bits & 0x7fff, bits >> 10 & 0x1f);
    // 2^112 moves the exponent from bias 15 to bias 127, subnormals included.
    let finite = f32::from_bits(rest << 13) * f32::from_bits((127 + 112) << 23);
    let special = f32::from_bits(0x7f80_0000 | (rest & 0x3ff) << 13);
    let value = if field == 31 { special } else { finite };
    (f32::from_bits(value.to_bits() | sign), exponent(field, 15, rest == 0, field == 31))
}

/// The lower 13 bits do not exist for the tensor core (PTX ISA 5.2.3; truncation per MMA-Sim).
#[inline(always)]
pub(super) const fn decode_tf32(bits: u32) -> (f32, i16) {
    let kept = bits & 0xffff_e000;
    let field = bits >> 23 & 0xff;
    // A NaN whose payload is cut off must stay a NaN.
    let nan = field == 0xff && bits & 0x007f_ffff != 0;
    let value = f32::from_bits(if nan { kept | 0x0040_0000 } else { kept });
    (value, exponent(field, 127, kept & 0x7fff_ffff == 0, field == 0xff))
}

#[inline(always)]
pub(super) const fn decode_e4m3(bits: u32) -> (f32, i16) {
    let (sign, field, fraction) = ((bits & 0x80) << 24, bits >> 3 & 15, bits & 7);
    let nan = field == 15 && fraction == 7;
    // 2^120 moves the exponent from bias 7 to bias 127, subnormals included.
    let finite = f32::from_bits((bits & 0x7f) << 20) * f32::from_bits((127 + 120) << 23);
    let value = if nan { f32::NAN } else { finite };
    let zero = field == 0 && fraction == 0;
    (f32::from_bits(value.to_bits() | sign), exponent(field, 7, zero, nan))
}

#[inline(always)]
pub(super) const fn decode_e5m2(bits: u32) -> (f32, i16) {
    decode_f16((bits & 0xff) << 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_encoding_has_its_value() {
        for bits in 0..256u32 {
            let (sign, e, f) = (if bits > 127 { -1.0 } else { 1.0 }, bits >> 3 & 15, bits & 7);
            let expected = match (e, f) {
                (15, 7) => f32::NAN,
                (0, f) => sign * f as f32 / 512.0,
                (e, f) => sign * (1.0 + f as f32 / 8.0) * 2f32.powi(e as i32 - 7),
            };
            let (got, _) = Element::E4m3.decode(bits);
            assert!(got == expected || got.is_nan() && expected.is_nan(), "{bits:02x}: {got}");
        }
        for bits in 0..65536u32 {
            let (sign, e, f) =
                (if bits >> 15 == 1 { -1.0 } else { 1.0 }, bits >> 10 & 31, bits & 1023);
            let expected = match (e, f) {
                (31, 0) => sign * f32::INFINITY,
                (31, _) => f32::NAN,
                (0, f) => sign * f as f32 * 2f32.powi(-24),
                (e, f) => sign * (1.0 + f as f32 / 1024.0) * 2f32.powi(e as i32 - 15),
            };
            let (got, _) = decode_f16(bits);
            assert!(got == expected || got.is_nan() && expected.is_nan(), "{bits:04x}: {got}");
        }
    }

    #[test]
    fn exponents_are_those_of_the_encoding() {
        assert_eq!(Element::E4m3.decode(0x01), (2f32.powi(-9), -6));
        assert_eq!(Element::E4m3.decode(0x7e), (448.0, 8));
        assert_eq!(Element::F16.decode(0x0001).1, -14);
        assert_eq!(Element::Bf16.decode(0x3f80), (1.0, 0));
        assert_eq!(Element::Bf16.decode(0x8000).1, ZERO);
        assert_eq!(Element::E5m2.decode(0x7c).1, SPECIAL);
        assert_eq!(Element::Tf32.decode(0x0000_1fff).1, ZERO);
        assert!(Element::Tf32.decode(0x7f80_0001).0.is_nan());
        assert_eq!(Element::S8.decode(0xff).0, -1.0);
    }
}
