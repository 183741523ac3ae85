//! The choice of experts and what they do to their tokens.

use super::pointwise::stored;
use super::{Args, size};
use crate::ast::{Expr, ExprKind};
use crate::check::Checker;
use crate::check::eval::Frame;
use crate::check::value::{Axis, Tensor, Value, full_shape, shape};
use moec_ir::graph::{GroupScore, Groups, Op};
use moec_ir::{DType, Diagnostic, Dim, Span};

impl<'a> Checker<'a> {
    /// `top_k(x, k, groups = g, of_groups = n, by = max)`
    pub(super) fn top_k(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let at = args.plain[0].span;
        let x = self.tensor(frame, args.plain[0]);
        let k = self.size(frame, args.plain[1]);
        let groups = self.groups(frame, args, span);
        let (x, k_axis, groups) = (x?, k?, groups?);
        let k = self.integer(frame, args.plain[1])?;
        self.need_kind(&x, false, at)?;
        self.need_rank(&x, "scores `[T, experts]`", 2, at)?;
        let Some(experts) = x.axes[1].dim.constant() else {
            return self.need_rank(&x, "a fixed number of experts", 0, at).map(|()| Value::Poison);
        };
        let (limit, of) = match &groups {
            None => (experts, "experts".to_owned()),
            Some(g) => {
                let each = experts / g.count;
                let wrong = match g.by {
                    _ if experts % g.count != 0 => {
                        Some(format!("{experts} experts do not fall into {} equal groups", g.count))
                    }
                    _ if g.keep > g.count => {
                        Some(format!("{} of {} groups cannot be kept", g.keep, g.count))
                    }
                    GroupScore::SumOfTop(n) if n > each => {
                        Some(format!("a group has {each} experts, not {n}"))
                    }
                    _ => None,
                };
                if let Some(wrong) = wrong {
                    return self.fail(Diagnostic::error("E0303", wrong).at(span, "in this choice"));
                }
                (each * g.keep, format!("experts in {} groups", g.keep))
            }
        };
        if k > limit {
            return self.fail(
                Diagnostic::error("E0303", format!("{k} cannot be chosen of {limit} {of}"))
                    .at(args.plain[1].span, "too many")
                    .and(at, format!("scores {}", shape(&x.axes))),
            );
        }
        let axes = vec![x.axes[0].clone(), k_axis];
        self.emit(Op::TopK { k, groups }, &[&x], DType::I32, axes, span).map(Value::Tensor)
    }

    /// The group limit of a choice: `Some(None)` where there is none.
    fn groups(&mut self, frame: &mut Frame, args: &Args<'a>, span: Span) -> Option<Option<Groups>> {
        let given = ["groups", "of_groups", "by"].map(|n| args.named.get(n).copied());
        let (count, keep, by) = match given {
            [None, None, None] => return Some(None),
            [Some(count), Some(keep), by] => (count, keep, by),
            _ => {
                return self.fail(
                    Diagnostic::error("E0205", "`groups` and `of_groups` belong together")
                        .at(span, "one of them is missing")
                        .help("write `top_k(x, 8, groups = 8, of_groups = 4)`: keep 4 of 8 groups"),
                );
            }
        };
        let (count, keep) = (self.integer(frame, count), self.integer(frame, keep));
        let by = match by {
            None => GroupScore::Max,
            Some(e) => self.group_score(frame, e)?,
        };
        Some(Some(Groups { count: count?, keep: keep?, by }))
    }

    fn group_score(&mut self, frame: &mut Frame, e: &'a Expr) -> Option<GroupScore> {
        match &e.kind {
            ExprKind::Name(name) if name == "max" => return Some(GroupScore::Max),
            ExprKind::Call(call) if call.callee.text == "sum_of_top" => {
                let args = self.args(call, e.span)?;
                return self.integer(frame, args.plain[0]).map(GroupScore::SumOfTop);
            }
            _ => {}
        }
        self.fail(
            Diagnostic::error("E0205", "a group's score is `max` or `sum_of_top(n)`")
                .at(e.span, "not a score of a group"),
        )
    }

    /// `pick(x, chosen)`: `[T, E], [T, k] -> [T, k]`
    pub(super) fn pick(&mut self, frame: &mut Frame, args: &Args<'a>, span: Span) -> Option<Value> {
        let (x_at, c_at) = (args.plain[0].span, args.plain[1].span);
        let x = self.tensor(frame, args.plain[0]);
        let chosen = self.tensor(frame, args.plain[1]);
        let (x, chosen) = (x?, chosen?);
        self.need_kind(&chosen, true, c_at)?;
        self.need_rank(&x, "`[T, experts]`", 2, x_at)?;
        self.need_rank(&chosen, "choices `[T, k]`", 2, c_at)?;
        self.need_equal((&x.axes[0], x_at), (&chosen.axes[0], c_at), "rows do not fit")?;
        self.emit(Op::Pick, &[&x, &chosen], x.dtype, chosen.axes.clone(), span).map(Value::Tensor)
    }

