//! What a kernel can do wrong, and where it did.

use std::fmt;

use crate::exec::Origin;

/// The kind of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside every allocation, or past the end of one.
    OutOfBounds,
    /// An access to memory that the host has freed.
    UseAfterFree,
    /// An address that is not a multiple of the access size (PTX ISA 6.4.1).
    Misaligned,
    /// A store to kernel parameters or other read-only memory.
    ReadOnly,
    /// `trap`, `brkpt` or a failed assertion, with its message.
    Trap(String),
    /// An instruction used against its rules, with the rule.
    Misuse(String),
    /// An access to another rank's memory that no copy over NVLink reaches, and why.
    Peer(String),
    /// A limit of this machine: stack, recursion, registers, time.
    Limit(String),
}

impl fmt::Display for FaultKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultKind::OutOfBounds => out.write_str("access out of bounds"),
            FaultKind::UseAfterFree => out.write_str("access to freed memory"),
            FaultKind::Misaligned => out.write_str("misaligned access"),
            FaultKind::ReadOnly => out.write_str("store to read-only memory"),
            FaultKind::Trap(message) => write!(out, "trap: {message}"),
            FaultKind::Misuse(message) | FaultKind::Peer(message) | FaultKind::Limit(message) => {
                out.write_str(message)
            }
        }
    }
}

/// A fault and its place.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The kernel that was launched.
    pub kernel: String,
    /// The rank and the launch's label, in groups of devices.
    pub rank: Option<(u32, String)>,
    /// The CTA's coordinates in the grid.
    pub cta: [u32; 3],
    /// The thread's coordinates in its CTA.
    pub thread: [u32; 3],
    /// The line of the PTX text, from 1; 0 where no instruction is to blame.
    pub line: u32,
    /// The opcode at that line.
    pub instruction: String,
    /// The address and the bytes accessed, for faults of memory.
    pub access: Option<(u64, u32)>,
    /// What lies next to the address, for faults of memory.
    pub nearest: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([cx, cy, cz], [tx, ty, tz]) = (self.cta, self.thread);
        write!(out, "{}", self.kind)?;
        if let Some((address, bytes)) = self.access {
            write!(out, " ({bytes} bytes at 0x{address:x})")?;
        }
        let rank = self.rank.as_ref();
        let rank =
            rank.map_or(String::new(), |(rank, label)| format!(" (`{label}` of rank {rank})"));
        write!(
            out,
            " in kernel `{}`{rank}, CTA ({cx}, {cy}, {cz}), thread ({tx}, {ty}, {tz}), PTX line {}: `{}`",
            self.kernel, self.line, self.instruction
        )?;
        if let Some(nearest) = &self.nearest {
            write!(out, "; {nearest}")?;
        }
        Ok(())
    }
}

/// A fault before its place is filled in.
#[derive(Debug)]
pub(crate) struct RawFault {
    pub(crate) kind: FaultKind,
    pub(crate) lane: u32,
    pub(crate) access: Option<(u64, u32)>,
    pub(crate) nearest: Option<String>,
    /// Where it was issued, if not by the running instruction.
    pub(crate) origin: Option<Origin>,
}

impl RawFault {
    pub(crate) fn new(kind: FaultKind, lane: u32) -> Box<RawFault> {
        Box::new(RawFault { kind, lane, access: None, nearest: None, origin: None })
    }
}
