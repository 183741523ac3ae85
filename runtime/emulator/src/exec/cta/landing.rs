//! Asynchronous operations of a CTA come to their end.

use super::{Cta, Launch, Worker};
use crate::error::Error;
use crate::exec::Cx;
use crate::fault::{FaultKind, RawFault};

impl Cta {
    /// Operations in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.state.pending.len()
    }

    /// Does the next part of the operation at `index` of the queue.
    pub(crate) fn land(
        &mut self,
        index: usize,
        launch: &Launch<'_>,
        worker: &mut Worker,
    ) -> Result<(), Error> {
        let (origin, lane) = self.state.pending.origin(index);
        let warp = &mut self.warps[origin.warp as usize];
        let mut cx = Cx {
            frame: warp.frames[0].registers(),
            mask: 1 << lane,
            active: 1 << lane,
            pc: origin.pc,
            function: &launch.program.functions[origin.function as usize],
            warp,
            cta: &mut self.state,
            launch,
            worker,
            fault: None,
        };
        match cx.advance(index) {
            Ok(_) => Ok(()),
            Err(raw) => Err(self.locate(*raw, origin, launch)),
        }
    }

    /// At the end of a turn: does some of the operations in flight, or none. True if it did any.
    pub(crate) fn land_some(
        &mut self,
        launch: &Launch<'_>,
        worker: &mut Worker,
    ) -> Result<bool, Error> {
        let (mut any, mut index) = (false, 0);
        while index < self.in_flight() {
            if !self.state.chance.as_mut().is_some_and(|chance| chance.is_due()) {
                index += 1;
                continue;
            }
            any = true;
            let before = self.in_flight();
            self.land(index, launch, worker)?;
            index += usize::from(self.in_flight() == before);
        }
        Ok(any)
    }

    /// All threads have exited. Copies of threads and products end as they are; a bulk copy that
    /// still uses the shared memory would read or write that of the next CTA.
    pub(super) fn land_before_end(
        &mut self,
        launch: &Launch<'_>,
        worker: &mut Worker,
    ) -> Result<(), Error> {
        if let Some(index) = self.state.pending.holder() {
            let (origin, lane) = self.state.pending.origin(index);
            let rule = "the CTA ends while this copy still uses its shared memory; nobody has \
                        waited for it";
            let raw = RawFault::new(FaultKind::Misuse(rule.to_string()), lane);
            return Err(self.locate(*raw, origin, launch));
        }
        while let Some(index) = self.state.pending.needs_warps() {
            self.land(index, launch, worker)?;
        }
        Ok(())
    }
}