    /// `route(x, chosen, weight) |t, e| { … }`: the weighted sum of what each chosen expert
    /// makes of a token.
    pub(super) fn route(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let at = |i: usize| args.plain[i].span;
        let x = self.tensor(frame, args.plain[0]);
        let chosen = self.tensor(frame, args.plain[1]);
        let weight = self.tensor(frame, args.plain[2]);
        let (x, chosen, weight) = (x?, chosen?, weight?);
        self.need_kind(&x, false, at(0))?;
        self.need_kind(&chosen, true, at(1))?;
        self.need_rank(&x, "tokens `[T, n]`", 2, at(0))?;
        self.need_rank(&chosen, "choices `[T, k]`", 2, at(1))?;
        self.need_rank(&weight, "weights `[T, k]`", 2, at(2))?;
        self.need_equal((&x.axes[0], at(0)), (&chosen.axes[0], at(1)), "rows do not fit")?;
        for axis in 0..2 {
            self.need_equal(
                (&weight.axes[axis], at(2)),
                (&chosen.axes[axis], at(1)),
                "one weight for each choice",
            )?;
        }
        let lambda = args.lambda?;
        let [token, expert] = lambda.inputs.as_slice() else {
            return self.fail(
                Diagnostic::error("E0308", "`route` gives a token and its expert")
                    .at(lambda.span, format!("{} names", lambda.inputs.len()))
                    .help("write `|t, e| { … }`"),
            );
        };
        if self.routed.is_some() {
            return self.fail(
                Diagnostic::error("E0308", "`route` within `route`")
                    .at(span, "an expert cannot choose experts")
                    .help("choose all experts before: `top_k` over their number"),
            );
        }
        let mut inner = Frame::new(std::rc::Rc::clone(&frame.place));
        inner.locals = frame.locals.clone();
        inner.locals.insert(token.text.clone(), Value::Tensor(x));
        inner.locals.insert(expert.text.clone(), Value::ExpertIndex);
        self.routed = Some(chosen.clone());
        let results = self.body(&mut inner, &lambda.body);
        let one = match results.as_slice() {
            [(value, at)] => self.as_tensor(value.clone(), *at).map(|t| (t, *at)),
            _ => self.fail(
                Diagnostic::error("E0308", format!("an expert gives {} values", results.len()))
                    .at(lambda.span, "one is needed"),
            ),
        };
        let result = one.and_then(|(t, at)| self.combine(t, at, &chosen, &weight, span));
        self.routed = None;
        result.map(Value::Tensor)
    }

    /// The weighted sum over the chosen experts.
    fn combine(
        &mut self,
        y: Tensor,
        at: Span,
        chosen: &Tensor,
        weight: &Tensor,
        span: Span,
    ) -> Option<Tensor> {
        let y = self.spread_choices(y, chosen, at)?;
        let fits = y.axes.len() == 3 && (0..2).all(|i| y.axes[i].dim == chosen.axes[i].dim);
        if !fits {
            return self.fail(
                Diagnostic::error(
                    "E0308",
                    format!(
                        "an expert must give one row for each token, not {}",
                        full_shape(&y.axes)
                    ),
                )
                .at(at, format!("this is {}", shape(&y.axes))),
            );
        }
        let axes: Vec<Axis> = vec![y.axes[0].clone(), y.axes[2].clone()];
        self.emit(Op::Combine, &[&y, weight], stored(self), axes, span)
    }

    /// A result that is the same for all experts, once for each chosen one.
    fn spread_choices(&mut self, y: Tensor, chosen: &Tensor, span: Span) -> Option<Tensor> {
        let single = match y.axes.len() {
            2 if y.axes[0].dim == chosen.axes[0].dim => self.per_choice(&y, span)?,
            3 if y.axes[1].dim == size(1).dim && !chosen.axes[1].dim.is_one() => y,
            _ => return Some(y),
        };
        if chosen.axes[1].dim.is_one() {
            return Some(single);
        }
        let axes = vec![single.axes[0].clone(), chosen.axes[1].clone(), single.axes[2].clone()];
        let to: Vec<Dim> = axes.iter().map(|a| a.dim.clone()).collect();
        self.emit(Op::Broadcast(to), &[&single], single.dtype, axes, span)
    }
}
