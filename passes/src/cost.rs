//! What a kernel costs on a target: a roofline.
//!
//! A launch takes the launch interval plus the longer of moving its bytes and computing its
//! FLOPs. Tensors are read and written once (caches within a launch are perfect, caches between
//! launches are not counted), matrix products run on tensor cores in tiles of 64 rows, and all
//! else on CUDA cores. Not seen: waves, bank conflicts, L2 hits between launches, overlap.

use crate::language::{EGraph, Kernel, Node, Term, is_laid_out, rows};
use egg::Id;
use moec_ir::{DType, Dim, Op, Sizes, Sym, Target, TensorType};

/// Share of the HBM peak that streaming kernels reach: between FlashMLA's 3,000 GB/s of 3,350
/// in decoding and the 1,700 to 2,400 GB/s of element-wise kernels in DeepSeek's published
/// training profile.
const HBM_SHARE: f64 = 0.75;
/// Share of the tensor-core peak that matrix kernels reach: FlashMLA's 660 TFLOP/s of 989.
const TENSOR_SHARE: f64 = 0.67;
/// Share of the CUDA cores' peak: element-wise code is about half fused multiply-adds.
const SCALAR_SHARE: f64 = 0.5;
/// Rows of one `wgmma` (PTX ISA 9.7.15: `.m64nNkK`); fewer cost as much.
const TILE_ROWS: f64 = 64.0;
/// FP8 products for one in bf16: the rate of `wgmma` doubles (NVIDIA H100 whitepaper, table 2).
const FP8_RATE: f64 = 2.0;
/// float32 operations that a special function (`ex2`, `rcp`, a comparison chain) stands for.
const SPECIAL_FLOPS: f64 = 4.0;

/// What costs are weighed for.
#[derive(Clone, Debug)]
pub(crate) struct CostModel {
    /// The machine.
    pub(crate) target: Target,
    /// The step.
    pub(crate) sizes: Sizes,
    /// FP8 products that tensor cores may sum ([`moec_ir::Graph::promote_every`]).
    pub(crate) promote_every: Option<u64>,
}

/// What a kernel has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Work {
    /// Bytes to and from HBM.
    pub(crate) bytes: f64,
    /// FLOPs on tensor cores, counting the rows that pad a tile.
    pub(crate) tensor: f64,
    /// FLOPs on CUDA cores.
    pub(crate) scalar: f64,
    /// Launches.
    pub(crate) launches: f64,
}

impl CostModel {
    /// Seconds that some work takes.
    pub(crate) fn seconds(&self, work: &Work) -> f64 {
        let t = &self.target;
        let memory = work.bytes / (t.hbm_bytes_per_s * HBM_SHARE);
        let tensor = work.tensor / (t.bf16_flops * TENSOR_SHARE);
        let scalar = work.scalar / (t.f32_flops * SCALAR_SHARE);
        work.launches * t.launch_s + memory.max(tensor).max(scalar)
    }

    /// Seconds of a copy of a tensor.
    pub(crate) fn copy_seconds(&self, ty: &TensorType) -> f64 {
        self.seconds(&Work { bytes: 2.0 * self.bytes(ty), launches: 1.0, ..Work::default() })
    }

