//! What the runtime tells the kernels of a step's tokens.

use super::pages::Pages;
use super::rank::Sequence;
use moec_ir::Sizes;
use moec_ir::plan::{PAGE_ROWS, StepInput};

/// The arrays of one step.
pub(crate) struct StepInputs {
    pub(crate) sizes: Sizes,
    /// Token ids, `[T]`.
    pub(super) ids: Vec<i32>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    slots: Vec<i32>,
    cache_start: Vec<i32>,
    cache_pages: Vec<i32>,
    past_slots: Vec<i32>,
    past_start: Vec<i32>,
}

/// The order in which buffers of step inputs are numbered.
pub(super) const STEP_INPUTS: [StepInput; 7] = [
    StepInput::Positions,
    StepInput::Sequences,
    StepInput::Slots,
    StepInput::CacheStart,
    StepInput::CachePages,
    StepInput::PastSlots,
    StepInput::PastStart,
];

impl StepInputs {
    pub(super) fn of(step: &[(&Sequence, &[u32])]) -> Self {
        let mut inputs = Self {
            sizes: Sizes { tokens: 0, past: 0, sequences: step.len() as u64 },
            ids: vec![],
            positions: vec![],
            sequences: vec![],
            slots: vec![],
            cache_start: vec![],
            cache_pages: vec![],
            past_slots: vec![],
            past_start: vec![],
        };
        for (index, (sequence, tokens)) in step.iter().enumerate() {
            let (begin, end) = (sequence.length, sequence.length + tokens.len() as u64);
            let slot = |position: u64| sequence.row(position) as i32;
            inputs.ids.extend(tokens.iter().map(|&t| t as i32));
            inputs.positions.extend((begin..end).map(|p| p as i32));
            inputs.sequences.extend(tokens.iter().map(|_| index as i32));
            inputs.slots.extend((begin..end).map(slot));
            inputs.cache_start.push(PAGE_ROWS as i32 * inputs.cache_pages.len() as i32);
            let filled = &sequence.pages[..Pages::of_rows(end) as usize];
            inputs.cache_pages.extend(filled.iter().map(|&page| page as i32));
            inputs.past_start.push(inputs.past_slots.len() as i32);
            inputs.past_slots.extend((0..end).map(slot));
        }
        inputs.sizes.tokens = inputs.ids.len() as u64;
        inputs.sizes.past = inputs.past_slots.len() as u64;
        inputs
    }

    pub(super) fn array(&self, input: StepInput) -> &[i32] {
        match input {
            StepInput::Positions => &self.positions,
            StepInput::Sequences => &self.sequences,
            StepInput::Slots => &self.slots,
            StepInput::CacheStart => &self.cache_start,
            StepInput::CachePages => &self.cache_pages,
            StepInput::PastSlots => &self.past_slots,
            StepInput::PastStart => &self.past_start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_batch_has_the_documented_arrays() {
        let a = Sequence { pages: vec![3, 1], capacity: 80, length: 64 };
        let b = Sequence { pages: vec![2, 0], capacity: 65, length: 0 };
        let inputs = StepInputs::of(&[(&a, &[7]), (&b, &[8, 9, 5])]);
        assert_eq!(inputs.sizes, Sizes { tokens: 4, past: 68, sequences: 2 });
        assert_eq!(inputs.ids, [7, 8, 9, 5]);
        let past: Vec<i32> = (192..256).chain([64, 128, 129, 130]).collect();
        let expected: [(StepInput, &[i32]); 7] = [
            (StepInput::Positions, &[64, 0, 1, 2]),
            (StepInput::Sequences, &[0, 1, 1, 1]),
            (StepInput::Slots, &[64, 128, 129, 130]),
            (StepInput::CacheStart, &[0, 128]),
            (StepInput::CachePages, &[3, 1, 2]),
            (StepInput::PastSlots, &past),
            (StepInput::PastStart, &[0, 65]),
        ];
        for (input, array) in expected {
            assert_eq!(inputs.array(input), array, "{input:?}");
            let bound = input.elements().eval(&inputs.sizes);
            let exact = input != StepInput::CachePages;
            assert!(array.len() as u64 <= bound, "{input:?}");
            assert!(!exact || array.len() as u64 == bound, "{input:?}");
        }
    }
}
