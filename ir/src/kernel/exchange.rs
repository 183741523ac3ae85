//! Routed experts that are spread over a group of ranks: what a rank launches, and the memory that
//! ranks share for it.
//!
//! Every rank launches the same three kernels in turn:
//!
//! 1. [`KernelSpec::ExchangeRoutes`] tells all ranks which experts this rank's tokens chose and
//!    with which weights, waits for what they tell, and writes which tokens of the group chose an
//!    expert of this rank. No rank leaves it before all have entered it.
//! 2. [`KernelSpec::RoutePlan`] of those.
//! 3. [`KernelSpec::SpreadExperts`]: rows of tokens go to the ranks of their experts, are
//!    multiplied there, and what comes of them goes back and is summed.
//!
//! A row crosses to each rank once, whatever the number of its experts there. Between nodes it
//! crosses once to the rank of the same index, which hands it on (DeepSeek-V3 3.2.2); what comes
//! of it is summed there before it crosses back.
//!
//! [`KernelSpec::ExchangeRoutes`]: super::KernelSpec::ExchangeRoutes
//! [`KernelSpec::RoutePlan`]: super::KernelSpec::RoutePlan
//! [`KernelSpec::SpreadExperts`]: super::KernelSpec::SpreadExperts

use super::{Scalar, View};
use crate::{DType, Dim, Ranks, ScaleFormat, Sizes, Sym};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What all three kernels know of an exchange.
///
/// `P` ranks, `E` experts, `k` of a token. Below, `R` is the most tokens that any rank has in a
/// step; it is fixed when memory is reserved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exchange {
    /// The group.
    pub ranks: Ranks,
    /// All experts; rank `r` has those from `r * E / P` on.
    pub experts: u64,
    /// Experts chosen per token.
    pub top_k: u64,
    /// A token's row as it is sent: elements and their type.
    pub row: (u64, DType),
    /// Scales that are sent with it, float32.
    pub scales: u64,
    /// What the first product gives.
    pub hidden: (u64, DType),
    /// What the second product reads.
    pub middle: (u64, DType),
    /// Scales of that, float32.
    pub middle_scales: u64,
    /// What the second product gives, and is sent back.
    pub result: (u64, DType),
}

/// A stretch of memory that an exchange needs on every rank, at the same place of each rank's
/// symmetric memory. Zeroed when it is reserved; all layers of the same sizes use one.
///
/// Tokens of the group are numbered in turn: token `t` of rank `r` is number `t * P + r`. So the
/// rows of an expert, which are sorted by that number, come in the order in which ranks send them,
/// and a block of rows is complete when every rank has sent its share of it.
///
/// A flag is 8 bytes, and set when it equals the number of the exchange, from 1 on: flags of
/// earlier ones need no clearing. It lies behind what it tells of, so that no offset depends on
/// `R`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// Written by all ranks: what they told of their routes, for two exchanges in turn, and how
    /// far they are. First the number of exchanges so far (8 bytes at [`routes::DONE`]), then how
    /// many CTAs have ended this one (4 bytes at [`routes::ENDED`]); from [`routes::BLOCKS`] on a
    /// block of [`Exchange::routes_bytes`] for each of the two and each rank.
    Routes,
    /// i32 `[R * P, k]`: for each token of the group the experts it chose, numbered from this
    /// rank's first; one past its last where the expert is another rank's or there is no token.
    Chosen,
    /// i32 `[E / P + 2 + R * P * k]`: the plan of those routes.
    Plan,
    /// Written by the ranks of the node: for each token of the group a row of
    /// [`Exchange::row_bytes`].
    Rows,
    /// Written by ranks of other nodes with the same index: rows to be handed on in this node, for
    /// each node one for each token.
    Relay,
    /// What the products give for the rows of this rank's experts, in the order of the plan: of
    /// each [`Exchange::product_row`].
    Products,
    /// Written by the ranks of the node: results for this rank's tokens, for each `k` rows of
    /// [`Exchange::result_bytes`].
    Results,
    /// Written by the ranks of the node: results for tokens of ranks of other nodes with the same
    /// index, to be summed and sent on; for each node `k` rows for each token.
    RelayResults,
    /// Written by ranks of other nodes with the same index: sums of results for this rank's
    /// tokens, for each node one row for each token.
    Partials,
}

impl Region {
    /// All, in the order in which kernels take them.
    pub const ALL: [Self; 9] = [
        Self::Routes,
        Self::Chosen,
        Self::Plan,
        Self::Rows,
        Self::Relay,
        Self::Products,
        Self::Results,
        Self::RelayResults,
        Self::Partials,
    ];

