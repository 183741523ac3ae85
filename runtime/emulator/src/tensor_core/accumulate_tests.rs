//! The arithmetic against its published definition, written in float64 as the publication has it.

use super::super::kernels;
use super::super::kernels::tests::versions;
use super::*;

/// Pseudo-random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// Bits of an element: mostly of a like size, some of any size.
fn element_bits(random: &mut Random, element: Element, finite: bool) -> u32 {
    let word = random.next();
    let bits = word as u32;
    let near = word >> 60 != 0;
    let out = match element {
        Element::Bf16 if near => bits & 0x81ff | 0x3f00,
        Element::F16 if near => bits & 0x87ff | 0x3800,
        Element::Tf32 if near => bits & 0x81ff_ffff | 0x3e00_0000,
        Element::Bf16 | Element::F16 => bits & 0xffff,
        Element::Tf32 => bits,
        _ => bits & 0xff,
    };
    let (value, _) = element.decode(out);
    if finite && !value.is_finite() { 0 } else { out }
}

fn panels(
    random: &mut Random,
    element: Element,
    shape: (usize, usize, usize),
    finite: bool,
) -> (Panel, Panel) {
    let (rows, columns, depth) = shape;
    let (mut a, mut b) = (Panel::default(), Panel::default());
    a.reset_rows(rows, depth, element, false);
    b.reset_columns(columns, depth, element, false);
    for k in 0..depth {
        for row in 0..rows {
            a.put(row, k, element_bits(random, element, finite));
        }
        for column in 0..columns {
            b.put(column, k, element_bits(random, element, finite));
        }
    }
    a.finish();
    b.finish();
    (a, b)
}

fn c_values(random: &mut Random, count: usize) -> Vec<f32> {
    let mut value = || {
        let word = random.next();
        match word >> 61 {
            0 => 0.0,
            1 => f32::from_bits(word as u32 & 0xbfff_ffff),
            _ => (word as u32 as i32) as f32 * 2f32.powi(-29),
        }
    };
    (0..count).map(|_| value()).collect()
}

/// The published algorithm for finite operands: significand and exponent of each encoding, cut
/// after alignment, summed, cut again.
fn published(pairs: &[(f32, i16, f32, i16)], c: f32, fraction: i32, result: i32) -> f32 {
    let split = |value: f32, lowest: i32| {
        if value == 0.0 {
            return (0.0, -999);
        }
        let exponent = f64::from(value.abs()).log2().floor() as i32;
        let exponent = exponent.max(lowest);
        (f64::from(value) * 2f64.powi(-exponent), exponent)
    };
    let mut terms = vec![split(c, -126)];
    for &(x, ex, y, ey) in pairs {
        if x == 0.0 || y == 0.0 {
            terms.push((0.0, -999));
        } else {
            let (ex, ey) = (i32::from(ex), i32::from(ey));
            let significands = f64::from(x) * 2f64.powi(-ex) * f64::from(y) * 2f64.powi(-ey);
            terms.push((significands, ex + ey));
        }
    }
    let most = terms.iter().map(|term| term.1).max().unwrap();
    let sum: f64 =
        terms.iter().map(|(s, e)| (s * 2f64.powi(fraction + e - most)).trunc()).sum::<f64>();
    let sum = sum * 2f64.powi((most - fraction).max(-1000));
    if sum == 0.0 {
        return 0.0;
    }
    let exponent = (sum.abs().log2().floor() as i32).max(-126);
    let unit = 2f64.powi(exponent - result);
    ((sum / unit).trunc() * unit) as f32
}

fn row_pairs(a: &Panel, b: &Panel, row: usize, column: usize) -> Vec<(f32, i16, f32, i16)> {
    let pair = |k: usize| {
        let (x, y) = (row * a.depth + k, k * b.lines + column);
        (a.values[x], a.exponents[x], b.values[y], b.exponents[y])
    };
    (0..a.depth).map(pair).collect()
}

#[test]
fn the_hopper_rule_is_the_published_algorithm() {
    let mut random = Random(1);
    for (element, depth, fraction, result) in [
        (Element::Bf16, 16, 25, 23),
        (Element::F16, 16, 25, 23),
        (Element::Tf32, 8, 25, 23),
        (Element::E4m3, 32, 13, 13),
        (Element::E5m2, 32, 13, 13),
    ] {
        let rule = Rule::new(Accumulation::Hopper, element, Accumulator::F32, true);
        let (a, b) = panels(&mut random, element, (16, 40, depth), true);
        let c = c_values(&mut random, 16 * b.lines);
        for (name, _, aligned) in versions() {
            let mut d = c.clone();
            // SAFETY: the host has what the version needs.
            let cut = kernels::Cut { fraction: fraction as i16, result: result as u32, rule };
            unsafe { aligned(cut, &a, &b, &mut d) };
            for row in 0..16 {
                for column in 0..b.lines {
                    let at = row * b.lines + column;
                    let pairs = row_pairs(&a, &b, row, column);
                    let expected = published(&pairs, c[at], fraction, result);
                    assert_eq!(
                        d[at].to_bits(),
                        expected.to_bits(),
                        "{name} {element:?} {pairs:?} {}",
                        c[at]
                    );
                    assert_eq!(
                        one_sum(rule, &a, &b, (row, column), c[at]).to_bits(),
                        expected.to_bits()
                    );
                }
            }
        }
    }
}

