//! A launch described in a file, from its inputs to its outputs.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::description::{Argument, Buffer, Description};
use crate::device::{Device, DeviceConfig};
use crate::error::Error;
use crate::isa::numeric::{e4m3_bits, e5m2_bits};
use crate::launch::{Arg, LaunchConfig, LaunchReport};
use crate::module::Module;
use crate::schedule::Schedule;

/// One tensor after the launch.
#[derive(Clone, Debug)]
pub struct Output {
    /// The element type as safetensors names it, such as `F32`.
    pub dtype: Dtype,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Elements in row-major order, little-endian.
    pub bytes: Vec<u8>,
}

/// What a launch left behind.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// All named buffers.
    pub tensors: BTreeMap<String, Output>,
    /// What was executed.
    pub report: LaunchReport,
}

impl Outputs {
    /// All tensors as the bytes of a safetensors file.
    ///
    /// # Errors
    /// [`Error::Description`] if a buffer is not what its description says.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, Error> {
        let fail = |message: String| Error::Description { path: "results".into(), message };
        let mut views = Vec::new();
        for (name, tensor) in &self.tensors {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
            views.push((name, view.map_err(|error| fail(error.to_string()))?));
        }
        safetensors::serialize(views, None).map_err(|error| fail(error.to_string()))
    }
}

/// Runs the launch that a JSON file describes, on a fresh device.
///
/// The file names a PTX file, a kernel, the shape of the launch and its arguments:
/// `{"ptx", "kernel", "grid", "block", "cluster"?, "dynamic_shared_bytes"?, "cooperative"?,
/// "seed"?, "args": […], "buffers"?: […]}`; with a seed the schedule is [`Schedule::Seeded`]. An
/// argument is `{"buffer": {"name", "dtype", "shape", "values" | "fill" | "file" and "tensor"}}`,
/// `{"scalar": {"dtype", "value"}}`, `{"null": true}` or
/// `{"tensor_map": {"buffer", "dtype", "dims", "strides_bytes", "box", "element_strides"?,
/// "swizzle"?, "interleave"?, "oob_fill"?}}`, innermost dimension first. Paths are relative to the
/// file.
///
/// # Errors
/// [`Error::Description`] for files that cannot be read or make no sense; else what
/// [`Module::parse`] and [`Device::launch`] return.
pub fn emulate(launch_json: &Path) -> Result<Outputs, Error> {
    emulate_scheduled(launch_json, None)
}

/// As [`emulate`], with a schedule in place of the one that the file names.
///
/// # Errors
/// As for [`emulate`].
pub fn emulate_scheduled(launch_json: &Path, schedule: Option<Schedule>) -> Result<Outputs, Error> {
    let folder = launch_json.parent().unwrap_or(Path::new("."));
    let text = read(launch_json)?;
    let description: Description =
        serde_json::from_slice(&text).map_err(|error| wrong(launch_json, error))?;
    let ptx_path = folder.join(&description.ptx);
    let ptx = String::from_utf8(read(&ptx_path)?).map_err(|error| wrong(&ptx_path, error))?;
    let module = Module::parse(&ptx)?;
    let described = description.seed.map_or(Schedule::InOrder, Schedule::Seeded);
    let schedule = schedule.unwrap_or(described);
    let mut loader = Loader {
        folder,
        path: launch_json,
        device: Device::new(DeviceConfig { schedule, ..DeviceConfig::default() }),
        placed: BTreeMap::new(),
    };
    for buffer in &description.buffers {
        loader.place(buffer)?;
    }
    let mut args = Vec::new();
    for argument in &description.args {
        args.push(match argument {
            Argument::Buffer(buffer) => Arg::U64(loader.place(buffer)?),
            Argument::Scalar(scalar) => {
                let dtype =
                    dtype_named(&scalar.dtype).map_err(|error| wrong(launch_json, error))?;
                let value = element(dtype, &scalar.value).map_err(|e| wrong(launch_json, e))?;
                Arg::Bytes(value)
            }
            Argument::Null(_) => Arg::U64(0),
            Argument::TensorMap(map) => {
                let place = loader.placed.get(&map.buffer).map(|placed| placed.0);
                let bytes = map.encode(place);
                Arg::Bytes(bytes.map_err(|error| wrong(launch_json, error))?)
            }
        });
    }
    let config = LaunchConfig {
        grid: description.grid,
        block: description.block,
        cluster: description.cluster,
        dynamic_shared_bytes: description.dynamic_shared_bytes,
        cooperative: description.cooperative,
    };
    let report = loader.device.launch(&module, &description.kernel, &config, &args)?;
    let mut tensors = BTreeMap::new();
    for (name, (address, dtype, shape)) in loader.placed {
        let mut bytes = vec![0; bytes_of(dtype, &shape)];
        loader.device.read(address, &mut bytes)?;
        tensors.insert(name, Output { dtype, shape, bytes });
    }
    Ok(Outputs { tensors, report })
}

fn wrong(path: &Path, message: impl ToString) -> Error {
    Error::Description { path: path.display().to_string(), message: message.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| wrong(path, error))
}

