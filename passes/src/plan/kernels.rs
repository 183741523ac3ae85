//! Each kernel of the e-graph as a kernel specification and its operands.

use super::emit::Emitter;
use super::place::{Place, Root};
use crate::language::{Kernel, rows};
use moec_ir::graph::Rotary;
use moec_ir::kernel::{KernelSpec, Quantized, Scalar, View};
use moec_ir::plan::{PAGE_ROWS, StepInput, Table};
use moec_ir::{DType, Diagnostic, Dim, Real, ScaleFormat, TensorType};

mod caches;
mod routing;
mod scaled;
mod spread;

/// Rows of a table whose length no plan knows: a cache.
const UNKNOWN_ROWS: u64 = i32::MAX as u64;

type Done = Result<(), Diagnostic>;

fn one() -> Dim {
    Dim::from(1)
}

/// `[R.., N]` as `[R, N]`.
fn as_rows(ty: &TensorType) -> Vec<Dim> {
    vec![rows(ty), ty.shape.last().cloned().unwrap_or_else(one)]
}

/// `[R.., N]` as `[1, R, N]`.
fn as_batch_of_one(ty: &TensorType) -> Vec<Dim> {
    [vec![one()], as_rows(ty)].concat()
}

/// `[R, N]` or `[R, H, N]` as `[R, H, N]`.
fn with_heads(ty: &TensorType) -> Vec<Dim> {
    match ty.shape.as_slice() {
        [_, _, _] => ty.shape.clone(),
        _ => {
            let flat = as_rows(ty);
            vec![flat[0].clone(), one(), flat[1].clone()]
        }
    }
}

fn step(input: StepInput) -> Place {
    Place {
        root: Root::Step(input),
        offset: 0,
        dtype: DType::I32,
        shape: vec![input.elements()],
        strides: vec![1],
    }
}

