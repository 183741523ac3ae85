//! Basic blocks, where branches meet again, and final addresses.

use super::body::{Draft, Goes};
use crate::isa;
use crate::program::{Inst, NO_PC, NO_REG};

/// Code with addresses.
#[derive(Debug, Default)]
pub(crate) struct Linked {
    pub(crate) insts: Vec<Inst>,
    pub(crate) lines: Vec<u32>,
    pub(crate) opcodes: Vec<u32>,
    pub(crate) tables: Vec<Vec<u32>>,
}

struct Block {
    /// First draft and one past the last.
    start: usize,
    end: usize,
    next: Vec<usize>,
}

/// Gives branches their targets (`aux`) and meeting points (`imm`), and puts a join wherever
/// lanes meet.
pub(crate) fn link(drafts: &[Draft], label_at: &[u32]) -> Linked {
    let blocks = blocks(drafts, label_at);
    let meets = post_dominators(&blocks);
    let mut is_join = vec![false; drafts.len() + 1];
    for (index, block) in blocks.iter().enumerate() {
        let last = &drafts[block.end - 1];
        match last.goes {
            Goes::Branch(_) | Goes::Table(_) if block.next.len() > 1 => {
                if let Some(meet) = meets[index] {
                    is_join[blocks[meet].start] = true;
                }
            }
            Goes::Meet => is_join[block.end] = true,
            _ => {}
        }
    }
    let mut address = vec![0u32; drafts.len() + 1];
    let mut next = 0;
    for index in 0..drafts.len() {
        address[index] = next;
        next += 1 + u32::from(is_join[index]);
    }
    address[drafts.len()] = next;
    let mut code = Linked::default();
    let mut block = 0;
    for (index, draft) in drafts.iter().enumerate() {
        while blocks[block].end <= index {
            block += 1;
        }
        let mut inst = draft.inst;
        let meet = meets[block].map_or(NO_PC, |meet| address[blocks[meet].start]);
        match &draft.goes {
            Goes::Branch(label) => {
                inst.aux = address[target(label_at, *label)];
                inst.imm = u64::from(meet);
            }
            Goes::Table(labels) => {
                inst.aux = code.tables.len() as u32;
                inst.imm = u64::from(meet);
                let table = labels.iter().map(|&label| address[target(label_at, label)]);
                code.tables.push(table.collect());
            }
            Goes::On | Goes::Out | Goes::Meet => {}
        }
        if is_join[index] {
            let join = Inst { exec: isa::control::join, guard: NO_REG, guard_flip: 0, ..inst };
            push(&mut code, join, draft);
        }
        push(&mut code, inst, draft);
    }
    code
}

fn push(code: &mut Linked, inst: Inst, draft: &Draft) {
    code.insts.push(inst);
    code.lines.push(draft.line);
    code.opcodes.push(draft.opcode);
}

fn target(label_at: &[u32], label: u32) -> usize {
    label_at[label as usize] as usize
}

fn blocks(drafts: &[Draft], label_at: &[u32]) -> Vec<Block> {
    let mut starts = vec![false; drafts.len() + 1];
    starts[0] = true;
    for (index, draft) in drafts.iter().enumerate() {
        if !matches!(draft.goes, Goes::On) {
            starts[index + 1] = true;
        }
        match &draft.goes {
            Goes::Branch(label) => starts[target(label_at, *label)] = true,
            Goes::Table(labels) => {
                for &label in labels {
                    starts[target(label_at, label)] = true;
                }
            }
            _ => {}
        }
    }
    let firsts: Vec<usize> = (0..drafts.len()).filter(|&index| starts[index]).collect();
    let block_of = |draft: usize| firsts.partition_point(|&first| first <= draft) - 1;
    let mut blocks = Vec::with_capacity(firsts.len());
    for (index, &start) in firsts.iter().enumerate() {
        let end = firsts.get(index + 1).copied().unwrap_or(drafts.len());
        let last = &drafts[end - 1];
        let falls = end < drafts.len();
        let guarded = last.inst.guard != NO_REG;
        let mut next = match &last.goes {
            Goes::On | Goes::Meet if falls => vec![index + 1],
            Goes::On | Goes::Meet => vec![],
            Goes::Out => vec![],
            Goes::Branch(label) => vec![block_of(target(label_at, *label))],
            Goes::Table(labels) => {
                labels.iter().map(|&label| block_of(target(label_at, label))).collect()
            }
        };
        if guarded && falls && !matches!(last.goes, Goes::On | Goes::Meet) {
            next.push(index + 1);
        }
        next.sort_unstable();
        next.dedup();
        blocks.push(Block { start, end, next });
    }
    blocks
}

/// The immediate post-dominator of each block; none where all ways end apart, or never.
/// Method: Cooper, Harvey, Kennedy, "A Simple, Fast Dominance Algorithm" (2001), on the reversed
/// graph with one node behind all exits.
fn post_dominators(blocks: &[Block]) -> Vec<Option<usize>> {
    let exit = blocks.len();
    let mut before = vec![Vec::new(); blocks.len() + 1];
    for (index, block) in blocks.iter().enumerate() {
        for &next in &block.next {
            before[next].push(index);
        }
        if block.next.is_empty() {
            before[exit].push(index);
        }
    }
    // Post-order of the reversed graph, from the exit.
    let mut number = vec![usize::MAX; blocks.len() + 1];
    let mut order = Vec::new();
    let mut stack = vec![(exit, 0)];
    let mut seen = vec![false; blocks.len() + 1];
    seen[exit] = true;
    while let Some((node, child)) = stack.pop() {
        if let Some(&next) = before[node].get(child) {
            stack.push((node, child + 1));
            if !seen[next] {
                seen[next] = true;
                stack.push((next, 0));
            }
        } else {
            number[node] = order.len();
            order.push(node);
        }
    }
    let mut dominator = vec![usize::MAX; blocks.len() + 1];
    dominator[exit] = exit;
    let mut changed = true;
    while changed {
        changed = false;
        for &node in order.iter().rev().filter(|&&node| node != exit) {
            let mut best = usize::MAX;
            let exits = [exit];
            let after: &[usize] =
                if blocks[node].next.is_empty() { &exits } else { &blocks[node].next };
            for &next in after {
                if dominator[next] == usize::MAX {
                    continue;
                }
                best = if best == usize::MAX {
                    next
                } else {
                    intersect(best, next, &dominator, &number)
                };
            }
            if best != dominator[node] {
                dominator[node] = best;
                changed = true;
            }
        }
    }
    (0..blocks.len()).map(|block| Some(dominator[block]).filter(|&meet| meet < exit)).collect()
}

fn intersect(mut a: usize, mut b: usize, dominator: &[usize], number: &[usize]) -> usize {
    while a != b {
        while number[a] < number[b] {
            a = dominator[a];
        }
        while number[b] < number[a] {
            b = dominator[b];
        }
    }
    a
}
