//! What is to be scheduled: one rank's part of a layer with routed experts.

use super::work::{Task, Work};
use crate::cost::{Exchange, Machine, Product, Stream, Tiles, Traffic, Transfer};
use moec_ir::{Diagnostic, Phase, Ranks, RanksError, Target};

/// Bytes of an activation between kernels (bf16).
const ACTIVATION_BYTES: f64 = 2.0;
/// Micro-batches, at most: each reads all weights.
const MOST_MICRO_BATCHES: u32 = 8;
/// float32 operations of an element of SwiGLU with quantisation: `silu` and product, maximum,
/// division, each a special function of four (as `passes/src/cost.rs` counts them).
const SWIGLU_FLOPS: f64 = 4.0 * 4.0;

/// One rank's part of a layer with routed experts, and how tokens are moved.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Of which phase.
    pub phase: Phase,
    /// The GPUs that share the experts.
    pub ranks: Ranks,
    /// Tokens of a rank in a step.
    pub tokens: f64,
    /// Elements of a token.
    pub hidden: f64,
    /// Inner elements of an expert.
    pub ff: f64,
    /// Routed experts of a layer.
    pub experts: u64,
    /// Experts of a token.
    pub top_k: u32,
    /// Nodes that a token may go to.
    pub most_nodes: u32,
    /// Bytes of a token on its way out, with its scales.
    pub out_bytes: f64,
    /// Bytes of a result on its way back.
    pub back_bytes: f64,
    /// Bytes of an element of the experts' products.
    pub element: f64,
    /// Load of the busiest rank over the mean.
    pub skew: f64,
    /// Layers with routed experts, one after the other.
    pub layers: u32,
    /// What a rank computes for all its tokens before they are sent: norms, attention, router.
    pub before: Work,
    /// What it computes for them that needs no exchange: shared experts.
    pub beside: Work,
    /// Micro-batches into which a step may be divided, at most.
    pub micro_batches: u32,
    /// How tokens are moved.
    pub transfer: Transfer,
    /// SMs that communicate, where that is not to be decided.
    pub fixed: Option<u32>,
}

