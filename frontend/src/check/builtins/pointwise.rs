//! Functions of each element, reductions and norms.

use super::{Args, size};
use crate::check::Checker;
use crate::check::eval::{Frame, number};
use crate::check::value::{Axis, Tensor, Value, full_shape, shape};
use moec_ir::graph::{BinaryFn, Op, ReduceFn, UnaryFn};
use moec_ir::{DType, Diagnostic, Real, Span};

impl<'a> Checker<'a> {
    /// `f(x)`, of a tensor or of a number that is known now.
    pub(super) fn function_of_one(
        &mut self,
        frame: &mut Frame,
        f: UnaryFn,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let value = self.eval(frame, args.plain[0]);
        if let Some(x) = number(&value) {
            return self.finite(of_number(f, x), span);
        }
        let x = self.as_tensor(value, args.plain[0].span)?;
        self.unary(f, &x, span).map(Value::Tensor)
    }

    /// A function of each element.
    pub(in crate::check) fn unary(&mut self, f: UnaryFn, x: &Tensor, span: Span) -> Option<Tensor> {
        self.need_kind(x, false, span)?;
        self.emit(Op::Unary(f), &[x], x.dtype, x.axes.clone(), span)
    }

    /// A function of two elements; shapes broadcast from the last axis on.
    pub(in crate::check) fn pointwise(
        &mut self,
        f: BinaryFn,
        (x, x_span): (Tensor, Span),
        (y, y_span): (Tensor, Span),
        span: Span,
    ) -> Option<Tensor> {
        self.need_kind(&x, false, x_span)?;
        self.need_kind(&y, false, y_span)?;
        let (x, y) = self.align_routed(x, y, span)?;
        let rank = x.axes.len().max(y.axes.len());
        let at =
            |t: &Tensor, i: usize| (t.axes.len() + i).checked_sub(rank).map(|i| t.axes[i].clone());
        let mut axes = Vec::new();
        for i in 0..rank {
            axes.push(match (at(&x, i), at(&y, i)) {
                (Some(a), Some(b)) if a.dim == b.dim || b.dim.is_one() => a,
                (Some(a), Some(b)) if a.dim.is_one() => b,
                (Some(a), None) | (None, Some(a)) => a,
                (a, b) => return self.do_not_fit((&x, x_span), (&y, y_span), a.zip(b)),
            });
        }
        let dtype = match (x.is_constant, y.is_constant) {
            (true, false) => y.dtype,
            (false, true) => x.dtype,
            _ => x.dtype.promote(y.dtype),
        };
        let both = x.is_constant && y.is_constant;
        let result = self.emit(Op::Binary(f), &[&x, &y], dtype, axes, span)?;
        Some(Tensor { is_constant: both, ..result })
    }

    fn do_not_fit<T>(
        &mut self,
        (x, x_span): (&Tensor, Span),
        (y, y_span): (&Tensor, Span),
        sizes: Option<(Axis, Axis)>,
    ) -> Option<T> {
        let detail = sizes
            .map_or(String::new(), |(a, b)| format!(": `{}` against `{}`", a.full(), b.full()));
        self.fail(
            Diagnostic::error(
                "E0301",
                format!(
                    "shapes {} and {} do not fit{detail}",
                    full_shape(&x.axes),
                    full_shape(&y.axes)
                ),
            )
            .at(y_span, format!("this is {}", shape(&y.axes)))
            .and(x_span, format!("this is {}", shape(&x.axes)))
            .help("sizes must be equal or 1, counted from the last axis"),
        )
    }

    /// Within `route`, `[T, n]` beside `[T, k, n]` is the same for each chosen expert.
    fn align_routed(&mut self, x: Tensor, y: Tensor, span: Span) -> Option<(Tensor, Tensor)> {
        let Some(chosen) = self.routed.clone() else { return Some((x, y)) };
        let is_routed = |t: &Tensor| {
            t.axes.len() == 3
                && t.axes[0].dim == chosen.axes[0].dim
                && t.axes[1].dim == chosen.axes[1].dim
        };
        let is_token = |t: &Tensor| t.axes.len() == 2 && t.axes[0].dim == chosen.axes[0].dim;
        Some(if is_routed(&x) && is_token(&y) {
            let y = self.per_choice(&y, span)?;
            (x, y)
        } else if is_token(&x) && is_routed(&y) {
            (self.per_choice(&x, span)?, y)
        } else {
            (x, y)
        })
    }

    /// `[T, n] -> [T, 1, n]`
    pub(super) fn per_choice(&mut self, x: &Tensor, span: Span) -> Option<Tensor> {
        let axes = vec![x.axes[0].clone(), size(1), x.axes[1].clone()];
        self.reshape(x, axes, span)
    }

    /// `[R.., n] -> [R.., 1]`
    pub(super) fn reduce(
        &mut self,
        frame: &mut Frame,
        f: ReduceFn,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let x = self.tensor(frame, args.plain[0])?;
        self.reduced(f, &x, args.plain[0].span, span).map(Value::Tensor)
    }

