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
    spans: [Span<'k>; 2],
    /// What all tokens of the warp see.
    common: Span<'k>,
}

impl<'k> Seen<'k> {
    pub(super) fn new(
        b: &'k Builder<'k>,
        operands: &Operands<'k>,
        token: I32<'k>,
        n_tokens: I32<'k>,
    ) -> Self {
        let spans = [0, 8].map(|below| Span::of_token(operands, token + below, n_tokens));
        let [upper, lower] = spans;
        let common = Span {
            first: upper.first.max(lower.first).warp_max(),
            end: upper.end.min(lower.end).warp_min(),
        };
        Self { b, spans, common }
    }

    /// Whether a token of the warp does not see all of the keys `from .. from + keys`: the same in
    /// all lanes.
    pub(super) fn hides(&self, from: I32<'k>, keys: u64) -> Bool<'k> {
        from.lt(self.common.first) | self.common.end.lt(from + keys as i32)
    }

    /// For the upper or lower token, which of the keys `from + i` it sees.
    pub(super) fn sees(
        &self,
        half: usize,
        from: I32<'k>,
    ) -> impl Fn(u64) -> Bool<'k> + use<'k, '_> {
        let Span { first, end } = self.spans[half];
        // Keys before the first are far beyond the last, unsigned.
        let (at, count) = (from - first, end - first);
        move |i| (at + self.b.i32(i)).lt(count)
    }
}

/// Scores of the block from key `from` on, those of keys that are not seen taken out. `column` is
/// that of the thread's first score.
pub(super) fn mask<'k>(
    b: &'k Builder<'k>,
    seen: &Seen<'k>,
    from: I32<'k>,
    column: I32<'k>,
    scores: Vec<F32<'k>>,
) -> Vec<F32<'k>> {
    let keys = 2 * scores.len() as u64;
    let hides = seen.hides(from, keys);
    b.if_else(hides, scores.clone(), || {
        let sees = [0, 1].map(|row| seen.sees(row, from + column));
        let masked = |(number, score): (usize, F32<'k>)| {
            let key = (number / 4 * 8 + number % 2) as u64;
            score.when(sees[half(number)](key), b.f32(f32::NEG_INFINITY))
        };
        scores.into_iter().enumerate().map(masked).collect()
    })
}
