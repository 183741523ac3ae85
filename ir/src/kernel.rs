//! What one launch can compute: the parametric kernels that plans are made of.
//!
//! A [`KernelSpec`] fixes everything that is known when a model is compiled (shapes but for
//! the symbols, strides, element types); code generation makes one PTX entry of each distinct
//! spec. Calling convention of every kernel: one 64-bit pointer per operand, in the order
//! that the spec's documentation gives (plan offsets are already applied), then `T`, `S` and
//! `B` as three 32-bit integers, then the tensor maps that its geometry lists
//! ([`crate::plan::TensorMap`]).

pub mod exchange;

pub use exchange::{Exchange, SpreadExperts};

use crate::graph::{BinaryFn, Groups, ReduceFn, UnaryFn};
use crate::{DType, Dim, Real, ScaleFormat};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How an operand lies in memory, from the address that its pointer holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct View {
    /// Element type.
    pub dtype: DType,
    /// Size of each axis, outermost first. Symbols may stand in any axis but make strides of
    /// the axes outside it symbolic, so in practice they stand in the outermost one.
    pub shape: Vec<Dim>,
    /// Elements between neighbours along each axis; 0 repeats (and stands where the size is 1).
    pub strides: Vec<u64>,
    /// The address is a multiple of this many bytes, whatever the step's sizes: a power of two,
    /// at least the element's size, at most [`View::ALIGN`]. A slice may begin anywhere.
    #[serde(default = "full_alignment")]
    pub align: u64,
}

fn full_alignment() -> u64 {
    View::ALIGN
}

