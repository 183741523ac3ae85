//! Wrong versions of the kernel of spread experts and of its launches: each is caught within 200
//! schedules of the emulator, with a report that names what is wrong, and the right version passes
//! them all. `docs/mutants.md` has the table; `BLESS=1` writes it anew.
//!
//! A mutant that no longer changes exactly the instructions that it means fails, so that a change
//! in code generation cannot make it the right version.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "one family is taken here")]
mod cases;
#[allow(dead_code, reason = "some of what the numbers are checked with is taken here")]
#[path = "numerics/exchange_group.rs"]
mod exchange_group;
#[allow(dead_code, reason = "some of what the numbers are checked with is taken here")]
#[path = "numerics/machine.rs"]
mod machine;
mod mutants {
    pub(crate) mod edit;
    pub(crate) mod list;
    pub(crate) mod setting;
    pub(crate) mod verdict;
}

use exchange_group::Launching;
use moec_emulator::Schedule;
use mutants::list::{Mutant, mutants};
use mutants::setting::{Setting, Shape};
use mutants::verdict::Verdict;
use std::fmt::Write as _;

/// Within how many schedules a mutant is caught.
const SCHEDULES: u64 = 200;
/// Schedules of the right version; `EMULATOR_SEEDS` gives another number.
const RIGHT: u64 = 4;

/// How a mutant is caught, and after how many schedules.
fn caught(setting: &Setting, mutant: &Mutant) -> Option<(u64, Verdict)> {
    let code = setting.mutated(mutant);
    (0..SCHEDULES).find_map(|seed| {
        let launching = mutant.launching(Schedule::Seeded(seed).into());
        let verdict = setting.judge(&code, launching);
        verdict.map(|verdict| (seed + 1, verdict))
    })
}

#[test]
fn the_right_version_passes() {
    let schedules = std::env::var("EMULATOR_SEEDS").ok().and_then(|s| s.parse().ok());
    for shape in Shape::ALL {
        let setting = Setting::new(shape);
        for seed in 0..schedules.unwrap_or(RIGHT) {
            let schedule = Schedule::Seeded(seed);
            let launching = Launching { races: true, ..schedule.into() };
            let verdict = setting.judge(&setting.code, launching);
            assert!(verdict.is_none(), "{shape:?}, seed {seed}: {}", verdict.unwrap().text);
        }
    }
}

#[test]
fn every_mutant_is_caught_and_named() {
    let mut table = String::from(
        "| mutant | what is wrong | caught after | by | what the report names |\n|---|---|---|---|---|\n",
    );
    let (all, mut failures) = (mutants(), vec![]);
    for shape in Shape::ALL {
        let setting = Setting::new(shape);
        for mutant in all.iter().filter(|mutant| mutant.shape == shape) {
            let found =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| caught(&setting, mutant)));
            let Ok(found) = found else {
                failures.push(format!("{}: it changes other instructions", mutant.name));
                continue;
            };
            let Some((after, verdict)) = found else {
                failures.push(format!("{}: not caught", mutant.name));
                continue;
            };
            eprintln!("{}, after {after}: {}\n", mutant.name, verdict.text);
            for name in mutant.names.iter().filter(|name| !verdict.text.contains(**name)) {
                failures.push(format!("{}: no `{name}` in {}", mutant.name, verdict.text));
            }
            let Mutant { name, what, .. } = mutant;
            let Verdict { by, names, .. } = verdict;
            writeln!(table, "| {name} | {what} | {after} | {by} | {names} |").unwrap();
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    page(&table);
}

/// Compares the table with that of the page, or writes it there.
fn page(table: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/mutants.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (begin, end) = ("<!-- table -->\n", "<!-- end of table -->");
    let (before, rest) = text.split_once(begin).unwrap();
    let (old, behind) = rest.split_once(end).unwrap();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, format!("{before}{begin}\n{table}\n{end}{behind}")).unwrap();
    } else {
        assert_eq!(old.trim(), table.trim(), "BLESS=1 writes the table anew");
    }
}
