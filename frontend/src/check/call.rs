//! Calls of functions and of used blocks, and the types that they declare.

use super::declare::Decl;
use super::eval::Frame;
use super::value::{Axis, Tensor, Value, full_shape, shape};
use super::{Checker, Place};
use crate::ast::*;
use moec_ir::graph::Op;
use moec_ir::{DType, Diagnostic, Span};
use std::rc::Rc;

/// `a.b`, where either may be empty.
pub(super) fn joined(a: &str, b: &str) -> String {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.to_owned(),
        (_, true) => a.to_owned(),
        _ => format!("{a}.{b}"),
    }
}

impl<'a> Checker<'a> {
    /// A call of whatever the name stands for.
    pub(super) fn call(&mut self, frame: &mut Frame, call: &'a Call, span: Span) -> Option<Value> {
        let name = call.callee.text.as_str();
        let place = Rc::clone(&frame.place);
        let own = place.block.as_deref().and_then(|b| self.blocks.get(b)?.names.get(name).copied());
        let (decl, home) = match own {
            Some(decl) => (Some(decl), place),
            None => (self.scope.names.get(name).copied(), Rc::clone(&self.root)),
        };
        match decl {
            Some(Decl::Use(used)) => {
                let args = self.plain_args(frame, call)?;
                self.call_use(&home, used, args, span)
            }
            Some(Decl::Function(f)) if f.kind == FunctionKind::Named => {
                let args = self.plain_args(frame, call)?;
                self.used.insert(name.to_owned());
                self.call_function(f, home, args, span).map(several)
            }
            _ if super::builtins::signature(name).is_some() => self.builtin(frame, call, span),
            Some(other) => self.fail(
                Diagnostic::error(
                    "E0203",
                    format!("`{name}` is {} and cannot be called", other.what()),
                )
                .at(call.callee.span, "called here")
                .and(other.span(), "declared here")
                .help(match other {
                    Decl::Block(_) => format!("`use layer: {name} = \"…\"`, then `layer(x)`"),
                    _ => "remove the parentheses".to_owned(),
                }),
            ),
            None => match super::builtins::only_within(name) {
                Some(place) => self.fail(
                    Diagnostic::error("E0203", format!("`{name}` is no operation of its own"))
                        .at(call.callee.span, place),
                ),
                None => self.unknown(frame, name, call.callee.span),
            },
        }
    }

    /// Arguments of something that takes no named ones and no lambda.
    fn plain_args(&mut self, frame: &mut Frame, call: &'a Call) -> Option<Vec<(Value, Span)>> {
        if let Some(named) = call.args.iter().find_map(|a| a.name.as_ref()) {
            return self.fail(
                Diagnostic::error("E0205", format!("`{}` takes no named arguments", call.callee))
                    .at(named.span, "named here")
                    .help("give the value alone, in the order of the declaration"),
            );
        }
        if let Some(lambda) = &call.lambda {
            return self.fail(
                Diagnostic::error("E0205", format!("`{}` takes no `|…| {{ … }}`", call.callee))
                    .at(lambda.span, "only `route` does"),
            );
        }
        Some(call.args.iter().map(|a| (self.eval(frame, &a.value), a.value.span)).collect())
    }

    /// What a function returns for arguments.
    pub(super) fn call_function(
        &mut self,
        f: &'a FunctionDecl,
        place: Rc<Place>,
        args: Vec<(Value, Span)>,
        span: Span,
    ) -> Option<Vec<Value>> {
        if self.active.contains(&f.span) {
            return self.fail(
                Diagnostic::error("E0206", "this calls itself")
                    .at(span, "called again here")
                    .and(f.span, "while this is computed")
                    .help("a model is a finite graph: repeat layers with `use … for i in a..b`"),
            );
        }
        if args.len() != f.inputs.len() {
            return self.fail(
                Diagnostic::error(
                    "E0205",
                    format!("{} arguments for {} inputs", args.len(), f.inputs.len()),
                )
                .at(span, "called here")
                .and(
                    f.inputs.first().map_or(f.span, |i| i.name.span.to(i.ty.span)),
                    "declared here",
                ),
            );
        }
        let mut frame = Frame::new(place);
        let mut rest: Option<Vec<Axis>> = None;
        let mut sound = true;
        for (input, (value, at)) in f.inputs.iter().zip(args) {
            let bound = self.bind_input(&mut frame, input, value, at, &mut rest);
            sound &= bound.is_some();
            frame.locals.insert(input.name.text.clone(), bound.unwrap_or(Value::Poison));
        }
        if !sound {
            // The body would only repeat the mistake; its results have the declared types.
            return None;
        }
        self.active.push(f.span);
        let routed = self.routed.take();
        let results = self.body(&mut frame, &f.body);
        self.routed = routed;
        self.active.pop();
        self.check_results(&mut frame, f, results, rest.as_deref())
    }

