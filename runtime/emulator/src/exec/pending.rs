//! Asynchronous operations between their issue and their end (PTX ISA 9.7.9.25, "Asynchronous copy
//! operations"; 9.7.15.1, "Warpgroup matrix multiply-accumulate").
//!
//! In order, an operation is done when it is issued: the earliest moment that the ISA allows. By
//! chance it waits in a queue of its CTA. After every turn some of the queue are done, in any
//! order; a wait does what it waits for; and when nothing in a cluster can run, one operation is
//! done at a time until something can. A copy that a kernel does not wait for is thus late for
//! some seeds, and one that it starts too early reads or overwrites what others still use.

use std::fmt::Debug;

use super::{Cx, lanes_of};
use crate::fault::RawFault;

/// What an operation does when its time has come.
pub(crate) trait Operation: Debug + Send + Sync {
    /// Does the next part; true if it was the last. The first of two parts reads shared memory.
    fn step(&mut self, cx: &mut Cx<'_>, lane: u32) -> Result<bool, Box<RawFault>>;
}

/// The wait that finds an operation done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// One at an mbarrier, which hears of it.
    Mbarrier,
    /// `cp.async.bulk.wait_group` for this group of the thread.
    BulkGroup(u32),
    /// `cp.async.wait_group` for this group of these threads of the warp.
    CopyGroup { lanes: u32, group: u32 },
    /// None: it ends when these threads' copies before it have.
    AfterCopies { lanes: u32 },
    /// `wgmma.wait_group`; products of a warpgroup are done in order.
    Product { warpgroup: u32 },
}

/// Where an operation was issued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) warp: u32,
    pub(crate) function: u32,
    pub(crate) pc: u32,
}

#[derive(Debug)]
struct Flight {
    origin: Origin,
    lane: u32,
    awaited: Awaited,
    /// It still reads or writes shared memory of its CTA, which therefore must not end.
    holds_shared: bool,
    work: Box<dyn Operation>,
}

/// The queue of one CTA, in order of issue.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    flights: Vec<Flight>,
}

impl Pending {
    pub(crate) fn clear(&mut self) {
        self.flights.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.flights.len()
    }

    /// Where the operation at `index` was issued.
    pub(crate) fn origin(&self, index: usize) -> (Origin, u32) {
        (self.flights[index].origin, self.flights[index].lane)
    }

    /// A bulk copy that holds the CTA's shared memory.
    pub(crate) fn holder(&self) -> Option<usize> {
        let copies =
            |flight: &Flight| matches!(flight.awaited, Awaited::Mbarrier | Awaited::BulkGroup(_));
        self.flights.iter().position(|flight| flight.holds_shared && copies(flight))
    }

    /// An operation that reads registers or shared memory without being a bulk copy.
    pub(crate) fn needs_warps(&self) -> Option<usize> {
        self.find(|flight| !matches!(flight.awaited, Awaited::Mbarrier | Awaited::BulkGroup(_)))
    }

    fn find(&self, wanted: impl FnMut(&Flight) -> bool) -> Option<usize> {
        self.flights.iter().position(wanted)
    }
}

