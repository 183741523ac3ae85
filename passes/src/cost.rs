//! What a kernel costs on a target: a roofline by unit.
//!
//! Tensors are read and written once (caches within a launch are perfect, caches between launches
//! are not counted). Matrix products and attention run on tensor cores, tile by tile ([`product`],
//! [`attention`]); all else streams through CUDA cores ([`memory`]). Tokens that change ranks are
//! bound by links or by the SMs that move them ([`communication`]). What the units reach is in
//! [`machine`], every constant with its source; `docs/model-report.md` holds predictions against
//! published measurements. Not seen: hits in L2 between launches, overlap of launches.

mod attention;
mod communication;
mod estimate;
mod machine;
mod memory;
mod product;
mod spread;

pub use attention::Attention;
pub use communication::{Exchange, Traffic};
pub use estimate::Estimate;
pub use machine::{Load, Machine};
pub use memory::Stream;
pub use moec_ir::Transfer;
pub use product::{Product, Tiles};

use crate::language::{EGraph, Kernel, Node, Term, is_laid_out, packed_behind, rows};
use egg::Id;
use moec_ir::{DType, Dim, Op, Ranks, Sizes, Sym, TensorType};

/// float32 operations that a special function (`ex2`, `rcp`, a comparison chain) stands for.
const SPECIAL_FLOPS: f64 = 4.0;
/// Numbers of 16 bits that a float32 is multiplied as (`codegen/src/kernels/hopper/widened.rs`).
const TERMS_OF_F32: f64 = 3.0;
/// Products of those that a product of two is the sum of.
const PRODUCTS_OF_F32: f64 = 6.0;

/// What costs are weighed for.
#[derive(Clone, Debug)]
pub(crate) struct CostModel {
    /// The machine.
    pub(crate) machine: Machine,
    /// The step.
    pub(crate) sizes: Sizes,
    /// The ranks that share experts, where there are several.
    pub(crate) ranks: Option<Ranks>,
    /// FP8 products that tensor cores may sum ([`moec_ir::Graph::promote_every`]).
    pub(crate) promote_every: Option<u64>,
}

impl CostModel {
    /// What a copy of a tensor costs.
    pub(crate) fn copy(&self, ty: &TensorType) -> Estimate {
        self.stream(2.0 * self.bytes(ty), 0.0)
    }

    /// What bringing the chunks of an attention's result together costs.
    pub(crate) fn merge(&self, ty: &TensorType, chunks: u64) -> Estimate {
        let partial = chunks as f64 * self.elements(ty);
        let bytes = partial * DType::F32.bytes() as f64 + self.bytes(ty);
        self.stream(bytes, 2.0 * partial)
    }

    /// What a node of the e-graph costs: nothing for views and leaves, `None` for mathematics
    /// that no kernel computes as it stands.
    pub(crate) fn node(&self, egraph: &EGraph, class: Id, node: &Node) -> Option<Estimate> {
        match &node.term {
            Term::Kernel(kernel) if !writes_as_kept(egraph, kernel, &node.children) => None,
            Term::Kernel(kernel) => Some(self.kernel(egraph, class, kernel, &node.children)),
            Term::First | Term::Second { .. } => Some(Estimate::default()),
            // Its kernel counts what it has to write, and this may be left out.
            Term::Third => {
                let bytes = self.bytes(&egraph[class].data.ty);
                Some(Stream { bytes, ..Stream::default() }.estimate(&self.machine))
            }
            Term::Math(Op::Input(_) | Op::Param(_) | Op::Cache(_)) => Some(Estimate::default()),
            _ if is_laid_out(egraph, class, node) => Some(Estimate::default()),
            term if term.is_view() => Some(Estimate::default()),
            _ => None,
        }
    }

    fn stream(&self, bytes: f64, flops: f64) -> Estimate {
        Stream { bytes, flops, launches: 1.0 }.estimate(&self.machine)
    }

    fn size(&self, dim: &Dim) -> f64 {
        dim.eval(&self.sizes) as f64
    }

    fn elements(&self, ty: &TensorType) -> f64 {
        self.size(&ty.elements())
    }

    fn bytes(&self, ty: &TensorType) -> f64 {
        self.elements(ty) * ty.dtype.bytes() as f64
    }

    /// Bytes behind a value: a repeated tensor is read once, rows of a packed cache as they lie there.
    fn footprint(&self, egraph: &EGraph, id: Id) -> f64 {
        let class = &egraph[id];
        let repeated = class.nodes.iter().filter_map(|n| match n.term {
            Term::Math(Op::Broadcast(_)) if egraph.find(n.children[0]) != class.id => {
                Some(self.bytes(&egraph[n.children[0]].data.ty))
            }
            _ => None,
        });
        let bytes = repeated.fold(self.bytes(&class.data.ty), f64::min);
        let packed = packed_behind(egraph, id).and_then(|(packed, row)| {
            let unpacked = row.elements().constant()? * row.dtype.bytes();
            Some(packed.layout(row)?.bytes as f64 / unpacked as f64)
        });
        bytes * packed.unwrap_or(1.0)
    }