    /// An argument against the declared type of its input.
    fn bind_input(
        &mut self,
        frame: &mut Frame,
        input: &'a InputDecl,
        value: Value,
        at: Span,
        rest: &mut Option<Vec<Axis>>,
    ) -> Option<Value> {
        let tensor = self.as_tensor(value, at)?;
        let declared = self.declared_axes(frame, &input.ty, Some(&tensor.axes), rest)?;
        self.agree(&tensor, &declared, input.ty.is_int, at, input.ty.span, &input.name.text)?;
        if let Some(builder) = self.builders.last_mut() {
            builder.name_input(tensor.node, &input.name.text);
        }
        Some(Value::Tensor(Tensor { axes: declared, ..tensor }))
    }

    /// The axes of a declared type; `..` stands for the leading axes of `found`.
    pub(super) fn declared_axes(
        &mut self,
        frame: &mut Frame,
        ty: &'a Type,
        found: Option<&[Axis]>,
        rest: &mut Option<Vec<Axis>>,
    ) -> Option<Vec<Axis>> {
        let mut axes = Vec::new();
        let mut sound = true;
        for (i, axis) in ty.shape.axes.iter().enumerate() {
            match axis {
                AxisExpr::Size(e) => match self.size(frame, e) {
                    Some(a) => axes.push(a),
                    None => sound = false,
                },
                AxisExpr::Rest(span) if i > 0 => {
                    sound = false;
                    self.diagnostics.push(
                        Diagnostic::error("E0302", "`..` stands for leading axes only")
                            .at(*span, "not the first axis"),
                    );
                }
                AxisExpr::Rest(span) => match (rest.as_ref(), found) {
                    (Some(known), _) => axes.extend(known.iter().cloned()),
                    (None, Some(found)) => {
                        let named = ty.shape.axes.len() - 1;
                        let leading = found.len().saturating_sub(named);
                        let bound: Vec<Axis> = found[..leading].to_vec();
                        axes.extend(bound.iter().cloned());
                        *rest = Some(bound);
                    }
                    (None, None) => {
                        sound = false;
                        self.diagnostics.push(
                            Diagnostic::error("E0302", "no input says what `..` stands for")
                                .at(*span, "here")
                                .help("write `..` in the type of an input too"),
                        );
                    }
                },
            }
        }
        sound.then_some(axes)
    }

    /// E0301 and E0302: a value against the type that is declared for it.
    fn agree(
        &mut self,
        found: &Tensor,
        declared: &[Axis],
        is_int: bool,
        at: Span,
        declared_at: Span,
        name: &str,
    ) -> Option<()> {
        if is_int != (found.dtype == DType::I32) {
            let (wanted, given) =
                if is_int { ("integers", "reals") } else { ("reals", "integers") };
            return self.fail(
                Diagnostic::error("E0302", format!("`{name}` takes {wanted}, not {given}"))
                    .at(at, given)
                    .and(declared_at, format!("declared as {wanted}"))
                    .help("`int[…]` is the type of token ids and expert indices"),
            );
        }
        let same = found.axes.len() == declared.len()
            && found.axes.iter().zip(declared).all(|(a, b)| a.dim == b.dim);
        if same {
            return Some(());
        }
        self.fail(
            Diagnostic::error(
                "E0301",
                format!(
                    "`{name}` is {}, but {} is given",
                    full_shape(declared),
                    full_shape(&found.axes)
                ),
            )
            .at(at, format!("this is {}", shape(&found.axes)))
            .and(declared_at, format!("declared as {}", shape(declared))),
        )
    }

    /// The results of a body against the declared types.
    fn check_results(
        &mut self,
        frame: &mut Frame,
        f: &'a FunctionDecl,
        results: Vec<(Value, Span)>,
        rest: Option<&[Axis]>,
    ) -> Option<Vec<Value>> {
        if results.len() != f.results.len() {
            if results.iter().any(|(v, _)| matches!(v, Value::Poison)) {
                return None;
            }
            let declared = f.results.iter().map(|t| t.span).reduce(Span::to).unwrap_or(f.span);
            let body = f.body.results.iter().map(|e| e.span).reduce(Span::to).unwrap_or(f.span);
            return self.fail(
                Diagnostic::error(
                    "E0211",
                    format!("{} results for {} declared types", results.len(), f.results.len()),
                )
                .at(body, format!("returns {}", results.len()))
                .and(declared, format!("declares {}", f.results.len())),
            );
        }
        let mut rest = rest.map(<[Axis]>::to_vec);
        let mut checked = Vec::new();
        for ((value, at), ty) in results.into_iter().zip(&f.results) {
            checked.push(self.check_result(frame, (value, at), ty, &mut rest).map(Value::Tensor));
        }
        checked.into_iter().collect()
    }

