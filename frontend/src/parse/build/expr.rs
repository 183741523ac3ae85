//! pest's pairs to syntax tree: expressions and bodies.
//!
//! Each builder also returns how deep the tree below it is, and refuses trees deeper than
//! [`MAX_DEPTH`]: later stages recurse over them.

use super::{Built, ident, parts, shape, span};
use crate::ast::*;
use crate::parse::{MAX_DEPTH, Rule, too_deep};
use moec_ir::Span;
use pest::iterators::Pair;

/// A piece of tree and the depth of the expressions in it.
type Deep<T> = (T, usize);

fn deeper(depth: usize, span: Span) -> Built<usize> {
    if depth >= MAX_DEPTH { Err(too_deep(span)) } else { Ok(depth + 1) }
}

/// A sum of products.
pub(super) fn expr(pair: Pair<'_, Rule>) -> Built<Expr> {
    Ok(sum(pair)?.0)
}

/// `{ let … result, … }`
pub(super) fn body(pair: Pair<'_, Rule>) -> Built<Body> {
    Ok(deep_body(pair)?.0)
}

fn deep_body(pair: Pair<'_, Rule>) -> Built<Deep<Body>> {
    let whole = span(&pair);
    let mut inner = parts(pair);
    let mut deepest = 0;
    let mut lets = Vec::new();
    while let Some(pair) = inner.next_if(Rule::let_bind) {
        let span = span(&pair);
        let mut bind = parts(pair);
        let names = bind.all(Rule::name, |p| Ok(ident(&p)))?;
        let (value, depth) = sum(bind.next()?)?;
        deepest = deepest.max(depth);
        lets.push(Let { names, value, span });
    }
    let mut results = Vec::new();
    while let Some(pair) = inner.next_if(Rule::expr) {
        let (value, depth) = sum(pair)?;
        deepest = deepest.max(depth);
        results.push(value);
    }
    Ok((Body { lets, results, span: whole }, deepest))
}

fn sum(pair: Pair<'_, Rule>) -> Built<Deep<Expr>> {
    chain(pair, |p| chain(p, factor))
}

fn chain(
    pair: Pair<'_, Rule>,
    operand: impl for<'b> Fn(Pair<'b, Rule>) -> Built<Deep<Expr>>,
) -> Built<Deep<Expr>> {
    let mut inner = parts(pair);
    let (mut left, mut depth) = operand(inner.next()?)?;
    while let Ok(operator) = inner.next() {
        let op = match operator.as_str().trim_end() {
            "+" => BinaryOp::Add,
            "-" => BinaryOp::Sub,
            "*" => BinaryOp::Mul,
            _ => BinaryOp::Div,
        };
        let (right, right_depth) = operand(inner.next()?)?;
        depth = deeper(depth.max(right_depth), span(&operator))?;
        let span = left.span.to(right.span);
        left = Expr { kind: ExprKind::Binary(op, Box::new(left), Box::new(right)), span };
    }
    Ok((left, depth))
}

/// `- - atom as [..] as [..]`
fn factor(pair: Pair<'_, Rule>) -> Built<Deep<Expr>> {
    let mut inner = parts(pair);
    let mut minuses = Vec::new();
    while let Some(minus) = inner.next_if(Rule::minus) {
        minuses.push(span(&minus));
    }
    let (mut value, mut depth) = atom(inner.next()?)?;
    while let Some(pair) = inner.next_if(Rule::shape) {
        let shape = shape(pair)?;
        let span = value.span.to(shape.span);
        depth = deeper(depth, span)?;
        value = Expr { kind: ExprKind::Reshape(Box::new(value), shape), span };
    }
    for minus in minuses.iter().rev() {
        depth = deeper(depth, *minus)?;
        value = Expr { span: minus.to(value.span), kind: ExprKind::Neg(Box::new(value)) };
    }
    Ok((value, depth))
}

fn atom(pair: Pair<'_, Rule>) -> Built<Deep<Expr>> {
    let outer = span(&pair);
    let inner = parts(pair).next()?;
    let span = span(&inner);
    let (kind, depth) = match inner.as_rule() {
        Rule::call => {
            let (call, depth) = call(inner)?;
            (ExprKind::Call(Box::new(call)), depth)
        }
        Rule::index => {
            let mut index = parts(inner);
            let name = index.ident()?;
            let (value, depth) = sum(index.next()?)?;
            (ExprKind::Index(name, Box::new(value)), depth)
        }
        Rule::number => (ExprKind::Number(ident(&inner).text), 0),
        Rule::name => (ExprKind::Name(ident(&inner).text), 0),
        // Parentheses leave their mark in the shape of the tree; the span holds them.
        _ => {
            let (value, depth) = sum(inner)?;
            return Ok((Expr { span: outer, ..value }, depth));
        }
    };
    Ok((Expr { kind, span }, deeper(depth, span)?))
}

fn call(pair: Pair<'_, Rule>) -> Built<Deep<Call>> {
    let mut inner = parts(pair);
    let callee = inner.ident()?;
    let mut args = Vec::new();
    let mut deepest = 0;
    while let Some(pair) = inner.next_if(Rule::arg) {
        let value = parts(pair).next()?;
        let (name, value) = if value.as_rule() == Rule::named {
            let mut named = parts(value);
            (Some(named.ident()?), named.next()?)
        } else {
            (None, value)
        };
        let (value, depth) = sum(value)?;
        deepest = deepest.max(depth);
        args.push(Arg { name, value });
    }
    let lambda = match inner.next_if(Rule::lambda) {
        None => None,
        Some(pair) => {
            let span = span(&pair);
            let mut inner = parts(pair);
            let inputs = inner.all(Rule::name, |p| Ok(ident(&p)))?;
            let (body, depth) = deep_body(inner.next()?)?;
            deepest = deepest.max(depth);
            Some(Lambda { inputs, body, span })
        }
    };
    Ok((Call { callee, args, lambda }, deepest))
}
