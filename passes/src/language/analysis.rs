//! What is known of every class: its type, and whether it is a weight or a number.

use super::shape::node_type;
use super::{EGraph, Kernel, Node, Term};
use egg::{Analysis, DidMerge, Id};
use moec_ir::graph::PackedRow;
use moec_ir::{DType, Function, Op, Real, TensorType};

/// The types of a function's leaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Types {
    inputs: Vec<TensorType>,
    params: Vec<TensorType>,
    caches: Vec<TensorType>,
    packed: Vec<Option<PackedRow>>,
}

/// What all nodes of a class have in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Data {
    /// Element type and shape.
    pub(crate) ty: TensorType,
    /// The parameters that make up the value when stacked along their rows, if that is what it
    /// is: such a value is laid out once, when weights are loaded.
    pub(crate) weight: Option<Vec<Part>>,
    /// The number, if it is one.
    pub(crate) constant: Option<Real>,
}

/// A parameter as it stands in a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    /// The parameter.
    pub(crate) param: usize,
    /// How it is dequantised when it is loaded, where it is.
    pub(crate) scaled: Option<Scaled>,
}

/// An FP8 parameter in another type, by its scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scaled {
    /// The parameter that holds the scales.
    pub(crate) scale: usize,
    /// Rows and columns that share one.
    pub(crate) block: [u64; 2],
    /// The type that the products have.
    pub(crate) dtype: DType,
}

impl Types {
    /// The types of a function's leaves.
    pub(crate) fn new(function: &Function) -> Self {
        Self {
            inputs: function.inputs.clone(),
            params: function.params.iter().map(|p| p.ty.clone()).collect(),
            caches: function.caches.iter().map(|c| c.ty.clone()).collect(),
            packed: function.caches.iter().map(|c| c.packed).collect(),
        }
    }

    /// The type of what a leaf reads.
    pub(crate) fn leaf(&self, term: &Term) -> Option<&TensorType> {
        match term {
            Term::Math(Op::Input(i)) => self.inputs.get(*i),
            Term::Math(Op::Param(i)) => self.params.get(*i),
            Term::Math(Op::Cache(i)) => self.caches.get(*i),
            _ => None,
        }
    }
}

/// Views between a value and its cache, at most.
const MOST_VIEWS: usize = 8;

/// How the cache that a value is, is written to or is a view of keeps its rows, and their type;
/// nothing where it keeps them as they are.
pub(crate) fn packed_behind(egraph: &EGraph, id: Id) -> Option<(PackedRow, &TensorType)> {
    let mut class = &egraph[id];
    for _ in 0..MOST_VIEWS {
        let cache = class.nodes.iter().find_map(|n| match n.term {
            Term::Math(Op::Cache(cache)) => Some(cache),
            _ => None,
        });
        if let Some(cache) = cache {
            let types = &egraph.analysis;
            return Some(((*types.packed.get(cache)?)?, types.caches.get(cache)?));
        }
        let written = |n: &&Node| {
            matches!(n.term, Term::Kernel(Kernel::Scatter | Kernel::AppendLatent { .. }))
        };
        let through = class.nodes.iter().find(written);
        let through = through.or_else(|| class.nodes.iter().find(|n| n.term.is_view()))?;
        class = &egraph[through.children[0]];
    }
    None
}

impl Analysis<Node> for Types {
    type Data = Data;

    fn make(egraph: &mut EGraph, node: &Node, _id: Id) -> Data {
        let operands: Vec<&TensorType> =
            node.children.iter().map(|c| &egraph[*c].data.ty).collect();
        let own = egraph.analysis.leaf(&node.term);
        let ty = node_type(node, &operands, own).unwrap_or_else(|fault| {
            panic!("bug in moec: the ill-typed node {node} was added to the e-graph: {fault}")
        });
        let constant = match &node.term {
            Term::Math(Op::Constant(c)) => Some(*c),
            _ => None,
        };
        Data { weight: weight(egraph, node), ty, constant }
    }

    fn merge(&mut self, to: &mut Data, from: Data) -> DidMerge {
        assert!(
            to.ty == from.ty,
            "bug in moec: a rule equates values of the types {} and {}",
            to.ty,
            from.ty
        );
        // Fewer parameters first: a whole one is better than the same in slices.
        let key = |w: &Option<Vec<Part>>| w.as_ref().map(|w| (w.len(), w.clone()));
        let take_weight = match (key(&to.weight), key(&from.weight)) {
            (Some(a), Some(b)) => b < a,
            (None, Some(_)) => true,
            _ => false,
        };
        let take_constant = to.constant.is_none() && from.constant.is_some();
        let kept = (to.weight != from.weight && !take_weight)
            || (to.constant != from.constant && !take_constant);
        if take_weight {
            to.weight = from.weight;
        }
        if take_constant {
            to.constant = from.constant;
        }
        DidMerge(take_weight || take_constant, kept)
    }
}

/// The parameters a node stacks along their rows.
fn weight(egraph: &EGraph, node: &Node) -> Option<Vec<Part>> {
    match &node.term {
        Term::Math(Op::Param(i)) => Some(vec![Part { param: *i, scaled: None }]),
        Term::Math(Op::Dequantize { block }) => {
            let stored = |child: &Id| match egraph[*child].data.weight.as_deref()? {
                [Part { param, scaled: None }] => Some(*param),
                _ => None,
            };
            let (param, scale) = (stored(node.children.first()?)?, stored(node.children.get(1)?)?);
            let scaled = Scaled { scale, block: *block, dtype: node.dtype };
            Some(vec![Part { param, scaled: Some(scaled) }])
        }
        Term::Math(Op::Concat { axis }) => {
            let rank = egraph[*node.children.first()?].data.ty.shape.len();
            if Some(*axis) != row_axis(rank) {
                return None;
            }
            let mut parts = vec![];
            for child in &node.children {
                parts.extend(egraph[*child].data.weight.as_ref()?);
            }
            Some(parts)
        }
        _ => None,
    }
}

/// What must be there before a node of a class is computed: its operands, but nothing for a
/// weight, which is laid out when it is loaded.
pub(crate) fn needs<'a>(egraph: &EGraph, class: Id, node: &'a Node) -> &'a [Id] {
    if is_laid_out(egraph, class, node) { &[] } else { &node.children }
}

/// Whether a node is made when weights are loaded: parameters side by side or dequantised.
pub(crate) fn is_laid_out(egraph: &EGraph, class: Id, node: &Node) -> bool {
    let makes_weights = matches!(node.term, Term::Math(Op::Concat { .. } | Op::Dequantize { .. }));
    makes_weights && egraph[class].data.weight.is_some()
}

/// The axis along which weights of a rank are stacked: `[N]`, `[N, K]` and `[E, N, K]`.
pub(crate) fn row_axis(rank: usize) -> Option<usize> {
    match rank {
        1 | 2 => Some(0),
        3 => Some(1),
        _ => None,
    }
}
