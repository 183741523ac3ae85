//! The launch description: what `emulate` reads, as JSON.

use serde::Deserialize;

use crate::tma::{Interleave, MapElement, Swizzle, TensorMap};

/// A whole launch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    /// The PTX file, relative to the description.
    pub(crate) ptx: String,
    pub(crate) kernel: String,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) cluster: Option<[u32; 3]>,
    #[serde(default)]
    pub(crate) dynamic_shared_bytes: u32,
    #[serde(default)]
    pub(crate) cooperative: bool,
    /// Seed of a random schedule.
    pub(crate) seed: Option<u64>,
    pub(crate) args: Vec<Argument>,
    /// Memory that no argument names directly.
    #[serde(default)]
    pub(crate) buffers: Vec<Buffer>,
}

/// One kernel argument.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Argument {
    /// A pointer to a buffer.
    Buffer(Buffer),
    /// A number.
    Scalar(Scalar),
    /// A null pointer.
    Null(serde::de::IgnoredAny),
    /// A tensor map over a buffer.
    TensorMap(MapDescription),
}

/// A tensor map; dimensions innermost first, as `cuTensorMapEncodeTiled` takes them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MapDescription {
    /// The name of a buffer.
    pub(crate) buffer: String,
    /// Bytes from the start of the buffer to the tensor.
    #[serde(default)]
    pub(crate) offset_bytes: u64,
    pub(crate) dtype: String,
    pub(crate) dims: Vec<u64>,
    /// Of all dimensions but the innermost.
    pub(crate) strides_bytes: Vec<u64>,
    #[serde(rename = "box")]
    pub(crate) box_dims: Vec<u32>,
    pub(crate) element_strides: Option<Vec<u32>>,
    pub(crate) swizzle: Option<String>,
    pub(crate) interleave: Option<String>,
    pub(crate) oob_fill: Option<String>,
}

/// A named tensor in device memory, written to the output after the launch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Buffer {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// All elements, or the one value of all.
    pub(crate) values: Option<Vec<serde_json::Number>>,
    pub(crate) fill: Option<serde_json::Number>,
    /// A safetensors file, relative to the description, and the tensor in it.
    pub(crate) file: Option<String>,
    pub(crate) tensor: Option<String>,
}

/// A number by value.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scalar {
    pub(crate) dtype: String,
    pub(crate) value: serde_json::Number,
}

impl MapDescription {
    /// The bytes of the tensor map over a buffer at `place`; the error says what does not fit.
    pub(crate) fn encode(&self, place: Option<u64>) -> Result<Vec<u8>, String> {
        let fail = |message: String| format!("tensor map over `{}`: {message}", self.buffer);
        let place = place.ok_or_else(|| fail("there is no such buffer".to_string()))?;
        let rank = self.dims.len();
        let steps = self.element_strides.clone().unwrap_or_else(|| vec![1; rank]);
        if !(1..=5).contains(&rank)
            || self.box_dims.len() != rank
            || self.strides_bytes.len() + 1 != rank
            || steps.len() != rank
        {
            return Err(fail(format!(
                "{rank} dims, {} strides_bytes, {} in box and {} element_strides do not go together",
                self.strides_bytes.len(),
                self.box_dims.len(),
                steps.len()
            )));
        }
        let tensor_map = TensorMap {
            address: place.wrapping_add(self.offset_bytes),
            element: element_named(&self.dtype).map_err(fail)?,
            rank,
            dims: std::array::from_fn(|axis| self.dims.get(axis).copied().unwrap_or(1)),
            strides: std::array::from_fn(|axis| self.strides_bytes.get(axis).copied().unwrap_or(0)),
            box_dims: std::array::from_fn(|axis| self.box_dims.get(axis).copied().unwrap_or(1)),
            element_strides: std::array::from_fn(|axis| steps.get(axis).copied().unwrap_or(1)),
            interleave: self.interleave().map_err(fail)?,
            swizzle: self.swizzle().map_err(fail)?,
            fill_nan: match self.oob_fill.as_deref() {
                None | Some("zero") => false,
                Some("nan") => true,
                Some(other) => return Err(fail(format!("unknown oob_fill `{other}`"))),
            },
        };
        Ok(tensor_map.encode().map_err(fail)?.to_vec())
    }

    fn swizzle(&self) -> Result<Swizzle, String> {
        Ok(match self.swizzle.as_deref() {
            None | Some("none") => Swizzle::None,
            Some("32B") => Swizzle::Bytes32,
            Some("64B") => Swizzle::Bytes64,
            Some("128B") => Swizzle::Bytes128,
            Some(other) => return Err(format!("unknown swizzle `{other}`")),
        })
    }

    fn interleave(&self) -> Result<Interleave, String> {
        Ok(match self.interleave.as_deref() {
            None | Some("none") => Interleave::None,
            Some("16B") => Interleave::Bytes16,
            Some("32B") => Interleave::Bytes32,
            Some(other) => return Err(format!("unknown interleave `{other}`")),
        })
    }
}

fn element_named(dtype: &str) -> Result<MapElement, String> {
    Ok(match dtype {
        "u8" | "i8" | "f8e4m3" | "f8_e4m3" | "e4m3" | "f8e5m2" | "f8_e5m2" | "e5m2" => {
            MapElement::U8
        }
        "u16" | "i16" => MapElement::U16,
        "u32" => MapElement::U32,
        "i32" => MapElement::S32,
        "u64" => MapElement::U64,
        "i64" => MapElement::S64,
        "f16" => MapElement::F16,
        "bf16" => MapElement::Bf16,
        "f32" => MapElement::F32,
        "tf32" => MapElement::Tf32,
        "f64" => MapElement::F64,
        other => return Err(format!("unknown dtype `{other}`")),
    })
}
