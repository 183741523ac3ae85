//! Dispatch and combine between ranks: links, and the SMs that move the tokens.
//!
//! Between nodes a token goes over the network once per node, to the rank of the same index, and
//! on over NVLink to each rank that has an expert for it (DeepSeek-V3 3.2.2). Routing is taken as
//! even. Not seen: waiting for peers, contention in the network, the kernels that exchange counts.

use moec_ir::{Target, Transfer};

/// Share of the network's peak that transfers reach: 61 GB/s of tokens between 4 nodes, of which
/// 3/4 leave their own, and 90 between 2 (`deepep_v2.csv`), of 50.
const RDMA_SHARE: f64 = 0.9;
/// The same of NVLink: about 160 GB/s of 200 (`deepep_normal.csv`).
const NVLINK_SHARE: f64 = 0.8;
/// Bytes per second that an SM of the first release moves between nodes: 43 to 47 GB/s with 20
/// SMs, whatever the number of nodes (`deepep_normal.csv`, ebfe47e4).
const FIRST_BYTES_PER_S: f64 = 2.25e9;
/// The same within a node, at least: 158 GB/s with 20 SMs (same rows).
const FIRST_NVLINK_BYTES_PER_S: f64 = 7.9e9;
/// Bytes per second that an SM writes in the second release (`deepep_v2_sm_model.csv`); it reads
/// four times as many.
const SECOND_BYTES_PER_S: f64 = 50e9;
/// Seconds of a message between leaves of the network (`isca_network_latency.csv`).
const LINK_SECONDS: f64 = 3.7e-6;
/// Seconds of a low-latency transfer beside its bytes: quantising, issuing, counting, unpacking.
/// Calibrated on the six rows of dispatch in `deepep_low_latency.csv`.
const LOW_LATENCY_SECONDS: f64 = 30e-6;

/// Tokens that go to their experts, or come back.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// Ranks that share the experts.
    pub ranks: u32,
    /// Ranks of a node.
    pub ranks_per_node: u32,
    /// Tokens of a rank.
    pub tokens: f64,
    /// Experts of a token.
    pub top_k: u32,
    /// Nodes that a token may go to.
    pub most_nodes: u32,
    /// Bytes of a token.
    pub token_bytes: f64,
}

/// The predicted time of an exchange, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// The network is busy.
    pub rdma: f64,
    /// NVLink is busy.
    pub nvlink: f64,
    /// The SMs are busy.
    pub sms: f64,
    /// The whole.
    pub total: f64,
}

impl Exchange {
    /// The predicted time on some SMs; without an SM, of transfers that need one, infinite.
    pub fn estimate(&self, target: &Target, transfer: Transfer, sms: u32) -> Traffic {
        let rdma = self.remote(transfer) / (target.rdma_bytes_per_s * RDMA_SHARE);
        let nvlink = self.local(transfer) / (target.nvlink_bytes_per_s * NVLINK_SHARE);
        let each = match transfer {
            Transfer::First if self.nodes() > 1.0 => self.copies() / FIRST_BYTES_PER_S,
            Transfer::First => self.local(transfer) / FIRST_NVLINK_BYTES_PER_S,
            // Into the buffer that the network reads, and to each rank.
            Transfer::Second => (self.copies() + self.local(transfer)) / SECOND_BYTES_PER_S,
            Transfer::LowLatency => 0.0,
        };
        let sms = if each > 0.0 { each / f64::from(sms) } else { 0.0 };
        let start = match transfer {
            Transfer::LowLatency => LOW_LATENCY_SECONDS,
            _ => LINK_SECONDS,
        };
        Traffic { rdma, nvlink, sms, total: start + rdma.max(nvlink).max(sms) }
    }

    /// The SMs from which on links are what bounds the exchange.
    pub fn enough_sms(&self, target: &Target, transfer: Transfer) -> u32 {
        let one = self.estimate(target, transfer, 1);
        (one.sms / one.rdma.max(one.nvlink)).ceil() as u32
    }

    fn nodes(&self) -> f64 {
        f64::from(self.ranks.div_ceil(self.ranks_per_node))
    }

    /// Nodes that a token goes to, its own among them by chance.
    fn touched(&self) -> f64 {
        self.nodes().min(f64::from(self.most_nodes))
    }

    /// Bytes of a rank's tokens, once for each node that they go to.
    fn copies(&self) -> f64 {
        self.tokens * self.touched() * self.token_bytes
    }

    /// Bytes that leave the node.
    fn remote(&self, transfer: Transfer) -> f64 {
        let abroad = 1.0 - 1.0 / self.nodes();
        abroad
            * match transfer {
                Transfer::LowLatency => self.messages(),
                _ => self.copies(),
            }
    }

    /// Bytes that go over NVLink, those to the rank itself counted with them as the published
    /// figures do.
    fn local(&self, transfer: Transfer) -> f64 {
        if transfer == Transfer::LowLatency {
            return self.messages() / self.nodes();
        }
        // Of the ranks of a node, those that have one of so many experts.
        let ranks = f64::from(self.ranks.min(self.ranks_per_node));
        let experts = f64::from(self.top_k) / self.touched();
        self.copies() * ranks * (1.0 - (1.0 - 1.0 / ranks).powf(experts))
    }

    /// Bytes of a message for each token and expert.
    fn messages(&self) -> f64 {
        self.tokens * f64::from(self.top_k) * self.token_bytes
    }
}
