//! Matrix products of any depth as a kernel computes them: one tensor-core instruction after the
//! other into the same accumulator, which now and then moves to float32 registers.

use super::accumulate::{Accumulation, Rule, multiply_add};
use super::element::{Accumulator, Element};
use super::panel::{Panel, padded, position};

/// Depth of `wgmma` for 8-bit elements (PTX ISA 9.7.15.2, "Matrix Shape": K = 32).
const DEPTH: usize = 32;

/// `A·Bᵀ` of FP8 e4m3 encodings, as a chain of `wgmma.mma_async…k32` instructions computes it.
///
/// `a` holds `rows` times `depth` bytes, `b` `columns` times `depth`; the result `rows` times
/// `columns`. After every `promote_every` products (rounded up to whole instructions) the
/// accumulator is multiplied by `scale(row, column, interval)` and added to the result in float32,
/// as CUDA cores do it (DeepSeek-V3 3.3.2); then it starts again from zero. Missing elements of
/// the last instruction are zeros.
///
/// # Panics
/// Where `a` or `b` is not a multiple of `depth`, or `promote_every` is 0.
pub fn multiply_e4m3(
    accumulation: Accumulation,
    (a, b): (&[u8], &[u8]),
    depth: usize,
    promote_every: usize,
    scale: &dyn Fn(usize, usize, usize) -> f32,
) -> Vec<f32> {
    assert!(promote_every > 0 && depth > 0, "no products to add");
    assert!(a.len().is_multiple_of(depth) && b.len().is_multiple_of(depth), "incomplete rows");
    let (rows, columns) = (a.len() / depth, b.len() / depth);
    let rule = Rule::new(accumulation, Element::E4m3, Accumulator::F32, true);
    // Whole fragments: a warp holds 16 rows (PTX ISA 9.7.15.5.1, "Register Fragments").
    let (height, lines) = (rows.next_multiple_of(16), padded(columns));
    let mut result = vec![0.0; rows * columns];
    let mut sums = vec![0.0; height * lines];
    let [mut left, mut right] = [Panel::default(), Panel::default()];
    for (interval, start) in (0..depth).step_by(promote_every).enumerate() {
        let end = (start + promote_every).min(depth);
        sums.fill(0.0);
        for from in (start..end).step_by(DEPTH) {
            let element = |bytes: &[u8], line: usize, k: usize| {
                let at = (from + k < end).then_some(line * depth + from + k);
                at.and_then(|at| bytes.get(at)).map_or(0, |&byte| u32::from(byte))
            };
            left.reset_rows(height, DEPTH, Element::E4m3, false);
            right.reset_columns(columns, DEPTH, Element::E4m3, false);
            for k in 0..DEPTH {
                (0..height).for_each(|row| left.put(row, k, element(a, row, k)));
                (0..columns).for_each(|column| right.put(column, k, element(b, column, k)));
            }
            left.finish();
            right.finish();
            multiply_add(rule, &left, &right, &mut sums);
        }
        for row in 0..rows {
            for column in 0..columns {
                let sum = sums[row * lines + position(column)];
                let out = &mut result[row * columns + column];
                *out = sum.mul_add(scale(row, column, interval), *out);
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1.0, 448.0 and 2^-9.
    const ONE: u8 = 0x38;
    const MOST: u8 = 0x7e;
    const LEAST: u8 = 0x01;

    #[test]
    fn products_of_a_chain_add_up() {
        let depth = 70;
        let a = vec![ONE; 2 * depth];
        let b = vec![ONE; 3 * depth];
        for every in [32, 64, 70, 128] {
            let c = multiply_e4m3(Accumulation::Hopper, (&a, &b), depth, every, &|_, _, _| 2.0);
            assert_eq!(c, [140.0; 6]);
        }
    }

    #[test]
    fn small_products_beside_a_large_sum_survive_promotion_only() {
        // 448² = 2^17.6; 2^-9 is below its 13 fraction bits.
        let mut a = vec![LEAST; 64];
        a[0] = MOST;
        let mut b = vec![ONE; 64];
        b[0] = MOST;
        let sum = |accumulation, every| {
            multiply_e4m3(accumulation, (&a, &b), 64, every, &|_, _, _| 1.0)[0]
        };
        let large = 448.0 * 448.0;
        assert_eq!(sum(Accumulation::Hopper, 64), large);
        assert_eq!(sum(Accumulation::Hopper, 32), large + 0.0625);
        // 63 / 512, rounded to the 1 / 64 that a float32 of this size resolves.
        assert_eq!(sum(Accumulation::Exact, 64), large + 0.125);
    }

    #[test]
    fn intervals_have_scales_of_their_own() {
        let c = multiply_e4m3(
            Accumulation::Exact,
            (&[ONE; 64], &[ONE; 64]),
            64,
            32,
            &|_, _, interval| [1.0, 10.0][interval],
        );
        assert_eq!(c, [352.0]);
    }
}
