//! What the runtime tells the kernels of a step's tokens.

use super::Sequence;
use moec_ir::Sizes;
use moec_ir::plan::StepInput;

/// The arrays of one step.
pub(super) struct StepInputs {
    pub(super) sizes: Sizes,
    /// Token ids, `[T]`.
    pub(super) ids: Vec<i32>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    slots: Vec<i32>,
    cache_start: Vec<i32>,
    past_slots: Vec<i32>,
    past_start: Vec<i32>,
}

/// The order in which buffers of step inputs are numbered.
pub(super) const STEP_INPUTS: [StepInput; 6] = [
    StepInput::Positions,
    StepInput::Sequences,
    StepInput::Slots,
    StepInput::CacheStart,
    StepInput::PastSlots,
    StepInput::PastStart,
];

impl StepInputs {
    pub(super) fn of(step: &[(Sequence, &[u32])]) -> Self {
        let mut inputs = Self {
            sizes: Sizes { tokens: 0, past: 0, sequences: step.len() as u64 },
            ids: vec![],
            positions: vec![],
            sequences: vec![],
            slots: vec![],
            cache_start: vec![],
            past_slots: vec![],
            past_start: vec![],
        };
        for (index, (sequence, tokens)) in step.iter().enumerate() {
            let (begin, end) = (sequence.length, sequence.length + tokens.len() as u64);
            let slot = |position: u64| (sequence.start + position) as i32;
            inputs.ids.extend(tokens.iter().map(|&t| t as i32));
            inputs.positions.extend((begin..end).map(|p| p as i32));
            inputs.sequences.extend(tokens.iter().map(|_| index as i32));
            inputs.slots.extend((begin..end).map(slot));
            inputs.cache_start.push(slot(0));
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
        let a = Sequence { start: 10, capacity: 8, length: 2 };
        let b = Sequence { start: 4, capacity: 6, length: 0 };
        let inputs = StepInputs::of(&[(a, &[7]), (b, &[8, 9, 5])]);
        assert_eq!(inputs.sizes, Sizes { tokens: 4, past: 6, sequences: 2 });
        assert_eq!(inputs.ids, [7, 8, 9, 5]);
        let expected: [(StepInput, &[i32]); 6] = [
            (StepInput::Positions, &[2, 0, 1, 2]),
            (StepInput::Sequences, &[0, 1, 1, 1]),
            (StepInput::Slots, &[12, 4, 5, 6]),
            (StepInput::CacheStart, &[10, 4]),
            (StepInput::PastSlots, &[10, 11, 12, 4, 5, 6]),
            (StepInput::PastStart, &[0, 3]),
        ];
        for (input, array) in expected {
            assert_eq!(inputs.array(input), array, "{input:?}");
            assert_eq!(input.elements().eval(&inputs.sizes), array.len() as u64, "{input:?}");
        }
    }
}
