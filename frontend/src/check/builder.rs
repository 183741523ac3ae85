//! A function of the graph while it grows.

use super::value::{Axis, Tensor};
use moec_ir::graph::{Cache, NodeId, Op, Param, TensorType};
use moec_ir::{DType, Span};
use std::collections::BTreeMap;

/// What a node computes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DraftOp {
    /// An operation of the graph.
    Op(Op),
    /// A result of a call of a layer function: which call, which result. Only in entries.
    Result(usize, usize),
}

/// A node before it is known which function it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) op: DraftOp,
    pub(super) inputs: Vec<NodeId>,
    pub(super) ty: TensorType,
    pub(super) name: Option<String>,
    pub(super) span: Span,
    /// Number of layer calls made before it; functions are cut at those calls.
    pub(super) segment: usize,
}

/// A run of layers called in an entry.
#[derive(Clone, Debug)]
pub(super) struct LayerCall {
    /// The name of the `use`.
    pub(super) name: String,
    /// Index into the functions of the graph.
    pub(super) function: usize,
    /// Layer numbers, first to one past the last.
    pub(super) layers: (u64, u64),
    /// Arguments of the first layer.
    pub(super) inputs: Vec<NodeId>,
    /// How many of the arguments each layer replaces by its results.
    pub(super) results: usize,
}

/// A function while it grows.
#[derive(Debug, Default)]
pub(super) struct Builder {
    /// Whether layer functions may be called: in entries.
    pub(super) is_entry: bool,
    pub(super) inputs: Vec<TensorType>,
    pub(super) params: Vec<Param>,
    pub(super) caches: Vec<Cache>,
    /// Path and declaration of each parameter.
    pub(super) param_keys: Vec<(String, Span)>,
    /// Path and declaration of each cache.
    pub(super) cache_keys: Vec<(String, Span)>,
    /// Where each cache was appended to.
    pub(super) appended: BTreeMap<usize, Span>,
    pub(super) nodes: Vec<Draft>,
    pub(super) calls: Vec<LayerCall>,
    /// Operations by what they compute, so that equal ones are shared.
    pub(super) shared: BTreeMap<(DraftOp, Vec<NodeId>, DType), NodeId>,
}

impl Builder {
    /// A node, or the one that computes the same already.
    pub(super) fn node(
        &mut self,
        op: DraftOp,
        inputs: Vec<NodeId>,
        dtype: DType,
        axes: Vec<Axis>,
        span: Span,
    ) -> Tensor {
        let key = (op, inputs, dtype);
        let is_constant = matches!(key.0, DraftOp::Op(Op::Constant(_)));
        let node = match self.shared.get(&key) {
            Some(&node) => node,
            None => {
                let node = NodeId(self.nodes.len());
                self.nodes.push(Draft {
                    op: key.0.clone(),
                    inputs: key.1.clone(),
                    ty: TensorType::new(dtype, axes.iter().map(|a| a.dim.clone())),
                    name: None,
                    span,
                    segment: self.calls.len(),
                });
                self.shared.insert(key, node);
                node
            }
        };
        Tensor { node, axes, dtype, is_constant }
    }

    /// The next input.
    pub(super) fn input(&mut self, dtype: DType, axes: Vec<Axis>, span: Span) -> Tensor {
        let index = self.inputs.len();
        self.inputs.push(TensorType::new(dtype, axes.iter().map(|a| a.dim.clone())));
        self.node(DraftOp::Op(Op::Input(index)), vec![], dtype, axes, span)
    }

    /// A parameter, added where it is new.
    pub(super) fn param(&mut self, mut param: Param, axes: Vec<Axis>, span: Span) -> Tensor {
        let dtype = param.ty.dtype;
        let key = (param.name.clone(), span);
        let index = self.param_keys.iter().position(|k| *k == key).unwrap_or_else(|| {
            // A layer and the model around it may both have a `norm`.
            while self.params.iter().any(|p| p.name == param.name) {
                param.name = format!("model.{}", param.name);
            }
            self.params.push(param);
            self.param_keys.push(key);
            self.params.len() - 1
        });
        self.node(DraftOp::Op(Op::Param(index)), vec![], dtype, axes, span)
    }

    /// A cache, added where it is new.
    pub(super) fn cache(&mut self, mut cache: Cache, axes: Vec<Axis>, span: Span) -> Tensor {
        let dtype = cache.ty.dtype;
        let key = (cache.name.clone(), span);
        let index = self.cache_keys.iter().position(|k| *k == key).unwrap_or_else(|| {
            while self.caches.iter().any(|c| c.name == cache.name) {
                cache.name = format!("model.{}", cache.name);
            }
            self.caches.push(cache);
            self.cache_keys.push(key);
            self.caches.len() - 1
        });
        self.node(DraftOp::Op(Op::Cache(index)), vec![], dtype, axes, span)
    }

    /// The parameter that a node reads, if it reads one directly.
    pub(super) fn param_of(&self, node: NodeId) -> Option<&Param> {
        match self.nodes.get(node.0)?.op {
            DraftOp::Op(Op::Param(index)) => self.params.get(index),
            _ => None,
        }
    }

    /// Names an input of the function after the first input of the source that it is given to.
    pub(super) fn name_input(&mut self, node: NodeId, name: &str) {
        let draft = &mut self.nodes[node.0];
        if matches!(draft.op, DraftOp::Op(Op::Input(_))) {
            draft.name.get_or_insert_with(|| name.to_owned());
        }
    }

    /// Which nodes the outputs, the calls and the caches need.
    pub(super) fn live(&self, outputs: &[NodeId]) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        let calls = self.calls.iter().flat_map(|c| c.inputs.iter());
        for id in outputs.iter().chain(calls) {
            live[id.0] = true;
        }
        for (at, draft) in self.nodes.iter().enumerate().rev() {
            live[at] |= matches!(draft.op, DraftOp::Op(Op::Append));
            if live[at] {
                draft.inputs.iter().for_each(|i| live[i.0] = true);
            }
        }
        live
    }
}
