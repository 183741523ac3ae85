//! Executes plans in float64, kernel by kernel, as `moec_ir::kernel` documents them.
//!
//! Memory is a number for each byte: an element stands at its first byte, the bytes after it are
//! poison (NaN), and so is everything that nothing wrote. Overlaps of buffers that share memory,
//! wrong offsets and wrong types therefore show as NaN in the result.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

mod kernels;
mod routing;
mod scaled;

use moec_ir::graph::eval::Tensor;
use moec_ir::kernel::View;
use moec_ir::plan::PAGE_ROWS;
use moec_ir::plan::{Buffer, Launch, Operand, PlanFunction, StepInput, Table, Weight};
use moec_ir::{Dim, Plan, Sizes};
use std::collections::BTreeMap;

/// The numbers of a checkpoint's tensor, made from its name.
pub fn checkpoint(name: &str, elements: usize) -> Vec<f64> {
    let mut state = name.bytes().fold(7_u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    (0..elements)
        .map(|_| {
            // Knuth's MMIX generator.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1_u32 << 30) - 1.0
        })
        .collect()
}

/// A tensor's name for a layer and an expert.
pub fn fill(name: &str, layer: Option<u64>, expert: u64) -> String {
    let layer = layer.map(|l| l.to_string()).unwrap_or_default();
    name.replace("{i}", &layer).replace("{e}", &expert.to_string())
}

/// Bytes as numbers.
pub type Memory = Vec<f64>;

/// A step's tokens: sequence by sequence, in order.
pub struct Step {
    pub sizes: Sizes,
    pub inputs: BTreeMap<StepInput, Vec<f64>>,
}

impl Step {
    /// `past` tokens remembered and `new` tokens of each sequence, whose only cache pages are
    /// `pages`.
    pub fn new(past: &[usize], new: &[usize], pages: &[usize]) -> Self {
        let mut inputs: BTreeMap<StepInput, Vec<f64>> = BTreeMap::new();
        let mut push = |what: StepInput, value: usize| {
            inputs.entry(what).or_default().push(value as f64);
        };
        let mut before = 0;
        for (b, ((&past, &new), &page)) in past.iter().zip(new).zip(pages).enumerate() {
            assert!(past + new <= PAGE_ROWS as usize);
            let start = page * PAGE_ROWS as usize;
            for position in past..past + new {
                push(StepInput::Positions, position);
                push(StepInput::Sequences, b);
                push(StepInput::Slots, start + position);
            }
            (0..past + new).for_each(|row| push(StepInput::PastSlots, start + row));
            push(StepInput::CacheStart, b * PAGE_ROWS as usize);
            push(StepInput::CachePages, page);
            push(StepInput::PastStart, before);
            before += past + new;
        }
        let sizes = Sizes {
            tokens: new.iter().sum::<usize>() as u64,
            past: before as u64,
            sequences: new.len() as u64,
        };
        Self { sizes, inputs }
    }
}

/// The caches of every function and layer, which outlive steps and phases.
#[derive(Default)]
pub struct Caches(BTreeMap<(String, Option<u64>, usize), Memory>);

/// Cache rows that there are.
const SLOTS: u64 = 4 * PAGE_ROWS;

/// Runs an entry; inputs and outputs are dense.
pub fn run(
    plan: &Plan,
    entry: &str,
    step: &Step,
    inputs: &[Tensor],
    caches: &mut Caches,
) -> Vec<Tensor> {
    let entry = plan.entries.iter().find(|e| e.name == entry).expect("an entry");
    let storages = entry.values.iter().map(|v| v.storage + 1).max().unwrap_or(0);
    let mut memory: Vec<Memory> = vec![vec![]; storages];
    let size = |shape: &[Dim]| -> Vec<usize> {
        shape.iter().map(|d| d.eval(&step.sizes) as usize).collect()
    };
    for (value, tensor) in entry.inputs.iter().zip(inputs) {
        let value = &entry.values[value.0];
        memory[value.storage] = spread(&tensor.data, value.dtype.bytes());
    }
    for call in &entry.steps {
        let function = &plan.functions[call.function];
        let value = |v: &moec_ir::graph::ValueId| &entry.values[v.0];
        let given: Vec<Memory> =
            call.inputs.iter().map(|v| memory[value(v).storage].clone()).collect();
        let wanted = call.outputs.iter().map(|v| {
            size(&value(v).shape).iter().product::<usize>() * value(v).dtype.bytes() as usize
        });
        let outputs = wanted.map(|bytes| vec![f64::NAN; bytes]).collect();
        let frame = Frame { plan, function, step, layer: call.layer, given, outputs };
        for (v, made) in call.outputs.iter().zip(frame.run(caches)) {
            memory[value(v).storage] = made;
        }
    }
    entry
        .outputs
        .iter()
        .map(|v| {
            let value = &entry.values[v.0];
            let shape = size(&value.shape);
            let every = value.dtype.bytes() as usize;
            let count = shape.iter().product::<usize>();
            let data = (0..count).map(|i| memory[value.storage][i * every]).collect();
            Tensor { shape, data }
        })
        .collect()
}

/// Elements as memory.
fn spread(data: &[f64], bytes: u64) -> Memory {
    let poison = std::iter::repeat_n(f64::NAN, bytes as usize - 1);
    data.iter().flat_map(|v| std::iter::once(*v).chain(poison.clone())).collect()
}

/// A weight as the runtime would lay it out.
fn lay_out(weight: &Weight, layer: Option<u64>) -> Memory {
    let mut data = vec![];
    for expert in 0..weight.outer {
        for part in &weight.parts {
            let count = part.shape.iter().product::<u64>() as usize;
            let mut all = checkpoint(&fill(&part.tensor, layer, expert), count);
            if let Some(scale) = &part.scale {
                let blocks = scale.shape(&part.shape);
                let count = blocks.iter().product::<u64>() as usize;
                let name = fill(&scale.tensor, layer, expert);
                multiply(&mut all, &part.shape, &checkpoint(&name, count), scale.block);
            }
            if weight.outer > 1 && !part.tensor.contains("{e}") {
                let one = count / weight.outer as usize;
                data.extend_from_slice(&all[expert as usize * one..][..one]);
            } else {
                data.extend(all);
            }
        }
    }
    spread(&data, weight.dtype.bytes())
}

/// Multiplies the elements of matrices `[.., N, K]` by the scales of their blocks.
fn multiply(data: &mut [f64], shape: &[u64], scales: &[f64], block: [u64; 2]) {
    let [n, k] = [shape[shape.len() - 2], shape[shape.len() - 1]].map(|n| n as usize);
    let [rows, columns] = block.map(|n| n as usize);
    let across = k.div_ceil(columns);
    for (at, v) in data.iter_mut().enumerate() {
        let row = at / (n * k) * n.div_ceil(rows) + at / k % n / rows;
        *v *= scales[row * across + at % k / columns];
    }
}

/// One call of a function.
struct Frame<'a> {
    plan: &'a Plan,
    function: &'a PlanFunction,
    step: &'a Step,
    layer: Option<u64>,
    given: Vec<Memory>,
    outputs: Vec<Memory>,
}

