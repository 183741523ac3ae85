//! Operations that move elements and compute nothing.

use super::{Args, size};
use crate::check::Checker;
use crate::check::eval::{Frame, number};
use crate::check::value::{Tensor, Value, full_shape, shape};
use moec_ir::graph::Op;
use moec_ir::{DType, Diagnostic, Span};

impl<'a> Checker<'a> {
    /// `split(x, a, b, …)`: consecutive parts of an axis.
    pub(super) fn split(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let x = self.tensor(frame, args.plain[0]);
        let sizes: Vec<_> = args.plain[1..].iter().map(|e| self.size(frame, e)).collect();
        let x = x?;
        let sizes: Vec<_> = sizes.into_iter().collect::<Option<_>>()?;
        let axis = self.axis(frame, args, &x, span)?;
        let total = sizes[1..].iter().fold(sizes[0].clone(), |sum, a| sum.plus(a));
        if total.dim != x.axes[axis].dim {
            return self.fail(
                Diagnostic::error(
                    "E0304",
                    format!(
                        "the parts add up to `{}`, the axis has `{}`",
                        total.full(),
                        x.axes[axis].full()
                    ),
                )
                .at(args.plain[1].span.to(args.plain[args.plain.len() - 1].span), "these parts")
                .and(args.plain[0].span, format!("this is {}", shape(&x.axes))),
            );
        }
        let mut start = 0;
        let mut parts = Vec::new();
        for (part, e) in sizes.into_iter().zip(&args.plain[1..]) {
            let Some(len) = part.dim.constant() else {
                return self.integer(frame, e).map(|_| Value::Poison);
            };
            let mut axes = x.axes.clone();
            axes[axis] = part;
            parts.push(self.emit(Op::Slice { axis, start, len }, &[&x], x.dtype, axes, span)?);
            start += len;
        }
        Some(Value::Several(parts.into_iter().map(Value::Tensor).collect()))
    }

    /// `slice(x, start, len)`: part of an axis.
    pub(super) fn slice(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let x = self.tensor(frame, args.plain[0]);
        let start = self.eval(frame, args.plain[1]);
        let len = self.size(frame, args.plain[2]);
        let (x, len) = (x?, len?);
        let axis = self.axis(frame, args, &x, span)?;
        let bounds = (
            number(&start).filter(|s| *s >= 0.0 && s.fract() == 0.0),
            len.dim.constant(),
            x.axes[axis].dim.constant(),
        );
        let (Some(first), Some(n), Some(whole)) = bounds else {
            return self.fail(
                Diagnostic::error("E0304", "a slice needs sizes that are known now")
                    .at(span, format!("cut from {}", full_shape(&x.axes))),
            );
        };
        let first = first as u64;
        if first.checked_add(n).is_none_or(|end| end > whole) {
            return self.fail(
                Diagnostic::error(
                    "E0304",
                    format!("elements {first} to {} of {whole}", first.saturating_add(n)),
                )
                .at(span, "beyond the end")
                .and(args.plain[0].span, format!("this is {}", shape(&x.axes))),
            );
        }
        let mut axes = x.axes.clone();
        axes[axis] = len;
        self.emit(Op::Slice { axis, start: first, len: n }, &[&x], x.dtype, axes, span)
            .map(Value::Tensor)
    }

    /// `concat(x, y, …)`: side by side along an axis.
    pub(super) fn concat(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let parts: Vec<_> = args.plain.iter().map(|e| self.tensor(frame, e)).collect();
        let parts: Vec<Tensor> = parts.into_iter().collect::<Option<_>>()?;
        let first = &parts[0];
        let axis = self.axis(frame, args, first, span)?;
        let mut axes = first.axes.clone();
        let mut dtype = first.dtype;
        for (part, e) in parts.iter().zip(&args.plain).skip(1) {
            let same = part.axes.len() == first.axes.len()
                && (part.dtype == DType::I32) == (dtype == DType::I32)
                && (0..axes.len()).all(|i| i == axis || part.axes[i].dim == first.axes[i].dim);
            if !same {
                return self.fail(
                    Diagnostic::error(
                        "E0301",
                        format!(
                            "{} and {} cannot stand side by side",
                            full_shape(&first.axes),
                            full_shape(&part.axes)
                        ),
                    )
                    .at(e.span, format!("this is {}", shape(&part.axes)))
                    .and(args.plain[0].span, format!("this is {}", shape(&first.axes)))
                    .help(
                        "all axes but the one joined must be equal; `spread(x, heads)` adds heads",
                    ),
                );
            }
            axes[axis] = axes[axis].plus(&part.axes[axis]);
            dtype = dtype.promote(part.dtype);
        }
        let parts: Vec<&Tensor> = parts.iter().collect();
        self.emit(Op::Concat { axis }, &parts, dtype, axes, span).map(Value::Tensor)
    }

    /// `transpose(x, 1, 0, 2)`: axes in a new order.
    pub(super) fn transpose(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let x = self.tensor(frame, args.plain[0]);
        let order: Vec<_> = args.plain[1..].iter().map(|e| self.scalar(frame, e)).collect();
        let x = x?;
        let order: Vec<f64> = order.into_iter().collect::<Option<_>>()?;
        let rank = x.axes.len();
        let perm: Vec<usize> =
            order.iter().filter_map(|&o| (0..rank).find(|&i| i as f64 == o)).collect();
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        if order.len() != rank || !sorted.into_iter().eq(0..rank) {
            return self.fail(
                Diagnostic::error("E0302", format!("not an order of the {rank} axes"))
                    .at(span, format!("of {}", shape(&x.axes)))
                    .help("name each axis once, from 0"),
            );
        }
        let axes = perm.iter().map(|&i| x.axes[i].clone()).collect();
        self.emit(Op::Transpose(perm), &[&x], x.dtype, axes, span).map(Value::Tensor)
    }

    /// `spread(x, heads)`: `[S, d] -> [S, heads, d]`, the same for every head.
    pub(super) fn spread(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let x = self.tensor(frame, args.plain[0]);
        let heads = self.size(frame, args.plain[1]);
        let (x, heads) = (x?, heads?);
        self.need_rank(&x, "`[T, n]`", 2, args.plain[0].span)?;
        let single = vec![x.axes[0].clone(), size(1), x.axes[1].clone()];
        let single = self.reshape(&x, single, span)?;
        let axes = vec![x.axes[0].clone(), heads, x.axes[1].clone()];
        let to = axes.iter().map(|a| a.dim.clone()).collect();
        self.emit(Op::Broadcast(to), &[&single], x.dtype, axes, span).map(Value::Tensor)
    }
}
