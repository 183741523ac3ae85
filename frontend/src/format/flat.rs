//! Every piece of syntax on one line.

use crate::ast::*;
use std::fmt::{self, Display, Formatter};

/// `a, b, c`
pub(super) fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}

impl Display for Ident {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Display for Text {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.text)
    }
}

impl Display for AxisExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rest(_) => f.write_str(".."),
            Self::Size(e) => e.fmt(f),
        }
    }
}

impl Display for Shape {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", list(&self.axes))
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_int { "int" } else { "" }, self.shape)
    }
}

impl Display for InputDecl {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.ty)
    }
}

impl Display for Binding {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.value)
    }
}

impl Display for Arg {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} = {}", self.value),
            None => self.value.fmt(f),
        }
    }
}

/// An operand, in parentheses where the tree would otherwise change.
pub(super) fn operand(e: &Expr, parent: BinaryOp, is_right: bool) -> String {
    match &e.kind {
        ExprKind::Binary(op, ..)
            if op.precedence() < parent.precedence()
                || is_right && op.precedence() == parent.precedence() =>
        {
            format!("({e})")
        }
        _ => e.to_string(),
    }
}

/// Whether a reshape or a minus may stand directly at it.
pub(super) fn is_atom(e: &Expr) -> bool {
    !matches!(e.kind, ExprKind::Binary(..) | ExprKind::Neg(_))
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Number(n) | ExprKind::Name(n) => f.write_str(n),
            ExprKind::Neg(x) if matches!(x.kind, ExprKind::Binary(..)) => write!(f, "-({x})"),
            ExprKind::Neg(x) => write!(f, "-{x}"),
            ExprKind::Binary(op, x, y) => {
                write!(f, "{} {} {}", operand(x, *op, false), op.symbol(), operand(y, *op, true))
            }
            ExprKind::Index(name, index) => write!(f, "{name}[{index}]"),
            ExprKind::Reshape(x, shape) if is_atom(x) => write!(f, "{x} as {shape}"),
            ExprKind::Reshape(x, shape) => write!(f, "({x}) as {shape}"),
            ExprKind::Call(call) => {
                write!(f, "{}({})", call.callee, list(&call.args))?;
                let Some(lambda) = &call.lambda else { return Ok(()) };
                write!(f, " |{}| {{ ", list(&lambda.inputs))?;
                for l in &lambda.body.lets {
                    write!(f, "let {} = {} ", list(&l.names), l.value)?;
                }
                write!(f, "{} }}", list(&lambda.body.results))
            }
        }
    }
}

impl Display for Word {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(n) | Self::Number(n) => n.fmt(f),
            Self::Shape(s) => s.fmt(f),
        }
    }
}

impl Display for Setting {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let phrases = self
            .phrases
            .iter()
            .map(|words| words.iter().map(Word::to_string).collect::<Vec<_>>().join(" "));
        write!(f, "{}: {}", self.name, list(phrases))
    }
}

impl Display for SpreadDecl {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} over {} {}", self.what, self.count, self.unit)?;
        match &self.each {
            Some((count, of)) => write!(f, ", {count} per {of}"),
            None => Ok(()),
        }
    }
}

impl Display for ParallelItem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spread(spread) => spread.fmt(f),
            Self::Choice(choice) => write!(f, "{}: {}", choice.name, choice.value),
        }
    }
}

impl Display for SmsDecl {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.count)?;
        for (i, (name, count)) in self.shares.iter().enumerate() {
            write!(f, " {} {name}", if i == 0 { "=" } else { "+" })?;
            if let Some(count) = count {
                write!(f, " {count}")?;
            }
        }
        Ok(())
    }
}
