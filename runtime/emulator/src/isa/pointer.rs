//! Addresses among the operands of instructions that have several.

use crate::decode::operand::Address;
use crate::exec::{Cx, space_number};
use crate::fault::{FaultKind, RawFault};
use crate::memory::window::{SHARED_BASE, is_in};
use crate::program::Reg;
use crate::ptx::types::Space;

/// Words that a pointer takes in an instruction's list.
pub(super) const WORDS: usize = 4;

/// A decoded address operand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pointer {
    reg: Reg,
    wide: bool,
    pub(super) space: u8,
    offset: u64,
}

impl Pointer {
    /// The words to keep in a list.
    pub(super) fn words(address: Address) -> [u32; WORDS] {
        let form = u32::from(address.wide) | u32::from(space_number(address.space)) << 8;
        [address.reg, form, address.offset as u32, (address.offset >> 32) as u32]
    }

    /// Reads the words back.
    pub(super) fn read(words: &[u32]) -> Pointer {
        Pointer {
            reg: words[0],
            wide: words[1] & 1 != 0,
            space: (words[1] >> 8) as u8,
            offset: u64::from(words[2]) | u64::from(words[3]) << 32,
        }
    }

    /// The address in one lane.
    ///
    /// # Safety
    /// The register must be one of this frame.
    pub(super) unsafe fn at(&self, cx: &Cx<'_>, lane: u32) -> u64 {
        // SAFETY: as the caller's.
        unsafe {
            if self.wide {
                cx.row64(self.reg)[lane as usize].wrapping_add(self.offset)
            } else {
                u64::from(cx.row32(self.reg)[lane as usize].wrapping_add(self.offset as u32))
            }
        }
    }

    /// The shared address in one lane, generic ones converted.
    ///
    /// # Safety
    /// As for [`Pointer::at`].
    pub(super) unsafe fn shared_at(&self, cx: &Cx<'_>, lane: u32) -> Result<u32, Box<RawFault>> {
        // SAFETY: as the caller's.
        let address = unsafe { self.at(cx, lane) };
        let offset = match self.space == space_number(Space::Generic) {
            true if !is_in(address, SHARED_BASE) => {
                let kind = FaultKind::Misuse(format!(
                    "the generic address 0x{address:x} is not one of shared memory"
                ));
                return Err(RawFault::new(kind, lane));
            }
            true => address - SHARED_BASE,
            false => address,
        };
        u32::try_from(offset).map_err(|_| {
            let nearest = Some("shared addresses have 32 bits".to_string());
            let access = Some((address, 1));
            Box::new(RawFault { kind: FaultKind::OutOfBounds, lane, access, nearest, origin: None })
        })
    }
}

impl Cx<'_> {
    /// A misuse by one lane.
    pub(super) fn lane_misuse(lane: u32, rule: impl Into<String>) -> Box<RawFault> {
        RawFault::new(FaultKind::Misuse(rule.into()), lane)
    }

    /// Where the host holds `bytes` of shared memory; `align` is what the instruction asks for.
    pub(super) fn shared_range(
        &mut self,
        lane: u32,
        address: u32,
        bytes: u32,
        align: u32,
    ) -> Result<*mut u8, Box<RawFault>> {
        let access = Some((u64::from(address), bytes));
        if !address.is_multiple_of(align) {
            let nearest = Some(format!("a multiple of {align} is needed"));
            return Err(Box::new(RawFault {
                kind: FaultKind::Misaligned,
                lane,
                access,
                nearest,
                origin: None,
            }));
        }
        let found = self.shared_window(u64::from(address)).and_then(|(region, offset)| {
            if bytes == 0 || region.holds(offset, offset + u64::from(bytes)) {
                Ok(region.host.wrapping_add((offset.wrapping_sub(region.start)) as usize))
            } else {
                Err(format!("shared memory of the CTA: 0x{:x} to 0x{:x}", region.start, region.end))
            }
        });
        found.map_err(|reason| {
            let nearest = Some(reason);
            Box::new(RawFault { kind: FaultKind::OutOfBounds, lane, access, nearest, origin: None })
        })
    }

    /// Where the host holds `bytes` of device memory, all in one allocation.
    pub(super) fn global_range(
        &mut self,
        lane: u32,
        address: u64,
        bytes: u32,
        writes: bool,
    ) -> Result<*mut u8, Box<RawFault>> {
        let region = self.device_region(address).ok();
        match region {
            Some(region) if bytes == 0 || region.holds(address, address + u64::from(bytes)) => {
                Ok(region.host.wrapping_add((address - region.start) as usize))
            }
            _ => {
                let global = space_number(Space::Global);
                let first = region.map_or(address, |region| region.end);
                let mut fault = match self.lane_host(global, lane, first, 1, writes) {
                    // The next allocation follows at once: the range still crosses the border.
                    Ok(_) => Self::lane_misuse(lane, "the range covers two allocations"),
                    Err(fault) => fault,
                };
                fault.access = Some((address, bytes));
                Err(fault)
            }
        }
    }
}
