//! The loops of a kernel that hold tensor-core instructions, and the path that a busy warp takes through each.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::dominators::simple_fast;
use petgraph::graph::{DiGraph, NodeIndex};

use super::listing::Instruction;
use super::mix;

/// An innermost loop with tensor-core instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorLoop {
    /// Address of its first instruction.
    pub start: u64,
    /// Address of its last instruction.
    pub end: u64,
    /// Indices of the instructions on the way from its head back to it that holds the most tensor-core
    /// instructions and, of those, the fewest others: slow paths of barriers are not on it.
    pub hot: Vec<usize>,
}

/// Finds the loops, by address. A loop that holds another with tensor-core instructions is left out.
#[must_use]
pub fn tensor_loops(code: &[Instruction]) -> Vec<TensorLoop> {
    let flow = Flow::of(code);
    let natural = flow.natural_loops();
    let tensor = |body: &BTreeSet<usize>| body.iter().any(|block| flow.tensor_count(*block) > 0);
    natural
        .iter()
        .filter(|(head, found)| {
            let inner = |(other, nested): (&usize, &Natural)| {
                other != *head && nested.body.is_subset(&found.body) && tensor(&nested.body)
            };
            tensor(&found.body) && !natural.iter().any(inner)
        })
        .map(|(head, found)| flow.describe(*head, found))
        .collect()
}

/// A natural loop: its blocks, and those of them that branch back to the head.
struct Natural {
    body: BTreeSet<usize>,
    latches: BTreeSet<usize>,
}

/// The control flow of one kernel.
struct Flow<'a> {
    code: &'a [Instruction],
    /// First and one past the last instruction of each basic block.
    blocks: Vec<(usize, usize)>,
    graph: DiGraph<(), ()>,
}

impl<'a> Flow<'a> {
    fn of(code: &'a [Instruction]) -> Self {
        let index_of: BTreeMap<u64, usize> = code
            .iter()
            .enumerate()
            .map(|(index, instruction)| (instruction.address, index))
            .collect();
        let mut leaders = BTreeSet::from([0]);
        for (index, instruction) in code.iter().enumerate().filter(|(_, found)| ends_block(found)) {
            leaders.insert(index + 1);
            leaders.extend(instruction.targets.iter().filter_map(|target| index_of.get(target)));
        }
        leaders.remove(&code.len());
        let starts: Vec<usize> = leaders.into_iter().collect();
        let ends = starts.iter().skip(1).copied().chain([code.len()]);
        let blocks: Vec<(usize, usize)> = starts.iter().copied().zip(ends).collect();
        let mut graph = DiGraph::new();
        let nodes: Vec<NodeIndex> = blocks.iter().map(|_| graph.add_node(())).collect();
        for (block, (_, end)) in blocks.iter().enumerate() {
            let Some(last) = end.checked_sub(1).and_then(|index| code.get(index)) else { continue };
            if !last.opcode.starts_with("BRA.DIV") {
                for target in last.targets.iter().filter_map(|target| index_of.get(target)) {
                    if let Ok(to) = starts.binary_search(target) {
                        graph.update_edge(nodes[block], nodes[to], ());
                    }
                }
            }
            if falls_through(last) && block + 1 < blocks.len() {
                graph.update_edge(nodes[block], nodes[block + 1], ());
            }
        }
        Self { code, blocks, graph }
    }

    fn instructions(&self, block: usize) -> std::ops::Range<usize> {
        let (start, end) = self.blocks[block];
        start..end
    }

    fn tensor_count(&self, block: usize) -> usize {
        self.instructions(block).filter(|index| mix::is_tensor(&self.code[*index])).count()
    }

    fn successors(&self, block: usize) -> BTreeSet<usize> {
        self.graph.neighbors(NodeIndex::new(block)).map(NodeIndex::index).collect()
    }

