//! Integer arithmetic and comparisons. PTX ISA 9.7.1 (integer), 9.7.8 (logic and shift).

use super::value::Scalar;
use super::{Bool, F32, I32, I64, Val};
use melior::ir::Attribute;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Not, Rem, Shl, Shr, Sub};

macro_rules! operators {
    ($($trait:ident $method:ident $op:literal for $ty:ty as $make:ident;)*) => {
        $(impl<'k> $trait for Val<'k, $ty> {
            type Output = Self;
            fn $method(self, other: Self) -> Self {
                self.apply($op, &[other.raw], &[])
            }
        }
        impl<'k> $trait<$ty> for Val<'k, $ty> {
            type Output = Self;
            fn $method(self, other: $ty) -> Self {
                self.$method(self.b.$make(other))
            }
        })*
    };
}
operators! {
    Add add "arith.addi" for i32 as i32;
    Sub sub "arith.subi" for i32 as i32;
    Mul mul "arith.muli" for i32 as i32;
    Div div "arith.divui" for i32 as i32;
    Rem rem "arith.remui" for i32 as i32;
    BitAnd bitand "arith.andi" for i32 as i32;
    BitOr bitor "arith.ori" for i32 as i32;
    BitXor bitxor "arith.xori" for i32 as i32;
    Shl shl "arith.shli" for i32 as i32;
    Shr shr "arith.shrui" for i32 as i32;
    Add add "arith.addi" for i64 as i64;
    Mul mul "arith.muli" for i64 as i64;
    Add add "arith.addf" for f32 as f32;
    Sub sub "arith.subf" for f32 as f32;
    Mul mul "arith.mulf" for f32 as f32;
    Div div "arith.divf" for f32 as f32;
}

impl<'k> BitAnd for Bool<'k> {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        self.apply("arith.andi", &[other.raw], &[])
    }
}
impl<'k> BitOr for Bool<'k> {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.apply("arith.ori", &[other.raw], &[])
    }
}
impl<'k> Not for Bool<'k> {
    type Output = Self;
    fn not(self) -> Self {
        self.apply("arith.xori", &[self.b.truth(true).raw], &[])
    }
}

/// `arith.cmpi` predicates (MLIR, ArithBase.td).
#[derive(Clone, Copy)]
enum Compare {
    Eq = 0,
    Ne = 1,
    Less = 6,
    LessEq = 7,
}

impl<'k> Val<'k, u16> {
    /// As 32 bits, zero-extended.
    pub(crate) fn wide(self) -> I32<'k> {
        self.apply("arith.extui", &[], &[])
    }
}

impl<'k> I64<'k> {
    /// The lower 32 bits.
    pub(crate) fn low_word(self) -> I32<'k> {
        self.apply("arith.trunci", &[], &[])
    }
}

impl<'k> I32<'k> {
    fn compare(self, how: Compare, other: Self) -> Bool<'k> {
        let predicate: Attribute<'k> = self.b.parse(&format!("{} : i64", how as i64));
        self.apply("arith.cmpi", &[other.raw], &[("predicate", predicate)])
    }

    /// Equal.
    pub(crate) fn eq(self, other: Self) -> Bool<'k> {
        self.compare(Compare::Eq, other)
    }

    /// Not equal.
    pub(crate) fn ne(self, other: Self) -> Bool<'k> {
        self.compare(Compare::Ne, other)
    }

    /// Less, unsigned.
    pub(crate) fn lt(self, other: Self) -> Bool<'k> {
        self.compare(Compare::Less, other)
    }

    /// Less or equal, unsigned.
    pub(crate) fn le(self, other: Self) -> Bool<'k> {
        self.compare(Compare::LessEq, other)
    }

    /// The lesser, unsigned.
    pub(crate) fn min(self, other: Self) -> Self {
        self.apply("arith.minui", &[other.raw], &[])
    }

    /// The greater, unsigned.
    pub(crate) fn max(self, other: Self) -> Self {
        self.apply("arith.maxui", &[other.raw], &[])
    }

    /// `ceil(self / by)`.
    pub(crate) fn div_ceil(self, by: i32) -> Self {
        (self + (by - 1)) / by
    }

    /// The lower 8 bits.
    pub(crate) fn low_byte(self) -> Val<'k, u8> {
        self.apply("arith.trunci", &[], &[])
    }

    /// The lower 16 bits.
    pub(crate) fn low_half(self) -> Val<'k, u16> {
        self.apply("arith.trunci", &[], &[])
    }

    /// As 64 bits, zero-extended.
    pub(crate) fn wide(self) -> I64<'k> {
        self.apply("arith.extui", &[], &[])
    }

    /// Arithmetic shift right: the sign fills.
    pub(crate) fn shift_signed(self, by: i32) -> Self {
        self.apply("arith.shrsi", &[self.b.i32(by).raw], &[])
    }

    /// Number of bits set.
    pub(crate) fn count_ones(self) -> Self {
        let raw = self.b.value("llvm.intr.ctpop", &[self.raw], i32::mlir(self.b), &[]);
        Val::new(self.b, raw)
    }

    /// Index of the lowest bit set; 32 where none is.
    pub(crate) fn lowest_one(self) -> Self {
        let never = [("is_zero_poison", self.b.parse("false"))];
        Val::new(self.b, self.b.value("llvm.intr.cttz", &[self.raw], i32::mlir(self.b), &never))
    }

    /// The nearest float32 (signed).
    pub(crate) fn to_f32(self) -> F32<'k> {
        self.apply("arith.sitofp", &[], &[])
    }
}
