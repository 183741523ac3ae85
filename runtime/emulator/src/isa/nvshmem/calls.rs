//! What the functions do.

use super::names::signal_adds;
use crate::coherence::{Flight, Order, Piece, Scope, Signal};
use crate::exec::Cx;
use crate::fault::{FaultKind, RawFault};
use crate::group::Member;
use crate::memory::window::rank_base;

/// Pieces that a message is cut into, at most.
const PIECES: u64 = 4;

/// The kinds of functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    MyPe,
    Pes,
    TeamMyPe,
    TeamPes,
    Pointer,
    Fence,
    Quiet,
    /// `copies`: the source may be changed as soon as the call returns.
    Put {
        copies: bool,
    },
    PutSignal {
        copies: bool,
    },
    Get {
        at_once: bool,
    },
    SignalOp,
    Fetch,
    WaitUntil,
    PutOne,
    AddOne,
}

/// The thread that calls, or that speaks for its group, and the bytes of an element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) lane: u32,
    pub(super) width: u32,
}

/// A range of bytes at a PE.
struct Range {
    host: *mut u8,
    address: u64,
}

impl Call {
    pub(super) fn waits(self) -> bool {
        self == Call::WaitUntil
    }

    pub(super) fn is_quiet(self) -> bool {
        self == Call::Quiet
    }

    /// Does it and gives the result, or 0.
    pub(super) fn perform(
        self,
        cx: &mut Cx<'_>,
        caller: Caller,
        args: &[u64],
    ) -> Result<u64, Box<RawFault>> {
        let Some(member) = cx.launch.member else { return Ok(0) };
        let (fabric, lane) = (member.fabric, caller.lane);
        let ranks = fabric.memories.len() as u64;
        match (self, args) {
            (Call::MyPe, _) => return Ok(u64::from(member.rank)),
            (Call::Pes, _) => return Ok(ranks),
            (Call::TeamMyPe, &[team]) => return team_of(&member, team, lane).map(|team| team.0),
            (Call::TeamPes, &[team]) => return team_of(&member, team, lane).map(|team| team.1),
            (Call::Pointer, &[address, pe]) => {
                let to = at_pe(cx, &member, lane, (address, pe), 1)?;
                let same = fabric.node(pe as u32) == fabric.node(member.rank);
                return Ok(if same { to.address } else { 0 });
            }
            (Call::Fence, _) => {
                cx.publish(Scope::Sys);
                if let Some(mut machine) = cx.machine() {
                    machine.fence_messages(member.rank);
                }
            }
            (Call::Quiet, _) => {
                cx.publish(Scope::Sys);
                cx.acquire(Scope::Sys);
            }
            (Call::Put { copies }, &[to, from, bytes, pe]) => {
                let to = at_pe(cx, &member, lane, (to, pe), bytes)?;
                let from = own(cx, lane, from, bytes)?;
                send(cx, pe, pieces(&from, &to, bytes), copies, None);
            }
            (Call::PutSignal { copies }, &[to, from, bytes, signal, value, op, pe]) => {
                let to = at_pe(cx, &member, lane, (to, pe), bytes)?;
                let from = own(cx, lane, from, bytes)?;
                let signal = signal_at(cx, &member, lane, (signal, pe), (value, op))?;
                send(cx, pe, pieces(&from, &to, bytes), copies, Some(signal));
            }
            (Call::Get { at_once }, &[to, from, bytes, pe]) => {
                let from = at_pe(cx, &member, lane, (from, pe), bytes)?;
                let to = own(cx, lane, to, bytes)?;
                let pieces = pieces(&from, &to, bytes);
                let number = send(cx, u64::from(member.rank), pieces, false, None);
                if at_once && let Some(mut machine) = cx.machine() {
                    machine.deliver_message(number);
                }
            }
            (Call::SignalOp, &[signal, value, op, pe]) => {
                let signal = signal_at(cx, &member, lane, (signal, pe), (value, op))?;
                send(cx, pe, Vec::new(), false, Some(signal));
            }
            (Call::Fetch, &[address]) => {
                let host = cx.lane_host(0, lane, address, 8, false)?;
                // SAFETY: the address was checked.
                return Ok(unsafe { cx.load_watched((address, host), 8, Order::Mmio) } as u64);
            }
            (Call::PutOne | Call::AddOne, &[to, value, pe]) => {
                let (bytes, adds) = (caller.width, self == Call::AddOne);
                let to = at_pe(cx, &member, lane, (to, pe), u64::from(bytes))?;
                aligned(lane, to.address, bytes)?;
                let signal = Signal { to: to.host, address: to.address, value, adds, bytes };
                send(cx, pe, Vec::new(), false, Some(signal));
            }
            _ => return Err(Cx::lane_misuse(lane, "a broken instruction")),
        }
        Ok(0)
    }
}

