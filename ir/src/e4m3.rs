//! The FP8 format e4m3 (e4m3fn) as real numbers.
//!
//! Four exponent bits of bias 7, three fraction bits, no infinities; all exponent and fraction
//! bits set are not a number (OCP 8-bit Floating Point Specification, revision 1.0, 5.1).

/// The greatest finite value.
pub const MAX: f64 = 448.0;

/// The value of an encoding.
pub fn decode(bits: u8) -> f64 {
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
    match (exponent, bits & 7) {
        (15, 7) => f64::NAN,
        (0, _) => sign * fraction * 2f64.powi(-9),
        _ => sign * (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7),
    }
}

/// The value nearest to `x`, of two equally near the one of even fraction; beyond [`MAX`] that
/// (PTX ISA, `cvt` with `.rn.satfinite`). Not a number stays so.
pub fn round(x: f64) -> f64 {
    if x == 0.0 || x.is_nan() {
        return x;
    }
    // The exponent of a float64 is its bits; that of a value below 2^-6 does not fall further.
    let exponent = (x.abs().to_bits() >> 52) as i32 - 1023;
    let unit = 2f64.powi(exponent.max(-6) - 3);
    ((x / unit).round_ties_even() * unit).clamp(-MAX, MAX)
}

/// The encoding of [`round`]`(x)`; 0x7f for what is not a number.
pub fn encode(x: f64) -> u8 {
    let value = round(x);
    let magnitude = value.abs();
    let bits = if value.is_nan() {
        return 0x7f;
    } else if magnitude < 2f64.powi(-6) {
        (magnitude * 2f64.powi(9)) as u8
    } else {
        let exponent = (magnitude.to_bits() >> 52) as i32 - 1023;
        let fraction = (magnitude * 2f64.powi(3 - exponent)) as u8 - 8;
        ((exponent + 7) as u8) << 3 | fraction
    };
    bits | u8::from(value.is_sign_negative()) << 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_rounds_to_itself_and_the_middle_of_two_to_the_even_one() {
        let finite: Vec<f64> = (0..0x7f).map(decode).collect();
        for (bits, pair) in finite.windows(2).enumerate() {
            let [low, high] = *pair else { unreachable!("windows of two") };
            assert!(low < high);
            let middle = (low + high) / 2.0;
            let even = if bits % 2 == 0 { low } else { high };
            for (x, wanted) in [(low, low), (middle, even), (middle.next_down(), low)] {
                assert_eq!((round(x), round(-x)), (wanted, -wanted), "{x}");
            }
            assert_eq!(round(middle.next_up()), high);
        }
    }

    #[test]
    fn what_is_too_great_saturates() {
        assert_eq!(decode(0x7e), MAX);
        assert_eq!((round(465.0), round(f64::INFINITY), round(-1e300)), (MAX, MAX, -MAX));
        assert_eq!(round(2f64.powi(-11)), 0.0);
        assert!(round(f64::NAN).is_nan() && decode(0xff).is_nan() && decode(0x7f).is_nan());
    }

    #[test]
    fn every_encoding_is_that_of_its_value() {
        for bits in (0..=0xff).filter(|bits| bits & 0x7f != 0x7f) {
            assert_eq!(encode(decode(bits)), bits);
        }
        assert_eq!((encode(1e9), encode(-1e9), encode(f64::NAN)), (0x7e, 0xfe, 0x7f));
    }

    #[test]
    fn known_encodings_have_their_values() {
        for (bits, value) in [(0x01, 2f64.powi(-9)), (0x08, 2f64.powi(-6)), (0xb8, -1.0)] {
            assert_eq!(decode(bits), value);
        }
    }
}
