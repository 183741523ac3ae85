//! Element types of tensors, and of the scales that go with FP8.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The element type of a tensor as it is stored. Arithmetic is float32 whatever the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary64; only the reference evaluator computes in it.
    F64,
    /// IEEE binary32.
    F32,
    /// bfloat16: 8 exponent bits, 7 fraction bits.
    Bf16,
    /// IEEE binary16.
    F16,
    /// FP8 e4m3fn (OCP): no infinities, largest finite value 448.
    F8e4m3,
    /// FP8 e5m2 (OCP).
    F8e5m2,
    /// 32-bit signed integer: token ids, expert indices, row indices.
    I32,
}

impl DType {
    /// Bytes that one element takes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::F8e4m3 | Self::F8e5m2 => 1,
        }
    }

    /// Whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        self != Self::I32
    }

    /// The name in `.moe` files, in printed graphs and in plans.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F8e4m3 => "f8e4m3",
            Self::F8e5m2 => "f8e5m2",
            Self::I32 => "i32",
        }
    }

    /// The type of a pointwise result: the wider of two float types (f32 over bf16).
    pub fn promote(self, other: Self) -> Self {
        if self.bytes() >= other.bytes() { self } else { other }
    }
}

/// How the scales of FP8 blocks are stored; both take a float32 in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleFormat {
    /// float32.
    F32,
    /// Powers of two, rounded up (DeepSeek-V3.1).
    Ue8m0,
}

impl ScaleFormat {
    /// The name in `.moe` files, in printed graphs and in plans.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Ue8m0 => "ue8m0",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for ScaleFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        [Self::F64, Self::F32, Self::Bf16, Self::F16, Self::F8e4m3, Self::F8e5m2, Self::I32]
            .into_iter()
            .find(|d| d.name() == s)
            .ok_or_else(|| format!("`{s}` is not an element type"))
    }
}
