//! Which keys tokens see.

use super::super::Operands;
use super::super::softmax::half;
use super::layout::ROWS;
use crate::builder::{Bool, Builder, F32, I32};

/// Keys from `first` to before `end`.
#[derive(Clone, Copy)]
pub(super) struct Span<'k> {
    pub(super) first: I32<'k>,
    pub(super) end: I32<'k>,
}

impl<'k> Span<'k> {
    /// Those that a token sees; beyond the last token, the last one's.
    fn of_token(operands: &Operands<'k>, token: I32<'k>, n_tokens: I32<'k>) -> Self {
        let (first, count) = operands.keys_of(token.min(n_tokens - 1));
        Self { first, end: first + count }
    }

    /// Those of the tokens of a CTA that this lane looks at: each 32nd.
    pub(super) fn of_lane(
        b: &'k Builder<'k>,
        operands: &Operands<'k>,
        first_token: I32<'k>,
        n_tokens: I32<'k>,
    ) -> Vec<Self> {
        let rows = (0..ROWS / 32).map(|i| first_token + b.lane() + b.i32(32 * i));
        rows.map(|token| Self::of_token(operands, token, n_tokens)).collect()
    }

    /// All between the first and the last of those that the lanes of a warp look at.
    pub(super) fn around(b: &'k Builder<'k>, spans: &[Self]) -> Self {
        let union = |a: Self, b: Self| Self { first: a.first.min(b.first), end: a.end.max(b.end) };
        let both = spans.iter().copied().reduce(union);
        let own = both.unwrap_or(Self { first: b.i32(0), end: b.i32(0) });
        Self { first: own.first.warp_min(), end: own.end.warp_max() }
    }
}

/// What the two tokens of a thread see.
pub(super) struct Seen<'k> {
    b: &'k Builder<'k>,
    /// Of either token, how many of this thread's scores of a row, block after block, are of keys
    /// before the first that it sees, and before the end.
    bounds: [[I32<'k>; 2]; 2],
    /// What all tokens of the warp see.
    common: Span<'k>,
}

impl<'k> Seen<'k> {
    /// `first_key` is that of the thread's first score.
    pub(super) fn new(
        b: &'k Builder<'k>,
        operands: &Operands<'k>,
        (token, n_tokens): (I32<'k>, I32<'k>),
        first_key: I32<'k>,
    ) -> Self {
        let spans = [0, 8].map(|below| Span::of_token(operands, token + below, n_tokens));
        let [upper, lower] = spans;
        let common = Span {
            first: upper.first.max(lower.first).warp_max(),
            end: upper.end.min(lower.end).warp_min(),
        };
        // A thread has the first two of each eight keys; no bound is eight before its first key.
        let before = |bound: I32<'k>| {
            let keys = bound + 8 - first_key;
            (keys / 8) * 2 + (keys % 8).min(b.i32(2)) - 2
        };
        let bounds = spans.map(|Span { first, end }| [first, end].map(before));
        Self { b, bounds, common }
    }

    /// Whether a token of the warp does not see all of the keys `from .. from + keys`: the same in
    /// all lanes.
    fn hides(&self, from: I32<'k>, keys: u64) -> Bool<'k> {
        from.lt(self.common.first) | self.common.end.lt(from + keys as i32)
    }

    /// For the upper or lower token, a bit for each of so many scores of a row, `before` of which
    /// went before: whether its key is seen.
    fn bits(&self, row: usize, before: I32<'k>, scores: u64) -> Vec<I32<'k>> {
        let word = |first: u64| {
            let before = before + first as i32;
            let from = |bound: I32<'k>| (bound.max(before) - before).bits_from();
            let [begun, over] = self.bounds[row].map(from);
            begun & (over ^ self.b.i32(-1))
        };
        (0..scores).step_by(32).map(word).collect()
    }
}

/// Scores of a block, those of keys that are not seen taken out.
pub(super) fn mask<'k>(
    b: &'k Builder<'k>,
    seen: &Seen<'k>,
    first_key: I32<'k>,
    block: I32<'k>,
    scores: Vec<F32<'k>>,
) -> Vec<F32<'k>> {
    let keys = 2 * scores.len() as u64;
    let per_row = keys / 4;
    let hides = seen.hides(first_key + block * keys as i32, keys);
    b.if_else(hides, scores.clone(), || {
        let before = block * per_row as i32;
        let bits = [0, 1].map(|row| seen.bits(row, before, per_row));
        let masked = |(number, score): (usize, F32<'k>)| {
            let of_row = number / 4 * 2 + number % 2;
            let bit = bits[half(number)][of_row / 32] & b.i32(1_u32 << (of_row % 32));
            score.when(bit.ne(b.i32(0)), b.f32(f32::NEG_INFINITY))
        };
        scores.into_iter().enumerate().map(masked).collect()
    })
}