impl Cx<'_> {
    /// The place of the running instruction.
    pub(crate) fn origin(&mut self) -> Origin {
        let frame = self.split().frame;
        let function = self.warp.frames[frame as usize].function;
        Origin { warp: self.warp.index, function, pc: self.pc }
    }

    /// Issues an operation of one lane: does it at once, or puts it into the queue.
    pub(crate) fn issue(
        &mut self,
        lane: u32,
        awaited: Awaited,
        holds_shared: bool,
        mut work: impl Operation + 'static,
    ) -> Result<(), Box<RawFault>> {
        self.worker.progress += 1;
        if self.cta.chance.is_none() {
            while !work.step(self, lane)? {}
            return Ok(());
        }
        let (origin, work) = (self.origin(), Box::new(work));
        self.cta.pending.flights.push(Flight { origin, lane, awaited, holds_shared, work });
        let at_once = self.cta.chance.as_mut().is_some_and(|chance| chance.is_due());
        if at_once { self.advance(self.cta.pending.len() - 1).map(|_| ()) } else { Ok(()) }
    }

    /// Does the next part of the operation at `index`, and before it whatever must come first.
    /// True if it has ended.
    pub(crate) fn advance(&mut self, index: usize) -> Result<bool, Box<RawFault>> {
        let (awaited, warp) = {
            let flight = &self.cta.pending.flights[index];
            (flight.awaited, flight.origin.warp)
        };
        let mut index = index;
        loop {
            let earlier = &self.cta.pending.flights[..index];
            let first = earlier.iter().position(|flight| match (awaited, flight.awaited) {
                (Awaited::Product { .. }, same) => same == awaited,
                (Awaited::AfterCopies { lanes }, Awaited::CopyGroup { lanes: others, .. }) => {
                    flight.origin.warp == warp && lanes & others != 0
                }
                _ => false,
            });
            let Some(first) = first else { break };
            // It needs nothing before itself that would move `index` by more than one.
            self.take_step(first)?;
            index -= 1;
        }
        self.take_step(index)
    }

    fn take_step(&mut self, index: usize) -> Result<bool, Box<RawFault>> {
        let mut flight = self.cta.pending.flights.remove(index);
        self.worker.progress += 1;
        match flight.work.step(self, flight.lane) {
            Ok(true) => Ok(true),
            Ok(false) => {
                flight.holds_shared = false;
                self.cta.pending.flights.insert(index, flight);
                Ok(false)
            }
            Err(mut fault) => {
                fault.origin.get_or_insert(flight.origin);
                Err(fault)
            }
        }
    }

    /// Ends the operations that `wanted` names by what they wait for and their lane, among those
    /// of this warp or, for products, its warpgroup.
    fn finish(
        &mut self,
        reads_only: bool,
        wanted: impl Fn(Awaited, u32) -> bool,
    ) -> Result<(), Box<RawFault>> {
        let own = self.warp.index;
        let next = |cx: &Self| {
            cx.cta.pending.find(|flight| {
                flight.origin.warp == own
                    && wanted(flight.awaited, flight.lane)
                    && (flight.holds_shared || !reads_only)
            })
        };
        while let Some(index) = next(self) {
            self.advance(index)?;
        }
        Ok(())
    }

    /// `cp.async.bulk.wait_group{.read}`: at most `most` of the youngest groups of each executing
    /// thread stay in flight, or still read.
    pub(crate) fn wait_bulk(&mut self, most: u32, reads_only: bool) -> Result<(), Box<RawFault>> {
        for lane in lanes_of(self.mask) {
            let ends = self.warp.bulk_groups[lane as usize].saturating_sub(most);
            self.finish(reads_only, |awaited, of| {
                of == lane && matches!(awaited, Awaited::BulkGroup(group) if group < ends)
            })?;
        }
        Ok(())
    }

    /// `cp.async.wait_group`; without a number `cp.async.wait_all`.
    pub(crate) fn wait_copies(&mut self, most: Option<u32>) -> Result<(), Box<RawFault>> {
        for lane in lanes_of(self.mask) {
            let ends = match most {
                Some(most) => self.warp.copy_groups[lane as usize].saturating_sub(most),
                None => u32::MAX,
            };
            self.finish(false, |awaited, _| match awaited {
                Awaited::CopyGroup { lanes, group } => lanes >> lane & 1 != 0 && group < ends,
                _ => false,
            })?;
        }
        Ok(())
    }

    /// `wgmma.wait_group`: at most `most` of the youngest products of the warpgroup stay in flight.
    pub(crate) fn wait_products(&mut self, most: usize) -> Result<(), Box<RawFault>> {
        let ours = Awaited::Product { warpgroup: self.warp.index / 4 };
        loop {
            let mut flights = self.cta.pending.flights.iter();
            let count = flights.clone().filter(|flight| flight.awaited == ours).count();
            match flights.position(|flight| flight.awaited == ours) {
                Some(first) if count > most => self.take_step(first)?,
                _ => return Ok(()),
            };
        }
    }
}
