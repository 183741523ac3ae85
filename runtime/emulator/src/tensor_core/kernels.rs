//! The loops that do the work, written once over [`Lanes`] and compiled for each kind of host.

use super::accumulate::{Rule, one_sum};
use super::lanes::{Lanes, Portable};
use super::panel::Panel;

/// The bit-accurate rule as the vector kernel takes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Bits kept below the largest exponent.
    pub(super) fraction: i16,
    /// Fraction bits of the result.
    pub(super) result: u32,
    /// The same rule for the sums that do not fit the vectors.
    pub(super) rule: Rule,
}

/// Sums whose scale lies outside leave the range of float32 in between and are done singly.
const RANGE: std::ops::RangeInclusive<i32> = -100..=120;

/// Products and C are all zero.
const NOTHING: i32 = -900;

/// `c += a·b` by fused multiply-adds along the depth.
pub(super) fn fused(a: &Panel, b: &Panel, c: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use super::lanes::{Avx2, Avx512};
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
        unsafe fn on_avx512(a: &Panel, b: &Panel, c: &mut [f32]) {
            // SAFETY: the features are enabled.
            unsafe { fused_tiles::<Avx512>(a, b, c) }
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn on_avx2(a: &Panel, b: &Panel, c: &mut [f32]) {
            // SAFETY: the features are enabled.
            unsafe { fused_tiles::<Avx2>(a, b, c) }
        }
        if has_avx512() && b.lines.is_multiple_of(32) {
            // SAFETY: the host has them.
            return unsafe { on_avx512(a, b, c) };
        }
        if has_avx2() {
            // SAFETY: the host has them.
            return unsafe { on_avx2(a, b, c) };
        }
    }
    // SAFETY: any host has what this needs.
    unsafe { fused_tiles::<Portable>(a, b, c) }
}

/// `c = c + a·b` by the bit-accurate rule, with float32 accumulators.
pub(super) fn aligned(cut: Cut, a: &Panel, b: &Panel, c: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use super::lanes::{Avx2, Avx512};
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
        unsafe fn on_avx512(cut: Cut, a: &Panel, b: &Panel, c: &mut [f32]) {
            // SAFETY: the features are enabled.
            unsafe { aligned_tiles::<Avx512, 4, 32>(cut, a, b, c) }
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn on_avx2(cut: Cut, a: &Panel, b: &Panel, c: &mut [f32]) {
            // SAFETY: the features are enabled.
            unsafe { aligned_tiles::<Avx2, 2, 16>(cut, a, b, c) }
        }
        if has_avx512() && b.lines.is_multiple_of(32) {
            // SAFETY: the host has them.
            return unsafe { on_avx512(cut, a, b, c) };
        }
        if has_avx2() {
            // SAFETY: the host has them.
            return unsafe { on_avx2(cut, a, b, c) };
        }
    }
    // SAFETY: any host has what this needs.
    unsafe { aligned_tiles::<Portable, 2, 16>(cut, a, b, c) }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// # Safety
/// The host has what `L` needs; `c` holds the tile.
#[inline(always)]
unsafe fn fused_tiles<L: Lanes>(a: &Panel, b: &Panel, c: &mut [f32]) {
    debug_assert!(a.lines.is_multiple_of(4) && b.lines.is_multiple_of(2 * L::WIDTH));
    for row in (0..a.lines).step_by(4) {
        let mut column = 0;
        // SAFETY: rows and columns lie inside the panels and the tile.
        unsafe {
            while column + 4 * L::WIDTH <= b.lines {
                fused_block::<L, 4>(a, b, c, row, column);
                column += 4 * L::WIDTH;
            }
            while column + 2 * L::WIDTH <= b.lines {
                fused_block::<L, 2>(a, b, c, row, column);
                column += 2 * L::WIDTH;
            }
        }
    }
}

/// Four rows by `VECTORS` vectors of columns.
#[inline(always)]
unsafe fn fused_block<L: Lanes, const VECTORS: usize>(
    a: &Panel,
    b: &Panel,
    c: &mut [f32],
    row: usize,
    column: usize,
) {
    let (depth, lines) = (a.depth, b.lines);
    // SAFETY: the caller's block lies inside the panels and the tile.
    unsafe {
        let tile = c.as_mut_ptr().add(row * lines + column);
        let mut sums = [[L::splat(0.0); VECTORS]; 4];
        for (index, sums) in sums.iter_mut().enumerate() {
            for (vector, sum) in sums.iter_mut().enumerate() {
                *sum = L::load(tile.add(index * lines + vector * L::WIDTH));
            }
        }
        let (mut x, mut y) = (a.values.as_ptr().add(row * depth), b.values.as_ptr().add(column));
        for _ in 0..depth {
            let mut columns = [L::splat(0.0); VECTORS];
            for (vector, column) in columns.iter_mut().enumerate() {
                *column = L::load(y.add(vector * L::WIDTH));
            }
            for (index, sums) in sums.iter_mut().enumerate() {
                let factor = L::splat(*x.add(index * depth));
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = L::fma(factor, column, *sum);
                }
            }
            (x, y) = (x.add(1), y.add(lines));
        }
        for (index, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                L::store(tile.add(index * lines + vector * L::WIDTH), L::canonical(sum));
            }
        }
    }
}

