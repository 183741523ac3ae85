//! Which SMs communicate and which compute, where experts are spread over ranks.
//!
//! Before: a statement of one rank's work in a layer ([`Cell`]) and a target. After: every way to
//! do it that is considered ([`Alternative`]), with the predicted time of its schedule, and which
//! to take. `docs/partition.md` has the equations. Not seen: contention of exchanges with
//! computing for HBM and L2, waiting for other ranks, uneven experts within a rank.
//!
//! In reading order: [`cell`] (what is to be done), [`work`] (what it costs on so many SMs),
//! [`from_plan`] (what a plan says of both), [`schedule`] (lanes), [`solve()`],
//! [`timeline()`] (the schedule for people), [`residency`] (whether CTAs that wait for each other can all run).

mod cell;
mod from_plan;
pub mod residency;
mod schedule;
mod solve;
mod timeline;
mod work;

pub use cell::{Cell, CellError};
pub(crate) use from_plan::partition;
pub use from_plan::{Partition, Spread, cell as cell_of};
pub use schedule::{Lane, Schedule, Slot, Stage, Times};
pub use solve::{Alternative, Solution, solve};
pub use timeline::timeline;
pub use work::{Task, Work};
