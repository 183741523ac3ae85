//! Matrix products on Hopper's tensor cores: persistent CTAs, one warpgroup that copies, one or
//! two that multiply.
//!
//! Tiles of `a` and `w` come by tensor copies into a ring of stages in shared memory, 128 bytes
//! of `k` at a time; two barriers per stage say that it is full and that it is empty. The
//! multiplying warpgroups take registers from the copying one. CTAs take tile after tile, so that
//! the copies of the next tile run while the results of one are stored.
//!
//! In reading order: `operand` (which matrices tensor copies can read), `tile` (sizes, the choice
//! of them, the layout of shared memory), `schedule` (which tile is next), `ring` (the stages),
//! `plain` and `scaled` (the products of 16-bit types and of FP8 with scales), `widened` (operands
//! that tensor cores take in another type), `consumer` (the products of a tile), `results` (from registers to memory) and `panels` (the same through shared memory),
//! `dense` (the kernel); for one matrix per expert `expert_tiles` (which tile is next), `gather`
//! (routed rows into stages), `grouped` (the kernel of rows that lie anywhere), `masked` (of rows
//! that each expert has a place for). For gradients of weights `rounds` (steps whose number the
//! device knows) and `gradient` (the kernel).

mod consumer;
mod dense;
mod expert_tiles;
mod gather;
mod gradient;
mod grouped;
mod masked;
mod operand;
mod panels;
mod plain;
mod results;
mod ring;
mod rounds;
mod scaled;
mod schedule;
mod tile;
mod widened;

pub(super) use dense::design;
pub(super) use expert_tiles::{ExpertTile, ExpertTiles, First, Rows, TOGETHER};
pub(super) use gradient::design as gradient;
pub(super) use grouped::{Load, Sorted, SortedRows, design as grouped};
pub(super) use masked::design as masked;
pub(super) use operand::tensor_map;
pub(super) use tile::SCALE_BLOCK;
pub(super) use widened::widens;
