//! From a plan to the launches of a step.

use super::rank::RankState;
use super::show;
use super::step_inputs::{STEP_INPUTS, StepInputs};
use crate::device::{Device, KernelArg, KernelId, LaunchShape, TensorMap};
use crate::{Phase, Result, fail};
use moec_ir::plan::{self, Buffer, Geometry, Launch, StepInput};
use moec_ir::{DType, Diagnostic, Dim, Sizes};
use std::fmt;
use std::sync::Arc;

/// Addresses of the buffers that a step's sizes decide, by index.
pub(crate) struct Addresses {
    workspace: Vec<u64>,
    /// Of each value of the entry.
    pub(super) values: Vec<u64>,
    /// In the order of [`STEP_INPUTS`].
    step_inputs: Vec<u64>,
}

/// A launch with all its numbers.
pub(crate) struct Ready<'p> {
    pub(crate) kernel: KernelId,
    pub(crate) shape: LaunchShape,
    pub(crate) args: Vec<KernelArg>,
    pub(crate) place: Place<'p>,
}

/// Where in a plan a launch stands.
#[derive(Clone, Copy)]
pub(crate) struct Place<'p> {
    pub(crate) kernel: &'p plan::Kernel,
    pub(crate) function: &'p str,
    pub(crate) layer: Option<u64>,
    pub(crate) computes: &'p str,
}

/// A failure with the place of the launch that failed.
pub(crate) fn while_computing(
    mut failure: Vec<Diagnostic>,
    place: &Place<'_>,
    phase: Phase,
    sizes: &Sizes,
) -> Vec<Diagnostic> {
    for d in &mut failure {
        d.message += &format!("\n  while computing {place} ({phase}, {})", show(sizes));
    }
    failure
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.computes.is_empty() { "a value" } else { self.computes };
        write!(f, "{what} in `{}`", self.function)?;
        self.layer.map_or(Ok(()), |layer| write!(f, " of layer {layer}"))
    }
}

impl RankState {
    /// The launches of a step, in order. Those with an empty grid do nothing and are left out.
    pub(crate) fn launches(
        &self,
        phase: Phase,
        sizes: &Sizes,
        addresses: &Addresses,
    ) -> Result<Vec<Ready<'_>>> {
        let loaded = self.loaded(phase)?;
        let plan = &loaded.plan;
        let entry = &plan.entries[loaded.main];
        let group = self.member.as_ref();
        let symmetric = group.and_then(|m| m.symmetric.get(&phase));
        let of_group = Sizes { tokens: group.map_or(sizes.tokens, |m| m.most), ..*sizes };
        let mut ready = Vec::new();
        for (step, call) in entry.steps.iter().zip(&loaded.calls[loaded.main]) {
            let function = &plan.functions[step.function];
            for launch in &function.launches {
                let address = |buffer| match buffer {
                    Buffer::Input(i) => addresses.values[step.inputs[i].0],
                    Buffer::Output(i) => addresses.values[step.outputs[i].0],
                    Buffer::Workspace(i) => addresses.workspace[i],
                    Buffer::Step(input) => addresses.step_inputs[number(input)],
                    // `validate` refuses these in plans that are of no group.
                    Buffer::Symmetric(i) => symmetric.map_or(0, |all| all[i]),
                    Buffer::Group => group.map_or(0, |m| m.context),
                    Buffer::Weight(i) => call.weights[i],
                    Buffer::Cache(i) => call.caches[i],
                    Buffer::Table(i) => call.tables[i],
                };
                let place = Place {
                    kernel: &plan.kernels[launch.kernel],
                    function: &function.name,
                    layer: step.layer,
                    computes: &launch.computes,
                };
                let sizes = if launch.of_group { &of_group } else { sizes };
                let numbers = numbers(launch, &place, sizes, address)
                    .map_err(|e| while_computing(e, &place, phase, sizes))?;
                let kernel = loaded.kernels[launch.kernel];
                ready.extend(numbers.map(|(shape, args)| Ready { kernel, shape, args, place }));
            }
        }
        Ok(ready)
    }

    /// Makes the buffers large enough for a step and writes its inputs.
    pub(crate) fn prepare(
        &mut self,
        device: &mut dyn Device,
        phase: Phase,
        inputs: &StepInputs,
    ) -> Result<Addresses> {
        let sizes = &inputs.sizes;
        let loaded = self.loaded(phase)?;
        let (plan, main) = (Arc::clone(&loaded.plan), loaded.main);
        let entry = &plan.entries[main];
        let mut workspace_bytes: Vec<u64> = Vec::new();
        for step in &entry.steps {
            for (i, bytes) in plan.functions[step.function].workspace.iter().enumerate() {
                workspace_bytes.resize(workspace_bytes.len().max(i + 1), 0);
                workspace_bytes[i] = workspace_bytes[i].max(bytes.eval(sizes));
            }
        }
        let keep = self.keep;
        let storage_of = |(i, v): (usize, &plan::PlanValue)| if keep { i } else { v.storage };
        let numbered = || entry.values.iter().enumerate();
        let mut storage_bytes = vec![0u64; numbered().map(storage_of).max().map_or(0, |n| n + 1)];
        for (i, value) in numbered() {
            let bytes = Dim::product(&value.shape).eval(sizes).saturating_mul(value.dtype.bytes());
            let storage = storage_of((i, value));
            storage_bytes[storage] = storage_bytes[storage].max(bytes);
        }
        // As many rows as the caches have: those remembered grow with every step, and a captured
        // step needs their buffer to stay where it is.
        let most = Sizes { past: self.pages.rows(), ..*sizes };
        let mut step_inputs = Vec::new();
        for (i, input) in STEP_INPUTS.into_iter().enumerate() {
            let array: Vec<u8> = inputs.array(input).iter().flat_map(|n| n.to_le_bytes()).collect();
            let bytes = input.elements().eval(&most).saturating_mul(DType::I32.bytes());
            let address = self.step_inputs.get(device, i, bytes.max(array.len() as u64))?;
            device.write(address, &array)?;
            step_inputs.push(address);
        }
        let storage = storage_bytes.iter().enumerate();
        let storage: Vec<u64> =
            storage.map(|(i, &n)| self.values.get(device, i, n)).collect::<Result<_>>()?;
        let workspace = workspace_bytes.iter().enumerate();
        let addresses = Addresses {
            workspace: workspace
                .map(|(i, &n)| self.workspace.get(device, i, n))
                .collect::<Result<_>>()?,
            values: numbered().map(|v| storage[storage_of(v)]).collect(),
            step_inputs,
        };
        let ids: Vec<u8> = inputs.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        device.write(addresses.values[entry.inputs[0].0], &ids)?;
        self.keep(phase, *sizes, &addresses);
        Ok(addresses)
    }
}

