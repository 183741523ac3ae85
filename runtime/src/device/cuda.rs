//! An NVIDIA GPU through the CUDA driver, which is looked for when the device is opened.
//!
//! The driver compiles the PTX for the GPU. All launches and copies go to one stream, so that
//! they take effect in order. Names of driver calls: CUDA Driver API reference.

use super::{Counters, Device, KernelArg, KernelId, LaunchShape, TensorMap};
use super::{failed_kernel, memory_failure, refused_ptx};
use crate::{Result, fail};
use cudarc::driver::{result as driver, sys};
use moec_ir::{DType, Diagnostic};
use std::ffi::{CString, c_void};

/// The compute capability that `sm_90a` code needs, exactly: its instructions exist in no other
/// generation (PTX ISA, `.target`).
const HOPPER: (i32, i32) = (9, 0);

/// Dynamic shared memory that a kernel may use without being told so (CUDA C++ Programming
/// Guide, compute capability 9.0).
const SHARED_WITHOUT_OPT_IN: u32 = 48 << 10;

/// A GPU.
pub struct Cuda {
    device: sys::CUdevice,
    context: sys::CUcontext,
    name: String,
    modules: Vec<sys::CUmodule>,
    kernels: Vec<CudaKernel>,
}

struct CudaKernel {
    function: sys::CUfunction,
    name: String,
    shared_opted_in: u32,
}

impl Cuda {
    /// Opens the GPU of an ordinal, 0 being the first that `CUDA_VISIBLE_DEVICES` admits.
    ///
    /// # Errors
    /// E1101 without a driver or GPU, E1102 where the GPU is not of the Hopper generation.
    pub fn open(ordinal: i32) -> Result<Self> {
        let no_gpu = |why: String| {
            fail(
                Diagnostic::error("E1101", format!("there is no CUDA device to run on: {why}"))
                    .help("run on the emulator: `--device emulator`"),
            )
        };
        // SAFETY: loads the driver library of the system, which is what the user asked for.
        if !unsafe { sys::is_culib_present() } {
            return no_gpu("the driver library `libcuda.so` is not installed".into());
        }
        if let Err(e) = driver::init() {
            return no_gpu(format!("`cuInit` failed: {e:?}"));
        }
        let device = match driver::device::get(ordinal) {
            Ok(device) => device,
            Err(e) => return no_gpu(format!("the driver has no GPU {ordinal}: {e:?}")),
        };
        let name = driver::device::get_name(device).unwrap_or_else(|_| "a GPU".into());
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        // SAFETY: `device` is one that the driver gave.
        let attribute =
            |which| unsafe { driver::device::get_attribute(device, which) }.unwrap_or(0);
        let capability = (attribute(MAJOR), attribute(MINOR));
        if capability != HOPPER {
            let (major, minor) = capability;
            let message = format!(
                "`{name}` has compute capability {major}.{minor}, but the code is for 9.0 (Hopper: H100, H200, H800, H20)"
            );
            return fail(
                Diagnostic::error("E1102", message)
                    .help("run on the emulator: `--device emulator`"),
            );
        }
        // SAFETY: as above; the context is released when this value is dropped.
        let context = unsafe {
            driver::primary_ctx::retain(device)
                .and_then(|c| driver::ctx::set_current(c).map(|()| c))
        };
        match context {
            Ok(context) => Ok(Self { device, context, name, modules: vec![], kernels: vec![] }),
            Err(e) => no_gpu(format!("`{name}` gives no context: {e:?}")),
        }
    }

    /// Makes the device's context that of the calling thread.
    fn enter(&self) {
        // SAFETY: the context is retained as long as `self` lives. A failure shows in the call
        // that follows.
        let _ = unsafe { driver::ctx::set_current(self.context) };
    }

    fn compile(&self, ptx: &str) -> Result<sys::CUmodule> {
        let Ok(text) = CString::new(ptx) else {
            return refused_ptx("it contains a zero byte");
        };
        let mut log = vec![0u8; 16 << 10];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut module = std::ptr::null_mut();
        // SAFETY: all pointers live through the call; `text` ends in a zero byte.
        let status = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                text.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        match status.result() {
            Ok(()) => Ok(module),
            Err(e) => {
                let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
                let log = String::from_utf8_lossy(&log[..end]);
                refused_ptx(format!("{e:?}\n{}", log.trim_end()))
            }
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        self.enter();
        // SAFETY: modules and context were given by the driver and are not used afterwards.
        unsafe {
            for module in self.modules.drain(..) {
                let _ = driver::module::unload(module);
            }
            let _ = driver::primary_ctx::release(self.device);
        }
    }
}

impl Device for Cuda {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn alloc(&mut self, bytes: u64, name: &str) -> Result<u64> {
        self.enter();
        let size = usize::try_from(bytes.max(1)).unwrap_or(usize::MAX);
        // SAFETY: contents are undefined until written, as the trait says.
        unsafe { driver::malloc_sync(size) }
            .or_else(|e| memory_failure(&format!("allocation of {bytes} bytes for `{name}`"), e))
    }

