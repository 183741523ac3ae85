//! Patterns over the e-graph, written as the equations that they are.
//!
//! `scores(q, head_linear(c, w))` matches every class that holds such a node; lower-case names
//! without operands are variables, and a variable that occurs twice must be the same class both
//! times. Attributes stand in brackets and are variables, integers or orders of axes:
//! `slice[2, start, len](x)`, `transpose[(0 2 1)](w)`. `y=linear(x, w)` also binds the class of
//! the inner node. egg's own patterns cannot bind attributes or leave element types open,
//! which is why these exist.

mod instantiate;
mod parse;
mod trace;

pub(crate) use instantiate::Rewriter;
pub(crate) use trace::{Miss, furthest};

use crate::language::{Attr, EGraph, Node};
use egg::{Id, Language};
use moec_ir::{Dim, Real, ScaleFormat, TensorType};

/// One side of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pattern {
    /// Any class; the same wherever the name occurs.
    Var(usize),
    /// A node of that name.
    Op {
        /// Variable that the node's class is bound to.
        label: Option<usize>,
        /// Name of the operation or kernel.
        name: String,
        /// Attributes; none where the operation has none.
        attrs: Vec<AttrPattern>,
        /// Operands.
        children: Vec<Pattern>,
    },
}

/// An attribute in a pattern.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AttrPattern {
    /// Any value; the same wherever the name occurs.
    Var(usize),
    /// That value.
    Literal(Attr),
}

/// The names of a rule's variables; a variable is an index into them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Names(Vec<String>);

/// What a variable stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A class.
    Class(Id),
    /// An attribute.
    Attr(Attr),
}

/// A match of a rule's left side: what each variable stands for, by name.
#[derive(Clone, Copy)]
pub(crate) struct Match<'a> {
    pub(crate) egraph: &'a EGraph,
    pub(crate) names: &'a Names,
    pub(crate) values: &'a [Option<Value>],
}

impl Names {
    /// The variable of a name, made where it is new.
    pub(crate) fn intern(&mut self, name: &str) -> usize {
        self.find(name).unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        })
    }

    /// The variable of a name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|n| n == name)
    }

    /// All of them, in the order in which they were made.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Match<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(self.names.find(name)?)?.as_ref()
    }

    /// The class bound to a name.
    pub(crate) fn class(&self, name: &str) -> Option<Id> {
        match self.value(name)? {
            Value::Class(id) => Some(self.egraph.find(*id)),
            Value::Attr(_) => None,
        }
    }

    /// The type of the class bound to a name.
    pub(crate) fn ty(&self, name: &str) -> Option<&TensorType> {
        self.class(name).map(|id| &self.egraph[id].data.ty)
    }

    /// The sizes of the class, or in the attribute, bound to a name.
    pub(crate) fn shape(&self, name: &str) -> Option<&[Dim]> {
        match self.value(name)? {
            Value::Class(id) => Some(&self.egraph[*id].data.ty.shape),
            Value::Attr(Attr::Shape(s)) => Some(s),
            Value::Attr(_) => None,
        }
    }

    /// The integer bound to a name.
    pub(crate) fn int(&self, name: &str) -> Option<u64> {
        match self.value(name)? {
            Value::Attr(Attr::Int(n)) => Some(*n),
            _ => None,
        }
    }

    /// The number bound to a name: an attribute, or a class that is a constant.
    pub(crate) fn real(&self, name: &str) -> Option<Real> {
        match self.value(name)? {
            Value::Attr(Attr::Real(r)) => Some(*r),
            Value::Class(id) => self.egraph[*id].data.constant,
            Value::Attr(_) => None,
        }
    }

    /// The format of scales bound to a name.
    pub(crate) fn scales(&self, name: &str) -> Option<ScaleFormat> {
        match self.value(name)? {
            Value::Attr(Attr::Scales(format)) => Some(*format),
            _ => None,
        }
    }

    /// The order of axes bound to a name.
    pub(crate) fn order(&self, name: &str) -> Option<&[usize]> {
        match self.value(name)? {
            Value::Attr(Attr::Order(o)) => Some(o),
            _ => None,
        }
    }
}

/// All ways in which a class matches, each as the values of the variables.
pub(crate) fn match_class(
    egraph: &EGraph,
    pattern: &Pattern,
    class: Id,
    bound: Vec<Option<Value>>,
) -> Vec<Vec<Option<Value>>> {
    let class = egraph.find(class);
    let Pattern::Op { label, name, attrs, children } = pattern else {
        let Pattern::Var(var) = pattern else { return vec![] };
        return bind(bound, *var, Value::Class(class)).into_iter().collect();
    };
    let bound = match label {
        Some(var) => match bind(bound, *var, Value::Class(class)) {
            Some(bound) => bound,
            None => return vec![],
        },
        None => bound,
    };
    let mut found = vec![];
    for node in &egraph[class].nodes {
        if node.term.name() != name || node.children.len() != children.len() {
            continue;
        }
        if let Some(bound) = match_attributes(node, attrs, bound.clone()) {
            let mut partial = vec![bound];
            for (child, id) in children.iter().zip(node.children()) {
                partial =
                    partial.into_iter().flat_map(|b| match_class(egraph, child, *id, b)).collect();
            }
            found.extend(partial);
        }
    }
    found
}

fn match_attributes(
    node: &Node,
    attrs: &[AttrPattern],
    mut bound: Vec<Option<Value>>,
) -> Option<Vec<Option<Value>>> {
    if attrs.is_empty() {
        return node.term.attributes().is_empty().then_some(bound);
    }
    let values = node.term.attributes();
    if values.len() != attrs.len() {
        return None;
    }
    for (attr, value) in attrs.iter().zip(values) {
        match attr {
            AttrPattern::Var(var) => bound = bind(bound, *var, Value::Attr(value))?,
            AttrPattern::Literal(literal) if *literal == value => {}
            AttrPattern::Literal(_) => return None,
        }
    }
    Some(bound)
}

fn bind(mut bound: Vec<Option<Value>>, var: usize, value: Value) -> Option<Vec<Option<Value>>> {
    match &bound[var] {
        Some(old) if *old != value => None,
        Some(_) => Some(bound),
        None => {
            bound[var] = Some(value);
            Some(bound)
        }
    }
}
