//! The ring of stages between the warp that copies and the warpgroups that multiply.
//!
//! The loop over `k` is unrolled over the stages, so that their addresses are constants. Which
//! phase a barrier is in depends on how often its stage was used: the last round of a tile may
//! use only the first stages, so that there are two parities, of those and of the others.

use super::tile::{Tile, WARPGROUP};
use crate::builder::control::Carried;
use crate::builder::tensor_copy::TensorMapPtr;
use crate::builder::{Builder, I32, wgmma};

/// Stages, and how many steps along `k` there are.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Ring<'k, 't> {
    pub(super) b: &'k Builder<'k>,
    pub(super) tile: &'t Tile,
    /// Start of shared memory.
    pub(super) base: I32<'k>,
    /// The first barrier: near enough to all others for the offset that an instruction holds.
    barriers: I32<'k>,
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

/// How a warp gives stages back: a lane for each CTA that fills them.
#[derive(Clone, Copy)]
pub(super) struct Releases<'k> {
    /// 1 in those lanes, else 0.
    pub(super) who: I32<'k>,
    /// The first barrier in the lane's CTA.
    barriers: I32<'k>,
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
    /// The stages of a tile of so many steps along `k`.
    pub(super) fn new(b: &'k Builder<'k>, tile: &'t Tile, steps: u64) -> Self {
        let base = b.dynamic_shared();
        let barriers = (base + tile.full(0) as i32).anew();
        Self { b, tile, base, barriers, steps }
    }

    fn barrier(&self, offset: u64) -> I32<'k> {
        self.barriers + (offset - self.tile.full(0)) as i32
    }

    /// The barrier that says that a stage is full.
    pub(super) fn full(&self, stage: u64) -> I32<'k> {
        self.barrier(self.tile.full(stage))
    }

    /// The barrier that says that a stage is empty.
    pub(super) fn empty(&self, stage: u64) -> I32<'k> {
        self.barrier(self.tile.empty(stage))
    }

    /// The barrier that says that the widened `w` of a stage is there.
    pub(super) fn wide_full(&self, stage: u64) -> I32<'k> {
        self.barrier(self.tile.wide_full(stage))
    }

    /// Address of something in shared memory.
    pub(super) fn at(&self, offset: u64) -> I32<'k> {
        self.base + offset as i32
    }

    /// Lower words of the descriptors ([`Builder::wgmma_descriptor_at`]) of a stage of `a`, from
    /// `first_row` on, and of `w`.
    pub(super) fn descriptors(&self, stage: u64, first_row: I32<'k>) -> [I32<'k>; 2] {
        let tile = self.tile;
        let w = self.descriptor(tile.w(stage));
        let w = if tile.transposed { w + wgmma::leading(tile.panel()[1]) } else { w };
        let a = (self.base + first_row * wgmma::ROW_BYTES as i32) >> 4;
        [a.anew() + (tile.a(stage) / 16) as i32, w]
    }

    /// The lower word of the descriptor of something in shared memory.
    pub(super) fn descriptor(&self, offset: u64) -> I32<'k> {
        (self.base >> 4).anew() + (offset / 16) as i32
    }

    /// Makes the barriers; all threads of the CTA come here, and of its cluster. `producers` arrive
    /// at a full stage.
    pub(super) fn prepare(&self, producers: u64) {
        let (b, tile) = (self.b, self.tile);
        // Stages are filled for all CTAs of a cluster at once.
        let warps = tile.consumers() * u64::from(WARPGROUP / 32) * tile.ctas_of_cluster();
        b.if_(b.thread().eq(b.i32(0)), || {
            for stage in 0..tile.stages {
                b.mbarrier_init(self.full(stage), producers);
                b.mbarrier_init(self.empty(stage), warps);
                if tile.widened.is_some() {
                    b.mbarrier_init(self.wide_full(stage), u64::from(WARPGROUP));
                }
            }
            b.fence_mbarrier_init();
        });
        match tile.ctas_of_cluster() {
            1 => b.barrier(),
            _ => b.cluster_barrier(),
        }
    }

    /// Before the kernel ends: others may reach into this CTA's shared memory until they do too.
    pub(super) fn end(&self) {
        if self.tile.ctas_of_cluster() > 1 {
            self.b.cluster_barrier();
        }
    }

    /// Waits until a stage is empty, in all CTAs that it is filled for.
    pub(super) fn wait_empty(&self, step: Step<'k>) {
        let (b, empty) = (self.b, self.empty(step.stage));
        match self.tile.ctas_of_cluster() {
            1 => b.mbarrier_wait(empty, step.parity ^ 1),
            _ => b.mbarrier_wait_for_cluster(empty, step.parity ^ 1),
        }
    }

    /// Copies this CTA's share of a tile of an operand: all of it, or, where `ctas` share it, its
    /// part of the rows to all of them. `at` gives the coordinates of a row of the tile.
    pub(super) fn copy(
        &self,
        step: Step<'k>,
        map: TensorMapPtr<'k>,
        to: u64,
        [rows, ctas]: [u64; 2],
        at: impl Fn(I32<'k>) -> Vec<I32<'k>>,
    ) {
        let (b, full) = (self.b, self.full(step.stage));
        if ctas == 1 {
            return b.tensor_copy(self.at(to), map, &at(b.i32(0)), full);
        }
        let first = b.cta(0) % ctas as i32 * (rows / ctas) as i32;
        let to = self.at(to) + first * wgmma::ROW_BYTES as i32;
        b.tensor_copy_to_all(ctas, to, map, &at(first), full);
    }

    /// The lanes that give stages back, for this thread.
    pub(super) fn releases(&self) -> Releases<'k> {
        let b = self.b;
        let ctas = self.tile.ctas_of_cluster();
        let who = b.i32(1).when(b.lane().lt(b.i32(ctas)), b.i32(0));
        let barriers = match ctas {
            1 => self.barriers,
            _ => b.in_cta(self.barriers, b.lane() % ctas as i32),
        };
        Releases { who, barriers }
    }

    /// Gives a stage back, by the lanes that do.
    pub(super) fn release(&self, stage: u64, Releases { who, barriers }: Releases<'k>) {
        let empty = barriers + (self.tile.empty(stage) - self.tile.full(0)) as i32;
        match self.tile.ctas_of_cluster() {
            1 => self.b.mbarrier_arrive(empty, who),
            _ => self.b.mbarrier_arrive_in_cluster(empty, who),
        }
    }

    /// Waits until a stage is full.
    pub(super) fn wait_full(&self, step: Step<'k>) {
        self.b.mbarrier_wait(self.full(step.stage), step.parity);
    }

    /// Waits until the widened `w` of a stage is there, and with it all else of the stage.
    pub(super) fn wait_widened(&self, step: Step<'k>) {
        self.wait_full(step);
        self.b.mbarrier_wait(self.wide_full(step.stage), step.parity);
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