impl Emitter<'_> {
    /// Launches a kernel.
    pub(super) fn kernel(&mut self, value: usize, kernel: &Kernel, operands: &[usize]) -> Done {
        match kernel {
            Kernel::Gemm | Kernel::GemmAdd => self.gemm(value, operands),
            Kernel::HeadGemm => self.head_gemm(value, operands),
            Kernel::GroupedGemm { top_k } => self.grouped_gemm(value, *top_k, operands),
            Kernel::Quantize { block, scales } => self.quantize(value, *block, *scales, operands),
            Kernel::RmsNormQuantize { eps, block, scales } => {
                self.rms_norm_quantize(value, *eps, (*block, *scales), operands)
            }
            Kernel::PointwiseQuantize { code, block, scales } => {
                self.pointwise_quantize(value, code, (*block, *scales), operands)
            }
            Kernel::ScaledGemm { .. } | Kernel::ScaledGemmAdd { .. } => {
                self.scaled_gemm(value, kernel, operands)
            }
            Kernel::ScaledGroupedGemm { .. } => self.scaled_grouped_gemm(value, kernel, operands),
            Kernel::RoutePlan { n_experts } => self.route_plan(value, *n_experts, operands),
            Kernel::Router(router) => self.router(value, router, operands),
            Kernel::Combine => self.combine(value, operands),
            Kernel::SpreadExperts(spread) => self.spread_experts(value, spread, operands),
            Kernel::RmsNorm { eps } => self.rms_norm(value, *eps, operands),
            Kernel::AddRmsNorm { eps, .. } => self.add_rms_norm(value, *eps, operands),
            Kernel::Pointwise(code) => self.pointwise(value, code, operands),
            Kernel::Attention { parts, cached, scale } => {
                self.attention(value, *parts, *cached, *scale, operands)
            }
            Kernel::Gather => self.lookup(value, operands),
            Kernel::Scatter => self.scatter(value, operands),
            Kernel::AppendLatent { eps, rotary, rounded } => {
                self.append_latent(value, *eps, *rotary, *rounded, operands)
            }
            Kernel::GatherPast => self.gather_past(value, operands),
            Kernel::Concat { axis } => self.concat(value, *axis, operands),
            Kernel::Reduce(_)
            | Kernel::Softmax
            | Kernel::Rotary(_)
            | Kernel::TopK { .. }
            | Kernel::Pick => self.row_kernel(value, kernel, operands),
        }
    }

    fn gemm(&mut self, value: usize, operands: &[usize]) -> Done {
        let a = self.operand(operands[0], &as_batch_of_one(&self.ty(operands[0]).clone()))?;
        let w = self.operand(operands[1], &as_batch_of_one(&self.ty(operands[1]).clone()))?;
        let shape = as_batch_of_one(&self.ty(value).clone());
        let add = operands.get(2).map(|r| self.operand(*r, &shape)).transpose()?;
        let c = self.target(value, &shape)?;
        let spec = KernelSpec::Gemm {
            a: a.view(),
            w: w.view(),
            add: add.as_ref().map(Place::view),
            c: c.view(),
        };
        let places: Vec<&Place> = [&a, &w].into_iter().chain(&add).chain([&c]).collect();
        self.launch(value, spec, &places);
        self.written(value)
    }

    /// The heads are the batch: `[R, H, K]` is read as `[H, R, K]`.
    fn head_gemm(&mut self, value: usize, operands: &[usize]) -> Done {
        let by_head = [1, 0, 2];
        let x = self.place(operands[0])?;
        let heads = self.ty(operands[1]).shape[0].clone();
        let shape = vec![x.shape[0].clone(), heads, x.shape[2].clone()];
        let a = x.broadcast(&shape).transpose(&by_head);
        let w = self.place(operands[1])?;
        let c = self.target(value, &self.ty(value).shape.clone())?.transpose(&by_head);
        let spec = KernelSpec::Gemm { a: a.view(), w: w.view(), add: None, c: c.view() };
        self.launch(value, spec, &[&a, &w, &c]);
        self.written(value)
    }

    /// What experts read, as `[T, k or 1, K]`.
    fn routed_rows(&mut self, value: usize) -> Result<Place, Diagnostic> {
        let ty = self.ty(value);
        let shape = match ty.shape.as_slice() {
            [tokens, k] => vec![tokens.clone(), one(), k.clone()],
            _ => ty.shape.clone(),
        };
        self.operand(value, &shape)
    }

    fn grouped_gemm(&mut self, value: usize, top_k: u64, operands: &[usize]) -> Done {
        let a = self.routed_rows(operands[0])?;
        let w = self.place(operands[1])?;
        let route = self.dense_operand(operands[2])?;
        let c = self.target(value, &self.ty(value).shape.clone())?;
        let spec = KernelSpec::GroupedGemm { a: a.view(), w: w.view(), c: c.view(), top_k };
        self.launch(value, spec, &[&a, &w, &route, &c]);
        self.written(value)
    }

    fn combine(&mut self, value: usize, operands: &[usize]) -> Done {
        let places: Vec<Place> =
            operands.iter().map(|o| self.place(*o)).collect::<Result<_, _>>()?;
        let out = self.target(value, &self.ty(value).shape.clone())?;
        let spec = KernelSpec::Combine {
            y: places[0].view(),
            weight: places[1].view(),
            adds: places[2..].iter().map(Place::view).collect(),
            out: out.view(),
        };
        let all: Vec<&Place> = places.iter().chain([&out]).collect();
        self.launch(value, spec, &all);
        self.written(value)
    }

    fn rms_norm(&mut self, value: usize, eps: Real, operands: &[usize]) -> Done {
        let shape = with_heads(self.ty(value));
        let x = self.operand(operands[0], &shape)?;
        let weight = self.place(operands[1])?;
        let out = self.target(value, &shape)?;
        let (x_view, w_view) = (x.view(), weight.view());
        let spec =
            KernelSpec::RmsNorm { x: x_view, residual: None, weight: w_view, out: out.view(), eps };
        self.launch(value, spec, &[&x, &weight, &out]);
        self.written(value)
    }

    /// One launch writes two values, which stand later in the list.
    fn add_rms_norm(&mut self, value: usize, eps: Real, operands: &[usize]) -> Done {
        let shape = with_heads(self.ty(value));
        let x = self.operand(operands[0], &shape)?;
        let residual = self.operand(operands[1], &shape)?;
        let weight = self.place(operands[2])?;
        let [normed, summed, _] = self.results(value);
        let sum = match summed {
            Some(summed) => self.target(summed, &shape)?,
            None => {
                let ty = TensorType::new(x.dtype.promote(residual.dtype), shape.iter().cloned());
                self.temp(&ty, value)?
            }
        };
        let out = self.target(normed.unwrap_or(value), &shape)?;
        let spec = KernelSpec::RmsNorm {
            x: x.view(),
            residual: Some((residual.view(), sum.view())),
            weight: weight.view(),
            out: out.view(),
            eps,
        };
        self.launch(value, spec, &[&x, &residual, &sum, &weight, &out]);
        for written in summed.into_iter().chain(normed) {
            self.written(written)?;
        }
        Ok(())
    }

    fn pointwise(&mut self, value: usize, code: &[Scalar], operands: &[usize]) -> Done {
        let shape = self.ty(value).shape.clone();
        let inputs: Vec<Place> = operands
            .iter()
            .map(|o| self.place(*o).map(|p| p.broadcast(&shape)))
            .collect::<Result<_, _>>()?;
        let out = self.target(value, &shape)?;
        let inputs: Vec<&Place> = inputs.iter().collect();
        let spec = pointwise(&inputs, &out, code.to_vec());
        let all: Vec<&Place> = inputs.into_iter().chain([&out]).collect();
        self.launch(value, spec, &all);
        self.written(value)
    }

    fn attention(
        &mut self,
        value: usize,
        parts: usize,
        cached: bool,
        scale: Real,
        operands: &[usize],
    ) -> Done {
        let mut places: Vec<Place> =
            operands.iter().map(|o| self.place(*o)).collect::<Result<_, _>>()?;
        let quantized = match cached {
            true => self.unpacked(value, parts, &mut places)?,
            false => None,
        };
        let out = self.target(value, &self.ty(value).shape.clone())?;
        let mut views: Vec<View> = places.iter().map(Place::view).collect();
        if cached {
            // The rows of a cache lie anywhere in it, not in the first `S`.
            views[parts..].iter_mut().for_each(|view| view.shape[0] = UNKNOWN_ROWS.into());
        }
        let (keys, values) = (&places[parts], &places[2 * parts]);
        let values_in_keys = keys == values;
        let chunks = match cached && values_in_keys {
            true => self.chunks(&out.shape),
            false => 1,
        };
        let partial = match chunks {
            1 => None,
            _ => {
                let [tokens, heads, size] = [0, 1, 2].map(|axis| out.shape[axis].clone());
                let of_chunks = [tokens, chunks.into(), heads, size];
                let mut temp = |shape: &[Dim]| {
                    self.temp(&TensorType::new(DType::F32, shape.iter().cloned()), value)
                };
                Some([temp(&of_chunks)?, temp(&of_chunks[..3])?])
            }
        };
        let (written, log_sums) = match &partial {
            Some([partial, log_sums]) => (partial, Some(log_sums)),
            None => (&out, None),
        };
        let spec = KernelSpec::Attention {
            q: views[..parts].to_vec(),
            k: views[parts..2 * parts].to_vec(),
            v: views[2 * parts].clone(),
            out: written.view(),
            scale,
            page: cached.then_some(PAGE_ROWS),
            values_in_keys,
            quantized: quantized.as_ref().map(|(scale, block, format)| Quantized {
                scale: scale.view(),
                block: *block,
                format: *format,
            }),
            log_sums: log_sums.map(Place::view),
        };
        let starts: &[_] = match cached {
            true => &[StepInput::CacheStart, StepInput::CachePages],
            false => &[StepInput::PastStart],
        };
        let steps = [StepInput::Positions, StepInput::Sequences].iter().chain(starts);
        let steps: Vec<Place> = steps.copied().map(step).collect();
        let results = [written].into_iter().chain(log_sums);
        let scale = quantized.as_ref().map(|(scale, ..)| scale);
        let all: Vec<&Place> = places.iter().chain(scale).chain(&steps).chain(results).collect();
        self.launch(value, spec, &all);
        if let Some([partial, log_sums]) = &partial {
            let spec = KernelSpec::AttentionMerge {
                partial: partial.view(),
                log_sums: log_sums.view(),
                out: out.view(),
            };
            let merge = self.cost.merge(self.ty(value), chunks);
            self.launch_at(merge, value, spec, &[partial, log_sums, &out]);
        }
        self.written(value)
    }

    /// Keys and values of a packed cache where they lie there, the latent first; and its scales,
    /// their block and format. `None` where the cache is not packed.
    fn unpacked(
        &self,
        value: usize,
        parts: usize,
        places: &mut [Place],
    ) -> Result<Option<(Place, u64, ScaleFormat)>, Diagnostic> {
        let Some(packed) = self.packed_behind(&places[2 * parts]) else { return Ok(None) };
        let mut first = None;
        for (at, place) in places.iter_mut().enumerate().skip(parts) {
            let (seen, is_latent) = packed.seen(place).ok_or_else(|| self.no_layout(value))?;
            *place = seen;
            match (is_latent, at == 2 * parts) {
                (true, false) if first.is_none() => first = Some(at - parts),
                (false, false) | (true, true) => {}
                // Values that are keys, or a latent twice.
                _ => return Err(self.no_layout(value)),
            }
        }
        let first = first.ok_or_else(|| self.no_layout(value))?;
        places.swap(0, first);
        places.swap(parts, parts + first);
        Ok(Some(packed.quantized()))
    }

    /// Into how many chunks the keys of attention to a latent are divided: as many as leave no SM
    /// without work, as far as chunks do not become too short.
    fn chunks(&self, out: &[Dim]) -> u64 {
        /// Heads of a CTA: rows of one `wgmma` (PTX ISA 9.7.15).
        const HEADS: u64 = 64;
        /// Fewer keys move fewer bytes than the queries and results of a chunk: for V3, 512 of
        /// 1,152 bytes against 64 heads of 1,152 and 2,048.
        const FEWEST: u64 = 512;
        /// Heads from which on keys are read for a block of heads at once; of fewer, warps of a CTA
        /// divide the keys already.
        const SHARING: u64 = 16;
        let sizes = &self.cost.sizes;
        let [tokens, heads] = [0, 1].map(|axis| out[axis].eval(sizes).max(1));
        if heads < SHARING {
            return 1;
        }
        let blocks = tokens * heads.div_ceil(HEADS);
        let keys = sizes.past / sizes.sequences.max(1);
        (u64::from(self.cost.machine.target.sms) / blocks).min(keys / FEWEST).max(1)
    }

    fn lookup(&mut self, value: usize, operands: &[usize]) -> Done {
        let table = self.ty(operands[0]).clone();
        let row = Dim::product(&table.shape[1..]);
        let table = self.operand(operands[0], &[table.shape[0].clone(), row.clone()])?;
        let index = self.dense_operand(operands[1])?;
        let n_rows = self.ty(operands[1]).elements();
        let out = self.target(value, &[n_rows, row])?;
        let spec = KernelSpec::Gather { table: table.view(), out: out.view() };
        self.launch(value, spec, &[&table, &index, &out]);
        self.written(value)
    }

    /// Copies the pieces that their kernels could not write in place.
    fn concat(&mut self, value: usize, axis: usize, operands: &[usize]) -> Done {
        let whole = self.target(value, &self.ty(value).shape.clone())?;
        let mut start = 0;
        for &piece in operands {
            let len = self.ty(piece).shape[axis].constant().ok_or_else(|| self.no_layout(piece))?;
            let to = whole.slice(axis, start, len);
            let from = self.place(piece)?;
            if from != to {
                self.copy(&from, &to, piece);
            }
            start += len;
        }
        self.written(value)
    }

    /// The table of a rotation.
    fn turns(&mut self, rotary: Rotary) -> Place {
        let root = Root::Table(self.table(Table::Rotary(rotary)));
        Place { root, ..step(StepInput::Positions) }
    }

    /// Kernels that take rows and give rows.
    fn row_kernel(&mut self, value: usize, kernel: &Kernel, operands: &[usize]) -> Done {
        let input = self.ty(operands[0]).clone();
        if let Kernel::Rotary(rotary) = kernel {
            let shape = with_heads(&input);
            let x = self.operand(operands[0], &shape)?;
            let out = self.target(value, &shape)?;
            let table = self.turns(*rotary);
            let spec = KernelSpec::Rotary {
                x: x.view(),
                out: out.view(),
                interleaved: rotary.interleaved,
            };
            self.launch(value, spec, &[&x, &table, &step(StepInput::Positions), &out]);
            return self.written(value);
        }
        let x = self.operand(operands[0], &as_rows(&input))?;
        let chosen = operands.get(1).map(|o| self.place(*o)).transpose()?;
        let out = self.target(value, &as_rows(&self.ty(value).clone()))?;
        let (x_view, out_view) = (x.view(), out.view());
        let spec = match kernel {
            Kernel::Reduce(f) => KernelSpec::Reduce { x: x_view, out: out_view, f: *f },
            Kernel::TopK { groups, .. } => {
                KernelSpec::TopK { scores: x_view, chosen: out_view, groups: *groups }
            }
            Kernel::Pick => {
                let chosen = chosen.as_ref().map_or_else(|| out.view(), Place::view);
                KernelSpec::Pick { x: x_view, chosen, out: out_view }
            }
            _ => KernelSpec::Softmax { x: x_view, out: out_view },
        };
        let places: Vec<&Place> = [&x].into_iter().chain(&chosen).chain([&out]).collect();
        self.launch(value, spec, &places);
        self.written(value)
    }
}

