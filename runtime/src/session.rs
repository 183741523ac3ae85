//! A model on a device: weights, caches and the launches of its steps.

mod load;
mod pages;
mod pool;
mod profile;
mod run;
mod step_inputs;
mod tables;

pub use profile::{KernelProfile, Profile};
pub use tables::rotary_table;

use crate::device::{Device, KernelId};
use crate::engine::{Engine, Rows, SequenceId, check_batch, too_long};
use crate::weights::Progress;
use crate::{Artefact, Checkpoint, Phase, Result, fail};
use moec_ir::plan::PAGE_ROWS;
use moec_ir::{Diagnostic, Plan, Sizes};
use pages::Pages;
use pool::Pool;
use std::collections::BTreeMap;
use step_inputs::StepInputs;

/// A model loaded on a device, with the sequences that it remembers.
pub struct Session {
    device: Box<dyn Device>,
    phases: BTreeMap<Phase, Loaded>,
    /// Longest sequence, the context or what the session has rows for.
    capacity: u64,
    context: u64,
    vocab: u64,
    pages: Pages,
    sequences: BTreeMap<SequenceId, Sequence>,
    next_sequence: u64,
    workspace: Pool,
    values: Pool,
    step_inputs: Pool,
    profile: Profile,
    profiling: bool,
}

/// A plan with every address that does not change from step to step.
struct Loaded {
    plan: Plan,
    kernels: Vec<KernelId>,
    /// Index of the entry `main`.
    main: usize,
    /// By entry and step.
    calls: Vec<Vec<Call>>,
}

/// Addresses of what one step of an entry owns, by the function's indices.
#[derive(Default)]
struct Call {
    weights: Vec<u64>,
    caches: Vec<u64>,
    tables: Vec<u64>,
}

/// The cache pages of a sequence: rows for `capacity` tokens, of which `length` are filled.
struct Sequence {
    pages: Vec<u64>,
    capacity: u64,
    length: u64,
}

impl Sequence {
    /// The cache row of the token at a position.
    fn row(&self, position: u64) -> u64 {
        self.pages[(position / PAGE_ROWS) as usize] * PAGE_ROWS + position % PAGE_ROWS
    }
}

impl Session {
    /// Loads a model: checks the checkpoint against every plan, copies the weights (those that
    /// plans share, once), and reserves caches of `rows` tokens in all, rounded up to whole pages of
    /// [`PAGE_ROWS`]; each sequence takes whole pages.
    ///
    /// # Errors
    /// E0604 where the checkpoint does not fit, E1004 where a plan is inconsistent, E1104 where
    /// the device refuses the PTX, E1103 where its memory does not suffice.
    pub fn new(
        device: Box<dyn Device>,
        artefact: Artefact,
        checkpoint: &Checkpoint,
        rows: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        load::load(device, artefact, checkpoint, rows, progress)
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

    /// The plan that runs a phase; the other phase's where the artefact has only that. Any plan
    /// is right for any step, only not equally fast.
    fn loaded(&self, phase: Phase) -> Result<(Phase, &Loaded)> {
        let own = self.phases.get_key_value(&phase);
        match own.or_else(|| self.phases.first_key_value()) {
            Some((&phase, loaded)) => Ok((phase, loaded)),
            None => fail(Diagnostic::error("E1004", "the artefact has no phase")),
        }
    }

    /// Looks up a batch's sequences and checks that its tokens fit.
    fn look_up<'s, 't>(
        &'s self,
        batch: &[(SequenceId, &'t [u32])],
    ) -> Result<Vec<(&'s Sequence, &'t [u32])>> {
        let mut found = Vec::with_capacity(batch.len());
        for (id, tokens) in batch {
            let Some(sequence) = self.sequences.get(id) else {
                return fail(Diagnostic::error("E1204", "the sequence is not open"));
            };
            let needed = sequence.length + tokens.len() as u64;
            if needed > sequence.capacity {
                return too_long(needed, sequence.capacity, "the sequence was opened for");
            }
            found.push((sequence, *tokens));
        }
        Ok(found)
    }
}

impl Engine for Session {
    fn context(&self) -> u64 {
        self.context
    }

    fn vocab(&self) -> u64 {
        self.vocab
    }

    fn open(&mut self, capacity: u64) -> Result<SequenceId> {
        if capacity > self.context {
            return too_long(capacity, self.context, "the model's context is");
        }
        if capacity > self.capacity {
            return too_long(capacity, self.capacity, "the session's capacity is");
        }
        let Some(pages) = self.pages.take(capacity) else {
            let message = format!(
                "{capacity} tokens take {} cache pages of {PAGE_ROWS} rows; {} of {} are free",
                Pages::of_rows(capacity),
                self.pages.free(),
                self.pages.total()
            );
            let help = "close a sequence, or load the model with more rows";
            return fail(Diagnostic::error("E1202", message).help(help));
        };
        let id = SequenceId(self.next_sequence);
        self.next_sequence += 1;
        self.sequences.insert(id, Sequence { pages, capacity, length: 0 });
        Ok(id)
    }

    fn close(&mut self, sequence: SequenceId) -> Result<()> {
        match self.sequences.remove(&sequence) {
            Some(s) => {
                self.pages.give(s.pages);
                Ok(())
            }
            None => fail(Diagnostic::error("E1204", "the sequence is not open")),
        }
    }

    fn step(
        &mut self,
        phase: Phase,
        batch: &[(SequenceId, &[u32])],
        rows: Rows,
    ) -> Result<Vec<Vec<f32>>> {
        check_batch(batch, self.vocab)?;
        let inputs = StepInputs::of(&self.look_up(batch)?);
        let (phase, _) = self.loaded(phase)?;
        let _span = tracing::debug_span!("step", %phase, tokens = inputs.sizes.tokens).entered();
        let logits = self.run_main(phase, &inputs)?;
        let result = self.read_rows(&logits, batch, rows)?;
        for (id, tokens) in batch {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.length += tokens.len() as u64;
            }
        }
        Ok(result)
    }
}

/// Where an entry left a value.
struct Output {
    address: u64,
    dtype: moec_ir::DType,
    /// Elements of one row.
    width: u64,
}

impl Session {
    /// Reads the logits that are wanted, as float32, sequence by sequence.
    fn read_rows(
        &mut self,
        logits: &Output,
        batch: &[(SequenceId, &[u32])],
        rows: Rows,
    ) -> Result<Vec<Vec<f32>>> {
        let row = logits.width * logits.dtype.bytes();
        let mut first = 0;
        let mut result = Vec::with_capacity(batch.len());
        for (_, tokens) in batch {
            let count = tokens.len() as u64;
            let (from, n) = match rows {
                Rows::All => (first, count),
                Rows::Last => (first + count - 1, 1),
            };
            let mut bytes = vec![0; (n * row) as usize];
            self.device.read(logits.address + from * row, &mut bytes)?;
            result.push(to_f32(&bytes, logits.dtype));
            first += count;
        }
        Ok(result)
    }
}

fn to_f32(bytes: &[u8], dtype: moec_ir::DType) -> Vec<f32> {
    use moec_ir::DType;
    match dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::Bf16 => {
            bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
        }
        DType::F16 => {
            bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
        }
        // `load` refuses plans whose logits have any other type.
        _ => vec![],
    }
}

/// Sizes of an artefact's step, for people.
fn show(sizes: &Sizes) -> String {
    format!("T = {}, S = {}, B = {}", sizes.tokens, sizes.past, sizes.sequences)
}