#[test]
fn infinities_and_nans_come_through_every_kernel() {
    let mut random = Random(2);
    for element in [Element::Bf16, Element::F16, Element::E5m2, Element::E4m3] {
        let rule = Rule::new(Accumulation::Hopper, element, Accumulator::F32, true);
        let (mut a, b) = panels(&mut random, element, (4, 32, 16), true);
        let nan = if element == Element::E4m3 { 0x7f } else { 0x7fff };
        a.put(0, 3, nan);
        if element != Element::E4m3 {
            let infinity = match element {
                Element::Bf16 => 0x7f80,
                Element::F16 => 0x7c00,
                _ => 0x7c,
            };
            a.put(1, 3, infinity);
        }
        a.finish();
        for accumulation in [Accumulation::Hopper, Accumulation::Float32, Accumulation::Exact] {
            let rule = Rule {
                kind: Rule::new(accumulation, element, Accumulator::F32, true).kind,
                ..rule
            };
            let mut d = vec![1.0; 4 * 32];
            d[2 * 32] = f32::NEG_INFINITY;
            multiply_add(rule, &a, &b, &mut d);
            assert_eq!(d[0].to_bits(), 0x7fff_ffff, "{element:?} {accumulation:?}");
            assert_eq!(d[2 * 32], f32::NEG_INFINITY);
            for column in 0..32 {
                let exact: f64 = row_pairs(&a, &b, 1, column)
                    .iter()
                    .map(|&(x, _, y, _)| f64::from(x) * f64::from(y))
                    .sum();
                let got = d[32 + column];
                match exact.is_finite() {
                    true => assert!(got.is_finite()),
                    false => assert!(
                        got.is_nan() == exact.is_nan() && got.is_nan() || f64::from(got) == exact
                    ),
                }
            }
        }
    }
}

#[test]
fn sums_that_overflow_32_bits_are_done_singly() {
    // 16 products of the largest significands and C: 65.5 · 2^25 exceeds 2^31.
    let element = Element::Bf16;
    let (mut a, mut b) = (Panel::default(), Panel::default());
    a.reset_rows(4, 16, element, false);
    b.reset_columns(32, 16, element, false);
    for k in 0..16 {
        (0..4).for_each(|row| a.put(row, k, 0x3fff));
        (0..32).for_each(|column| b.put(column, k, 0x3fff));
    }
    a.finish();
    b.finish();
    let rule = Rule::new(Accumulation::Hopper, element, Accumulator::F32, true);
    let mut d = vec![1.9999999; 4 * 32];
    multiply_add(rule, &a, &b, &mut d);
    let expected = published(&row_pairs(&a, &b, 0, 0), 1.9999999, 25, 23);
    assert!(d.iter().all(|&value| value == expected), "{} {expected}", d[0]);
}

#[test]
fn float32_mode_is_a_chain_of_fused_multiply_adds() {
    let mut random = Random(3);
    let (a, b) = panels(&mut random, Element::Bf16, (16, 72, 16), true);
    let c = c_values(&mut random, 16 * b.lines);
    for (name, fused, _) in versions() {
        let mut d = c.clone();
        // SAFETY: the host has what the version needs.
        unsafe { fused(&a, &b, &mut d) };
        for row in 0..16 {
            for column in 0..b.lines {
                let at = row * b.lines + column;
                let pairs = row_pairs(&a, &b, row, column);
                let expected = pairs.iter().fold(c[at], |sum, pair| pair.0.mul_add(pair.2, sum));
                assert!(d[at].to_bits() == expected.to_bits() || expected.is_nan(), "{name}");
            }
        }
    }
}

#[test]
fn exact_mode_rounds_once() {
    let element = Element::Bf16;
    let (mut a, mut b) = (Panel::default(), Panel::default());
    a.reset_rows(4, 16, element, false);
    b.reset_columns(8, 16, element, false);
    for k in 0..16 {
        (0..4).for_each(|row| a.put(row, k, 0));
        (0..8).for_each(|column| b.put(column, k, 0x3f80));
    }
    // 2^100 - 2^100 + 2^-60, in an order that float32 loses.
    a.put(0, 0, 0x7180);
    a.put(0, 1, 0x2180);
    a.put(0, 2, 0xf180);
    a.finish();
    b.finish();
    let rule = Rule::new(Accumulation::Exact, element, Accumulator::F32, true);
    let mut d = vec![0.0; 4 * b.lines];
    multiply_add(rule, &a, &b, &mut d);
    assert_eq!(d[0], 2f32.powi(-60));
}

