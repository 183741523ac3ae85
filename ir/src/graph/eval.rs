//! The reference evaluator: every operation in float64, as its documentation defines it.
//!
//! It shares no code with code generation and knows nothing of kernels, layouts or rounding:
//! element types are ignored. One [`Evaluator`] holds one sequence; batches are evaluated one
//! sequence after another, which is what the operations mean.

mod attention;
mod ops;
mod quantize;
mod tensor;

pub use ops::eval_op;
pub use tensor::Tensor;

use super::{Function, Graph, Node, Op, Param};
use std::collections::BTreeMap;

/// What an operation may know of the step beside its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Tokens already in the caches; the step's first token has this position.
    pub past: usize,
    /// Tokens of this step.
    pub tokens: usize,
}

/// An operation about to be evaluated.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The function that it stands in.
    pub function: &'a Function,
    /// The layer whose parameters are used.
    pub layer: Option<u64>,
    /// The operation.
    pub node: &'a Node,
    /// The values of its operands.
    pub operands: &'a [&'a Tensor],
}

/// Evaluates a model on one sequence, remembering its caches between runs.
pub struct Evaluator<'a> {
    graph: &'a Graph,
    /// By function, parameter and layer.
    params: BTreeMap<(usize, usize, Option<u64>), Tensor>,
    /// By function, cache and layer: the remembered rows, `[past, ..]`.
    caches: BTreeMap<(usize, usize, Option<u64>), Tensor>,
    past: usize,
}

impl<'a> Evaluator<'a> {
    /// Loads every parameter of every layer once.
    ///
    /// # Errors
    /// The first error of `load`.
    pub fn new<E>(
        graph: &'a Graph,
        mut load: impl FnMut(&Param, Option<u64>) -> Result<Tensor, E>,
    ) -> Result<Self, E> {
        let mut params = BTreeMap::new();
        for step in graph.entries.iter().flat_map(|e| &e.steps) {
            for (i, param) in graph.functions[step.function].params.iter().enumerate() {
                let key = (step.function, i, step.layer);
                if let std::collections::btree_map::Entry::Vacant(slot) = params.entry(key) {
                    slot.insert(load(param, step.layer)?);
                }
            }
        }
        Ok(Self { graph, params, caches: BTreeMap::new(), past: 0 })
    }

    /// Forgets the sequence.
    pub fn reset(&mut self) {
        self.caches.clear();
        self.past = 0;
    }

    /// Tokens remembered so far.
    pub fn past(&self) -> usize {
        self.past
    }

    /// Runs an entry on the next tokens of the sequence; the first axis of the first input
    /// counts them.
    ///
    /// # Errors
    /// A sentence naming the function and node that could not be evaluated.
    pub fn run(&mut self, entry: &str, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
        self.run_observed(entry, inputs, &mut |_| {})
    }

    /// As [`Evaluator::run`]; `observe` sees the operands of every operation before it is
    /// evaluated.
    ///
    /// # Errors
    /// As of [`Evaluator::run`].
    pub fn run_observed(
        &mut self,
        entry: &str,
        inputs: &[Tensor],
        observe: &mut dyn FnMut(&Observed<'_>),
    ) -> Result<Vec<Tensor>, String> {
        let graph = self.graph;
        let entry = graph.entry(entry).ok_or_else(|| format!("there is no entry `{entry}`"))?;
        let tokens = inputs.first().and_then(|t| t.shape.first()).copied().unwrap_or(0);
        let context = Context { past: self.past, tokens };
        let mut values: Vec<Tensor> = inputs.to_vec();
        for step in &entry.steps {
            let function = &graph.functions[step.function];
            let inputs: Vec<&Tensor> = step.inputs.iter().map(|v| &values[v.0]).collect();
            let params: Vec<&Tensor> = (0..function.params.len())
                .map(|i| &self.params[&(step.function, i, step.layer)])
                .collect();
            let mut caches: Vec<Tensor> = (0..function.caches.len())
                .map(|i| {
                    let row = &function.caches[i].ty.shape;
                    let empty = row.iter().map(|d| d.constant().unwrap_or(0) as usize);
                    let key = (step.function, i, step.layer);
                    self.caches.remove(&key).unwrap_or_else(|| Tensor::empty_rows(empty))
                })
                .collect();
            let mut observe = |node: &Node, operands: &[&Tensor]| {
                observe(&Observed { function, layer: step.layer, node, operands });
            };
            let outputs =
                eval_nodes(function, (&inputs, &params), &mut caches, context, &mut observe)?;
            for (i, cache) in caches.into_iter().enumerate() {
                self.caches.insert((step.function, i, step.layer), cache);
            }
            values.extend(outputs);
        }
        self.past += tokens;
        Ok(entry.outputs.iter().map(|v| values[v.0].clone()).collect())
    }
}

/// Evaluates one function on one sequence. `caches` hold the rows remembered before the step
/// and, afterwards, this step's too.
///
/// # Errors
/// A sentence naming the node that could not be evaluated.
pub fn eval_function(
    function: &Function,
    inputs: &[&Tensor],
    params: &[&Tensor],
    caches: &mut [Tensor],
    context: Context,
) -> Result<Vec<Tensor>, String> {
    eval_nodes(function, (inputs, params), caches, context, &mut |_, _| {})
}

fn eval_nodes(
    function: &Function,
    (inputs, params): (&[&Tensor], &[&Tensor]),
    caches: &mut [Tensor],
    context: Context,
    observe: &mut dyn FnMut(&Node, &[&Tensor]),
) -> Result<Vec<Tensor>, String> {
    let mut last_use: Vec<usize> = vec![0; function.nodes.len()];
    for (at, node) in function.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|i| last_use[i.0] = at);
    }
    function.outputs.iter().for_each(|o| last_use[o.0] = usize::MAX);
    let mut values: Vec<Option<Tensor>> = vec![None; function.nodes.len()];
    for (at, node) in function.nodes.iter().enumerate() {
        let place = |e: String| format!("`{}`, %{at} = {}: {e}", function.name, node.op.name());
        let value = {
            let operands: Vec<&Tensor> = node
                .inputs
                .iter()
                .map(|i| match function.node(*i).op {
                    Op::Param(p) => params.get(p).copied(),
                    Op::Input(p) => inputs.get(p).copied(),
                    _ => values[i.0].as_ref(),
                })
                .collect::<Option<_>>()
                .ok_or_else(|| place("an operand has no value".into()))?;
            match &node.op {
                // Read where they are used; copied only where returned.
                Op::Param(i) if last_use[at] == usize::MAX => params.get(*i).map(|t| (*t).clone()),
                Op::Input(i) if last_use[at] == usize::MAX => inputs.get(*i).map(|t| (*t).clone()),
                Op::Param(_) | Op::Input(_) => None,
                Op::Cache(i) => caches.get(*i).cloned(),
                op => {
                    observe(node, &operands);
                    Some(eval_op(op, &operands, &node.ty.shape, context).map_err(place)?)
                }
            }
        };
        if let (Op::Append, Some(rows)) = (&node.op, &value)
            && let Op::Cache(i) = function.node(node.inputs[0]).op
        {
            caches[i] = rows.clone();
        }
        values[at] = value;
        for i in &node.inputs {
            if last_use[i.0] == at {
                values[i.0] = None;
            }
        }
    }
    let outputs = function.outputs.iter().map(|o| values[o.0].clone());
    outputs.collect::<Option<_>>().ok_or_else(|| "an output has no value".into())
}
