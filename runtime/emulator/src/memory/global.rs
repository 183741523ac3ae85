//! Device memory: one reserved range of host memory, an ordered list of allocations.

use memmap2::{MmapMut, MmapOptions};

use super::Region;
use crate::error::Error;

/// Every allocation starts at a multiple of this (CUDA programming guide, "Device Memory Accesses").
const ALIGNMENT: u64 = 256;
/// Bytes between two allocations that belong to none.
const REDZONE: u64 = 256;

#[derive(Clone, Debug)]
struct Allocation {
    start: u64,
    bytes: u64,
    name: String,
    is_live: bool,
    /// It lies at the same offset of every rank of a group.
    is_symmetric: bool,
}

/// Device memory of one device.
#[derive(Debug)]
pub(crate) struct GlobalMemory {
    map: MmapMut,
    host: *mut u8,
    /// The first address.
    base: u64,
    /// In order of address: a new one always goes behind the last, addresses are never reused, so
    /// that a stale pointer is always found out.
    allocations: Vec<Allocation>,
    next: u64,
    live_bytes: u64,
    capacity: u64,
}

// SAFETY: the pointer is that of the owned map; kernels of one launch that run on several host
// threads are chosen so that they touch no common bytes without synchronisation of their own.
unsafe impl Send for GlobalMemory {}
unsafe impl Sync for GlobalMemory {}

impl GlobalMemory {
    /// Memory for `capacity` live bytes at addresses from `base`, of which at most `most` are
    /// used. Host pages are taken when first touched.
    pub(crate) fn new(capacity: u64, base: u64, most: u64) -> Result<GlobalMemory, Error> {
        // Freed addresses are not reused, so the range is larger than the capacity.
        let mut bytes = capacity.saturating_mul(16).clamp(1 << 20, most);
        loop {
            let length = usize::try_from(bytes).unwrap_or(usize::MAX / 2);
            match MmapOptions::new().len(length).no_reserve_swap().map_anon() {
                Ok(mut map) => {
                    let host = map.as_mut_ptr();
                    let allocations = Vec::new();
                    let (next, live_bytes) = (base, 0);
                    return Ok(Self { map, host, base, allocations, next, live_bytes, capacity });
                }
                Err(error) if bytes <= 1 << 24 => {
                    return Err(Error::Memory(format!("cannot reserve host memory: {error}")));
                }
                Err(_) => bytes /= 2,
            }
        }
    }

    pub(crate) fn alloc(&mut self, bytes: u64, name: &str) -> Result<u64, Error> {
        let live = self.live_bytes.saturating_add(bytes);
        if live > self.capacity {
            return Err(Error::Memory(format!(
                "`{name}` needs {bytes} bytes, {} of {} are free",
                self.capacity - self.live_bytes,
                self.capacity
            )));
        }
        let start = self.next;
        let room = bytes.max(1).next_multiple_of(ALIGNMENT) + REDZONE;
        if start - self.base + room > self.map.len() as u64 {
            return Err(Error::Memory(format!(
                "no addresses are left for `{name}` ({bytes} bytes)"
            )));
        }
        self.next += room;
        self.live_bytes = live;
        let name = name.to_string();
        self.allocations.push(Allocation {
            start,
            bytes,
            name,
            is_live: true,
            is_symmetric: false,
        });
        Ok(start)
    }

    /// Where the next allocation will lie.
    pub(crate) fn next(&self) -> u64 {
        self.next - self.base
    }

    /// Makes an allocation at `offset`, not below [`GlobalMemory::next`], which every rank of a
    /// group has there.
    pub(crate) fn alloc_symmetric(
        &mut self,
        offset: u64,
        bytes: u64,
        name: &str,
    ) -> Result<u64, Error> {
        self.next = self.next.max(self.base + offset);
        let start = self.alloc(bytes, name)?;
        if let Some(last) = self.allocations.last_mut() {
            last.is_symmetric = true;
        }
        Ok(start)
    }

    /// Whether `address` lies in a live allocation that every rank has at this offset.
    pub(crate) fn is_symmetric(&self, address: u64) -> bool {
        self.find(address).is_some_and(|one| one.is_symmetric && one.is_live)
    }

    /// The name of the allocation that holds `address`, and the offset in it.
    pub(crate) fn name(&self, address: u64) -> Option<(&str, u64)> {
        self.find(address).map(|one| (one.name.as_str(), address - one.start))
    }

