//! The operations that the language gives: one table of what they take, one file per family.

mod attention;
mod matrix;
mod pointwise;
mod routing;
mod shapes;

use super::Checker;
use super::eval::{Frame, nearest};
use super::value::{Axis, Tensor, Value};
use crate::ast::{Call, Expr, ExprKind, Lambda};
use moec_ir::graph::{ReduceFn, UnaryFn};
use moec_ir::{DType, Diagnostic, Dim, Span};
use std::collections::BTreeMap;

/// What an operation takes.
pub(super) struct Signature {
    name: &'static str,
    /// As messages and the reference show it.
    shown: &'static str,
    /// Fewest and most arguments without a name; words and settings not counted.
    count: (usize, usize),
    /// Arguments with a name.
    named: &'static [&'static str],
    /// Words that stand alone (`causal`).
    words: &'static [&'static str],
    /// Groups of settings (`yarn(…)`).
    groups: &'static [&'static str],
    /// Whether `|t, e| { … }` follows.
    lambda: bool,
}

const fn plain(name: &'static str, shown: &'static str, least: usize, most: usize) -> Signature {
    Signature {
        name,
        shown,
        count: (least, most),
        named: &[],
        words: &[],
        groups: &[],
        lambda: false,
    }
}

const MANY: usize = 1000;

/// All operations, by name.
static TABLE: [Signature; 42] = [
    plain("abs", "abs(x)", 1, 1),
    plain("append", "append(cache, x)", 2, 2),
    Signature {
        named: &["scale"],
        words: &["causal"],
        ..plain("attend", "attend(q, k, v, scale = s, causal)", 3, 3)
    },
    plain("causal_softmax", "causal_softmax(scores)", 1, 1),
    Signature { named: &["axis"], ..plain("concat", "concat(x, y, …, axis = last)", 2, MANY) },
    plain("exp", "exp(x)", 1, 1),
    plain("linear", "linear(x, w)", 2, 2),
    plain("log", "log(x)", 1, 1),
    plain("lookup", "lookup(table, ids)", 2, 2),
    plain("max", "max(x) or max(x, y)", 1, 2),
    plain("mean", "mean(x)", 1, 1),
    plain("min", "min(x, y)", 2, 2),
    plain("mix", "mix(p, v)", 2, 2),
    plain("normalize", "normalize(x)", 1, 1),
    plain("pick", "pick(x, chosen)", 2, 2),
    plain("pow", "pow(x, y)", 2, 2),
    plain("relu", "relu(x)", 1, 1),
    Signature { named: &["eps"], ..plain("rms_norm", "rms_norm(x, w, eps = 1e-6)", 2, 2) },
    Signature {
        named: &["theta", "amplitude"],
        words: &["interleaved"],
        groups: &["yarn"],
        ..plain("rotary", "rotary(x, theta = t, interleaved, yarn(factor = f, original = n))", 1, 1)
    },
    Signature { lambda: true, ..plain("route", "route(x, chosen, weight) |t, e| { … }", 3, 3) },
    plain("rsqrt", "rsqrt(x)", 1, 1),
    plain("scores", "scores(q, k)", 2, 2),
    plain("sigmoid", "sigmoid(x)", 1, 1),
    plain("sign", "sign(x)", 1, 1),
    plain("silu", "silu(x)", 1, 1),
    Signature { named: &["axis"], ..plain("slice", "slice(x, start, len, axis = last)", 3, 3) },
    plain("softmax", "softmax(x)", 1, 1),
    Signature { named: &["axis"], ..plain("split", "split(x, a, b, …, axis = last)", 2, MANY) },
    plain("spread", "spread(x, heads)", 2, 2),
    plain("sqrt", "sqrt(x)", 1, 1),
    plain("sum", "sum(x)", 1, 1),
    plain("tanh", "tanh(x)", 1, 1),
    Signature {
        named: &["groups", "of_groups", "by"],
        ..plain("top_k", "top_k(x, k, groups = g, of_groups = n, by = max)", 2, 2)
    },
    plain("transpose", "transpose(x, 1, 0, 2)", 2, 9),
    // Settings and scores that stand within others; calling them alone is a mistake.
    Signature {
        named: &["factor", "original", "beta_fast", "beta_slow"],
        ..plain("yarn", "yarn(factor = f, original = n, beta_fast = 32, beta_slow = 1)", 0, 0)
    },
    plain("sum_of_top", "sum_of_top(n)", 1, 1),
    // Losses and the optimizer, in the section `train`.
    plain("cross_entropy", "cross_entropy(logits, next)", 2, 2),
    plain("balance", "balance()", 0, 0),
    Signature {
        named: &["temperature"],
        ..plain("distill", "distill(logits, teacher, temperature = 1)", 2, 2)
    },
    Signature {
        named: &["clip", "kl"],
        ..plain("grpo", "grpo(logits, reward, clip = 0.2, kl = 0.001)", 2, 2)
    },
    plain("mtp", "mtp()", 0, 0),
    Signature {
        named: &["lr", "beta1", "beta2", "eps", "weight_decay", "clip", "moments"],
        ..plain("adamw", "adamw(lr = 2.2e-4, beta1 = 0.9, beta2 = 0.95, moments = bf16)", 0, 0)
    },
];

