//! Routed experts that are spread over ranks.

use super::{Bf16, Case, F32, dense};
use moec_ir::graph::{BinaryFn, UnaryFn};
use moec_ir::kernel::exchange::{Activation, ExpertMatrices, Split};
use moec_ir::kernel::{Exchange, KernelSpec, Scalar, SpreadExperts, View};
use moec_ir::{DType, Ranks, ScaleFormat};

/// What decides a spec.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    /// Ranks, and ranks of a node.
    pub(crate) ranks: [u32; 2],
    pub(crate) experts: u64,
    pub(crate) top_k: u64,
    /// Columns of a token and of an expert's inner vector.
    pub(crate) sizes: [u64; 2],
    pub(crate) fp8: bool,
    pub(crate) promote_every: u64,
    /// CTAs that communicate and compute.
    pub(crate) split: [u32; 2],
}

/// `silu(gate) * up`.
pub(crate) fn swiglu() -> Vec<Scalar> {
    let silu = Scalar::Unary(UnaryFn::Silu, 0);
    vec![Scalar::Input(0), silu, Scalar::Input(1), Scalar::Binary(BinaryFn::Mul, 1, 2)]
}

/// Elements from a row of so many scales to the next: rows begin at multiples of 16 bytes.
pub(crate) fn scale_row(scales: u64) -> u64 {
    scales.next_multiple_of(4)
}

impl Spread {
    pub(crate) fn exchange(&self) -> Exchange {
        let [columns, inner] = self.sizes;
        let scales = |n: u64| if self.fp8 { n.div_ceil(128) } else { 0 };
        let operand = if self.fp8 { DType::F8e4m3 } else { Bf16 };
        Exchange {
            ranks: Ranks::new(self.ranks[0], self.ranks[1]).unwrap(),
            experts: self.experts,
            top_k: self.top_k,
            row: (columns, operand),
            scales: scales(columns),
            hidden: (2 * inner, Bf16),
            middle: (inner, operand),
            middle_scales: scales(inner),
            result: (columns, Bf16),
        }
    }

    /// The matrices of so many experts.
    pub(crate) fn matrices(&self, experts: u64, n: u64, k: u64) -> ExpertMatrices {
        let dtype = if self.fp8 { DType::F8e4m3 } else { Bf16 };
        let blocks = [Some(experts), Some(n.div_ceil(128)), Some(k.div_ceil(128))];
        ExpertMatrices {
            w: dense(dtype, &[Some(experts), Some(n), Some(k)]),
            scale: self.fp8.then(|| dense(F32, &blocks)),
        }
    }

    pub(crate) fn spec(&self) -> SpreadExperts {
        let exchange = self.exchange();
        let [columns, inner] = self.sizes;
        let each = exchange.experts_each();
        SpreadExperts {
            x: dense(exchange.row.1, &[None, Some(columns)]),
            x_scale: self.fp8.then(|| {
                let shape = [super::t(), exchange.scales.into()];
                View::new(F32, shape, [scale_row(exchange.scales), 1])
            }),
            chosen: dense(DType::I32, &[None, Some(self.top_k)]),
            weight: dense(F32, &[None, Some(self.top_k)]),
            first: self.matrices(each, 2 * inner, columns),
            activation: Activation {
                inputs: vec![0, inner],
                code: swiglu(),
                quantized: self.fp8.then_some((128, ScaleFormat::F32)),
            },
            second: self.matrices(each, columns, inner),
            adds: vec![dense(Bf16, &[None, Some(columns)])],
            out: dense(Bf16, &[None, Some(columns)]),
            block: [128, 128],
            promote_every: self.promote_every,
            split: Split { comm: self.split[0], compute: self.split[1] },
            exchange,
        }
    }
}

/// DeepSeek-V3 in prefill: 32 ranks of four nodes, 24 SMs communicate (DeepSeek-V3 3.4.1 and its
/// profile of prefill).
const V3: Spread = Spread {
    ranks: [32, 8],
    experts: 256,
    top_k: 8,
    sizes: [7168, 2048],
    fp8: true,
    promote_every: 128,
    split: [24, 108],
};

/// The small model of `examples/`, on a node of eight.
const TINY: Spread = Spread {
    ranks: [8, 8],
    experts: 16,
    top_k: 4,
    sizes: [256, 128],
    fp8: false,
    promote_every: 128,
    split: [24, 108],
};

pub(crate) fn exchanges() -> Vec<Case> {
    let spread = |name, tokens, spread: Spread| {
        let spec = KernelSpec::SpreadExperts(Box::new(spread.spec()));
        Case { name, spec, tokens }
    };
    let routes = |name, tokens, spread: Spread| {
        let SpreadExperts { exchange, chosen, weight, .. } = spread.spec();
        Case { name, spec: KernelSpec::ExchangeRoutes { exchange, chosen, weight }, tokens }
    };
    vec![
        routes("exchange routes v3", 4096, V3),
        routes("exchange routes one node", 64, TINY),
        spread("spread experts v3", 4096, V3),
        spread("spread experts tiny", 256, TINY),
        spread("spread experts cores", 1, TINY),
        spread("spread experts float32 sums", 64, Spread { promote_every: 32, ..V3 }),
    ]
}
