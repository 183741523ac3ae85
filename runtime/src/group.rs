//! A model whose experts are spread over a group of ranks, each with a device, a cache and weights
//! of its own.
//!
//! Every sequence lives on one rank, which computes everything for its tokens but the experts that
//! other ranks hold. A step queues all launches of every rank and runs them together. Ranks whose
//! sequences have no token in a step take part all the same: others need their experts.

mod hang;
mod load;
mod role;
mod timeline;

use crate::device::{EmulatedGroup, Queued, RunFailure};
use crate::engine::{Engine, Rows, SequenceId, check_batch};
use crate::session::{Profile, RankState, Ready, StepInputs, Value};
use crate::weights::Progress;
use crate::{Artefact, Checkpoint, Phase, Result, fail};
use moec_ir::timeline::Timeline;
use moec_ir::{Diagnostic, Ranks};
use std::collections::BTreeMap;
use std::time::Instant;

/// A model loaded on a group of emulated devices, with the sequences that it remembers.
pub struct GroupSession {
    group: EmulatedGroup,
    states: Vec<RankState>,
    /// The rank that a sequence lives on, and its name there.
    sequences: BTreeMap<SequenceId, (usize, SequenceId)>,
    next_sequence: u64,
    /// Most tokens of any rank in a step.
    most: u64,
    profile: Profile,
    /// A step has failed, so that what ranks share is no longer in order.
    broken: bool,
    /// What ran when, where it is recorded, and ticks so far.
    executed: Timeline,
    ticks: u64,
    /// What was being computed when ranks hung.
    stuck: Vec<(String, String)>,
}

/// How much a group has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Cache rows of each rank, rounded up to whole pages.
    pub rows: u64,
    /// Most tokens of any rank in a step; as many as it has rows, if not given. What ranks share
    /// grows with it.
    pub most_tokens: Option<u64>,
}

impl GroupSession {
    /// Loads a model on a group of the ranks that its artefact is for: checks the checkpoint
    /// against every plan, and copies to each rank the weights that all have and its own experts.
    ///
    /// # Errors
    /// E0604 where the checkpoint does not fit, E1004 where a plan is inconsistent or for other
    /// ranks, E1104 where the device refuses the PTX, E1103 where its memory does not suffice.
    pub fn new(
        group: EmulatedGroup,
        artefact: &Artefact,
        checkpoint: &Checkpoint,
        room: Room,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        load::load(group, artefact, checkpoint, room, progress)
    }

    /// The group.
    pub fn ranks(&self) -> Ranks {
        self.group.ranks()
    }

    /// Most tokens of any rank in a step.
    pub fn most_tokens(&self) -> u64 {
        self.most
    }

    /// What each kernel has cost, over all ranks.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Begins a sequence on a rank.
    ///
    /// # Errors
    /// As [`Engine::open`], and E1204 where there is no such rank.
    pub fn open_on(&mut self, rank: u32, capacity: u64) -> Result<SequenceId> {
        let at = rank as usize;
        let Some(state) = self.states.get_mut(at) else {
            let message = format!("there is no rank {rank} of {}", self.states.len());
            return fail(Diagnostic::error("E1204", message));
        };
        let local = state.open(capacity)?;
        let id = SequenceId(self.next_sequence);
        self.next_sequence += 1;
        self.sequences.insert(id, (at, local));
        Ok(id)
    }

    /// The rank that a sequence lives on; none where it is not open.
    pub fn rank_of(&self, sequence: SequenceId) -> Option<u32> {
        Some(self.sequences.get(&sequence)?.0 as u32)
    }

    /// Whether the values that flow between functions are kept until the next step, each in memory
    /// of its own, for [`GroupSession::values`].
    pub fn keep_values(&mut self, on: bool) {
        for state in &mut self.states {
            state.keep_values(on);
        }
    }

    /// What flowed between functions in the last step, by rank and in order; nothing unless it was
    /// kept.
    ///
    /// # Errors
    /// E1103 where the device fails.
    pub fn values(&mut self) -> Result<Vec<Vec<Value>>> {
        let group = &mut self.group;
        let ranks = (0..).zip(&self.states);
        ranks.map(|(rank, state)| state.values(&mut group.rank(rank))).collect()
    }

    /// What ran when in all steps so far, by rank and role of SMs, a nanosecond for each tick of
    /// virtual time; empty unless the group records it.
    pub fn executed(&self) -> &Timeline {
        &self.executed
    }

    /// The functions and, as plans name them, the values that waiting launches were computing when
    /// a step hung; nothing where none did.
    pub fn stuck(&self) -> &[(String, String)] {
        &self.stuck
    }

    /// A step's tokens by rank, in the order of the batch, and the place of each in it.
    fn divide<'t>(&self, batch: &[(SequenceId, &'t [u32])]) -> Result<Vec<Share<'t>>> {
        let mut shares: Vec<Share<'t>> = self.states.iter().map(|_| Share::default()).collect();
        for (at, (id, tokens)) in batch.iter().enumerate() {
            let Some(&(rank, local)) = self.sequences.get(id) else {
                return fail(Diagnostic::error("E1204", "the sequence is not open"));
            };
            shares[rank].batch.push((local, *tokens));
            shares[rank].places.push(at);
        }
        for (rank, share) in shares.iter().enumerate() {
            let tokens: u64 = share.batch.iter().map(|(_, tokens)| tokens.len() as u64).sum();
            if tokens > self.most {
                let message = format!(
                    "rank {rank} has {tokens} tokens in this step; the group has room for {}",
                    self.most
                );
                let help = "spread the sequences over more steps, or load the model with room for more tokens";
                return fail(Diagnostic::error("E1208", message).help(help));
            }
        }
        Ok(shares)
    }
}

