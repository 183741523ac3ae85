//! What `cp.reduce.async.bulk` and `red.async` do to each element of device or shared memory
//! (PTX ISA 9.7.9.25.4.2).

use half::{bf16, f16};

use crate::isa::numeric::{canon, canon64, f64_to_bf16, f64_to_f16, max32, min32};
use crate::ptx::types::Type;

/// Operation of a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
}

impl Reduction {
    /// The operation that a modifier names.
    pub(crate) fn from_name(name: &str) -> Option<Reduction> {
        Some(match name {
            "add" => Reduction::Add,
            "min" => Reduction::Min,
            "max" => Reduction::Max,
            "inc" => Reduction::Inc,
            "dec" => Reduction::Dec,
            "and" => Reduction::And,
            "or" => Reduction::Or,
            "xor" => Reduction::Xor,
            _ => return None,
        })
    }

    /// Whether the operation exists for elements of type `ty`.
    pub(crate) fn takes(self, ty: Type) -> bool {
        match ty {
            Type::F16 | Type::BF16 => {
                matches!(self, Reduction::Add | Reduction::Min | Reduction::Max)
            }
            Type::F32 | Type::F64 => self == Reduction::Add,
            Type::U32 | Type::S32 | Type::U64 | Type::S64 => {
                !matches!(self, Reduction::And | Reduction::Or | Reduction::Xor)
                    && (ty == Type::U32 || !matches!(self, Reduction::Inc | Reduction::Dec))
            }
            Type::B32 | Type::B64 => {
                matches!(self, Reduction::And | Reduction::Or | Reduction::Xor)
            }
            _ => false,
        }
    }

    /// Combines `memory` with `value`, both the bits of a `ty`.
    pub(crate) fn combine(self, ty: Type, memory: u64, value: u64) -> u64 {
        match ty {
            Type::F16 => {
                let (x, y) = (f16::from_bits(memory as u16), f16::from_bits(value as u16));
                u64::from(match self {
                    Reduction::Add => f64_to_f16(x.to_f64() + y.to_f64()).to_bits(),
                    Reduction::Min => f16::from_f32(min32(x.into(), y.into())).to_bits(),
                    _ => f16::from_f32(max32(x.into(), y.into())).to_bits(),
                })
            }
            Type::BF16 => {
                let (x, y) = (bf16::from_bits(memory as u16), bf16::from_bits(value as u16));
                u64::from(match self {
                    Reduction::Add => f64_to_bf16(x.to_f64() + y.to_f64()).to_bits(),
                    Reduction::Min => bf16::from_f32(min32(x.into(), y.into())).to_bits(),
                    _ => bf16::from_f32(max32(x.into(), y.into())).to_bits(),
                })
            }
            Type::F32 => {
                let sum = f32::from_bits(memory as u32) + f32::from_bits(value as u32);
                u64::from(canon(sum).to_bits())
            }
            Type::F64 => canon64(f64::from_bits(memory) + f64::from_bits(value)).to_bits(),
            Type::S32 => u64::from(self.integers(memory as i32, value as i32) as u32),
            Type::U32 | Type::B32 => u64::from(self.unsigned(memory as u32, value as u32)),
            Type::S64 => self.integers(memory as i64, value as i64) as u64,
            _ => match self {
                Reduction::Add => memory.wrapping_add(value),
                Reduction::And => memory & value,
                Reduction::Or => memory | value,
                Reduction::Xor => memory ^ value,
                other => other.integers(memory, value),
            },
        }
    }

    fn unsigned(self, memory: u32, value: u32) -> u32 {
        match self {
            Reduction::Inc => {
                if memory >= value {
                    0
                } else {
                    memory + 1
                }
            }
            Reduction::Dec => {
                if memory == 0 || memory > value {
                    value
                } else {
                    memory - 1
                }
            }
            Reduction::And => memory & value,
            Reduction::Or => memory | value,
            Reduction::Xor => memory ^ value,
            Reduction::Add => memory.wrapping_add(value),
            other => other.integers(memory, value),
        }
    }

    fn integers<T: Ord + Copy + WrappingSum>(self, memory: T, value: T) -> T {
        match self {
            Reduction::Min => memory.min(value),
            Reduction::Max => memory.max(value),
            _ => memory.sum(value),
        }
    }

    /// Combines whole rows: `bytes` into `memory`, element by element.
    pub(crate) fn combine_all(self, ty: Type, memory: &mut [u8], bytes: &[u8]) {
        let size = ty.bytes() as usize;
        for (memory, bytes) in memory.chunks_exact_mut(size).zip(bytes.chunks_exact(size)) {
            let word = |bytes: &[u8]| {
                let mut word = [0; 8];
                word[..size].copy_from_slice(bytes);
                u64::from_le_bytes(word)
            };
            let result = self.combine(ty, word(memory), word(bytes));
            memory.copy_from_slice(&result.to_le_bytes()[..size]);
        }
    }
}

trait WrappingSum {
    fn sum(self, other: Self) -> Self;
}

macro_rules! wrapping_sum {
    ($($integer:ty),*) => {
        $(impl WrappingSum for $integer {
            fn sum(self, other: $integer) -> $integer {
                self.wrapping_add(other)
            }
        })*
    };
}

wrapping_sum!(i32, u32, i64, u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_do_what_their_names_say() {
        let f = |value: f32| u64::from(value.to_bits());
        assert_eq!(Reduction::Add.combine(Type::F32, f(1.5), f(2.25)), f(3.75));
        let h = |value: f32| u64::from(f16::from_f32(value).to_bits());
        assert_eq!(Reduction::Add.combine(Type::F16, h(2048.0), h(1.0)), h(2048.0));
        assert_eq!(Reduction::Min.combine(Type::F16, 0x7fff, h(1.0)), h(1.0));
        assert_eq!(Reduction::Max.combine(Type::F16, h(-3.0), h(1.0)), h(1.0));
        assert_eq!(Reduction::Min.combine(Type::S32, 1, -2i32 as u32 as u64), -2i32 as u32 as u64);
        assert_eq!(Reduction::Min.combine(Type::U32, 1, -2i32 as u32 as u64), 1);
        assert_eq!(Reduction::Inc.combine(Type::U32, 7, 7), 0);
        assert_eq!(Reduction::Dec.combine(Type::U32, 0, 7), 7);
        assert_eq!(Reduction::Add.combine(Type::U64, u64::MAX, 2), 1);
        assert_eq!(Reduction::Xor.combine(Type::B64, 5, 1), 4);
        assert!(!Reduction::Min.takes(Type::F32) && Reduction::Min.takes(Type::BF16));
        assert!(!Reduction::Inc.takes(Type::S32) && Reduction::And.takes(Type::B32));
    }

    #[test]
    fn rows_are_combined_element_by_element() {
        let mut memory = [1u16, 2, 3].map(|value| bf16::from_f32(f32::from(value)));
        let mut bytes: Vec<u8> = memory.iter().flat_map(|value| value.to_le_bytes()).collect();
        let add = bytes.clone();
        Reduction::Add.combine_all(Type::BF16, &mut bytes, &add);
        for (value, pair) in memory.iter_mut().zip(bytes.chunks_exact(2)) {
            *value = bf16::from_le_bytes([pair[0], pair[1]]);
        }
        assert_eq!(memory.map(f32::from), [2.0, 4.0, 6.0]);
    }
}