    fn free(&mut self, address: u64) -> Result<()> {
        self.enter();
        // SAFETY: the caller passes what `alloc` gave; the driver refuses other addresses.
        unsafe { driver::free_sync(address) }.or_else(|e| memory_failure("release", e))
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.enter();
        // SAFETY: the driver refuses addresses outside of allocations.
        unsafe { driver::memcpy_htod_sync(address, bytes) }
            .or_else(|e| memory_failure("copy to the device", e))
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.enter();
        // SAFETY: the driver refuses addresses outside of allocations.
        unsafe { driver::memcpy_dtoh_sync(bytes, address) }
            .or_else(|e| memory_failure("copy from the device", e))
    }

    fn load(&mut self, ptx: &str, kernels: &[&str]) -> Result<Vec<KernelId>> {
        self.enter();
        let module = self.compile(ptx)?;
        self.modules.push(module);
        let mut ids = Vec::new();
        for kernel in kernels {
            let name = CString::new(*kernel).unwrap_or_default();
            // SAFETY: the module was just loaded and stays so.
            match unsafe { driver::module::get_function(module, name) } {
                Ok(function) => {
                    ids.push(KernelId(self.kernels.len()));
                    let name = (*kernel).to_owned();
                    self.kernels.push(CudaKernel { function, name, shared_opted_in: 0 });
                }
                Err(e) => return refused_ptx(format!("there is no entry `{kernel}`: {e:?}")),
            }
        }
        Ok(ids)
    }

    fn launch(
        &mut self,
        kernel: KernelId,
        shape: &LaunchShape,
        args: &[KernelArg],
    ) -> Result<Counters> {
        self.enter();
        let kernel = &mut self.kernels[kernel.0];
        if shape.shared_bytes > SHARED_WITHOUT_OPT_IN.max(kernel.shared_opted_in) {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shape.shared_bytes).unwrap_or(i32::MAX);
            // SAFETY: the function belongs to a module that stays loaded.
            unsafe { driver::function::set_function_attribute(kernel.function, attribute, bytes) }
                .or_else(|e| {
                    failed_kernel(&kernel.name, format!("{bytes} bytes of shared memory: {e:?}"))
                })?;
            kernel.shared_opted_in = shape.shared_bytes;
        }
        let mut values = Vec::new();
        for arg in args {
            values.push(match arg {
                KernelArg::Address(a) => Value::Word(*a),
                // The driver reads the low four bytes.
                KernelArg::U32(n) => Value::Word(u64::from(*n)),
                KernelArg::TensorMap(map) => match encode(map) {
                    Ok(encoded) => Value::Map(encoded),
                    Err(e) => return failed_kernel(&kernel.name, format!("{map:?}: {e:?}")),
                },
            });
        }
        let address = |value: &mut Value| match value {
            Value::Word(word) => std::ptr::from_mut(word).cast(),
            Value::Map(map) => std::ptr::from_mut(map).cast(),
        };
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(address).collect();
        let [grid, block] = [shape.grid, shape.block].map(|[x, y, z]| (x, y, z));
        // SAFETY: the driver copies the arguments before it returns. That the kernel takes these
        // arguments is what the plan states.
        let launched = unsafe {
            driver::launch_kernel(
                kernel.function,
                grid,
                block,
                shape.shared_bytes,
                driver::stream::null(),
                &mut pointers,
            )
        };
        match launched {
            Ok(()) => Ok(Counters::default()),
            Err(e) => failed_kernel(&kernel.name, e),
        }
    }

    fn synchronize(&mut self) -> Result<()> {
        self.enter();
        driver::ctx::synchronize().or_else(|e| failed_kernel("of an earlier launch", e))
    }
}

/// An argument as the driver reads it.
enum Value {
    Word(u64),
    Map(sys::CUtensorMap),
}

/// Encodes a tensor map (CUDA Driver API, "Tensor Map Object Management"). Rows of boxes are
/// fetched into L2 in units of 256 bytes, since the neighbouring box is needed next.
fn encode(map: &TensorMap) -> std::result::Result<sys::CUtensorMap, driver::DriverError> {
    use sys::CUtensorMapDataType as Type;
    use sys::CUtensorMapSwizzle as Swizzle;
    let element = match map.dtype {
        DType::F8e4m3 | DType::F8e5m2 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        DType::Bf16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DType::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        DType::F64 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
        DType::I32 => Type::CU_TENSOR_MAP_DATA_TYPE_INT32,
    };
    let swizzle = match map.swizzle {
        32 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        128 => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        _ => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
    };
    let mut encoded = std::mem::MaybeUninit::<sys::CUtensorMap>::zeroed();
    // SAFETY: the arrays have the lengths that the driver reads for a rank up to 5; it refuses
    // other ranks, and whatever else it cannot encode.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            encoded.as_mut_ptr(),
            element,
            map.rank as u32,
            map.address as *mut c_void,
            map.dims.as_ptr(),
            map.strides.as_ptr(),
            map.box_dims.as_ptr(),
            [1u32; 5].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()?;
        Ok(encoded.assume_init())
    }
}
