//! Lane-wise instructions: one loop over 32 lanes per shape of operands, compiled for each level
//! of the host's vector instructions and specialised for each operation.
//!
//! An operation is a closure without captures; the decoder passes it here and gets back the
//! executor of the instruction. Results of lanes that do not execute are computed and dropped, so
//! operations must not panic on any bits.

use std::mem::size_of;
use std::sync::OnceLock;

use half::{bf16, f16};

use super::Cx;
use super::context::{Word, blend};
use crate::program::{Exec, Flow, Inst};

/// Vector instructions that the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// What every x86-64 has, or another architecture.
    Base,
    /// x86-64-v3.
    Avx2,
    /// x86-64-v4.
    Avx512,
}

/// The level of this host.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let v3 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    let v4 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512cd");
    match (v3, v4) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Base,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Base
}

/// An operation without captures, out of nothing.
#[inline(always)]
fn conjure<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "operations capture nothing") };
    // SAFETY: the type has no bytes, and a value of it was given to the decoder.
    unsafe { std::ptr::NonNull::<F>::dangling().read() }
}

/// What a register of a given width holds for one lane.
pub(crate) trait Cell: Word {
    /// # Safety
    /// As for [`Cx::row32`].
    unsafe fn row<'r>(cx: &Cx<'_>, reg: u32) -> &'r mut [Self; 32];
}

macro_rules! cell {
    ($cell:ty, $row:ident) => {
        impl Cell for $cell {
            #[inline(always)]
            unsafe fn row<'r>(cx: &Cx<'_>, reg: u32) -> &'r mut [Self; 32] {
                // SAFETY: as the caller's.
                unsafe { cx.$row(reg) }
            }
        }
    };
}
cell!(u32, row32);
cell!(u64, row64);
cell!(u128, row128);

/// A value of a lane, and how a register holds it.
pub(crate) trait Lane: Copy + 'static {
    /// What the register holds.
    type Cell: Cell;
    /// The value in a register.
    fn get(cell: Self::Cell) -> Self;
    /// The register's content for a value; narrow values are extended with zeros.
    fn put(self) -> Self::Cell;
}

macro_rules! lane {
    ($($ty:ty, $cell:ty, |$get:ident| $from:expr, |$put:ident| $to:expr;)*) => {$(
        impl Lane for $ty {
            type Cell = $cell;
            #[inline(always)]
            fn get($get: $cell) -> Self {
                $from
            }
            #[inline(always)]
            fn put(self) -> $cell {
                let $put = self;
                $to
            }
        }
    )*};
}

lane! {
    u8, u32, |c| c as u8, |v| u32::from(v);
    i8, u32, |c| c as i8, |v| u32::from(v as u8);
    u16, u32, |c| c as u16, |v| u32::from(v);
    i16, u32, |c| c as i16, |v| u32::from(v as u16);
    u32, u32, |c| c, |v| v;
    i32, u32, |c| c as i32, |v| v as u32;
    f32, u32, |c| f32::from_bits(c), |v| v.to_bits();
    f16, u32, |c| f16::from_bits(c as u16), |v| u32::from(v.to_bits());
    bf16, u32, |c| bf16::from_bits(c as u16), |v| u32::from(v.to_bits());
    u64, u64, |c| c, |v| v;
    i64, u64, |c| c as i64, |v| v as u64;
    f64, u64, |c| f64::from_bits(c), |v| v.to_bits();
    u128, u128, |c| c, |v| v;
}

/// What an operation over lanes of given types is.
pub(crate) trait Op1<A, D>: Fn(A) -> D + Copy + 'static {}
impl<A, D, F: Fn(A) -> D + Copy + 'static> Op1<A, D> for F {}
/// As [`Op1`], of two operands.
pub(crate) trait Op2<A, B, D>: Fn(A, B) -> D + Copy + 'static {}
impl<A, B, D, F: Fn(A, B) -> D + Copy + 'static> Op2<A, B, D> for F {}
/// As [`Op1`], of three operands.
pub(crate) trait Op3<A, B, C, D>: Fn(A, B, C) -> D + Copy + 'static {}
impl<A, B, C, D, F: Fn(A, B, C) -> D + Copy + 'static> Op3<A, B, C, D> for F {}

/// A comparison of two values of one type.
pub(crate) trait Compare<A>: Fn(A, A) -> bool + Copy + 'static {}
impl<A, F: Fn(A, A) -> bool + Copy + 'static> Compare<A> for F {}
/// An operation from a type to itself.
pub(crate) trait Op1Same<A>: Fn(A) -> A + Copy + 'static {}
impl<A, F: Fn(A) -> A + Copy + 'static> Op1Same<A> for F {}

#[inline(always)]
unsafe fn unary_body<A: Lane, D: Lane, F: Op1<A, D>>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let op = conjure::<F>();
    let mut out = [D::Cell::default(); 32];
    // SAFETY: the caller gives operands of this frame.
    unsafe {
        let a = &*A::Cell::row(cx, inst.a);
        for lane in 0..32 {
            out[lane] = op(A::get(a[lane])).put();
        }
        blend(D::Cell::row(cx, inst.d), &out, cx.mask);
    }
    Flow::Next
}

#[inline(always)]
unsafe fn binary_body<A: Lane, B: Lane, D: Lane, F: Op2<A, B, D>>(
    cx: &mut Cx<'_>,
    inst: &Inst,
) -> Flow {
    let op = conjure::<F>();
    let mut out = [D::Cell::default(); 32];
    // SAFETY: the caller gives operands of this frame.
    unsafe {
        let (a, b) = (&*A::Cell::row(cx, inst.a), &*B::Cell::row(cx, inst.b));
        for lane in 0..32 {
            out[lane] = op(A::get(a[lane]), B::get(b[lane])).put();
        }
        blend(D::Cell::row(cx, inst.d), &out, cx.mask);
    }
    Flow::Next
}

