//! What the units of a target sustain.
//!
//! Peaks come from the target. What stands here is what is reached of them, each constant with
//! the measurement it comes from: a file of `data/published/` where no other source is named.

use moec_ir::Target;

/// Clock at which the vendor states peaks, in MHz (`hw_specs.csv`).
const PEAK_MHZ: f64 = 1830.0;
/// Clock of FP8 products that run for long, in MHz: the power limit. 1,400 is what GH100 holds at
/// 700 W under matrix work (`hw_specs.csv`, H200); DeepGEMM's own model reckons with 1,300.
const CONTINUOUS_FP8_MHZ: f64 = 1400.0;
/// Share of the HBM peak that kernels reach: between FlashMLA's 3,000 GB/s of 3,350
/// (`flashmla_headline.csv`) and the 1,700 to 2,400 GB/s of element-wise kernels in DeepSeek's
/// training profile.
const HBM_SHARE: f64 = 0.75;
/// The same for tiles of the cache, whose rows lie one behind the other: FlashMLA's 3,000 GB/s.
const PAGES_SHARE: f64 = 0.9;
/// L2 to shared memory, bytes per second of the whole chip, and bytes per cycle of one SM
/// (DeepGEMM 54e22612, `csrc/jit_kernels/heuristics/sm90.hpp`).
const L2_BYTES_PER_S: f64 = 8e12;
const L2_BYTES_PER_CYCLE: f64 = 64.0;
/// Bytes that an SM writes in a second (`deepep_v2_sm_model.csv`).
const WRITE_BYTES_PER_S: f64 = 50e9;
/// Bytes per cycle of an SM's shared memory (`hopper_microbench_h800pcie.csv`, L1 throughput).
const SHARED_BYTES_PER_CYCLE: f64 = 124.1;
/// Cycles until the first bytes of a copy arrive: a miss in the far half of L2, 743.7, and what
/// TMA adds, 170 (`hopper_microbench_h800pcie.csv`).
const FILL_CYCLES: f64 = 914.0;
/// Share of the CUDA cores' peak: element-wise code is about half fused multiply-adds.
const CUDA_SHARE: f64 = 0.5;

/// Whether kernels run one by one or as part of a long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A kernel timed alone, the chip cool: a benchmark.
    Alone,
    /// Kernel upon kernel at the power limit: a model's step.
    Continuous,
}

/// The SMs of a target that a kernel has, and how they are loaded.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The GPU.
    pub target: Target,
    /// SMs that the kernel may use.
    pub sms: u32,
    /// Whether it runs within a step.
    pub load: Load,
}

impl Machine {
    /// All SMs, within a step.
    pub fn new(target: Target) -> Self {
        let sms = target.sms;
        Self { target, sms, load: Load::Continuous }
    }

    /// Cycles per second of products of elements of so many bytes.
    pub(crate) fn clock(&self, element: f64) -> f64 {
        let sustained = f64::from(self.target.clock_mhz);
        let hot = self.load == Load::Continuous && element <= 1.0;
        1e6 * if hot { sustained.min(CONTINUOUS_FP8_MHZ) } else { sustained }
    }

    /// FLOPs of an SM's tensor cores per cycle in bf16. The bytes of a multiply-add's operands
    /// decide its cycles: half of them take half as many (NVIDIA H100 whitepaper, table 2).
    pub(crate) fn tensor_rate(&self) -> f64 {
        let t = &self.target;
        t.bf16_flops / (f64::from(t.sms) * PEAK_MHZ * 1e6)
    }

    /// Seconds of moving bytes to and from HBM.
    pub(crate) fn hbm(&self, bytes: f64) -> f64 {
        bytes / (self.target.hbm_bytes_per_s * HBM_SHARE).min(self.ports())
    }

    /// Seconds of reading a cache's pages from HBM.
    pub(crate) fn pages(&self, bytes: f64) -> f64 {
        bytes / (self.target.hbm_bytes_per_s * PAGES_SHARE).min(self.ports())
    }

    /// Seconds of filling shared memory from L2.
    pub(crate) fn l2(&self, bytes: f64) -> f64 {
        bytes / L2_BYTES_PER_S.min(self.ports())
    }

    /// Bytes per second between L2 and the SMs at hand.
    fn ports(&self) -> f64 {
        L2_BYTES_PER_CYCLE * self.clock(2.0) * f64::from(self.sms)
    }

    /// Seconds in which one SM writes bytes.
    pub(crate) fn write(&self, bytes: f64) -> f64 {
        bytes / WRITE_BYTES_PER_S
    }

    /// Cycles in which an SM's shared memory yields bytes.
    pub(crate) fn shared_cycles(&self, bytes: f64) -> f64 {
        bytes / SHARED_BYTES_PER_CYCLE
    }

    /// Seconds of float32 operations on CUDA cores.
    pub(crate) fn cuda(&self, flops: f64) -> f64 {
        let share = f64::from(self.sms) / f64::from(self.target.sms);
        flops / (self.target.f32_flops * CUDA_SHARE * share)
    }

    /// Seconds until a pipeline's first stage is full.
    pub(crate) fn fill(&self) -> f64 {
        FILL_CYCLES / self.clock(2.0)
    }
}