    pub(crate) fn free(&mut self, address: u64) -> Result<(), Error> {
        let found = self.allocations.binary_search_by_key(&address, |one| one.start);
        let Some(allocation) = found.ok().map(|at| &mut self.allocations[at]) else {
            return Err(Error::Memory(format!(
                "0x{address:x} is not the start of an allocation: {}",
                self.describe(address)
            )));
        };
        if !allocation.is_live {
            return Err(Error::Memory(format!("`{}` is freed twice", allocation.name)));
        }
        allocation.is_live = false;
        self.live_bytes -= allocation.bytes;
        let from = (allocation.start - self.base) as usize;
        let length = allocation.bytes as usize;
        // Gives the pages back; where the system cannot, the bytes just stay.
        #[cfg(unix)]
        // SAFETY: the range belongs to the map and holds plain bytes of a freed allocation.
        let _ = unsafe {
            self.map.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                from.next_multiple_of(4096),
                length.saturating_sub(from.next_multiple_of(4096) - from) & !4095,
            )
        };
        Ok(())
    }

    /// The allocation that holds `address`, live or not.
    fn find(&self, address: u64) -> Option<&Allocation> {
        let after = self.allocations.partition_point(|one| one.start <= address);
        let found = self.allocations.get(after.checked_sub(1)?)?;
        (address < found.start + found.bytes).then_some(found)
    }

    /// The live allocation that holds `address`.
    pub(crate) fn region(&self, address: u64) -> Option<Region> {
        let found = self.find(address).filter(|one| one.is_live)?;
        // SAFETY: allocations lie inside the map.
        let host = unsafe { self.host.add((found.start - self.base) as usize) };
        Some(Region { start: found.start, end: found.start + found.bytes, host, writable: true })
    }

    /// Whether `address` lies in an allocation that was freed.
    pub(crate) fn is_freed(&self, address: u64) -> bool {
        self.find(address).is_some_and(|one| !one.is_live)
    }

    /// Names the allocation nearest to `address`.
    pub(crate) fn describe(&self, address: u64) -> String {
        let after = self.allocations.partition_point(|one| one.start <= address);
        let before = after.checked_sub(1).and_then(|at| self.allocations.get(at));
        let behind = self.allocations.get(after);
        let distance_before =
            before.map(|one| address.saturating_sub((one.start + one.bytes).saturating_sub(1)));
        let distance_behind = behind.map(|one| one.start - address);
        let state = |one: &Allocation| if one.is_live { "" } else { ", freed" };
        match (before, behind) {
            (Some(one), _) if address < one.start + one.bytes => format!(
                "at byte {} of `{}` ({} bytes{})",
                address - one.start,
                one.name,
                one.bytes,
                state(one)
            ),
            (Some(one), _) if distance_behind.is_none() || distance_before <= distance_behind => {
                format!(
                    "{} bytes past the end of `{}` ({} bytes{})",
                    address - (one.start + one.bytes),
                    one.name,
                    one.bytes,
                    state(one)
                )
            }
            (_, Some(one)) => format!(
                "{} bytes before `{}` ({} bytes{})",
                one.start - address,
                one.name,
                one.bytes,
                state(one)
            ),
            _ => "no memory is allocated".to_string(),
        }
    }

    fn host_range(&self, address: u64, bytes: usize) -> Result<*mut u8, Error> {
        let end = address.checked_add(bytes as u64);
        match (self.region(address), end) {
            (Some(region), Some(end)) if end <= region.end => {
                // SAFETY: the region holds the range.
                Ok(unsafe { region.host.add((address - region.start) as usize) })
            }
            _ => Err(Error::Memory(format!(
                "{bytes} bytes at 0x{address:x} are not inside a live allocation: {}",
                self.describe(address)
            ))),
        }
    }

    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let host = self.host_range(address, bytes.len())?;
        // SAFETY: checked above; `&mut self` keeps kernels out.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) };
        Ok(())
    }

    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let host = self.host_range(address, bytes.len())?;
        // SAFETY: checked above; a launch needs `&mut Device`, so no kernel runs now.
        unsafe { std::ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    pub(crate) fn fill(&mut self, address: u64, byte: u8, length: usize) -> Result<(), Error> {
        if length == 0 {
            return Ok(());
        }
        let host = self.host_range(address, length)?;
        // SAFETY: checked above.
        unsafe { std::ptr::write_bytes(host, byte, length) };
        Ok(())
    }
}
