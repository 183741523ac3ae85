//! The operations of the graph.

use super::Rotary;
use crate::{Dim, Real, ScaleFormat};
use serde::{Deserialize, Serialize};

/// A tensor operation.
///
/// Shapes below: `R..` any leading axes, `T` tokens of this step, `S` tokens in the cache,
/// `H` heads, `E` experts, `k` experts chosen per token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The function's input of that index. No operands.
    Input(usize),
    /// The function's parameter of that index. No operands.
    Param(usize),
    /// The function's cache of that index, as it was before this step; only
    /// [`Op::Append`] takes it. No operands.
    Cache(usize),
    /// A number, shape `[]`. No operands.
    Constant(Real),

    /// `x [R.., K], w [N, K] -> [R.., N]`: `x` times `w` transposed.
    Linear,
    /// `x [R, H or 1, K], w [H, N, K] -> [R, H, N]`: one matrix per head.
    HeadLinear,
    /// `x [T, K] or [T, k, K], w [E, N, K], chosen [T, k] -> [T, k, N]`: row `(t, j)` times
    /// the matrix of expert `chosen[t, j]`, transposed.
    ExpertLinear,
    /// `y [T, k, N], weight [T, k] -> [T, N]`: the weighted sum over `k`.
    Combine,

    /// `x -> ` the same elements in another shape (row-major order).
    Reshape(Vec<Dim>),
    /// `x -> ` elements `start .. start + len` of `axis`.
    Slice {
        /// Axis cut.
        axis: usize,
        /// First element.
        start: u64,
        /// Number of elements.
        len: u64,
    },
    /// `x, y, .. -> ` side by side along `axis`.
    Concat {
        /// Axis along which sizes add up.
        axis: usize,
    },
    /// `x -> ` axes in a new order: axis `i` of the result is axis `perm[i]` of `x`.
    Transpose(Vec<usize>),
    /// `x -> ` each axis of size 1 repeated to the size given.
    Broadcast(Vec<Dim>),
    /// `table [V, D..], ids [R..] (i32) -> [R.., D..]`.
    Lookup,

    /// A function of each element.
    Unary(UnaryFn),
    /// A function of two elements; shapes broadcast as in NumPy (aligned at the last axis,
    /// size 1 repeats).
    Binary(BinaryFn),
    /// `x [R.., N] -> [R.., 1]`: the last axis reduced.
    Reduce(ReduceFn),
    /// `x [R.., N] -> [R.., N]`: softmax over the last axis.
    Softmax,
    /// `x [R.., N], w [N] -> [R.., N]`: `x / sqrt(mean(x²) + eps) * w`.
    RmsNorm {
        /// Added to the mean of squares.
        eps: Real,
    },

    /// `x [R.., K] -> [R.., K]` (f8e4m3): each element divided by its block's
    /// [`Op::BlockScale`] and rounded to e4m3, to nearest even, saturating (DeepSeek-V3 3.3.2).
    Quantize {
        /// Elements of a row that share a scale; the last block may be shorter.
        block: u64,
        /// How scales are rounded.
        scales: ScaleFormat,
    },
    /// `x [R.., K] -> [R.., ceil(K / block)]` (f32): the greatest magnitude of each block over
    /// 448, the greatest e4m3; 1 for a block of zeros (DeepSeek-V3 3.3.2).
    BlockScale {
        /// Elements of a row that share a scale; the last block may be shorter.
        block: u64,
        /// How scales are rounded.
        scales: ScaleFormat,
    },
    /// `q [.., N, K], scale [.., ceil(N / rows), ceil(K / columns)] -> [.., N, K]`: each element
    /// times its block's scale. With blocks of one row the leading axes are any, as in what
    /// [`Op::Quantize`] gives.
    Dequantize {
        /// Rows and columns that share a scale; the last blocks may be smaller.
        block: [u64; 2],
    },

    /// `x [T, D] or [T, H, D] -> ` the same shape, rotated by each token's position.
    Rotary(Rotary),
    /// `cache [D..], x [T, D..] -> [S, D..]`: remembers this step's rows and returns all rows
    /// of each sequence, this step's included.
    Append,
    /// `q [T, H, K], k [S, Hk, K], v [S, Hv, V] -> [T, H, V]`: causal attention within each
    /// sequence; head `h` reads key head `h / (H / Hk)` and value head `h / (H / Hv)`. Equal to
    /// `Mix(CausalSoftmax(scale * Scores(q, k)), v)`.
    Attend {
        /// Factor on the scores.
        scale: Real,
    },
    /// `q [T, H, K], k [S, Hk, K] -> [T, H, S]`: inner products within each sequence.
    Scores,
    /// `[T, H, S] -> [T, H, S]`: softmax over the keys at or before each token.
    CausalSoftmax,
    /// `p [T, H, S], v [S, Hv, V] -> [T, H, V]`: sums of values weighted by `p`.
    Mix,

    /// `scores [T, E] -> [T, k] (i32)`: the best experts, best first; of equals the lower
    /// index.
    TopK {
        /// Experts chosen per token.
        k: u64,
        /// Group limit: only experts of the best groups can be chosen.
        groups: Option<Groups>,
    },
    /// `x [T, E], chosen [T, k] -> [T, k]`.
    Pick,

    /// `x [T, K..], chosen [T, k] -> [T, K..]`: the same rows, each at the ranks of its token's
    /// experts (DeepSeek-V3 3.2.2). Of one rank the value itself.
    Dispatch,
    /// `y [T, k, N], chosen [T, k] -> [T, k, N]`: the same rows, back at their token's rank from
    /// those of its experts (DeepSeek-V3 3.2.2). Of one rank the value itself.
    Collect,
}

/// Group-limited selection (DeepSeek-V2 2.2.2, DeepSeek-V3 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Groups {
    /// Groups of equal size that the experts fall into, in order.
    pub count: u64,
    /// Groups that may be chosen from.
    pub keep: u64,
    /// What makes a group good.
    pub by: GroupScore,
}

/// The score of a group of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupScore {
    /// Its best expert's score (DeepSeek-V2).
    Max,
    /// The sum of its best experts' scores (DeepSeek-V3: 2).
    SumOfTop(u64),
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnaryFn {
    /// The value itself; in a kernel, a copy or a change of type.
    Identity,
    /// `-x`.
    Neg,
    /// `e^x`.
    Exp,
    /// Natural logarithm.
    Log,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x * sigmoid(x)`.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
    /// Square root.
    Sqrt,
    /// `1 / sqrt(x)`.
    Rsqrt,
    /// `max(x, 0)`.
    Relu,
    /// -1, 0 or 1.
    Sign,
    /// `|x|`.
    Abs,
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinaryFn {
    /// `x + y`.
    Add,
    /// `x - y`.
    Sub,
    /// `x * y`.
    Mul,
    /// `x / y`.
    Div,
    /// The greater.
    Max,
    /// The smaller.
    Min,
}

/// How an axis is reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReduceFn {
    /// Sum.
    Sum,
    /// Arithmetic mean.
    Mean,
    /// Maximum.
    Max,
}
