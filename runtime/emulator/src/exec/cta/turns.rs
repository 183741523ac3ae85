//! Turns by chance: rounds in which most warps run once, in some order, for some time.

use super::{Cta, Launch, Progress, Worker};
use crate::error::Error;

/// Turns last up to 2 to the so many instructions.
const TURN_BITS: u32 = 9;
/// One warp in so many sits out a round.
const SITS_OUT: u32 = 4;
/// One warp in so many begins to sit out rounds, in launches that communicate.
const STALLS: u32 = 64;
/// Then up to 2 to the so many.
const STALL_BITS: u32 = 9;

/// What a warp does in a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    warp: usize,
    /// Instructions; none for a warp that sits the round out.
    length: Option<u32>,
}

impl Cta {
    /// Chooses who runs in the next round, in what order and for how long.
    fn plan_round(&mut self, stalls: bool, hurries: bool) {
        self.round.clear();
        let Some(chance) = &mut self.state.chance else {
            return;
        };
        for (warp, done) in self.done.iter().enumerate() {
            if !done {
                if hurries {
                    self.stalls[warp] = 0;
                }
                let stalled = self.stalls[warp].checked_sub(1);
                self.stalls[warp] = stalled.unwrap_or(0);
                if stalls && !hurries && stalled.is_none() && chance.one_in(STALLS) {
                    self.stalls[warp] = chance.length(STALL_BITS);
                }
                let sits_out = !hurries && (chance.one_in(SITS_OUT) || stalled.is_some());
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
            self.plan_round(launch.is_weak, worker.hurries);
            let before = worker.counters.warp_instructions;
            let (mut ran, mut stored, mut sat_out) = (false, false, false);
            for at in 0..self.round.len() {
                let turn = self.round[at];
                match turn.length {
                    Some(length) => ran |= self.turn(turn.warp, length, launch, worker)?,
                    None => sat_out = true,
                }
                ran |= self.land_some(launch, worker)?;
                stored |= self.drain_some(launch);
            }
            // Where threads of other CTAs may be what is awaited, they get their turn.
            match (ran || stored, sat_out) {
                (true, _) if !launch.is_weak => {}
                (true, _) if worker.counters.warp_instructions != before => {}
                (true, _) => return Ok(Progress::Running),
                (false, true) if launch.is_weak => return Ok(Progress::Paused),
                (false, true) => {}
                (false, false) => return Ok(Progress::Blocked),
            }
        }
        self.end(launch, worker)
    }
}
