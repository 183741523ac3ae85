//! What flows between functions, kept for those who compare runs.

use super::rank::RankState;
use super::run::Addresses;
use crate::device::Device;
use crate::{Phase, Result};
use moec_ir::{DType, Dim, Sizes};

/// Where the values of the last step lie.
pub(super) struct Kept {
    phase: Phase,
    sizes: Sizes,
    /// By value.
    addresses: Vec<u64>,
}

/// A value that a function returned in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The function that returned it.
    pub function: String,
    /// The layer, where it is one of several.
    pub layer: Option<u64>,
    /// Which of the function's results.
    pub output: usize,
    /// Element type.
    pub dtype: DType,
    /// Elements of one token.
    pub width: u64,
    /// Elements, row-major.
    pub bytes: Vec<u8>,
}

impl RankState {
    pub(crate) fn keep_values(&mut self, on: bool) {
        self.keep = on;
        self.kept = None;
    }

    /// Remembers where a step left its values.
    pub(super) fn keep(&mut self, phase: Phase, sizes: Sizes, addresses: &Addresses) {
        let addresses = addresses.values.clone();
        self.kept = self.keep.then_some(Kept { phase, sizes, addresses });
    }

    /// The values of the last step that were kept, in the order in which they were computed.
    pub(crate) fn values(&self, device: &mut dyn Device) -> Result<Vec<Value>> {
        let Some(kept) = &self.kept else { return Ok(vec![]) };
        let loaded = self.loaded(kept.phase)?;
        let entry = &loaded.plan.entries[loaded.main];
        let mut values = Vec::new();
        for step in &entry.steps {
            for (output, id) in step.outputs.iter().enumerate() {
                let value = &entry.values[id.0];
                let size = value.dtype.bytes();
                let elements = Dim::product(&value.shape).eval(&kept.sizes);
                let mut bytes = vec![0; elements.saturating_mul(size) as usize];
                device.read(kept.addresses[id.0], &mut bytes)?;
                values.push(Value {
                    function: loaded.plan.functions[step.function].name.clone(),
                    layer: step.layer,
                    output,
                    dtype: value.dtype,
                    width: elements / kept.sizes.tokens.max(1),
                    bytes,
                });
            }
        }
        Ok(values)
    }
}