struct Loader<'a> {
    folder: &'a Path,
    path: &'a Path,
    device: Device,
    placed: BTreeMap<String, (u64, Dtype, Vec<usize>)>,
}

impl Loader<'_> {
    /// Puts a buffer's content into device memory; a name that is known already is the same memory.
    fn place(&mut self, buffer: &Buffer) -> Result<u64, Error> {
        let fail =
            |message: String| wrong(self.path, format!("buffer `{}`: {message}", buffer.name));
        if let Some(&(address, ..)) = self.placed.get(&buffer.name) {
            return Ok(address);
        }
        let dtype = dtype_named(&buffer.dtype).map_err(fail)?;
        let size = bytes_of(dtype, &buffer.shape);
        let bytes = self.content(buffer, dtype, size)?;
        let address = self.device.alloc(size, &buffer.name)?;
        self.device.write(address, &bytes)?;
        self.placed.insert(buffer.name.clone(), (address, dtype, buffer.shape.clone()));
        Ok(address)
    }

    fn content(&self, buffer: &Buffer, dtype: Dtype, size: usize) -> Result<Vec<u8>, Error> {
        let fail =
            |message: String| wrong(self.path, format!("buffer `{}`: {message}", buffer.name));
        if let (Some(file), Some(tensor)) = (&buffer.file, &buffer.tensor) {
            let path = self.folder.join(file);
            let data = read(&path)?;
            let file = SafeTensors::deserialize(&data).map_err(|error| wrong(&path, error))?;
            let view = file.tensor(tensor).map_err(|error| wrong(&path, error))?;
            if view.data().len() != size {
                return Err(fail(format!(
                    "`{tensor}` has {} bytes, the shape {:?} needs {size}",
                    view.data().len(),
                    buffer.shape
                )));
            }
            return Ok(view.data().to_vec());
        }
        let one = dtype.bitsize() / 8;
        if let Some(values) = &buffer.values {
            let mut bytes = Vec::with_capacity(size);
            for value in values {
                bytes.extend(element(dtype, value).map_err(fail)?);
            }
            if bytes.len() == one && size > one {
                bytes = bytes.repeat(size / one);
            }
            if bytes.len() != size {
                return Err(fail(format!("{} values for shape {:?}", values.len(), buffer.shape)));
            }
            return Ok(bytes);
        }
        match &buffer.fill {
            Some(value) => Ok(element(dtype, value).map_err(fail)?.repeat(size / one.max(1))),
            None => Err(fail("it needs `values`, `fill`, or `file` and `tensor`".to_string())),
        }
    }
}

fn bytes_of(dtype: Dtype, shape: &[usize]) -> usize {
    let count = shape.iter().fold(1usize, |count, &extent| count.saturating_mul(extent));
    count.saturating_mul(dtype.bitsize() / 8)
}

fn dtype_named(name: &str) -> Result<Dtype, String> {
    Ok(match name {
        "bool" => Dtype::BOOL,
        "u8" => Dtype::U8,
        "i8" => Dtype::I8,
        "u16" => Dtype::U16,
        "i16" => Dtype::I16,
        "u32" => Dtype::U32,
        "i32" => Dtype::I32,
        "u64" => Dtype::U64,
        "i64" => Dtype::I64,
        "f8e4m3" | "f8_e4m3" | "e4m3" => Dtype::F8_E4M3,
        "f8e5m2" | "f8_e5m2" | "e5m2" => Dtype::F8_E5M2,
        "f16" => Dtype::F16,
        "bf16" => Dtype::BF16,
        "f32" => Dtype::F32,
        "f64" => Dtype::F64,
        other => return Err(format!("unknown dtype `{other}`")),
    })
}

/// The bytes of one element.
fn element(dtype: Dtype, value: &serde_json::Number) -> Result<Vec<u8>, String> {
    let float = value.as_f64().ok_or_else(|| format!("{value} is not a number"))?;
    let integer = value.as_i64().map(i128::from).or(value.as_u64().map(i128::from));
    let integer = integer.unwrap_or(float as i128);
    Ok(match dtype {
        Dtype::BOOL | Dtype::U8 | Dtype::I8 => vec![integer as u8],
        Dtype::U16 | Dtype::I16 => (integer as u16).to_le_bytes().to_vec(),
        Dtype::U32 | Dtype::I32 => (integer as u32).to_le_bytes().to_vec(),
        Dtype::U64 | Dtype::I64 => (integer as u64).to_le_bytes().to_vec(),
        Dtype::F8_E4M3 => vec![e4m3_bits(float as f32) as u8],
        Dtype::F8_E5M2 => vec![e5m2_bits(float as f32) as u8],
        Dtype::F16 => f16::from_f64(float).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f64(float).to_le_bytes().to_vec(),
        Dtype::F32 => (float as f32).to_le_bytes().to_vec(),
        Dtype::F64 => float.to_le_bytes().to_vec(),
        other => {
            return Err(format!("elements of type {other:?} cannot be given as numbers"));
        }
    })
}
