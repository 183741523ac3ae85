//! The value of an expression.

use super::builder::DraftOp;
use super::declare::Decl;
use super::value::{Axis, Tensor, Value, full_shape};
use super::{Checker, MAX_EVALUATION, MAX_STEPS, Place, is_symbol};
use crate::ast::*;
use moec_ir::graph::{BinaryFn, Op, UnaryFn};
use moec_ir::{DType, Diagnostic, Dim, Real, Span, Sym};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Largest whole number of the language; products of a few of them stay within 64 bits.
const MAX_SIZE: u64 = 1 << 40;

/// A body while it is evaluated.
pub(super) struct Frame {
    /// The block or model it belongs to.
    pub(super) place: Rc<Place>,
    /// Inputs and definitions.
    pub(super) locals: BTreeMap<String, Value>,
}

impl Frame {
    /// A body without definitions yet.
    pub(super) fn new(place: Rc<Place>) -> Self {
        Self { place, locals: BTreeMap::new() }
    }
}

impl<'a> Checker<'a> {
    /// The value of an expression; poison where a mistake was reported.
    pub(super) fn eval(&mut self, frame: &mut Frame, e: &'a Expr) -> Value {
        self.steps += 1;
        if self.exhausted {
            return Value::Poison;
        }
        if self.steps > MAX_STEPS || self.depth > MAX_EVALUATION {
            self.exhausted = true;
            self.diagnostics.push(
                Diagnostic::error("E0209", "the model is too large when its blocks are expanded")
                    .at(e.span, "given up here")
                    .help("use fewer blocks within blocks, or define parts with `let`"),
            );
            return Value::Poison;
        }
        self.depth += 1;
        let value = self.eval_kind(frame, e).unwrap_or(Value::Poison);
        self.depth -= 1;
        value
    }

    fn eval_kind(&mut self, frame: &mut Frame, e: &'a Expr) -> Option<Value> {
        match &e.kind {
            ExprKind::Number(text) => self.literal(text, e.span),
            ExprKind::Name(name) => self.name(frame, name, e.span),
            ExprKind::Neg(x) => self.negative(frame, x, e.span),
            ExprKind::Binary(op, x, y) => {
                let (left, right) = (self.eval(frame, x), self.eval(frame, y));
                self.binary(*op, (left, x.span), (right, y.span), e.span)
            }
            ExprKind::Call(call) => self.call(frame, call, e.span),
            ExprKind::Index(name, index) => self.index(frame, name, index, e.span),
            ExprKind::Reshape(x, shape) => {
                let axes = self.shape(frame, shape);
                let x = self.tensor(frame, x)?;
                self.reshape(&x, axes?, e.span).map(Value::Tensor)
            }
        }
    }

