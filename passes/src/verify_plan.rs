//! Checks that a plan is sound; run after every plan construction.
//!
//! Holds afterwards: indices are in range, every operand lies within its buffer, every buffer is
//! written before it is read, outputs are written, and nothing writes to inputs, weights or
//! tables. Sizes that stay symbolic are compared at some steps of different shapes. Not seen:
//! races within a kernel, and rows of caches (no plan knows how many there are).

use moec_ir::kernel::exchange::Region;
use moec_ir::kernel::{Exchange, KernelSpec, SpreadExperts, View};
use moec_ir::plan::{Buffer, Launch, Operand, PlanFunction};
use moec_ir::{Dim, Plan, Sizes};
use std::collections::BTreeSet;

/// Steps at which symbolic sizes are compared: one token, a ragged batch, prefill, decode.
const SAMPLES: [Sizes; 4] = [
    Sizes { tokens: 1, past: 1, sequences: 1 },
    Sizes { tokens: 7, past: 61, sequences: 3 },
    Sizes { tokens: 4096, past: 4096, sequences: 1 },
    Sizes { tokens: 128, past: 524_288, sequences: 128 },
];

/// Everything that is wrong with a plan, one sentence each; empty where it is sound.
pub fn verify_plan(plan: &Plan) -> Vec<String> {
    let mut faults = vec![];
    for function in &plan.functions {
        let mut checker = Checker { plan, function, written: BTreeSet::new(), faults: vec![] };
        for (at, launch) in function.launches.iter().enumerate() {
            checker.launch(at, launch);
        }
        checker.outputs();
        faults.extend(checker.faults.into_iter().map(|f| format!("`{}`: {f}", function.name)));
    }
    for entry in &plan.entries {
        for (at, step) in entry.steps.iter().enumerate() {
            let known = |v: &moec_ir::graph::ValueId| v.0 < entry.values.len();
            let in_range = step.function < plan.functions.len()
                && step.inputs.iter().chain(&step.outputs).all(known);
            if !in_range {
                faults.push(format!("entry `{}`, step {at} is out of range", entry.name));
                continue;
            }
            let storage = |v: &moec_ir::graph::ValueId| entry.values[v.0].storage;
            if step.outputs.iter().any(|o| step.inputs.iter().any(|i| storage(i) == storage(o))) {
                faults.push(format!(
                    "entry `{}`, step {at} writes to the memory of its inputs",
                    entry.name
                ));
            }
        }
    }
    faults
}

/// What a kernel does with one operand.
struct Access<'a> {
    view: Option<&'a View>,
    /// Elements and their bytes, where the operand has no view.
    plain: Option<(Dim, u64)>,
    writes: bool,
}

/// Which operands a kernel writes, in its order.
pub(crate) fn writes(spec: &KernelSpec) -> Vec<bool> {
    accesses(spec).iter().map(|access| access.writes).collect()
}

