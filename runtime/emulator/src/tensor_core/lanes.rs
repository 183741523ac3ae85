//! The vector operations that the kernels need, for three kinds of host.

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

/// Vectors of float32 and int32 with `WIDTH` lanes, and of int16 with twice as many.
///
/// # Safety
/// Methods need the host features of their implementation; pointers must be good for one vector.
pub(super) trait Lanes {
    /// Lanes of a float32 vector.
    const WIDTH: usize;
    type Float: Copy;
    type Int: Copy;
    type Short: Copy;

    unsafe fn load(from: *const f32) -> Self::Float;
    unsafe fn store(to: *mut f32, value: Self::Float);
    unsafe fn splat(value: f32) -> Self::Float;
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// The value, or the one NaN of the tensor cores: the host's depend on its operands' order.
    unsafe fn canonical(value: Self::Float) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// Towards zero; values are below 2^31.
    unsafe fn truncate(value: Self::Float) -> Self::Int;
    unsafe fn zero() -> Self::Int;
    unsafe fn add(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn store_int(to: *mut i32, value: Self::Int);
    unsafe fn load_short(from: *const i16) -> Self::Short;
    unsafe fn store_short(to: *mut i16, value: Self::Short);
    unsafe fn splat_short(value: i16) -> Self::Short;
    unsafe fn max_sum(most: Self::Short, a: Self::Short, b: Self::Short) -> Self::Short;
}

/// Any host; correct, not fast.
pub(super) struct Portable;

impl Lanes for Portable {
    const WIDTH: usize = 8;
    type Float = [f32; 8];
    type Int = [i32; 8];
    type Short = [i16; 16];

    unsafe fn load(from: *const f32) -> [f32; 8] {
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    unsafe fn store(to: *mut f32, value: [f32; 8]) {
        unsafe { to.cast::<[f32; 8]>().write_unaligned(value) }
    }
    unsafe fn splat(value: f32) -> [f32; 8] {
        [value; 8]
    }
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }
    unsafe fn canonical(value: [f32; 8]) -> [f32; 8] {
        value.map(|value| if value.is_nan() { f32::from_bits(0x7fff_ffff) } else { value })
    }
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }
    unsafe fn truncate(value: [f32; 8]) -> [i32; 8] {
        value.map(|value| value as i32)
    }
    unsafe fn zero() -> [i32; 8] {
        [0; 8]
    }
    unsafe fn add(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|lane| a[lane].wrapping_add(b[lane]))
    }
    unsafe fn store_int(to: *mut i32, value: [i32; 8]) {
        unsafe { to.cast::<[i32; 8]>().write_unaligned(value) }
    }
    unsafe fn load_short(from: *const i16) -> [i16; 16] {
        unsafe { from.cast::<[i16; 16]>().read_unaligned() }
    }
    unsafe fn store_short(to: *mut i16, value: [i16; 16]) {
        unsafe { to.cast::<[i16; 16]>().write_unaligned(value) }
    }
    unsafe fn splat_short(value: i16) -> [i16; 16] {
        [value; 16]
    }
    unsafe fn max_sum(most: [i16; 16], a: [i16; 16], b: [i16; 16]) -> [i16; 16] {
        std::array::from_fn(|lane| most[lane].max(a[lane].wrapping_add(b[lane])))
    }
}