/// # Safety
/// The host has what `L` needs; `c` holds the tile; `COLUMNS` is twice the width of `L`.
#[inline(always)]
unsafe fn aligned_tiles<L: Lanes, const ROWS: usize, const COLUMNS: usize>(
    cut: Cut,
    a: &Panel,
    b: &Panel,
    c: &mut [f32],
) {
    debug_assert!(a.lines.is_multiple_of(ROWS) && b.lines.is_multiple_of(COLUMNS));
    debug_assert_eq!(COLUMNS, 2 * L::WIDTH);
    for row in (0..a.lines).step_by(ROWS) {
        for column in (0..b.lines).step_by(COLUMNS) {
            // SAFETY: rows and columns lie inside the panels and the tile.
            unsafe { aligned_block::<L, ROWS, COLUMNS>(cut, a, b, c, (row, column)) };
        }
    }
}

#[inline(always)]
unsafe fn aligned_block<L: Lanes, const ROWS: usize, const COLUMNS: usize>(
    cut: Cut,
    a: &Panel,
    b: &Panel,
    c: &mut [f32],
    (row, column): (usize, usize),
) {
    let (depth, lines) = (a.depth, b.lines);
    // SAFETY: the caller's block lies inside the panels and the tile.
    let exponents = unsafe { largest_exponents::<L, ROWS, COLUMNS>(a, b, (row, column)) };
    let mut scales = [[0.0f32; COLUMNS]; ROWS];
    let mut clamped = [[0i32; COLUMNS]; ROWS];
    let mut odd = [[false; COLUMNS]; ROWS];
    for index in 0..ROWS {
        let tile = &c[(row + index) * lines + column..][..COLUMNS];
        for lane in 0..COLUMNS {
            let most = i32::from(exponents[index][lane]).max(exponent_of(tile[lane]));
            odd[index][lane] = (most > *RANGE.end()) | ((most < *RANGE.start()) & (most > NOTHING));
            let exponent = most.clamp(*RANGE.start(), *RANGE.end());
            clamped[index][lane] = exponent;
            scales[index][lane] = power_of_two(i32::from(cut.fraction) - exponent);
        }
    }
    let mut sums = [[0i32; COLUMNS]; ROWS];
    // SAFETY: as above; `COLUMNS` is two vectors.
    unsafe {
        let mut totals = [[L::zero(); 2]; ROWS];
        let mut factors = [[L::splat(0.0); 2]; ROWS];
        for (factors, scales) in factors.iter_mut().zip(&scales) {
            *factors = [L::load(scales.as_ptr()), L::load(scales.as_ptr().add(L::WIDTH))];
        }
        let (mut x, mut y) = (a.values.as_ptr().add(row * depth), b.values.as_ptr().add(column));
        for _ in 0..depth {
            let columns = [L::load(y), L::load(y.add(L::WIDTH))];
            for index in 0..ROWS {
                let factor = L::splat(*x.add(index * depth));
                for vector in 0..2 {
                    let product = L::mul(L::mul(factor, columns[vector]), factors[index][vector]);
                    totals[index][vector] = L::add(totals[index][vector], L::truncate(product));
                }
            }
            (x, y) = (x.add(1), y.add(lines));
        }
        for (sums, totals) in sums.iter_mut().zip(&totals) {
            L::store_int(sums.as_mut_ptr(), totals[0]);
            L::store_int(sums.as_mut_ptr().add(L::WIDTH), totals[1]);
        }
    }
    for index in 0..ROWS {
        let tile = &mut c[(row + index) * lines + column..][..COLUMNS];
        let mut any_odd = false;
        let mut results = [0.0f32; COLUMNS];
        for lane in 0..COLUMNS {
            // SAFETY: a product with the scale is below 2^26, or the lane is odd and unused; the
            // conversion is guarded against values that do not fit.
            let scaled = tile[lane] * scales[index][lane];
            let scaled = if odd[index][lane] { 0.0 } else { scaled };
            let added = unsafe { scaled.to_int_unchecked::<i32>() };
            let sum = sums[index][lane];
            odd[index][lane] |= sum.unsigned_abs() >= 1 << 30;
            any_odd |= odd[index][lane];
            let exponent = clamped[index][lane] - i32::from(cut.fraction);
            results[lane] = cut_to_float(sum.wrapping_add(added), exponent, cut.result);
        }
        if any_odd {
            single(cut.rule, a, b, (row + index, column), &odd[index], (tile, &mut results));
        }
        tile.copy_from_slice(&results);
    }
}

