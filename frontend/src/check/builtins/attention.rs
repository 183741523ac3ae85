//! Positions, caches and attention.

use super::pointwise::stored;
use super::{Args, size};
use crate::check::Checker;
use crate::check::eval::Frame;
use crate::check::value::{Axis, Tensor, Value, full_shape, shape};
use moec_ir::graph::{Op, Rotary, Yarn};
use moec_ir::{DType, Diagnostic, Real, Span, Sym};

impl<'a> Checker<'a> {
    /// `rotary(x, theta = t, interleaved, amplitude = a, yarn(…))`
    pub(super) fn rotary(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let at = args.plain[0].span;
        let x = self.tensor(frame, args.plain[0])?;
        let theta = self.setting(frame, args, "theta", 10000.0)?;
        let amplitude = self.setting(frame, args, "amplitude", 1.0)?;
        let yarn = match args.groups.as_slice() {
            [] => None,
            [(call, at)] => Some(self.yarn(frame, call, *at)?),
            [_, (_, second), ..] => {
                return self.fail(
                    Diagnostic::error("E0205", "`yarn` is given twice")
                        .at(*second, "given again here"),
                );
            }
        };
        let by_token =
            (x.axes.len() == 2 || x.axes.len() == 3) && x.axes[0].dim == Sym::Tokens.into();
        if !by_token || x.dtype == DType::I32 {
            return self.fail(
                Diagnostic::error(
                    "E0302",
                    format!(
                        "`rotary` turns `[T, d]` or `[T, heads, d]`, not {}",
                        full_shape(&x.axes)
                    ),
                )
                .at(at, format!("this is {}", shape(&x.axes)))
                .help("turn keys before they are appended to the cache"),
            );
        }
        let Some(dim) = x.axes.last().and_then(|a| a.dim.constant()).filter(|d| d % 2 == 0) else {
            return self.fail(
                Diagnostic::error("E0303", "`rotary` turns pairs of elements")
                    .at(at, format!("the last axis of {} is odd", full_shape(&x.axes))),
            );
        };
        if theta <= 1.0 {
            let at = args.named.get("theta").map_or(span, |e| e.span);
            return self
                .fail(Diagnostic::error("E0303", "`theta` must be more than 1").at(at, "here"));
        }
        let interleaved = args.words.contains(&"interleaved");
        let rotary =
            Rotary { dim, theta: Real(theta), interleaved, amplitude: Real(amplitude), yarn };
        self.emit(Op::Rotary(rotary), &[&x], x.dtype, x.axes.clone(), span).map(Value::Tensor)
    }

    /// `yarn(factor = f, original = n, beta_fast = 32, beta_slow = 1)`
    fn yarn(&mut self, frame: &mut Frame, call: &'a crate::ast::Call, span: Span) -> Option<Yarn> {
        let args = self.args(call, span)?;
        for needed in ["factor", "original"] {
            if !args.named.contains_key(needed) {
                return self.fail(
                    Diagnostic::error("E0205", format!("`yarn` needs `{needed}`"))
                        .at(span, "not given")
                        .help("write `yarn(factor = 40, original = 4096)`"),
                );
            }
        }
        let factor = self.setting(frame, &args, "factor", 1.0)?;
        let original = self.setting(frame, &args, "original", 1.0)?;
        let beta_fast = self.setting(frame, &args, "beta_fast", 32.0)?;
        let beta_slow = self.setting(frame, &args, "beta_slow", 1.0)?;
        if [factor, original, beta_fast, beta_slow].iter().any(|x| *x <= 0.0) {
            return self.fail(
                Diagnostic::error("E0303", "the settings of `yarn` must be positive")
                    .at(span, "here"),
            );
        }
        Some(Yarn {
            factor: Real(factor),
            original: Real(original),
            beta_fast: Real(beta_fast),
            beta_slow: Real(beta_slow),
        })
    }

