//! How a model is stepped, whatever computes it.

use crate::{Phase, Result, fail};
use moec_ir::Diagnostic;

/// A sequence that an engine remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub(crate) u64);

/// Of which tokens of a step the logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Every token.
    All,
    /// The last token of each sequence.
    Last,
}

/// Something that computes logits: compiled kernels on a device, or the reference evaluator.
pub trait Engine {
    /// Longest sequence that the model is defined for.
    fn context(&self) -> u64;

    /// Number of token ids.
    fn vocab(&self) -> u64;

    /// Begins a sequence of at most `capacity` tokens.
    ///
    /// # Errors
    /// E1201 where `capacity` exceeds the context, E1202 where no memory is left for it.
    fn open(&mut self, capacity: u64) -> Result<SequenceId>;

    /// Forgets a sequence.
    ///
    /// # Errors
    /// E1204 where it is not open.
    fn close(&mut self, sequence: SequenceId) -> Result<()>;

    /// Appends tokens to sequences and returns, for each in the order given, logits of shape
    /// `[rows, vocab]`.
    ///
    /// # Errors
    /// E1201 where a sequence becomes too long, E1203 for token ids outside the vocabulary,
    /// E1204 for an empty or repeated or closed sequence, E11xx where the device fails.
    fn step(
        &mut self,
        phase: Phase,
        batch: &[(SequenceId, &[u32])],
        rows: Rows,
    ) -> Result<Vec<Vec<f32>>>;
}

/// A sequence of `needed` tokens where there is room for `capacity`.
pub(crate) fn too_long<T>(needed: u64, capacity: u64, what: &str) -> Result<T> {
    let message = format!("{needed} tokens do not fit: {what} {capacity}");
    fail(
        Diagnostic::error("E1201", message).help("shorten the prompt, or ask for fewer new tokens"),
    )
}

/// Checks what every engine requires of a batch, except lengths.
pub(crate) fn check_batch(batch: &[(SequenceId, &[u32])], vocab: u64) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    if batch.is_empty() {
        return fail(Diagnostic::error("E1204", "a step needs at least one sequence"));
    }
    for (sequence, tokens) in batch {
        if tokens.is_empty() {
            let message = "a step needs at least one token of each sequence";
            return fail(
                Diagnostic::error("E1204", message).help("give a prompt that is not empty"),
            );
        }
        if !seen.insert(*sequence) {
            return fail(Diagnostic::error("E1204", "a step names the same sequence twice"));
        }
        if let Some(id) = tokens.iter().find(|&&id| u64::from(id) >= vocab) {
            let message = format!("token id {id} is outside the vocabulary of {vocab}");
            let help = "is this the tokenizer of this model?";
            return fail(Diagnostic::error("E1203", message).help(help));
        }
    }
    Ok(())
}