#[inline(always)]
unsafe fn ternary_body<A: Lane, B: Lane, C: Lane, D: Lane, F: Op3<A, B, C, D>>(
    cx: &mut Cx<'_>,
    inst: &Inst,
) -> Flow {
    let op = conjure::<F>();
    let mut out = [D::Cell::default(); 32];
    // SAFETY: the caller gives operands of this frame.
    unsafe {
        let (a, b) = (&*A::Cell::row(cx, inst.a), &*B::Cell::row(cx, inst.b));
        let c = &*C::Cell::row(cx, inst.c);
        for lane in 0..32 {
            out[lane] = op(A::get(a[lane]), B::get(b[lane]), C::get(c[lane])).put();
        }
        blend(D::Cell::row(cx, inst.d), &out, cx.mask);
    }
    Flow::Next
}

/// A comparison: the result is a predicate; `aux`, `imm` and `c` are those of [`finish_compare`].
#[inline(always)]
unsafe fn compare_body<A: Lane, F: Compare<A>>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let op = conjure::<F>();
    // Bits of their own first, so that the comparisons vectorise.
    let mut parts = [0u32; 32];
    // SAFETY: the caller gives operands of this frame.
    unsafe {
        let (a, b) = (&*A::Cell::row(cx, inst.a), &*A::Cell::row(cx, inst.b));
        for lane in 0..32 {
            parts[lane] = if op(A::get(a[lane]), A::get(b[lane])) { 1 << lane } else { 0 };
        }
        let mut bits = 0;
        for part in parts {
            bits |= part;
        }
        finish_compare(cx, inst, bits)
    }
}

/// Writes a comparison's predicates: `d` and, where `imm` names one, the complement.
/// `aux` is 0 or the combination with `c`: 1 and, 2 or, 3 xor, plus 4 for a negated `c`
/// (PTX ISA 9.7.5.1, "setp").
///
/// # Safety
/// The operands must be those of this frame.
#[inline(always)]
pub(crate) unsafe fn finish_compare(cx: &mut Cx<'_>, inst: &Inst, bits: u32) -> Flow {
    // SAFETY: as the caller's.
    unsafe {
        let (mut first, mut second) = (bits, !bits);
        if inst.aux != 0 {
            let mut with = *cx.pred(inst.c);
            if inst.aux & 4 != 0 {
                with = !with;
            }
            (first, second) = match inst.aux & 3 {
                1 => (first & with, second & with),
                2 => (first | with, second | with),
                _ => (first ^ with, second ^ with),
            };
        }
        if inst.d != crate::program::NO_REG {
            cx.set_pred(inst.d, first);
        }
        if inst.imm as u32 != crate::program::NO_REG {
            cx.set_pred(inst.imm as u32, second);
        }
    }
    Flow::Next
}

/// A choice: lanes of predicate `c` take `a`, others `b`; `aux` negates the predicate.
#[inline(always)]
unsafe fn select_body<A: Lane, F: Op1Same<A>>(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let mut out = [A::Cell::default(); 32];
    // SAFETY: the caller gives operands of this frame.
    unsafe {
        let (a, b) = (&*A::Cell::row(cx, inst.a), &*A::Cell::row(cx, inst.b));
        let choice = *cx.pred(inst.c) ^ inst.aux;
        for lane in 0..32 {
            out[lane] = if choice >> lane & 1 != 0 { a[lane] } else { b[lane] };
        }
        blend(A::Cell::row(cx, inst.d), &out, cx.mask);
    }
    Flow::Next
}

/// Defines a function from an operation to its executor, compiled once per level.
macro_rules! shape {
    ($(#[$doc:meta])* $name:ident, $body:ident, [$($lane:ident),*], $op:ident<$($arg:ident),*>) => {
        $(#[$doc])*
        pub(crate) fn $name<$($lane: Lane,)* F: $op<$($arg),*>>(_op: F) -> Exec {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                unsafe fn avx2<$($lane: Lane,)* F: $op<$($arg),*>>(
                    cx: &mut Cx<'_>,
                    inst: &Inst,
                ) -> Flow {
                    // SAFETY: as the caller's.
                    unsafe { $body::<$($lane,)* F>(cx, inst) }
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd")]
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                unsafe fn avx512<$($lane: Lane,)* F: $op<$($arg),*>>(
                    cx: &mut Cx<'_>,
                    inst: &Inst,
                ) -> Flow {
                    // SAFETY: as the caller's.
                    unsafe { $body::<$($lane,)* F>(cx, inst) }
                }
                match level() {
                    Level::Avx512 => return avx512::<$($lane,)* F>,
                    Level::Avx2 => return avx2::<$($lane,)* F>,
                    Level::Base => {}
                }
            }
            $body::<$($lane,)* F>
        }
    };
}

shape!(
    /// `d = op(a)`.
    unary, unary_body, [A, D], Op1<A, D>
);
shape!(
    /// `d = op(a, b)`.
    binary, binary_body, [A, B, D], Op2<A, B, D>
);
shape!(
    /// `d = op(a, b, c)`.
    ternary, ternary_body, [A, B, C, D], Op3<A, B, C, D>
);
shape!(
    /// `d|imm = op(a, b)`, combined with `c` as `aux` says.
    compare, compare_body, [A], Compare<A>
);
shape!(
    /// `d = c ? a : b`; the operation gives the type only.
    select, select_body, [A], Op1Same<A>
);
