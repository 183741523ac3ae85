//! Where the windows of generic addresses lie (PTX ISA 6.4.1.1, "Generic Addressing").
//!
//! A generic address in a window is an address of shared, local or parameter memory plus the
//! base of the window; every other address is one of device memory, `.const` included.

/// First address of device memory.
pub(crate) const GLOBAL_BASE: u64 = 0x0000_0010_0000_0000;
/// Most bytes that device memory takes.
pub(crate) const GLOBAL_BYTES: u64 = 1 << 42;
/// Bits of an address below the number of its rank, in groups of devices: rank `r` has the
/// addresses from `(r + 1) << RANK_SHIFT`.
pub(crate) const RANK_SHIFT: u32 = 40;
/// Ranks whose windows lie below that of shared memory.
pub(crate) const MAX_RANKS: u32 = (SHARED_BASE >> RANK_SHIFT) as u32 - 1;
/// Base of the window of shared memory.
pub(crate) const SHARED_BASE: u64 = 0x0000_7100_0000_0000;
/// Base of the window of local memory.
pub(crate) const LOCAL_BASE: u64 = 0x0000_7200_0000_0000;
/// Base of the window of kernel parameters.
pub(crate) const PARAM_BASE: u64 = 0x0000_7300_0000_0000;
/// Base of function addresses; function `n` has the address `CODE_BASE + 16 n`.
pub(crate) const CODE_BASE: u64 = 0x0000_7400_0000_0000;
/// Bytes of every window.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;

/// First shared address of a CTA's own variables: the first KiB is the system's (sm_90 reserves
/// 1 KiB of shared memory per CTA, CUDA C++ programming guide, "Compute Capability 9.0").
pub(crate) const SHARED_RESERVED: u32 = 1024;

/// The first address of a rank of a group.
pub(crate) fn rank_base(rank: u32) -> u64 {
    u64::from(rank + 1) << RANK_SHIFT
}

/// The rank in whose window an address of device memory lies.
pub(crate) fn rank_of(address: u64) -> Option<u32> {
    let above = address >> RANK_SHIFT;
    (1..=u64::from(MAX_RANKS)).contains(&above).then_some(above as u32 - 1)
}

/// Whether `address` is one of device memory.
pub(crate) fn is_global(address: u64) -> bool {
    (GLOBAL_BASE..SHARED_BASE).contains(&address)
}

/// Whether `address` lies in the window that starts at `base`.
pub(crate) fn is_in(address: u64, base: u64) -> bool {
    address.wrapping_sub(base) < WINDOW_BYTES
}