/// What is wrong with a [`Cell`].
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum CellError {
    /// Experts and ranks do not fit.
    #[error(transparent)]
    Ranks(#[from] RanksError),
    /// A size is no positive number.
    #[error("{what} is {value}, not a positive number")]
    Size {
        /// Which.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// A token has more experts than there are.
    #[error("a token cannot have {top_k} of {experts} experts")]
    TopK {
        /// Experts of a token.
        top_k: u32,
        /// Experts.
        experts: u64,
    },
    /// A mean that exceeds the maximum.
    #[error("the busiest rank has at least the mean load, not {0} of it")]
    Skew(f64),
    /// More parts of a step than anything is gained by.
    #[error("at most {MOST_MICRO_BATCHES} micro-batches are in flight, not {0}")]
    MicroBatches(u32),
    /// A fixed number of SMs with which nothing can be scheduled.
    #[error("{sms} of {of} SMs cannot communicate: {why}")]
    Fixed {
        /// SMs asked for.
        sms: u32,
        /// SMs of the target.
        of: u32,
        /// Why not.
        why: &'static str,
    },
}

impl From<CellError> for Diagnostic {
    fn from(error: CellError) -> Self {
        let mistake = Self::error("E0808", format!("the SMs cannot be divided: {error}"));
        mistake.help(match error {
            CellError::Ranks(_) => "take a number of ranks that divides the experts",
            CellError::Fixed { .. } => {
                "give another number in `sms 132 = comm 24 + compute`, or leave the shares out"
            }
            _ => "correct the numbers of the parallel section",
        })
    }
}

impl Cell {
    /// Checks that sizes fit each other and the target.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self, target: &Target) -> Result<(), CellError> {
        self.ranks.experts_each(self.experts)?;
        let sizes = [
            ("the number of tokens", self.tokens),
            ("the width of a token", self.hidden),
            ("the width of an expert", self.ff),
            ("the number of layers", f64::from(self.layers)),
            ("the number of micro-batches", f64::from(self.micro_batches)),
            ("the number of nodes of a token", f64::from(self.most_nodes)),
            ("the number of bytes sent", self.out_bytes),
            ("the number of bytes returned", self.back_bytes),
            ("the size of an element", self.element),
        ];
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if let Some((what, value)) = sizes.into_iter().find(|(_, value)| !positive(*value)) {
            return Err(CellError::Size { what, value });
        }
        if self.top_k == 0 || u64::from(self.top_k) > self.experts {
            return Err(CellError::TopK { top_k: self.top_k, experts: self.experts });
        }
        if !self.skew.is_finite() || self.skew < 1.0 {
            return Err(CellError::Skew(self.skew));
        }
        if self.micro_batches > MOST_MICRO_BATCHES {
            return Err(CellError::MicroBatches(self.micro_batches));
        }
        if let Some(sms) = self.fixed {
            let fault = |why| Err(CellError::Fixed { sms, of: target.sms, why });
            if sms >= target.sms {
                return fault("none is left to compute");
            }
            if !self.ranks.is_one() && !self.allows(sms) {
                return fault(match self.transfer {
                    Transfer::First => "a channel of the first release has two",
                    Transfer::Second => "the second release takes an even number, at least 4",
                    Transfer::LowLatency => "none does",
                });
            }
        }
        Ok(())
    }

    /// Whether the kernels that move tokens take so many SMs: two for each channel in the first
    /// release (DeepEP dd758caf, `csrc/legacy/buffer.hpp`, `config.num_sms % 2 == 0`), an even
    /// number from 4 on in the second (`deep_ep/buffers/elastic.py`, `get_theoretical_num_sms`).
    pub(crate) fn allows(&self, sms: u32) -> bool {
        match self.transfer {
            Transfer::First => sms >= 2 && sms.is_multiple_of(2),
            Transfer::Second => sms >= 4 && sms.is_multiple_of(2),
            Transfer::LowLatency => true,
        }
    }

    /// The exchange of one of `n` micro-batches on the busiest rank.
    fn exchange(&self, n: u32, token_bytes: f64) -> Exchange {
        Exchange {
            ranks: self.ranks.count(),
            ranks_per_node: self.ranks.per_node(),
            tokens: self.tokens / f64::from(n) * self.skew,
            top_k: self.top_k,
            most_nodes: self.most_nodes,
            token_bytes,
        }
    }

    /// Dispatch and combine of one of `n` micro-batches on so many SMs; nothing on one rank.
    pub fn traffic(&self, target: &Target, n: u32, sms: u32) -> [Traffic; 2] {
        [self.out_bytes, self.back_bytes].map(|bytes| {
            if self.ranks.is_one() {
                return Traffic { rdma: 0.0, nvlink: 0.0, sms: 0.0, total: 0.0 };
            }
            self.exchange(n, bytes).estimate(target, self.transfer, sms)
        })
    }

    /// Rows of an expert in one of `n` micro-batches on the busiest rank, and the experts that
    /// have any, for even and independent choices.
    pub fn rows(&self, n: u32) -> [f64; 2] {
        let (count, experts) = (f64::from(self.ranks.count()), self.experts as f64);
        let tokens = self.tokens / f64::from(n) * count;
        let idle = (1.0 - f64::from(self.top_k) / experts).max(0.0).powf(tokens);
        let active = (experts / count * (1.0 - idle)).max(1.0);
        let pairs = self.tokens / f64::from(n) * f64::from(self.top_k) * self.skew;
        [pairs / active, active]
    }

    /// Gate and up, and down, of one of `n` micro-batches' `chunks`.
    fn products(&self, n: u32, chunks: u32) -> [Product; 2] {
        let [rows, active] = self.rows(n);
        let rows = rows / f64::from(chunks);
        let (ff, hidden) = (self.ff, self.hidden);
        [[rows, 2.0 * ff, hidden], [rows, hidden, ff]]
            .map(|of| Product::dense(active, of, self.element, ACTIVATION_BYTES))
    }

    /// Tiles of both products of the experts, and seconds of a chunk in a kernel that is launched
    /// once: gate and up, SwiGLU with quantisation, down.
    pub fn experts(&self, machine: &Machine, n: u32, chunks: u32) -> ([[f64; 2]; 2], f64) {
        let products = self.products(n, chunks);
        let best = products.map(|product| product.best_tile(machine, Tiles::OURS));
        let elements = products[1].batch * products[1].rows * self.ff;
        let swiglu = Stream {
            bytes: elements * (2.0 * ACTIVATION_BYTES + self.element),
            flops: elements * SWIGLU_FLOPS,
            launches: 1.0,
        };
        let launch = machine.target.launch_s;
        let products: f64 = best.iter().map(|(_, estimate)| estimate.total - launch).sum();
        (best.map(|(tile, _)| tile), products + swiglu.estimate(machine).total - launch)
    }

    /// Tiles of rows that an expert has in one of `n` micro-batches.
    pub(crate) fn row_tiles(&self, n: u32, tile_rows: f64) -> u32 {
        (self.rows(n)[0] / tile_rows).ceil().max(1.0) as u32
    }

    /// What compute SMs do for transfers that no SM waits for: they read tokens and write a
    /// message for each expert, and read what came back.
    pub(crate) fn messages(&self) -> [Work; 2] {
        let moved = self.transfer == Transfer::LowLatency && !self.ranks.is_one();
        if !moved {
            return [Work::default(), Work::default()];
        }
        let token = self.hidden * ACTIVATION_BYTES;
        [self.out_bytes, self.back_bytes].map(|bytes| {
            let bytes = self.tokens * self.skew * (token + f64::from(self.top_k) * bytes);
            let flops = self.tokens * self.hidden * f64::from(self.top_k);
            Work { tasks: vec![Task::Stream(Stream { bytes, flops, launches: 1.0 })] }
        })
    }
}
