//! Transposition of eight chunks of 16 bytes.
//!
//! Interleaving the first four vectors with the last four rotates the bits of an element's place
//! by one; three rounds move the number of the chunk from the top to the bottom.

/// Elements of `SIZE` bytes: element `i` of chunk `j` goes to place `8 i + j`.
#[inline(always)]
pub(super) fn transpose<const SIZE: usize>(chunks: [[u8; 16]; 8]) -> [u8; 128] {
    let mut now = chunks;
    for _ in 0..3 {
        let mut next = now;
        for pair in 0..4 {
            (next[2 * pair], next[2 * pair + 1]) = interleave::<SIZE>(now[pair], now[pair + 4]);
        }
        now = next;
    }
    let mut out = [0; 128];
    for (out, vector) in out.chunks_exact_mut(16).zip(now) {
        out.copy_from_slice(&vector);
    }
    out
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn interleave<const SIZE: usize>(a: [u8; 16], b: [u8; 16]) -> ([u8; 16], [u8; 16]) {
    use std::arch::x86_64::*;
    // SAFETY: SSE2 is part of x86-64, and all 16 bytes are any bytes.
    unsafe {
        let (a, b) = (
            std::mem::transmute::<[u8; 16], __m128i>(a),
            std::mem::transmute::<[u8; 16], __m128i>(b),
        );
        let (low, high) = match SIZE {
            1 => (_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)),
            2 => (_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b)),
            _ => (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b)),
        };
        (
            std::mem::transmute::<__m128i, [u8; 16]>(low),
            std::mem::transmute::<__m128i, [u8; 16]>(high),
        )
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn interleave<const SIZE: usize>(a: [u8; 16], b: [u8; 16]) -> ([u8; 16], [u8; 16]) {
    let place = |index: usize, offset: usize| {
        let (element, byte) = (index / SIZE, index % SIZE);
        let from = if element % 2 == 0 { &a } else { &b };
        from[(element / 2) * SIZE + offset + byte]
    };
    (std::array::from_fn(|index| place(index, 0)), std::array::from_fn(|index| place(index, 8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const SIZE: usize>() {
        let chunks: [[u8; 16]; 8] =
            std::array::from_fn(|j| std::array::from_fn(|byte| (16 * j + byte) as u8));
        let out = transpose::<SIZE>(chunks);
        for (j, chunk) in chunks.iter().enumerate() {
            for (i, element) in chunk.chunks_exact(SIZE).enumerate() {
                assert_eq!(&out[(8 * i + j) * SIZE..][..SIZE], element);
            }
        }
    }

    #[test]
    fn elements_of_all_sizes_change_places() {
        check::<1>();
        check::<2>();
        check::<4>();
    }
}