    /// What a node of the e-graph costs: nothing for views and leaves, `None` for mathematics
    /// that no kernel computes as it stands.
    pub(crate) fn node(&self, egraph: &EGraph, class: Id, node: &Node) -> Option<f64> {
        match &node.term {
            Term::Kernel(kernel) => {
                let work = self.work(egraph, class, kernel, &node.children);
                Some(self.seconds(&work))
            }
            Term::First | Term::Second { .. } => Some(0.0),
            // Its kernel counts what it has to write, and this may be left out.
            Term::Third => {
                let bytes = self.bytes(&egraph[class].data.ty);
                Some(self.seconds(&Work { bytes, ..Work::default() }))
            }
            Term::Math(Op::Input(_) | Op::Param(_) | Op::Cache(_)) => Some(0.0),
            _ if is_laid_out(egraph, class, node) => Some(0.0),
            term if term.is_view() => Some(0.0),
            _ => None,
        }
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

    /// Bytes behind a value: a repeated tensor is read once.
    fn footprint(&self, egraph: &EGraph, id: Id) -> f64 {
        let class = &egraph[id];
        let repeated = class.nodes.iter().filter_map(|n| match n.term {
            Term::Math(Op::Broadcast(_)) if egraph.find(n.children[0]) != class.id => {
                Some(self.bytes(&egraph[n.children[0]].data.ty))
            }
            _ => None,
        });
        repeated.fold(self.bytes(&class.data.ty), f64::min)
    }

    fn work(&self, egraph: &EGraph, class: Id, kernel: &Kernel, operands: &[Id]) -> Work {
        let ty = |i: usize| &egraph[operands[i]].data.ty;
        let out = &egraph[class].data.ty;
        let read: f64 = operands.iter().map(|id| self.footprint(egraph, *id)).sum();
        let bytes = read + self.bytes(out);
        let streamed = |per_element: f64| Work {
            bytes,
            scalar: per_element * self.elements(out),
            launches: 1.0,
            ..Work::default()
        };
        let product = |bytes: f64, tensor: f64| Work { bytes, tensor, scalar: 0.0, launches: 1.0 };
        // Elements and scales are both written.
        let quantized = |block: u64, functions: usize| {
            let scales = self.elements(out) / block as f64 * DType::F32.bytes() as f64;
            Work { bytes: bytes + scales, ..streamed(SPECIAL_FLOPS * functions as f64) }
        };
        match kernel {
            Kernel::Gemm | Kernel::GemmAdd => {
                let m = tiled(self.size(&rows(ty(0))));
                product(bytes, 2.0 * m * self.elements(ty(1)))
            }
            Kernel::HeadGemm => {
                let m = tiled(self.size(&ty(0).shape[0]));
                product(bytes, 2.0 * m * self.elements(ty(1)))
            }
            Kernel::GroupedGemm { top_k } => {
                let [active, rows, idle] = self.routed(ty(1), *top_k);
                let matrix = self.elements(ty(1)) / self.size(&ty(1).shape[0]).max(1.0);
                product(bytes - idle, 2.0 * active * rows * matrix)
            }
            Kernel::ScaledGemm { .. } | Kernel::ScaledGemmAdd { .. } => {
                let m = tiled(self.size(&rows(ty(0))));
                self.scaled(bytes, 2.0 * m * self.elements(ty(2)))
            }
            Kernel::ScaledGroupedGemm { top_k, .. } => {
                let [active, rows, idle] = self.routed(ty(2), *top_k);
                let matrix = self.elements(ty(2)) / self.size(&ty(2).shape[0]).max(1.0);
                self.scaled(bytes - idle, 2.0 * active * rows * matrix)
            }
            Kernel::Quantize { block, .. } => quantized(*block, 1),
            Kernel::RmsNormQuantize { block, .. } => quantized(*block, 2),
            Kernel::PointwiseQuantize { code, block, .. } => quantized(*block, 1 + code.len()),
            Kernel::Attention { parts, .. } => self.attention(egraph, *parts, operands, out),
            Kernel::Pointwise(code) => streamed(SPECIAL_FLOPS * code.len() as f64),
            // Sum and norm are both written.
            Kernel::AddRmsNorm { sum, .. } => Work {
                bytes: bytes + self.elements(out) * sum.bytes() as f64,
                ..streamed(SPECIAL_FLOPS)
            },
            // Only the rows looked up are read.
            Kernel::Gather => {
                Work { bytes: 2.0 * self.bytes(out) + self.bytes(ty(1)), ..streamed(0.0) }
            }
            // Latent and key are read and written, once each.
            Kernel::AppendLatent { .. } => {
                let rows = self.bytes(ty(1)) + self.bytes(ty(3));
                let scalar = SPECIAL_FLOPS * (self.elements(ty(1)) + self.elements(ty(3)));
                Work { bytes: 2.0 * rows + self.bytes(ty(2)), scalar, ..streamed(0.0) }
            }
            Kernel::Scatter => Work { bytes: 2.0 * self.bytes(ty(1)), ..streamed(0.0) },
            Kernel::Concat { .. } => Work { launches: operands.len() as f64, ..streamed(0.0) },
            Kernel::TopK { k, .. } => {
                let compared = self.elements(ty(0)) * *k as f64;
                Work { scalar: SPECIAL_FLOPS * compared, ..streamed(0.0) }
            }
            // Experts and weights are both written.
            Kernel::Router(r) => {
                let compared = self.elements(ty(0)) * r.k as f64;
                let weights = self.elements(out) * DType::F32.bytes() as f64;
                let scalar = SPECIAL_FLOPS * compared;
                Work { bytes: bytes + weights, scalar, ..streamed(0.0) }
            }
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

    /// FP8 products, on tensor cores where those may sum at all.
    fn scaled(&self, bytes: f64, flops: f64) -> Work {
        let launches = 1.0;
        match self.promote_every {
            Some(1) => Work { bytes, scalar: flops, launches, ..Work::default() },
            _ => Work { bytes, tensor: flops / FP8_RATE, launches, ..Work::default() },
        }
    }

    /// Of weights `[E, N, K]`: experts that are chosen, rows of each in whole tiles, and bytes of
    /// the others, which are not read.
    fn routed(&self, weights: &TensorType, top_k: u64) -> [f64; 3] {
        let experts = &weights.shape[0];
        let active = self.active_experts(experts, top_k);
        let pairs = self.size(&Sym::Tokens.into()) * top_k as f64;
        let matrix = self.bytes(weights) / self.size(experts).max(1.0);
        [active, tiled(pairs / active), self.bytes(weights) - active * matrix]
    }

    /// Experts that any token of the step chose, expected for even and independent choices.
    fn active_experts(&self, experts: &Dim, top_k: u64) -> f64 {
        let (experts, tokens) = (self.size(experts).max(1.0), self.size(&Sym::Tokens.into()));
        let idle = (1.0 - top_k as f64 / experts).max(0.0).powf(tokens);
        (experts * (1.0 - idle)).max(1.0)
    }

    /// Heads that share a key head fill a tile together; a token sees the keys at or before it.
    fn attention(&self, egraph: &EGraph, parts: usize, operands: &[Id], out: &TensorType) -> Work {
        let ty = |i: usize| &egraph[operands[i]].data.ty;
        let sequences = self.size(&Sym::Sequences.into()).max(1.0);
        let tokens = self.size(&Sym::Tokens.into()) / sequences;
        let past = self.size(&Sym::Past.into()) / sequences;
        let visible = (past - (tokens - 1.0) / 2.0).max(1.0);
        let heads = self.size(&out.shape[1]);
        let products = |rows: &TensorType| {
            let shared = self.size(&rows.shape[1]).max(1.0);
            let tile = tiled(tokens * heads / shared) * shared;
            2.0 * sequences * tile * visible * self.size(&rows.shape[2])
        };
        // Values that are a part of the keys, as in absorbed MLA, are read with them.
        let mut rows: Vec<Id> = operands[parts..].iter().map(|id| egraph.find(*id)).collect();
        let tensor = (parts..operands.len()).map(|i| products(ty(i))).sum();
        rows.sort_unstable();
        rows.dedup();
        let read: f64 =
            operands[..parts].iter().chain(&rows).map(|id| self.footprint(egraph, *id)).sum();
        let softmax = sequences * tokens * heads * visible * SPECIAL_FLOPS;
        Work { bytes: read + self.bytes(out), tensor, scalar: softmax, launches: 1.0 }
    }
}

/// Rows rounded up to whole tiles.
fn tiled(rows: f64) -> f64 {
    (rows / TILE_ROWS).ceil().max(1.0) * TILE_ROWS
}
