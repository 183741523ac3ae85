//! pest's pairs to syntax tree: the sections that say how, not what.

use super::{Built, binding, expr, ident, parts, shape, span};
use crate::ast::*;
use crate::parse::Rule;
use pest::iterators::Pair;

/// `precision { … }`
pub(super) fn precision(pair: Pair<'_, Rule>) -> Built<PrecisionDecl> {
    let whole = span(&pair);
    let settings = parts(pair).all(Rule::setting, |setting| {
        let span = span(&setting);
        let mut inner = parts(setting);
        let name = inner.ident()?;
        let phrases = inner.all(Rule::phrase, |p| parts(p).pairs.map(word).collect())?;
        Ok(Setting { name, phrases, span })
    })?;
    Ok(PrecisionDecl { settings, span: whole })
}

fn word(pair: Pair<'_, Rule>) -> Built<Word> {
    Ok(match pair.as_rule() {
        Rule::word => Word::Name(parts(pair).ident()?),
        Rule::number => Word::Number(ident(&pair)),
        _ => Word::Shape(shape(pair)?),
    })
}

/// `parallel { … }`
pub(super) fn parallel(pair: Pair<'_, Rule>) -> Built<ParallelDecl> {
    let whole = span(&pair);
    let spreads = parts(pair).all(Rule::spread, |spread| {
        let span = span(&spread);
        let mut inner = parts(spread);
        Ok(SpreadDecl {
            what: inner.ident()?,
            count: expr::expr(inner.next()?)?,
            unit: inner.ident()?,
            span,
        })
    })?;
    Ok(ParallelDecl { spreads, span: whole })
}

/// `train { … }`
pub(super) fn train(pair: Pair<'_, Rule>) -> Built<TrainDecl> {
    let whole = span(&pair);
    let items = parts(pair).pairs.map(|item| {
        Ok(match item.as_rule() {
            Rule::update => TrainItem::Update(binding(item)?),
            _ => TrainItem::Directive(binding(item)?),
        })
    });
    Ok(TrainDecl { items: items.collect::<Built<_>>()?, span: whole })
}

/// `target name { … }`
pub(super) fn target(pair: Pair<'_, Rule>) -> Built<TargetDecl> {
    let whole = span(&pair);
    let mut inner = parts(pair);
    let name = inner.ident()?;
    let lines = inner.all(Rule::sms, |sms| {
        let span = span(&sms);
        let mut line = parts(sms);
        let (name, count) = (line.ident()?, line.ident()?);
        let shares = line.all(Rule::share, |share| {
            let mut inner = parts(share);
            Ok((inner.ident()?, inner.next_if(Rule::number).map(|n| ident(&n))))
        })?;
        Ok(SmsDecl { name, count, shares, span })
    })?;
    Ok(TargetDecl { name, lines, span: whole })
}