    pub(super) fn reduced(
        &mut self,
        f: ReduceFn,
        x: &Tensor,
        x_span: Span,
        span: Span,
    ) -> Option<Tensor> {
        self.need_kind(x, false, x_span)?;
        self.last(x, x_span)?;
        let mut axes = x.axes.clone();
        if let Some(last) = axes.last_mut() {
            *last = size(1);
        }
        self.emit(Op::Reduce(f), &[x], x.dtype, axes, span)
    }

    /// The last axis, which a number does not have.
    pub(super) fn last(&mut self, x: &Tensor, span: Span) -> Option<Axis> {
        match x.axes.last() {
            Some(axis) => Some(axis.clone()),
            None => self.fail(
                Diagnostic::error("E0302", "expected a tensor with axes, found a number")
                    .at(span, "has no last axis"),
            ),
        }
    }

    /// `max(x)` reduces; `max(x, y)` and `min(x, y)` compare.
    pub(super) fn extremum(
        &mut self,
        frame: &mut Frame,
        is_max: bool,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let [x, y] = args.plain.as_slice() else {
            return self.reduce(frame, ReduceFn::Max, args, span);
        };
        let (a, b) = (self.eval(frame, x), self.eval(frame, y));
        if let (Some(a), Some(b)) = (number(&a), number(&b)) {
            return self.finite(if is_max { a.max(b) } else { a.min(b) }, span);
        }
        let a = self.as_tensor(a, x.span);
        let b = self.as_tensor(b, y.span);
        let f = if is_max { BinaryFn::Max } else { BinaryFn::Min };
        self.pointwise(f, (a?, x.span), (b?, y.span), span).map(Value::Tensor)
    }

    /// `pow(x, y)` of numbers.
    pub(super) fn pow(&mut self, frame: &mut Frame, args: &Args<'a>, span: Span) -> Option<Value> {
        let x = self.scalar(frame, args.plain[0]);
        let y = self.scalar(frame, args.plain[1]);
        self.finite(x?.powf(y?), span)
    }

    /// Softmax over the last axis.
    pub(super) fn softmax(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let x = self.tensor(frame, args.plain[0])?;
        self.need_kind(&x, false, args.plain[0].span)?;
        self.last(&x, args.plain[0].span)?;
        self.emit(Op::Softmax, &[&x], x.dtype, x.axes.clone(), span).map(Value::Tensor)
    }

    /// `x / sum(x)` over the last axis.
    pub(super) fn normalize(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let at = args.plain[0].span;
        let x = self.tensor(frame, args.plain[0])?;
        let sum = self.reduced(ReduceFn::Sum, &x, at, span)?;
        self.pointwise(BinaryFn::Div, (x, at), (sum, at), span).map(Value::Tensor)
    }

    /// `rms_norm(x, w, eps = 1e-6)`
    pub(super) fn rms_norm(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let (x_at, w_at) = (args.plain[0].span, args.plain[1].span);
        let x = self.tensor(frame, args.plain[0]);
        let w = self.tensor(frame, args.plain[1]);
        let eps = self.setting(frame, args, "eps", 1e-6)?;
        let (x, w) = (x?, w?);
        self.need_kind(&x, false, x_at)?;
        self.need_rank(&w, "a weight `[n]`", 1, w_at)?;
        let last = self.last(&x, x_at)?;
        self.need_equal((&last, x_at), (&w.axes[0], w_at), "the norm's weight does not fit")?;
        if eps < 0.0 {
            let at = args.named.get("eps").map_or(span, |e| e.span);
            return self.fail(
                Diagnostic::error("E0303", "`eps` is negative")
                    .at(at, "added to a mean of squares"),
            );
        }
        let dtype = self.precision.storage;
        self.emit(Op::RmsNorm { eps: Real(eps) }, &[&x, &w], dtype, x.axes.clone(), span)
            .map(Value::Tensor)
    }
}

fn of_number(f: UnaryFn, x: f64) -> f64 {
    match f {
        UnaryFn::Identity => x,
        UnaryFn::Neg => -x,
        UnaryFn::Exp => x.exp(),
        UnaryFn::Log => x.ln(),
        UnaryFn::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        UnaryFn::Silu => x / (1.0 + (-x).exp()),
        UnaryFn::Tanh => x.tanh(),
        UnaryFn::Sqrt => x.sqrt(),
        UnaryFn::Rsqrt => 1.0 / x.sqrt(),
        UnaryFn::Relu => x.max(0.0),
        UnaryFn::Sign if x == 0.0 => 0.0,
        UnaryFn::Sign => x.signum(),
        UnaryFn::Abs => x.abs(),
    }
}

/// The type of what is computed in float32 and stored as an activation.
pub(super) fn stored(checker: &Checker<'_>) -> DType {
    checker.precision.storage
}
