//! The sum `C + A·B` of one instruction, under the arithmetic that a rule names.
//!
//! The bit-accurate rule is the published one of Hopper (MMA-Sim, validated by its authors on an
//! H100): all products of the instruction and C are shifted to the largest exponent among them
//! (exponents of encodings: a product of two significands in [1, 2) is not normalised), cut
//! towards zero to a number of fraction bits, added exactly, and the sum is cut to a float32.

use super::element::{Accumulator, Element, SPECIAL, ZERO};
use super::kernels;
use super::panel::Panel;
use super::wide::{Rounding, WideSum};

/// How the tensor cores add. Integers are always exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Accumulation {
    /// As Hopper does, bit for bit: 25 fraction bits, 13 for FP8 `wgmma`, cut towards zero
    /// (MMA-Sim).
    #[default]
    Hopper,
    /// Fused multiply-adds in float32, along the depth: fast.
    Float32,
    /// Exact sum of each instruction, rounded once to nearest.
    Exact,
    /// FP8 `wgmma` as described in "Insights into DeepSeek-V3" (ISCA 2025), 3.1.1: products are
    /// aligned among themselves and cut to 13 fraction bits, then added in a register of 22 bits
    /// (1 sign, 8 exponent, 13 fraction). Other types as [`Accumulation::Hopper`].
    Bits22,
    /// FP8 `wgmma` as described in the DeepSeek-V3 report, 3.5.2: the highest 14 bits of each
    /// aligned product are added, and the sum goes to a float32 register. Other types as
    /// [`Accumulation::Hopper`].
    Bits14,
}

/// The arithmetic of one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) kind: Kind,
    pub(crate) accumulator: Accumulator,
}

/// What happens to the products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One fused multiply-add after the other.
    Fused,
    /// Nothing is lost before the end.
    Exact,
    /// Aligned to the largest exponent and cut.
    Aligned {
        /// Bits kept below the largest exponent.
        fraction: i16,
        /// Fraction bits of a float32 result.
        result: u32,
        /// Whether C takes part in the alignment; if not it is added to the products' sum.
        with_c: bool,
    },
}

impl Rule {
    /// Whether the sums look at exponents.
    pub(crate) fn needs_exponents(self) -> bool {
        self.kind != Kind::Fused && self.accumulator != Accumulator::S32
    }

    /// The arithmetic of an instruction on `element`; `is_wgmma` tells `wgmma` from `mma.sync`,
    /// which keeps 25 bits for FP8 too.
    pub(crate) fn new(
        accumulation: Accumulation,
        element: Element,
        accumulator: Accumulator,
        is_wgmma: bool,
    ) -> Rule {
        let aligned = |fraction, result, with_c| Kind::Aligned { fraction, result, with_c };
        let kind = match accumulation {
            Accumulation::Float32 => Kind::Fused,
            Accumulation::Exact => Kind::Exact,
            _ if !(is_wgmma && element.is_fp8()) => aligned(25, 23, true),
            Accumulation::Hopper => aligned(13, 13, true),
            Accumulation::Bits22 => aligned(13, 13, false),
            // A product of significands has two bits before the point.
            Accumulation::Bits14 => aligned(12, 23, false),
        };
        Rule { kind, accumulator }
    }
}

/// Adds `A·B` to C, which has a row per row of A and `b.lines` columns in the order of B. With a
/// binary16 accumulator C and the result hold float32 values of that format.
pub(crate) fn multiply_add(rule: Rule, a: &Panel, b: &Panel, c: &mut [f32]) {
    debug_assert_eq!(a.depth, b.depth);
    assert!(c.len() >= a.lines * b.lines, "C is smaller than the tile");
    let float32 = rule.accumulator == Accumulator::F32;
    match rule.kind {
        Kind::Fused => {
            kernels::fused(a, b, c);
            if !float32 {
                for value in &mut c[..a.lines * b.lines] {
                    *value = to_half(*value);
                }
            }
        }
        // The vector kernel keeps sums in 32 bits: 32 products of 25 bits do not fit.
        Kind::Aligned { fraction, result, with_c: true }
            if float32 && (fraction < 25 || a.depth <= 16) =>
        {
            kernels::aligned(kernels::Cut { fraction, result, rule }, a, b, c);
        }
        _ => {
            for row in 0..a.lines {
                for column in 0..b.lines {
                    let at = row * b.lines + column;
                    c[at] = one_sum(rule, a, b, (row, column), c[at]);
                }
            }
        }
    }
}

