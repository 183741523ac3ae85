//! What one rank holds of a model: addresses on its device, and the sequences that it remembers.

use super::pages::Pages;
use super::pool::Pool;
use super::run::Addresses;
use super::values::Kept;
use super::{StepInputs, show};
use crate::device::{Device, KernelId};
use crate::engine::{Rows, SequenceId, too_long};
use crate::{Phase, Result, fail};
use moec_ir::plan::PAGE_ROWS;
use moec_ir::{DType, Diagnostic, Dim, Plan};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A model on one rank, which may be the only one.
pub(crate) struct RankState {
    pub(super) phases: BTreeMap<Phase, Loaded>,
    /// Longest sequence, the context or what there are rows for.
    capacity: u64,
    context: u64,
    vocab: u64,
    pub(super) pages: Pages,
    sequences: BTreeMap<SequenceId, Sequence>,
    next_sequence: u64,
    pub(super) workspace: Pool,
    pub(super) values: Pool,
    pub(super) step_inputs: Pool,
    /// What the plans name of a group, where there is one.
    pub(super) member: Option<Membership>,
    pub(super) keep: bool,
    pub(super) kept: Option<Kept>,
}

/// A rank's place in a group.
pub(crate) struct Membership {
    /// Its number.
    pub(crate) rank: u32,
    /// The most tokens that any rank has in a step.
    pub(crate) most: u64,
    /// Addresses of the symmetric buffers on this rank, by phase.
    pub(crate) symmetric: BTreeMap<Phase, Vec<u64>>,
    /// Where the numbers of [`Buffer::Group`](moec_ir::plan::Buffer::Group) lie.
    pub(crate) context: u64,
}

/// A plan with every address that does not change from step to step.
pub(super) struct Loaded {
    pub(super) plan: Arc<Plan>,
    pub(super) kernels: Vec<KernelId>,
    /// Index of the entry `main`.
    pub(super) main: usize,
    /// By entry and step.
    pub(super) calls: Vec<Vec<Call>>,
}

/// Addresses of what one step of an entry owns, by the function's indices.
#[derive(Default)]
pub(super) struct Call {
    pub(super) weights: Vec<u64>,
    pub(super) caches: Vec<u64>,
    pub(super) tables: Vec<u64>,
}

/// The cache pages of a sequence: rows for `capacity` tokens, of which `length` are filled.
pub(super) struct Sequence {
    pub(super) pages: Vec<u64>,
    pub(super) capacity: u64,
    pub(super) length: u64,
}

impl Sequence {
    /// The cache row of the token at a position.
    pub(super) fn row(&self, position: u64) -> u64 {
        self.pages[(position / PAGE_ROWS) as usize] * PAGE_ROWS + position % PAGE_ROWS
    }
}

impl RankState {
    /// Nothing remembered yet. `context` and `vocab` are the model's.
    pub(super) fn new(
        phases: BTreeMap<Phase, Loaded>,
        (context, vocab): (u64, u64),
        (capacity, pages): (u64, Pages),
        member: Option<Membership>,
    ) -> Self {
        Self {
            phases,
            capacity,
            context,
            vocab,
            pages,
            sequences: BTreeMap::new(),
            next_sequence: 0,
            workspace: Pool::new("workspace"),
            values: Pool::new("value"),
            step_inputs: Pool::new("step input"),
            member,
            keep: false,
            kept: None,
        }
    }

    pub(crate) fn context(&self) -> u64 {
        self.context
    }

    pub(crate) fn vocab(&self) -> u64 {
        self.vocab
    }

    /// Cache rows that open sequences do not hold.
    pub(crate) fn free_rows(&self) -> u64 {
        self.pages.free() * PAGE_ROWS
    }

    /// Tokens for which sequences are open.
    pub(crate) fn reserved(&self) -> u64 {
        self.sequences.values().map(|s| s.capacity).sum()
    }

    /// The plan that runs a phase; the other phase's where the artefact has only that. Any plan
    /// is right for any step, only not equally fast.
    pub(crate) fn phase(&self, phase: Phase) -> Result<Phase> {
        let own = self.phases.get_key_value(&phase);
        match own.or_else(|| self.phases.first_key_value()) {
            Some((&phase, _)) => Ok(phase),
            None => fail(Diagnostic::error("E1004", "the artefact has no phase")),
        }
    }

    pub(super) fn loaded(&self, phase: Phase) -> Result<&Loaded> {
        match self.phases.get(&phase) {
            Some(loaded) => Ok(loaded),
            None => fail(Diagnostic::error("E1004", format!("there is no {phase} plan"))),
        }
    }

    /// As [`Engine::open`](crate::Engine::open).
    pub(crate) fn open(&mut self, capacity: u64) -> Result<SequenceId> {
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

    /// As [`Engine::close`](crate::Engine::close).
    pub(crate) fn close(&mut self, sequence: SequenceId) -> Result<()> {
        match self.sequences.remove(&sequence) {
            Some(s) => {
                self.pages.give(s.pages);
                Ok(())
            }
            None => fail(Diagnostic::error("E1204", "the sequence is not open")),
        }
    }

    /// What kernels are told of a batch. It may be empty where other ranks have tokens.
    pub(crate) fn inputs(&self, batch: &[(SequenceId, &[u32])]) -> Result<StepInputs> {
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
        let inputs = StepInputs::of(&found);
        let sizes = &inputs.sizes;
        if i32::try_from(sizes.past.max(sizes.tokens)).is_err() {
            let message = format!("a step of {} is beyond 32-bit row numbers", show(sizes));
            return fail(Diagnostic::error("E1201", message).help("use a smaller batch"));
        }
        Ok(inputs)
    }

    /// Remembers that a batch has been computed.
    pub(crate) fn advance(&mut self, batch: &[(SequenceId, &[u32])]) {
        for (id, tokens) in batch {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.length += tokens.len() as u64;
            }
        }
    }

    /// Reads the logits that are wanted, as float32, sequence by sequence.
    pub(crate) fn read_rows(
        &self,
        device: &mut dyn Device,
        (phase, addresses): (Phase, &Addresses),
        batch: &[(SequenceId, &[u32])],
        rows: Rows,
    ) -> Result<Vec<Vec<f32>>> {
        let loaded = self.loaded(phase)?;
        let entry = &loaded.plan.entries[loaded.main];
        let logits = entry.outputs[0].0;
        let value = &entry.values[logits];
        let width = value.shape.get(1).and_then(Dim::constant).unwrap_or(0);
        let row = width * value.dtype.bytes();
        let mut first = 0;
        let mut result = Vec::with_capacity(batch.len());
        for (_, tokens) in batch {
            let count = tokens.len() as u64;
            let (from, n) = match rows {
                Rows::All => (first, count),
                Rows::Last => (first + count - 1, 1),
            };
            let mut bytes = vec![0; (n * row) as usize];
            device.read(addresses.values[logits] + from * row, &mut bytes)?;
            result.push(to_f32(&bytes, value.dtype));
            first += count;
        }
        Ok(result)
    }
}

fn to_f32(bytes: &[u8], dtype: DType) -> Vec<f32> {
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
