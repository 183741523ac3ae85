//! What a launch of a group knows of the other ranks.

use crate::memory::window::rank_of;
use crate::memory::{GlobalMemory, Region};

/// The devices of a group and the nodes that they lie on.
#[derive(Debug)]
pub(crate) struct Fabric<'a> {
    /// By rank.
    pub(crate) memories: Vec<&'a GlobalMemory>,
    pub(crate) ranks_per_node: u32,
}

impl Fabric<'_> {
    /// The node that a rank lies on.
    pub(crate) fn node(&self, rank: u32) -> u32 {
        rank / self.ranks_per_node
    }
}

/// A launch's place in its group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) fabric: &'a Fabric<'a>,
    pub(crate) rank: u32,
    /// The launch's name in reports.
    pub(crate) label: &'a str,
}

impl<'a> Member<'a> {
    /// The memory of the rank in whose window an address lies.
    pub(crate) fn memory_at(&self, address: u64) -> Option<&'a GlobalMemory> {
        self.fabric.memories.get(rank_of(address)? as usize).copied()
    }

    /// The allocation of a peer that holds an address. Only symmetric memory of the own node is
    /// mapped; the error says why another address is not, and nothing where none is there.
    pub(crate) fn peer_region(&self, address: u64) -> Result<Region, Option<String>> {
        let (Some(peer), Some(memory)) = (rank_of(address), self.memory_at(address)) else {
            return Err(None);
        };
        let Some(region) = memory.region(address).filter(|_| peer != self.rank) else {
            return Err(None);
        };
        let (node, own) = (self.fabric.node(peer), self.fabric.node(self.rank));
        if node != own {
            return Err(Some(format!(
                "rank {} of node {own} has no way to memory of rank {peer} of node {node} but \
                 through the network; {}",
                self.rank,
                memory.describe(address)
            )));
        }
        if !memory.is_symmetric(address) {
            return Err(Some(format!(
                "rank {} accesses memory of rank {peer} that is not symmetric, so that no peer has \
                 it mapped; {}",
                self.rank,
                memory.describe(address)
            )));
        }
        Ok(region)
    }
}