    fn check_result(
        &mut self,
        frame: &mut Frame,
        (value, at): (Value, Span),
        ty: &'a Type,
        rest: &mut Option<Vec<Axis>>,
    ) -> Option<Tensor> {
        let declared = self.declared_axes(frame, ty, None, rest);
        let found = self.as_tensor(value, at)?;
        let declared = declared?;
        let same = found.axes.len() == declared.len()
            && found.axes.iter().zip(&declared).all(|(a, b)| a.dim == b.dim);
        if same && ty.is_int == (found.dtype == DType::I32) {
            return Some(Tensor { axes: declared, ..found });
        }
        let kind = |is_int| if is_int { "int" } else { "" };
        let found_kind = kind(found.dtype == DType::I32);
        self.fail(
            Diagnostic::error(
                "E0305",
                format!(
                    "the result is {found_kind}{}, but {}{} is declared",
                    full_shape(&found.axes),
                    kind(ty.is_int),
                    full_shape(&declared)
                ),
            )
            .at(at, format!("this is {found_kind}{}", shape(&found.axes)))
            .and(ty.span, format!("declared as {}{}", kind(ty.is_int), shape(&declared))),
        )
    }

    /// What a used block returns for arguments.
    fn call_use(
        &mut self,
        home: &Rc<Place>,
        used: &'a UseDecl,
        args: Vec<(Value, Span)>,
        span: Span,
    ) -> Option<Value> {
        let (forward, place) = self.place_of(home, used)?;
        let Some(range) = &used.range else {
            return self.call_function(forward, place, args, span).map(several);
        };
        let (first, end) = self.layers(home, range)?;
        if !self.builders.last().is_some_and(|b| b.is_entry) {
            return self.fail(
                Diagnostic::error("E0208", format!("`{}` stands for several layers", used.name))
                    .at(span, "called within a layer or a rule")
                    .and(used.span, "repeated here")
                    .help("call it in an `entry`"),
            );
        }
        self.call_layers(forward, &place, used, (first, end), args, span)
    }

    /// `w[e]`
    pub(super) fn index(
        &mut self,
        frame: &mut Frame,
        name: &'a Ident,
        index: &'a Expr,
        span: Span,
    ) -> Option<Value> {
        let by = self.eval(frame, index);
        let of = match frame.locals.get(&name.text) {
            Some(value) => value.clone(),
            None => self.name(frame, &name.text, name.span).unwrap_or(Value::Poison),
        };
        match (of, by) {
            (Value::Tensor(t), Value::ExpertIndex) => {
                let is_param = self.builders.last().and_then(|b| b.param_of(t.node)).is_some();
                if is_param && t.axes.len() >= 2 {
                    return Some(Value::OfExpert(t));
                }
                self.fail(
                    Diagnostic::error("E0302", format!("`{name}` has no part for each expert"))
                        .at(span, "only parameters with a leading axis of experts have"),
                )
            }
            (Value::Poison, _) | (_, Value::Poison) => None,
            (_, other) => self.fail(
                Diagnostic::error(
                    "E0302",
                    format!("`[…]` takes the expert of `route`, not {}", other.what()),
                )
                .at(index.span, "not the second name of `|t, e|`")
                .help("cut with `slice(x, start, len)` or `split(x, a, b)`"),
            ),
        }
    }

    /// `b[e]` outside of `linear`: the row of each chosen expert.
    pub(super) fn gather_of_expert(&mut self, t: &Tensor, span: Span) -> Option<Tensor> {
        let chosen = self.routed.clone()?;
        if t.axes.len() != 2 {
            return self.fail(
                Diagnostic::error("E0302", "the matrix of an expert is used outside of `linear`")
                    .at(span, format!("this is {} for each expert", shape(&t.axes[1..])))
                    .help("write `linear(t, w[e])`"),
            );
        }
        let mut axes = chosen.axes.clone();
        axes.push(t.axes[1].clone());
        self.emit(Op::Lookup, &[t, &chosen], t.dtype, axes, span)
    }
}

/// One value alone, or several.
pub(super) fn several(mut values: Vec<Value>) -> Value {
    match values.len() {
        1 => values.remove(0),
        _ => Value::Several(values),
    }
}

pub(super) fn tensors(values: Vec<Value>) -> Vec<Tensor> {
    values
        .into_iter()
        .filter_map(|v| match v {
            Value::Tensor(t) => Some(t),
            _ => None,
        })
        .collect()
}
