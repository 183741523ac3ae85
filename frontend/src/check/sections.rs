//! The section `target`.

use super::Checker;
use super::eval::nearest;
use crate::ast::{Ident, SmsDecl, TargetDecl};
use moec_ir::{Diagnostic, Target};

/// A machine, and what its SMs are for.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetSection {
    /// The machine.
    pub target: Target,
    /// SMs that communicate while the others compute, where the file says how many.
    pub comm_sms: Option<u32>,
}

impl<'a> Checker<'a> {
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
        let mut comm_sms = None;
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
    fn sms(&mut self, line: &SmsDecl, built: u32) -> Option<(u32, Option<u32>)> {
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
        Some((total, (!line.shares.is_empty()).then_some(comm)))
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