/// A kernel and all parameters that its code depends on.
///
/// Arithmetic is float32 everywhere; results are rounded once (to nearest even) when stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kernel", rename_all = "snake_case")]
pub enum KernelSpec {
    /// `c[b, m, n] = sum_k a[b, m, k] * w[b, n, k] (+ add[b, m, n])`. Operands: a, w, \[add\], c;
    /// all of rank 3 (`b` is the batch of heads; 1 without).
    Gemm {
        /// `[batch, M, K]`
        a: View,
        /// `[batch, N, K]`
        w: View,
        /// `[batch, M, N]`: added before rounding (a residual), where given.
        add: Option<View>,
        /// `[batch, M, N]`
        c: View,
    },
    /// One matrix per expert, rows gathered and scattered by a [`KernelSpec::RoutePlan`]:
    /// `c[t, j, n] = sum_k a[t, j or 0, k] * w[chosen[t, j], n, k]`. Operands: a, w, route, c.
    GroupedGemm {
        /// `[T, k or 1, K]`; of size 1 in the middle where all experts of a token read one row.
        a: View,
        /// `[E, N, K]`
        w: View,
        /// `[T, k, N]`
        c: View,
        /// Experts chosen per token.
        top_k: u64,
    },
    /// Rounds rows to FP8 with a scale per row and block of columns: `scale = max |x| / 448`
    /// (divided in float32), 1 for a block of zeros, and `q = x / scale` rounded to nearest even
    /// and saturated (DeepSeek-V3 3.3.2). A NaN stays one in `q` and does not count for its
    /// block's scale. Operands: x, q, scale.
    Quantize {
        /// `[R, K]`
        x: View,
        /// `[R, K]` f8e4m3
        q: View,
        /// `[R, ceil(K / block)]` f32; rows a multiple of 4 floats apart, as TMA reads them.
        scale: View,
        /// Columns that share a scale.
        block: u64,
        /// What scales are rounded to.
        format: ScaleFormat,
    },
    /// [`KernelSpec::Quantize`] of columns, stored as rows: what a product that sums over tokens
    /// reads, as the gradient of a weight is one (DeepSeek-V3 3.3.3). Operands: x, q, scale.
    QuantizeTransposed {
        /// `[R, N]`
        x: View,
        /// `[N, R]` f8e4m3
        q: View,
        /// `[N, ceil(R / block)]` f32; where `R` is a symbol no polynomial says that, and `R`
        /// bounds it.
        scale: View,
        /// Rows of `x` that share a scale: a power of two, 16 to 512.
        block: u64,
        /// What scales are rounded to.
        format: ScaleFormat,
    },
    /// [`KernelSpec::Gemm`] of FP8 operands with scales (DeepSeek-V3 3.3.2): `c[b, m, n] = sum_j
    /// a_scale[b, m, j] * w_scale[b, n / r, j] * sum_(k of block j) a[b, m, k] * w[b, n, k]
    /// (+ add[b, m, n])`. Operands: a, \[a_scale\], w, w_scale, \[add\], c.
    ScaledGemm {
        /// `[batch, M, K]` f8e4m3; without scales numbers of any other type.
        a: View,
        /// `[batch, M, ceil(K / columns)]` f32; 1 where there are none.
        a_scale: Option<View>,
        /// `[batch, N, K]` f8e4m3
        w: View,
        /// `[batch, ceil(N / r), ceil(K / columns)]` f32
        w_scale: View,
        /// `[batch, M, N]`: added before rounding (a residual), where given.
        add: Option<View>,
        /// `[batch, M, N]`
        c: View,
        /// Rows `r` and columns of a block of weights; a block of `a` is one row of as many
        /// columns.
        block: [u64; 2],
        /// Products that a tensor core sums before the sum moves to float32 registers.
        promote_every: u64,
    },
    /// [`KernelSpec::GroupedGemm`] of FP8 operands with scales, as [`KernelSpec::ScaledGemm`].
    /// Operands: a, \[a_scale\], w, w_scale, route, c.
    ScaledGroupedGemm {
        /// `[T, k or 1, K]` f8e4m3, without scales numbers of any other type; of size 1 in the
        /// middle where all experts of a token read one row.
        a: View,
        /// `[T, k or 1, ceil(K / columns)]` f32; 1 where there are none.
        a_scale: Option<View>,
        /// `[E, N, K]` f8e4m3
        w: View,
        /// `[E, ceil(N / r), ceil(K / columns)]` f32
        w_scale: View,
        /// `[T, k, N]`
        c: View,
        /// Experts chosen per token.
        top_k: u64,
        /// Rows `r` and columns of a block of weights.
        block: [u64; 2],
        /// Products that a tensor core sums before the sum moves to float32 registers.
        promote_every: u64,
    },
    /// One matrix per expert, whose rows have a place of fixed capacity and are counted on the
    /// device (DeepEP's low-latency dispatch leaves them so): `c[e, m, n] = sum_k a[e, m, k] *
    /// w[e, n, k]` where `m < min(count[e], C)`. Other rows of `c` are not written. Operands: a, w,
    /// count, c; `count`: i32 `[E]`, none negative.
    MaskedGemm {
        /// `[E, C, K]`
        a: View,
        /// `[E, N, K]`
        w: View,
        /// `[E, C, N]`
        c: View,
        /// Rows that an expert has as a rule; the kernel is right for any number.
        expected: u64,
    },
    /// [`KernelSpec::MaskedGemm`] of FP8 operands with scales, as [`KernelSpec::ScaledGemm`].
    /// Operands: a, a_scale, w, w_scale, count, c.
    ScaledMaskedGemm {
        /// `[E, C, K]` f8e4m3
        a: View,
        /// `[E, C, ceil(K / columns)]` f32
        a_scale: View,
        /// `[E, N, K]` f8e4m3
        w: View,
        /// `[E, ceil(N / r), ceil(K / columns)]` f32
        w_scale: View,
        /// `[E, C, N]`
        c: View,
        /// Rows that an expert has as a rule; the kernel is right for any number.
        expected: u64,
        /// Rows `r` and columns of a block of weights.
        block: [u64; 2],
        /// Products that a tensor core sums before the sum moves to float32 registers.
        promote_every: u64,
    },
    /// Gradients of weights, summed over tokens and added in place (DeepSeek-V3 3.3.3): `dw[e, m,
    /// n] += sum_j dy_scale[m, j] * x_scale[n, j] * sum_(t of block j) dy[m, t] * x[n, t]`. Factors
    /// are those of [`KernelSpec::QuantizeTransposed`]. Operands: dy, dy_scale, x, x_scale,
    /// \[ranges\], dw.
    WeightGradient {
        /// `[M, R]` f8e4m3
        dy: View,
        /// `[M, ceil(R / block)]` f32, as of [`KernelSpec::QuantizeTransposed`].
        dy_scale: View,
        /// `[N, R]` f8e4m3
        x: View,
        /// `[N, ceil(R / block)]` f32
        x_scale: View,
        /// `[E, M, N]` f32
        dw: View,
        /// Whether each expert has tokens of its own. `ranges`, i32 `[E, 2]`, then says which: the
        /// first, a multiple of `block`, and how many; from there to the next multiple both
        /// factors are 0. Else all `R` are those of the only expert.
        grouped: bool,
        /// Tokens that share a scale.
        block: u64,
        /// Products that a tensor core sums before the sum moves to float32 registers.
        promote_every: u64,
    },
    /// Sorts the chosen (token, expert) pairs by expert. Operands: chosen, route.
    /// `chosen`: `[T, k]` i32. `route`: i32 `[n_experts + 1 + T * k]`: first the offsets of each
    /// expert's rows, then the row numbers `t * k + j` by expert, ascending within one.
    RoutePlan {
        /// `[T, k]` i32
        chosen: View,
        /// Number of experts.
        n_experts: u64,
    },
    /// Tells the ranks of a group which experts this rank's tokens chose, and hears the same of
    /// them ([`exchange`]). Operands: chosen, weight, group, then [`exchange::Region::Routes`] and
    /// [`exchange::Region::Chosen`]. `group`: [`crate::plan::Buffer::Group`].
    ExchangeRoutes {
        /// What is exchanged.
        exchange: Exchange,
        /// `[T, k]` i32
        chosen: View,
        /// `[T, k]`
        weight: View,
    },
    /// A layer's routed experts, spread over a group of ranks: `out[t, n] = sum_j weight[t, j] *
    /// (second[chosen[t, j]] f(first[chosen[t, j]] x[t]))[n] (+ adds...)`, each product rounded to
    /// its type ([`exchange`]). Operands: x, \[x_scale\], chosen, weight, first, \[its scale\],
    /// second, \[its scale\], adds.., out, group, then all [`exchange::Region`]s.
    SpreadExperts(Box<SpreadExperts>),
    /// `out[t, n] = sum_j y[t, j, n] * weight[t, j] (+ adds...)`. Operands: y, weight, adds.., out.
    Combine {
        /// `[T, k, N]`
        y: View,
        /// `[T, k]`
        weight: View,
        /// `[T, N]` each: the shared experts' output, the residual.
        adds: Vec<View>,
        /// `[T, N]`
        out: View,
    },
    /// `out[r, h, n] = s / sqrt(mean_n s² + eps) * weight[n]`, `s = x (+ residual)` rounded to
    /// `sum`'s type where it is kept. Operands: x, \[residual, sum\], weight, out. Rank 3
    /// (`h` = 1 where there are no heads).
    RmsNorm {
        /// `[R, H, N]`
        x: View,
        /// Residual read and sum written, both `[R, H, N]`, where the addition is fused.
        residual: Option<(View, View)>,
        /// `[N]`
        weight: View,
        /// `[R, H, N]`
        out: View,
        /// Added to the mean of squares.
        eps: Real,
    },
    /// A function of each element of broadcast inputs; views all of the output's rank.
    /// Operands: inputs.., out.
    Pointwise {
        /// Inputs, broadcast by zero strides.
        inputs: Vec<View>,
        /// The output.
        out: View,
        /// The function, in single-assignment order; the last is the result.
        code: Vec<Scalar>,
    },
    /// [`KernelSpec::RmsNorm`] whose result is quantised as by [`KernelSpec::Quantize`], from
    /// float32: it is not rounded in between. Operands: x, \[residual, sum\], weight, \[out\], q,
    /// scale.
    RmsNormQuantize {
        /// `[R, H, N]`
        x: View,
        /// Residual read and sum written, both `[R, H, N]`, where the addition is fused.
        residual: Option<(View, View)>,
        /// `[N]`
        weight: View,
        /// `[R, H, N]`: the result in another type as well, where something else reads it.
        out: Option<View>,
        /// `[R, H, N]` f8e4m3
        q: View,
        /// `[R, H, ceil(N / block)]` f32
        scale: View,
        /// Added to the mean of squares.
        eps: Real,
        /// Columns that share a scale.
        block: u64,
        /// What scales are rounded to.
        format: ScaleFormat,
    },
    /// [`KernelSpec::Pointwise`] whose result is quantised as by [`KernelSpec::Quantize`], from
    /// float32: it is not rounded in between. Operands: inputs.., \[out\], q, scale.
    PointwiseQuantize {
        /// Inputs, broadcast by zero strides.
        inputs: Vec<View>,
        /// The result in another type as well, where something else reads it.
        out: Option<View>,
        /// The result: f8e4m3, of any rank.
        q: View,
        /// f32, as `q` but for the last axis: `ceil(K / block)` of its `K`.
        scale: View,
        /// The function, in single-assignment order; the last is the result.
        code: Vec<Scalar>,
        /// Columns that share a scale.
        block: u64,
        /// What scales are rounded to.
        format: ScaleFormat,
    },
    /// The last axis reduced. Operands: x, out.
    Reduce {
        /// `[R, N]`
        x: View,
        /// `[R, 1]`
        out: View,
        /// How.
        f: ReduceFn,
    },
    /// Softmax over the last axis. Operands: x, out.
    Softmax {
        /// `[R, N]`
        x: View,
        /// `[R, N]`
        out: View,
    },
    /// Rotates pairs of the last axis by each token's position. Operands: x, table, positions, out.
    /// `table`: f32 `[context, dim / 2, 2]` of cosine and sine; `positions`: i32 `[T]`.
    Rotary {
        /// `[T, H, dim]`
        x: View,
        /// `[T, H, dim]`
        out: View,
        /// Whether a pair is (2i, 2i + 1) or (i, i + dim/2).
        interleaved: bool,
    },
    /// `out[r, ..] = table[index[r], ..]`. Operands: table, index, out. An index outside the
    /// table reads as row 0. Rank 2.
    Gather {
        /// `[V, D]`; `V` is 2^31 - 1 where the table is a cache, whose length no plan knows.
        table: View,
        /// `[R, D]`
        out: View,
    },
    /// `table[index[r], ..] = x[r, ..]`. Operands: x, index, table. Rank 2; indices are distinct;
    /// a negative index writes nothing.
    Scatter {
        /// `[R, D]`
        x: View,
        /// `[V, D]`
        table: View,
    },
    /// What MLA remembers of a token (DeepSeek-V2 2.1.2): `cache[slot[t], ..N] = rms_norm(latent[t,
    /// ..])`, `cache[slot[t], N..] = rotary(key[t, ..])`. Operands: latent, weight, key, table,
    /// positions, slots, cache; as of [`KernelSpec::RmsNorm`], [`KernelSpec::Rotary`] and
    /// [`KernelSpec::Scatter`].
    AppendLatent {
        /// `[T, N]`
        latent: View,
        /// `[N]`
        weight: View,
        /// `[T, dim]`
        key: View,
        /// `[V, N + dim]`
        cache: View,
        /// Added to the mean of squares.
        eps: Real,
        /// Whether a pair is (2i, 2i + 1) or (i, i + dim/2).
        interleaved: bool,
        /// Where only FP8 products read the latent: elements that share a scale and its format.
        /// The latent is rounded as by [`KernelSpec::Quantize`], times its scale.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rounded: Option<(u64, ScaleFormat)>,
        /// Where rows of the cache are packed ([`crate::graph::PackedRow`]): `cache` is then `[V, N]`
        /// f8e4m3, what the latent is rounded to, and its scales and the key lie elsewhere in the row.
        /// A block with a NaN has that as its scale. Operands: scale and key of these follow cache.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        packed: Option<PackedParts>,
    },
    /// Rows of a packed cache ([`crate::graph::PackedRow`]) as they were before: `out[r, ..N] =
    /// latent[index[r], ..] * scale of its block`, `out[r, N..] = key[index[r], ..]`. Operands:
    /// latent, scale, key, index, out; as of [`KernelSpec::Gather`].
    GatherLatent {
        /// `[V, N]` f8e4m3
        latent: View,
        /// The rest of a row.
        packed: PackedParts,
        /// `[R, N + dim]`
        out: View,
        /// Elements that share a scale.
        block: u64,
    },
    /// Causal attention with online softmax. Operands: q parts.., k parts.., v, \[scale\], positions,
    /// sequences, kv_start, \[pages\], out, \[log_sums\]. Scores are the sum over parts of inner products. Keys
    /// of the token at position `p` of sequence `b`: rows `kv_start[b] ..= kv_start[b] + p` of each
    /// k part and of v. `positions`, `sequences`: i32 `[T]`; `kv_start`: i32 `[B]`.
    Attention {
        /// `[T, H, d]` each.
        q: Vec<View>,
        /// `[S, Hk, d]` each; `Hk` divides `H` (1: shared by all heads). A number of rows that is
        /// no constant is how many there are, and all belong to sequences of the step; a constant
        /// only bounds them, where they lie anywhere in a cache.
        k: Vec<View>,
        /// `[S, Hv, dv]`
        v: View,
        /// `[T, H, dv]`; of chunks `[T, C, H, dv]`.
        out: View,
        /// Factor on the scores.
        scale: Real,
        /// Where given, keys and values lie in pages of so many rows, a power of two: row `r` is
        /// row `pages[r / page] * page + r % page` of their tensors, and sequences begin at
        /// multiples of it. `pages`: i32; rows of a page beyond a sequence's last may be read, and
        /// weigh nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        page: Option<u64>,
        /// Whether v is the leading elements of the first k part, in memory too.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        values_in_keys: bool,
        /// Where given, v, which is in keys, and with it the first k part are f8e4m3 and count times
        /// their scales. Their products may be of dequantised elements in the type of the queries.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quantized: Option<Quantized>,
        /// Where given, the keys of a token are divided into `C` chunks of about as many, whose
        /// results are kept apart: f32 `[T, C, H]`, the base-2 logarithms of the sums of weights
        /// (the powers of `e` of scores), with which [`KernelSpec::AttentionMerge`] brings them
        /// together. A chunk without keys has 0 as its result, and minus infinity here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log_sums: Option<View>,
    },
    /// `out[t, h, d] = sum_c 2^log_sums[t, c, h] * partial[t, c, h, d] / sum_c 2^log_sums[t, c, h]`:
    /// the chunks of an attention brought together. Operands: partial, log_sums, out.
    AttentionMerge {
        /// `[T, C, H, dv]`
        partial: View,
        /// `[T, C, H]`
        log_sums: View,
        /// `[T, H, dv]`
        out: View,
    },
    /// The best `k` of each row, best first, of equals the lower index. Operands: scores, chosen.
    TopK {
        /// `[T, E]`
        scores: View,
        /// `[T, k]` i32
        chosen: View,
        /// Group limit.
        groups: Option<Groups>,
    },
    /// A router (DeepSeek-V3 2.1.2) from its logits: scores `s = scoring(logits)` in float32,
    /// `chosen = ` the best `k` by `s (+ bias)` as of [`KernelSpec::TopK`], and `weight[t, j] =
    /// scale * s[t, chosen[t, j]]`, over the sum of the chosen scores where normalised. Operands:
    /// logits, \[bias\], chosen, weight.
    Router {
        /// `[T, E]`
        logits: View,
        /// `[E]`: takes part in the choice only, where given.
        bias: Option<View>,
        /// `[T, k]` i32
        chosen: View,
        /// `[T, k]`
        weight: View,
        /// From logits to scores.
        scoring: Scoring,
        /// Group limit of the choice.
        groups: Option<Groups>,
        /// Whether the chosen scores of a token are divided by their sum.
        normalize: bool,
        /// Factor on the weights.
        scale: Real,
    },
    /// `out[t, j] = x[t, chosen[t, j]]`. Operands: x, chosen, out.
    Pick {
        /// `[T, E]`
        x: View,
        /// `[T, k]` i32
        chosen: View,
        /// `[T, k]`
        out: View,
    },
}