/// `NVSHMEM_TEAM_WORLD` (0), `NVSHMEM_TEAM_SHARED` (1) and `NVSHMEMX_TEAM_NODE` (2): the PE's
/// number in the team, and the team's size.
fn team_of(member: &Member<'_>, team: u64, lane: u32) -> Result<(u64, u64), Box<RawFault>> {
    let (rank, per_node) = (member.rank, member.fabric.ranks_per_node);
    match team {
        0 => Ok((u64::from(rank), member.fabric.memories.len() as u64)),
        1 | 2 => Ok((u64::from(rank % per_node), u64::from(per_node))),
        _ => Err(Cx::lane_misuse(lane, format!("there is no team {team}"))),
    }
}

/// The same place at a PE as an address of the own symmetric memory.
fn at_pe(
    cx: &Cx<'_>,
    member: &Member<'_>,
    lane: u32,
    (address, pe): (u64, u64),
    bytes: u64,
) -> Result<Range, Box<RawFault>> {
    let fault = |kind| {
        let access = Some((address, u32::try_from(bytes).unwrap_or(u32::MAX)));
        let nearest = Some(cx.launch.memory_of(address).describe(address));
        Err(Box::new(RawFault { kind, lane, access, nearest, origin: None }))
    };
    let Some(memory) = member.fabric.memories.get(pe as usize) else {
        let rule = format!("there is no PE {pe} of {}", member.fabric.memories.len());
        return fault(FaultKind::Misuse(rule));
    };
    if !cx.launch.memory.is_symmetric(address) {
        let rule = format!(
            "rank {} names memory of PE {pe} by an address that is not one of its own symmetric \
             memory",
            member.rank
        );
        return fault(FaultKind::Peer(rule));
    }
    let at = address - rank_base(member.rank) + rank_base(pe as u32);
    match memory.region(at) {
        Some(region) if bytes == 0 || region.holds(at, at + bytes) => {
            let host = region.host.wrapping_add((at - region.start) as usize);
            Ok(Range { host, address: at })
        }
        _ => fault(FaultKind::OutOfBounds),
    }
}

/// The own side of a message.
fn own(cx: &mut Cx<'_>, lane: u32, address: u64, bytes: u64) -> Result<Range, Box<RawFault>> {
    let found = cx.launch.memory.region(address);
    if let Some(region) = found
        && (bytes == 0 || region.holds(address, address + bytes))
    {
        let host = region.host.wrapping_add((address - region.start) as usize);
        return Ok(Range { host, address });
    }
    let nearest = Some(cx.launch.memory.describe(address));
    let access = Some((address, u32::try_from(bytes).unwrap_or(u32::MAX)));
    Err(Box::new(RawFault { kind: FaultKind::OutOfBounds, lane, access, nearest, origin: None }))
}

fn aligned(lane: u32, address: u64, bytes: u32) -> Result<(), Box<RawFault>> {
    if address.is_multiple_of(u64::from(bytes)) {
        return Ok(());
    }
    let (kind, access) = (FaultKind::Misaligned, Some((address, bytes)));
    Err(Box::new(RawFault { kind, lane, access, nearest: None, origin: None }))
}

fn signal_at(
    cx: &Cx<'_>,
    member: &Member<'_>,
    lane: u32,
    place: (u64, u64),
    (value, op): (u64, u64),
) -> Result<Signal, Box<RawFault>> {
    let Some(adds) = signal_adds(op as u32) else {
        let rule = format!("{op} is neither NVSHMEM_SIGNAL_SET (9) nor NVSHMEM_SIGNAL_ADD (10)");
        return Err(Cx::lane_misuse(lane, rule));
    };
    let to = at_pe(cx, member, lane, place, 8)?;
    aligned(lane, to.address, 8)?;
    Ok(Signal { to: to.host, address: to.address, value, adds, bytes: 8 })
}

/// A message's bytes, cut at multiples of 16.
fn pieces(from: &Range, to: &Range, bytes: u64) -> Vec<Piece> {
    let step = bytes.div_ceil(PIECES).next_multiple_of(16).max(16);
    let starts = (0..bytes).step_by(step as usize);
    let cut = starts.map(|at| Piece {
        from: from.host.wrapping_add(at as usize),
        to: to.host.wrapping_add(at as usize),
        address: to.address + at,
        bytes: step.min(bytes - at),
    });
    cut.collect()
}

fn send(
    cx: &mut Cx<'_>,
    pe: u64,
    mut pieces: Vec<Piece>,
    copies: bool,
    signal: Option<Signal>,
) -> u64 {
    // What the caller has stored to the source is there when the network reads it.
    cx.publish(Scope::Sys);
    let mut copy = Vec::new();
    if copies {
        for piece in &pieces {
            // SAFETY: the range was checked.
            copy.extend_from_slice(unsafe {
                std::slice::from_raw_parts(piece.from, piece.bytes as usize)
            });
        }
        let mut at = 0;
        for piece in &mut pieces {
            piece.from = copy[at..].as_ptr();
            at += piece.bytes as usize;
        }
    }
    let (from, writer) = (cx.launch.rank(), cx.writer());
    let flight = Flight { from, to: pe as u32, pieces, signal, writer, copy, epoch: 0, number: 0 };
    cx.machine().map_or(0, |mut machine| machine.send(flight))
}
