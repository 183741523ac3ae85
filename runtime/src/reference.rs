//! The typed graph evaluated in float64: what compiled kernels are measured against.

use crate::engine::{Engine, Rows, SequenceId, check_batch, too_long};
use crate::weights::{Demand, param_tensors, to_f64};
use crate::{Checkpoint, Phase, Result, fail};
use moec_ir::graph::Param;
use moec_ir::graph::eval::{Evaluator, Observed, Tensor};
use moec_ir::{Diagnostic, Dim, Graph};
use std::collections::BTreeMap;

/// A graph and its weights, with the sequences that it remembers. Slow and exact: for models
/// that fit a CPU.
pub struct Reference<'a> {
    graph: &'a Graph,
    checkpoint: &'a Checkpoint,
    vocab: u64,
    sequences: BTreeMap<SequenceId, Sequence<'a>>,
    next_sequence: u64,
}

struct Sequence<'a> {
    evaluator: Evaluator<'a>,
    capacity: u64,
}

impl<'a> Reference<'a> {
    /// A model, from token ids to logits, and a checkpoint that fits it.
    ///
    /// # Errors
    /// E0604 where the checkpoint does not fit, E1207 where the graph has no `main` from token
    /// ids to logits.
    pub fn new(graph: &'a Graph, checkpoint: &'a Checkpoint) -> Result<Self> {
        Demand::of_graph(graph).check(checkpoint, &graph.name)?;
        let Some(vocab) = vocab(graph) else {
            let message = format!("`{}` has no `main` that returns logits [T, vocab]", graph.name);
            return fail(Diagnostic::error("E1207", message));
        };
        Ok(Self { graph, checkpoint, vocab, sequences: BTreeMap::new(), next_sequence: 0 })
    }

    /// Evaluates `main` on one sequence and shows every operation with its operands.
    ///
    /// # Errors
    /// E1201 to E1204 where the tokens do not fit, E1207 where the graph cannot be evaluated.
    pub fn observe(
        &mut self,
        tokens: &[u32],
        observe: &mut dyn FnMut(&Observed<'_>),
    ) -> Result<()> {
        let id = self.open(tokens.len() as u64)?;
        check_batch(&[(id, tokens)], self.vocab)?;
        let Some(mut sequence) = self.sequences.remove(&id) else { return Ok(()) };
        evaluate(&mut sequence.evaluator, tokens, observe).map(|_| ())
    }
}

fn evaluate(
    evaluator: &mut Evaluator<'_>,
    tokens: &[u32],
    observe: &mut dyn FnMut(&Observed<'_>),
) -> Result<Vec<Tensor>> {
    let data = tokens.iter().map(|&t| f64::from(t)).collect();
    let ids = Tensor { shape: vec![tokens.len()], data };
    evaluator.run_observed("main", &[ids], observe).or_else(|e| {
        fail(Diagnostic::error("E1207", format!("the graph cannot be evaluated: {e}")))
    })
}

/// The width of what `main` returns first.
fn vocab(graph: &Graph) -> Option<u64> {
    let main = graph.entry("main")?;
    let logits = main.outputs.first()?;
    let step = main.steps.iter().find(|s| s.outputs.contains(logits))?;
    let at = step.outputs.iter().position(|v| v == logits)?;
    let function = &graph.functions[step.function];
    let shape = &function.node(function.outputs[at]).ty.shape;
    if shape.len() == 2 { shape.get(1).and_then(Dim::constant) } else { None }
}

/// A parameter in float64.
fn load(checkpoint: &Checkpoint, param: &Param, layer: Option<u64>) -> Result<Tensor> {
    let mut data = Vec::new();
    for (name, shape) in param_tensors(param, layer) {
        let tensor = checkpoint.get(&name, &shape, param.ty.dtype)?;
        data.extend(to_f64(tensor.bytes, tensor.dtype));
    }
    let shape = param.ty.shape.iter().map(|d| d.constant().unwrap_or(0) as usize).collect();
    Tensor::new(shape, data)
        .or_else(|e| fail(Diagnostic::error("E1207", format!("parameter `{}`: {e}", param.name))))
}

impl Engine for Reference<'_> {
    fn context(&self) -> u64 {
        self.graph.context
    }

    fn vocab(&self) -> u64 {
        self.vocab
    }

    fn open(&mut self, capacity: u64) -> Result<SequenceId> {
        if capacity > self.graph.context {
            return too_long(capacity, self.graph.context, "the model's context is");
        }
        let evaluator = Evaluator::new(self.graph, |p, layer| load(self.checkpoint, p, layer))?;
        let id = SequenceId(self.next_sequence);
        self.next_sequence += 1;
        self.sequences.insert(id, Sequence { evaluator, capacity });
        Ok(id)
    }

    fn close(&mut self, sequence: SequenceId) -> Result<()> {
        match self.sequences.remove(&sequence) {
            Some(_) => Ok(()),
            None => fail(Diagnostic::error("E1204", "the sequence is not open")),
        }
    }

    fn step(
        &mut self,
        _phase: Phase,
        batch: &[(SequenceId, &[u32])],
        rows: Rows,
    ) -> Result<Vec<Vec<f32>>> {
        check_batch(batch, self.vocab)?;
        let mut result = Vec::new();
        for (id, tokens) in batch {
            let Some(sequence) = self.sequences.get_mut(id) else {
                return fail(Diagnostic::error("E1204", "the sequence is not open"));
            };
            let needed = (sequence.evaluator.past() + tokens.len()) as u64;
            if needed > sequence.capacity {
                return too_long(needed, sequence.capacity, "the sequence was opened for");
            }
            let outputs = evaluate(&mut sequence.evaluator, tokens, &mut |_| {})?;
            let logits = &outputs[0].data;
            let from = match rows {
                Rows::All => 0,
                Rows::Last => logits.len() - self.vocab as usize,
            };
            result.push(logits[from..].iter().map(|&l| l as f32).collect());
        }
        Ok(result)
    }
}