/// Of packed rows ([`crate::graph::PackedRow`]), what is beside the quantised latent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PackedParts {
    /// `[V, ceil(N / block)]` f32
    pub scale: View,
    /// `[V, dim]`
    pub key: View,
}

/// The scales of quantised rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Quantized {
    /// `[S, ceil(d / block)]` f32, in pages like the rows.
    pub scale: View,
    /// Elements that share a scale.
    pub block: u64,
    /// What scales are rounded to.
    pub format: ScaleFormat,
}

/// How a router's logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// Of each expert alone (DeepSeek-V3 2.1.2).
    Sigmoid,
    /// Over all experts (DeepSeek-V2 2.2.1).
    Softmax,
}

/// One step of a [`KernelSpec::Pointwise`] function; indices refer to earlier steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scalar {
    /// The element of that input.
    Input(usize),
    /// A number.
    Constant(Real),
    /// A function of one step.
    Unary(UnaryFn, usize),
    /// A function of two steps.
    Binary(BinaryFn, usize, usize),
}

impl View {
    /// Alignment of whole buffers that vector accesses can rely on, in bytes.
    pub const ALIGN: u64 = 16;

    /// A view of an aligned buffer.
    pub fn new(
        dtype: DType,
        shape: impl IntoIterator<Item = Dim>,
        strides: impl IntoIterator<Item = u64>,
    ) -> Self {
        let (shape, strides) = (shape.into_iter().collect(), strides.into_iter().collect());
        Self { dtype, shape, strides, align: Self::ALIGN }
    }

