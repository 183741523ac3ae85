//! Puts a model on every rank of a group.

use super::{GroupSession, Room};
use crate::device::{Device, EmulatedGroup};
use crate::session::{Membership, Profile, check, load as load_rank};
use crate::weights::Progress;
use crate::{Artefact, Checkpoint, Phase, Result, fail};
use moec_ir::plan::PAGE_ROWS;
use moec_ir::timeline::Timeline;
use moec_ir::{Diagnostic, Ranks, Sizes};
use std::collections::BTreeMap;

pub(super) fn load(
    mut group: EmulatedGroup,
    artefact: &Artefact,
    checkpoint: &Checkpoint,
    room: Room,
    progress: &mut dyn FnMut(Progress),
) -> Result<GroupSession> {
    let checked = check(artefact, checkpoint)?;
    let ranks = group.ranks();
    match checked.ranks {
        Some(wanted) if wanted == ranks => {}
        wanted => {
            let wanted = wanted.unwrap_or(Ranks::ONE);
            let message = format!("the artefact is for {wanted}, and this is a group of {ranks}");
            let help = format!("build it for {ranks}");
            return fail(Diagnostic::error("E1004", message).help(help));
        }
    }
    let rows = room.rows.next_multiple_of(PAGE_ROWS);
    let most = room.most_tokens.unwrap_or(rows).max(1);
    // As kernels are told: a rank's tokens are numbered in 32 bits.
    if i32::try_from(most).is_err() {
        let message = format!("{most} tokens of a rank in a step are beyond 32-bit row numbers");
        return fail(Diagnostic::error("E1201", message).help("load the model with less room"));
    }
    let count = ranks.count();
    let mut symmetric = vec![BTreeMap::new(); count as usize];
    for (&phase, compiled) in &artefact.phases {
        let buffers = reserve(&mut group, &compiled.plan.symmetric, phase, most)?;
        for (addresses, of_rank) in symmetric.iter_mut().zip(buffers) {
            addresses.insert(phase, of_rank);
        }
    }
    // Where symmetric memory begins on each rank: what one says is true of all of it.
    let bases = group.reserve_symmetric(1, "symmetric memory")?;
    let mut states = Vec::new();
    for (rank, symmetric) in (0..).zip(symmetric) {
        let numbers = context(ranks, rank, most, &bases);
        let device = &mut group.rank(rank);
        let context = device.alloc(numbers.len() as u64, "group")?;
        device.write(context, &numbers)?;
        let member = Some(Membership { rank, most, symmetric, context });
        let mut of_all = |p: Progress| {
            let done = p.total.saturating_mul(u64::from(rank)).saturating_add(p.done);
            progress(Progress { done, total: p.total.saturating_mul(u64::from(count)) });
        };
        let phases = &artefact.phases;
        let limits = (&checked, rows);
        states.push(load_rank(device, phases, checkpoint, limits, member, &mut of_all)?);
    }
    Ok(GroupSession {
        group,
        states,
        sequences: BTreeMap::new(),
        next_sequence: 0,
        most,
        profile: Profile::default(),
        broken: false,
        executed: Timeline::default(),
        ticks: 0,
        stuck: vec![],
    })
}

/// Reserves a plan's symmetric buffers; returns their addresses by rank.
fn reserve(
    group: &mut EmulatedGroup,
    buffers: &[moec_ir::plan::Symmetric],
    phase: Phase,
    most: u64,
) -> Result<Vec<Vec<u64>>> {
    let mut by_rank = vec![Vec::new(); group.ranks().count() as usize];
    for buffer in buffers {
        let bytes = buffer.bytes.eval(&Sizes { tokens: most, past: 0, sequences: 0 });
        let addresses = group.reserve_symmetric(bytes, &format!("{} of {phase}", buffer.name))?;
        for (of_rank, address) in by_rank.iter_mut().zip(addresses) {
            of_rank.push(address);
        }
    }
    Ok(by_rank)
}

/// The numbers of [`Buffer::Group`](moec_ir::plan::Buffer::Group) of a rank.
fn context(ranks: Ranks, rank: u32, most: u64, bases: &[u64]) -> Vec<u8> {
    let own = bases[rank as usize];
    let reach = (0..ranks.count()).zip(bases).map(|(peer, base)| {
        let same_node = ranks.node_of(peer) == ranks.node_of(rank);
        if same_node { base.wrapping_sub(own) } else { 0 }
    });
    [u64::from(rank), most].into_iter().chain(reach).flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_told_the_way_to_those_of_its_node() {
        let bytes = context(Ranks::new(4, 2).unwrap(), 3, 7, &[100, 200, 300, 400]);
        let numbers: Vec<i64> =
            bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        assert_eq!(numbers, [3, 7, 0, 0, -100, 0]);
    }
}
