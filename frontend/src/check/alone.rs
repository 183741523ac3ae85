//! Blocks and functions that nothing reaches, checked on inputs of their declared types.

use super::builder::Builder;
use super::eval::Frame;
use super::value::Axis;
use super::{Checker, Place};
use crate::ast::*;
use moec_ir::{DType, Diagnostic};
use std::collections::BTreeMap;
use std::rc::Rc;

impl<'a> Checker<'a> {
    /// Checks blocks and functions that no entry reaches, and says that nothing uses them.
    pub(super) fn check_unused(&mut self, members: &'a [Member]) {
        for member in members {
            match member {
                Member::Block(b) if !self.used.contains(&b.name.text) => {
                    self.diagnostics.push(
                        Diagnostic::warning(
                            "E0210",
                            format!("nothing uses block `{}`", b.name.text),
                        )
                        .at(b.name.span, "never used")
                        .help("`use` it, or remove it"),
                    );
                    if b.sizes.is_empty() {
                        self.check_alone_block(b);
                    }
                }
                Member::Function(f) if f.kind == FunctionKind::Named => {
                    let unused = f.name.as_ref().filter(|n| !self.used.contains(&n.text));
                    if unused.is_some() {
                        let place = Rc::clone(&self.root);
                        self.check_alone(f, place);
                    }
                }
                _ => {}
            }
        }
    }

    /// Evaluates a block that nothing uses, to find its mistakes.
    pub(super) fn check_alone_block(&mut self, b: &'a BlockDecl) {
        let place = Place {
            path: String::new(),
            prefix: String::new(),
            block: Some(b.name.text.clone()),
            values: BTreeMap::new(),
        };
        let place = self.constants(place, &b.members);
        if let Some(forward) = self.blocks.get(b.name.text.as_str()).and_then(|s| s.forward) {
            self.check_alone(forward, place);
        }
    }

    /// Evaluates a function that nothing calls, on inputs of its declared types.
    pub(super) fn check_alone(&mut self, f: &'a FunctionDecl, place: Rc<Place>) {
        self.builders.push(Builder::default());
        let mut frame = Frame::new(Rc::clone(&place));
        let mut rest = Some(vec![Axis::plain(moec_ir::Sym::Tokens.into())]);
        let mut args = Vec::new();
        for input in &f.inputs {
            if let Some(axes) = self.declared_axes(&mut frame, &input.ty, None, &mut rest) {
                let dtype = if input.ty.is_int { DType::I32 } else { self.precision.storage };
                args.push((self.new_input(dtype, axes, input.name.span), input.name.span));
            }
        }
        if args.len() == f.inputs.len() {
            self.call_function(f, place, args, f.span);
        }
        self.builders.pop();
    }
}
