//! Whether the ranks of a group agree with each other whatever the order of events.
//!
//! A simulation is a prefill and a decode step of a sequence on each rank, on emulated devices. It
//! is run in many orders that the hardware allows, with ranks held back at random; each time the
//! results must be the same bits. What functions return is kept, so that the first value that
//! differs can be named. Device memory is filled with ones before it is used (not-a-number in every
//! format), so that what is read too early shows.

mod choose;
mod compare;
mod routing;
mod solve;

pub use compare::{Difference, compare, median_error};
pub use routing::{Loads, Routing, steer};

use crate::device::{EmulatedGroup, Emulator};
use crate::group::Room;
use crate::session::Value;
use crate::{Artefact, Checkpoint, Engine, GroupSession, Phase, Result, Rows, Session};
use moec_emulator::{DeviceConfig, Schedule};
use moec_ir::timeline::Timeline;
use moec_ir::{Diagnostic, Ranks};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;
use std::ops::Range;

/// Most runs at the same time: each holds the weights of all ranks.
const TOGETHER: usize = 8;

/// The tokens of a simulation, by rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prefill; a rank may have none.
    pub prefill: Vec<Vec<u32>>,
    /// Of the decode step; ranks without a sequence have none.
    pub decode: Vec<Option<u32>>,
}

impl Tokens {
    /// Tokens drawn from a vocabulary. Every rank has `each`, or, where they are to be uneven, from
    /// `each` down to 1 in turn and the last one none at all.
    pub fn draw(ranks: Ranks, each: u64, uneven: bool, (vocab, seed): (u64, u64)) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut token = || (random.next_u64() % vocab.max(1)) as u32;
        let count = u64::from(ranks.count());
        let of_rank = |rank| match uneven {
            true if rank + 1 == count && count > 1 => 0,
            true => each - rank % each.max(1),
            false => each,
        };
        let prefill: Vec<Vec<u32>> =
            (0..count).map(|rank| (0..of_rank(rank)).map(|_| token()).collect()).collect();
        let decode = prefill.iter().map(|p| (!p.is_empty()).then(&mut token)).collect();
        Self { prefill, decode }
    }

    /// Whole sequences, by rank.
    pub fn sequences(&self) -> Vec<Vec<u32>> {
        let both = self.prefill.iter().zip(&self.decode);
        both.map(|(prefill, decode)| prefill.iter().chain(decode).copied().collect()).collect()
    }

    fn longest(&self) -> u64 {
        self.sequences().iter().map(|s| s.len() as u64).max().unwrap_or(0)
    }
}

/// What is simulated.
#[derive(Clone, Copy)]
pub struct Simulation<'a> {
    /// The model, for the ranks.
    pub artefact: &'a Artefact,
    /// Its weights.
    pub checkpoint: &'a Checkpoint,
    /// The group.
    pub ranks: Ranks,
    /// The tokens.
    pub tokens: &'a Tokens,
    /// Most tokens of a rank that the group has room for.
    pub most: u64,
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Prefill and decoding.
    pub steps: Vec<StepOutcome>,
}

/// What a step gave.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    /// Which step.
    pub phase: Phase,
    /// By rank: logits of its tokens, row by row.
    pub logits: Vec<Vec<f32>>,
    /// By rank: what functions returned, in order.
    pub values: Vec<Vec<Value>>,
}

/// A run that did not end.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// Why.
    pub diagnostics: Vec<Diagnostic>,
    /// The functions and, as plans name them, the values that were being computed, where ranks
    /// wait for each other.
    pub places: Vec<(String, String)>,
}

impl From<Vec<Diagnostic>> for Failed {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics, places: vec![] }
    }
}

/// What came of a number of schedules.
pub enum Verdict {
    /// All gave the same.
    Same,
    /// One gave something else.
    Differs {
        /// Its seed, the lowest of all such.
        seed: u64,
        /// Where it differs first.
        difference: Difference,
    },
    /// One failed.
    Failed {
        /// Its seed, the lowest of all such.
        seed: u64,
        /// How.
        failed: Failed,
    },
}

