//! GPUs that share the experts of a model, and how tokens come to them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// A group of GPUs, each of which holds an equal part of the experts: so many in all, in nodes of
/// so many.
///
/// Ranks are numbered node by node: rank `r` is the GPU `r % per_node` of node `r / per_node`.
/// Experts are laid out in order: with `E` experts, rank `r` holds those from `r * E / count` on.
/// GPUs of a node reach each other over NVLink, others over the network.
///
/// ```
/// use moec_ir::Ranks;
/// let ranks = Ranks::new(32, 8).unwrap();
/// assert_eq!((ranks.nodes(), ranks.node_of(9)), (4, 1));
/// assert_eq!(ranks.experts_of(9, 256).unwrap(), 72..80);
/// assert_eq!(ranks.rank_of(72, 256).unwrap(), 9);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Ranks {
    count: u32,
    per_node: u32,
}

/// How tokens are moved between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transfer {
    /// Rings of chunks, a channel for two SMs: DeepEP's first release.
    First,
    /// DeepEP's second release, whose SMs only copy.
    Second,
    /// A message for each token and expert, during which no SM waits: DeepEP's low-latency
    /// kernels with their receiving hook.
    LowLatency,
}

impl Transfer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::First, Self::Second, Self::LowLatency];

    /// `first`, `second` or `low_latency`.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::LowLatency => "low_latency",
        }
    }

    /// The one of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transfer| transfer.name() == name)
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// [`Ranks`] before they are checked.
#[derive(Deserialize)]
struct Written {
    count: u32,
    per_node: u32,
}

impl TryFrom<Written> for Ranks {
    type Error = RanksError;
    fn try_from(written: Written) -> Result<Self, RanksError> {
        Self::new(written.count, written.per_node)
    }
}

/// Why ranks cannot be as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RanksError {
    /// A count of nought.
    #[error("a group has at least one rank, and a node at least one")]
    Empty,
    /// Nodes that are not full.
    #[error("{count} ranks do not fill nodes of {per_node}")]
    Nodes {
        /// Ranks.
        count: u32,
        /// Ranks of a node.
        per_node: u32,
    },
    /// Experts that cannot be divided among the ranks.
    #[error("{experts} experts cannot be divided among {count} ranks")]
    Experts {
        /// Experts.
        experts: u64,
        /// Ranks.
        count: u32,
    },
    /// An expert that does not exist.
    #[error("there is no expert {expert} of {experts}")]
    NoExpert {
        /// The expert.
        expert: u64,
        /// Experts.
        experts: u64,
    },
    /// A rank that does not exist.
    #[error("there is no rank {rank} of {count}")]
    NoRank {
        /// The rank.
        rank: u32,
        /// Ranks.
        count: u32,
    },
}

impl Ranks {
    /// GPUs of a node where nothing else is said (DGX and HGX boards of Hopper).
    pub const PER_NODE: u32 = 8;
    /// A GPU alone.
    pub const ONE: Self = Self { count: 1, per_node: 1 };

    /// So many ranks in nodes of so many; a group smaller than a node is one node, of its size.
    ///
    /// # Errors
    /// A count of nought, or one above `per_node` that is no multiple of it.
    pub fn new(count: u32, per_node: u32) -> Result<Self, RanksError> {
        if count == 0 || per_node == 0 {
            return Err(RanksError::Empty);
        }
        if count > per_node && !count.is_multiple_of(per_node) {
            return Err(RanksError::Nodes { count, per_node });
        }
        Ok(Self { count, per_node: per_node.min(count) })
    }

    /// GPUs in all.
    pub fn count(self) -> u32 {
        self.count
    }

    /// GPUs of a node, at most as many as there are.
    pub fn per_node(self) -> u32 {
        self.per_node
    }

    /// Nodes.
    pub fn nodes(self) -> u32 {
        self.count / self.per_node
    }

    /// Whether no token changes ranks.
    pub fn is_one(self) -> bool {
        self.count == 1
    }

    /// The node of a rank.
    pub fn node_of(self, rank: u32) -> u32 {
        rank / self.per_node
    }

