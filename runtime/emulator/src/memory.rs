//! Address spaces: device memory with its allocations, and the windows of generic addresses.

mod global;
mod local;
pub(crate) mod window;

pub(crate) use global::GlobalMemory;
pub(crate) use local::{LocalMemory, MAX_BYTES as MAX_LOCAL};

/// A stretch of addresses that is valid as a whole, and where the host holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    /// First address.
    pub(crate) start: u64,
    /// One past the last address.
    pub(crate) end: u64,
    /// Where the host holds the byte of `start`.
    pub(crate) host: *mut u8,
    /// Whether kernels may store here.
    pub(crate) writable: bool,
}

// SAFETY: a region is an address range; who may access it when is decided where it is used.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// A region that holds nothing.
    pub(crate) const EMPTY: Region =
        Region { start: 1, end: 0, host: std::ptr::null_mut(), writable: false };

    /// Whether `[low, high)` lies inside.
    pub(crate) fn holds(&self, low: u64, high: u64) -> bool {
        low >= self.start && high <= self.end && low < high
    }
}
