//! The program of launches that a target executes; with the PTX it is the artefact.
//!
//! A plan is closed: it names every buffer, every weight tensor and every launch of a step,
//! with sizes as polynomials in `T`, `S` and `B`. The runtime decides nothing.

mod capture;
mod geometry;
mod text;

pub use geometry::{Extent, Geometry, TensorMap};

use crate::graph::{Rotary, ValueId};
use crate::kernel::KernelSpec;
use crate::{DType, Dim, Ranks, Sizes, Sym, Target};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Version of the artefact's format; the runtime refuses others.
pub const FORMAT: u32 = 3;

/// Rows of a page of a cache: FlashMLA's (csrc/sm90/decode/dense, `PAGE_BLOCK_SIZE`), and the rows
/// of one block of keys on tensor cores.
pub const PAGE_ROWS: u64 = 64;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Many tokens of each sequence at once.
    Prefill,
    /// One token of each sequence.
    Decode,
}

impl Phase {
    /// Both phases.
    pub const ALL: [Self; 2] = [Self::Prefill, Self::Decode];

    /// `prefill` or `decode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Phase {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|p| p.name() == s)
            .ok_or_else(|| format!("`{s}` is not a phase; phases are `prefill` and `decode`"))
    }
}

/// All launches of one phase of a model on one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`FORMAT`].
    pub format: u32,
    /// The model's name.
    pub model: String,
    /// Longest sequence the model is defined for.
    pub context: u64,
    /// The machine.
    pub target: Target,
    /// What a step does.
    pub phase: Phase,
    /// The ranks that share the experts, where there are several: each runs this plan on its own
    /// tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<Ranks>,
    /// Memory that all ranks have at the same place of their symmetric memory, and that one
    /// reaches on another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub symmetric: Vec<Symmetric>,
    /// The step for which costs were weighed; the plan is right for any other too.
    pub workload: Sizes,
    /// The distinct kernels.
    pub kernels: Vec<Kernel>,
    /// The distinct functions.
    pub functions: Vec<PlanFunction>,
    /// What can be run.
    pub entries: Vec<PlanEntry>,
}

/// Memory that all ranks of a group have at the same place; zero at the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symmetric {
    /// For people.
    pub name: String,
    /// Its bytes; `T` stands for the most tokens that a rank has in any step, which is fixed when
    /// memory is reserved.
    pub bytes: Dim,
}

/// A kernel and how it is launched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Name of the PTX entry: the family and a number, `gemm_3`.
    pub name: String,
    /// What it computes.
    pub spec: KernelSpec,
    /// Grid and block; code generation fills them in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry: Option<Geometry>,
    /// Sizes whose numbers its code reads; code generation fills them in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<Sym>,
}

/// The launches of one function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanFunction {
    /// The graph function's name.
    pub name: String,
    /// Weights that its launches read; names may hold `{i}`, the layer.
    pub weights: Vec<Weight>,
    /// Caches, one of each per layer.
    pub caches: Vec<PlanCache>,
    /// Tables that the runtime computes once.
    pub tables: Vec<Table>,
    /// Bytes of each temporary buffer; one set serves all functions, since they run in turn.
    pub workspace: Vec<Dim>,
    /// The launches, in order.
    pub launches: Vec<Launch>,
}

/// A weight as it lies on the device: dense, row-major, `[outer, rows, cols]`, made from one or
/// more tensors of the checkpoint stacked along `rows`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Weight {
    /// Element type on the device; the checkpoint's is converted.
    pub dtype: DType,
    /// Number of experts where each has tensors of its own (`{e}` in the names); else 1.
    pub outer: u64,
    /// Whether these are a rank's own experts: those from rank times `outer` on, of
    /// ranks times `outer`. The shapes of tensors that hold all experts are theirs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spread: bool,
    /// The tensors, in order along `rows`.
    pub parts: Vec<WeightPart>,
}

/// A tensor of the checkpoint that makes up (part of) a weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WeightPart {
    /// Its name; `{i}` is the layer, `{e}` the expert.
    pub tensor: String,
    /// Its shape in the checkpoint. With `{e}` in the name that of one expert's tensor; without,
    /// and `outer` above 1, the leading axis is the expert.
    pub shape: Vec<u64>,
    /// Where the tensor is f8e4m3 and the weight is not: what it is multiplied by when loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<PartScale>,
}