    /// `rows`
    pub fn name(self) -> &'static str {
        match self {
            Self::Routes => "routes",
            Self::Chosen => "chosen",
            Self::Plan => "plan",
            Self::Rows => "rows",
            Self::Relay => "relay",
            Self::Products => "products",
            Self::Results => "results",
            Self::RelayResults => "relay_results",
            Self::Partials => "partials",
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes that rows begin at multiples of, as bulk and vector copies read them.
const ALIGN: u64 = 16;
/// Bytes of a flag, as the network's signals are, up to where a row may begin.
const FLAG: u64 = ALIGN;

/// Places in [`Region::Routes`].
pub mod routes {
    /// The number of exchanges so far.
    pub const DONE: u64 = 0;
    /// CTAs that have ended the one under way.
    pub const ENDED: u64 = 8;
    /// What ranks told. Behind the others' line, which is often written.
    pub const BLOCKS: u64 = 128;

    /// Within a block: the flag.
    pub const FLAG: u64 = 0;
    /// The rank's number of tokens, 4 bytes. What is behind the flag is sent at once.
    pub const TOKENS: u64 = 8;
    /// For each token `k` times an expert (i32) and its weight (float32).
    pub const PAIRS: u64 = 16;
    /// Bytes of a pair.
    pub const PAIR: u64 = 8;
}

/// What [`Region::Products`] has for one row of an expert: where each part begins.
///
/// Flags and counters: results of a block of rows come from several CTAs; each adds to the counter
/// in the block's first row when it has stored its own, and the last one sets the flag of every
/// row of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductRow {
    /// What the first product gives.
    pub hidden: u64,
    /// What the second product reads.
    pub middle: u64,
    /// Its scales.
    pub middle_scales: u64,
    /// What the second product gives.
    pub result: u64,
    /// Flags of those three, 8 bytes each: hidden, middle, result.
    pub flags: u64,
    /// Counters of both products, 4 bytes each.
    pub counters: u64,
    /// Bytes from a row to the next.
    pub bytes: u64,
}

impl Exchange {
    /// Experts of a rank.
    pub fn experts_each(&self) -> u64 {
        self.experts / u64::from(self.ranks.count()).max(1)
    }

    /// Bytes from a token's row to the next: its elements, its scales, its flag.
    pub fn row_bytes(&self) -> u64 {
        self.row_flag_at() + FLAG
    }

    /// Bytes from the start of a row to its scales.
    pub fn scales_at(&self) -> u64 {
        bytes(self.row)
    }

    /// Bytes from the start of a row to its flag: those of a row that are sent.
    pub fn row_flag_at(&self) -> u64 {
        self.scales_at() + bytes((self.scales, DType::F32))
    }

    /// Bytes from a result to the next: its elements, its flag.
    pub fn result_bytes(&self) -> u64 {
        self.result_flag_at() + FLAG
    }

    /// Bytes from the start of a result to its flag.
    pub fn result_flag_at(&self) -> u64 {
        bytes(self.result)
    }

    /// Where the parts of a row of [`Region::Products`] lie.
    pub fn product_row(&self) -> ProductRow {
        let middle = bytes(self.hidden);
        let middle_scales = middle + bytes(self.middle);
        let result = middle_scales + bytes((self.middle_scales, DType::F32));
        let flags = result + bytes(self.result);
        let counters = flags + 3 * 8;
        ProductRow {
            hidden: 0,
            middle,
            middle_scales,
            result,
            flags,
            counters,
            bytes: counters + 2 * 4,
        }
    }

    /// Bytes of a block of [`Region::Routes`], `T` standing for `R`.
    pub fn routes_bytes(&self) -> Dim {
        Dim::from(Sym::Tokens) * (self.top_k * routes::PAIR) + Dim::from(routes::PAIRS)
    }

    /// Most rows that the experts of a rank have: all tokens of the group, each as often as it can
    /// choose there.
    pub fn most_rows(&self) -> Dim {
        let each = self.top_k.min(self.experts_each());
        Dim::from(Sym::Tokens) * (u64::from(self.ranks.count()) * each)
    }