    /// `append(cache, x)`: `[T, D..] -> [S, D..]`
    pub(super) fn append(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let (cache_at, x_at) = (args.plain[0].span, args.plain[1].span);
        let cache = match self.eval(frame, args.plain[0]) {
            Value::Cache(cache) => Some(cache),
            other => self.wrong_kind("a cache", &other, cache_at),
        };
        let x = self.tensor(frame, args.plain[1]);
        let (cache, x) = (cache?, x?);
        let mut row = vec![Axis::plain(Sym::Tokens.into())];
        row.extend(cache.axes.iter().cloned());
        let fits =
            x.axes.len() == row.len() && x.axes.iter().zip(&row).all(|(a, b)| a.dim == b.dim);
        if !fits {
            return self.fail(
                Diagnostic::error(
                    "E0301",
                    format!("the cache takes {}, not {}", full_shape(&row), full_shape(&x.axes)),
                )
                .at(x_at, format!("this is {}", shape(&x.axes)))
                .and(cache_at, format!("keeps {} of each token", shape(&cache.axes))),
            );
        }
        let builder = self.builders.last_mut()?;
        if let Some(first) = builder.appended.insert(cache.node.0, span) {
            return self.fail(
                Diagnostic::error("E0307", "this cache is appended to twice in one step")
                    .at(span, "again here")
                    .and(first, "first here")
                    .help("declare a second `cache`"),
            );
        }
        row[0] = Axis::plain(Sym::Past.into());
        self.emit(Op::Append, &[&cache, &x], cache.dtype, row, span).map(Value::Tensor)
    }

    /// Keys or values: `[S, heads, n]`; `[S, n]` is one head.
    fn by_head(&mut self, frame: &mut Frame, e: &'a crate::ast::Expr) -> Option<Tensor> {
        let x = self.tensor(frame, e)?;
        self.need_kind(&x, false, e.span)?;
        if x.axes.len() == 2 {
            let axes = vec![x.axes[0].clone(), size(1), x.axes[1].clone()];
            return self.reshape(&x, axes, e.span);
        }
        self.need_rank(&x, "`[S, heads, n]`", 3, e.span)?;
        Some(x)
    }

    /// Rows `T` or `S`, as attention needs them.
    fn need_rows(&mut self, x: &Tensor, sym: Sym, span: Span) -> Option<()> {
        if x.axes[0].dim == sym.into() {
            return Some(());
        }
        let help = match sym {
            Sym::Past => {
                "append to a `cache` first: `append(keys, k)` gives the rows of all tokens"
            }
            _ => "queries have one row for each token of this step",
        };
        self.fail(
            Diagnostic::error(
                "E0301",
                format!("expected rows `{}`, found {}", sym.name(), full_shape(&x.axes)),
            )
            .at(span, format!("this is {}", shape(&x.axes)))
            .help(help),
        )
    }

    /// Heads of keys and values divide the heads of queries.
    fn need_heads(&mut self, q: (&Axis, Span), k: (&Axis, Span)) -> Option<()> {
        let divides = match (q.0.dim.constant(), k.0.dim.constant()) {
            (Some(h), Some(g)) => g > 0 && h % g == 0,
            _ => false,
        };
        if divides {
            return Some(());
        }
        self.fail(
            Diagnostic::error(
                "E0301",
                format!("`{}` heads cannot share `{}` heads", q.0.full(), k.0.full()),
            )
            .at(k.1, format!("`{}` heads", k.0))
            .and(q.1, format!("`{}` heads", q.0))
            .help("the heads of keys and values must divide those of queries"),
        )
    }

