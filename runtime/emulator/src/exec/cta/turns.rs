//! Turns by chance: rounds in which most warps run once, in some order, for some time.

use super::{Cta, Launch, Progress, Worker};
use crate::error::Error;

/// Turns last up to 2 to the so many instructions.
const TURN_BITS: u32 = 9;
/// One warp in so many sits out a round.
const SITS_OUT: u32 = 4;

/// What a warp does in a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    warp: usize,
    /// Instructions; none for a warp that sits the round out.
    length: Option<u32>,
}

impl Cta {
    /// Chooses who runs in the next round, in what order and for how long.
    fn plan_round(&mut self) {
        self.round.clear();
        let Some(chance) = &mut self.state.chance else {
            return;
        };
        for (warp, done) in self.done.iter().enumerate() {
            if !done {
                let sits_out = chance.one_in(SITS_OUT);
                let length = if sits_out { None } else { Some(chance.length(TURN_BITS)) };
                self.round.push(Turn { warp, length });
            }
        }
        chance.shuffle(&mut self.round);
    }

    /// As [`Cta::run`], in rounds.
    pub(super) fn run_rounds(
        &mut self,
        budget: u64,
        launch: &Launch<'_>,
        worker: &mut Worker,
    ) -> Result<Progress, Error> {
        let end = worker.counters.warp_instructions.saturating_add(budget);
        while self.state.live_warps > 0 {
            if worker.counters.warp_instructions >= end {
                return Ok(Progress::Running);
            }
            self.plan_round();
            let mut ran = false;
            for at in 0..self.round.len() {
                let turn = self.round[at];
                ran |= match turn.length {
                    Some(length) => self.turn(turn.warp, length, launch, worker)?,
                    None => true,
                };
                ran |= self.land_some(launch, worker)?;
            }
            if !ran {
                return Ok(Progress::Blocked);
            }
        }
        self.end(launch, worker)
    }
}
