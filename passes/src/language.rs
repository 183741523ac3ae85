//! The language of the e-graph: mathematical operations and the kernels that compute them.
//!
//! A [`Node`] is an operation, the element type of its value and its operands. Attributes are
//! part of the operation, so that two slices of different ranges are different operations.

mod analysis;
mod attributes;
mod shape;

pub(crate) use analysis::{Data, Part, Types, is_laid_out, needs, packed_behind, row_axis};
pub(crate) use attributes::{Attr, code_text};
pub(crate) use shape::{default_dtype, leads_with_past, node_type, rows};

use egg::{Id, Language};
use moec_ir::graph::{Groups, ReduceFn, Rotary};
use moec_ir::kernel::{Scalar, Scoring};
use moec_ir::{DType, Op, Real, ScaleFormat};

/// The e-graph of one function.
pub(crate) type EGraph = egg::EGraph<Node, Types>;

/// An operation applied to classes of equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Node {
    /// What is computed.
    pub(crate) term: Term,
    /// Element type of the value.
    pub(crate) dtype: DType,
    /// Operands.
    pub(crate) children: Vec<Id>,
}

/// What a node computes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Term {
    /// An operation of the graph.
    Math(Op),
    /// The operand's rows where they lie in a cache: the same numbers, but row `i` of sequence
    /// `b` at cache row `cache_start[b] + i` instead of packed. Only attention reads it.
    InCache,
    /// The first result of a kernel that has several; the kernel's own class has its type.
    First,
    /// The second result of a kernel that has several: shaped as the first but for the last axis, of
    /// which it has one element for each `per`.
    Second {
        /// Elements of the first result for one of the second.
        per: u64,
    },
    /// The third result of a kernel that has three: the numbers that it quantised.
    Third,
    /// A kernel.
    Kernel(Kernel),
}

/// A kernel as the e-graph knows it: what it computes, not how its operands lie.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kernel {
    /// `(x, w)`: [`Op::Linear`].
    Gemm,
    /// `(x, w, add)`: a linear map and a residual.
    GemmAdd,
    /// `(x, w)`: [`Op::HeadLinear`].
    HeadGemm,
    /// `(x, w, route)`: [`Op::ExpertLinear`].
    GroupedGemm {
        /// Experts chosen per token.
        top_k: u64,
    },
    /// `(x)`: two results, [`Op::Quantize`] and [`Op::BlockScale`].
    Quantize {
        /// Elements of a row that share a scale.
        block: u64,
        /// How scales are rounded.
        scales: ScaleFormat,
    },
    /// `(x, w)`: three results, [`Kernel::Quantize`]'s two of a norm and the norm.
    RmsNormQuantize {
        /// Added to the mean of squares.
        eps: Real,
        /// Elements of a row that share a scale.
        block: u64,
        /// How scales are rounded.
        scales: ScaleFormat,
    },
    /// `(inputs..)`: three results, [`Kernel::Quantize`]'s two of a function of each element and
    /// that function.
    PointwiseQuantize {
        /// The function.
        code: Vec<Scalar>,
        /// Elements of a row that share a scale.
        block: u64,
        /// How scales are rounded.
        scales: ScaleFormat,
    },
    /// `(x, [x scale], w, w scale)`: [`Op::Linear`] of dequantised operands, or of an `x` that never
    /// was quantised.
    ScaledGemm {
        /// Rows and columns of a block of the weight.
        block: [u64; 2],
    },
    /// `(x, [x scale], w, w scale, add)`: the same and a residual.
    ScaledGemmAdd {
        /// Rows and columns of a block of the weight.
        block: [u64; 2],
    },
    /// `(x, [x scale], w, w scale, route)`: [`Op::ExpertLinear`], as [`Kernel::ScaledGemm`].
    ScaledGroupedGemm {
        /// Experts chosen per token.
        top_k: u64,
        /// Rows and columns of a block of the weights.
        block: [u64; 2],
    },
    /// `(chosen)`: i32 `[n_experts + 1 + T * k]`, rows sorted by expert.
    RoutePlan {
        /// Number of experts.
        n_experts: u64,
    },
    /// `(y, weight, adds..)`: [`Op::Combine`] and sums.
    Combine,
    /// `(x, [x scale], chosen, weight, w, [w scale], v, [v scale], adds..)`: rows that are sent to
    /// the ranks of their experts, multiplied by `w`, by a function of elements and by `v` there,
    /// and what comes of them collected, combined and added to.
    SpreadExperts(Box<Spread>),
    /// `(x, w)`
    RmsNorm {
        /// Added to the mean of squares.
        eps: Real,
    },
    /// `(x, residual, w)`: two results, the norm of the sum and the sum.
    AddRmsNorm {
        /// Added to the mean of squares.
        eps: Real,
        /// Element type of the sum.
        sum: DType,
    },
    /// `(inputs..)`: a function of each element.
    Pointwise(Vec<Scalar>),
    /// `(x)`
    Reduce(ReduceFn),
    /// `(x)`
    Softmax,
    /// `(x)`
    Rotary(Rotary),
    /// `(table, ids)`: [`Op::Lookup`].
    Gather,
    /// `(cache, x)`: writes this step's rows; its value is the cache with them, in place.
    Scatter,
    /// `(cache, latent, w, key)`: [`Kernel::Scatter`] of the latent, normed, and the key, rotated,
    /// side by side.
    AppendLatent {
        /// Added to the mean of squares.
        eps: Real,
        /// How the key is rotated.
        rotary: Rotary,
        /// Where the latent is quantised and dequantised in between: elements of a block, and how
        /// its scale is rounded.
        rounded: Option<(u64, ScaleFormat)>,
    },
    /// `(scatter)`: the rows of the cache, packed sequence by sequence: [`Op::Append`].
    GatherPast,
    /// `(q parts.., k parts.., v)`
    Attention {
        /// Number of parts whose inner products add up.
        parts: usize,
        /// Whether keys and values lie in caches.
        cached: bool,
        /// Factor on the scores.
        scale: Real,
    },
    /// `(scores)`
    TopK {
        /// Experts chosen per token.
        k: u64,
        /// Group limit.
        groups: Option<Groups>,
    },
    /// `(logits, [bias])`: two results, the experts chosen and their weights.
    Router(Router),
    /// `(x, chosen)`
    Pick,
    /// `(pieces..)`: pieces that could not be written side by side by their producers are copied.
    Concat {
        /// Axis along which sizes add up.
        axis: usize,
    },
}

