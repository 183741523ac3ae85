//! A model on a device: weights, caches and the launches of its steps.

mod load;
mod pages;
mod pool;
mod profile;
mod rank;
mod run;
mod step_inputs;
mod tables;
mod values;

pub use profile::{KernelProfile, Profile};
pub use tables::rotary_table;
pub use values::Value;

pub(crate) use load::{check, load};
pub(crate) use rank::{Membership, RankState};
pub(crate) use run::{Place, Ready, while_computing};
pub(crate) use step_inputs::StepInputs;

use crate::device::Device;
use crate::engine::{Engine, Rows, SequenceId, check_batch};
use crate::weights::Progress;
use crate::{Artefact, Checkpoint, Phase, Result, fail};
use moec_ir::{Diagnostic, Sizes};
use std::time::Instant;

/// A model loaded on a device, with the sequences that it remembers.
pub struct Session {
    device: Box<dyn Device>,
    state: RankState,
    profile: Profile,
    profiling: bool,
}

impl Session {
    /// Loads a model: checks the checkpoint against every plan, copies the weights (those that
    /// plans share, once), and reserves caches of `rows` tokens in all, rounded up to whole pages of
    /// [`PAGE_ROWS`](moec_ir::plan::PAGE_ROWS); each sequence takes whole pages.
    ///
    /// # Errors
    /// E0604 where the checkpoint does not fit, E1004 where a plan is inconsistent or for several
    /// ranks, E1104 where the device refuses the PTX, E1103 where its memory does not suffice.
    pub fn new(
        mut device: Box<dyn Device>,
        artefact: Artefact,
        checkpoint: &Checkpoint,
        rows: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let checked = check(&artefact, checkpoint)?;
        if let Some(ranks) = checked.ranks {
            let message = format!("the artefact is for {ranks}, and this is one device");
            return fail(Diagnostic::error("E1004", message).help("build it for one rank"));
        }
        let (phases, limits) = (&artefact.phases, (&checked, rows));
        let state = load(device.as_mut(), phases, checkpoint, limits, None, progress)?;
        Ok(Self { device, state, profile: Profile::default(), profiling: false })
    }

    /// Whether launches are waited for one by one, so that [`Session::profile`] holds times of
    /// the device rather than of the launches. On the emulator a launch is always waited for.
    pub fn set_profiling(&mut self, on: bool) {
        self.profiling = on;
    }

    /// What each kernel has cost since the session began or the profile was reset.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Forgets what was measured.
    pub fn reset_profile(&mut self) {
        self.profile = Profile::default();
    }

    /// The device, for people.
    pub fn device(&self) -> String {
        self.device.describe()
    }

    /// Whether the values that flow between functions are kept until the next step, each in memory
    /// of its own, for [`Session::values`].
    pub fn keep_values(&mut self, on: bool) {
        self.state.keep_values(on);
    }

    /// What flowed between functions in the last step, in order; nothing unless it was kept.
    ///
    /// # Errors
    /// E1103 and E1105 where the device fails.
    pub fn values(&mut self) -> Result<Vec<Value>> {
        self.state.values(self.device.as_mut())
    }
}

impl Engine for Session {
    fn context(&self) -> u64 {
        self.state.context()
    }

    fn vocab(&self) -> u64 {
        self.state.vocab()
    }

    fn open(&mut self, capacity: u64) -> Result<SequenceId> {
        self.state.open(capacity)
    }

    fn close(&mut self, sequence: SequenceId) -> Result<()> {
        self.state.close(sequence)
    }

    fn step(
        &mut self,
        phase: Phase,
        batch: &[(SequenceId, &[u32])],
        rows: Rows,
    ) -> Result<Vec<Vec<f32>>> {
        check_batch(batch, self.state.vocab())?;
        let inputs = self.state.inputs(batch)?;
        let phase = self.state.phase(phase)?;
        let _span = tracing::debug_span!("step", %phase, tokens = inputs.sizes.tokens).entered();
        let Self { device, state, profile, profiling } = self;
        let device = device.as_mut();
        let addresses = state.prepare(device, phase, &inputs)?;
        for Ready { kernel, shape, args, place } in
            state.launches(phase, &inputs.sizes, &addresses)?
        {
            let in_context = |e| while_computing(e, &place, phase, &inputs.sizes);
            let begin = Instant::now();
            let counters = device.launch(kernel, &shape, &args).map_err(in_context)?;
            if *profiling {
                device.synchronize().map_err(in_context)?;
            }
            profile.add(phase, &place.kernel.name, begin.elapsed(), counters);
        }
        let result = state.read_rows(device, (phase, &addresses), batch, rows)?;
        state.advance(batch);
        Ok(result)
    }
}

/// Sizes of an artefact's step, for people.
fn show(sizes: &Sizes) -> String {
    format!("T = {}, S = {}, B = {}", sizes.tokens, sizes.past, sizes.sequences)
}
