//! Data exchange within a warp. PTX ISA 9.7.9.6 (`shfl.sync`), 9.7.13.10 (`vote.sync`),
//! 9.7.13.13 (`redux.sync`).

use super::value::Scalar;
use super::{Bool, Builder, F32, I32, Val};

impl<'k, T: Scalar> Val<'k, T> {
    fn shuffle(self, kind: &str, offset: I32<'k>, clamp: i32) -> Self {
        let b = self.b;
        let attributes = [("kind", b.parse(&format!("#nvvm<shfl_kind {kind}>")))];
        let operands = [b.i32(-1).raw, self.raw, offset.raw, b.i32(clamp).raw];
        Val::new(b, b.value("nvvm.shfl.sync", &operands, T::mlir(b), &attributes))
    }

    /// The value of the lane whose index differs in the bits of `mask`: `shfl.sync.bfly`.
    pub(crate) fn shuffle_xor(self, mask: i32) -> Self {
        self.shuffle("bfly", self.b.i32(mask), 31)
    }

    /// The value of a lane: `shfl.sync.idx`.
    pub(crate) fn shuffle_from(self, lane: I32<'k>) -> Self {
        self.shuffle("idx", lane, 31)
    }

    /// The value of a lane of the own `width` neighbours (a power of two), by its index among
    /// them: `shfl.sync.idx` with segments.
    pub(crate) fn shuffle_within(self, width: u32, index: u32) -> Self {
        let segments = (32 - width.cast_signed()) << 8;
        self.shuffle("idx", self.b.i32(index), segments | 31)
    }

    /// The value of the lane `distance` below; the own value in the lowest lanes:
    /// `shfl.sync.up`.
    pub(crate) fn shuffle_up(self, distance: i32) -> Self {
        self.shuffle("up", self.b.i32(distance), 0)
    }
}

impl<'k> F32<'k> {
    /// Combines the values of `width` neighbouring lanes (a power of two) in a fixed order; all
    /// of them get the result.
    pub(crate) fn across(self, width: u32, combine: impl Fn(Self, Self) -> Self) -> Self {
        let mut value = self;
        let mut distance = width / 2;
        while distance > 0 {
            value = combine(value, value.shuffle_xor(distance.cast_signed()));
            distance /= 2;
        }
        value
    }
}

impl<'k> I32<'k> {
    fn redux(self, kind: &str) -> Self {
        let b = self.b;
        let attributes = [("kind", b.parse(&format!("#nvvm<redux_kind {kind}>")))];
        Val::new(
            b,
            b.value("nvvm.redux.sync", &[self.raw, b.i32(-1).raw], b.types.i32, &attributes),
        )
    }

    /// The greatest (unsigned) of the warp: `redux.sync.max.u32`.
    pub(crate) fn warp_max(self) -> Self {
        self.redux("umax")
    }

    /// The least (unsigned) of the warp: `redux.sync.min.u32`.
    pub(crate) fn warp_min(self) -> Self {
        self.redux("umin")
    }
}

impl<'k> I32<'k> {
    /// The sum over this lane and those below it.
    pub(crate) fn inclusive_sum(self) -> Self {
        let b = self.b;
        let lane = b.lane();
        [1, 2, 4, 8, 16].into_iter().fold(self, |sum, distance| {
            let below = sum.shuffle_up(distance);
            sum + below.when(b.i32(distance).le(lane), b.i32(0))
        })
    }

    /// Bit `i`: whether lane `i` holds the same value: `match.any.sync.b32`
    /// (PTX ISA 9.7.13.11).
    pub(crate) fn match_any(self) -> Self {
        let b = self.b;
        let attributes = [("kind", b.parse("#nvvm<match_sync_kind any>"))];
        Val::new(
            b,
            b.value("nvvm.match.sync", &[b.i32(-1).raw, self.raw], b.types.i32, &attributes),
        )
    }
}

impl<'k> Bool<'k> {
    /// Bit `i`: whether it holds in lane `i`: `vote.sync.ballot.b32`.
    pub(crate) fn ballot(self) -> I32<'k> {
        let b = self.b;
        let attributes = [("kind", b.parse("#nvvm<vote_sync_kind ballot>"))];
        Val::new(b, b.value("nvvm.vote.sync", &[b.i32(-1).raw, self.raw], b.types.i32, &attributes))
    }
}

impl<'k> Builder<'k> {
    /// Sums several numbers, each over `width` neighbouring lanes, with about one shuffle per
    /// number: at each step a lane hands half of its numbers to its partner and keeps the other
    /// half. `values` are a power of two, at most `width`. Returns, per lane, one total and the
    /// index of the number that it is of; lanes that agree in the upper bits of their index hold
    /// the same one.
    pub(crate) fn sum_spread(
        &'k self,
        mut values: Vec<F32<'k>>,
        lane: I32<'k>,
        width: u32,
    ) -> (F32<'k>, I32<'k>) {
        let mut index = self.i32(0);
        let mut distance = width / 2;
        while distance > 0 {
            let mask = distance.cast_signed();
            if values.len() > 1 {
                let half = values.len() / 2;
                let upper = (lane & mask).ne(self.i32(0));
                let pair = |i: usize| (values[i], values[i + half]);
                values = (0..half)
                    .map(pair)
                    .map(|(low, high)| {
                        high.when(upper, low) + low.when(upper, high).shuffle_xor(mask)
                    })
                    .collect();
                index = index + self.i32(half as i64).when(upper, self.i32(0));
            } else {
                values = values.into_iter().map(|v| v + v.shuffle_xor(mask)).collect();
            }
            distance /= 2;
        }
        (values[0], index)
    }
}
