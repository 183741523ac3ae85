//! The mathematics of a model: functions of typed tensor operations.
//!
//! A [`Graph`] is flat: blocks are inlined, every function is a list of nodes in
//! topological order, and identical layers share one function. Nothing in it says how an
//! operation is computed.

pub mod eval;
pub mod op;
mod packed;
pub mod rotary;
pub mod shape;
mod text;
pub mod verify;

pub use op::{BinaryFn, GroupScore, Groups, Op, ReduceFn, UnaryFn};
pub use packed::{PackedLayout, PackedRow};
pub use rotary::{Rotary, Yarn};
pub use text::ReadError;
pub use verify::verify;

use crate::diagnostic::Span;
use crate::{DType, Dim};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// The model's name as the `.moe` file gives it.
    pub name: String,
    /// Longest sequence the model is defined for (positions 0 to `context` - 1).
    pub context: u64,
    /// Products of FP8 operands that a tensor core may sum before the sum moves to a float32
    /// register; 1 where each is added in float32, nothing where no operand is FP8.
    #[serde(default)]
    pub promote_every: Option<u64>,
    /// The distinct functions; a layer that occurs 58 times occurs here once.
    pub functions: Vec<Function>,
    /// What can be run: `main` (token ids to logits) and, where the model has one, `mtp`.
    pub entries: Vec<Entry>,
}

/// A way into the model: its functions in the order in which they run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `main`, or the name of the module (`mtp`).
    pub name: String,
    /// Types of the inputs; they are values 0 to `inputs.len() - 1`.
    pub inputs: Vec<TensorType>,
    /// The calls, in order. Each defines the values that it outputs, numbered upwards
    /// without gaps after the inputs.
    pub steps: Vec<Step>,
    /// The values that the entry returns.
    pub outputs: Vec<ValueId>,
}

/// A value that flows between functions of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValueId(pub usize);

/// One call of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Index into [`Graph::functions`].
    pub function: usize,
    /// The layer whose weights and caches are used; replaces `{i}` in tensor names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u64>,
    /// Arguments.
    pub inputs: Vec<ValueId>,
    /// Results.
    pub outputs: Vec<ValueId>,
}

/// A function of tensors that owns parameters and caches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Unique in the graph: `embed`, `dense`, `sparse`, `head`.
    pub name: String,
    /// Types of the inputs, read by [`Op::Input`].
    pub inputs: Vec<TensorType>,
    /// Parameters and states, read by [`Op::Param`].
    pub params: Vec<Param>,
    /// Caches, read by [`Op::Cache`].
    pub caches: Vec<Cache>,
    /// The operations; the inputs of each stand before it.
    pub nodes: Vec<Node>,
    /// The nodes whose values are returned.
    pub outputs: Vec<NodeId>,
}

/// Index of a node in its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub usize);

/// One operation and the type of its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<NodeId>,
    /// Type of the value.
    pub ty: TensorType,
    /// The name that the source gives the value (`let q_n`), where it gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where in the source it comes from; several places after fusion.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<Span>,
}

/// A parameter (trained) or state (updated by a rule) loaded from a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Param {
    /// Path of blocks and name in the source: `attention.q_a`.
    pub name: String,
    /// Name of the checkpoint's tensor; `{i}` is the layer, `{e}` counts along the leading
    /// axis where each expert has a tensor of its own.
    pub tensor: String,
    /// Shape of the whole parameter (with the leading expert axis) and the type it has on
    /// the device.
    pub ty: TensorType,
}

/// What is remembered of each token between steps.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cache {
    /// Path of blocks and name in the source: `attention.latent`.
    pub name: String,
    /// Shape and type of what is kept per token.
    pub ty: TensorType,
    /// How that is stored, where not as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<PackedRow>,
}

/// Element type and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Size of each axis, outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = Dim>) -> Self {
        Self { dtype, shape: shape.into_iter().collect() }
    }

    /// Number of elements.
    pub fn elements(&self) -> Dim {
        Dim::product(&self.shape)
    }

    /// Bytes of the tensor stored densely.
    pub fn bytes(&self) -> Dim {
        self.elements() * self.dtype.bytes()
    }

    /// Size of the innermost axis, if the tensor has one and it is an integer.
    pub fn last(&self) -> Option<u64> {
        self.shape.last().and_then(Dim::constant)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(", "))
    }
}

impl Function {
    /// The node of an id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }
}

impl Graph {
    /// The entry of a name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }
}