/// What experts do that are spread over ranks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Spread {
    /// Experts chosen per token.
    pub(crate) top_k: u64,
    /// All experts.
    pub(crate) n_experts: u64,
    /// The function of elements in between.
    pub(crate) code: Vec<Scalar>,
    /// First column of each of its inputs in what the first product gives.
    pub(crate) inputs: Vec<u64>,
    /// How its result is quantised, where it is.
    pub(crate) quantized: Option<(u64, ScaleFormat)>,
    /// Rows and columns of a block of each product's weights, where it is of FP8.
    pub(crate) blocks: [Option<[u64; 2]>; 2],
    /// A row of what the first product gives.
    pub(crate) hidden: (u64, DType),
    /// A row of what the second product reads.
    pub(crate) middle: (u64, DType),
    /// A row of what the second product gives.
    pub(crate) result: (u64, DType),
}

impl Spread {
    /// Where the operands stand that are there or not: `x scale`, `w`, `w scale`, `v`, `v scale`,
    /// and the first of `adds`; `chosen` and `weight` stand before `w`.
    pub(crate) fn places(&self) -> SpreadPlaces {
        let [first, second] = self.blocks.map(|block| usize::from(block.is_some()));
        let w = 3 + first;
        let v = w + 1 + first;
        SpreadPlaces {
            x_scale: (first == 1).then_some(1),
            chosen: 1 + first,
            weight: 2 + first,
            w,
            w_scale: (first == 1).then_some(w + 1),
            v,
            v_scale: (second == 1).then_some(v + 1),
            adds: v + 1 + second,
        }
    }
}

/// See [`Spread::places`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpreadPlaces {
    pub(crate) x_scale: Option<usize>,
    pub(crate) chosen: usize,
    pub(crate) weight: usize,
    pub(crate) w: usize,
    pub(crate) w_scale: Option<usize>,
    pub(crate) v: usize,
    pub(crate) v_scale: Option<usize>,
    pub(crate) adds: usize,
}

/// What a router does with its logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Router {
    /// From logits to scores.
    pub(crate) scoring: Scoring,
    /// Experts chosen per token.
    pub(crate) k: u64,
    /// Group limit of the choice.
    pub(crate) groups: Option<Groups>,
    /// Whether weights are divided by their sum.
    pub(crate) normalize: bool,
    /// Factor on the weights.
    pub(crate) scale: Real,
}

/// A product of quantised weights: which operands are what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScaledOperands {
    /// The scales of `x`, where it has some.
    pub(crate) x_scale: Option<usize>,
    /// The weight; its scales follow, then what is added or the route.
    pub(crate) w: usize,
    /// Rows and columns of a block of the weight.
    pub(crate) block: [u64; 2],
    /// Experts chosen per token; 1 where there are none.
    pub(crate) top_k: u64,
}

impl Kernel {
    /// The operands of a product of quantised weights that has `count` of them; `None` where this
    /// is no such product.
    pub(crate) fn scaled(&self, count: usize) -> Option<ScaledOperands> {
        let (block, top_k, others) = match self {
            Self::ScaledGemm { block } => (*block, 1, 0),
            Self::ScaledGemmAdd { block } => (*block, 1, 1),
            Self::ScaledGroupedGemm { top_k, block } => (*block, *top_k, 1),
            _ => return None,
        };
        let (x_scale, w) = match count.checked_sub(others)? {
            3 => (None, 1),
            4 => (Some(1), 2),
            _ => return None,
        };
        Some(ScaledOperands { x_scale, w, block, top_k })
    }
}

impl Node {
    /// A mathematical node.
    pub(crate) fn math(op: Op, dtype: DType, children: Vec<Id>) -> Self {
        Self { term: Term::Math(op), dtype, children }
    }

    /// The kernel, if this is one.
    pub(crate) fn as_kernel(&self) -> Option<&Kernel> {
        match &self.term {
            Term::Kernel(k) => Some(k),
            _ => None,
        }
    }
}

impl Term {
    /// Whether the value is a result of a kernel that has several.
    pub(crate) fn is_result(&self) -> bool {
        matches!(self, Self::First | Self::Second { .. } | Self::Third)
    }

    /// Whether the value is its first operand's memory seen in another way.
    pub(crate) fn is_view(&self) -> bool {
        matches!(
            self,
            Self::Math(Op::Reshape(_) | Op::Slice { .. } | Op::Transpose(_) | Op::Broadcast(_))
        )
    }
}

impl Language for Node {
    type Discriminant = &'static str;

    fn discriminant(&self) -> &'static str {
        self.term.name()
    }

    fn matches(&self, other: &Self) -> bool {
        self.term == other.term
            && self.dtype == other.dtype
            && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}
