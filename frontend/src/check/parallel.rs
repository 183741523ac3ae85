//! The section `parallel`.

use super::Checker;
use super::eval::{Frame, nearest};
use crate::ast::{ChoiceDecl, Expr, Ident, Member, ParallelDecl, ParallelItem, SpreadDecl};
use moec_ir::{Diagnostic, Phase, Ranks, Span, Transfer};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What is spread over how many ranks; nothing where the file has no such section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parallel {
    /// `experts over 64 ranks`
    pub experts: Option<Spread>,
    /// The same in nodes: `experts over 64 ranks, 8 per node`; 8 where the file says nothing.
    pub ranks: Option<Ranks>,
    /// `layers over 16 stages`
    pub layers: Option<Spread>,
    /// `tokens over 8 replicas`: whole copies of the model, each with its own tokens.
    pub tokens: Option<Spread>,
    /// `step over 2 micro_batches`: parts of a step of which one moves while another computes.
    pub step: Option<Spread>,
    /// `transfer: low_latency`
    pub transfer: Option<Transfer>,
    /// `skew: 1.2`: load of the busiest rank over the mean.
    pub skew: Option<f64>,
}

/// Over how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Ranks, stages, replicas or micro-batches.
    pub count: u64,
    /// Where the file says so.
    pub span: Span,
}

/// What can be spread, and over what.
const SPREADS: [(&str, &str); 4] =
    [("experts", "ranks"), ("layers", "stages"), ("tokens", "replicas"), ("step", "micro_batches")];
/// What can be chosen.
const CHOICES: [&str; 2] = ["transfer", "skew"];

impl<'a> Checker<'a> {
    /// What the parallel sections say: the one for all phases, and those for one.
    pub(super) fn parallel_sections(
        &mut self,
        members: &'a [Member],
    ) -> (Parallel, BTreeMap<Phase, Parallel>) {
        let (mut all, mut phases) = (Parallel::default(), BTreeMap::new());
        for member in members {
            let Member::Parallel(section) = member else { continue };
            let parallel = match &section.phase {
                None => &mut all,
                Some(name) => match name.text.parse::<Phase>() {
                    Ok(phase) => phases.entry(phase).or_insert_with(Parallel::default),
                    Err(_) => {
                        self.unknown_phase(name);
                        continue;
                    }
                },
            };
            self.parallel_section(parallel, section);
        }
        (all, phases)
    }

    fn unknown_phase(&mut self, name: &Ident) {
        let names = Phase::ALL.map(Phase::name);
        let near = nearest(&name.text, names.into_iter());
        self.diagnostics.push(
            Diagnostic::error("E0406", format!("`{name}` is not a phase"))
                .at(name.span, "unknown")
                .help(near.map_or_else(
                    || "write `parallel prefill`, `parallel decode` or `parallel` alone".into(),
                    |near| format!("did you mean `{near}`?"),
                )),
        );
    }

    fn parallel_section(&mut self, parallel: &mut Parallel, section: &'a ParallelDecl) {
        for item in &section.items {
            match item {
                ParallelItem::Spread(line) => self.spread_line(parallel, line),
                ParallelItem::Choice(line) => self.choice_line(parallel, line),
            };
        }
    }

    fn spread_line(&mut self, parallel: &mut Parallel, line: &'a SpreadDecl) -> Option<()> {
        let known = SPREADS.iter().find(|(what, _)| *what == line.what.text);
        let Some((what, unit)) = known else {
            let near = nearest(&line.what.text, SPREADS.iter().map(|(w, _)| *w));
            return self.fail(
                Diagnostic::error("E0406", format!("`{}` cannot be spread", line.what))
                    .at(line.what.span, "unknown")
                    .help(match near {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "write `experts over 64 ranks`, `layers over 16 stages`, `tokens over 8 replicas` or `step over 2 micro_batches`".into(),
                    }),
            );
        };
        if line.unit.text != *unit {
            return self.fail(
                Diagnostic::error("E0406", format!("`{what}` are spread over `{unit}`"))
                    .at(line.unit.span, format!("not over `{}`", line.unit)),
            );
        }
        let count = self.spread_count(&line.count)?;
        if let Some(whole) = self.named_size(what)
            && whole < count
        {
            return self.fail(
                Diagnostic::error(
                    "E0406",
                    format!("{whole} {what} cannot be spread over {count} {unit}"),
                )
                .at(line.count.span, "more than there are")
                .help(format!("at most `{what} over {whole} {unit}`")),
            );
        }
        let ranks = match (*what, &line.each) {
            ("experts", each) => Some(self.ranks(count, each.as_ref(), line)?),
            (_, None) => None,
            (_, Some((count, of))) => {
                return self.fail(
                    Diagnostic::error("E0406", format!("`{what}` are not counted per `{of}`"))
                        .at(count.span.to(of.span), "only ranks are, per node"),
                );
            }
        };
        let place = match *what {
            "experts" => &mut parallel.experts,
            "layers" => &mut parallel.layers,
            "tokens" => &mut parallel.tokens,
            _ => &mut parallel.step,
        };
        if place.replace(Spread { count, span: line.span }).is_some() {
            return self.fail(
                Diagnostic::error("E0406", format!("`{what}` is spread twice"))
                    .at(line.span, "again here"),
            );
        }
        parallel.ranks = ranks.or(parallel.ranks);
        Some(())
    }

