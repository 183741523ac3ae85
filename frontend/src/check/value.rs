//! What expressions evaluate to.

use moec_ir::graph::NodeId;
use moec_ir::{DType, Dim};
use std::fmt;

/// The size of an axis and how the source names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    /// The size; integers are substituted for names, `T`, `S` and `B` stay.
    pub(super) dim: Dim,
    /// `heads * d_v`
    pub(super) text: String,
}

impl Axis {
    /// A size that has no name.
    pub(super) fn plain(dim: Dim) -> Self {
        Self { text: dim.to_string(), dim }
    }

    /// The sum of two sizes.
    pub(super) fn plus(&self, other: &Self) -> Self {
        Self {
            dim: self.dim.clone() + other.dim.clone(),
            text: format!("{} + {}", self.text, other.text),
        }
    }

    /// The name, and the number behind it where the name is not the number.
    pub(super) fn full(&self) -> String {
        let number = self.dim.to_string();
        if number == self.text { number } else { format!("{} = {number}", self.text) }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A shape as messages show it.
pub(super) fn shape(axes: &[Axis]) -> String {
    let names: Vec<&str> = axes.iter().map(|a| a.text.as_str()).collect();
    format!("[{}]", names.join(", "))
}

/// A shape in names and, where they differ, in numbers.
pub(super) fn full_shape(axes: &[Axis]) -> String {
    let names = shape(axes);
    let numbers: Vec<String> = axes.iter().map(|a| a.dim.to_string()).collect();
    let numbers = format!("[{}]", numbers.join(", "));
    if names == numbers { format!("`{names}`") } else { format!("`{names}` = `{numbers}`") }
}

/// A tensor: a node of the function being built.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// The node.
    pub(super) node: NodeId,
    /// Sizes of its axes.
    pub(super) axes: Vec<Axis>,
    /// Element type.
    pub(super) dtype: DType,
    /// Whether it is a number that was written: constants do not widen what they meet.
    pub(super) is_constant: bool,
}

/// What an expression evaluates to.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A number that is known now.
    Number(f64),
    /// A whole number or a symbol of the step.
    Size(Axis),
    /// What `split` and functions with several results return.
    Several(Vec<Value>),
    /// `w[e]` within `route`: the part of a parameter that belongs to the token's expert.
    OfExpert(Tensor),
    /// The `e` of `route`.
    ExpertIndex,
    /// A cache: index in the function, node, and sizes of a row.
    Cache(Tensor),
    /// What could not be computed; its mistake has been reported.
    Poison,
}

impl Value {
    /// What it is, with its article.
    pub(super) fn what(&self) -> String {
        match self {
            Self::Tensor(t) => format!("a tensor {}", shape(&t.axes)),
            Self::Number(_) => "a number".into(),
            Self::Size(a) => format!("the size `{a}`"),
            Self::Several(v) => format!("{} values", v.len()),
            Self::OfExpert(_) => "a part of a parameter".into(),
            Self::ExpertIndex => "the index of an expert".into(),
            Self::Cache(_) => "a cache".into(),
            Self::Poison => "unknown".into(),
        }
    }
}