    fn literal(&mut self, text: &str, span: Span) -> Option<Value> {
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return match text.parse::<u64>() {
                Ok(n) if n <= MAX_SIZE => Some(Value::Size(Axis::plain(Dim::from(n)))),
                _ => self.fail(
                    Diagnostic::error("E0303", "this number is too large")
                        .at(span, format!("more than {MAX_SIZE}"))
                        .help("write it with a decimal point if it is not a size"),
                ),
            };
        }
        match text.parse::<f64>() {
            Ok(x) if x.is_finite() => Some(Value::Number(x)),
            _ => self.fail(
                Diagnostic::error("E0303", "this number is too large").at(span, "not finite"),
            ),
        }
    }

    /// What a name stands for.
    pub(super) fn name(&mut self, frame: &Frame, name: &str, span: Span) -> Option<Value> {
        if let Some(value) = frame.locals.get(name) {
            return Some(value.clone());
        }
        let place = Rc::clone(&frame.place);
        let own = place.block.as_deref().and_then(|b| self.blocks.get(b)?.names.get(name).copied());
        if let Some(decl) = own {
            return self.declared(&place, decl, name, span);
        }
        if let Some(decl) = self.scope.names.get(name).copied() {
            // While the model's own constants are computed, they are in `place`.
            let root = if place.block.is_none() { place } else { Rc::clone(&self.root) };
            return self.declared(&root, decl, name, span);
        }
        if let Some(sym) = Sym::ALL.into_iter().find(|s| s.name() == name) {
            return Some(Value::Size(Axis::plain(sym.into())));
        }
        self.unknown(frame, name, span)
    }

    fn declared(
        &mut self,
        place: &Rc<Place>,
        decl: Decl<'a>,
        name: &str,
        span: Span,
    ) -> Option<Value> {
        match decl {
            Decl::Value(at) => match place.values.get(name) {
                Some(value) => Some(value.clone()),
                None => self.fail(
                    Diagnostic::error("E0201", format!("`{name}` is not defined yet"))
                        .at(span, "used here")
                        .and(at, "defined only here")
                        .help("move the definition up"),
                ),
            },
            Decl::Param(p) => self.param(place, p).map(Value::Tensor),
            Decl::Cache(c) => self.cache(place, c).map(Value::Cache),
            other => self.fail(
                Diagnostic::error("E0203", format!("`{name}` is {}, not a value", other.what()))
                    .at(span, "a value is needed here")
                    .and(other.span(), "declared here")
                    .help(match other {
                        Decl::Use(_) | Decl::Function(_) => format!("call it: `{name}(x)`"),
                        _ => format!("`use` it under a name and call that: `use x: {name} = …`"),
                    }),
            ),
        }
    }

    /// E0201, with the nearest name that exists.
    pub(super) fn unknown<T>(&mut self, frame: &Frame, name: &str, span: Span) -> Option<T> {
        let mut names: Vec<&str> = frame.locals.keys().map(String::as_str).collect();
        if let Some(own) = frame.place.block.as_deref().and_then(|b| self.blocks.get(b)) {
            names.extend(own.names.keys());
        }
        names.extend(self.scope.names.keys());
        names.extend(super::builtins::names().map(|n: &str| n));
        let d = Diagnostic::error("E0201", format!("`{name}` is not defined")).at(span, "unknown");
        let d = match nearest(name, names.into_iter()) {
            Some(near) => d.help(format!("did you mean `{near}`?")),
            None if is_symbol(name) => d,
            None => d.help(format!(
                "define it: `dim {name} = …`, `let {name} = …` or `param {name}: …`"
            )),
        };
        self.fail(d)
    }

    fn negative(&mut self, frame: &mut Frame, x: &'a Expr, span: Span) -> Option<Value> {
        match self.eval(frame, x) {
            Value::Number(n) => Some(Value::Number(-n)),
            Value::Size(a) => match a.dim.constant() {
                Some(n) => Some(Value::Number(-(n as f64))),
                None => self.wrong_kind("a tensor or a number", &Value::Size(a), x.span),
            },
            other => {
                let x = self.as_tensor(other, x.span)?;
                self.unary(UnaryFn::Neg, &x, span).map(Value::Tensor)
            }
        }
    }

    /// `x op y` for numbers, sizes and tensors.
    pub(super) fn binary(
        &mut self,
        op: BinaryOp,
        (left, left_span): (Value, Span),
        (right, right_span): (Value, Span),
        span: Span,
    ) -> Option<Value> {
        if let (Value::Size(a), Value::Size(b)) = (&left, &right) {
            return self.size_arithmetic(op, a, b, span);
        }
        if let (Some(a), Some(b)) = (number(&left), number(&right)) {
            let result = match op {
                BinaryOp::Add => a + b,
                BinaryOp::Sub => a - b,
                BinaryOp::Mul => a * b,
                BinaryOp::Div => a / b,
            };
            return self.finite(result, span);
        }
        let function = match op {
            BinaryOp::Add => BinaryFn::Add,
            BinaryOp::Sub => BinaryFn::Sub,
            BinaryOp::Mul => BinaryFn::Mul,
            BinaryOp::Div => BinaryFn::Div,
        };
        let x = self.as_tensor(left, left_span);
        let y = self.as_tensor(right, right_span);
        self.pointwise(function, (x?, left_span), (y?, right_span), span).map(Value::Tensor)
    }

    /// A number, if it is one that can be computed with.
    pub(super) fn finite(&mut self, x: f64, span: Span) -> Option<Value> {
        if x.is_finite() {
            return Some(Value::Number(x));
        }
        self.fail(
            Diagnostic::error("E0303", "this is not a finite number")
                .at(span, format!("its value is {x}"))
                .help("look for a division by zero or the logarithm of a negative number"),
        )
    }

    fn size_arithmetic(&mut self, op: BinaryOp, a: &Axis, b: &Axis, span: Span) -> Option<Value> {
        let wrap = |x: &Axis, tight: bool| {
            if tight && x.text.contains(' ') { format!("({})", x.text) } else { x.text.clone() }
        };
        let tight = matches!(op, BinaryOp::Mul | BinaryOp::Div);
        let right_tight = tight || op == BinaryOp::Sub;
        let text = format!("{} {} {}", wrap(a, tight), op.symbol(), wrap(b, right_tight));
        let dim = match op {
            BinaryOp::Add => Some(a.dim.clone() + b.dim.clone()),
            BinaryOp::Sub => Some(a.dim.clone() - b.dim.clone()),
            BinaryOp::Mul => Some(a.dim.clone() * b.dim.clone()),
            BinaryOp::Div => b.dim.constant().and_then(|n| a.dim.div_exact(n)),
        };
        let Some(dim) = dim else {
            return match (a.dim.constant(), b.dim.constant()) {
                (Some(x), Some(y)) if y != 0 => Some(Value::Number(x as f64 / y as f64)),
                _ => self.fail(
                    Diagnostic::error(
                        "E0303",
                        format!("`{}` cannot be divided by `{}`", a.full(), b.full()),
                    )
                    .at(span, "not a whole number of elements"),
                ),
            };
        };
        // Sizes are at most MAX_SIZE, so that this arithmetic cannot have wrapped.
        let shown = dim.to_string();
        let negative = shown.starts_with('-') && dim.symbols().is_empty();
        let mut integers = shown.split(|c: char| !c.is_ascii_digit()).filter(|d| !d.is_empty());
        let large = integers.any(|d| d.parse::<u64>().map_or(true, |n| n > MAX_SIZE));
        if negative || large {
            let known = |d: &Dim| d.constant().map(|n| n as f64);
            if negative && let (Some(x), Some(y)) = (known(&a.dim), known(&b.dim)) {
                return Some(Value::Number(x - y));
            }
            return self.fail(
                Diagnostic::error("E0303", "this size is too large")
                    .at(span, format!("more than {MAX_SIZE}")),
            );
        }
        Some(Value::Size(Axis { dim, text }))
    }

    /// The sizes of a written shape.
    pub(super) fn shape(&mut self, frame: &mut Frame, shape: &'a Shape) -> Option<Vec<Axis>> {
        let axes: Vec<Option<Axis>> = shape
            .axes
            .iter()
            .map(|axis| match axis {
                AxisExpr::Size(e) => self.size(frame, e),
                AxisExpr::Rest(span) => self.fail(
                    Diagnostic::error("E0302", "`..` stands only in the types of a function")
                        .at(*span, "which axes are meant?"),
                ),
            })
            .collect();
        axes.into_iter().collect()
    }

    /// The value of an expression as a positive size.
    pub(super) fn size(&mut self, frame: &mut Frame, e: &'a Expr) -> Option<Axis> {
        match self.eval(frame, e) {
            Value::Size(a) if a.dim.constant() != Some(0) => Some(a),
            Value::Size(_) => self.fail(
                Diagnostic::error("E0303", "a size must be at least 1").at(e.span, "this is 0"),
            ),
            Value::Number(x) => self.fail(
                Diagnostic::error("E0303", format!("{x} is not a whole number of elements"))
                    .at(e.span, "a size is needed here"),
            ),
            other => self.wrong_kind("a size", &other, e.span),
        }
    }

    /// The value of a size that must be an integer.
    pub(super) fn integer(&mut self, frame: &mut Frame, e: &'a Expr) -> Option<u64> {
        let size = self.size(frame, e)?;
        match size.dim.constant() {
            Some(n) => Some(n),
            None => self.fail(
                Diagnostic::error("E0303", format!("`{size}` is known only when a step runs"))
                    .at(e.span, "an integer is needed here"),
            ),
        }
    }

    /// The value of an expression as a number.
    pub(super) fn scalar(&mut self, frame: &mut Frame, e: &'a Expr) -> Option<f64> {
        let value = self.eval(frame, e);
        match number(&value) {
            Some(x) => Some(x),
            None => self.wrong_kind("a number", &value, e.span),
        }
    }

    /// A `dim`.
    pub(super) fn dimension(&mut self, frame: &mut Frame, name: &Ident, e: &'a Expr) -> Value {
        match self.eval(frame, e) {
            Value::Size(a) => Value::Size(Axis { text: name.text.clone(), dim: a.dim }),
            Value::Number(x) => {
                let d = Diagnostic::error(
                    "E0303",
                    format!("`{}` is {x}, not a whole number", name.text),
                )
                .at(e.span, "a size is needed here")
                .help(format!("write `let {} = …` for a number", name.text));
                self.diagnostics.push(d);
                Value::Poison
            }
            other => self.wrong_kind("a size", &other, e.span).unwrap_or(Value::Poison),
        }
    }

    /// A `let` of a model or a block: a number that is known now.
    pub(super) fn constant(&mut self, frame: &mut Frame, e: &'a Expr) -> Value {
        match self.eval(frame, e) {
            value @ (Value::Size(_) | Value::Number(_)) => value,
            other => self.wrong_kind("a number", &other, e.span).unwrap_or(Value::Poison),
        }
    }

    /// The value of an expression as a tensor.
    pub(super) fn tensor(&mut self, frame: &mut Frame, e: &'a Expr) -> Option<Tensor> {
        let value = self.eval(frame, e);
        self.as_tensor(value, e.span)
    }

    /// A tensor, or a number as a tensor of shape `[]`.
    pub(super) fn as_tensor(&mut self, value: Value, span: Span) -> Option<Tensor> {
        if let Value::OfExpert(t) = &value {
            return self.gather_of_expert(t, span);
        }
        match (number(&value), value) {
            (Some(x), _) => self.emit(Op::Constant(Real(x)), &[], DType::F32, vec![], span),
            (None, Value::Tensor(t)) => Some(t),
            (None, other) => self.wrong_kind("a tensor", &other, span),
        }
    }

    /// E0302: the value is of another kind than is needed; silent for poison.
    pub(super) fn wrong_kind<T>(&mut self, wanted: &str, found: &Value, span: Span) -> Option<T> {
        if matches!(found, Value::Poison) {
            return None;
        }
        self.fail(
            Diagnostic::error("E0302", format!("expected {wanted}, found {}", found.what()))
                .at(span, format!("this is {}", found.what())),
        )
    }

    /// A node of the function being built.
    pub(super) fn emit(
        &mut self,
        op: Op,
        inputs: &[&Tensor],
        dtype: DType,
        axes: Vec<Axis>,
        span: Span,
    ) -> Option<Tensor> {
        let inputs = inputs.iter().map(|t| t.node).collect();
        match self.builders.last_mut() {
            Some(builder) => Some(builder.node(DraftOp::Op(op), inputs, dtype, axes, span)),
            None => self.fail(
                Diagnostic::error("E0302", "a tensor cannot stand in a constant")
                    .at(span, "computed before any step runs")
                    .help("move it into a function"),
            ),
        }
    }

    /// A body's definitions, then its results.
    pub(super) fn body(&mut self, frame: &mut Frame, body: &'a Body) -> Vec<(Value, Span)> {
        for l in &body.lets {
            let value = self.eval(frame, &l.value);
            self.bind(frame, l, value);
        }
        let mut results = Vec::new();
        for e in &body.results {
            match self.eval(frame, e) {
                Value::Several(all) => results.extend(all.into_iter().map(|v| (v, e.span))),
                one => results.push((one, e.span)),
            }
        }
        results
    }

    fn bind(&mut self, frame: &mut Frame, l: &Let, value: Value) {
        let values = match value {
            Value::Several(all) => all,
            Value::Poison => vec![Value::Poison; l.names.len()],
            one => vec![one],
        };
        if values.len() != l.names.len() {
            self.diagnostics.push(
                Diagnostic::error(
                    "E0211",
                    format!("{} names for {} values", l.names.len(), values.len()),
                )
                .at(l.span, "the numbers must agree")
                .and(l.value.span, format!("gives {} values", values.len())),
            );
        }
        let poison = std::iter::repeat(Value::Poison);
        for (name, value) in l.names.iter().zip(values.into_iter().chain(poison)) {
            if let (Value::Tensor(t), Some(builder)) = (&value, self.builders.last_mut()) {
                builder.nodes[t.node.0].name.get_or_insert_with(|| name.text.clone());
            }
            frame.locals.insert(name.text.clone(), value);
        }
    }

    /// `x` in another shape with the same number of elements.
    pub(super) fn reshape(&mut self, x: &Tensor, axes: Vec<Axis>, span: Span) -> Option<Tensor> {
        let to: Vec<Dim> = axes.iter().map(|a| a.dim.clone()).collect();
        let from: Vec<Dim> = x.axes.iter().map(|a| a.dim.clone()).collect();
        if Dim::product(&to) != Dim::product(&from) {
            return self.fail(
                Diagnostic::error(
                    "E0304",
                    format!(
                        "{} has {} elements, {} has {}",
                        full_shape(&x.axes),
                        Dim::product(&from),
                        full_shape(&axes),
                        Dim::product(&to)
                    ),
                )
                .at(span, "a new shape must hold as many elements"),
            );
        }
        if to == from {
            return Some(Tensor { axes, ..x.clone() });
        }
        self.emit(Op::Reshape(to), &[x], x.dtype, axes, span)
    }
}

/// The number that a value is, if it is known now.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(x) => Some(*x),
        Value::Size(a) => a.dim.constant().map(|n| n as f64),
        _ => None,
    }
}

/// The name nearest to a mistyped one.
pub(crate) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let limit = (name.chars().count() / 3).max(1);
    names
        .map(|n| (strsim::damerau_levenshtein(name, n), n))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, n)| n.to_owned())
}