    /// A rank's place in its node: the one that a token crosses the network to (DeepSeek-V3
    /// 3.2.2).
    pub fn index_in_node(self, rank: u32) -> u32 {
        rank % self.per_node
    }

    /// Experts that each rank holds.
    ///
    /// # Errors
    /// The experts are no multiple of the ranks.
    pub fn experts_each(self, experts: u64) -> Result<u64, RanksError> {
        let count = u64::from(self.count);
        if experts == 0 || !experts.is_multiple_of(count) {
            return Err(RanksError::Experts { experts, count: self.count });
        }
        Ok(experts / count)
    }

    /// The experts that a rank holds.
    ///
    /// # Errors
    /// As [`Ranks::experts_each`], or a rank that does not exist.
    pub fn experts_of(self, rank: u32, experts: u64) -> Result<Range<u64>, RanksError> {
        if rank >= self.count {
            return Err(RanksError::NoRank { rank, count: self.count });
        }
        let each = self.experts_each(experts)?;
        let first = u64::from(rank) * each;
        Ok(first..first + each)
    }

    /// The rank that holds an expert.
    ///
    /// # Errors
    /// As [`Ranks::experts_each`], or an expert that does not exist.
    pub fn rank_of(self, expert: u64, experts: u64) -> Result<u32, RanksError> {
        let each = self.experts_each(experts)?;
        let none = RanksError::NoExpert { expert, experts };
        if expert >= experts {
            return Err(none);
        }
        u32::try_from(expert / each).map_err(|_| none)
    }
}

impl fmt::Display for Ranks {
    /// `32 ranks, 8 per node`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => f.write_str("1 rank"),
            count => write!(f, "{count} ranks, {} per node", self.per_node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expert_belongs_to_exactly_the_rank_that_lists_it() {
        for (count, per_node) in [(1, 8), (4, 8), (8, 8), (32, 8), (128, 8), (6, 2)] {
            let ranks = Ranks::new(count, per_node).unwrap();
            let experts = u64::from(count) * 3;
            let mut next = 0;
            for rank in 0..count {
                let own = ranks.experts_of(rank, experts).unwrap();
                assert_eq!(own.start, next);
                next = own.end;
                for expert in own {
                    assert_eq!(ranks.rank_of(expert, experts), Ok(rank));
                }
                let place = ranks.node_of(rank) * ranks.per_node() + ranks.index_in_node(rank);
                assert_eq!(place, rank);
            }
            assert_eq!(next, experts);
        }
    }

    #[test]
    fn groups_that_do_not_fill_nodes_are_refused() {
        assert_eq!(Ranks::new(0, 8), Err(RanksError::Empty));
        assert_eq!(Ranks::new(8, 0), Err(RanksError::Empty));
        assert_eq!(Ranks::new(12, 8), Err(RanksError::Nodes { count: 12, per_node: 8 }));
        assert_eq!(Ranks::new(3, 8).map(|r| (r.nodes(), r.per_node())), Ok((1, 3)));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let ranks = Ranks::new(16, 8).unwrap();
        assert_eq!(ranks.experts_each(24), Err(RanksError::Experts { experts: 24, count: 16 }));
        assert_eq!(ranks.experts_each(0), Err(RanksError::Experts { experts: 0, count: 16 }));
        assert_eq!(ranks.experts_of(16, 32), Err(RanksError::NoRank { rank: 16, count: 16 }));
        let none = RanksError::NoExpert { expert: 32, experts: 32 };
        assert_eq!(ranks.rank_of(32, 32), Err(none));
    }

    #[test]
    fn ranks_are_checked_when_read() {
        let ranks = Ranks::new(32, 8).unwrap();
        let text = serde_json::to_string(&ranks).unwrap();
        assert_eq!(text, r#"{"count":32,"per_node":8}"#);
        assert_eq!(serde_json::from_str::<Ranks>(&text).unwrap(), ranks);
        let error = serde_json::from_str::<Ranks>(r#"{"count":12,"per_node":8}"#).unwrap_err();
        assert!(error.to_string().contains("12 ranks do not fill nodes of 8"), "{error}");
    }
}
