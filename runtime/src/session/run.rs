//! Runs the launches of an entry.

use super::step_inputs::{STEP_INPUTS, StepInputs};
use super::{Call, Loaded, Output, Session, show};
use crate::device::{Counters, KernelArg, LaunchShape, TensorMap};
use crate::{Phase, Result, fail};
use moec_ir::plan::{self, Buffer, Geometry, Launch, StepInput};
use moec_ir::{DType, Diagnostic, Dim, Sizes};
use std::time::Instant;

/// Addresses of the buffers that a step's sizes decide, by index.
struct Addresses {
    workspace: Vec<u64>,
    /// Of each value of the entry.
    values: Vec<u64>,
    /// In the order of [`STEP_INPUTS`].
    step_inputs: Vec<u64>,
}

impl Session {
    /// Runs `main` on a step's tokens; returns where the logits are.
    pub(super) fn run_main(&mut self, phase: Phase, inputs: &StepInputs) -> Result<Output> {
        let sizes = inputs.sizes;
        if i32::try_from(sizes.past.max(sizes.tokens)).is_err() {
            let message = format!("a step of {} is beyond 32-bit row numbers", show(&sizes));
            return fail(Diagnostic::error("E1201", message).help("use a smaller batch"));
        }
        let Some(loaded) = self.phases.remove(&phase) else {
            return fail(Diagnostic::error("E1004", format!("there is no {phase} plan")));
        };
        // Taken out and put back, so that the device can be borrowed beside it.
        let result = self.run_loaded(phase, &loaded, inputs);
        self.phases.insert(phase, loaded);
        result
    }

    fn run_loaded(&mut self, phase: Phase, loaded: &Loaded, inputs: &StepInputs) -> Result<Output> {
        let entry = &loaded.plan.entries[loaded.main];
        let addresses = self.prepare(loaded, inputs)?;
        let ids: Vec<u8> = inputs.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        self.device.write(addresses.values[entry.inputs[0].0], &ids)?;
        for (step, call) in entry.steps.iter().zip(&loaded.calls[loaded.main]) {
            for launch in &loaded.plan.functions[step.function].launches {
                let address = |buffer| match buffer {
                    Buffer::Input(i) => addresses.values[step.inputs[i].0],
                    Buffer::Output(i) => addresses.values[step.outputs[i].0],
                    other => fixed(other, call, &addresses),
                };
                self.run_launch(phase, loaded, launch, &inputs.sizes, address).map_err(
                    |mut e| {
                        let layer = step.layer.map_or(String::new(), |l| format!(" of layer {l}"));
                        let function = &loaded.plan.functions[step.function].name;
                        for d in &mut e {
                            d.message += &format!(
                                "\n  while computing {} in `{function}`{layer} ({phase}, {})",
                                if launch.computes.is_empty() {
                                    "a value"
                                } else {
                                    &launch.computes
                                },
                                show(&inputs.sizes)
                            );
                        }
                        e
                    },
                )?;
            }
        }
        let logits = entry.outputs[0].0;
        let value = &entry.values[logits];
        let width = value.shape.get(1).and_then(Dim::constant).unwrap_or(0);
        Ok(Output { address: addresses.values[logits], dtype: value.dtype, width })
    }

    /// Makes the buffers large enough for a step and writes its inputs.
    fn prepare(&mut self, loaded: &Loaded, inputs: &StepInputs) -> Result<Addresses> {
        let sizes = &inputs.sizes;
        let entry = &loaded.plan.entries[loaded.main];
        let device = self.device.as_mut();
        let mut workspace_bytes: Vec<u64> = Vec::new();
        for step in &entry.steps {
            for (i, bytes) in loaded.plan.functions[step.function].workspace.iter().enumerate() {
                workspace_bytes.resize(workspace_bytes.len().max(i + 1), 0);
                workspace_bytes[i] = workspace_bytes[i].max(bytes.eval(sizes));
            }
        }
        let mut storage_bytes =
            vec![0u64; entry.values.iter().map(|v| v.storage + 1).max().unwrap_or(0)];
        for value in &entry.values {
            let bytes = Dim::product(&value.shape).eval(sizes).saturating_mul(value.dtype.bytes());
            storage_bytes[value.storage] = storage_bytes[value.storage].max(bytes);
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
        Ok(Addresses {
            workspace: workspace
                .map(|(i, &n)| self.workspace.get(device, i, n))
                .collect::<Result<_>>()?,
            values: entry.values.iter().map(|v| storage[v.storage]).collect(),
            step_inputs,
        })
    }

    fn run_launch(
        &mut self,
        phase: Phase,
        loaded: &Loaded,
        launch: &Launch,
        sizes: &Sizes,
        address: impl Fn(Buffer) -> u64,
    ) -> Result<()> {
        let kernel = &loaded.plan.kernels[launch.kernel];
        let Some(shape) = kernel.geometry.as_ref().map(|g| shape(g, sizes)) else {
            return fail(Diagnostic::error("E1004", format!("`{}` has no geometry", kernel.name)));
        };
        let Some(shape) = shape else { return too_many_ctas(&kernel.name, sizes) };
        if shape.grid.contains(&0) {
            return Ok(());
        }
        let operands = launch.operands.iter();
        let addresses: Vec<u64> =
            operands.map(|o| address(o.buffer).wrapping_add(o.offset.eval(sizes))).collect();
        let mut args: Vec<KernelArg> =
            addresses.iter().map(|&address| KernelArg::Address(address)).collect();
        // `run_main` has checked that they fit.
        args.extend([sizes.tokens, sizes.past, sizes.sequences].map(|n| KernelArg::U32(n as u32)));
        let maps = kernel.geometry.iter().flat_map(|g| &g.tensor_maps);
        args.extend(maps.map(|map| {
            let address = addresses.get(map.operand).copied().unwrap_or(0);
            KernelArg::TensorMap(tensor_map(map, address, sizes))
        }));
        let begin = Instant::now();
        let counters: Counters =
            self.device.launch(loaded.kernels[launch.kernel], &shape, &args)?;
        if self.profiling {
            self.device.synchronize()?;
        }
        self.profile.add(phase, &kernel.name, begin.elapsed(), counters);
        Ok(())
    }
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
        *to = dim.eval(sizes);
    }
    for (to, &stride) in tensor.strides.iter_mut().zip(&map.strides) {
        *to = stride;
    }
    for (to, &extent) in tensor.box_dims.iter_mut().zip(&map.box_dims) {
        *to = extent;
    }
    tensor
}

/// Buffers that are not the caller's.
fn fixed(buffer: Buffer, call: &Call, addresses: &Addresses) -> u64 {
    match buffer {
        Buffer::Workspace(i) => addresses.workspace[i],
        Buffer::Weight(i) => call.weights[i],
        Buffer::Cache(i) => call.caches[i],
        Buffer::Table(i) => call.tables[i],
        Buffer::Step(input) => addresses.step_inputs[number(input)],
        // `run_loaded` has resolved these.
        Buffer::Input(_) | Buffer::Output(_) => 0,
        // `load` has refused plans of several ranks.
        Buffer::Symmetric(_) | Buffer::Group => 0,
    }
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
