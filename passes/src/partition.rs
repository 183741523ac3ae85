//! Which SMs communicate and which compute, where experts are spread over ranks.
//!
//! Before: a statement of one rank's work in a layer ([`Cell`]) and a target. After: every way to
//! do it that is considered ([`Alternative`]), with the predicted time of its schedule, and which
//! to take. `docs/partition.md` has the equations. Not seen: contention of exchanges with
//! computing for HBM and L2, waiting for other ranks, uneven experts within a rank.
//!
//! In reading order: [`cell`] (what is to be done), [`work`] (what it costs on so many SMs),
//! [`schedule`] (lanes), [`solve()`].

mod cell;
mod schedule;
mod solve;
mod work;

pub use cell::{Cell, CellError};
pub use schedule::{Lane, Schedule, Slot, Stage, Times};
pub use solve::{Alternative, Solution, solve};
pub use work::{Task, Work};
