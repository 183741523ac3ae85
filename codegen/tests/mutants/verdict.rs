//! What a run shows.

use super::edit::role_of;
use crate::exchange_group::Code;
use moec_emulator::{Access, Error, Race, WaitsFor};
use std::collections::BTreeSet;

/// What is wrong.
pub(crate) struct Verdict {
    /// What found it.
    pub(crate) by: &'static str,
    /// What the report names, without numbers that other changes move.
    pub(crate) names: String,
    /// The whole report.
    pub(crate) text: String,
}

/// The rank and the element where results differ.
pub(crate) fn differs(got: &[Vec<u16>], want: &[Vec<u16>]) -> Option<[usize; 2]> {
    got.iter().zip(want).enumerate().find_map(|(rank, (got, want))| {
        let element = got.iter().zip(want).position(|(got, want)| got != want);
        let shorter = (got.len() != want.len()).then_some(0);
        element.or(shorter).map(|element| [rank, element])
    })
}

/// The part of a kernel that a line is in. Launches are labelled with the kernel and the layer.
fn part(codes: &[&Code], label: &str, line: u32) -> String {
    let (kernel, layer) = label.split_once(' ').unwrap();
    let code = codes[layer.parse::<usize>().unwrap()];
    match role_of(code.ptx(kernel), line) {
        "" => format!("the begin of `{kernel}`"),
        role => format!("`{role}`"),
    }
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    const SHOWN: usize = 3;
    let all: BTreeSet<String> = items.into_iter().collect();
    let shown: Vec<&str> = all.iter().take(SHOWN).map(String::as_str).collect();
    shown.join("; ")
}

impl Verdict {
    pub(crate) fn of_error(error: &Error, codes: &[&Code]) -> Self {
        let (by, all) = match error {
            Error::Deadlock { hang, .. } => {
                let waiting = hang.waiters.iter().map(|waiter| {
                    let what = match &waiter.wait {
                        WaitsFor::Memory(places) => {
                            let name = |one: &moec_emulator::Polled| {
                                let found = one.allocation.as_ref();
                                found.map_or("shared memory".to_owned(), |(n, _)| format!("`{n}`"))
                            };
                            list(places.iter().map(name))
                        }
                        WaitsFor::Barrier { id, .. } => format!("barrier {id}"),
                        WaitsFor::Mbarrier { .. } => "an mbarrier".to_owned(),
                        WaitsFor::Registers { .. } => "registers".to_owned(),
                        _ => format!("what `{}` needs", waiter.instruction),
                    };
                    let label = waiter.rank.as_ref().map_or("", |(_, label)| label.as_str());
                    format!("{} waits for {what}", part(codes, label, waiter.line))
                });
                let no_room = hang.not_begun.iter().filter(|one| one.is_resident).map(|one| {
                    let label = one.rank.as_ref().map_or("", |(_, label)| label.as_str());
                    format!("CTAs of `{label}` find no room")
                });
                ("hang", no_room.chain(waiting).collect::<BTreeSet<_>>())
            }
            Error::Fault(fault) => {
                let label = fault.rank.as_ref().map_or("", |(_, label)| label.as_str());
                let what = format!("{} in {}", fault.kind, part(codes, label, fault.line));
                ("fault", BTreeSet::from([what]))
            }
            other => ("error", BTreeSet::from([other.to_string()])),
        };
        let text = format!("{error}\n{}", Vec::from_iter(all.iter().cloned()).join("\n"));
        Self { by, names: list(all), text }
    }

    /// Of a run that has ended: where results are wrong, as layer, rank, token and column, and what
    /// races there were.
    pub(crate) fn of_results(
        wrong: Option<[usize; 4]>,
        races: &[Race],
        codes: &[&Code],
    ) -> Option<Self> {
        let place = |race: &Race| {
            let part = |one: &Access| part(codes, &one.label, one.line);
            let (reader, writer) = (part(&race.reader), part(&race.writer));
            let what = race.allocation.as_ref().map_or("shared memory", |(name, _)| name.as_str());
            let missing = if race.by_proxy { " without a fence between proxies" } else { "" };
            format!("`{what}`: stored in {writer}, read in {reader}{missing}")
        };
        let where_wrong = wrong.map(|[layer, rank, token, column]| {
            format!("`out` of layer {layer}, rank {rank}, token {token}, column {column} is wrong")
        });
        let by = match (wrong, races) {
            (None, []) => return None,
            (Some(_), []) => "results",
            (None, _) => "race",
            (Some(_), _) => "results, race",
        };
        let all: BTreeSet<String> = races.iter().map(place).collect();
        let lines = races.iter().map(|race| format!("{race}\n  {}", place(race)));
        let text = where_wrong.iter().cloned().chain(lines).collect::<Vec<_>>().join("\n");
        let names = if all.is_empty() { where_wrong.unwrap_or_default() } else { list(all) };
        Some(Self { by, names, text })
    }
}
