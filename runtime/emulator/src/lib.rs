//! A PTX virtual machine: parses PTX for sm_90a and executes it on the CPU, warp by warp, with
//! checks for bad addresses, misuse of barriers and deadlock.
//!
//! ```
//! use moec_emulator::{Arg, Device, DeviceConfig, LaunchConfig, Module};
//!
//! let ptx = r#"
//! .version 8.7
//! .target sm_90a
//! .address_size 64
//! .visible .entry double(.param .u64 x) {
//!     .reg .b32 %r<3>;
//!     .reg .b64 %rd<3>;
//!     ld.param.u64 %rd1, [x];
//!     mov.u32 %r1, %tid.x;
//!     mad.wide.u32 %rd2, %r1, 4, %rd1;
//!     ld.global.u32 %r2, [%rd2];
//!     add.u32 %r2, %r2, %r2;
//!     st.global.u32 [%rd2], %r2;
//!     ret;
//! }
//! "#;
//! let module = Module::parse(ptx)?;
//! let mut device = Device::new(DeviceConfig::default());
//! let x = device.alloc(128, "x")?;
//! device.write(x, &[3, 0, 0, 0].repeat(32))?;
//! let config = LaunchConfig { grid: [1, 1, 1], block: [32, 1, 1], ..Default::default() };
//! device.launch(&module, "double", &config, &[Arg::U64(x)])?;
//! let mut first = [0; 4];
//! device.read(x, &mut first)?;
//! assert_eq!(first, [6, 0, 0, 0]);
//! # Ok::<(), moec_emulator::Error>(())
//! ```
//!
//! In reading order: [`ptx`] turns text into a tree, [`decode`] the tree into code with the help
//! of the families in [`isa`], [`exec`] runs warps and CTAs over [`memory`], in the
//! order that [`coherence`] allows, [`launch`] runs grids
//! on a [`device`], [`emulate`](mod@emulate) does all of it for a description in a file.

mod coherence;
mod decode;
mod description;
mod device;
mod emulate;
mod error;
mod exec;
mod fault;
mod group;
mod hang;
mod isa;
mod launch;
mod mbarrier;
mod memory;
mod module;
mod program;
mod ptx;
mod schedule;
mod tensor_core;
mod tma;

pub use device::{Device, DeviceConfig};
pub use emulate::{Output, Outputs, emulate, emulate_scheduled};
pub use error::Error;
pub use fault::{Fault, FaultKind};
pub use group::{
    Access, CtaSpan, Group, GroupConfig, GroupReport, Mark, QueuedLaunch, Race, SymmetricId,
    Timeline,
};
pub use hang::{Hang, LastWriter, NotBegun, Polled, Waiter, WaitsFor};
pub use launch::{Arg, LaunchConfig, LaunchReport, Traffic};
pub use module::Module;
pub use schedule::Schedule;
pub use tensor_core::{Accumulation, multiply_e4m3};
pub use tma::{Interleave, MapElement, Swizzle, TensorMap};
