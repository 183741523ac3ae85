//! Pairs of bfloat16 in a 32-bit word: arithmetic on both at once, and from e4m3 to them without a
//! conversion, of which Hopper has none.

use super::convert::pack;
use super::{Builder, F32, I32};
use moec_ir::DType;

/// What [`I32::e4m3_pairs`] leaves out: exponents of e4m3 are biased by 7, those of bfloat16 by 127.
pub(crate) const PAIRS_BIAS: f32 = (1_u128 << 120) as f32;

impl<'k> I32<'k> {
    /// The four e4m3 numbers of a word as two pairs of bfloat16, lowest first, each
    /// [`PAIRS_BIAS`] times too small: sign, exponent and fraction move to where bfloat16 has them,
    /// subnormals included, which are subnormal there too. A NaN reads as 480.
    pub(crate) fn e4m3_pairs(self) -> [Self; 2] {
        let b = self.b;
        let [sign, rest] = [0x8000_8000_u32, 0x07f0_07f0].map(|mask| b.i32(mask));
        // `prmt` (PTX ISA 9.7.9.7): bytes 0, 2, 1, 3, so that neighbours are 16 bits apart.
        let apart: Self = b.assembly_word("prmt.b32 $0, $1, 0, 0x3120;", "=r,r", &[self.raw]);
        let low = ((apart << 8) & sign) | ((apart << 4) & rest);
        let high = (apart & sign) | ((apart >> 4) & rest);
        [low, high]
    }

    /// The products of two pairs of bfloat16: `mul.rn.bf16x2` (PTX ISA 9.7.4.3).
    pub(crate) fn times_pair(self, other: Self) -> Self {
        let operands = [self.raw, other.raw];
        self.b.assembly_word("mul.rn.bf16x2 $0, $1, $2;", "=r,r,r", &operands)
    }

    /// The products of two pairs of bfloat16 and sums with a third: `fma.rn.bf16x2`
    /// (PTX ISA 9.7.4.4).
    pub(crate) fn fma_pair(self, other: Self, addend: Self) -> Self {
        let operands = [self.raw, other.raw, addend.raw];
        self.b.assembly_word("fma.rn.bf16x2 $0, $1, $2, $3;", "=r,r,r,r", &operands)
    }
}

impl<'k> F32<'k> {
    /// The number, rounded to bfloat16, twice; and what rounding left out, rounded, twice.
    pub(crate) fn split_pairs(self) -> [I32<'k>; 2] {
        let near = pack(DType::Bf16, &[self, self]);
        let rest = self - (near << 16).bits::<f32>();
        [near, pack(DType::Bf16, &[rest, rest])]
    }
}

impl<'k> Builder<'k> {
    /// A number twice, as bfloat16.
    pub(crate) fn bf16_pair(&'k self, value: f32) -> I32<'k> {
        // The upper half of a float32 is that bfloat16; all numbers here have no more.
        let half = value.to_bits() >> 16;
        self.i32(half << 16 | half)
    }
}
