//! Steps through the ring whose number only the device knows: whole rounds without a question, then
//! a last one in which stages may be idle.

use super::ring::{Ring, Step};
use crate::builder::I32;
use crate::builder::control::Carried;

/// What is done with a stage in a step of a round.
pub(super) struct Stage<'f, 'k, C> {
    /// In a step.
    pub(super) step: &'f dyn Fn(Step<'k>, C) -> C,
    /// After the last one: the stage is handed on, so that all stages are in the same phase.
    pub(super) idle: &'f dyn Fn(Step<'k>),
}

impl<'k> Ring<'k, '_> {
    /// Runs `stage` for `steps` steps of a tile; `parity` is that of all stages before and, as
    /// returned, after it.
    pub(super) fn each_of<C: Carried<'k>>(
        &self,
        steps: I32<'k>,
        parity: I32<'k>,
        init: C,
        stage: &Stage<'_, 'k, C>,
    ) -> (I32<'k>, C) {
        let (b, stages) = (self.b, self.tile.stages);
        let at = |first: I32<'k>, stage: u64, parity: I32<'k>| {
            let index = first + b.i32(stage);
            Step { stage, index, parity, round: parity }
        };
        let whole = steps / stages as i32 * stages as i32;
        let (zero, state) = (b.i32(0), (parity, init));
        let done = b.for_loop(zero, whole, b.i32(stages), state, |first, (parity, mut carried)| {
            for i in 0..stages {
                carried = (stage.step)(at(first, i, parity), carried);
            }
            (parity ^ 1, carried)
        });
        b.if_else(whole.ne(steps), done.clone(), || {
            let (parity, mut carried) = done;
            for i in 0..stages {
                let step = at(whole, i, parity);
                carried = b.either(
                    step.index.lt(steps),
                    || (stage.step)(step, carried.clone()),
                    || {
                        (stage.idle)(step);
                        carried.clone()
                    },
                );
            }
            (parity ^ 1, carried)
        })
    }
}
