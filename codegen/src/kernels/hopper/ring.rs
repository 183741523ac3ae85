//! The ring of stages between the warp that copies and the warpgroups that multiply.
//!
//! The loop over `k` is unrolled over the stages, so that their addresses are constants. Which
//! phase a barrier is in depends on how often its stage was used: the last round of a tile may
//! use only the first stages, so that there are two parities, of those and of the others.

use super::tile::{Tile, WARPGROUP};
use crate::builder::control::Carried;
use crate::builder::{Builder, I32, I64, wgmma};

/// Stages, and how many steps along `k` there are.
#[derive(Clone, Copy)]
pub(super) struct Ring<'k, 't> {
    pub(super) b: &'k Builder<'k>,
    pub(super) tile: &'t Tile,
    /// Start of shared memory.
    pub(super) base: I32<'k>,
    pub(super) steps: u64,
}

/// Parities of the stages' phases.
#[derive(Clone)]
pub(super) struct Parity<'k> {
    /// Of the stages that the last round of a tile uses.
    early: I32<'k>,
    /// Of the others.
    late: I32<'k>,
}

impl<'k> Carried<'k> for Parity<'k> {
    fn flatten(&self, into: &mut Vec<melior::ir::Value<'k, 'k>>) {
        (self.early, self.late).flatten(into);
    }
    fn rebuild(&self, from: &mut dyn Iterator<Item = melior::ir::Value<'k, 'k>>) -> Self {
        let (early, late) = (self.early, self.late).rebuild(from);
        Self { early, late }
    }
}

/// A step along `k`.
#[derive(Clone, Copy)]
pub(super) struct Step<'k> {
    /// The stage: known when the code is generated.
    pub(super) stage: u64,
    /// The step's number within the tile.
    pub(super) index: I32<'k>,
    /// Parity of the phase in which the stage is full.
    pub(super) parity: I32<'k>,
    /// Parity of the round: which set of scales.
    pub(super) round: I32<'k>,
}

impl<'k, 't> Ring<'k, 't> {
    /// Address of something in shared memory.
    pub(super) fn at(&self, offset: u64) -> I32<'k> {
        self.base + offset as i32
    }

    /// Descriptors of a stage of `a`, from `first_row` on, and of `w`.
    pub(super) fn descriptors(&self, stage: u64, first_row: I32<'k>) -> [I64<'k>; 2] {
        let (b, tile) = (self.b, self.tile);
        let a = self.base + first_row * wgmma::ROW_BYTES as i32;
        [a.anew() + tile.a(stage) as i32, self.base.anew() + tile.w(stage) as i32]
            .map(|address| b.wgmma_descriptor(address))
    }

    /// Makes the barriers; all threads of the CTA come here. `producers` arrive at a full stage.
    pub(super) fn prepare(&self, producers: u64) {
        let (b, tile) = (self.b, self.tile);
        let warps = tile.consumers() * u64::from(WARPGROUP / 32);
        b.if_(b.thread().eq(b.i32(0)), || {
            for stage in 0..tile.stages {
                b.mbarrier_init(self.at(tile.full(stage)), producers);
                b.mbarrier_init(self.at(tile.empty(stage)), warps);
            }
            b.fence_mbarrier_init();
        });
        b.barrier();
    }

    /// Waits until a stage is full.
    pub(super) fn wait_full(&self, step: Step<'k>) {
        self.b.mbarrier_wait(self.at(self.tile.full(step.stage)), step.parity);
    }

    /// Parities before the first tile.
    pub(super) fn start(&self) -> Parity<'k> {
        Parity { early: self.b.i32(0), late: self.b.i32(0) }
    }

    /// Runs `body` for each step of a tile.
    pub(super) fn each<C: Carried<'k>>(
        &self,
        parity: Parity<'k>,
        init: C,
        mut body: impl FnMut(Step<'k>, C) -> C,
    ) -> (Parity<'k>, C) {
        let (b, stages) = (self.b, self.tile.stages);
        let (rounds, rest) = (self.steps / stages, self.steps % stages);
        let mut round = |first: I32<'k>, used: u64, parity: Parity<'k>, mut carried: C| {
            let of_round = if rest > 0 { parity.early } else { parity.late };
            for stage in 0..used {
                let parity = if stage < rest { parity.early } else { parity.late };
                let index = first + b.i32(stage);
                carried = body(Step { stage, index, parity, round: of_round }, carried);
            }
            let early = if rest > 0 { parity.early ^ 1 } else { parity.early };
            let late = if used == stages { parity.late ^ 1 } else { parity.late };
            (Parity { early, late }, carried)
        };
        let mut state = (parity, init);
        match rounds {
            0 => {}
            1 => state = round(b.i32(0), stages, state.0, state.1),
            _ => {
                let end = b.i32(rounds * stages);
                let step = b.i32(stages);
                state = b.for_loop(b.i32(0), end, step, state, |first, (parity, carried)| {
                    round(first, stages, parity, carried)
                });
            }
        }
        if rest > 0 {
            state = round(b.i32(rounds * stages), rest, state.0, state.1);
        }
        state
    }
}
