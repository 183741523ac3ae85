//! Elements in storage types to and from float32. PTX ISA 9.7.9.22 (`cvt`).

use super::{Builder, F32, I32, Ptr, Val, bug};
use melior::ir::{Type, Value};
use moec_ir::DType;

/// `cvt.rn.f16x2.e4m3x2`.
const E4M3_PAIR: &str = "llvm.nvvm.e4m3x2.to.f16x2.rn";
/// `cvt.rn.f16x2.e5m2x2`.
const E5M2_PAIR: &str = "llvm.nvvm.e5m2x2.to.f16x2.rn";

impl<'k> Ptr<'k> {
    /// `count` consecutive elements as float32; `count` is a power of two and the address is
    /// aligned to `count` elements or 16 bytes, whichever is less.
    pub(crate) fn load(self, dtype: DType, count: u64) -> Vec<F32<'k>> {
        let bytes = count * dtype.bytes();
        if bytes < 4 {
            let each = |i| self.add_const(i * dtype.bytes()).load_small(dtype);
            return (0..count).map(each).collect();
        }
        let words_at_once = (bytes / 4).min(4);
        (0..bytes / 4 / words_at_once)
            .flat_map(|i| {
                let at = self.add_const(4 * words_at_once * i);
                at.load_words::<i32>(usize::try_from(words_at_once).unwrap_or_else(|e| bug(e)))
            })
            .flat_map(|word| word.unpack(dtype))
            .collect()
    }

    fn load_small(self, dtype: DType) -> F32<'k> {
        let b = self.builder();
        match dtype {
            DType::Bf16 => {
                let raw = self.load_as(b.types.bf16, 2);
                Val::new(b, b.value("arith.extf", &[raw], b.types.f32, &[]))
            }
            DType::F16 => {
                let raw = self.load_as(b.types.f16, 2);
                Val::new(b, b.value("arith.extf", &[raw], b.types.f32, &[]))
            }
            DType::F8e4m3 | DType::F8e5m2 => {
                let byte: Val<'k, u8> = self.load_scalar();
                let pair: Val<'k, u16> = byte.apply("arith.extui", &[], &[]);
                pair.unpack_f8(dtype)[0]
            }
            DType::F32 | DType::I32 | DType::F64 => bug("a small load of a large type"),
        }
    }

    /// Stores consecutive elements, rounded to nearest even; alignment as for [`Ptr::load`].
    pub(crate) fn store(self, dtype: DType, values: &[F32<'k>]) {
        let per_word = usize::try_from(4 / dtype.bytes()).unwrap_or_else(|e| bug(e));
        if values.len() < per_word {
            for (i, &value) in values.iter().enumerate() {
                self.add_const(i as u64 * dtype.bytes()).store_small(dtype, value);
            }
            return;
        }
        let words: Vec<I32<'k>> = values.chunks(per_word).map(|c| pack(dtype, c)).collect();
        for (i, chunk) in words.chunks(4).enumerate() {
            self.add_const(16 * i as u64).store_words(chunk);
        }
    }

    fn store_small(self, dtype: DType, value: F32<'k>) {
        let b = self.builder();
        let round = |ty: Type<'k>| b.value("arith.truncf", &[value.raw], ty, &[]);
        match dtype {
            DType::Bf16 => self.store_as(round(b.types.bf16), 2),
            DType::F16 => self.store_as(round(b.types.f16), 2),
            DType::F8e4m3 | DType::F8e5m2 => {
                let pair = pack_f8(dtype, value, b.f32(0.0));
                self.store_scalar(pair.apply::<u8>("arith.trunci", &[], &[]));
            }
            DType::F32 | DType::I32 | DType::F64 => bug("a small store of a large type"),
        }
    }
}

impl<'k> F32<'k> {
    /// The value as it would read back from memory.
    pub(crate) fn rounded(self, dtype: DType) -> Self {
        let b = self.b;
        let through = |ty: Type<'k>| {
            let narrow = b.value("arith.truncf", &[self.raw], ty, &[]);
            Val::new(b, b.value("arith.extf", &[narrow], b.types.f32, &[]))
        };
        match dtype {
            DType::Bf16 => through(b.types.bf16),
            DType::F16 => through(b.types.f16),
            DType::F8e4m3 | DType::F8e5m2 => pack_f8(dtype, self, b.f32(0.0)).unpack_f8(dtype)[0],
            DType::F32 | DType::I32 | DType::F64 => self,
        }
    }
}