    /// A dense row-major view. A symbol may stand only in the outermost axis; `None` otherwise.
    pub fn dense(dtype: DType, shape: &[Dim]) -> Option<Self> {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis].constant()?;
        }
        Some(Self { dtype, shape: shape.to_vec(), strides, align: Self::ALIGN })
    }

    /// Whether elements lie densely in row-major order.
    pub fn is_dense(&self) -> bool {
        Self::dense(self.dtype, &self.shape).is_some_and(|d| d.strides == self.strides)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(", "))?;
        if !self.is_dense() {
            write!(f, " strides {:?}", self.strides)?;
        }
        if self.align != Self::ALIGN {
            write!(f, " align {}", self.align)?;
        }
        Ok(())
    }
}

impl KernelSpec {
    /// The family's name, which begins the names of its PTX entries.
    pub fn family(&self) -> &'static str {
        match self {
            Self::Gemm { .. } => "gemm",
            Self::GroupedGemm { .. } => "grouped_gemm",
            Self::Quantize { .. } => "quantize",
            Self::QuantizeTransposed { .. } => "quantize_transposed",
            Self::ScaledGemm { .. } => "scaled_gemm",
            Self::ScaledGroupedGemm { .. } => "scaled_grouped_gemm",
            Self::MaskedGemm { .. } => "masked_gemm",
            Self::ScaledMaskedGemm { .. } => "scaled_masked_gemm",
            Self::WeightGradient { .. } => "weight_gradient",
            Self::RoutePlan { .. } => "route_plan",
            Self::ExchangeRoutes { .. } => "exchange_routes",
            Self::SpreadExperts(_) => "spread_experts",
            Self::Combine { .. } => "combine",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Pointwise { .. } => "pointwise",
            Self::RmsNormQuantize { .. } => "rms_norm_quantize",
            Self::PointwiseQuantize { .. } => "pointwise_quantize",
            Self::Reduce { .. } => "reduce",
            Self::Softmax { .. } => "softmax",
            Self::Rotary { .. } => "rotary",
            Self::Gather { .. } => "gather",
            Self::Scatter { .. } => "scatter",
            Self::AppendLatent { .. } => "append_latent",
            Self::GatherLatent { .. } => "gather_latent",
            Self::Attention { .. } => "attention",
            Self::AttentionMerge { .. } => "attention_merge",
            Self::TopK { .. } => "top_k",
            Self::Router { .. } => "router",
            Self::Pick { .. } => "pick",
        }
    }
}
