//! Runs of layers: one function, called once per layer.

use super::builder::{Builder, DraftOp, LayerCall};
use super::call::{several, tensors};
use super::eval::Frame;
use super::value::{Axis, Tensor, Value, shape};
use super::{Checker, MAX_LAYERS, Place};
use crate::ast::*;
use moec_ir::{DType, Diagnostic, Span};
use std::rc::Rc;

impl<'a> Checker<'a> {
    /// The layer numbers of a range.
    pub(super) fn layers(&mut self, home: &Rc<Place>, range: &'a RangeDecl) -> Option<(u64, u64)> {
        let mut frame = Frame::new(Rc::clone(home));
        let mut bound = |checker: &mut Self, e: &'a Expr| match checker.eval(&mut frame, e) {
            Value::Size(a) if a.dim.constant().is_some() => a.dim.constant(),
            other => checker.wrong_kind("a layer number", &other, e.span),
        };
        let first = bound(self, &range.first);
        let end = bound(self, &range.end);
        let (first, end) = (first?, end?);
        if end < first || end - first > MAX_LAYERS {
            return self.fail(
                Diagnostic::error("E0208", format!("{first}..{end} is not a range of layers")).at(
                    range.span,
                    format!("from 0 to {MAX_LAYERS} layers, first to one past the last"),
                ),
            );
        }
        Some((first, end))
    }

    /// A run of layers: one function, called once per layer.
    pub(super) fn call_layers(
        &mut self,
        forward: &'a FunctionDecl,
        place: &Rc<Place>,
        used: &'a UseDecl,
        (first, end): (u64, u64),
        args: Vec<(Value, Span)>,
        span: Span,
    ) -> Option<Value> {
        let mut inputs = Vec::new();
        for (value, at) in args {
            inputs.push((self.as_tensor(value, at)?, at));
        }
        self.builders.push(Builder::default());
        let given: Vec<(Value, Span)> = inputs
            .iter()
            .map(|(t, at)| (self.new_input(t.dtype, t.axes.clone(), *at), *at))
            .collect();
        let results = self.call_function(forward, Rc::clone(place), given, span);
        let builder = self.builders.pop()?;
        let results: Vec<Tensor> = tensors(results?);
        let chained = results.len() <= inputs.len()
            && results.iter().zip(&inputs).all(|(r, (i, _))| {
                r.dtype == i.dtype
                    && r.axes.len() == i.axes.len()
                    && r.axes.iter().zip(&i.axes).all(|(a, b)| a.dim == b.dim)
            });
        if !chained {
            let one = |t: &Tensor| format!("{} {}", t.dtype, shape(&t.axes));
            let from: Vec<String> = inputs.iter().map(|(t, _)| one(t)).collect();
            let to: Vec<String> = results.iter().map(one).collect();
            return self.fail(
                Diagnostic::error(
                    "E0306",
                    format!(
                        "a layer takes {} and gives {}: layers cannot follow each other",
                        from.join(", "),
                        to.join(", ")
                    ),
                )
                .at(span, "repeated here")
                .and(forward.span, "each layer's results are the next one's inputs"),
            );
        }
        if !builder.caches.is_empty() && self.calls_again(used) {
            return self.fail(
                Diagnostic::error(
                    "E0307",
                    format!("`{}` has caches and is called twice", used.name),
                )
                .at(span, "called again here")
                .help("each cache is appended to once in a step"),
            );
        }
        let outputs: Vec<_> = results.iter().map(|t| t.node).collect();
        let function = self.finish_function(&used.name.text, builder, &outputs);
        if first == end {
            return Some(several(
                inputs.into_iter().take(results.len()).map(|(t, _)| Value::Tensor(t)).collect(),
            ));
        }
        let entry = self.builders.last_mut()?;
        entry.calls.push(LayerCall {
            name: used.name.text.clone(),
            function,
            layers: (first, end),
            inputs: inputs.iter().map(|(t, _)| t.node).collect(),
            results: results.len(),
        });
        let call = entry.calls.len() - 1;
        let values = results.into_iter().enumerate().map(|(i, t)| {
            Value::Tensor(entry.node(DraftOp::Result(call, i), vec![], t.dtype, t.axes, span))
        });
        Some(several(values.collect()))
    }

    /// Whether the entry being built has called these layers before.
    pub(super) fn calls_again(&self, used: &UseDecl) -> bool {
        let name = &used.name.text;
        self.builders.last().is_some_and(|b| b.calls.iter().any(|c| c.name == *name))
    }

    /// An input of the function being built.
    pub(super) fn new_input(&mut self, dtype: DType, axes: Vec<Axis>, span: Span) -> Value {
        match self.builders.last_mut() {
            Some(builder) => Value::Tensor(builder.input(dtype, axes, span)),
            None => Value::Poison,
        }
    }
}
