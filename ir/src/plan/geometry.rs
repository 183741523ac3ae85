//! How a kernel is launched: CTAs, threads, shared memory and tensor maps.

use crate::{DType, Dim, Sizes};
use serde::{Deserialize, Serialize};

/// Grid, block and shared memory of a launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// CTAs along x, y and z.
    pub grid: [Extent; 3],
    /// Threads along x, y and z.
    pub block: [u32; 3],
    /// CTAs of a cluster, neighbours along x: they run at the same time on one group of SMs. The
    /// grid's extent along x is a multiple of it.
    #[serde(default = "one_cta", skip_serializing_if = "is_one_cta")]
    pub cluster: u32,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// Parameters that follow the pointers and `T`, `S` and `B`, each 128 bytes aligned to 64,
    /// encoded by the device at the launch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensor_maps: Vec<TensorMap>,
}

/// A number of CTAs: `min(at_most, times * ceil(size / per))`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// What is divided among CTAs.
    pub size: Dim,
    /// How much of it one CTA takes; at least 1.
    pub per: u64,
    /// CTAs per part.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub times: u64,
    /// Where CTAs take several parts in turn: how many there are at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u64>,
}

fn one() -> u64 {
    1
}

fn is_one(n: &u64) -> bool {
    *n == 1
}

fn one_cta() -> u32 {
    1
}

fn is_one_cta(n: &u32) -> bool {
    *n == 1
}

impl Extent {
    /// One CTA for each `per` of `size`.
    pub fn new(size: Dim, per: u64) -> Self {
        Self { size, per, times: 1, at_most: None }
    }

    /// The number of CTAs in a step of these sizes.
    pub fn eval(&self, sizes: &Sizes) -> u64 {
        let all = self.size.eval(sizes).div_ceil(self.per.max(1)).saturating_mul(self.times);
        self.at_most.map_or(all, |most| all.min(most))
    }
}

/// What the tensor copies of a kernel know of an operand: a tiled `CUtensorMap` (CUDA Driver API,
/// "Tensor Map Object Management"; PTX ISA 5.5) but for its address, which is the operand's.
/// Elements outside the tensor read as zero and are not written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMap {
    /// Which pointer parameter it describes.
    pub operand: usize,
    /// Element type.
    pub dtype: DType,
    /// Elements along each dimension, innermost first; 1 to 5 of them.
    pub dims: Vec<Dim>,
    /// Bytes between neighbours along all dimensions but the innermost, which is dense:
    /// multiples of 16.
    pub strides: Vec<u64>,
    /// Elements of a box along each dimension: at most 256, the innermost in all a multiple of
    /// 16 bytes.
    pub box_dims: Vec<u32>,
    /// Bytes within which 16-byte chunks of a box are permuted in shared memory, and which the
    /// innermost extent of a box does not exceed: 0 (not at all), 32, 64 or 128.
    pub swizzle: u32,
}