    fn kernel(&self, egraph: &EGraph, class: Id, kernel: &Kernel, operands: &[Id]) -> Estimate {
        let ty = |i: usize| &egraph[operands[i]].data.ty;
        let out = &egraph[class].data.ty;
        let read: f64 = operands.iter().map(|id| self.footprint(egraph, *id)).sum();
        let bytes = read + self.bytes(out);
        let streamed = |per_element: f64| self.stream(bytes, per_element * self.elements(out));
        // Elements and scales are both written.
        let quantized = |block: u64, functions: usize| {
            let scales = self.elements(out) / block as f64 * DType::F32.bytes() as f64;
            self.stream(bytes + scales, SPECIAL_FLOPS * functions as f64 * self.elements(out))
        };
        match kernel {
            Kernel::Gemm | Kernel::GemmAdd => {
                self.product(&rows(ty(0)), [ty(0), ty(1), out], bytes)
            }
            Kernel::HeadGemm => self.product(&ty(0).shape[0], [ty(0), ty(1), out], bytes),
            Kernel::GroupedGemm { top_k } => self.grouped([ty(0), ty(1), out], *top_k, bytes),
            Kernel::ScaledGemm { .. } | Kernel::ScaledGemmAdd { .. } => {
                let at_w = kernel.scaled(operands.len()).map_or(2, |at| at.w);
                self.product(&rows(ty(0)), [ty(0), ty(at_w), out], bytes)
            }
            Kernel::ScaledGroupedGemm { top_k, .. } => {
                let at_w = kernel.scaled(operands.len()).map_or(2, |at| at.w);
                self.grouped([ty(0), ty(at_w), out], *top_k, bytes)
            }
            Kernel::Quantize { block, .. } => quantized(*block, 1),
            Kernel::RmsNormQuantize { block, .. } => quantized(*block, 2),
            Kernel::PointwiseQuantize { code, block, .. } => quantized(*block, 1 + code.len()),
            Kernel::Attention { parts, .. } => self.attention(egraph, *parts, operands, out),
            Kernel::Pointwise(code) => streamed(SPECIAL_FLOPS * code.len() as f64),
            // Sum and norm are both written.
            Kernel::AddRmsNorm { sum, .. } => {
                let sums = self.elements(out) * sum.bytes() as f64;
                self.stream(bytes + sums, SPECIAL_FLOPS * self.elements(out))
            }
            // Only the rows looked up are read.
            Kernel::Gather => self.stream(2.0 * self.bytes(out) + self.bytes(ty(1)), 0.0),
            // Latent and key are read and written, once each.
            Kernel::AppendLatent { .. } => {
                let rows = self.bytes(ty(1)) + self.bytes(ty(3));
                let elements = self.elements(ty(1)) + self.elements(ty(3));
                self.stream(2.0 * rows + self.bytes(ty(2)), SPECIAL_FLOPS * elements)
            }
            Kernel::Scatter => self.stream(2.0 * self.bytes(ty(1)), 0.0),
            Kernel::Concat { .. } => {
                let launches = operands.len() as f64;
                Stream { bytes, flops: 0.0, launches }.estimate(&self.machine)
            }
            Kernel::TopK { k, .. } => {
                self.stream(bytes, SPECIAL_FLOPS * self.elements(ty(0)) * *k as f64)
            }
            // Experts and weights are both written.
            Kernel::Router(r) => {
                let weights = self.elements(out) * DType::F32.bytes() as f64;
                let compared = self.elements(ty(0)) * r.k as f64;
                self.stream(bytes + weights, SPECIAL_FLOPS * compared)
            }
            Kernel::SpreadExperts(spread) => self.spread_experts(egraph, spread, operands, out),
            Kernel::Combine => streamed(2.0 * self.size(&ty(0).shape[1])),
            Kernel::RoutePlan { .. }
            | Kernel::RmsNorm { .. }
            | Kernel::Reduce(_)
            | Kernel::Softmax
            | Kernel::Rotary(_)
            | Kernel::GatherPast
            | Kernel::Pick => streamed(SPECIAL_FLOPS),
        }
    }

    /// `rows` of `a` times `w`, a matrix or one of each head.
    fn product(&self, rows: &Dim, [a, w, c]: [&TensorType; 3], bytes: f64) -> Estimate {
        let [batch, matrix] = match w.shape.len() {
            3.. => [self.size(&w.shape[0]), self.elements(w) / self.size(&w.shape[0]).max(1.0)],
            _ => [1.0, self.elements(w)],
        };
        self.multiplied(batch, self.size(rows), matrix, [a, w, c], bytes)
    }

