//! Entries, cut into the functions of the graph at the calls of layers.
//!
//! Before: the nodes of a whole entry, in the order of evaluation, and the runs of layers it
//! calls. After: one function for what stands before the first run (`embed`), one for what
//! stands behind the last (`head`), one for each stretch between, and the steps that call
//! them. Parameters and constants are repeated where they are used; nothing that no result
//! needs is kept, except what is appended to caches.

use super::Checker;
use super::builder::{Builder, Draft, DraftOp, LayerCall};
use super::eval::Frame;
use super::value::Value;
use crate::ast::{FunctionDecl, Type};
use moec_ir::DType;
use moec_ir::graph::{Entry, Function, Node, NodeId, Op, Step, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

impl<'a> Checker<'a> {
    /// An entry, and its functions added to the graph's.
    pub(super) fn entry(&mut self, f: &'a FunctionDecl) -> Option<Entry> {
        self.builders.push(Builder { is_entry: true, ..Builder::default() });
        let mut args = Vec::new();
        for input in &f.inputs {
            let value = self.entry_input(&input.ty).unwrap_or(Value::Poison);
            args.push((value, input.name.span));
        }
        let results = self.call_function(f, Rc::clone(&self.root), args, f.span);
        let builder = self.builders.pop()?;
        let mut outputs = Vec::new();
        for value in results? {
            if let Value::Tensor(t) = value {
                outputs.push(t.node);
            }
        }
        let name = f.name.as_ref().map_or("main", |n| n.text.as_str());
        Some(self.cut(name, builder, &outputs))
    }

    fn entry_input(&mut self, ty: &'a Type) -> Option<Value> {
        let mut frame = Frame::new(Rc::clone(&self.root));
        let axes = self.shape(&mut frame, &ty.shape)?;
        let dtype = if ty.is_int { DType::I32 } else { self.precision.storage };
        Some(self.new_input(dtype, axes, ty.span))
    }

    /// A layer function: all its nodes in one function.
    pub(super) fn finish_function(
        &mut self,
        name: &str,
        builder: Builder,
        outputs: &[NodeId],
    ) -> usize {
        let live = builder.live(outputs);
        let inputs: Vec<NodeId> = input_nodes(&builder);
        let members: Vec<usize> = (0..builder.nodes.len()).filter(|&n| live[n]).collect();
        let function = extract(&builder, name, &members, &inputs, outputs);
        self.add_function(function)
    }

    /// A function that is not part of the graph.
    pub(super) fn lone_function(&self, name: &str, builder: Builder, output: NodeId) -> Function {
        let live = builder.live(&[output]);
        let members: Vec<usize> = (0..builder.nodes.len()).filter(|&n| live[n]).collect();
        extract(&builder, name, &members, &input_nodes(&builder), &[output])
    }

    /// Adds a function, or finds the one that computes the same; makes its name unique.
    fn add_function(&mut self, mut function: Function) -> usize {
        let same = |f: &Function| {
            let mut renamed = f.clone();
            renamed.name.clone_from(&function.name);
            renamed == function
        };
        if let Some(index) = self.functions.iter().position(same) {
            return index;
        }
        let base = function.name.clone();
        let mut number = 2;
        while self.functions.iter().any(|f| f.name == function.name) {
            function.name = format!("{base}_{number}");
            number += 1;
        }
        self.functions.push(function);
        self.functions.len() - 1
    }

    /// Puts the functions in the order in which the entries call them first.
    pub(super) fn in_calling_order(&mut self, entries: &mut [Entry]) -> Vec<Function> {
        let mut order: Vec<usize> = Vec::new();
        for step in entries.iter().flat_map(|e| &e.steps) {
            if !order.contains(&step.function) {
                order.push(step.function);
            }
        }
        for step in entries.iter_mut().flat_map(|e| &mut e.steps) {
            step.function = order.iter().position(|&f| f == step.function).unwrap_or(0);
        }
        let mut functions: Vec<Option<Function>> =
            std::mem::take(&mut self.functions).into_iter().map(Some).collect();
        order.into_iter().filter_map(|f| functions[f].take()).collect()
    }

    /// Cuts an entry's nodes at its calls of layers.
    fn cut(&mut self, name: &str, builder: Builder, outputs: &[NodeId]) -> Entry {
        let live = builder.live(outputs);
        let crossing = crossing(&builder, &live, outputs);
        let last = builder.calls.len();
        let mut steps: Vec<Step> = Vec::new();
        // Which value of the entry holds what a node computes.
        let mut values: BTreeMap<NodeId, ValueId> = BTreeMap::new();
        for (index, &node) in input_nodes(&builder).iter().enumerate() {
            values.insert(node, ValueId(index));
        }
        let mut next = builder.inputs.len();
        for segment in 0..=last {
            let gives: Vec<NodeId> = (0..builder.nodes.len())
                .map(NodeId)
                .filter(|&n| {
                    let d = &builder.nodes[n.0];
                    d.segment == segment && crossing.contains(&n) && !is_value(d)
                })
                .collect();
            let members = members(&builder, &live, segment, &gives);
            if !members.is_empty() {
                let takes = takes(&builder, &members);
                let called = segment_name(name, segment, last);
                let function = extract(&builder, &called, &members, &takes, &gives);
                let function = self.add_function(function);
                let inputs = takes.iter().filter_map(|n| values.get(n).copied()).collect();
                let mut results = Vec::new();
                for node in &gives {
                    values.insert(*node, ValueId(next));
                    results.push(ValueId(next));
                    next += 1;
                }
                steps.push(Step { function, layer: None, inputs, outputs: results });
            }
            if let Some(call) = builder.calls.get(segment) {
                let results = layer_steps(call, &values, &mut next, &mut steps);
                for (at, draft) in builder.nodes.iter().enumerate() {
                    if let DraftOp::Result(of, index) = draft.op
                        && of == segment
                    {
                        values.insert(NodeId(at), results[index]);
                    }
                }
            }
        }
        let outputs = outputs.iter().filter_map(|n| values.get(n).copied()).collect();
        Entry { name: name.to_owned(), inputs: builder.inputs, steps, outputs }
    }
}

/// `embed`, `head`, `between_1`; a part of an entry other than `main` has its name in front.
fn segment_name(entry: &str, segment: usize, last: usize) -> String {
    let part = match segment {
        _ if last == 0 => return entry.to_owned(),
        0 => "embed".to_owned(),
        s if s == last => "head".to_owned(),
        s => format!("between_{s}"),
    };
    if entry == "main" { part } else { format!("{entry}_{part}") }
}

/// The nodes of the inputs, in order of their index.
fn input_nodes(builder: &Builder) -> Vec<NodeId> {
    let mut found = BTreeMap::new();
    for (at, draft) in builder.nodes.iter().enumerate() {
        if let DraftOp::Op(Op::Input(index)) = draft.op {
            found.insert(index, NodeId(at));
        }
    }
    found.into_values().collect()
}

/// Whether a node is a value of the entry from the start: an input or a layer's result.
fn is_value(draft: &Draft) -> bool {
    matches!(draft.op, DraftOp::Op(Op::Input(_)) | DraftOp::Result(..))
}

/// Whether a node can be repeated in every function that reads it.
fn is_repeated(draft: &Draft) -> bool {
    matches!(draft.op, DraftOp::Op(Op::Param(_) | Op::Constant(_) | Op::Cache(_)))
}

/// Nodes whose values leave their function: results, arguments of layers, and what a later
/// function reads.
fn crossing(builder: &Builder, live: &[bool], outputs: &[NodeId]) -> BTreeSet<NodeId> {
    let mut found: BTreeSet<NodeId> = outputs.iter().copied().collect();
    found.extend(builder.calls.iter().flat_map(|c| c.inputs.iter().copied()));
    for (at, draft) in builder.nodes.iter().enumerate().filter(|(at, _)| live[*at]) {
        for input in &draft.inputs {
            let source = &builder.nodes[input.0];
            if source.segment != builder.nodes[at].segment && !is_repeated(source) {
                found.insert(*input);
            }
        }
    }
    found
}

/// The nodes of one function, with the parameters and constants that they read.
fn members(builder: &Builder, live: &[bool], segment: usize, gives: &[NodeId]) -> Vec<usize> {
    let mut found: BTreeSet<usize> = gives.iter().map(|n| n.0).collect();
    for (at, draft) in builder.nodes.iter().enumerate() {
        if live[at] && draft.segment == segment && !is_value(draft) && !is_repeated(draft) {
            found.insert(at);
        }
    }
    let read: Vec<usize> =
        found.iter().flat_map(|&m| builder.nodes[m].inputs.iter().map(|i| i.0)).collect();
    found.extend(read.into_iter().filter(|&n| is_repeated(&builder.nodes[n])));
    found.into_iter().collect()
}

/// The values of the entry that a function reads, in order of first use.
fn takes(builder: &Builder, members: &[usize]) -> Vec<NodeId> {
    let mut found = Vec::new();
    for &member in members {
        for input in &builder.nodes[member].inputs {
            if members.binary_search(&input.0).is_err() && !found.contains(input) {
                found.push(*input);
            }
        }
    }
    found
}

/// The steps of a run of layers; returns the values of its results.
fn layer_steps(
    call: &LayerCall,
    values: &BTreeMap<NodeId, ValueId>,
    next: &mut usize,
    steps: &mut Vec<Step>,
) -> Vec<ValueId> {
    let mut flow: Vec<ValueId> =
        call.inputs.iter().filter_map(|n| values.get(n).copied()).collect();
    for layer in call.layers.0..call.layers.1 {
        let outputs: Vec<ValueId> = (0..call.results).map(|i| ValueId(*next + i)).collect();
        *next += call.results;
        steps.push(Step {
            function: call.function,
            layer: Some(layer),
            inputs: flow.clone(),
            outputs: outputs.clone(),
        });
        flow[..call.results].copy_from_slice(&outputs);
    }
    flow.truncate(call.results);
    flow
}

/// A function of some of a builder's nodes; `takes` become its inputs.
fn extract(
    builder: &Builder,
    name: &str,
    members: &[usize],
    takes: &[NodeId],
    gives: &[NodeId],
) -> Function {
    let mut function = Function {
        name: name.to_owned(),
        inputs: takes.iter().map(|n| builder.nodes[n.0].ty.clone()).collect::<Vec<TensorType>>(),
        params: vec![],
        caches: vec![],
        nodes: vec![],
        outputs: vec![],
    };
    let mut places: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    for (index, &taken) in takes.iter().enumerate() {
        let mut node = finished(&builder.nodes[taken.0], Op::Input(index), vec![]);
        node.spans.clear();
        places.insert(taken, push(&mut function, node));
    }
    for &member in members {
        if places.contains_key(&NodeId(member)) {
            continue;
        }
        let draft = &builder.nodes[member];
        let DraftOp::Op(op) = &draft.op else { continue };
        let op = match op {
            Op::Param(index) => {
                function.params.push(builder.params[*index].clone());
                Op::Param(function.params.len() - 1)
            }
            Op::Cache(index) => {
                function.caches.push(builder.caches[*index].clone());
                Op::Cache(function.caches.len() - 1)
            }
            other => other.clone(),
        };
        let inputs = draft.inputs.iter().filter_map(|i| places.get(i).copied()).collect();
        places.insert(NodeId(member), push(&mut function, finished(draft, op, inputs)));
    }
    function.outputs = gives.iter().filter_map(|n| places.get(n).copied()).collect();
    function
}

fn push(function: &mut Function, node: Node) -> NodeId {
    function.nodes.push(node);
    NodeId(function.nodes.len() - 1)
}

fn finished(draft: &Draft, op: Op, inputs: Vec<NodeId>) -> Node {
    Node { op, inputs, ty: draft.ty.clone(), name: draft.name.clone(), spans: vec![draft.span] }
}
