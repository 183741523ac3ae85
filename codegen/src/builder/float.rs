//! float32 arithmetic and the functions of one number.
//!
//! The approximate instructions are used where their documented error keeps a function within
//! about 1e-6 of the true value, relative; each function states its error.

use super::{Bool, F32, I32};
use melior::ir::Attribute;

/// `arith.cmpf` predicates (MLIR, ArithBase.td).
#[derive(Clone, Copy)]
enum Compare {
    Eq = 1,
    Greater = 2,
    Less = 4,
    Unordered = 14,
}

/// log2(e), rounded to float32, and what is lost by that.
const LOG2_E: (f32, f32) = (std::f32::consts::LOG2_E, 1.925_963e-8);

impl<'k> F32<'k> {
    fn compare(self, how: Compare, other: Self) -> Bool<'k> {
        let predicate: Attribute<'k> = self.b.parse(&format!("{} : i64", how as i64));
        self.apply("arith.cmpf", &[other.raw], &[("predicate", predicate)])
    }

    /// Greater; false for NaN.
    pub(crate) fn gt(self, other: Self) -> Bool<'k> {
        self.compare(Compare::Greater, other)
    }

    /// Less; false for NaN.
    pub(crate) fn lt(self, other: Self) -> Bool<'k> {
        self.compare(Compare::Less, other)
    }

    /// Equal; false for NaN.
    pub(crate) fn equals(self, other: Self) -> Bool<'k> {
        self.compare(Compare::Eq, other)
    }

    /// Whether this is NaN.
    pub(crate) fn is_nan(self) -> Bool<'k> {
        self.compare(Compare::Unordered, self)
    }

    /// `self * factor + addend`, rounded once: `fma.rn.f32` (PTX ISA 9.7.3.6).
    pub(crate) fn fma(self, factor: Self, addend: Self) -> Self {
        self.apply("math.fma", &[factor.raw, addend.raw], &[])
    }

    /// The greater; a NaN loses against a number: `max.f32` (PTX ISA 9.7.3.11).
    pub(crate) fn max(self, other: Self) -> Self {
        self.apply("arith.maxnumf", &[other.raw], &[])
    }

    /// The lesser; a NaN loses against a number: `min.f32` (PTX ISA 9.7.3.10).
    pub(crate) fn min(self, other: Self) -> Self {
        self.apply("arith.minnumf", &[other.raw], &[])
    }

    /// The greater; NaN if either is: `max.NaN.f32` (PTX ISA 9.7.3.11).
    pub(crate) fn max_nan(self, other: Self) -> Self {
        self.apply("arith.maximumf", &[other.raw], &[])
    }

    /// The lesser; NaN if either is: `min.NaN.f32` (PTX ISA 9.7.3.10).
    pub(crate) fn min_nan(self, other: Self) -> Self {
        self.apply("arith.minimumf", &[other.raw], &[])
    }

    /// `-self`: `neg.f32` (PTX ISA 9.7.3.9).
    pub(crate) fn neg(self) -> Self {
        self.apply("arith.negf", &[], &[])
    }

    /// `|self|`: `abs.f32` (PTX ISA 9.7.3.8).
    pub(crate) fn abs(self) -> Self {
        self.apply("math.absf", &[], &[])
    }

    /// Correctly rounded: `sqrt.rn.f32` (PTX ISA 9.7.3.14).
    pub(crate) fn sqrt(self) -> Self {
        self.apply("math.sqrt", &[], &[])
    }

    fn unary_intrinsic(self, name: &str) -> Self {
        super::Val::new(self.b, self.b.intrinsic(name, &[self.raw], self.b.types.f32))
    }

    /// `2^self` within 2 ulp; subnormal results are 0: `ex2.approx.ftz.f32` (PTX ISA 9.7.3.20).
    pub(crate) fn ex2_approx(self) -> Self {
        self.unary_intrinsic("llvm.nvvm.ex2.approx.ftz.f32")
    }

    /// Base-2 logarithm, absolute error below 2^-22 between 0.5 and 2 and relative elsewhere; minus
    /// infinity at 0: `lg2.approx.ftz.f32` (PTX ISA 9.7.3.19).
    pub(crate) fn lg2_approx(self) -> Self {
        self.unary_intrinsic("llvm.nvvm.lg2.approx.ftz.f")
    }

    /// `1 / self` within 1 ulp: `rcp.approx.ftz.f32` (PTX ISA 9.7.3.12).
    pub(crate) fn rcp_approx(self) -> Self {
        self.unary_intrinsic("llvm.nvvm.rcp.approx.ftz.f")
    }

    /// `1 / sqrt(self)`, relative error below 2^-22.9: `rsqrt.approx.f32` (PTX ISA 9.7.3.16).
    pub(crate) fn rsqrt_approx(self) -> Self {
        self.unary_intrinsic("llvm.nvvm.rsqrt.approx.f")
    }

    /// `e^self`, relative error below 4e-7 wherever the result is a normal number; 0 below.
    pub(crate) fn exp(self) -> Self {
        let b = self.b;
        // Beyond these bounds the result is 0 or infinite anyhow; within them every step is finite.
        let x = self.max_nan(b.f32(-104.0)).min_nan(b.f32(89.0));
        let t = x * LOG2_E.0;
        let lost = x.fma(b.f32(LOG2_E.1), x.fma(b.f32(LOG2_E.0), t.neg()));
        t.ex2_approx() * lost.fma(b.f32(std::f32::consts::LN_2), b.f32(1.0))
    }

    /// `1 / (1 + e^-self)`, relative error below 1e-6.
    pub(crate) fn sigmoid(self) -> Self {
        (self.neg().exp() + 1.0).rcp_approx()
    }

    /// Hyperbolic tangent, relative error below 1e-6: an odd polynomial (the Taylor series)
    /// near 0, where the other formula cancels.
    pub(crate) fn tanh(self) -> Self {
        const SERIES: [f32; 5] =
            [-1382.0 / 155_925.0, 62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0];
        let b = self.b;
        let square = self * self;
        let tail = SERIES.iter().fold(b.f32(0.0), |p, &c| p.fma(square, b.f32(c)));
        let near = (tail * square).fma(self, self);
        let far = ((self + self).exp() + 1.0).rcp_approx().fma(b.f32(-2.0), b.f32(1.0));
        near.when(self.abs().lt(b.f32(0.35)), far)
    }

    /// Natural logarithm, relative error below 3e-7 (the polynomial is that of Cephes' `logf`).
    pub(crate) fn ln(self) -> Self {
        const SERIES: [f32; 9] = [
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333e-1,
        ];
        let b = self.b;
        let subnormal = self.lt(b.f32(f32::MIN_POSITIVE));
        let scaled = (self * 8_388_608.0).when(subnormal, self);
        // The mantissa in [sqrt(1/2), sqrt(2)) and the exponent that goes with it.
        let bits: I32<'k> = scaled.bits();
        let exponent = (bits - 0x3f35_04f3).shift_signed(23);
        let m: F32<'k> = (bits - (exponent << 23)).bits();
        let e = exponent.to_f32() - b.f32(23.0).when(subnormal, b.f32(0.0));
        let x = m - 1.0;
        let z = x * x;
        let y = SERIES.iter().fold(b.f32(0.0), |p, &c| p.fma(x, b.f32(c))) * x * z;
        let y = z.fma(b.f32(-0.5), e.fma(b.f32(-2.121_944_4e-4), y));
        let ln = e.fma(b.f32(0.693_359_4), x + y);
        let ln = self.when(self.equals(b.f32(f32::INFINITY)) | self.is_nan(), ln);
        let ln = b.f32(f32::NEG_INFINITY).when(self.equals(b.f32(0.0)), ln);
        b.f32(f32::NAN).when(self.lt(b.f32(0.0)), ln)
    }

    /// `max(self, 0)`; 0 for NaN.
    pub(crate) fn relu(self) -> Self {
        self.max(self.b.f32(0.0))
    }

    /// -1, 0 or 1; 0 for NaN.
    pub(crate) fn sign(self) -> Self {
        let b = self.b;
        let zero = b.f32(0.0);
        b.f32(1.0).when(self.gt(zero), b.f32(-1.0).when(self.lt(zero), zero))
    }
}