impl<'k> I32<'k> {
    /// The four FP8 numbers of a word in two words of two numbers of 16 bits each, exactly.
    pub(crate) fn widened_f8(self, from: DType, to: DType) -> [Self; 2] {
        let b = self.b;
        let name = if from == DType::F8e4m3 { E4M3_PAIR } else { E5M2_PAIR };
        [self, self >> 16].map(|word| {
            let pair: Val<'k, u16> = word.apply("arith.trunci", &[], &[]);
            let wide = b.intrinsic(name, &[pair.raw], b.vector(2, b.types.f16));
            match to {
                DType::F16 => Val::new(b, b.value("llvm.bitcast", &[wide], b.types.i32, &[])),
                _ => pack(to, &b.halves(wide)),
            }
        })
    }

    /// The elements that a 32-bit word holds, lowest first.
    fn unpack(self, dtype: DType) -> Vec<F32<'k>> {
        let b = self.b;
        match dtype {
            DType::F32 => vec![self.bits()],
            DType::I32 => vec![self.to_f32()],
            // The upper half of a float32 is that bfloat16.
            DType::Bf16 => vec![(self << 16).bits(), (self & b.i32(0xffff_0000_u32)).bits()],
            DType::F16 => b.halves(self.raw_as(b.vector(2, b.types.f16))),
            DType::F8e4m3 | DType::F8e5m2 => {
                let low: Val<'k, u16> = self.apply("arith.trunci", &[], &[]);
                let high: Val<'k, u16> = (self >> 16).apply("arith.trunci", &[], &[]);
                [low.unpack_f8(dtype), high.unpack_f8(dtype)].concat()
            }
            DType::F64 => bug("float64 in a kernel"),
        }
    }

    fn raw_as(self, ty: Type<'k>) -> Value<'k, 'k> {
        self.b.value("llvm.bitcast", &[self.raw], ty, &[])
    }
}

impl<'k> Val<'k, u16> {
    /// Two FP8 numbers, exactly: `cvt.rn.f16x2.e4m3x2`, then `cvt.f32.f16`.
    fn unpack_f8(self, dtype: DType) -> Vec<F32<'k>> {
        let name = if dtype == DType::F8e4m3 { E4M3_PAIR } else { E5M2_PAIR };
        let b = self.b;
        b.halves(b.intrinsic(name, &[self.raw], b.vector(2, b.types.f16)))
    }
}

impl<'k> Builder<'k> {
    /// Both elements of a pair of float16.
    fn halves(&'k self, pair: Value<'k, 'k>) -> Vec<F32<'k>> {
        let wide = |i| {
            let half = self.extract(pair, i, self.types.f16);
            Val::new(self, self.value("arith.extf", &[half], self.types.f32, &[]))
        };
        vec![wide(0), wide(1)]
    }
}

/// As many numbers as fit a 32-bit word, lowest first.
pub(crate) fn pack<'k>(dtype: DType, values: &[F32<'k>]) -> I32<'k> {
    match (dtype, values) {
        (DType::F32, &[x]) => x.bits(),
        (DType::I32, &[x]) => x.apply("arith.fptosi", &[], &[]),
        (DType::Bf16, &[x, y]) => pack_halves("llvm.nvvm.ff2bf16x2.rn", x, y),
        (DType::F16, &[x, y]) => pack_halves("llvm.nvvm.ff2f16x2.rn", x, y),
        (DType::F8e4m3 | DType::F8e5m2, &[x, y, z, w]) => {
            let wide = |v: Val<'k, u16>| v.apply::<i32>("arith.extui", &[], &[]);
            wide(pack_f8(dtype, x, y)) | (wide(pack_f8(dtype, z, w)) << 16)
        }
        _ => bug(format_args!("{} numbers of type {dtype} in a word", values.len())),
    }
}

/// `cvt.rn.bf16x2.f32` or `cvt.rn.f16x2.f32`: the first operand becomes the upper half.
fn pack_halves<'k>(name: &str, low: F32<'k>, high: F32<'k>) -> I32<'k> {
    let b = low.b;
    let element = if name.contains("bf16") { b.types.bf16 } else { b.types.f16 };
    let pair = b.intrinsic(name, &[high.raw, low.raw], b.vector(2, element));
    Val::new(b, b.value("llvm.bitcast", &[pair], b.types.i32, &[]))
}

/// `cvt.rn.satfinite.e4m3x2.f32`: the first operand becomes the upper byte.
fn pack_f8<'k>(dtype: DType, low: F32<'k>, high: F32<'k>) -> Val<'k, u16> {
    let name = match dtype {
        DType::F8e4m3 => "llvm.nvvm.ff.to.e4m3x2.rn",
        _ => "llvm.nvvm.ff.to.e5m2x2.rn",
    };
    Val::new(low.b, low.b.intrinsic(name, &[high.raw, low.raw], low.b.types.i16))
}
