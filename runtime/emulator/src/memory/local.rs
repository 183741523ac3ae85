//! Local memory of the 32 threads of a warp (PTX ISA 5.1.5): one stack each.

/// A thread's stack may grow to this (CUDA's largest local memory is 512 KiB per thread).
pub(crate) const MAX_BYTES: u32 = 512 * 1024;

/// Stacks of one warp, grown on demand. Addresses are offsets in a thread's stack.
#[derive(Debug, Default)]
pub(crate) struct LocalMemory {
    bytes: Vec<u8>,
    /// Bytes per thread.
    stride: u32,
}

impl LocalMemory {
    /// Makes at least `bytes` per thread addressable; false where the limit forbids it.
    pub(crate) fn reserve(&mut self, bytes: u32) -> bool {
        if bytes > MAX_BYTES {
            return false;
        }
        if bytes > self.stride {
            let stride = bytes.next_power_of_two().max(256);
            let mut grown = vec![0u8; stride as usize * 32];
            for lane in 0..32 {
                let from = lane * self.stride as usize;
                let old = &self.bytes[from..from + self.stride as usize];
                grown[lane * stride as usize..][..old.len()].copy_from_slice(old);
            }
            self.bytes = grown;
            self.stride = stride;
        }
        true
    }

    /// Bytes per thread.
    pub(crate) fn stride(&self) -> u32 {
        self.stride
    }

    /// Sets all bytes to zero.
    pub(crate) fn clear(&mut self) {
        self.bytes.fill(0);
    }

    /// The `bytes` at `offset` of `lane`'s stack.
    pub(crate) fn slice(&mut self, lane: u32, offset: u32, bytes: u32) -> Option<&mut [u8]> {
        let end = offset.checked_add(bytes).filter(|&end| end <= self.stride)?;
        let base = lane as usize * self.stride as usize;
        self.bytes.get_mut(base + offset as usize..base + end as usize)
    }

    /// Where the host holds the `bytes` at `offset` of lane 0's stack; those of the other lanes
    /// follow at every [`LocalMemory::stride`].
    pub(crate) fn rows(&mut self, offset: u32, bytes: u32) -> Option<*mut u8> {
        offset.checked_add(bytes).filter(|&end| end <= self.stride)?;
        Some(self.bytes.as_mut_ptr().wrapping_add(offset as usize))
    }

    /// Copies `bytes` from one offset to another in the stacks of the lanes of `mask`.
    pub(crate) fn copy(&mut self, mask: u32, from: u32, to: u32, bytes: u32) {
        let stride = self.stride as usize;
        let (from, to, bytes) = (from as usize, to as usize, bytes as usize);
        if from.max(to) + bytes > stride {
            return;
        }
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let base = lane * stride;
            self.bytes.copy_within(base + from..base + from + bytes, base + to);
        }
    }
}
