//! pest's pairs to syntax tree: files, models, blocks and declarations.

mod expr;
mod section;

use super::Rule;
use crate::ast::*;
use moec_ir::{Diagnostic, Span};
use pest::iterators::Pair;

/// A piece of tree, or what is wrong with the text.
type Built<T> = Result<T, Diagnostic>;

/// Where a pair stands. pest's own span of a rule that ends in an optional part holds the
/// blanks and comments behind it; its last token does not.
fn span(pair: &Pair<'_, Rule>) -> Span {
    fn end(pair: &Pair<'_, Rule>) -> usize {
        match pair.clone().into_inner().next_back() {
            Some(last) => end(&last),
            None => pair.as_span().end(),
        }
    }
    Span { start: pair.as_span().start(), end: end(pair) }
}

/// The children of a pair without punctuation and keywords (those whose presence carries
/// meaning are looked for by [`has`]).
struct Parts<'a> {
    parent: Span,
    pairs: std::iter::Peekable<std::vec::IntoIter<Pair<'a, Rule>>>,
}

fn parts(pair: Pair<'_, Rule>) -> Parts<'_> {
    let parent = span(&pair);
    let kept: Vec<_> = pair.into_inner().filter(|p| !is_punctuation(p.as_rule())).collect();
    Parts { parent, pairs: kept.into_iter().peekable() }
}

fn has(pair: &Pair<'_, Rule>, rule: Rule) -> bool {
    pair.clone().into_inner().any(|p| p.as_rule() == rule)
}

fn is_punctuation(rule: Rule) -> bool {
    use Rule::*;
    matches!(
        rule,
        open | close
            | lparen
            | rparen
            | lbracket
            | rbracket
            | comma
            | colon
            | equals
            | plus
            | plus_equals
            | arrow
            | pipe
            | over
            | k_per
            | EOI
            | k_model
            | k_block
            | k_param
            | k_state
            | k_cache
            | k_use
            | k_for
            | k_in
            | k_fn
            | k_entry
            | k_let
            | k_dim
            | k_as
            | k_int
            | k_precision
            | k_parallel
            | k_train
            | k_target
    )
}

impl<'a> Parts<'a> {
    /// The next child, which the grammar guarantees.
    fn next(&mut self) -> Built<Pair<'a, Rule>> {
        self.pairs.next().ok_or_else(|| {
            Diagnostic::error("E0101", "something is missing here").at(self.parent, "in this")
        })
    }

    /// The next child if it is of a rule.
    fn next_if(&mut self, rule: Rule) -> Option<Pair<'a, Rule>> {
        self.pairs.next_if(|p| p.as_rule() == rule)
    }

    /// The next child as a name.
    fn ident(&mut self) -> Built<Ident> {
        Ok(ident(&self.next()?))
    }

    /// All following children of a rule.
    fn all<T>(&mut self, rule: Rule, build: impl Fn(Pair<'a, Rule>) -> Built<T>) -> Built<Vec<T>> {
        let mut found = Vec::new();
        while let Some(pair) = self.next_if(rule) {
            found.push(build(pair)?);
        }
        Ok(found)
    }
}

fn ident(pair: &Pair<'_, Rule>) -> Ident {
    Ident { text: pair.as_str().trim_end().to_owned(), span: span(pair) }
}

/// The whole file.
pub(super) fn file(pair: Pair<'_, Rule>) -> Built<Ast> {
    let whole = span(&pair);
    let mut ast = Ast { models: vec![], targets: vec![], span: whole };
    for item in parts(pair).pairs {
        match item.as_rule() {
            Rule::model => ast.models.push(model(item)?),
            _ => ast.targets.push(section::target(item)?),
        }
    }
    Ok(ast)
}

fn model(pair: Pair<'_, Rule>) -> Built<ModelDecl> {
    let span = span(&pair);
    let mut inner = parts(pair);
    let name = inner.ident()?;
    Ok(ModelDecl { name, members: inner.pairs.map(member).collect::<Built<_>>()?, span })
}

