//! What executes PTX: a GPU or its emulator, behind one trait.

mod cuda;
mod emulated_group;
mod emulator;

pub use cuda::Cuda;
pub use emulated_group::{EmulatedGroup, GroupRun, Queued, RunFailure};
pub use emulator::Emulator;

use crate::{Result, fail};
use moec_ir::{DType, Diagnostic};
use std::fmt;
use std::str::FromStr;

/// A loaded kernel of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelId(pub(crate) usize);

/// Grid, block and dynamic shared memory of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// CTAs along x, y and z; at least 1 each.
    pub grid: [u32; 3],
    /// Threads along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelArg {
    /// A 64-bit address on the device.
    Address(u64),
    /// A 32-bit integer.
    U32(u32),
    /// A tensor map, by value.
    TensorMap(TensorMap),
}

/// What tensor copies know of a tensor (a tiled `CUtensorMap`, PTX ISA 5.5); the first `rank`
/// entries of the arrays count, innermost first. Elements outside read as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Address of the first element, a multiple of 16.
    pub address: u64,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, 1 to 5.
    pub rank: usize,
    /// Elements along each dimension.
    pub dims: [u64; 5],
    /// Bytes between neighbours along dimensions 1 to 4, multiples of 16.
    pub strides: [u64; 4],
    /// Elements of a box along each dimension, at most 256.
    pub box_dims: [u32; 5],
    /// Bytes within which 16-byte chunks are permuted in shared memory: 0, 32, 64 or 128.
    pub swizzle: u32,
}

/// What a launch did, where the device counts it (the emulator does).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions issued, once per warp.
    pub warp_instructions: u64,
    /// Instructions executed, once per active thread.
    pub lane_instructions: u64,
    /// Bytes read from global memory.
    pub load_bytes: u64,
    /// Bytes written to global memory.
    pub store_bytes: u64,
}

/// A machine with memory that executes PTX. Launches and copies take effect in program order.
pub trait Device {
    /// What it is, for people: `NVIDIA H100 80GB HBM3` or `emulator`.
    fn describe(&self) -> String;

    /// Reserves memory, 256-byte aligned, contents undefined. `name` is for error messages.
    ///
    /// # Errors
    /// E1103 where there is not enough.
    fn alloc(&mut self, bytes: u64, name: &str) -> Result<u64>;

    /// Returns memory. The address is one that [`Device::alloc`] gave.
    ///
    /// # Errors
    /// E1103.
    fn free(&mut self, address: u64) -> Result<()>;

    /// Copies to the device, to any address inside an allocation.
    ///
    /// # Errors
    /// E1103.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()>;

    /// Copies from the device after everything launched before.
    ///
    /// # Errors
    /// E1103, or E1105 where an earlier launch failed.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()>;

    /// Loads a PTX module and finds kernels in it, in the order given.
    ///
    /// # Errors
    /// E1104: the text is refused or lacks a kernel.
    fn load(&mut self, ptx: &str, kernels: &[&str]) -> Result<Vec<KernelId>>;

    /// Runs a kernel; it may still be running when this returns.
    ///
    /// # Errors
    /// E1105: the launch or a tensor map is refused, or the kernel fails.
    fn launch(
        &mut self,
        kernel: KernelId,
        shape: &LaunchShape,
        args: &[KernelArg],
    ) -> Result<Counters>;

    /// Waits for everything launched.
    ///
    /// # Errors
    /// E1105 where a launch failed.
    fn synchronize(&mut self) -> Result<()>;
}

/// The devices that can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The PTX virtual machine on the CPU.
    Emulator,
    /// An NVIDIA GPU.
    Cuda,
}

impl DeviceKind {
    /// Opens the device.
    ///
    /// # Errors
    /// E1101 and E1102 where there is no usable GPU.
    pub fn open(self) -> Result<Box<dyn Device>> {
        Ok(match self {
            Self::Emulator => Box::new(Emulator::default()),
            Self::Cuda => Box::new(Cuda::open(0)?),
        })
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Emulator => "emulator",
            Self::Cuda => "cuda",
        })
    }
}

impl FromStr for DeviceKind {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Self, String> {
        [Self::Emulator, Self::Cuda]
            .into_iter()
            .find(|d| d.to_string() == s)
            .ok_or_else(|| format!("`{s}` is not a device; devices are `emulator` and `cuda`"))
    }
}

/// A failed memory call.
fn memory_failure<T>(what: &str, why: impl fmt::Display) -> Result<T> {
    fail(Diagnostic::error("E1103", format!("{what}: {why}")))
}

/// A refused module.
fn refused_ptx<T>(why: impl fmt::Display) -> Result<T> {
    fail(Diagnostic::error("E1104", format!("the device refuses the PTX: {why}")))
}

/// A failed kernel.
fn failed_kernel<T>(kernel: &str, why: impl fmt::Display) -> Result<T> {
    fail(Diagnostic::error("E1105", format!("kernel `{kernel}` failed: {why}")))
}