/// Names that mean something only within another operation or a section.
const ONLY_WITHIN: [(&str, &str); 8] = [
    ("yarn", "stands within `rotary(…)`"),
    ("sum_of_top", "stands behind `by =` in `top_k(…)`"),
    ("cross_entropy", "stands in the section `train`"),
    ("balance", "stands in the section `train`"),
    ("distill", "stands in the section `train`"),
    ("grpo", "stands in the section `train`"),
    ("mtp", "stands in the section `train`"),
    ("adamw", "stands in the section `train`"),
];

/// What an operation takes, if there is one of the name.
pub(super) fn signature(name: &str) -> Option<&'static Signature> {
    TABLE.iter().find(|s| s.name == name && !within(name))
}

/// Whether a name means something only within something else.
fn within(name: &str) -> bool {
    ONLY_WITHIN.iter().any(|(n, _)| *n == name)
}

/// Names of all operations.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|s| s.name).filter(|n| !within(n))
}

/// The arguments of a call, sorted by kind.
pub(super) struct Args<'a> {
    /// Those without a name.
    pub(super) plain: Vec<&'a Expr>,
    /// Those with a name.
    pub(super) named: BTreeMap<&'a str, &'a Expr>,
    /// Words that stand alone.
    pub(super) words: Vec<&'a str>,
    /// Groups of settings.
    pub(super) groups: Vec<(&'a Call, Span)>,
    /// What follows in braces.
    pub(super) lambda: Option<&'a Lambda>,
}

