//! Stores of a CTA's threads leave its buffers.

use super::{Cta, Launch};

impl Cta {
    /// At the end of a turn: some stores go on, or none. True if any is left.
    pub(super) fn drain_some(&mut self, launch: &Launch<'_>) -> bool {
        let (true, Some(machine)) = (launch.is_weak, launch.machine) else { return false };
        let state = &mut self.state;
        let Some(chance) = &mut state.chance else { return false };
        let leaving = state.memory.stores.take_some(chance);
        let mut left = !state.memory.stores.is_empty() || !leaving.is_empty();
        let mut machine = machine.lock().unwrap_or_else(|poison| poison.into_inner());
        for (at, unit) in leaving {
            machine.pass_to_device(at, unit);
        }
        for warp in &mut self.warps {
            for (at, unit) in warp.memory.stores.take_some(chance) {
                left = true;
                for (at, unit) in state.memory.stores.put(at, unit) {
                    machine.pass_to_device(at, unit);
                }
            }
            left |= !warp.memory.stores.is_empty();
        }
        left
    }

    /// The CTA exits: what it has stored goes on without it.
    pub(super) fn leave_stores(&mut self, launch: &Launch<'_>) {
        let (true, Some(machine)) = (launch.is_weak, launch.machine) else { return };
        let mut machine = machine.lock().unwrap_or_else(|poison| poison.into_inner());
        for warp in &mut self.warps {
            for (at, unit) in warp.memory.stores.take_all() {
                for (at, unit) in self.state.memory.stores.put(at, unit) {
                    machine.pass_to_device(at, unit);
                }
            }
        }
        machine.leave(launch.rank(), std::mem::take(&mut self.state.memory.stores));
    }
}
