//! From a function of the graph to an e-graph.

use crate::language::{EGraph, Node, Types};
use egg::Id;
use moec_ir::Function;
use std::collections::BTreeMap;

/// A function's e-graph and where its nodes went.
pub(crate) struct Built {
    /// The e-graph.
    pub(crate) egraph: EGraph,
    /// The class of each node of the function.
    pub(crate) classes: Vec<Id>,
}

impl Built {
    /// Adds every node of a function; equal nodes become one.
    pub(crate) fn new(function: &Function) -> Self {
        let mut egraph = EGraph::new(Types::new(function));
        let mut classes: Vec<Id> = Vec::with_capacity(function.nodes.len());
        for node in &function.nodes {
            let children = node.inputs.iter().map(|i| classes[i.0]).collect();
            classes.push(egraph.add(Node::math(node.op.clone(), node.ty.dtype, children)));
        }
        egraph.rebuild();
        Self { egraph, classes }
    }

    /// The classes of the function's outputs.
    pub(crate) fn outputs(&self, function: &Function) -> Vec<Id> {
        function.outputs.iter().map(|o| self.egraph.find(self.classes[o.0])).collect()
    }

    /// What the source calls each class; of several names the first.
    pub(crate) fn names(&self, function: &Function) -> BTreeMap<Id, String> {
        let mut names = BTreeMap::new();
        for (node, class) in function.nodes.iter().zip(&self.classes) {
            if let Some(name) = &node.name {
                names.entry(self.egraph.find(*class)).or_insert_with(|| name.clone());
            }
        }
        names
    }
}