    /// Every natural loop by its head.
    fn natural_loops(&self) -> BTreeMap<usize, Natural> {
        let mut found: BTreeMap<usize, Natural> = BTreeMap::new();
        if self.blocks.is_empty() {
            return found;
        }
        let dominators = simple_fast(&self.graph, NodeIndex::new(0));
        for edge in self.graph.edge_indices() {
            let Some((from, to)) = self.graph.edge_endpoints(edge) else { continue };
            let back =
                dominators.dominators(from).is_some_and(|mut above| above.any(|node| node == to));
            if back {
                let natural = found.entry(to.index()).or_insert_with(|| Natural {
                    body: BTreeSet::from([to.index()]),
                    latches: BTreeSet::new(),
                });
                natural.latches.insert(from.index());
                self.add_predecessors(from, &mut natural.body);
            }
        }
        found
    }

    /// Adds to a loop's body everything that reaches `latch` without passing the head.
    fn add_predecessors(&self, latch: NodeIndex, body: &mut BTreeSet<usize>) {
        let mut open = vec![latch];
        while let Some(node) = open.pop() {
            if body.insert(node.index()) {
                open.extend(self.graph.neighbors_directed(node, petgraph::Incoming));
            }
        }
    }

    fn describe(&self, head: usize, natural: &Natural) -> TensorLoop {
        let mut walk =
            Walk { flow: self, head, natural, best: BTreeMap::new(), open: BTreeSet::new() };
        let path = walk.from(head).map_or_else(|| vec![head], |found| found.blocks);
        let last = natural.body.iter().map(|block| self.blocks[*block].1 - 1).max();
        TensorLoop {
            start: self.code[self.blocks[head].0].address,
            end: last.map_or(0, |index| self.code[index].address),
            hot: path.iter().flat_map(|block| self.instructions(*block)).collect(),
        }
    }
}

/// A search for the hot path of one loop, with what was found so far.
struct Walk<'a> {
    flow: &'a Flow<'a>,
    head: usize,
    natural: &'a Natural,
    best: BTreeMap<usize, Option<HotPath>>,
    open: BTreeSet<usize>,
}

#[derive(Clone)]
struct HotPath {
    tensor: usize,
    instructions: usize,
    /// In order of execution.
    blocks: Vec<usize>,
}

impl Walk<'_> {
    /// The best path from `block` to a latch; `None` where there is none that repeats no block.
    fn from(&mut self, block: usize) -> Option<HotPath> {
        if let Some(known) = self.best.get(&block) {
            return known.clone();
        }
        if !self.open.insert(block) {
            return None;
        }
        let (tensor, instructions) =
            (self.flow.tensor_count(block), self.flow.instructions(block).len());
        let ends = self.natural.latches.contains(&block);
        let mut best = ends.then(|| HotPath { tensor, instructions, blocks: vec![block] });
        for next in self.flow.successors(block) {
            if next == self.head || !self.natural.body.contains(&next) {
                continue;
            }
            if let Some(rest) = self.from(next) {
                let found = HotPath {
                    tensor: tensor + rest.tensor,
                    instructions: instructions + rest.instructions,
                    blocks: [vec![block], rest.blocks].concat(),
                };
                let better = |old: &HotPath| {
                    (found.tensor, old.instructions) > (old.tensor, found.instructions)
                };
                if best.as_ref().is_none_or(better) {
                    best = Some(found);
                }
            }
        }
        self.open.remove(&block);
        self.best.insert(block, best.clone());
        best
    }
}

fn ends_block(instruction: &Instruction) -> bool {
    let jumps = ["BRA", "BRX", "JMP", "JMX", "UBRA", "EXIT", "RET", "KILL", "BPT"];
    jumps.contains(&instruction.mnemonic())
}

/// Whether the next instruction may follow: always, but after a jump without predicate.
fn falls_through(instruction: &Instruction) -> bool {
    let guarded = !matches!(instruction.guard.as_str(), "" | "@PT" | "@UPT");
    let first = instruction.operands.trim_start_matches('!');
    let by_operand = ["P", "UP"].iter().any(|kind| {
        first.strip_prefix(kind).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    let by_modifier =
        ["BRA.DIV", "BRA.CONV", "BPT"].iter().any(|start| instruction.opcode.starts_with(start));
    !ends_block(instruction) || guarded || by_operand || by_modifier
}
