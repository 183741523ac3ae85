//! The emulator as a device.

use super::{Counters, Device, KernelArg, KernelId, LaunchShape, TensorMap};
use super::{failed_kernel, memory_failure, refused_ptx};
use crate::Result;
use moec_emulator as emulator;
use moec_ir::DType;

/// An emulated Hopper GPU. Results do not depend on the number of host threads.
pub struct Emulator {
    device: emulator::Device,
    modules: Modules,
}

impl Emulator {
    /// An emulated GPU of a configuration.
    pub fn new(config: emulator::DeviceConfig) -> Self {
        Self { device: emulator::Device::new(config), modules: Modules::default() }
    }
}

impl Default for Emulator {
    fn default() -> Self {
        Self::new(emulator::DeviceConfig::default())
    }
}

impl Device for Emulator {
    fn describe(&self) -> String {
        "emulator".into()
    }

    fn alloc(&mut self, bytes: u64, name: &str) -> Result<u64> {
        alloc(&mut self.device, bytes, name)
    }

    fn free(&mut self, address: u64) -> Result<()> {
        self.device.free(address).or_else(|e| memory_failure("release", e))
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.device.write(address, bytes).or_else(|e| memory_failure("copy to the device", e))
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.device.read(address, bytes).or_else(|e| memory_failure("copy from the device", e))
    }

    fn load(&mut self, ptx: &str, kernels: &[&str]) -> Result<Vec<KernelId>> {
        self.modules.load(ptx, kernels)
    }

    fn launch(
        &mut self,
        kernel: KernelId,
        shape: &LaunchShape,
        args: &[KernelArg],
    ) -> Result<Counters> {
        launch(&mut self.device, &self.modules, kernel, shape, args)
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Loaded PTX and the kernels in it.
#[derive(Default)]
pub(super) struct Modules {
    modules: Vec<emulator::Module>,
    /// Module and name of each kernel.
    kernels: Vec<(usize, String)>,
}

impl Modules {
    pub(super) fn load(&mut self, ptx: &str, kernels: &[&str]) -> Result<Vec<KernelId>> {
        let module = emulator::Module::parse(ptx).or_else(refused_ptx)?;
        let mut ids = Vec::new();
        for kernel in kernels {
            if !module.kernels().any(|k| k == *kernel) {
                return refused_ptx(format!("there is no entry `{kernel}`"));
            }
            ids.push(KernelId(self.kernels.len()));
            self.kernels.push((self.modules.len(), (*kernel).to_owned()));
        }
        self.modules.push(module);
        Ok(ids)
    }

    pub(super) fn get(&self, kernel: KernelId) -> (&emulator::Module, &str) {
        let (module, name) = &self.kernels[kernel.0];
        (&self.modules[*module], name)
    }
}

/// Reserves memory of an emulated GPU.
pub(super) fn alloc(device: &mut emulator::Device, bytes: u64, name: &str) -> Result<u64> {
    let Ok(size) = usize::try_from(bytes) else {
        return memory_failure("allocation", format!("{bytes} bytes for `{name}`"));
    };
    device.alloc(size, name).or_else(|e| memory_failure("allocation", e))
}

/// Runs one kernel to its end.
pub(super) fn launch(
    device: &mut emulator::Device,
    modules: &Modules,
    kernel: KernelId,
    shape: &LaunchShape,
    args: &[KernelArg],
) -> Result<Counters> {
    let (module, name) = modules.get(kernel);
    let args = encode_all(args).or_else(|why| failed_kernel(name, why))?;
    match device.launch(module, name, &launch_config(shape), &args) {
        Ok(report) => Ok(counters(&report)),
        Err(e) => failed_kernel(name, e),
    }
}

pub(super) fn launch_config(shape: &LaunchShape) -> emulator::LaunchConfig {
    emulator::LaunchConfig {
        grid: shape.grid,
        block: shape.block,
        cluster: None,
        dynamic_shared_bytes: shape.shared_bytes,
        cooperative: false,
    }
}

pub(super) fn counters(report: &emulator::LaunchReport) -> Counters {
    Counters {
        warp_instructions: report.warp_instructions,
        lane_instructions: report.lane_instructions,
        load_bytes: report.global_load_bytes,
        store_bytes: report.global_store_bytes,
    }
}

/// Arguments as the emulator takes them; the error says which is impossible.
pub(super) fn encode_all(args: &[KernelArg]) -> std::result::Result<Vec<emulator::Arg>, String> {
    args.iter().map(encode).collect()
}

fn encode(arg: &KernelArg) -> std::result::Result<emulator::Arg, String> {
    Ok(match arg {
        KernelArg::Address(a) => emulator::Arg::U64(*a),
        KernelArg::U32(n) => emulator::Arg::U32(*n),
        KernelArg::TensorMap(map) => emulator::Arg::Bytes(tensor_map(map).encode()?.into()),
    })
}

fn tensor_map(map: &TensorMap) -> emulator::TensorMap {
    let element = match map.dtype {
        DType::F8e4m3 | DType::F8e5m2 => emulator::MapElement::U8,
        DType::Bf16 => emulator::MapElement::Bf16,
        DType::F16 => emulator::MapElement::F16,
        DType::F32 => emulator::MapElement::F32,
        DType::F64 => emulator::MapElement::F64,
        DType::I32 => emulator::MapElement::S32,
    };
    let swizzle = match map.swizzle {
        32 => emulator::Swizzle::Bytes32,
        64 => emulator::Swizzle::Bytes64,
        128 => emulator::Swizzle::Bytes128,
        _ => emulator::Swizzle::None,
    };
    emulator::TensorMap {
        address: map.address,
        element,
        rank: map.rank,
        dims: map.dims,
        strides: map.strides,
        box_dims: map.box_dims,
        element_strides: [1; 5],
        interleave: emulator::Interleave::None,
        swizzle,
        fill_nan: false,
    }
}
