//! A group that hangs, in the words of its plan.

use super::role::Role;
use crate::session::{Place, Ready};
use moec_emulator::{Hang, Polled, Waiter, WaitsFor};
use moec_ir::Diagnostic;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Lines of a report, at most.
const LINES: usize = 40;
/// Places of memory that a line names, at most.
const PLACES: usize = 3;

/// Function and values of a launch that waits.
pub(super) type Computing = (String, String);

/// E1107, and what waiting launches compute, each once. `ready` are the launches that were queued
/// on each rank.
pub(super) fn describe(hang: &Hang, ready: &[Vec<Ready<'_>>]) -> (Diagnostic, Vec<Computing>) {
    // Warps that wait in one launch for the same thing are told once.
    let mut lines: Vec<(String, usize)> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let mut computing: Vec<Computing> = Vec::new();
    for waiter in &hang.waiters {
        let place = place(waiter, ready);
        if let Some(place) = place {
            let own = (place.function.to_owned(), place.computes.to_owned());
            if !computing.contains(&own) {
                computing.push(own);
            }
        }
        let who = who(waiter, place);
        let at = *known.entry(format!("{who} {}", kind(&waiter.wait))).or_insert_with(|| {
            lines.push((format!("{who} {}", what(&waiter.wait)), 0));
            lines.len() - 1
        });
        lines[at].1 += 1;
    }
    let mut message = String::from("the ranks hang: ");
    message += if hang.is_livelock {
        "threads run in loops that change nothing"
    } else {
        "all threads wait"
    };
    // Writing to a string cannot fail.
    for (line, warps) in lines.iter().take(LINES) {
        let more = match warps {
            1 => String::new(),
            2 => ", and so does 1 other warp".into(),
            _ => format!(", and so do {} other warps", warps - 1),
        };
        let _ = write!(message, "\n  {line}{more}");
    }
    let untold = lines.len().saturating_sub(LINES);
    if untold > 0 {
        let _ = write!(message, "\n  … and {untold} more of other kinds");
    }
    if hang.more > 0 {
        let _ = write!(message, "\n  … and {} more warps", hang.more);
    }
    for one in &hang.not_begun {
        let _ = write!(message, "\n  not begun: {one}");
    }
    // Whom a full report does not name has nothing left to do.
    if hang.more == 0 {
        for rank in 0..ready.len() as u32 {
            let named = |other: &Option<(u32, String)>| other.as_ref().is_some_and(|o| o.0 == rank);
            let waits = hang.waiters.iter().any(|w| named(&w.rank));
            if !waits && !hang.not_begun.iter().any(|n| named(&n.rank)) {
                let _ = write!(message, "\n  rank {rank} has ended all its launches");
            }
        }
    }
    (Diagnostic::error("E1107", message), computing)
}

/// The launch of a waiter: the one of its rank with that label and kernel.
fn place<'p>(waiter: &Waiter, ready: &[Vec<Ready<'p>>]) -> Option<Place<'p>> {
    let (rank, label) = waiter.rank.as_ref()?;
    let launches = ready.get(*rank as usize)?.iter().map(|launch| launch.place);
    let mut of_kernel = launches.filter(|place| place.kernel.name == waiter.kernel);
    of_kernel.find(|place| place.to_string() == *label)
}

/// Rank, role, CTA and launch.
fn who(waiter: &Waiter, place: Option<Place<'_>>) -> String {
    let rank = waiter.rank.as_ref().map_or(String::new(), |(rank, _)| format!("rank {rank}, "));
    let kernel = &waiter.kernel;
    let role = match place.map(|p| Role::of(p.kernel, waiter.cta[0].into())) {
        Some(role @ (Role::Communicate | Role::Compute)) => format!("{} of ", role.name()),
        Some(Role::Whole) | None => String::new(),
    };
    let place = place.map_or(String::new(), |place| format!(" ({place})"));
    format!("{rank}{role}`{kernel}`{place}")
}

/// What makes two waits the same: the kind, and the buffers that are waited on.
fn kind(wait: &WaitsFor) -> String {
    match wait {
        WaitsFor::Memory(places) => {
            let of =
                |p: &Polled| format!("{:?} of {:?}", p.allocation.as_ref().map(|a| &a.0), p.rank);
            let mut of: Vec<String> = places.iter().map(of).collect();
            of.dedup();
            of.join(" ")
        }
        WaitsFor::Barrier { id, .. } => format!("barrier {id}"),
        WaitsFor::Mbarrier { address, parity, .. } => format!("mbarrier {address} {parity}"),
        other => other.to_string(),
    }
}

/// What is waited for, and who wrote there last.
fn what(wait: &WaitsFor) -> String {
    let WaitsFor::Memory(places) = wait else { return wait.to_string() };
    let mut told: Vec<String> = places.iter().take(PLACES).map(Polled::to_string).collect();
    if places.len() > PLACES {
        told.push(format!("{} other places", places.len() - PLACES));
    }
    format!("waits for a change of {}", told.join("; or of "))
}