    /// Bytes of a region, `T` standing for `R`.
    pub fn region_bytes(&self, region: Region) -> Dim {
        let (ranks, nodes) = (u64::from(self.ranks.count()), u64::from(self.ranks.nodes()));
        let tokens = Dim::from(Sym::Tokens);
        let pairs = tokens.clone() * self.top_k;
        match region {
            Region::Routes => self.routes_bytes() * (2 * ranks) + Dim::from(routes::BLOCKS),
            Region::Chosen => pairs * (ranks * 4),
            Region::Plan => pairs * (ranks * 4) + Dim::from(4 * (self.experts_each() + 2)),
            Region::Rows => tokens * (ranks * self.row_bytes()),
            Region::Relay if nodes > 1 => tokens * (nodes * self.row_bytes()),
            Region::Products => self.most_rows() * self.product_row().bytes,
            Region::Results => pairs * self.result_bytes(),
            Region::RelayResults if nodes > 1 => pairs * (nodes * self.result_bytes()),
            Region::Partials if nodes > 1 => tokens * (nodes * self.result_bytes()),
            Region::Relay | Region::RelayResults | Region::Partials => Dim::from(0),
        }
    }
}

/// Bytes of a row, up to where the next may begin.
fn bytes((elements, dtype): (u64, DType)) -> u64 {
    (elements * dtype.bytes()).next_multiple_of(ALIGN)
}

impl SpreadExperts {
    /// The most tiles of a product that there are at once when every rank has as many tokens as
    /// the step: more CTAs that multiply find nothing to do. Tiles have at least 64 rows and 64
    /// columns, as those of tensor cores do (PTX ISA 9.7.15).
    pub fn most_tiles(&self, step: &Sizes) -> u64 {
        const TILE: u64 = 64;
        let rows = self.exchange.most_rows().eval(step);
        let blocks = rows.div_ceil(TILE) + self.exchange.experts_each().min(rows);
        let columns = self.exchange.hidden.0.max(self.exchange.result.0).div_ceil(TILE);
        blocks * columns
    }
}

/// One matrix per expert of a rank, with its scales where it is FP8.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExpertMatrices {
    /// `[E / P, N, K]`
    pub w: View,
    /// `[E / P, ceil(N / r), ceil(K / columns)]` f32
    pub scale: Option<View>,
}

/// How the result of the first product becomes the operand of the second.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Activation {
    /// First column of each input in the first product's result; all have as many columns as
    /// there are elements in `middle`.
    pub inputs: Vec<u64>,
    /// The function of an element of each, as of [`super::KernelSpec::Pointwise`].
    pub code: Vec<Scalar>,
    /// Where the second product is of FP8: elements that share a scale, and its format.
    pub quantized: Option<(u64, ScaleFormat)>,
}

/// Which CTAs of a launch do what. Those that communicate come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Split {
    /// CTAs that send, hand on and sum rows.
    pub comm: u32,
    /// CTAs that multiply.
    pub compute: u32,
}

/// A layer's routed experts on one rank of a group; see the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SpreadExperts {
    /// What is exchanged.
    pub exchange: Exchange,
    /// `[T, K]`
    pub x: View,
    /// `[T, ceil(K / columns)]` f32, where the first product is of FP8.
    pub x_scale: Option<View>,
    /// `[T, k]` i32: of all experts.
    pub chosen: View,
    /// `[T, k]`
    pub weight: View,
    /// Of the first product.
    pub first: ExpertMatrices,
    /// In between.
    pub activation: Activation,
    /// Of the second product.
    pub second: ExpertMatrices,
    /// `[T, N]` each: the shared experts' output, the residual.
    pub adds: Vec<View>,
    /// `[T, N]`
    pub out: View,
    /// Rows `r` and columns of a block of FP8 weights.
    pub block: [u64; 2],
    /// Products that a tensor core sums before the sum moves to float32 registers.
    pub promote_every: u64,
    /// Which CTAs do what.
    pub split: Split,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sizes;

    fn exchange(count: u32, per_node: u32) -> Exchange {
        Exchange {
            ranks: Ranks::new(count, per_node).unwrap(),
            experts: 16,
            top_k: 4,
            row: (256, DType::F8e4m3),
            scales: 2,
            hidden: (256, DType::Bf16),
            middle: (128, DType::F8e4m3),
            middle_scales: 1,
            result: (256, DType::Bf16),
        }
    }

    #[test]
    fn one_node_needs_no_relay() {
        let sizes = Sizes { tokens: 10, past: 10, sequences: 1 };
        let bytes = |e: &Exchange, region| e.region_bytes(region).eval(&sizes);
        let (one, two) = (exchange(4, 4), exchange(8, 4));
        for region in [Region::Relay, Region::RelayResults, Region::Partials] {
            assert_eq!(bytes(&one, region), 0, "{region}");
            assert!(bytes(&two, region) > 0, "{region}");
        }
        // A row of 256 bytes, its scales and its flag up to 16 each.
        assert_eq!(bytes(&two, Region::Rows), 80 * (256 + 16 + 16));
        // Two experts each: a token has at most two rows there.
        assert_eq!(two.most_rows().eval(&sizes), 160);
        let row = two.product_row();
        assert!(row.flags.is_multiple_of(8) && row.bytes.is_multiple_of(16), "{row:?}");
    }
}