#[test]
fn binary16_accumulators_round_once_to_nearest() {
    let mut random = Random(4);
    let (a, b) = panels(&mut random, Element::F16, (4, 8, 16), true);
    let rule = Rule::new(Accumulation::Exact, Element::F16, Accumulator::F16, true);
    let mut d = vec![0.5; 4 * b.lines];
    multiply_add(rule, &a, &b, &mut d);
    for row in 0..4 {
        for column in 0..8 {
            let exact = row_pairs(&a, &b, row, column)
                .iter()
                .map(|&(x, _, y, _)| f64::from(x) * f64::from(y))
                .sum::<f64>()
                + 0.5;
            let got = f64::from(d[row * b.lines + column]);
            if got.is_infinite() {
                assert!(exact.abs() >= 65520.0 && exact.signum() == got.signum());
                continue;
            }
            let bits = half_bits(got as f32);
            assert_eq!(f64::from(Element::F16.decode(u32::from(bits)).0), got);
            for neighbour in [bits.wrapping_add(1), bits.wrapping_sub(1)] {
                let other = f64::from(Element::F16.decode(u32::from(neighbour)).0);
                assert!(!other.is_finite() || (other - exact).abs() >= (got - exact).abs());
            }
        }
    }
    assert_eq!(to_half(65519.996), 65504.0);
    assert_eq!(to_half(-65520.0), f32::NEG_INFINITY);
    assert_eq!(to_half(2f32.powi(-25)), 0.0);
    assert_eq!(to_half(2f32.powi(-25).next_up()), 2f32.powi(-24));
}

#[test]
fn half_bits_inverts_the_decoder() {
    for bits in 0..=0xffffu16 {
        let (value, _) = Element::F16.decode(u32::from(bits));
        if !value.is_nan() {
            assert_eq!(half_bits(value), bits);
        }
    }
    assert_eq!(half_bits(f32::NAN), 0x7fff);
}

#[test]
fn fp8_registers_of_22_and_14_bits_lose_what_they_must() {
    let element = Element::E4m3;
    let (mut a, mut b) = (Panel::default(), Panel::default());
    a.reset_rows(4, 32, element, false);
    b.reset_columns(8, 32, element, false);
    for k in 0..32 {
        (0..4).for_each(|row| a.put(row, k, 0));
        (0..8).for_each(|column| b.put(column, k, 0x38));
    }
    a.put(0, 0, 0x38);
    a.finish();
    b.finish();
    let sum = |accumulation, c: f32| {
        let rule = Rule::new(accumulation, element, Accumulator::F32, true);
        let mut d = vec![c; 4 * b.lines];
        multiply_add(rule, &a, &b, &mut d);
        d[0]
    };
    let small = 2f32.powi(-14);
    assert_eq!(sum(Accumulation::Hopper, small), 1.0);
    assert_eq!(sum(Accumulation::Bits22, 2f32.powi(-13)), 1.0 + 2f32.powi(-13));
    assert_eq!(sum(Accumulation::Bits22, small), 1.0);
    assert_eq!(sum(Accumulation::Bits14, small), 1.0 + small);
    // C is large: the aligned rule cuts the product, the 22-bit register the sum.
    assert_eq!(sum(Accumulation::Hopper, 2f32.powi(14)), 2f32.powi(14));
    assert_eq!(sum(Accumulation::Bits22, 2f32.powi(13)), 2f32.powi(13) + 1.0);
}

#[test]
fn integers_wrap_or_saturate() {
    let (mut a, mut b) = (Panel::default(), Panel::default());
    a.reset_rows(4, 32, Element::S8, false);
    b.reset_columns(8, 32, Element::U8, false);
    for k in 0..32 {
        (0..4).for_each(|row| a.put(row, k, if row == 0 { 0x80 } else { 0x7f }));
        (0..8).for_each(|column| b.put(column, k, 0xff));
    }
    a.finish();
    b.finish();
    let run = |saturates, c: i32| {
        let mut d = vec![f32::from_bits(c as u32); 4 * b.lines];
        multiply_add_integers((&a, &b), &mut d, &mut Vec::new(), saturates);
        (d[0].to_bits() as i32, d[b.lines].to_bits() as i32)
    };
    assert_eq!(run(false, 7), (7 - 32 * 128 * 255, 7 + 32 * 127 * 255));
    assert_eq!(run(true, i32::MIN).0, i32::MIN);
    assert_eq!(run(true, i32::MAX).1, i32::MAX);
    assert_eq!(run(false, i32::MAX).1, i32::MIN + (32 * 127 * 255 - 1));
}
