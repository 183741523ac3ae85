//! Every node of an e-graph as numbers, in float64, by the reference evaluator.

use super::bounded::{Bounded, Fault, agree, evaluate};
use super::meaning::{first_result, later_result};
use crate::language::{EGraph, Node, Part, Term, node_type, row_axis};
use egg::Id;
use moec_ir::graph::Op;
use moec_ir::graph::eval::{Context, Tensor};
use moec_ir::{DType, Dim, Function, Sizes, TensorType};
use std::collections::BTreeMap;

/// Tokens remembered and tokens of the step.
pub(super) const CONTEXT: Context = Context { past: 3, tokens: 4 };
pub(super) const SIZES: Sizes = Sizes { tokens: 4, past: 7, sequences: 1 };

/// The values of classes, each of one node.
pub(super) type Values = BTreeMap<Id, (Bounded, Node)>;

/// Computes every node and compares it with the other nodes of its class, and what is laid out
/// as a weight with the class's value; returns how many were compared.
pub(super) fn check_every_node(function: &Function, egraph: &EGraph) -> Result<usize, Fault> {
    let mut classes: Vec<_> = egraph.classes().collect();
    classes.sort_by_key(|c| c.id);
    let mut values = Values::new();
    loop {
        let before = values.len();
        for class in &classes {
            for node in &class.nodes {
                if values.contains_key(&class.id) {
                    break;
                }
                if let Some(value) = value(function, egraph, &values, node) {
                    values.insert(class.id, (value.map_err(|e| at(node, e))?, node.clone()));
                }
            }
        }
        if values.len() == before {
            break;
        }
    }
    let mut compared = 0;
    let wrong = |text: String| Err(Fault::Wrong(text));
    for class in &classes {
        for node in &class.nodes {
            let Some((known, by)) = values.get(&class.id) else {
                return wrong(format!("{node} has no value"));
            };
            // Each kernel behind a later result has to yield it.
            for kernel in sources(egraph, node) {
                let of = |id: &Id| values.get(&egraph.find(*id)).map(|(v, _)| v);
                let Some(own) = value_by(function, egraph, &of, node, kernel) else {
                    return wrong(format!("{node} cannot be computed"));
                };
                let own = own.map_err(|e| at(node, e))?;
                if !agree(&own, known) {
                    return wrong(format!("c{}: {node} differs from {by}", class.id));
                }
                compared += 1;
            }
        }
        if let (Some(parts), Some((known, by))) = (&class.data.weight, values.get(&class.id)) {
            if !agree(&laid_out(function, parts, &class.data.ty)?, known) {
                return wrong(format!("c{}: {parts:?} differ from {by}", class.id));
            }
            compared += 1;
        }
    }
    Ok(compared)
}

fn at(node: &Node, fault: Fault) -> Fault {
    match fault {
        Fault::Wrong(text) => Fault::Wrong(format!("{node}: {text}")),
        Fault::Undecided => Fault::Undecided,
    }
}

/// The kernels that a result could be of; the node itself where it is none.
fn sources<'a>(egraph: &'a EGraph, node: &'a Node) -> Vec<&'a Node> {
    match node.term {
        Term::Second { .. } | Term::Third => egraph[node.children[0]].nodes.iter().collect(),
        _ => vec![node],
    }
}

/// A node's value; `None` while an operand has none.
fn value(
    function: &Function,
    egraph: &EGraph,
    values: &Values,
    node: &Node,
) -> Option<Result<Bounded, Fault>> {
    let of = |id: &Id| values.get(&egraph.find(*id)).map(|(v, _)| v);
    let kernel = match node.term {
        Term::Second { .. } | Term::Third => &values.get(&egraph.find(node.children[0]))?.1,
        _ => node,
    };
    value_by(function, egraph, &of, node, kernel)
}

