//! The places that blocks are used in: their prefixes, parameters and caches.

use super::Checker;
use super::Place;
use super::call::joined;
use super::declare::Decl;
use super::eval::Frame;
use super::value::{Tensor, Value};
use crate::ast::*;
use moec_ir::graph::{Cache, Param, TensorType};
use moec_ir::{DType, Diagnostic, Span};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Most elements of a parameter (DeepSeek-V3's largest has 3.8e9).
const MAX_ELEMENTS: u64 = 1 << 44;

impl<'a> Checker<'a> {
    /// The place of a used block: its sizes, its prefix, its forward function.
    pub(super) fn place_of(
        &mut self,
        home: &Rc<Place>,
        used: &'a UseDecl,
    ) -> Option<(&'a FunctionDecl, Rc<Place>)> {
        let Some(Decl::Block(block)) = self.scope.names.get(used.block.text.as_str()).copied()
        else {
            let frame = Frame::new(Rc::clone(&self.root));
            return match self.scope.names.get(used.block.text.as_str()).copied() {
                Some(other) => self.fail(
                    Diagnostic::error(
                        "E0203",
                        format!("`{}` is {}, not a block", used.block, other.what()),
                    )
                    .at(used.block.span, "a block is needed here")
                    .and(other.span(), "declared here"),
                ),
                None => self.unknown(&frame, &used.block.text, used.block.span),
            };
        };
        self.used.insert(block.name.text.clone());
        if used.sizes.len() != block.sizes.len() {
            return self.fail(
                Diagnostic::error(
                    "E0205",
                    format!(
                        "`{}` takes {} sizes, found {}",
                        block.name,
                        block.sizes.len(),
                        used.sizes.len()
                    ),
                )
                .at(used.block.span, "used here")
                .and(block.name.span, "declared here"),
            );
        }
        let Some(forward) = self.blocks.get(block.name.text.as_str()).and_then(|s| s.forward)
        else {
            return self.fail(
                Diagnostic::error("E0203", format!("block `{}` computes nothing", block.name))
                    .at(block.name.span, "no function without a name")
                    .help("add `fn (x: [T, …]) -> [T, …] { … }`"),
            );
        };
        let mut frame = Frame::new(Rc::clone(home));
        let mut values = BTreeMap::new();
        for (name, e) in block.sizes.iter().zip(&used.sizes) {
            let size = self.size(&mut frame, e).map_or(Value::Poison, Value::Size);
            values.insert(name.text.clone(), size);
        }
        let prefix = self.prefix(used, &home.prefix)?;
        let place = Place {
            // Layers are numbered, not named: the path begins within the layer.
            path: if used.range.is_some() {
                String::new()
            } else {
                joined(&home.path, &used.name.text)
            },
            prefix,
            block: Some(block.name.text.clone()),
            values,
        };
        Some((forward, self.constants(place, &block.members)))
    }

    /// The prefix of a use below that of its place, with `{i}` for the layer.
    pub(super) fn prefix(&mut self, used: &UseDecl, above: &str) -> Option<String> {
        let mut text = used.prefix.text.clone();
        if let Some(range) = &used.range {
            let placeholder = format!("{{{}}}", range.variable);
            if !text.contains(&placeholder) {
                return self.fail(
                    Diagnostic::error("E0207", "all layers would load the same tensors")
                        .at(used.prefix.span, format!("`{placeholder}` does not occur"))
                        .and(range.span, "repeated here")
                        .help(format!("write the layer's number as `{placeholder}`")),
                );
            }
            text = text.replace(&placeholder, "\u{0}");
        }
        self.check_placeholders(&text, used.prefix.span)?;
        Some(joined(above, &text.replace('\u{0}', "{i}")))
    }

    /// E0207 for braces that stand for nothing.
    pub(super) fn check_placeholders(&mut self, text: &str, span: Span) -> Option<()> {
        if text.contains(['{', '}']) {
            return self.fail(
                Diagnostic::error(
                    "E0207",
                    format!(
                        "the braces of `{}` stand for nothing known",
                        text.replace('\u{0}', "{i}")
                    ),
                )
                .at(span, "in this name")
                .help("`{e}` counts experts in a `param`; `use … for i in …` defines `{i}`"),
            );
        }
        Some(())
    }

    /// A parameter of a place.
    pub(super) fn param(&mut self, place: &Rc<Place>, p: &'a ParamDecl) -> Option<Tensor> {
        let mut frame = Frame::new(Rc::clone(place));
        let axes = self.shape(&mut frame, &p.shape)?;
        let elements = axes.iter().try_fold(1u64, |n, a| n.checked_mul(a.dim.constant()?));
        if elements.is_none_or(|n| n > MAX_ELEMENTS) {
            return self.fail(
                Diagnostic::error("E0303", format!("`{}` has no possible size", p.name))
                    .at(p.shape.span, "not a product of integers, or too large")
                    .help("`T`, `S` and `B` are sizes of a step, not of a parameter"),
            );
        }
        let counted = p.tensor.text.replacen("{e}", "", 1);
        if counted.len() != p.tensor.text.len() && axes.len() < 2 {
            return self.fail(
                Diagnostic::error(
                    "E0207",
                    format!("`{{e}}` counts along an axis that `{}` lacks", p.name),
                )
                .at(p.tensor.span, "one tensor per expert")
                .and(p.shape.span, "needs a leading axis of experts"),
            );
        }
        self.check_placeholders(&counted, p.tensor.span)?;
        let dtype = if p.is_state { DType::F32 } else { self.precision.storage };
        let ty = TensorType::new(dtype, axes.iter().map(|a| a.dim.clone()));
        let param = Param {
            name: joined(&place.path, &p.name.text),
            tensor: joined(&place.prefix, &p.tensor.text),
            ty,
        };
        match self.builders.last_mut() {
            Some(builder) => Some(builder.param(param, axes, p.span)),
            None => self.fail(
                Diagnostic::error("E0302", format!("`{}` is a parameter, not a constant", p.name))
                    .at(p.name.span, "known only when the weights are loaded"),
            ),
        }
    }

    /// A cache of a place.
    pub(super) fn cache(&mut self, place: &Rc<Place>, c: &'a CacheDecl) -> Option<Tensor> {
        let mut frame = Frame::new(Rc::clone(place));
        let axes = self.shape(&mut frame, &c.shape)?;
        if axes.iter().any(|a| a.dim.constant().is_none()) {
            return self.fail(
                Diagnostic::error("E0303", format!("`{}` has no fixed size per token", c.name))
                    .at(c.shape.span, "the shape of what is kept of one token"),
            );
        }
        let dtype = self.precision.of_cache(&c.name.text);
        let ty = TensorType::new(dtype, axes.iter().map(|a| a.dim.clone()));
        let cache = Cache { name: joined(&place.path, &c.name.text), ty, packed: None };
        self.builders.last_mut().map(|b| b.cache(cache, axes, c.span))
    }
}
