//! Kernels that stream their operands: element-wise, norms, copies.

use super::{Estimate, Machine};

/// What a kernel without tensor cores has to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stream {
    /// Bytes to and from HBM.
    pub bytes: f64,
    /// float32 operations on CUDA cores.
    pub flops: f64,
    /// Launches.
    pub launches: f64,
}

impl Stream {
    /// The predicted time: the longer of moving and computing, after each launch.
    pub fn estimate(&self, machine: &Machine) -> Estimate {
        let units = Estimate {
            hbm: machine.hbm(self.bytes),
            cuda: machine.cuda(self.flops),
            bytes: self.bytes,
            ..Estimate::default()
        };
        Estimate::overlapped(units, self.launches * (machine.target.launch_s + machine.fill()))
    }
}