/// The operands of a kernel, in its order.
fn accesses(spec: &KernelSpec) -> Vec<Access<'_>> {
    let read = |view| Access { view: Some(view), plain: None, writes: false };
    let write = |view| Access { view: Some(view), plain: None, writes: true };
    let step = || Access { view: None, plain: None, writes: false };
    let index = |n: Dim| Access { view: None, plain: Some((n, 4)), writes: false };
    let region = |exchange: &Exchange, region| {
        let bytes = exchange.region_bytes(region);
        Access { view: None, plain: Some((bytes, 1)), writes: true }
    };
    match spec {
        KernelSpec::Gemm { a, w, add, c } => {
            [read(a), read(w)].into_iter().chain(add.iter().map(read)).chain([write(c)]).collect()
        }
        KernelSpec::GroupedGemm { a, w, c, top_k } => {
            let pairs = c.shape[0].clone() * *top_k;
            let route = index(w.shape[0].clone() + Dim::from(1) + pairs);
            vec![read(a), read(w), route, write(c)]
        }
        KernelSpec::Quantize { x, q, scale, .. }
        | KernelSpec::QuantizeTransposed { x, q, scale, .. } => {
            vec![read(x), write(q), write(scale)]
        }
        KernelSpec::ScaledGemm { a, a_scale, w, w_scale, add, c, .. } => {
            let factors = [a].into_iter().chain(a_scale).chain([w, w_scale]);
            factors.chain(add).map(read).chain([write(c)]).collect()
        }
        KernelSpec::ScaledGroupedGemm { a, a_scale, w, w_scale, c, top_k, .. } => {
            let pairs = c.shape[0].clone() * *top_k;
            let route = index(w.shape[0].clone() + Dim::from(1) + pairs);
            let factors = [a].into_iter().chain(a_scale).chain([w, w_scale]).map(read);
            factors.chain([route, write(c)]).collect()
        }
        KernelSpec::MaskedGemm { a, w, c, .. } => {
            vec![read(a), read(w), index(w.shape[0].clone()), write(c)]
        }
        KernelSpec::ScaledMaskedGemm { a, a_scale, w, w_scale, c, .. } => {
            let factors = [a, a_scale, w, w_scale].into_iter().map(read);
            factors.chain([index(w.shape[0].clone()), write(c)]).collect()
        }
        KernelSpec::WeightGradient { dy, dy_scale, x, x_scale, dw, grouped, .. } => {
            let factors = [dy, dy_scale, x, x_scale].into_iter().map(read);
            let ranges = grouped.then(|| index(dw.shape[0].clone() * 2));
            factors.chain(ranges).chain([write(dw)]).collect()
        }
        KernelSpec::RoutePlan { chosen, n_experts } => {
            let route = Dim::product(&chosen.shape) + Dim::from(n_experts + 1);
            vec![read(chosen), Access { writes: true, ..index(route) }]
        }
        KernelSpec::ExchangeRoutes { exchange, chosen, weight } => {
            let regions = [Region::Routes, Region::Chosen].map(|r| region(exchange, r));
            [read(chosen), read(weight), step()].into_iter().chain(regions).collect()
        }
        KernelSpec::SpreadExperts(experts) => {
            let SpreadExperts { exchange, x, x_scale, chosen, weight, first, second, .. } =
                &**experts;
            let rows = [x].into_iter().chain(x_scale).chain([chosen, weight]);
            let matrices =
                [first, second].into_iter().flat_map(|m| [&m.w].into_iter().chain(&m.scale));
            let reads = rows.chain(matrices).chain(&experts.adds).map(read);
            let regions = Region::ALL.map(|r| region(exchange, r));
            reads.chain([write(&experts.out), step()]).chain(regions).collect()
        }
        KernelSpec::Combine { y, weight, adds, out } => {
            let adds = adds.iter().map(read);
            [read(y), read(weight)].into_iter().chain(adds).chain([write(out)]).collect()
        }
        KernelSpec::RmsNorm { x, residual, weight, out, .. } => {
            let residual = residual.iter().flat_map(|(r, s)| [read(r), write(s)]);
            [read(x)].into_iter().chain(residual).chain([read(weight), write(out)]).collect()
        }
        KernelSpec::Pointwise { inputs, out, .. } => {
            inputs.iter().map(read).chain([write(out)]).collect()
        }
        KernelSpec::RmsNormQuantize { x, residual, weight, out, q, scale, .. } => {
            let residual = residual.iter().flat_map(|(r, s)| [read(r), write(s)]);
            let results = out.iter().chain([q, scale]).map(write);
            [read(x)].into_iter().chain(residual).chain([read(weight)]).chain(results).collect()
        }
        KernelSpec::PointwiseQuantize { inputs, out, q, scale, .. } => {
            let results = out.iter().chain([q, scale]).map(write);
            inputs.iter().map(read).chain(results).collect()
        }
        KernelSpec::Reduce { x, out, .. } | KernelSpec::Softmax { x, out } => {
            vec![read(x), write(out)]
        }
        KernelSpec::Rotary { x, out, .. } => vec![read(x), step(), step(), write(out)],
        KernelSpec::Gather { table, out } => {
            vec![read(table), index(out.shape[0].clone()), write(out)]
        }
        KernelSpec::Scatter { x, table } => {
            vec![read(x), index(x.shape[0].clone()), write(table)]
        }
        KernelSpec::AppendLatent { latent, weight, key, cache, packed, .. } => {
            let slots = index(latent.shape[0].clone());
            let read = [read(latent), read(weight), read(key), step(), step(), slots, write(cache)];
            let packed = packed.iter().flat_map(|p| [write(&p.scale), write(&p.key)]);
            read.into_iter().chain(packed).collect()
        }
        KernelSpec::GatherLatent { latent, packed, out, .. } => {
            let rows = [read(latent), read(&packed.scale), read(&packed.key)];
            rows.into_iter().chain([index(out.shape[0].clone()), write(out)]).collect()
        }
        KernelSpec::Attention { q, k, v, out, page, quantized, log_sums, .. } => {
            let scale = quantized.iter().map(|quantized| read(&quantized.scale));
            let rows = q.iter().chain(k).chain([v]).map(read).chain(scale);
            let steps = 3 + usize::from(page.is_some());
            let results = [out].into_iter().chain(log_sums).map(write);
            rows.chain((0..steps).map(|_| step())).chain(results).collect()
        }
        KernelSpec::AttentionMerge { partial, log_sums, out } => {
            vec![read(partial), read(log_sums), write(out)]
        }
        KernelSpec::TopK { scores, chosen, .. } => vec![read(scores), write(chosen)],
        KernelSpec::Router { logits, bias, chosen, weight, .. } => {
            let reads = [logits].into_iter().chain(bias).map(read);
            reads.chain([write(chosen), write(weight)]).collect()
        }
        KernelSpec::Pick { x, chosen, out } => vec![read(x), read(chosen), write(out)],
    }
}