/// A pointwise kernel over as few axes as the strides of all tensors allow.
pub(super) fn pointwise(inputs: &[&Place], out: &Place, code: Vec<Scalar>) -> KernelSpec {
    let tensors: Vec<&Place> = inputs.iter().copied().chain([out]).collect();
    let mut shape: Vec<Dim> = vec![];
    let mut strides: Vec<Vec<u64>> = vec![vec![]; tensors.len()];
    for axis in 0..out.shape.len() {
        let size = &out.shape[axis];
        if size.is_one() {
            continue;
        }
        let joins = size.constant().is_some_and(|n| {
            !shape.is_empty()
                && tensors
                    .iter()
                    .zip(&strides)
                    .all(|(t, s)| s.last().copied() == t.strides[axis].checked_mul(n))
        });
        match shape.last_mut().filter(|_| joins) {
            Some(last) => *last = last.clone() * size.clone(),
            None => shape.push(size.clone()),
        }
        for (tensor, own) in tensors.iter().zip(&mut strides) {
            if joins {
                own.pop();
            }
            own.push(tensor.strides[axis]);
        }
    }
    if shape.is_empty() {
        shape.push(one());
        strides.iter_mut().for_each(|s| s.push(0));
    }
    let mut views: Vec<View> = tensors
        .iter()
        .zip(strides)
        .map(|(t, strides)| View { shape: shape.clone(), strides, ..t.view() })
        .collect();
    let out = views.pop().unwrap_or_else(|| out.view());
    KernelSpec::Pointwise { inputs: views, out, code }
}