/// What of a step is one rank's.
#[derive(Default)]
struct Share<'t> {
    batch: Vec<(SequenceId, &'t [u32])>,
    /// Where in the whole batch each sequence stands.
    places: Vec<usize>,
}

impl Engine for GroupSession {
    fn context(&self) -> u64 {
        self.states.first().map_or(0, RankState::context)
    }

    fn vocab(&self) -> u64 {
        self.states.first().map_or(0, RankState::vocab)
    }

    /// On the rank for whose sequences the fewest tokens are reserved, the first of equals, among
    /// those that have room.
    fn open(&mut self, capacity: u64) -> Result<SequenceId> {
        let numbered = || self.states.iter().enumerate();
        let load = |&(rank, state): &(usize, &RankState)| (state.reserved(), rank);
        let roomy = numbered().filter(|(_, state)| state.free_rows() >= capacity).min_by_key(load);
        // Where none has room, the least loaded one says so.
        let rank = roomy.or_else(|| numbered().min_by_key(load)).map_or(0, |(rank, _)| rank);
        self.open_on(rank as u32, capacity)
    }

    fn close(&mut self, sequence: SequenceId) -> Result<()> {
        match self.sequences.remove(&sequence) {
            Some((rank, local)) => self.states[rank].close(local),
            None => fail(Diagnostic::error("E1204", "the sequence is not open")),
        }
    }

    fn step(
        &mut self,
        phase: Phase,
        batch: &[(SequenceId, &[u32])],
        rows: Rows,
    ) -> Result<Vec<Vec<f32>>> {
        if self.broken {
            let message = "an earlier step of this group failed, and ranks no longer agree";
            return fail(Diagnostic::error("E1204", message).help("load the model again"));
        }
        check_batch(batch, self.vocab())?;
        let shares = self.divide(batch)?;
        let inputs: Vec<StepInputs> = self
            .states
            .iter()
            .zip(&shares)
            .map(|(state, share)| state.inputs(&share.batch))
            .collect::<Result<_>>()?;
        let phase = self.states[0].phase(phase)?;
        let tokens: u64 = inputs.iter().map(|i| i.sizes.tokens).sum();
        let _span = tracing::debug_span!("step", %phase, tokens, ranks = %self.ranks()).entered();
        let Self { group, states, profile, executed, ticks, .. } = self;
        let mut addresses = Vec::new();
        for ((rank, state), inputs) in (0..).zip(&mut *states).zip(&inputs) {
            addresses.push(state.prepare(&mut group.rank(rank), phase, inputs)?);
        }
        let mut ready: Vec<Vec<Ready<'_>>> = Vec::new();
        for ((state, inputs), addresses) in states.iter().zip(&inputs).zip(&addresses) {
            ready.push(state.launches(phase, &inputs.sizes, addresses)?);
        }
        let queued = |launch: &Ready<'_>| Queued {
            kernel: launch.kernel,
            shape: launch.shape,
            args: launch.args.clone(),
            label: launch.place.to_string(),
        };
        let queues: Vec<Vec<Queued>> =
            ready.iter().map(|launches| launches.iter().map(queued).collect()).collect();
        let begin = Instant::now();
        let report = match group.run(&queues) {
            Ok(report) => report,
            Err(RunFailure::Other(e)) => {
                self.broken = true;
                return Err(e);
            }
            Err(RunFailure::Hang(found)) => {
                let (diagnostic, computing) = hang::describe(&found, &ready);
                (self.broken, self.stuck) = (true, computing);
                return fail(diagnostic);
            }
        };
        if let Some(run) = &report.timeline {
            timeline::add(executed, run, &ready, *ticks);
        }
        *ticks += report.ticks;
        // Launches of a group have no times of their own: each has its part by instructions.
        let (took, all) = (begin.elapsed(), report.counters.iter().flatten());
        let all = all.map(|c| c.warp_instructions).sum::<u64>().max(1);
        for (launches, counters) in ready.iter().zip(report.counters) {
            for (launch, counters) in launches.iter().zip(counters) {
                let part = counters.warp_instructions as f64 / all as f64;
                let name = &launch.place.kernel.name;
                profile.add(phase, name, took.mul_f64(part), counters);
            }
        }
        let mut result = vec![vec![]; batch.len()];
        for ((rank, share), addresses) in (0..).zip(&shares).zip(&addresses) {
            let state = &mut states[rank as usize];
            let device = &mut group.rank(rank);
            let logits = state.read_rows(device, (phase, addresses), &share.batch, rows)?;
            for (place, logits) in share.places.iter().zip(logits) {
                result[*place] = logits;
            }
            state.advance(&share.batch);
        }
        Ok(result)
    }
}