    /// `attend(q, k, v, scale = s, causal)`
    pub(super) fn attend(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let [q_e, k_e, v_e] = args.plain.as_slice() else { return None };
        let q = self.by_head(frame, q_e);
        let k = self.by_head(frame, k_e);
        let v = self.by_head(frame, v_e);
        let Some(scale) = args.named.get("scale") else {
            return self.fail(
                Diagnostic::error("E0205", "`attend` needs `scale`")
                    .at(span, "not given")
                    .help("write `scale = 1 / sqrt(d)`, where `d` is the size of a head"),
            );
        };
        let scale = self.scalar(frame, scale)?;
        if !args.words.contains(&"causal") {
            return self.fail(
                Diagnostic::error("E0205", "only causal attention can be computed")
                    .at(span, "each token would see those behind it")
                    .help("add `causal`"),
            );
        }
        let (q, k, v) = (q?, k?, v?);
        self.need_rows(&q, Sym::Tokens, q_e.span)?;
        self.need_rows(&k, Sym::Past, k_e.span)?;
        self.need_rows(&v, Sym::Past, v_e.span)?;
        self.need_equal(
            (&k.axes[2], k_e.span),
            (&q.axes[2], q_e.span),
            "keys and queries do not fit",
        )?;
        self.need_heads((&q.axes[1], q_e.span), (&k.axes[1], k_e.span))?;
        self.need_heads((&q.axes[1], q_e.span), (&v.axes[1], v_e.span))?;
        let axes = vec![q.axes[0].clone(), q.axes[1].clone(), v.axes[2].clone()];
        self.emit(Op::Attend { scale: Real(scale) }, &[&q, &k, &v], stored(self), axes, span)
            .map(Value::Tensor)
    }

    /// `scores(q, k)`: `[T, H, S]`, in float32.
    pub(super) fn scores(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let (q_at, k_at) = (args.plain[0].span, args.plain[1].span);
        let q = self.by_head(frame, args.plain[0]);
        let k = self.by_head(frame, args.plain[1]);
        let (q, k) = (q?, k?);
        self.need_rows(&q, Sym::Tokens, q_at)?;
        self.need_rows(&k, Sym::Past, k_at)?;
        self.need_equal((&k.axes[2], k_at), (&q.axes[2], q_at), "keys and queries do not fit")?;
        self.need_heads((&q.axes[1], q_at), (&k.axes[1], k_at))?;
        let axes = vec![q.axes[0].clone(), q.axes[1].clone(), k.axes[0].clone()];
        self.emit(Op::Scores, &[&q, &k], DType::F32, axes, span).map(Value::Tensor)
    }

    /// `causal_softmax(scores)`
    pub(super) fn causal_softmax(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        span: Span,
    ) -> Option<Value> {
        let at = args.plain[0].span;
        let x = self.tensor(frame, args.plain[0])?;
        self.need_rank(&x, "scores `[T, heads, S]`", 3, at)?;
        self.need_rows(&x, Sym::Tokens, at)?;
        self.need_equal(
            (&x.axes[2], at),
            (&Axis::plain(Sym::Past.into()), span),
            "not the scores of all tokens",
        )?;
        self.emit(Op::CausalSoftmax, &[&x], x.dtype, x.axes.clone(), span).map(Value::Tensor)
    }

    /// `mix(p, v)`: `[T, H, S], [S, Hv, V] -> [T, H, V]`
    pub(super) fn mix(&mut self, frame: &mut Frame, args: &Args<'a>, span: Span) -> Option<Value> {
        let (p_at, v_at) = (args.plain[0].span, args.plain[1].span);
        let p = self.tensor(frame, args.plain[0]);
        let v = self.by_head(frame, args.plain[1]);
        let (p, v) = (p?, v?);
        self.need_rank(&p, "weights `[T, heads, S]`", 3, p_at)?;
        self.need_rows(&p, Sym::Tokens, p_at)?;
        self.need_rows(&v, Sym::Past, v_at)?;
        self.need_equal((&p.axes[2], p_at), (&v.axes[0], v_at), "one weight for each value")?;
        self.need_heads((&p.axes[1], p_at), (&v.axes[1], v_at))?;
        let axes = vec![p.axes[0].clone(), p.axes[1].clone(), v.axes[2].clone()];
        self.emit(Op::Mix, &[&p, &v], stored(self), axes, span).map(Value::Tensor)
    }
}
