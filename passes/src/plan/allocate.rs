//! Gives temporaries memory: those that are never needed at once share it.

use super::emit::{Emitted, RawLaunch};
use super::place::Root;
use crate::cost::CostModel;
use moec_ir::Dim;
use moec_ir::plan::{Buffer, Launch, Operand};

/// A piece of workspace.
struct Slot {
    bytes: Dim,
    /// Whether a temporary lives in it.
    busy: bool,
}

/// The bytes of each workspace buffer, and the launches that address them.
pub(super) fn allocate(emitted: &Emitted, cost: &CostModel) -> (Vec<Dim>, Vec<Launch>) {
    let lives = lifetimes(emitted);
    let mut slots: Vec<Slot> = vec![];
    let mut slot_of: Vec<usize> = vec![0; emitted.temps.len()];
    for at in 0..emitted.launches.len() {
        for (temp, life) in lives.iter().enumerate() {
            match life {
                Some((_, last)) if *last + 1 == at => slots[slot_of[temp]].busy = false,
                _ => {}
            }
        }
        for (temp, life) in lives.iter().enumerate() {
            if life.is_some_and(|(first, _)| first == at) {
                slot_of[temp] = take(&mut slots, &emitted.temps[temp], cost);
            }
        }
    }
    let launches = emitted.launches.iter().map(|l| address(l, &slot_of)).collect();
    (slots.into_iter().map(|s| s.bytes).collect(), launches)
}

/// First and last launch that touches each temporary.
fn lifetimes(emitted: &Emitted) -> Vec<Option<(usize, usize)>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; emitted.temps.len()];
    for (at, launch) in emitted.launches.iter().enumerate() {
        for (root, _) in &launch.operands {
            if let Root::Temp(temp) = root {
                let first = lives[*temp].map_or(at, |(first, _)| first);
                lives[*temp] = Some((first, at));
            }
        }
    }
    lives
}

/// A free slot: one that is large enough in every step with the least to spare, else the one
/// that has to grow least, else a new one.
fn take(slots: &mut Vec<Slot>, bytes: &Dim, cost: &CostModel) -> usize {
    let size = |d: &Dim| d.eval(&cost.sizes);
    let free = || slots.iter().enumerate().filter(|(_, s)| !s.busy);
    let fitting = free()
        .filter(|(_, s)| s.bytes.covers(bytes))
        .min_by_key(|(at, s)| (size(&s.bytes), *at))
        .map(|(at, _)| at);
    let growing = || {
        free()
            .filter(|(_, s)| bytes.covers(&s.bytes))
            .max_by_key(|(at, s)| (size(&s.bytes), usize::MAX - at))
            .map(|(at, _)| at)
    };
    match fitting.or_else(growing) {
        Some(at) => {
            if !slots[at].bytes.covers(bytes) {
                slots[at].bytes = bytes.clone();
            }
            slots[at].busy = true;
            at
        }
        None => {
            slots.push(Slot { bytes: bytes.clone(), busy: true });
            slots.len() - 1
        }
    }
}

fn address(launch: &RawLaunch, slot_of: &[usize]) -> Launch {
    let operands = launch.operands.iter().map(|(root, offset)| Operand {
        buffer: match *root {
            Root::Input(i) => Buffer::Input(i),
            Root::Output(i) => Buffer::Output(i),
            Root::Weight(i) => Buffer::Weight(i),
            Root::Cache(i) => Buffer::Cache(i),
            Root::Table(i) => Buffer::Table(i),
            Root::Step(s) => Buffer::Step(s),
            Root::Symmetric(i) => Buffer::Symmetric(i),
            Root::Group => Buffer::Group,
            Root::Temp(i) => Buffer::Workspace(slot_of[i]),
        },
        offset: Dim::from(*offset),
    });
    Launch {
        kernel: launch.kernel,
        operands: operands.collect(),
        of_group: launch.of_group,
        computes: launch.computes.clone(),
    }
}
