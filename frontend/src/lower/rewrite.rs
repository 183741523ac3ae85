//! A function rebuilt node by node.

use moec_ir::graph::shape::infer;
use moec_ir::graph::{Function, Node, NodeId, Op, TensorType};
use moec_ir::{DType, Dim};

/// The new nodes of a function, and where its old ones went.
pub(super) struct Rewrite {
    nodes: Vec<Node>,
    /// By old node; those before the one being rewritten.
    went: Vec<NodeId>,
}

impl Rewrite {
    pub(super) fn new() -> Self {
        Self { nodes: vec![], went: vec![] }
    }

    /// The new node of an old one.
    pub(super) fn of(&self, old: NodeId) -> NodeId {
        self.went[old.0]
    }

    /// The new nodes of a node's operands.
    pub(super) fn operands(&self, old: &Node) -> Vec<NodeId> {
        old.inputs.iter().map(|i| self.of(*i)).collect()
    }

    /// Says which node stands for the next old one.
    pub(super) fn put(&mut self, new: NodeId) {
        self.went.push(new);
    }

    /// The type of a new node.
    pub(super) fn ty(&self, id: NodeId) -> &TensorType {
        &self.nodes[id.0].ty
    }

    /// Appends a node as it is.
    pub(super) fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }

    /// Appends a node that no source names, or returns the one that computes the same.
    pub(super) fn add(&mut self, op: Op, inputs: Vec<NodeId>, dtype: DType, like: &Node) -> NodeId {
        let same = |n: &Node| n.op == op && n.inputs == inputs && n.ty.dtype == dtype;
        if let Some(at) = self.nodes.iter().position(same) {
            return NodeId(at);
        }
        let shapes: Vec<&[Dim]> = inputs.iter().map(|i| self.ty(*i).shape.as_slice()).collect();
        let shape = infer(&op, &shapes, None).unwrap_or_else(|fault| {
            panic!("bug in moec: lowering made an ill-typed node: {fault}")
        });
        let ty = TensorType::new(dtype, shape);
        self.push(Node { op, inputs, ty, name: None, spans: like.spans.clone() })
    }

    /// A node that reads a parameter of that index and type.
    pub(super) fn param(&mut self, index: usize, ty: &TensorType, like: &Node) -> NodeId {
        let op = Op::Param(index);
        match self.nodes.iter().position(|n| n.op == op) {
            Some(at) => NodeId(at),
            None => {
                let (inputs, spans) = (vec![], like.spans.clone());
                self.push(Node { op, inputs, ty: ty.clone(), name: None, spans })
            }
        }
    }

    /// The pieces that a node puts side by side as columns, if that is what it does.
    pub(super) fn pieces(&self, id: NodeId) -> Option<Vec<NodeId>> {
        let node = &self.nodes[id.0];
        (node.op == Op::Concat { axis: 1 }).then(|| node.inputs.clone())
    }

    /// The function with the new nodes, without those that nothing needs any more.
    pub(super) fn finish(self, function: &Function) -> Function {
        let outputs: Vec<NodeId> = function.outputs.iter().map(|o| self.of(*o)).collect();
        let mut needed = vec![false; self.nodes.len()];
        outputs.iter().for_each(|o| needed[o.0] = true);
        for (at, node) in self.nodes.iter().enumerate().rev() {
            needed[at] |= node.op == Op::Append;
            if needed[at] {
                node.inputs.iter().for_each(|i| needed[i.0] = true);
            }
        }
        let mut number = vec![NodeId(0); self.nodes.len()];
        let mut nodes = vec![];
        for (at, mut node) in self.nodes.into_iter().enumerate().filter(|(at, _)| needed[*at]) {
            node.inputs.iter_mut().for_each(|i| *i = number[i.0]);
            number[at] = NodeId(nodes.len());
            nodes.push(node);
        }
        let outputs = outputs.iter().map(|o| number[o.0]).collect();
        Function { nodes, outputs, ..function.clone() }
    }
}
