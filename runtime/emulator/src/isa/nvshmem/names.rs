//! Names and signatures.

use super::calls::Call;

/// Who calls together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Thread,
    Warp,
    Block,
}

/// A function under all its names.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) names: &'static [&'static str],
    /// Bytes of each argument.
    pub(super) args: &'static [u32],
    /// Bytes of the result; 0 for none.
    pub(super) result: u32,
    /// Bytes of the element.
    pub(super) width: u32,
    pub(super) group: Group,
    pub(super) call: Call,
}

const fn plain(
    names: &'static [&'static str],
    args: &'static [u32],
    result: u32,
    call: Call,
) -> Function {
    Function { names, args, result, width: 8, group: Group::Thread, call }
}

const fn of_width(
    names: &'static [&'static str],
    args: &'static [u32],
    result: u32,
    width: u32,
    call: Call,
) -> Function {
    Function { names, args, result, width, group: Group::Thread, call }
}

const fn by(
    group: Group,
    names: &'static [&'static str],
    args: &'static [u32],
    call: Call,
) -> Function {
    Function { names, args, result: 0, width: 8, group, call }
}

/// `(dest, source, bytes, pe)`.
const MOVE: &[u32] = &[8, 8, 8, 4];
/// `(dest, source, bytes, sig_addr, signal, sig_op, pe)`.
const MOVE_SIGNAL: &[u32] = &[8, 8, 8, 8, 8, 4, 4];

/// All functions. Widths of C types are those of Linux on 64 bits.
pub(super) static FUNCTIONS: &[Function] = &[
    plain(&["nvshmem_my_pe"], &[], 4, Call::MyPe),
    plain(&["nvshmem_n_pes"], &[], 4, Call::Pes),
    plain(&["nvshmem_team_my_pe"], &[4], 4, Call::TeamMyPe),
    plain(&["nvshmem_team_n_pes"], &[4], 4, Call::TeamPes),
    plain(&["nvshmem_ptr"], &[8, 4], 8, Call::Pointer),
    plain(&["nvshmem_fence"], &[], 0, Call::Fence),
    plain(&["nvshmem_quiet"], &[], 0, Call::Quiet),
    plain(&["nvshmem_putmem"], MOVE, 0, Call::Put { copies: true }),
    by(Group::Warp, &["nvshmemx_putmem_warp"], MOVE, Call::Put { copies: true }),
    by(Group::Block, &["nvshmemx_putmem_block"], MOVE, Call::Put { copies: true }),
    plain(&["nvshmem_putmem_nbi"], MOVE, 0, Call::Put { copies: false }),
    by(Group::Warp, &["nvshmemx_putmem_nbi_warp"], MOVE, Call::Put { copies: false }),
    by(Group::Block, &["nvshmemx_putmem_nbi_block"], MOVE, Call::Put { copies: false }),
    plain(&["nvshmem_putmem_signal"], MOVE_SIGNAL, 0, Call::PutSignal { copies: true }),
    by(
        Group::Warp,
        &["nvshmemx_putmem_signal_warp"],
        MOVE_SIGNAL,
        Call::PutSignal { copies: true },
    ),
    by(
        Group::Block,
        &["nvshmemx_putmem_signal_block"],
        MOVE_SIGNAL,
        Call::PutSignal { copies: true },
    ),
    plain(&["nvshmem_putmem_signal_nbi"], MOVE_SIGNAL, 0, Call::PutSignal { copies: false }),
    by(
        Group::Warp,
        &["nvshmemx_putmem_signal_nbi_warp"],
        MOVE_SIGNAL,
        Call::PutSignal { copies: false },
    ),
    by(
        Group::Block,
        &["nvshmemx_putmem_signal_nbi_block"],
        MOVE_SIGNAL,
        Call::PutSignal { copies: false },
    ),
    plain(&["nvshmem_getmem"], MOVE, 0, Call::Get { at_once: true }),
    by(Group::Warp, &["nvshmemx_getmem_warp"], MOVE, Call::Get { at_once: true }),
    by(Group::Block, &["nvshmemx_getmem_block"], MOVE, Call::Get { at_once: true }),
    plain(&["nvshmem_getmem_nbi"], MOVE, 0, Call::Get { at_once: false }),
    by(Group::Warp, &["nvshmemx_getmem_nbi_warp"], MOVE, Call::Get { at_once: false }),
    by(Group::Block, &["nvshmemx_getmem_nbi_block"], MOVE, Call::Get { at_once: false }),
    plain(&["nvshmemx_signal_op"], &[8, 8, 4, 4], 0, Call::SignalOp),
    plain(&["nvshmem_signal_fetch"], &[8], 8, Call::Fetch),
    plain(&["nvshmem_signal_wait_until"], &[8, 4, 8], 8, Call::WaitUntil),
    plain(
        &[
            "nvshmem_uint64_wait_until",
            "nvshmem_ulong_wait_until",
            "nvshmem_ulonglong_wait_until",
            "nvshmem_size_wait_until",
        ],
        &[8, 4, 8],
        0,
        Call::WaitUntil,
    ),
    of_width(
        &["nvshmem_uint32_wait_until", "nvshmem_uint_wait_until"],
        &[8, 4, 4],
        0,
        4,
        Call::WaitUntil,
    ),
    plain(
        &[
            "nvshmem_uint64_p",
            "nvshmem_int64_p",
            "nvshmem_long_p",
            "nvshmem_ulong_p",
            "nvshmem_longlong_p",
            "nvshmem_ulonglong_p",
            "nvshmem_size_p",
            "nvshmem_ptrdiff_p",
            "nvshmem_double_p",
        ],
        &[8, 8, 4],
        0,
        Call::PutOne,
    ),
    of_width(
        &[
            "nvshmem_uint32_p",
            "nvshmem_int32_p",
            "nvshmem_uint_p",
            "nvshmem_int_p",
            "nvshmem_float_p",
        ],
        &[8, 4, 4],
        0,
        4,
        Call::PutOne,
    ),
    plain(
        &[
            "nvshmem_uint64_atomic_add",
            "nvshmem_int64_atomic_add",
            "nvshmem_long_atomic_add",
            "nvshmem_ulong_atomic_add",
            "nvshmem_longlong_atomic_add",
            "nvshmem_ulonglong_atomic_add",
            "nvshmem_size_atomic_add",
        ],
        &[8, 8, 4],
        0,
        Call::AddOne,
    ),
    of_width(
        &[
            "nvshmem_uint32_atomic_add",
            "nvshmem_int32_atomic_add",
            "nvshmem_uint_atomic_add",
            "nvshmem_int_atomic_add",
        ],
        &[8, 4, 4],
        0,
        4,
        Call::AddOne,
    ),
];

/// The number of the function with a name.
pub(super) fn find(name: &str) -> Option<usize> {
    FUNCTIONS.iter().position(|function| function.names.contains(&name))
}

/// `NVSHMEM_CMP_EQ`, `NE`, `GT`, `LE`, `LT`, `GE`, of unsigned values.
pub(super) fn comparison(code: u32) -> Option<fn(u64, u64) -> bool> {
    Some(match code {
        0 => |a, b| a == b,
        1 => |a, b| a != b,
        2 => |a, b| a > b,
        3 => |a, b| a <= b,
        4 => |a, b| a < b,
        5 => |a, b| a >= b,
        _ => return None,
    })
}

/// `NVSHMEM_SIGNAL_SET` and `NVSHMEM_SIGNAL_ADD`: whether the signal is added.
pub(super) fn signal_adds(code: u32) -> Option<bool> {
    match code {
        9 => Some(false),
        10 => Some(true),
        _ => None,
    }
}