impl<'a> Checker<'a> {
    /// The arguments of a call against the table (E0205).
    pub(super) fn args(&mut self, call: &'a Call, span: Span) -> Option<Args<'a>> {
        let name = call.callee.text.as_str();
        let signature = TABLE.iter().find(|s| s.name == name)?;
        let mut args = Args {
            plain: vec![],
            named: BTreeMap::new(),
            words: vec![],
            groups: vec![],
            lambda: call.lambda.as_ref(),
        };
        let usage = format!("write `{}`", signature.shown);
        for arg in &call.args {
            match (&arg.name, &arg.value.kind) {
                (Some(n), _) if !signature.named.contains(&n.text.as_str()) => {
                    let near = nearest(&n.text, signature.named.iter().copied());
                    let help = near.map_or(usage, |near| format!("did you mean `{near}`?"));
                    return self.fail(
                        Diagnostic::error("E0205", format!("`{name}` has no argument `{n}`"))
                            .at(n.span, "unknown")
                            .help(help),
                    );
                }
                (Some(n), _) if args.named.insert(&n.text, &arg.value).is_some() => {
                    return self.fail(
                        Diagnostic::error("E0205", format!("`{n}` is given twice"))
                            .at(n.span, "given again here"),
                    );
                }
                (Some(_), _) => {}
                (None, ExprKind::Name(word)) if signature.words.contains(&word.as_str()) => {
                    args.words.push(word);
                }
                (None, ExprKind::Call(inner))
                    if signature.groups.contains(&inner.callee.text.as_str()) =>
                {
                    args.groups.push((inner, arg.value.span));
                }
                (None, _) => args.plain.push(&arg.value),
            }
        }
        let (least, most) = signature.count;
        if args.plain.len() < least || args.plain.len() > most {
            let wanted = match (least, most) {
                (a, b) if a == b => format!("{a}"),
                (a, MANY) => format!("at least {a}"),
                (a, b) => format!("{a} to {b}"),
            };
            return self.fail(
                Diagnostic::error(
                    "E0205",
                    format!("`{name}` takes {wanted} arguments, found {}", args.plain.len()),
                )
                .at(span, "in this call")
                .help(usage),
            );
        }
        if signature.lambda != args.lambda.is_some() {
            let what = if signature.lambda { "needs" } else { "takes no" };
            return self.fail(
                Diagnostic::error("E0205", format!("`{name}` {what} `|t, e| {{ … }}`"))
                    .at(args.lambda.map_or(span, |l| l.span), "here")
                    .help(usage),
            );
        }
        Some(args)
    }

    /// What an operation gives.
    pub(super) fn builtin(
        &mut self,
        frame: &mut Frame,
        call: &'a Call,
        span: Span,
    ) -> Option<Value> {
        let name = call.callee.text.as_str();
        let args = self.args(call, span)?;
        match name {
            "linear" => self.linear(frame, &args, span),
            "lookup" => self.lookup(frame, &args, span),
            "rms_norm" => self.rms_norm(frame, &args, span),
            "split" => self.split(frame, &args, span),
            "slice" => self.slice(frame, &args, span),
            "concat" => self.concat(frame, &args, span),
            "transpose" => self.transpose(frame, &args, span),
            "spread" => self.spread(frame, &args, span),
            "rotary" => self.rotary(frame, &args, span),
            "append" => self.append(frame, &args, span),
            "attend" => self.attend(frame, &args, span),
            "scores" => self.scores(frame, &args, span),
            "causal_softmax" => self.causal_softmax(frame, &args, span),
            "mix" => self.mix(frame, &args, span),
            "top_k" => self.top_k(frame, &args, span),
            "pick" => self.pick(frame, &args, span),
            "normalize" => self.normalize(frame, &args, span),
            "route" => self.route(frame, &args, span),
            "softmax" => self.softmax(frame, &args, span),
            "sum" => self.reduce(frame, ReduceFn::Sum, &args, span),
            "mean" => self.reduce(frame, ReduceFn::Mean, &args, span),
            "max" | "min" => self.extremum(frame, name == "max", &args, span),
            "pow" => self.pow(frame, &args, span),
            _ => self.function_of_one(frame, unary_function(name)?, &args, span),
        }
    }

    /// An argument with a name, as a number; the default where it is not given.
    pub(super) fn setting(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        name: &str,
        default: f64,
    ) -> Option<f64> {
        match args.named.get(name) {
            Some(e) => self.scalar(frame, e),
            None => Some(default),
        }
    }

    /// The axis that `axis =` names; the last where it is not given.
    fn axis(
        &mut self,
        frame: &mut Frame,
        args: &Args<'a>,
        x: &Tensor,
        span: Span,
    ) -> Option<usize> {
        let axis = match args.named.get("axis") {
            None => x.axes.len().checked_sub(1),
            Some(e) => {
                let value = self.scalar(frame, e)?;
                (0..x.axes.len()).find(|&i| i as f64 == value)
            }
        };
        match axis {
            Some(axis) => Some(axis),
            None => self.fail(
                Diagnostic::error("E0302", format!("the tensor has {} axes", x.axes.len()))
                    .at(args.named.get("axis").map_or(span, |e| e.span), "no such axis")
                    .help("axes count from 0"),
            ),
        }
    }

    /// E0302 where a tensor does not have as many axes as an operation needs.
    fn need_rank(&mut self, x: &Tensor, shown: &str, rank: usize, span: Span) -> Option<()> {
        if x.axes.len() == rank {
            return Some(());
        }
        self.fail(
            Diagnostic::error(
                "E0302",
                format!("expected {shown}, found {}", super::value::full_shape(&x.axes)),
            )
            .at(span, format!("this has {} axes", x.axes.len())),
        )
    }

    /// E0302 where a tensor holds integers (or does not).
    fn need_kind(&mut self, x: &Tensor, is_int: bool, span: Span) -> Option<()> {
        if (x.dtype == DType::I32) == is_int {
            return Some(());
        }
        let (wanted, found) = if is_int { ("integers", "reals") } else { ("reals", "integers") };
        self.fail(
            Diagnostic::error("E0302", format!("expected {wanted}, found {found}"))
                .at(span, format!("these are {found}")),
        )
    }

    /// E0301 where two sizes that must agree do not.
    fn need_equal(
        &mut self,
        (a, a_span): (&Axis, Span),
        (b, b_span): (&Axis, Span),
        what: &str,
    ) -> Option<()> {
        if a.dim == b.dim {
            return Some(());
        }
        self.fail(
            Diagnostic::error("E0301", format!("{what}: `{}` against `{}`", a.full(), b.full()))
                .at(a_span, format!("`{a}` here"))
                .and(b_span, format!("`{b}` here")),
        )
    }
}

/// The type of a result that is stored: activations.
pub(super) fn size(n: u64) -> Axis {
    Axis::plain(Dim::from(n))
}

fn unary_function(name: &str) -> Option<UnaryFn> {
    Some(match name {
        "abs" => UnaryFn::Abs,
        "exp" => UnaryFn::Exp,
        "log" => UnaryFn::Log,
        "relu" => UnaryFn::Relu,
        "rsqrt" => UnaryFn::Rsqrt,
        "sigmoid" => UnaryFn::Sigmoid,
        "sign" => UnaryFn::Sign,
        "silu" => UnaryFn::Silu,
        "sqrt" => UnaryFn::Sqrt,
        "tanh" => UnaryFn::Tanh,
        _ => return None,
    })
}

/// Where a name means something, if it means nothing alone.
pub(super) fn only_within(name: &str) -> Option<&'static str> {
    ONLY_WITHIN.iter().find(|(n, _)| *n == name).map(|(_, place)| *place)
}
