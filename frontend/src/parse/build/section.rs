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
    let mut inner = parts(pair);
    let phase = inner.next_if(Rule::name).map(|name| ident(&name));
    let items = inner.pairs.map(|item| match item.as_rule() {
        Rule::choice => choice(item).map(ParallelItem::Choice),
        _ => spread(item).map(ParallelItem::Spread),
    });
    Ok(ParallelDecl { phase, items: items.collect::<Built<_>>()?, span: whole })
}

fn spread(pair: Pair<'_, Rule>) -> Built<SpreadDecl> {
    let span = span(&pair);
    let mut inner = parts(pair);
    let (what, count) = (inner.ident()?, expr::expr(inner.next()?)?);
    let unit = inner.ident()?;
    let each = inner.next_if(Rule::each).map(|each| {
        let mut inner = parts(each);
        Ok((expr::expr(inner.next()?)?, inner.ident()?))
    });
    Ok(SpreadDecl { what, count, unit, each: each.transpose()?, span })
}

fn choice(pair: Pair<'_, Rule>) -> Built<ChoiceDecl> {
    let span = span(&pair);
    let mut inner = parts(pair);
    Ok(ChoiceDecl { name: inner.ident()?, value: inner.ident()?, span })
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
