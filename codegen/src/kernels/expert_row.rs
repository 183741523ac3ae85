//! Rows with a number for each expert, a warp per row: neighbouring lanes read neighbouring
//! vectors, and then hold neighbouring experts each, so that of equal numbers the lowest lane has
//! the lowest index.

use crate::builder::{Bool, Builder, F32, I32, Ptr};

/// How rows of experts are divided among the lanes of a warp.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpertRow {
    /// Elements.
    pub(super) n_experts: u64,
    /// Elements that are read at once: divides their number.
    pub(super) width: u64,
}

/// A lane's part of a row as it is read: neighbouring lanes hold neighbouring vectors.
#[derive(Clone)]
pub(super) struct Vector<'k> {
    /// The first element; beyond the row's end the last vector is read again.
    pub(super) at: I32<'k>,
    /// Whether it is none that was read again.
    pub(super) inside: Bool<'k>,
    pub(super) values: Vec<F32<'k>>,
}

impl ExpertRow {
    /// Elements that a lane holds at most.
    pub(super) fn per_lane(self) -> u64 {
        self.n_experts.div_ceil(32)
    }

    /// Bytes of a row in shared memory.
    pub(super) fn bytes(self) -> u64 {
        4 * 32 * self.per_lane()
    }

    /// Whether a lane reads the elements that it is to hold.
    pub(super) fn is_in_place(self) -> bool {
        self.per_lane() == self.width
    }

    /// Reads a row: `load` gives the vector that begins at an element.
    pub(super) fn read<'k>(
        self,
        b: &'k Builder<'k>,
        load: impl Fn(I32<'k>) -> Vec<F32<'k>>,
    ) -> Vec<Vector<'k>> {
        let vectors = self.n_experts / self.width;
        let part = |i: u64| {
            let vector = b.lane() + b.i32(32 * i);
            let at = vector.min(b.i32(vectors - 1)) * self.width as i32;
            Vector { at, inside: vector.lt(b.i32(vectors)), values: load(at) }
        };
        (0..vectors.div_ceil(32)).map(part).collect()
    }

    /// Writes a row to shared memory.
    pub(super) fn write<'k>(self, b: &'k Builder<'k>, to: Ptr<'k>, row: &[Vector<'k>]) {
        let width = self.width.min(4) as usize;
        for part in row {
            b.if_(part.inside, || {
                for (i, words) in part.values.chunks(width).enumerate() {
                    to.index(part.at, 4).add_const((4 * width * i) as u64).store_words(words);
                }
            });
        }
    }

    /// This lane's neighbouring elements of a row that was read, and which of them exist; where
    /// the lane has read others, the row is in shared memory at `from`.
    pub(super) fn own<'k>(
        self,
        b: &'k Builder<'k>,
        row: &[Vector<'k>],
        from: Ptr<'k>,
    ) -> Vec<(F32<'k>, Bool<'k>)> {
        let per_lane = self.per_lane();
        let first = b.lane() * b.i32(per_lane);
        let values = match self.is_in_place() {
            true => row.iter().flat_map(|part| part.values.clone()).collect(),
            false => from.index(first, 4).load_f32(per_lane as usize),
        };
        let exists = |i: u64| (first + b.i32(i)).lt(b.i32(self.n_experts));
        values.into_iter().zip(0..).map(|(value, i)| (value, exists(i))).collect()
    }
}
