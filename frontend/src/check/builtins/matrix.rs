//! Products with weights, and tables.

use super::Args;
use super::pointwise::stored;
use crate::check::Checker;
use crate::check::eval::Frame;
use crate::check::value::{Tensor, Value, full_shape, shape};
use moec_ir::graph::Op;
use moec_ir::{DType, Diagnostic, Span};

impl<'a> Checker<'a> {
    /// `linear(x, w)`: by the shape of `w` a matrix, one matrix per head, or, within `route`,
    /// the matrix of the token's expert.
    pub(super) fn linear(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let (x_at, w_at) = (args.plain[0].span, args.plain[1].span);
        let x = self.tensor(frame, args.plain[0]);
        let w = self.eval(frame, args.plain[1]);
        let result = if let Value::OfExpert(w) = w {
            self.expert_linear((&x?, x_at), (&w, w_at), span)
        } else {
            let w = self.as_tensor(w, w_at);
            let (x, w) = (x?, w?);
            self.need_kind(&x, false, x_at)?;
            self.need_kind(&w, false, w_at)?;
            match w.axes.len() {
                3 => self.head_linear((&x, x_at), (&w, w_at), span),
                _ => self.matrix_linear((&x, x_at), (&w, w_at), span),
            }
        };
        result.map(Value::Tensor)
    }

    /// The type of a product: float32 where the weight is listed so, else stored.
    fn product_type(&self, w: &Tensor) -> DType {
        let param = self.builders.last().and_then(|b| b.param_of(w.node));
        match param {
            Some(p) if self.precision.is_f32(&p.name) => DType::F32,
            _ => stored(self),
        }
    }

    fn matrix_linear(
        &mut self,
        (x, x_at): (&Tensor, Span),
        (w, w_at): (&Tensor, Span),
        span: Span,
    ) -> Option<Tensor> {
        self.need_rank(w, "a weight `[out, in]`", 2, w_at)?;
        let last = self.last(x, x_at)?;
        self.fits((x, x_at), (w, w_at), last.dim == w.axes[1].dim)?;
        let mut axes = x.axes.clone();
        axes.pop();
        axes.push(w.axes[0].clone());
        self.emit(Op::Linear, &[x, w], self.product_type(w), axes, span)
    }

    fn head_linear(
        &mut self,
        (x, x_at): (&Tensor, Span),
        (w, w_at): (&Tensor, Span),
        span: Span,
    ) -> Option<Tensor> {
        self.need_rank(x, "`[T, heads, in]` beside a weight per head", 3, x_at)?;
        let heads = x.axes[1].dim == w.axes[0].dim || x.axes[1].dim.is_one();
        self.fits((x, x_at), (w, w_at), heads && x.axes[2].dim == w.axes[2].dim)?;
        let axes = vec![x.axes[0].clone(), w.axes[0].clone(), w.axes[1].clone()];
        self.emit(Op::HeadLinear, &[x, w], self.product_type(w), axes, span)
    }

    /// `linear(t, w[e])`: each token's rows times the matrices of its experts.
    fn expert_linear(
        &mut self,
        (x, x_at): (&Tensor, Span),
        (w, w_at): (&Tensor, Span),
        span: Span,
    ) -> Option<Tensor> {
        let chosen = self.routed.clone()?;
        self.need_kind(x, false, x_at)?;
        self.need_rank(w, "a weight `[experts, out, in]`", 3, w_at)?;
        let rows = x.axes.len().checked_sub(1).map(|rank| &x.axes[..rank]).unwrap_or_default();
        let per_token = rows.iter().zip(&chosen.axes).all(|(a, b)| a.dim == b.dim);
        let per_token = per_token && (rows.len() == 1 || rows.len() == 2);
        let fits = per_token && x.axes.last().is_some_and(|a| a.dim == w.axes[2].dim);
        self.fits((x, x_at), (w, w_at), fits)?;
        let mut axes = chosen.axes.clone();
        axes.push(w.axes[1].clone());
        self.emit(Op::ExpertLinear, &[x, w, &chosen], self.product_type(w), axes, span)
    }

    /// E0301 where a weight does not fit what it multiplies.
    fn fits(
        &mut self,
        (x, x_at): (&Tensor, Span),
        (w, w_at): (&Tensor, Span),
        fits: bool,
    ) -> Option<()> {
        if fits {
            return Some(());
        }
        self.fail(
            Diagnostic::error(
                "E0301",
                format!(
                    "a weight {} does not multiply {}",
                    full_shape(&w.axes),
                    full_shape(&x.axes)
                ),
            )
            .at(x_at, format!("this is {}", shape(&x.axes)))
            .and(w_at, format!("this is {}", shape(&w.axes)))
            .help("the last axis of the weight must be the last axis of what it multiplies"),
        )
    }

    /// `lookup(table, ids)`
    pub(super) fn lookup(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let table = self.tensor(frame, args.plain[0]);
        let ids = self.tensor(frame, args.plain[1]);
        let (table, ids) = (table?, ids?);
        self.need_kind(&ids, true, args.plain[1].span)?;
        if table.axes.len() < 2 {
            return self
                .need_rank(&table, "a table `[rows, n]`", 2, args.plain[0].span)
                .map(|()| Value::Poison);
        }
        let mut axes = ids.axes.clone();
        axes.extend(table.axes[1..].iter().cloned());
        self.emit(Op::Lookup, &[&table, &ids], table.dtype, axes, span).map(Value::Tensor)
    }
}
