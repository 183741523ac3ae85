//! Sums of products without any rounding, and the roundings at their end.

/// How a sum becomes a float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// Nearest, ties to even.
    Nearest,
    /// Towards zero.
    Zero,
    /// Towards zero with the last bit set if anything was lost: rounding the result again to at
    /// least two bits less gives what one rounding of the sum would give.
    Odd,
}

/// Digits of 32 bits; the lowest bit of the number counts 2^-320.
const DIGITS: usize = 20;
const LOWEST: i32 = -320;

/// A fixed-point number that holds every sum of up to 2^31 products of two tensor-core operands
/// (2^-272 to 2^256) and a float32, exactly.
#[derive(Clone, Debug)]
pub(crate) struct WideSum {
    digits: [i64; DIGITS],
}

impl WideSum {
    pub(crate) fn zero() -> WideSum {
        WideSum { digits: [0; DIGITS] }
    }

    /// Adds `value`, which must be finite and a multiple of 2^-320 below 2^257.
    pub(crate) fn add(&mut self, value: f64) {
        if value == 0.0 {
            return;
        }
        let bits = value.to_bits();
        let field = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let magnitude = if field == 0 { fraction } else { fraction | 1 << 52 };
        let at = field.max(1) - 1075 - LOWEST;
        // Products have at most 24 significant bits and C at most 24: what lies below is zero.
        let (magnitude, at) = if at < 0 { (magnitude >> -at, 0) } else { (magnitude, at as usize) };
        let mut wide = u128::from(magnitude) << (at % 32);
        for digit in self.digits.iter_mut().skip(at / 32) {
            let part = (wide & 0xffff_ffff) as i64;
            *digit += if value < 0.0 { -part } else { part };
            wide >>= 32;
            if wide == 0 {
                break;
            }
        }
    }

    /// The sum as a float32 with `fraction_bits` of fraction.
    pub(crate) fn round(mut self, fraction_bits: u32, rounding: Rounding) -> f32 {
        self.carry();
        let negative = self.digits[DIGITS - 1] < 0;
        if negative {
            for digit in &mut self.digits {
                *digit = -*digit;
            }
            self.carry();
        }
        let Some(top) = self.digits.iter().rposition(|&digit| digit != 0) else {
            return 0.0;
        };
        // The two to four digits below the top hold more bits than any result; the rest is sticky.
        let low = top.saturating_sub(2);
        let mut magnitude = 0u128;
        for &digit in self.digits[low..=top].iter().rev() {
            magnitude = magnitude << 32 | digit as u128;
        }
        let sticky = self.digits[..low].iter().any(|&digit| digit != 0);
        let magnitude = magnitude << 1 | u128::from(sticky);
        let value = round(magnitude, LOWEST + 32 * low as i32 - 1, fraction_bits, rounding);
        if negative { -value } else { value }
    }

    /// Brings all digits but the highest to 0..2^32.
    fn carry(&mut self) {
        let mut carry = 0;
        for digit in &mut self.digits[..DIGITS - 1] {
            let sum = *digit + carry;
            *digit = sum & 0xffff_ffff;
            carry = sum >> 32;
        }
        self.digits[DIGITS - 1] += carry;
    }
}

/// `magnitude · 2^scale` as a float32 with `fraction_bits` of fraction; subnormals have fewer, and
/// what is 2^128 or more is infinite.
pub(crate) fn round(magnitude: u128, scale: i32, fraction_bits: u32, rounding: Rounding) -> f32 {
    if magnitude == 0 {
        return 0.0;
    }
    let exponent = 127 - magnitude.leading_zeros() as i32 + scale;
    let last = exponent.max(-126) - fraction_bits as i32;
    let drop = last - scale;
    let kept = match drop {
        ..=0 => magnitude << -drop,
        128.. => u128::from(rounding == Rounding::Odd),
        _ => {
            let (kept, lost) = (magnitude >> drop, magnitude & ((1 << drop) - 1));
            let half = 1u128 << (drop - 1);
            match rounding {
                Rounding::Zero => kept,
                Rounding::Odd => kept | u128::from(lost != 0),
                Rounding::Nearest => {
                    kept + u128::from(lost > half || lost == half && kept & 1 == 1)
                }
            }
        }
    };
    // At most 25 bits: exact in float64, and in float32 unless it overflows.
    (kept as f64 * 2f64.powi(last)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_sum_cancels_exactly() {
        let mut sum = WideSum::zero();
        for value in [2f64.powi(255), 1.0, 2f64.powi(-260), -2f64.powi(255), -1.0] {
            sum.add(value);
        }
        assert_eq!(sum.clone().round(23, Rounding::Nearest), 0.0);
        sum.add(-2f64.powi(-260));
        sum.add(-(1.0 + 2f64.powi(-24)));
        assert_eq!(sum.clone().round(23, Rounding::Nearest), -1.0);
        assert_eq!(sum.clone().round(23, Rounding::Odd), -1.0 - f32::EPSILON);
        sum.add(-2f64.powi(-200));
        assert_eq!(sum.round(23, Rounding::Nearest), -1.0 - f32::EPSILON);
    }

    #[test]
    fn rounding_agrees_with_the_host_over_all_exponents() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let magnitude = u128::from(state >> 11);
            let scale = (state % 300) as i32 - 200;
            let expected = (magnitude as f64 * 2f64.powi(scale)) as f32;
            assert_eq!(round(magnitude, scale, 23, Rounding::Nearest), expected);
            let down = round(magnitude, scale, 23, Rounding::Zero);
            assert!(down <= expected && (expected == down || expected <= down.next_up()));
        }
        assert_eq!(round(0xffff_ffff, 0, 13, Rounding::Zero), (0x3fffu32 << 18) as f32);
        assert_eq!(round(3, -150, 23, Rounding::Zero), f32::from_bits(1));
        assert_eq!(round(1, 128, 23, Rounding::Zero), f32::INFINITY);
    }
}