/// The sums that the vectors cannot do, one by one.
#[cold]
#[inline(never)]
fn single(
    rule: Rule,
    a: &Panel,
    b: &Panel,
    (row, column): (usize, usize),
    odd: &[bool],
    (tile, results): (&[f32], &mut [f32]),
) {
    for lane in (0..odd.len()).filter(|&lane| odd[lane]) {
        results[lane] = one_sum(rule, a, b, (row, column + lane), tile[lane]);
    }
}

#[inline(always)]
unsafe fn largest_exponents<L: Lanes, const ROWS: usize, const COLUMNS: usize>(
    a: &Panel,
    b: &Panel,
    (row, column): (usize, usize),
) -> [[i16; COLUMNS]; ROWS] {
    let mut out = [[0; COLUMNS]; ROWS];
    // SAFETY: the caller's block lies inside the panels.
    unsafe {
        let (mut x, mut y) =
            (a.exponents.as_ptr().add(row * a.depth), b.exponents.as_ptr().add(column));
        let mut most = [L::splat_short(i16::MIN); ROWS];
        for _ in 0..a.depth {
            let columns = L::load_short(y);
            for (index, most) in most.iter_mut().enumerate() {
                *most = L::max_sum(*most, L::splat_short(*x.add(index * a.depth)), columns);
            }
            (x, y) = (x.add(1), y.add(b.lines));
        }
        for (out, &most) in out.iter_mut().zip(&most) {
            L::store_short(out.as_mut_ptr(), most);
        }
    }
    out
}

/// The exponent of a float32; zeros lie below everything.
#[inline(always)]
fn exponent_of(value: f32) -> i32 {
    let magnitude = value.to_bits() & 0x7fff_ffff;
    let field = (magnitude >> 23) as i32;
    let exponent = field.max(1) - 127;
    if magnitude == 0 { -2000 } else { exponent }
}

/// 2 to the power of `exponent`, which lies in -126..=127.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) << 23) as u32)
}

/// `sum · 2^exponent`, cut towards zero to `fraction` bits of fraction; `|sum|` is below 2^31 and
/// the result is normal.
#[inline(always)]
fn cut_to_float(sum: i32, exponent: i32, fraction: u32) -> f32 {
    let magnitude = sum.wrapping_abs();
    let near = magnitude as f32;
    // SAFETY: at most 2^30 + 2^26 where the result is used; anything else is at most 2^31, which
    // the host turns into some number.
    let back = if near < 2147483648.0 { unsafe { near.to_int_unchecked::<i32>() } } else { 0 };
    let below = near.to_bits() - u32::from(back > magnitude);
    let kept = below & (u32::MAX << (23 - fraction));
    let result = f32::from_bits(kept) * power_of_two(exponent);
    f32::from_bits(result.to_bits() | (sum as u32 & 0x8000_0000))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    type Fused = unsafe fn(&Panel, &Panel, &mut [f32]);
    type Aligned = unsafe fn(Cut, &Panel, &Panel, &mut [f32]);

    /// Every version that this host can run.
    pub(in crate::tensor_core) fn versions() -> Vec<(&'static str, Fused, Aligned)> {
        let mut all: Vec<(&'static str, Fused, Aligned)> =
            vec![("portable", fused_tiles::<Portable>, aligned_tiles::<Portable, 2, 16>)];
        #[cfg(target_arch = "x86_64")]
        {
            use super::super::lanes::{Avx2, Avx512};
            if has_avx2() {
                all.push(("avx2", fused_tiles::<Avx2>, aligned_tiles::<Avx2, 2, 16>));
            }
            if has_avx512() {
                all.push(("avx512", fused_tiles::<Avx512>, aligned_tiles::<Avx512, 4, 32>));
            }
        }
        all
    }
}