    /// Rows of tokens times the matrices of their experts.
    fn grouped(&self, [a, w, c]: [&TensorType; 3], top_k: u64, bytes: f64) -> Estimate {
        let [active, rows, idle] = self.routed(w, top_k);
        let matrix = self.elements(w) / self.size(&w.shape[0]).max(1.0);
        self.multiplied(active, rows, matrix, [a, w, c], bytes - idle)
    }

    /// Products on tensor cores: where the sum of FP8 products may not be left to those, or one
    /// factor is a float32, of several of 16 bits; of float32 and another type on CUDA cores.
    fn multiplied(
        &self,
        batch: f64,
        rows: f64,
        matrix: f64,
        [a, w, c]: [&TensorType; 3],
        bytes: f64,
    ) -> Estimate {
        let (element, terms) = match (a.dtype, w.dtype) {
            (DType::F32, DType::F8e4m3) => (2.0, TERMS_OF_F32),
            (DType::F32, DType::F32) => (2.0, PRODUCTS_OF_F32),
            (DType::F32, _) => return self.stream(bytes, 2.0 * batch * rows * matrix),
            (DType::F8e4m3, _) if self.promote_every == Some(1) => (2.0, 1.0),
            (other, _) => (other.bytes() as f64, 1.0),
        };
        let depth = w.shape.last().map_or(1.0, |k| self.size(k)).max(1.0);
        let (columns, result) = (matrix / depth, c.dtype.bytes() as f64);
        let depth = terms * depth;
        let product = Product { batch, rows, columns, depth, element, result, bytes };
        product.estimate(&self.machine, Tiles::OURS)
    }

    /// Of weights `[E, N, K]`: experts that are chosen, rows of each, and bytes of the others,
    /// which are not read.
    fn routed(&self, weights: &TensorType, top_k: u64) -> [f64; 3] {
        let experts = &weights.shape[0];
        let active = self.active_experts(experts, top_k);
        let pairs = self.size(&Sym::Tokens.into()) * top_k as f64;
        let matrix = self.bytes(weights) / self.size(experts).max(1.0);
        [active, pairs / active, self.bytes(weights) - active * matrix]
    }

    /// Experts that any token of the step chose, expected for even and independent choices.
    fn active_experts(&self, experts: &Dim, top_k: u64) -> f64 {
        let (experts, tokens) = (self.size(experts).max(1.0), self.size(&Sym::Tokens.into()));
        let idle = (1.0 - top_k as f64 / experts).max(0.0).powf(tokens);
        (experts * (1.0 - idle)).max(1.0)
    }

    /// A token sees the keys at or before it.
    fn attention(
        &self,
        egraph: &EGraph,
        parts: usize,
        operands: &[Id],
        out: &TensorType,
    ) -> Estimate {
        let ty = |i: usize| &egraph[operands[i]].data.ty;
        let sequences = self.size(&Sym::Sequences.into()).max(1.0);
        let tokens = self.size(&Sym::Tokens.into()) / sequences;
        let past = self.size(&Sym::Past.into()) / sequences;
        let head = |i: usize| self.size(&ty(i).shape[1]);
        let width = |i: usize| self.size(&ty(i).shape[2]);
        // Values that are a part of the keys, as in absorbed MLA, are read with them.
        let mut rows: Vec<Id> = operands[parts..].iter().map(|id| egraph.find(*id)).collect();
        rows.sort_unstable();
        rows.dedup();
        let read: f64 =
            operands[..parts].iter().chain(&rows).map(|id| self.footprint(egraph, *id)).sum();
        let attention = Attention {
            sequences,
            tokens,
            visible: (past - (tokens - 1.0) / 2.0).max(1.0),
            causal: true,
            heads: self.size(&out.shape[1]),
            key_heads: (parts..operands.len()).map(head).fold(1.0, f64::max),
            depth: (0..parts).map(width).sum(),
            value: width(operands.len() - 1),
            element: ty(0).dtype.bytes() as f64,
            bytes: read + self.bytes(out),
        };
        attention.estimate(&self.machine)
    }
}

/// Whether a kernel that writes to a cache writes rows as that keeps them.
fn writes_as_kept(egraph: &EGraph, kernel: &Kernel, operands: &[Id]) -> bool {
    let rounded = match kernel {
        Kernel::Scatter => None,
        Kernel::AppendLatent { rounded, .. } => *rounded,
        _ => return true,
    };
    let Some((packed, _)) = packed_behind(egraph, operands[0]) else { return true };
    rounded == Some((packed.block, packed.scales))
}