impl Frame<'_> {
    fn run(self, caches: &mut Caches) -> Vec<Memory> {
        let Frame { plan, function, step, layer, given, outputs } = self;
        let mut memory: BTreeMap<Buffer, Memory> = BTreeMap::new();
        for (i, m) in given.into_iter().enumerate() {
            memory.insert(Buffer::Input(i), m);
        }
        let n_outputs = outputs.len();
        for (i, m) in outputs.into_iter().enumerate() {
            memory.insert(Buffer::Output(i), m);
        }
        for (i, bytes) in function.workspace.iter().enumerate() {
            let bytes = bytes.eval(&step.sizes) as usize;
            memory.insert(Buffer::Workspace(i), vec![f64::NAN; bytes]);
        }
        for (i, weight) in function.weights.iter().enumerate() {
            memory.insert(Buffer::Weight(i), lay_out(weight, layer));
        }
        for (i, Table::Rotary(rotary)) in function.tables.iter().enumerate() {
            let angles = (0..plan.context).flat_map(|p| {
                rotary.frequencies().into_iter().flat_map(move |f| {
                    let angle = p as f64 * f;
                    [angle.cos() * rotary.amplitude.0, angle.sin() * rotary.amplitude.0]
                })
            });
            memory.insert(Buffer::Table(i), spread(&angles.collect::<Vec<_>>(), 4));
        }
        for (what, data) in &step.inputs {
            memory.insert(Buffer::Step(*what), spread(data, 4));
        }
        let key = |i: usize| (function.name.clone(), layer, i);
        for (i, cache) in function.caches.iter().enumerate() {
            let bytes = (SLOTS * cache.row * cache.dtype.bytes()) as usize;
            let rows = caches.0.remove(&key(i)).unwrap_or_else(|| vec![f64::NAN; bytes]);
            memory.insert(Buffer::Cache(i), rows);
        }
        for launch in &function.launches {
            let mut access = Access { memory: &mut memory, launch, step };
            kernels::execute(&plan.kernels[launch.kernel].spec, &mut access);
        }
        for i in 0..function.caches.len() {
            caches.0.insert(key(i), memory.remove(&Buffer::Cache(i)).expect("a cache"));
        }
        (0..n_outputs).map(|i| memory.remove(&Buffer::Output(i)).expect("an output")).collect()
    }
}

