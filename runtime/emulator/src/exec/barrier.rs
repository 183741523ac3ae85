//! CTA barriers (PTX ISA 9.7.13.1, "bar, barrier").

use super::context::CtaState;

/// Barriers of a CTA.
pub(crate) const BARRIERS: usize = 16;

/// One of the 16 barriers of a CTA.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Barrier {
    /// Threads that have arrived, whole warps counting 32.
    pub(crate) arrived: u32,
    /// Threads that end the generation; 0 for all of the CTA.
    pub(crate) expected: u32,
    /// Completed generations.
    pub(crate) generation: u32,
    /// Sums of a reduction: lanes with a true predicate, lanes in all.
    trues: u32,
    total: u32,
    /// The sums of the generation that ended last.
    last: (u32, u32),
}

/// One split's arrival.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) id: u8,
    /// The operand, or 0 for all threads.
    pub(crate) expected: u32,
    /// Threads that it counts for.
    pub(crate) threads: u32,
    /// Lanes whose predicate is true, and lanes in all.
    pub(crate) trues: u32,
    pub(crate) total: u32,
}

impl CtaState {
    /// Counts an arrival; the error says how it breaks the rules.
    pub(crate) fn arrive(&mut self, arrival: Arrival) -> Result<(), String> {
        let barrier = &mut self.barriers[arrival.id as usize];
        if barrier.arrived == 0 {
            barrier.expected = arrival.expected;
        } else if barrier.expected != arrival.expected {
            return Err(format!(
                "barrier {} is used with {} threads while another warp waits there with {} \
                 (0 stands for the whole CTA)",
                arrival.id, arrival.expected, barrier.expected
            ));
        }
        barrier.arrived += arrival.threads;
        barrier.trues += arrival.trues;
        barrier.total += arrival.total;
        if arrival.expected != 0 && barrier.arrived > arrival.expected {
            return Err(format!(
                "barrier {} expects {} threads and {} arrived",
                arrival.id, arrival.expected, barrier.arrived
            ));
        }
        self.complete_barrier(arrival.id);
        Ok(())
    }

    /// Ends the generation if all have come.
    fn complete_barrier(&mut self, id: u8) {
        let whole = self.live_warps * 32;
        let barrier = &mut self.barriers[id as usize];
        let expected = if barrier.expected == 0 { whole } else { barrier.expected };
        if barrier.arrived != 0 && barrier.arrived >= expected {
            barrier.last = (barrier.trues, barrier.total);
            (barrier.arrived, barrier.trues, barrier.total) = (0, 0, 0);
            barrier.generation = barrier.generation.wrapping_add(1);
        }
    }

    /// A warp has exited: barriers of the whole CTA no longer wait for it.
    pub(crate) fn warp_exited(&mut self) {
        self.live_warps -= 1;
        for id in 0..BARRIERS {
            self.complete_barrier(id as u8);
        }
    }

    /// Lanes with a true predicate and all lanes of the generation that ended last.
    pub(crate) fn barrier_sums(&self, id: u8) -> (u32, u32) {
        self.barriers[id as usize].last
    }
}
