//! The launch description: what `emulate` reads, as JSON.

use serde::Deserialize;

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
    TensorMap(serde::de::IgnoredAny),
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