/// The same, where `kernel` is what a later result is a result of.
pub(super) fn value_by<'a>(
    function: &Function,
    egraph: &EGraph,
    of: &dyn Fn(&Id) -> Option<&'a Bounded>,
    node: &Node,
    kernel: &Node,
) -> Option<Result<Bounded, Fault>> {
    let operands: Vec<&Bounded> = node.children.iter().map(of).collect::<Option<_>>()?;
    let types: Vec<&TensorType> = node.children.iter().map(|c| &egraph[*c].data.ty).collect();
    let own = egraph.analysis.leaf(&node.term);
    let shape = match node_type(node, &types, own) {
        Ok(ty) => ty.shape,
        Err(fault) => return Some(Err(Fault::Wrong(fault))),
    };
    Some(match &node.term {
        Term::Math(op @ (Op::Input(_) | Op::Param(_) | Op::Cache(_))) => {
            Ok(Bounded::exact(leaf(function, op, &shape)))
        }
        Term::Math(op) => evaluate(op, &operands, &shape, CONTEXT),
        Term::InCache | Term::First => Ok(operands[0].clone()),
        Term::Second { .. } | Term::Third => {
            let inputs: Vec<&Bounded> = kernel.children.iter().map(of).collect::<Option<_>>()?;
            match kernel.as_kernel() {
                Some(k) => later_result(&node.term, k, &inputs, [&types[0].shape, &shape]),
                None => Err(Fault::Wrong(format!("{kernel} is no kernel"))),
            }
        }
        Term::Kernel(kernel) => first_result(kernel, &operands, &shape),
    })
}

/// What an input, a parameter or a cache holds.
fn leaf(function: &Function, op: &Op, shape: &[Dim]) -> Tensor {
    match op {
        Op::Input(i) if function.inputs[*i].dtype == DType::I32 => whole_numbers(shape),
        Op::Input(i) => random(shape, 7 + *i as u64),
        Op::Param(i) => random(shape, 1000 + *i as u64),
        Op::Cache(i) => {
            let past = [&[Dim::from(CONTEXT.past as u64)], shape].concat();
            random(&past, 2000 + *i as u64)
        }
        _ => Tensor { shape: vec![0], data: vec![] },
    }
}

/// Parameters stacked along their rows, each dequantised where it is.
fn laid_out(function: &Function, parts: &[Part], ty: &TensorType) -> Result<Bounded, Fault> {
    let param = |i: usize| {
        let shape = &function.params[i].ty.shape;
        (Bounded::exact(leaf(function, &Op::Param(i), shape)), shape)
    };
    let pieces = parts.iter().map(|part| {
        let (stored, shape) = param(part.param);
        match part.scaled {
            Some(by) => {
                let op = Op::Dequantize { block: by.block };
                evaluate(&op, &[&stored, &param(by.scale).0], shape, CONTEXT)
            }
            None => Ok(stored),
        }
    });
    let pieces: Vec<Bounded> = pieces.collect::<Result<_, _>>()?;
    let Some(axis) = row_axis(ty.shape.len()) else {
        return Err(Fault::Wrong(format!("{ty} has no rows")));
    };
    evaluate(&Op::Concat { axis }, &pieces.iter().collect::<Vec<_>>(), &ty.shape, CONTEXT)
}

/// Numbers between -1 and 1 that differ by their salt (a linear congruential generator, Knuth's
/// MMIX constants).
fn random(shape: &[Dim], salt: u64) -> Tensor {
    let shape: Vec<usize> = shape.iter().map(|d| d.eval(&SIZES) as usize).collect();
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let data = (0..shape.iter().product::<usize>()).map(|_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    });
    Tensor { data: data.collect(), shape }
}

/// Small indices that differ within each row of up to three.
fn whole_numbers(shape: &[Dim]) -> Tensor {
    let shape: Vec<usize> = shape.iter().map(|d| d.eval(&SIZES) as usize).collect();
    let data = (0..shape.iter().product::<usize>()).map(|i| ((i * 2 + i / 3) % 3) as f64);
    Tensor { data: data.collect(), shape }
}
