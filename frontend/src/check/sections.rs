//! The sections `parallel` and `target`.

use super::Checker;
use super::eval::{Frame, nearest};
use crate::ast::{Ident, Member, SmsDecl, SpreadDecl, TargetDecl};
use moec_ir::{Diagnostic, Target};
use std::rc::Rc;

/// What is spread over how many ranks; nothing where the file has no such section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parallel {
    /// `experts over 64 ranks`
    pub experts: Option<Spread>,
    /// `layers over 16 stages`
    pub layers: Option<Spread>,
    /// `tokens over 8 replicas`: whole copies of the model, each with its own tokens.
    pub tokens: Option<Spread>,
}

/// Over how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Ranks, stages or replicas.
    pub count: u64,
    /// Where the file says so.
    pub span: moec_ir::Span,
}

/// A machine, and what its SMs are for.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetSection {
    /// The machine.
    pub target: Target,
    /// SMs that communicate while the others compute.
    pub comm_sms: u32,
}

/// What can be spread, and over what.
const SPREADS: [(&str, &str); 3] =
    [("experts", "ranks"), ("layers", "stages"), ("tokens", "replicas")];

impl<'a> Checker<'a> {
    /// What the parallel section says.
    pub(super) fn parallel_section(&mut self, members: &'a [Member]) -> Parallel {
        let mut parallel = Parallel::default();
        for member in members {
            let Member::Parallel(section) = member else { continue };
            for spread in &section.spreads {
                self.spread_line(&mut parallel, spread);
            }
        }
        parallel
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
                        None => "write `experts over 64 ranks`, `layers over 16 stages` or `tokens over 8 replicas`".into(),
                    }),
            );
        };
        if line.unit.text != *unit {
            return self.fail(
                Diagnostic::error("E0406", format!("`{what}` are spread over `{unit}`"))
                    .at(line.unit.span, format!("not over `{}`", line.unit)),
            );
        }
        let mut frame = Frame::new(Rc::clone(&self.root));
        let count = self.integer(&mut frame, &line.count)?;
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
        let place = match *what {
            "experts" => &mut parallel.experts,
            "layers" => &mut parallel.layers,
            _ => &mut parallel.tokens,
        };
        if place.replace(Spread { count, span: line.span }).is_some() {
            return self.fail(
                Diagnostic::error("E0406", format!("`{what}` is spread twice"))
                    .at(line.span, "again here"),
            );
        }
        Some(())
    }

    /// A size of the model by its name.
    fn named_size(&self, name: &str) -> Option<u64> {
        match self.root.values.get(name) {
            Some(super::value::Value::Size(a)) => a.dim.constant(),
            _ => None,
        }
    }

    /// The machines that the file names.
    pub(super) fn target_sections(&mut self, targets: &'a [TargetDecl]) -> Vec<TargetSection> {
        targets.iter().filter_map(|t| self.target(t)).collect()
    }

    fn target(&mut self, decl: &'a TargetDecl) -> Option<TargetSection> {
        let Some(mut target) = Target::named(&decl.name.text) else {
            let near = nearest(&decl.name.text, Target::NAMES.into_iter());
            let known = || Target::NAMES.map(|n| format!("`{n}`")).join(", ");
            let help = near.map_or_else(
                || format!("known are {}", known()),
                |n| format!("did you mean `{n}`?"),
            );
            return self.fail(
                Diagnostic::error("E0405", format!("no machine is called `{}`", decl.name))
                    .at(decl.name.span, "unknown")
                    .help(help),
            );
        };
        let mut comm_sms = 0;
        for line in &decl.lines {
            if line.name.text != "sms" {
                return self.fail(
                    Diagnostic::error(
                        "E0405",
                        format!("`{}` is not a line of a target", line.name),
                    )
                    .at(line.name.span, "unknown")
                    .help("write `sms 132 = comm 20 + compute`"),
                );
            }
            (target.sms, comm_sms) = self.sms(line, target.sms)?;
        }
        Some(TargetSection { target, comm_sms })
    }

    /// `sms 132 = comm 20 + compute`: how many, and how many communicate.
    fn sms(&mut self, line: &SmsDecl, built: u32) -> Option<(u32, u32)> {
        let total = self.count(&line.count)?;
        if total == 0 || total > built {
            return self.fail(
                Diagnostic::error("E0405", format!("the machine has {built} SMs, not {total}"))
                    .at(line.count.span, "here"),
            );
        }
        let mut comm = None;
        let mut compute = None;
        let mut rest = None;
        for (name, count) in &line.shares {
            let place = match name.text.as_str() {
                "comm" => &mut comm,
                "compute" => &mut compute,
                other => {
                    return self.fail(
                        Diagnostic::error(
                            "E0405",
                            format!("SMs are for `comm` or `compute`, not `{other}`"),
                        )
                        .at(name.span, "unknown"),
                    );
                }
            };
            if place.is_some() || rest == Some(name.text.as_str()) {
                return self.fail(
                    Diagnostic::error("E0405", format!("`{name}` is given twice"))
                        .at(name.span, "again here"),
                );
            }
            match count {
                Some(count) => *place = Some(self.count(count)?),
                None if rest.is_none() => rest = Some(name.text.as_str()),
                None => {
                    return self.fail(
                        Diagnostic::error("E0405", "only one share can take the rest")
                            .at(name.span, "give it a number"),
                    );
                }
            }
        }
        let given = u64::from(comm.unwrap_or(0)) + u64::from(compute.unwrap_or(0));
        let exact = rest.is_some() || line.shares.is_empty();
        if given > u64::from(total) || !exact && given != u64::from(total) {
            return self.fail(
                Diagnostic::error("E0405", format!("the shares add up to {given} of {total} SMs"))
                    .at(line.span, "here")
                    .help("leave out one number: `sms 132 = comm 20 + compute`"),
            );
        }
        let left = total - u32::try_from(given).unwrap_or(total);
        let comm = if rest == Some("comm") { left } else { comm.unwrap_or(0) };
        if comm == total {
            return self.fail(
                Diagnostic::error("E0405", "no SM is left to compute").at(line.span, "here"),
            );
        }
        Some((total, comm))
    }

    fn count(&mut self, number: &Ident) -> Option<u32> {
        match number.text.parse() {
            Ok(n) => Some(n),
            Err(_) => self.fail(
                Diagnostic::error("E0405", format!("`{number}` is not a number of SMs"))
                    .at(number.span, "here"),
            ),
        }
    }
}
