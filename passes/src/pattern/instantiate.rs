//! Adding what a rule says to the e-graph, with types checked.

use super::{AttrPattern, Pattern, Value};
use crate::language::{Attr, Data, EGraph, Node, Term, default_dtype, node_type};
use egg::Id;
use moec_ir::{DType, Op, TensorType};
use std::collections::BTreeMap;

/// An e-graph being rewritten.
pub(crate) struct Rewriter<'a> {
    /// The e-graph.
    pub(crate) egraph: &'a mut EGraph,
    /// How many times two classes became one.
    pub(crate) unions: usize,
}

impl<'a> Rewriter<'a> {
    /// Begins rewriting.
    pub(crate) fn new(egraph: &'a mut EGraph) -> Self {
        Self { egraph, unions: 0 }
    }

    /// What is known of a class.
    pub(crate) fn data(&self, id: Id) -> &Data {
        &self.egraph[id].data
    }

    /// The type of a class.
    pub(crate) fn ty(&self, id: Id) -> &TensorType {
        &self.egraph[id].data.ty
    }

    /// The nodes of a class that have a name.
    pub(crate) fn nodes(&self, id: Id, name: &str) -> Vec<Node> {
        self.egraph[id].nodes.iter().filter(|n| n.term.name() == name).cloned().collect()
    }

    /// The classes that mathematics computes from a class, each with one node that does.
    pub(crate) fn readers(&self, id: Id) -> BTreeMap<Id, &Node> {
        let parents = self.egraph[id].parents().map(|p| (p, self.egraph.id_to_node(p)));
        let math = parents.filter(|(_, n)| matches!(n.term, Term::Math(_)));
        math.map(|(p, n)| (self.egraph.find(p), n)).collect()
    }

    /// Adds a node if it is well typed.
    pub(crate) fn add(&mut self, term: Term, dtype: DType, children: Vec<Id>) -> Option<Id> {
        let node = Node { term, dtype, children };
        let operands: Vec<&TensorType> = node.children.iter().map(|c| self.ty(*c)).collect();
        node_type(&node, &operands, self.egraph.analysis.leaf(&node.term)).ok()?;
        Some(self.egraph.add(node))
    }

    /// Adds an operation of the graph, of its default type, if it is well typed.
    pub(crate) fn math(&mut self, op: Op, children: Vec<Id>) -> Option<Id> {
        let term = Term::Math(op);
        let operands: Vec<&TensorType> = children.iter().map(|c| self.ty(*c)).collect();
        let dtype = default_dtype(&term, &operands);
        self.add(term, dtype, children)
    }

    /// States that two classes have equal values, if they have equal types.
    pub(crate) fn equate(&mut self, a: Id, b: Id) {
        if self.ty(a) == self.ty(b) && self.egraph.union(a, b) {
            self.unions += 1;
        }
    }

    /// Adds what a pattern says, with `dtype` as the type of its value where given.
    pub(crate) fn build(
        &mut self,
        pattern: &Pattern,
        values: &[Option<Value>],
        dtype: Option<DType>,
    ) -> Option<Id> {
        let (name, attrs, children) = match pattern {
            Pattern::Var(var) => {
                return match values.get(*var)? {
                    Some(Value::Class(id)) => Some(self.egraph.find(*id)),
                    _ => None,
                };
            }
            Pattern::Op { name, attrs, children, .. } => (name, attrs, children),
        };
        let attrs: Vec<Attr> = attrs
            .iter()
            .map(|attr| match attr {
                AttrPattern::Literal(literal) => Some(literal.clone()),
                AttrPattern::Var(var) => match values.get(*var)? {
                    Some(Value::Attr(attr)) => Some(attr.clone()),
                    _ => None,
                },
            })
            .collect::<Option<_>>()?;
        let term = Term::from_parts(name, &attrs)?;
        // An operation of layout hands the type on to what it lays out.
        let layout = term.is_view() || matches!(term, Term::Math(Op::Concat { .. }));
        let inner = if layout { dtype } else { None };
        let children: Vec<Id> =
            children.iter().map(|c| self.build(c, values, inner)).collect::<Option<_>>()?;
        let operands: Vec<&TensorType> = children.iter().map(|c| self.ty(*c)).collect();
        let dtype = match dtype {
            Some(dtype) if !layout => dtype,
            _ => default_dtype(&term, &operands),
        };
        self.add(term, dtype, children)
    }
}
