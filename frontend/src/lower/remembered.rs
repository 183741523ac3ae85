//! Columns of a cache that are read by FP8 products alone: they can be rounded before they are
//! remembered. Rows are quantised one by one, so the numbers are the same, whichever step reads
//! them and however attention is arranged.

use super::fp8::Product;
use moec_ir::graph::{Function, NodeId, Op};
use std::collections::BTreeMap;

/// Columns `start .. start + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Columns {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Columns {
    fn meets(self, other: Self) -> bool {
        self.start < other.start + other.len && other.start < self.start + self.len
    }
}

/// For each `append`, the columns that are rounded before it remembers them.
///
/// Not seen: products that read a cache through other views than columns of its rows; those
/// quantise what they read.
pub(super) fn find(
    function: &Function,
    products: &BTreeMap<NodeId, Product<'_>>,
) -> BTreeMap<NodeId, Vec<Columns>> {
    let mut found = BTreeMap::new();
    for (at, node) in function.nodes.iter().enumerate() {
        let append = NodeId(at);
        if node.op != Op::Append || node.ty.shape.len() != 2 || function.outputs.contains(&append) {
            continue;
        }
        let readers: Vec<(NodeId, Columns)> = users(function, append)
            .filter_map(|r| Some((r, columns(function, append, r)?)))
            .collect();
        if readers.len() < users(function, append).count() {
            continue;
        }
        let quantises = |reader: NodeId| {
            let is_product = |user: NodeId| products.get(&user).is_some_and(Product::rounds);
            let is_slice = matches!(function.node(reader).op, Op::Slice { .. });
            let returned = function.outputs.contains(&reader);
            let mut through = users(function, reader).peekable();
            is_product(reader)
                || is_slice && !returned && through.peek().is_some() && through.all(is_product)
        };
        let mut ranges: Vec<Columns> = vec![];
        for (reader, own) in readers.iter().filter(|(r, _)| quantises(*r)) {
            let alone = |(r, c): &(NodeId, Columns)| {
                r == reader || c == own && quantises(*r) || !c.meets(*own)
            };
            if readers.iter().all(alone) && !ranges.contains(own) {
                ranges.push(*own);
            }
        }
        if !ranges.is_empty() {
            ranges.sort_unstable();
            found.insert(append, ranges);
        }
    }
    found
}

/// The remembered rows and the columns that a node is, if it is columns of them.
pub(super) fn source(function: &Function, node: NodeId) -> Option<(NodeId, Columns)> {
    let append = match function.node(node).op {
        Op::Append => node,
        Op::Slice { axis: 1, .. } => function.node(node).inputs[0],
        _ => return None,
    };
    let rows = function.node(append);
    if rows.op != Op::Append || rows.ty.shape.len() != 2 {
        return None;
    }
    Some((append, columns(function, append, node)?))
}

/// The columns of the rows of `append` that `reader` reads; the whole where it is a product.
fn columns(function: &Function, append: NodeId, reader: NodeId) -> Option<Columns> {
    match function.node(reader).op {
        Op::Slice { axis: 1, start, len } => Some(Columns { start, len }),
        Op::Append | Op::Linear => {
            Some(Columns { start: 0, len: function.node(append).ty.last()? })
        }
        _ => None,
    }
}

fn users(function: &Function, of: NodeId) -> impl Iterator<Item = NodeId> + '_ {
    let reads = move |at: &usize| function.nodes[*at].inputs.contains(&of);
    (0..function.nodes.len()).filter(reads).map(NodeId)
}