fn member(pair: Pair<'_, Rule>) -> Built<Member> {
    let span = span(&pair);
    Ok(match pair.as_rule() {
        Rule::dims => Member::Dims(parts(pair).all(Rule::dim, binding)?, span),
        Rule::constant => Member::Let(binding(pair)?),
        Rule::param => Member::Param(param(pair)?),
        Rule::cache => {
            let mut inner = parts(pair);
            Member::Cache(CacheDecl { name: inner.ident()?, shape: shape(inner.next()?)?, span })
        }
        Rule::use_block => Member::Use(use_block(pair)?),
        Rule::block => Member::Block(block(pair)?),
        Rule::precision => Member::Precision(section::precision(pair)?),
        Rule::parallel => Member::Parallel(section::parallel(pair)?),
        Rule::train => Member::Train(section::train(pair)?),
        _ => Member::Function(function(pair)?),
    })
}

/// Any `name = expression`.
fn binding(pair: Pair<'_, Rule>) -> Built<Binding> {
    let span = span(&pair);
    let mut inner = parts(pair);
    Ok(Binding { name: inner.ident()?, value: expr::expr(inner.next()?)?, span })
}

fn text(pair: &Pair<'_, Rule>) -> Text {
    Text { text: pair.as_str().trim_end().trim_matches('"').to_owned(), span: span(pair) }
}

fn param(pair: Pair<'_, Rule>) -> Built<ParamDecl> {
    let span = span(&pair);
    let is_state = has(&pair, Rule::k_state);
    let mut inner = parts(pair);
    Ok(ParamDecl {
        name: inner.ident()?,
        is_state,
        shape: shape(inner.next()?)?,
        tensor: text(&inner.next()?),
        span,
    })
}

fn use_block(pair: Pair<'_, Rule>) -> Built<UseDecl> {
    let span = span(&pair);
    let mut inner = parts(pair);
    let (name, block) = (inner.ident()?, inner.ident()?);
    let sizes = match inner.next_if(Rule::sizes) {
        Some(sizes) => parts(sizes).all(Rule::expr, expr::expr)?,
        None => vec![],
    };
    let range = inner.next_if(Rule::range).map(range).transpose()?;
    Ok(UseDecl { name, block, sizes, range, prefix: text(&inner.next()?), span })
}

fn range(pair: Pair<'_, Rule>) -> Built<RangeDecl> {
    let span = span(&pair);
    let mut inner = parts(pair);
    let (variable, first) = (inner.ident()?, expr::expr(inner.next()?)?);
    inner.next_if(Rule::dots);
    Ok(RangeDecl { variable, first, end: expr::expr(inner.next()?)?, span })
}

fn block(pair: Pair<'_, Rule>) -> Built<BlockDecl> {
    let span = span(&pair);
    let mut inner = parts(pair);
    let name = inner.ident()?;
    let sizes = match inner.next_if(Rule::names) {
        Some(names) => parts(names).all(Rule::name, |p| Ok(ident(&p)))?,
        None => vec![],
    };
    Ok(BlockDecl { name, sizes, members: inner.pairs.map(member).collect::<Built<_>>()?, span })
}

fn function(pair: Pair<'_, Rule>) -> Built<FunctionDecl> {
    let span = span(&pair);
    let kind = match pair.as_rule() {
        Rule::forward => FunctionKind::Forward,
        Rule::entry => FunctionKind::Entry,
        _ => FunctionKind::Named,
    };
    let mut inner = parts(pair);
    let name = inner.next_if(Rule::name).map(|p| ident(&p));
    let mut signature = parts(inner.next()?);
    let inputs = signature.all(Rule::input, |p| {
        let mut input = parts(p);
        Ok(InputDecl { name: input.ident()?, ty: ty(input.next()?)? })
    })?;
    let results = signature.all(Rule::ty, ty)?;
    Ok(FunctionDecl { kind, name, inputs, results, body: expr::body(inner.next()?)?, span })
}

fn ty(pair: Pair<'_, Rule>) -> Built<Type> {
    let (span, is_int) = (span(&pair), has(&pair, Rule::k_int));
    Ok(Type { is_int, shape: shape(parts(pair).next()?)?, span })
}

fn shape(pair: Pair<'_, Rule>) -> Built<Shape> {
    let whole = span(&pair);
    let axes = parts(pair).all(Rule::axis, |axis| {
        let inner = parts(axis).next()?;
        Ok(match inner.as_rule() {
            Rule::dots => AxisExpr::Rest(span(&inner)),
            _ => AxisExpr::Size(expr::expr(inner)?),
        })
    })?;
    Ok(Shape { axes, span: whole })
}
