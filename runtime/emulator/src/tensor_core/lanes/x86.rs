//! The vectors of x86-64 hosts.

use std::arch::x86_64::*;

use super::Lanes;

/// AVX-512 F and BW.
pub(in crate::tensor_core) struct Avx512;

// SAFETY (all blocks): the trait's callers have the features and good pointers.
impl Lanes for Avx512 {
    const WIDTH: usize = 16;
    type Float = __m512;
    type Int = __m512i;
    type Short = __m512i;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m512) {
        unsafe { _mm512_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn canonical(value: __m512) -> __m512 {
        unsafe {
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
            _mm512_mask_mov_ps(value, is_nan, _mm512_castsi512_ps(_mm512_set1_epi32(i32::MAX)))
        }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn truncate(value: __m512) -> __m512i {
        unsafe { _mm512_cvttps_epi32(value) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn store_int(to: *mut i32, value: __m512i) {
        unsafe { _mm512_storeu_si512(to.cast(), value) }
    }
    #[inline(always)]
    unsafe fn load_short(from: *const i16) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store_short(to: *mut i16, value: __m512i) {
        unsafe { _mm512_storeu_si512(to.cast(), value) }
    }
    #[inline(always)]
    unsafe fn splat_short(value: i16) -> __m512i {
        unsafe { _mm512_set1_epi16(value) }
    }
    #[inline(always)]
    unsafe fn max_sum(most: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_max_epi16(most, _mm512_add_epi16(a, b)) }
    }
}

/// AVX2 and FMA.
pub(in crate::tensor_core) struct Avx2;

impl Lanes for Avx2 {
    const WIDTH: usize = 8;
    type Float = __m256;
    type Int = __m256i;
    type Short = __m256i;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m256) {
        unsafe { _mm256_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn canonical(value: __m256) -> __m256 {
        unsafe {
            let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(value, value);
            let nan = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
            _mm256_blendv_ps(value, nan, is_nan)
        }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn truncate(value: __m256) -> __m256i {
        unsafe { _mm256_cvttps_epi32(value) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn store_int(to: *mut i32, value: __m256i) {
        unsafe { _mm256_storeu_si256(to.cast(), value) }
    }
    #[inline(always)]
    unsafe fn load_short(from: *const i16) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store_short(to: *mut i16, value: __m256i) {
        unsafe { _mm256_storeu_si256(to.cast(), value) }
    }
    #[inline(always)]
    unsafe fn splat_short(value: i16) -> __m256i {
        unsafe { _mm256_set1_epi16(value) }
    }
    #[inline(always)]
    unsafe fn max_sum(most: __m256i, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_max_epi16(most, _mm256_add_epi16(a, b)) }
    }
}