/// Adds `A·B` to C in int32, wrapping or saturating (`.satfinite`).
///
/// The words of C are int32; `sums` is room for intermediate values.
pub(crate) fn multiply_add_integers(
    (a, b): (&Panel, &Panel),
    c: &mut [f32],
    sums: &mut Vec<f32>,
    saturates: bool,
) {
    // 32 products of two bytes stay below 2^24: float32 holds every partial sum.
    debug_assert!(a.depth <= 256);
    sums.clear();
    sums.resize(a.lines * b.lines, 0.0);
    kernels::fused(a, b, sums);
    for (word, &sum) in c.iter_mut().zip(&*sums) {
        let (c, sum) = (word.to_bits() as i32, sum as i32);
        let result = if saturates { c.saturating_add(sum) } else { c.wrapping_add(sum) };
        *word = f32::from_bits(result as u32);
    }
}

/// Adds to C, whose words are int32, how many bits are set in both: elements are bytes of eight.
pub(crate) fn count_common_bits(a: &Panel, b: &Panel, c: &mut [f32]) {
    for (line, row) in c.chunks_exact_mut(b.lines).enumerate().take(a.lines) {
        for (column, word) in row.iter_mut().enumerate() {
            let bits = |k: usize| {
                let (x, y) = (a.values[line * a.depth + k], b.values[k * b.lines + column]);
                (x as u8 & y as u8).count_ones()
            };
            let sum: u32 = (0..a.depth).map(bits).sum();
            *word = f32::from_bits(word.to_bits().wrapping_add(sum));
        }
    }
}

/// One element of the result, without vectors and for every value.
pub(super) fn one_sum(rule: Rule, a: &Panel, b: &Panel, at: (usize, usize), c: f32) -> f32 {
    let (row, column) = at;
    let pairs = || {
        (0..a.depth).map(move |k| {
            let (x, y) = (row * a.depth + k, k * b.lines + column);
            (f64::from(a.values[x]) * f64::from(b.values[y]), a.exponents[x] + b.exponents[y])
        })
    };
    let c_exponent = c_exponent(c, rule.accumulator);
    let most = pairs().map(|(_, exponent)| exponent).max().unwrap_or(ZERO);
    if most.max(c_exponent) > 300 {
        let sum = pairs().map(|(product, _)| product).sum::<f64>() + f64::from(c);
        if !sum.is_finite() {
            return if sum.is_nan() { f32::from_bits(0x7fff_ffff) } else { sum as f32 };
        }
    }
    let half = rule.accumulator == Accumulator::F16;
    let (sum, bits, rounding) = match rule.kind {
        Kind::Aligned { fraction, result, with_c } => {
            let most = if with_c { most.max(c_exponent) } else { most };
            let unit = 2f64.powi(i32::from(most) - i32::from(fraction));
            let cut = |value: f64| (value / unit).trunc();
            let mut sum = WideSum::zero();
            if most > ZERO {
                sum.add(pairs().map(|(product, _)| cut(product)).sum::<f64>() * unit);
                sum.add(if with_c { cut(f64::from(c)) * unit } else { 0.0 });
            }
            sum.add(if with_c { 0.0 } else { f64::from(c) });
            (sum, result, Rounding::Zero)
        }
        _ => {
            let mut sum = WideSum::zero();
            pairs().for_each(|(product, _)| sum.add(product));
            sum.add(f64::from(c));
            (sum, 23, Rounding::Nearest)
        }
    };
    if half { to_half(sum.round(23, Rounding::Odd)) } else { sum.round(bits, rounding) }
}

/// The exponent of C's encoding.
fn c_exponent(c: f32, accumulator: Accumulator) -> i16 {
    let field = (c.to_bits() >> 23 & 0xff) as i16;
    let lowest = if accumulator == Accumulator::F16 { -14 } else { -126 };
    match field {
        0xff => SPECIAL,
        _ if c == 0.0 => ZERO,
        _ => (field - 127).max(lowest),
    }
}

/// The nearest binary16, as a float32; NaN is the canonical one.
fn to_half(value: f32) -> f32 {
    if value.is_nan() {
        return f32::from_bits(0x7fff_ffff);
    }
    let magnitude = value.abs();
    let rounded = if magnitude >= 65520.0 {
        f32::INFINITY
    } else {
        // Adding a power of two whose last place is that of the result rounds to it.
        let exponent = (magnitude.to_bits() >> 23).max(127 - 14);
        let lift = f32::from_bits((exponent + 13) << 23);
        (magnitude + lift) - lift
    };
    rounded.copysign(value)
}

/// The binary16 encoding of a value that is one.
pub(crate) fn half_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, magnitude) = ((bits >> 16) as u16 & 0x8000, bits & 0x7fff_ffff);
    if magnitude > 0x7f80_0000 {
        return 0x7fff;
    }
    let field = (magnitude >> 23) as i32 - 112;
    let significand = (magnitude & 0x007f_ffff | 0x0080_0000) >> 13;
    sign | match field {
        ..=-11 => 0,
        -10..=0 => (significand >> (1 - field)) as u16,
        1..=30 => (field as u16) << 10 | (significand & 0x3ff) as u16,
        _ => 0x7c00,
    }
}

#[cfg(test)]
#[path = "accumulate_tests.rs"]
mod tests;
