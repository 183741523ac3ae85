//! Register files: one per active function of a warp.

use super::context::Launch;
use crate::memory::window::GLOBAL_BASE;
use crate::program::{Const, Function, Special};

#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
struct Row([u32; 32]);

/// The registers of one call of a function, and where its part of the stack starts.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    rows: Vec<Row>,
    pub(crate) function: u32,
    pub(crate) local_base: u32,
}

/// What special registers are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The SM that the CTA runs on.
    pub(crate) sm: u32,
    pub(crate) ctaid: [u32; 3],
    pub(crate) warp: u32,
}

impl Frame {
    /// The registers.
    pub(crate) fn registers(&mut self) -> *mut u8 {
        self.rows.as_mut_ptr().cast()
    }

    /// Prepares the frame for a call: registers zero, constants and special registers set.
    pub(crate) fn enter(
        &mut self,
        function: (u32, &Function),
        local_base: u32,
        launch: &Launch<'_>,
        place: Place,
    ) {
        let (index, function) = function;
        self.rows.clear();
        self.rows.resize(function.frame_bytes as usize / size_of::<Row>(), Row([0; 32]));
        (self.function, self.local_base) = (index, local_base);
        for &(reg, value) in &function.consts {
            match value {
                Const::Word(word) => self.fill32(reg, word),
                Const::Wide(wide) => self.fill64(reg, wide),
                Const::Global(offset) => self.fill64(reg, launch.globals + offset),
                Const::Shared(number, offset, wide) => {
                    let base = launch.kernel.shared_offsets.get(number as usize).copied();
                    let address = i64::from(base.flatten().unwrap_or(0)) + offset;
                    self.fill(reg, address as u64, wide);
                }
                Const::Local(offset, wide) => {
                    self.fill(reg, u64::from(local_base + offset), wide);
                }
                Const::Param(offset, wide) => {
                    self.fill(reg, u64::from(offset), wide);
                }
                Const::Special(special) => self.special(reg, special, launch, place),
            }
        }
        debug_assert!(launch.globals == 0 || launch.globals >= GLOBAL_BASE);
    }

    fn fill(&mut self, reg: u32, value: u64, wide: bool) {
        if wide { self.fill64(reg, value) } else { self.fill32(reg, value as u32) }
    }

    fn fill32(&mut self, reg: u32, value: u32) {
        self.rows[reg as usize / 128].0 = [value; 32];
    }

    fn fill64(&mut self, reg: u32, value: u64) {
        let row = reg as usize / 128;
        for lane in 0..32 {
            self.rows[row + lane / 16].0[lane % 16 * 2] = value as u32;
            self.rows[row + lane / 16].0[lane % 16 * 2 + 1] = (value >> 32) as u32;
        }
    }

    fn special(&mut self, reg: u32, special: Special, launch: &Launch<'_>, place: Place) {
        let row = reg as usize / 128;
        let [x, y, _] = launch.block;
        let per_lane = |lane: u32| {
            let thread = place.warp * 32 + lane;
            let below = (1u32 << lane) - 1;
            match special {
                Special::Tid(0) => thread % x,
                Special::Tid(1) => thread / x % y,
                Special::Tid(_) => thread / x / y,
                Special::LaneId => lane,
                Special::LanemaskEq => 1 << lane,
                Special::LanemaskLt => below,
                Special::LanemaskLe => below | 1 << lane,
                Special::LanemaskGt => !(below | 1 << lane),
                _ => !below,
            }
        };
        let uniform = match special {
            Special::Tid(_)
            | Special::LaneId
            | Special::LanemaskEq
            | Special::LanemaskLt
            | Special::LanemaskLe
            | Special::LanemaskGt
            | Special::LanemaskGe => {
                for lane in 0..32 {
                    self.rows[row].0[lane as usize] = per_lane(lane);
                }
                return;
            }
            _ => uniform_special(special, launch, place),
        };
        self.fill(reg, uniform, special.is_wide());
    }
}

fn uniform_special(special: Special, launch: &Launch<'_>, place: Place) -> u64 {
    let clusters: [u32; 3] = std::array::from_fn(|axis| launch.grid[axis] / launch.cluster[axis]);
    let inside: [u32; 3] = std::array::from_fn(|axis| place.ctaid[axis] % launch.cluster[axis]);
    let value = match special {
        Special::Ntid(axis) => launch.block[axis as usize],
        Special::Ctaid(axis) => place.ctaid[axis as usize],
        Special::Nctaid(axis) => launch.grid[axis as usize],
        Special::WarpId => place.warp,
        Special::NwarpId => launch.threads().div_ceil(32),
        Special::WarpSize => 32,
        Special::SmId => place.sm,
        Special::NsmId => launch.sm_count,
        Special::GridId => return launch.grid_id,
        Special::DynamicShared => launch.dynamic_shared,
        Special::TotalShared => launch.shared_bytes(),
        Special::ReservedShared => crate::memory::window::SHARED_RESERVED,
        Special::ClusterId(axis) => place.ctaid[axis as usize] / launch.cluster[axis as usize],
        Special::NclusterId(axis) => clusters[axis as usize],
        Special::ClusterCtaid(axis) => inside[axis as usize],
        Special::ClusterNctaid(axis) => launch.cluster[axis as usize],
        Special::ClusterCtarank => {
            inside[0] + launch.cluster[0] * (inside[1] + launch.cluster[1] * inside[2])
        }
        Special::ClusterNctarank => launch.cluster.iter().product(),
        _ => 0,
    };
    u64::from(value)
}