/// The scales of an FP8 tensor that is dequantised when it is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartScale {
    /// Name of the tensor of scales, float32, with `{i}` and `{e}` as the FP8 tensor's.
    pub tensor: String,
    /// Rows and columns that share a scale.
    pub block: [u64; 2],
}

impl PartScale {
    /// Shape of the tensor of scales, from that of the FP8 tensor: the last two axes count
    /// blocks.
    pub fn shape(&self, of: &[u64]) -> Vec<u64> {
        let outer = of.len().saturating_sub(2);
        let blocks = of[outer..].iter().zip(&self.block).map(|(n, b)| n.div_ceil((*b).max(1)));
        of[..outer].iter().copied().chain(blocks).collect()
    }
}

/// What is kept per token and layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanCache {
    /// Name in the source.
    pub name: String,
    /// Element type; e4m3 where rows are packed ([`crate::graph::PackedRow`]), a byte each.
    pub dtype: DType,
    /// Elements per token.
    pub row: u64,
}

/// A table that depends on the model alone; rows are positions `0 .. capacity`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// float32 `[capacity, dim / 2, 2]`: cosine and sine of position times frequency, times the
    /// amplitude.
    Rotary(Rotary),
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Index into [`Plan::kernels`].
    pub kernel: usize,
    /// What each pointer parameter holds, in the spec's order.
    pub operands: Vec<Operand>,
    /// Whether its `T` is the most tokens that any rank has in a step (see [`Symmetric`]), instead
    /// of this rank's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_group: bool,
    /// Which values of the source it computes, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub computes: String,
}

/// An address: a buffer and an offset into it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Operand {
    /// The buffer.
    pub buffer: Buffer,
    /// Bytes from its start.
    pub offset: Dim,
}

/// A buffer that launches of a function can address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Buffer {
    /// The function's input of that index.
    Input(usize),
    /// The function's output of that index.
    Output(usize),
    /// [`PlanFunction::workspace`]
    Workspace(usize),
    /// [`PlanFunction::weights`], of the step's layer.
    Weight(usize),
    /// [`PlanFunction::caches`], of the step's layer: dense `[slots, row]`, whole pages.
    Cache(usize),
    /// [`PlanFunction::tables`]
    Table(usize),
    /// What the runtime says of the step's tokens.
    Step(StepInput),
    /// [`Plan::symmetric`]
    Symmetric(usize),
    /// What the runtime says of the group, i64 `[2 + P]`: this rank, the most tokens that any rank
    /// has in a step, and for each rank of this node what to add to an address of this rank's
    /// symmetric memory for the same place of that rank's; 0 for ranks of other nodes, which
    /// addresses do not reach.
    Group,
}

/// What the runtime says of the tokens of a step; all i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepInput {
    /// `[T]`: position of each token in its sequence, from 0.
    Positions,
    /// `[T]`: which sequence of the batch each token belongs to.
    Sequences,
    /// `[T]`: the cache row each token is written to.
    Slots,
    /// `[B]`: [`PAGE_ROWS`] times where each sequence's pages begin in
    /// [`StepInput::CachePages`].
    CacheStart,
    /// At most `[S]`: the cache pages of every sequence that hold its remembered tokens, in order,
    /// sequence by sequence. Page `p` is the rows from `PAGE_ROWS * p` on.
    CachePages,
    /// `[S]`: the cache row of every remembered token (this step's included), sequence by
    /// sequence.
    PastSlots,
    /// `[B]`: where each sequence begins in [`StepInput::PastSlots`].
    PastStart,
}

impl StepInput {
    /// Number of i32 elements, or a bound on it.
    pub fn elements(self) -> Dim {
        match self {
            Self::Positions | Self::Sequences | Self::Slots => Sym::Tokens.into(),
            Self::CacheStart | Self::PastStart => Sym::Sequences.into(),
            Self::PastSlots | Self::CachePages => Sym::Past.into(),
        }
    }
}

/// A way into the model: its functions in the order in which they run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanEntry {
    /// `main`, or the name of the module (`mtp`).
    pub name: String,
    /// Bytes of each value that flows between functions: dense, row-major.
    pub values: Vec<PlanValue>,
    /// Which values the caller provides.
    pub inputs: Vec<ValueId>,
    /// The calls, in order.
    pub steps: Vec<crate::graph::Step>,
    /// Which values the caller gets.
    pub outputs: Vec<ValueId>,
}

/// A value that flows between functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanValue {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<Dim>,
    /// Values with the same number share memory; their lifetimes do not meet.
    pub storage: usize,
}