impl Simulation<'_> {
    fn device(&self, schedule: Schedule) -> DeviceConfig {
        DeviceConfig {
            schedule,
            poison: Some(0xff),
            // Runs are divided among host threads, not the launches of one.
            threads: 1,
            ..DeviceConfig::default()
        }
    }

    /// Runs both steps on all ranks, from a fresh start.
    ///
    /// # Errors
    /// What [`GroupSession::new`] and its steps return.
    pub fn run(&self, schedule: Schedule) -> std::result::Result<Outcome, Failed> {
        let group = EmulatedGroup::new(self.ranks, self.device(schedule))?;
        Ok(self.run_on(group)?.0)
    }

    /// The same, and what ran when.
    ///
    /// # Errors
    /// As of [`Simulation::run`].
    pub fn record(&self, schedule: Schedule) -> std::result::Result<(Outcome, Timeline), Failed> {
        self.run_on(EmulatedGroup::recording(self.ranks, self.device(schedule))?)
    }

    fn run_on(&self, group: EmulatedGroup) -> std::result::Result<(Outcome, Timeline), Failed> {
        let room = Room { rows: self.tokens.longest(), most_tokens: Some(self.most) };
        let (artefact, checkpoint) = (self.artefact, self.checkpoint);
        let mut session = GroupSession::new(group, artefact, checkpoint, room, &mut |_| {})?;
        session.keep_values(true);
        let sequences = self.tokens.sequences();
        let mut open = vec![None; sequences.len()];
        for (rank, tokens) in (0..).zip(&sequences) {
            if !tokens.is_empty() {
                open[rank as usize] = Some(session.open_on(rank, tokens.len() as u64)?);
            }
        }
        let mut steps = Vec::new();
        for (phase, tokens) in self.steps() {
            let mut batch = Vec::new();
            for (id, tokens) in open.iter().zip(&tokens) {
                batch.extend(id.filter(|_| !tokens.is_empty()).map(|id| (id, *tokens)));
            }
            let logits = session
                .step(phase, &batch, Rows::All)
                .map_err(|diagnostics| Failed { diagnostics, places: session.stuck().to_vec() })?;
            let mut logits = logits.into_iter();
            let of_rank = |tokens: &&[u32]| {
                if tokens.is_empty() { vec![] } else { logits.next().unwrap_or_default() }
            };
            let logits = tokens.iter().map(of_rank).collect();
            steps.push(StepOutcome { phase, logits, values: session.values()? });
        }
        Ok((Outcome { steps }, session.executed().clone()))
    }

    /// Runs both steps on one device that has all tokens and all experts, by an artefact for one
    /// rank. The outcome is divided as that of the ranks is.
    ///
    /// # Errors
    /// What [`Session::new`] and its steps return.
    pub fn run_alone(&self, artefact: &Artefact) -> Result<Outcome> {
        let device =
            Box::new(Emulator::new(DeviceConfig { threads: 0, ..self.device(Schedule::InOrder) }));
        let sequences = self.tokens.sequences();
        let pages = self.tokens.longest().next_multiple_of(moec_ir::plan::PAGE_ROWS);
        let rows = pages.saturating_mul(sequences.len() as u64);
        let artefact = artefact.clone();
        let mut session = Session::new(device, artefact, self.checkpoint, rows, &mut |_| {})?;
        session.keep_values(true);
        let mut open = Vec::new();
        for tokens in &sequences {
            open.push(session.open(tokens.len() as u64)?);
        }
        let mut steps = Vec::new();
        for (phase, tokens) in self.steps() {
            let mut batch = Vec::new();
            for (&id, tokens) in open.iter().zip(&tokens) {
                batch.extend((!tokens.is_empty()).then_some((id, *tokens)));
            }
            let mut logits = session.step(phase, &batch, Rows::All)?.into_iter();
            let of_rank = |tokens: &&[u32]| {
                if tokens.is_empty() { vec![] } else { logits.next().unwrap_or_default() }
            };
            let logits = tokens.iter().map(of_rank).collect();
            let counts: Vec<u64> = tokens.iter().map(|t| t.len() as u64).collect();
            steps.push(StepOutcome { phase, logits, values: divide(&session.values()?, &counts) });
        }
        Ok(Outcome { steps })
    }

    /// Both steps and each rank's tokens in them.
    fn steps(&self) -> [(Phase, Vec<&[u32]>); 2] {
        let Tokens { prefill, decode } = self.tokens;
        let decode =
            decode.iter().map(|token| token.as_ref().map_or(&[][..], std::slice::from_ref));
        [
            (Phase::Prefill, prefill.iter().map(Vec::as_slice).collect()),
            (Phase::Decode, decode.collect()),
        ]
    }

    /// Runs the schedules of many seeds and compares each with an outcome, until one differs or
    /// fails. `progress` is told how many are done.
    pub fn schedules(
        &self,
        seeds: Range<u64>,
        expected: &Outcome,
        progress: &mut dyn FnMut(u64),
    ) -> Verdict {
        let together = rayon::current_num_threads().clamp(1, TOGETHER);
        let all: Vec<u64> = seeds.collect();
        let mut done = 0;
        for seeds in all.chunks(together) {
            let runs: Vec<(u64, std::result::Result<Option<Difference>, Failed>)> = seeds
                .par_iter()
                .map(|&seed| {
                    let outcome = self.run(Schedule::Seeded(seed));
                    (seed, outcome.map(|outcome| compare(&outcome, expected)))
                })
                .collect();
            // In order, so that the lowest seed is told whatever the number of threads.
            for (seed, run) in runs {
                match run {
                    Ok(None) => {}
                    Ok(Some(difference)) => return Verdict::Differs { seed, difference },
                    Err(failed) => return Verdict::Failed { seed, failed },
                }
            }
            done += seeds.len() as u64;
            progress(done);
        }
        Verdict::Same
    }
}

/// Values of all tokens in parts for each rank's.
fn divide(values: &[Value], counts: &[u64]) -> Vec<Vec<Value>> {
    let mut before = 0;
    let mut parts = Vec::new();
    for &count in counts {
        let part = |value: &Value| {
            let row = (value.width * value.dtype.bytes()) as usize;
            let range = before as usize * row..(before + count) as usize * row;
            let bytes = value.bytes.get(range).unwrap_or_default().to_vec();
            Value { bytes, ..value.clone() }
        };
        parts.push(values.iter().map(part).collect());
        before += count;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uneven_tokens_leave_a_rank_without_any() {
        let ranks = Ranks::new(4, 4).unwrap();
        let tokens = Tokens::draw(ranks, 3, true, (100, 0));
        let counts: Vec<usize> = tokens.prefill.iter().map(Vec::len).collect();
        assert_eq!(counts, [3, 2, 1, 0]);
        assert_eq!(tokens.decode.iter().filter(|t| t.is_none()).count(), 1);
        assert_eq!(tokens, Tokens::draw(ranks, 3, true, (100, 0)));
        assert_ne!(tokens, Tokens::draw(ranks, 3, true, (100, 1)));
        let even = Tokens::draw(ranks, 2, false, (100, 0));
        assert!(even.prefill.iter().all(|t| t.len() == 2) && even.longest() == 3);
    }
}