/// A launch's shape and arguments; nothing where its grid is empty.
fn numbers(
    launch: &Launch,
    place: &Place<'_>,
    sizes: &Sizes,
    address: impl Fn(Buffer) -> u64,
) -> Result<Option<(LaunchShape, Vec<KernelArg>)>> {
    let kernel = place.kernel;
    let Some(geometry) = &kernel.geometry else {
        return fail(Diagnostic::error("E1004", format!("`{}` has no geometry", kernel.name)));
    };
    let Some(shape) = shape(geometry, sizes) else { return too_many_ctas(&kernel.name, sizes) };
    if shape.grid.contains(&0) {
        return Ok(None);
    }
    let operands = launch.operands.iter();
    let addresses: Vec<u64> =
        operands.map(|o| address(o.buffer).wrapping_add(o.offset.eval(sizes))).collect();
    let mut args: Vec<KernelArg> =
        addresses.iter().map(|&address| KernelArg::Address(address)).collect();
    // `RankState::inputs` has checked that they fit.
    args.extend([sizes.tokens, sizes.past, sizes.sequences].map(|n| KernelArg::U32(n as u32)));
    args.extend(geometry.tensor_maps.iter().map(|map| {
        let address = addresses.get(map.operand).copied().unwrap_or(0);
        KernelArg::TensorMap(tensor_map(map, address, sizes))
    }));
    Ok(Some((shape, args)))
}

/// A tensor map in a step of these sizes; `validate` has checked its lengths.
fn tensor_map(map: &plan::TensorMap, address: u64, sizes: &Sizes) -> TensorMap {
    let mut tensor = TensorMap {
        address,
        dtype: map.dtype,
        rank: map.dims.len(),
        dims: [1; 5],
        strides: [0; 4],
        box_dims: [1; 5],
        swizzle: map.swizzle,
    };
    for (to, dim) in tensor.dims.iter_mut().zip(&map.dims) {
        // A map has at least one element, even where a rank has no token.
        *to = dim.eval(sizes).max(1);
    }
    for (to, &stride) in tensor.strides.iter_mut().zip(&map.strides) {
        *to = stride;
    }
    for (to, &extent) in tensor.box_dims.iter_mut().zip(&map.box_dims) {
        *to = extent;
    }
    tensor
}

/// The place of an input in [`STEP_INPUTS`].
fn number(input: StepInput) -> usize {
    match input {
        StepInput::Positions => 0,
        StepInput::Sequences => 1,
        StepInput::Slots => 2,
        StepInput::CacheStart => 3,
        StepInput::CachePages => 4,
        StepInput::PastSlots => 5,
        StepInput::PastStart => 6,
    }
}

/// The launch's numbers in a step of these sizes; `None` where the grid exceeds the limits
/// (CUDA C++ Programming Guide, compute capability 9.0: 2^31 - 1 along x, 65,535 along y and z).
fn shape(geometry: &Geometry, sizes: &Sizes) -> Option<LaunchShape> {
    let [x, y, z] = [0, 1, 2].map(|i| geometry.grid[i].eval(sizes));
    let fits = x <= i32::MAX as u64 && y <= 65_535 && z <= 65_535;
    fits.then_some(LaunchShape {
        grid: [x as u32, y as u32, z as u32],
        block: geometry.block,
        shared_bytes: geometry.shared_bytes,
    })
}

fn too_many_ctas<T>(kernel: &str, sizes: &Sizes) -> Result<T> {
    let message = format!("kernel `{kernel}` needs too many CTAs for a step of {}", show(sizes));
    fail(Diagnostic::error("E1201", message).help("use a smaller batch or a shorter prompt"))
}
