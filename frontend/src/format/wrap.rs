//! Expressions over several lines, where one is too long.

use super::WIDTH;
use super::flat::{is_atom, list, operand};
use crate::ast::*;

/// The text of an expression that begins at `column` of a line indented by `indent`.
pub(super) fn expr(e: &Expr, indent: usize, column: usize) -> String {
    let flat = e.to_string();
    if column + flat.chars().count() <= WIDTH && !must_break(e) {
        return flat;
    }
    match &e.kind {
        ExprKind::Binary(op, ..) => chain(e, op.precedence(), indent, column),
        ExprKind::Call(call) => broken_call(call, indent, column),
        ExprKind::Reshape(x, shape) if is_atom(x) => {
            format!("{} as {shape}", expr(x, indent, column))
        }
        ExprKind::Neg(x) if is_atom(x) => format!("-{}", expr(x, indent, column + 1)),
        _ => flat,
    }
}

/// Whether it holds a lambda with definitions, which stand on lines of their own.
fn must_break(e: &Expr) -> bool {
    match &e.kind {
        ExprKind::Number(_) | ExprKind::Name(_) => false,
        ExprKind::Neg(x) | ExprKind::Reshape(x, _) | ExprKind::Index(_, x) => must_break(x),
        ExprKind::Binary(_, x, y) => must_break(x) || must_break(y),
        ExprKind::Call(call) => {
            call.args.iter().any(|a| must_break(&a.value))
                || call.lambda.as_ref().is_some_and(|l| {
                    !l.body.lets.is_empty() || l.body.results.iter().any(must_break)
                })
        }
    }
}

/// `a + b - c`: each operator begins a line.
fn chain(e: &Expr, precedence: u8, indent: usize, column: usize) -> String {
    let mut operands = Vec::new();
    let mut left = e;
    while let ExprKind::Binary(op, x, y) = &left.kind {
        if op.precedence() != precedence {
            break;
        }
        operands.push((*op, y.as_ref()));
        left = x;
    }
    let one = |operator: BinaryOp, x: &Expr, is_right: bool, column: usize| {
        let flat = operand(x, operator, is_right);
        if flat.starts_with('(') && !matches!(x.kind, ExprKind::Reshape(..)) {
            format!("({})", expr(x, indent + 2, column + 1))
        } else {
            expr(x, if is_right { indent + 2 } else { indent }, column)
        }
    };
    let last = operands.last().map_or(BinaryOp::Add, |(op, _)| *op);
    let mut text = one(last, left, false, column);
    for (op, right) in operands.iter().rev() {
        let pad = " ".repeat(indent + 2);
        let right = one(*op, right, true, indent + 4);
        text.push_str(&format!("\n{pad}{} {right}", op.symbol()));
    }
    text
}

fn broken_call(call: &Call, indent: usize, column: usize) -> String {
    let pad = " ".repeat(indent);
    let head = format!("{}({})", call.callee, list(&call.args));
    let forced = call.args.iter().any(|a| must_break(&a.value));
    let behind = call.lambda.as_ref().map_or(0, |l| list(&l.inputs).len() + 5);
    let mut text = if !forced && column + head.chars().count() + behind <= WIDTH {
        head
    } else if call.args.is_empty() {
        format!("{}()", call.callee)
    } else {
        let args = call.args.iter().map(|a| {
            let name = a.name.as_ref().map_or(String::new(), |n| format!("{n} = "));
            let value = expr(&a.value, indent + 2, indent + 2 + name.len());
            format!("\n{pad}  {name}{value}")
        });
        format!("{}({}\n{pad})", call.callee, args.collect::<Vec<_>>().join(","))
    };
    if let Some(lambda) = &call.lambda {
        text.push_str(&format!(" |{}| {{", list(&lambda.inputs)));
        for l in &lambda.body.lets {
            text.push_str(&format!("\n{pad}  {}", definition(l, 0, indent + 2)));
        }
        text.push_str(&format!("\n{pad}  {}", results(&lambda.body.results, indent + 2)));
        text.push_str(&format!("\n{pad}}}"));
    }
    text
}

/// `let a, b = …` with the names padded to a width.
pub(super) fn definition(l: &Let, width: usize, indent: usize) -> String {
    let head = format!("let {:width$} = ", list(&l.names));
    let value = expr(&l.value, indent, indent + head.chars().count());
    head + &value
}

/// `a, b`: what a body returns.
pub(super) fn results(all: &[Expr], indent: usize) -> String {
    all.iter().map(|e| expr(e, indent, indent)).collect::<Vec<_>>().join(", ")
}
