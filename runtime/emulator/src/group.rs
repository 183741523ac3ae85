//! Several devices that work together, in one process.
//!
//! Each device is a *rank* and has addresses of its own: those of rank `r` begin at
//! `(r + 1) << 40`, so that a pointer says whose memory it means. Memory that is allocated on all
//! ranks at once is *symmetric*: it lies at the same offset of each. Ranks of the same node reach
//! each other's symmetric memory by ordinary instructions, as over NVLink.
//!
//! ```
//! use moec_emulator::{Arg, Group, GroupConfig, LaunchConfig, Module, QueuedLaunch};
//!
//! // Every rank writes its number into the memory of the next.
//! let module = Module::parse(r#"
//! .version 8.7
//! .target sm_90a
//! .address_size 64
//! .visible .entry tell(.param .u64 next, .param .u32 rank) {
//!     .reg .b32 %r<2>;
//!     .reg .b64 %rd<2>;
//!     ld.param.u64 %rd1, [next];
//!     ld.param.u32 %r1, [rank];
//!     st.release.sys.global.u32 [%rd1], %r1;
//!     ret;
//! }
//! "#)?;
//! let mut group = Group::new(GroupConfig { ranks: 4, ranks_per_node: 4, ..Default::default() })?;
//! let flags = group.alloc_symmetric(4, "flags")?;
//! let queues: Vec<Vec<QueuedLaunch>> = (0..4)
//!     .map(|rank| {
//!         let next = group.address(flags, (rank + 1) % 4);
//!         vec![QueuedLaunch {
//!             label: "tell".to_string(),
//!             module: module.clone(),
//!             kernel: "tell".to_string(),
//!             config: LaunchConfig::default(),
//!             args: vec![Arg::U64(next), Arg::U32(rank)],
//!         }]
//!     })
//!     .collect();
//! group.run(&queues)?;
//! let mut told = [0; 4];
//! group.device(0).read(group.address(flags, 0), &mut told)?;
//! assert_eq!(told, [3, 0, 0, 0]);
//! # Ok::<(), moec_emulator::Error>(())
//! ```

mod member;
mod race;
mod run;
mod timeline;

use std::sync::Arc;

pub(crate) use member::{Fabric, Member};
pub use race::{Access, Race};
pub use timeline::{CtaSpan, Mark, Timeline};

use crate::device::{Device, DeviceConfig, pool};
use crate::error::Error;
use crate::launch::{Arg, LaunchConfig, LaunchReport};
use crate::memory::window::{MAX_RANKS, rank_base};
use crate::module::Module;

/// What a group is like.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Devices.
    pub ranks: u32,
    /// Devices of a node: rank `r` lies on node `r / ranks_per_node`.
    pub ranks_per_node: u32,
    /// What each device is like. The schedule holds for the group as a whole.
    pub device: DeviceConfig,
}

impl Default for GroupConfig {
    /// Two ranks on one node.
    fn default() -> Self {
        GroupConfig { ranks: 2, ranks_per_node: 2, device: DeviceConfig::default() }
    }
}

/// A launch that waits for its turn on a rank.
#[derive(Clone, Debug)]
pub struct QueuedLaunch {
    /// Its name in reports.
    pub label: String,
    /// The module that holds the kernel.
    pub module: Module,
    /// The kernel.
    pub kernel: String,
    /// The shape of the launch.
    pub config: LaunchConfig,
    /// One argument per parameter.
    pub args: Vec<Arg>,
}

/// Memory that every rank has at the same offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SymmetricId {
    offset: u64,
}

/// What a run of a group executed.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GroupReport {
    /// Per rank, a report of each launch of its queue.
    pub launches: Vec<Vec<LaunchReport>>,
    /// How long the run took, in virtual time: one tick per instruction of a warp on an SM.
    pub ticks: u64,
    /// Races, where [`DeviceConfig::races`] asks for them: at most 64, each pair of instructions of
    /// two launches once.
    pub races: Vec<Race>,
    /// When CTAs ran, where [`DeviceConfig::timeline`] asks for it.
    pub timeline: Option<Timeline>,
}

/// Several devices and the links between them.
#[derive(Debug)]
pub struct Group {
    config: GroupConfig,
    devices: Vec<Device>,
    pool: Option<Arc<rayon::ThreadPool>>,
    runs: u64,
}

impl Group {
    /// Devices with empty memory.
    ///
    /// # Errors
    /// [`Error::Limit`] if there are no ranks or more than addresses for them, or if the last node
    /// would not be full.
    pub fn new(config: GroupConfig) -> Result<Group, Error> {
        let GroupConfig { ranks, ranks_per_node, .. } = config;
        if ranks == 0 || ranks > MAX_RANKS {
            return Err(Error::Limit(format!("{ranks} ranks: 1 to {MAX_RANKS} are possible")));
        }
        if ranks_per_node == 0 || !ranks.is_multiple_of(ranks_per_node) {
            return Err(Error::Limit(format!(
                "{ranks} ranks are not a multiple of {ranks_per_node} per node"
            )));
        }
        let pool = pool(&config.device);
        let device = |rank| Device::of_rank(config.device.clone(), pool.clone(), rank);
        let devices = (0..ranks).map(device).collect();
        Ok(Group { config, devices, pool, runs: 0 })
    }

    /// What the group is like.
    pub fn config(&self) -> &GroupConfig {
        &self.config
    }

    /// A rank's device.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn device(&self, rank: u32) -> &Device {
        &self.devices[rank as usize]
    }

    /// A rank's device: to allocate, write and free. A kernel that is launched on it directly does
    /// not see the other ranks.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn device_mut(&mut self, rank: u32) -> &mut Device {
        &mut self.devices[rank as usize]
    }

    /// Allocates `bytes` at the same offset of every rank. The contents are undefined. `name`
    /// appears in reports.
    ///
    /// # Errors
    /// [`Error::Memory`] if a device has not that much left.
    pub fn alloc_symmetric(&mut self, bytes: usize, name: &str) -> Result<SymmetricId, Error> {
        let mut offset = 0;
        for device in &mut self.devices {
            offset = offset.max(device.memory()?.next());
        }
        for device in &mut self.devices {
            let poison = device.config.poison;
            let memory = device.memory()?;
            let address = memory.alloc_symmetric(offset, bytes as u64, name)?;
            if let Some(byte) = poison {
                memory.fill(address, byte, bytes)?;
            }
        }
        Ok(SymmetricId { offset })
    }

    /// The address of symmetric memory on a rank.
    pub fn address(&self, id: SymmetricId, rank: u32) -> u64 {
        rank_base(rank) + id.offset
    }

    /// Frees symmetric memory on all ranks. Later accesses to it are faults.
    ///
    /// # Errors
    /// [`Error::Memory`] if it was freed before.
    pub fn free_symmetric(&mut self, id: SymmetricId) -> Result<(), Error> {
        for rank in 0..self.config.ranks {
            let address = self.address(id, rank);
            self.device_mut(rank).free(address)?;
        }
        Ok(())
    }
}