/// What a kernel sees: operands by number.
pub struct Access<'a> {
    memory: &'a mut BTreeMap<Buffer, Memory>,
    launch: &'a Launch,
    step: &'a Step,
}

impl Access<'_> {
    /// Sizes of a view in this step.
    pub fn sizes(&self, view: &View) -> Vec<usize> {
        view.shape.iter().map(|d| d.eval(&self.step.sizes) as usize).collect()
    }

    fn byte(&self, operand: usize, elements: usize, bytes: u64) -> (Buffer, usize) {
        let Operand { buffer, offset } = &self.launch.operands[operand];
        (*buffer, offset.eval(&self.step.sizes) as usize + elements * bytes as usize)
    }

    /// An element of a view.
    pub fn get(&self, operand: usize, view: &View, index: &[usize]) -> f64 {
        let (buffer, at) = self.byte(operand, place(view, index), view.dtype.bytes());
        self.memory[&buffer][at]
    }

    /// Sets an element of a view.
    pub fn set(&mut self, operand: usize, view: &View, index: &[usize], value: f64) {
        let (buffer, at) = self.byte(operand, place(view, index), view.dtype.bytes());
        let memory = self.memory.get_mut(&buffer).expect("a buffer");
        memory[at] = value;
        memory[at + 1..at + view.dtype.bytes() as usize].fill(f64::NAN);
    }

    /// An element of an operand that has no view: 4 bytes each, dense.
    pub fn plain(&self, operand: usize, index: usize) -> f64 {
        let (buffer, at) = self.byte(operand, index, 4);
        self.memory[&buffer][at]
    }

    /// Sets an element of an operand that has no view.
    pub fn set_plain(&mut self, operand: usize, index: usize, value: f64) {
        let (buffer, at) = self.byte(operand, index, 4);
        let memory = self.memory.get_mut(&buffer).expect("a buffer");
        memory[at] = value;
        memory[at + 1..at + 4].fill(f64::NAN);
    }
}

fn place(view: &View, index: &[usize]) -> usize {
    assert_eq!(index.len(), view.strides.len(), "an index of the view's rank");
    index.iter().zip(&view.strides).map(|(i, s)| i * *s as usize).sum()
}
