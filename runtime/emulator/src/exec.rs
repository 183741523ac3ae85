//! Execution: a context for one warp, SIMT control flow, CTAs and their barriers.

mod access;
mod barrier;
pub(crate) mod cluster;
mod context;
mod cta;
mod frame;
mod pending;
pub(crate) mod products;
pub(crate) mod shapes;
mod split;
mod traffic;
mod warp;
pub(crate) mod warpgroup;
mod watched;

pub(crate) use access::{Extend, addresses, load_exec, pack, space_number, store_exec};
pub(crate) use barrier::{Arrival, BARRIERS};
pub(crate) use cluster::ClusterRun;
pub(crate) use context::{Counters, Cx, Launch, RawMark, Worker, blend, lanes as lanes_of};
pub(crate) use cta::Progress;
pub(crate) use pending::{Awaited, Operation, Origin};
pub(crate) use split::{Gathered, Wait};
pub(crate) use watched::{watched_load, watched_store};
