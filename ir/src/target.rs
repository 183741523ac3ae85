//! Descriptions of the machines that plans are made for.

use serde::{Deserialize, Serialize};

/// A GPU: what its SMs hold and how fast its memories and units are.
///
/// Rates are peaks as the vendor states them; what is achievable is the cost model's business.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// `h800`.
    pub name: String,
    /// The PTX target: `sm_90a`.
    pub arch: String,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Shared memory that one CTA may use, in bytes (CUDA C++ Programming Guide, compute
    /// capability 9.0: 227 KiB).
    pub shared_per_cta: u32,
    /// 32-bit registers of one SM (same table: 64 Ki).
    pub registers_per_sm: u32,
    /// Clock that dense matrix work sustains, in MHz.
    pub clock_mhz: u32,
    /// HBM bandwidth in bytes per second.
    pub hbm_bytes_per_s: f64,
    /// L2 capacity in bytes.
    pub l2_bytes: u64,
    /// Dense bf16 tensor-core peak in FLOP per second; FP8 is twice that.
    pub bf16_flops: f64,
    /// float32 peak of the CUDA cores in FLOP per second.
    pub f32_flops: f64,
    /// NVLink, one direction, bytes per second.
    pub nvlink_bytes_per_s: f64,
    /// Network, one direction, bytes per second and GPU.
    pub rdma_bytes_per_s: f64,
    /// Seconds from one launch to the next in a stream of dependent kernels.
    pub launch_s: f64,
}

impl Target {
    /// Names of the built-in targets.
    pub const NAMES: [&'static str; 4] = ["h800", "h100", "h200", "h20"];

    /// A built-in target.
    ///
    /// Sources: NVIDIA H100 whitepaper (SMs, HBM, peaks at 1,830 MHz boost: 989 TFLOP/s bf16,
    /// 67 TFLOP/s float32); arXiv 2505.09343 section 4 (H800's NVLink: 200 GB/s a direction,
    /// network 50 GB/s); FlashMLA's notes (about 1,600 MHz sustained on H800); NVIDIA's H200
    /// and H20 data sheets (4.8 TB/s; 78 SMs, 148 TFLOP/s bf16, 44 TFLOP/s float32, 4.0 TB/s).
    /// Launch interval: about 2 us between dependent kernels of a CUDA graph on Hopper.
    pub fn named(name: &str) -> Option<Self> {
        let h800 = Self {
            name: "h800".into(),
            arch: "sm_90a".into(),
            sms: 132,
            shared_per_cta: 232_448,
            registers_per_sm: 65_536,
            clock_mhz: 1_600,
            hbm_bytes_per_s: 3.35e12,
            l2_bytes: 50 << 20,
            bf16_flops: 989e12,
            f32_flops: 67e12,
            nvlink_bytes_per_s: 200e9,
            rdma_bytes_per_s: 50e9,
            launch_s: 2e-6,
        };
        let h100 = Self { name: "h100".into(), nvlink_bytes_per_s: 450e9, ..h800.clone() };
        match name {
            "h800" => Some(h800),
            "h100" => Some(h100),
            "h200" => Some(Self {
                name: "h200".into(),
                clock_mhz: 1_400,
                hbm_bytes_per_s: 4.8e12,
                ..h100
            }),
            "h20" => Some(Self {
                name: "h20".into(),
                sms: 78,
                hbm_bytes_per_s: 4.0e12,
                l2_bytes: 60 << 20,
                bf16_flops: 148e12,
                f32_flops: 44e12,
                ..h100
            }),
            _ => None,
        }
    }
}