struct Checker<'a> {
    plan: &'a Plan,
    function: &'a PlanFunction,
    written: BTreeSet<Buffer>,
    faults: Vec<String>,
}

impl Checker<'_> {
    fn launch(&mut self, at: usize, launch: &Launch) {
        let Some(kernel) = self.plan.kernels.get(launch.kernel) else {
            self.faults.push(format!("launch {at} runs a kernel that does not exist"));
            return;
        };
        let accesses = accesses(&kernel.spec);
        let place = format!("launch {at} ({})", kernel.name);
        if accesses.len() != launch.operands.len() {
            self.faults.push(format!(
                "{place} has {} operands; its kernel takes {}",
                launch.operands.len(),
                accesses.len()
            ));
            return;
        }
        let both = || accesses.iter().zip(&launch.operands).enumerate();
        for (i, (access, operand)) in both() {
            if let Some(fault) = self.check(access, operand) {
                self.faults.push(format!("{place}, operand {i}: {fault}"));
            }
        }
        for (_, (access, operand)) in both() {
            if access.writes {
                self.written.insert(operand.buffer);
            }
        }
    }

    fn check(&self, access: &Access<'_>, operand: &Operand) -> Option<String> {
        let buffer = operand.buffer;
        let writable =
            matches!(buffer, Buffer::Output(_) | Buffer::Workspace(_) | Buffer::Cache(_));
        let writable = writable || matches!(buffer, Buffer::Symmetric(_));
        if access.writes && !writable {
            return Some(format!("writes to {buffer:?}"));
        }
        let made_here = matches!(buffer, Buffer::Output(_) | Buffer::Workspace(_));
        if !access.writes && made_here && !self.written.contains(&buffer) {
            return Some(format!("reads {buffer:?} before anything is written there"));
        }
        if let Some(view) = access.view {
            if view.shape.len() != view.strides.len() {
                return Some("has a view of as many sizes as strides".into());
            }
            let offset = operand.offset.constant().unwrap_or(1);
            if !offset.is_multiple_of(view.align) {
                return Some(format!("is not aligned to {} bytes", view.align));
            }
        }
        SAMPLES.iter().find_map(|sizes| {
            let (need, have) = (extent(access, sizes)?, self.size(buffer, sizes)?);
            let end = operand.offset.eval(sizes) + need;
            (end > have).then(|| format!("ends at byte {end} of {have} of {buffer:?} ({sizes:?})"))
        })
    }

    /// Bytes of a buffer; `None` where the plan does not say.
    fn size(&self, buffer: Buffer, sizes: &Sizes) -> Option<u64> {
        match buffer {
            Buffer::Workspace(i) => Some(self.function.workspace.get(i)?.eval(sizes)),
            Buffer::Weight(i) => {
                let weight = self.function.weights.get(i)?;
                let one = |p: &moec_ir::plan::WeightPart| {
                    let elements: u64 = p.shape.iter().product();
                    match p.tensor.contains("{e}") {
                        true => elements * weight.outer,
                        // Of a tensor of all experts a rank has its own.
                        false if weight.spread => elements / p.shape[0].max(1) * weight.outer,
                        false => elements,
                    }
                };
                Some(weight.parts.iter().map(one).sum::<u64>() * weight.dtype.bytes())
            }
            Buffer::Step(s) => Some(s.elements().eval(sizes) * 4),
            Buffer::Symmetric(i) => Some(self.plan.symmetric.get(i)?.bytes.eval(sizes)),
            Buffer::Input(_)
            | Buffer::Output(_)
            | Buffer::Cache(_)
            | Buffer::Table(_)
            | Buffer::Group => None,
        }
    }

    fn outputs(&mut self) {
        let written = |i: usize| self.written.contains(&Buffer::Output(i));
        let calls = self.plan.entries.iter().flat_map(|e| &e.steps);
        let own = calls.filter(|s| {
            self.plan.functions.get(s.function).is_some_and(|f| f.name == self.function.name)
        });
        let expected = own.map(|s| s.outputs.len()).max().unwrap_or(0);
        let missing: Vec<usize> = (0..expected).filter(|i| !written(*i)).collect();
        if !missing.is_empty() {
            self.faults.push(format!("outputs {missing:?} are never written"));
        }
    }
}

/// Bytes from an operand's address to the end of what the kernel touches.
fn extent(access: &Access<'_>, sizes: &Sizes) -> Option<u64> {
    if let Some((elements, bytes)) = &access.plain {
        return Some(elements.eval(sizes) * bytes);
    }
    let view = access.view?;
    let mut last = 0;
    for (size, stride) in view.shape.iter().zip(&view.strides) {
        last += size.eval(sizes).checked_sub(1)? * stride;
    }
    Some((last + 1) * view.dtype.bytes())
}