    /// Ranks in nodes, which they fill, and to which the experts can be divided.
    fn ranks(
        &mut self,
        count: u64,
        each: Option<&'a (Expr, Ident)>,
        line: &'a SpreadDecl,
    ) -> Option<Ranks> {
        let per_node = match each {
            None => u64::from(Ranks::PER_NODE),
            Some((count, of)) if of.text == "node" => self.spread_count(count)?,
            Some((_, of)) => {
                return self.fail(
                    Diagnostic::error("E0406", "ranks are counted per `node`")
                        .at(of.span, format!("not per `{of}`")),
                );
            }
        };
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let ranks = match Ranks::new(small(count), small(per_node)) {
            Ok(ranks) => ranks,
            Err(error) => {
                let span = each.map_or(line.count.span, |(e, of)| e.span.to(of.span));
                return self.fail(
                    Diagnostic::error("E0406", error.to_string()).at(span, "here").help(
                        "write how many GPUs a node has: `experts over 12 ranks, 4 per node`",
                    ),
                );
            }
        };
        let experts = self.named_size("experts");
        if let Some(Err(error)) = experts.map(|experts| ranks.experts_each(experts)) {
            return self.fail(
                Diagnostic::error("E0406", error.to_string())
                    .at(line.count.span, "each holds as many as any other")
                    .help("take a number of ranks that divides the experts"),
            );
        }
        Some(ranks)
    }

    /// A count.
    fn spread_count(&mut self, count: &'a Expr) -> Option<u64> {
        let mut frame = Frame::new(Rc::clone(&self.root));
        self.integer(&mut frame, count)
    }

    fn choice_line(&mut self, parallel: &mut Parallel, line: &'a ChoiceDecl) -> Option<()> {
        let twice = match line.name.text.as_str() {
            "transfer" => {
                let Some(transfer) = Transfer::named(&line.value.text) else {
                    return self.unknown_transfer(line);
                };
                parallel.transfer.replace(transfer).is_some()
            }
            "skew" => {
                let skew = line.value.text.parse::<f64>();
                let Some(skew) = skew.ok().filter(|skew| *skew >= 1.0 && skew.is_finite()) else {
                    return self.fail(
                        Diagnostic::error(
                            "E0406",
                            "`skew` is the load of the busiest rank over the mean, at least 1",
                        )
                        .at(line.value.span, "here"),
                    );
                };
                parallel.skew.replace(skew).is_some()
            }
            name => {
                let near = nearest(name, CHOICES.into_iter());
                return self.fail(
                    Diagnostic::error("E0406", format!("`{name}` is not a line of `parallel`"))
                        .at(line.name.span, "unknown")
                        .help(near.map_or_else(
                            || "lines with a colon are `transfer` and `skew`".into(),
                            |near| format!("did you mean `{near}`?"),
                        )),
                );
            }
        };
        if twice {
            return self.fail(
                Diagnostic::error("E0406", format!("`{}` is given twice", line.name))
                    .at(line.span, "again here"),
            );
        }
        Some(())
    }

    fn unknown_transfer<T>(&mut self, line: &ChoiceDecl) -> Option<T> {
        let names = Transfer::ALL.map(Transfer::name);
        let near = nearest(&line.value.text, names.into_iter());
        self.fail(
            Diagnostic::error("E0406", format!("no kind of transfer is called `{}`", line.value))
                .at(line.value.span, "unknown")
                .help(near.map_or_else(
                    || "known are `first`, `second` and `low_latency`".into(),
                    |near| format!("did you mean `{near}`?"),
                )),
        )
    }

    /// A size of the model by its name.
    fn named_size(&self, name: &str) -> Option<u64> {
        match self.root.values.get(name) {
            Some(super::value::Value::Size(a)) => a.dim.constant(),
            _ => None,
        }
    }
}
