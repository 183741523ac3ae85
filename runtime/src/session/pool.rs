//! Buffers of a device that are used again from step to step and grow where needed.

use crate::Result;
use crate::device::Device;

/// Numbered buffers.
pub(super) struct Pool {
    what: &'static str,
    buffers: Vec<Option<(u64, u64)>>,
}

impl Pool {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, buffers: vec![] }
    }

    /// The address of a buffer of at least so many bytes. Contents are kept only where the
    /// buffer was large enough.
    ///
    /// A buffer that grows takes half as much again as asked for: in decoding, sizes grow a
    /// little with every step.
    pub(super) fn get(&mut self, device: &mut dyn Device, index: usize, bytes: u64) -> Result<u64> {
        if self.buffers.len() <= index {
            self.buffers.resize(index + 1, None);
        }
        let mut wanted = bytes.max(1);
        if let Some((address, size)) = self.buffers[index] {
            if size >= wanted {
                return Ok(address);
            }
            self.buffers[index] = None;
            device.free(address)?;
            wanted = wanted.saturating_add(wanted / 2);
        }
        let address = device.alloc(wanted, &format!("{} {index}", self.what))?;
        self.buffers[index] = Some((address, wanted));
        Ok(address)
    }
}
