//! Routed experts that are spread over a group of ranks (`moec_ir::kernel::exchange`): one
//! persistent kernel whose CTAs play different parts, by their index.
//!
//! The first CTAs communicate; each of their warps goes through these tasks in turn, of each every
//! so manyth:
//!
//! 1. `send`: rows of this rank's tokens to the ranks of the node that have experts of theirs, and
//!    once to each other node;
//! 2. `hand_on`: rows that came from other nodes to the ranks of the node;
//! 3. `give_back`: results of this rank's experts to where their tokens came from, or to the rank
//!    of the node that stands between;
//! 4. `gateway`: sums of results for tokens of other nodes, on to those;
//! 5. `finish`: sums of results for this rank's tokens.
//!
//! The others compute: the first product of every row that has come, the function between, the
//! second product (`tensor` on tensor cores, `cores` without).
//!
//! Nobody waits for a whole phase: what is waited for is one row (`progress`, and the flags behind
//! rows that other ranks write). A task waits only for tasks that come before it in the order
//! send, hand on, first product, function, second product, give back, gateway, finish, on whatever
//! rank, and every CTA and warp goes through its tasks in that order; so there is always one that
//! can go on, as long as all CTAs are resident.
//!
//! What one exchange writes, the one before does not read any more: a rank leaves
//! [`moec_ir::kernel::KernelSpec::ExchangeRoutes`] (`routes`) after all have entered it, and so
//! have ended the exchange before.

mod activate;
mod copy;
mod cores;
mod finish;
mod gateway;
mod give_back;
mod hand_on;
mod member;
mod progress;
mod routes;
mod send;
mod sorted;
mod spread;
mod tensor;

pub(super) use routes::design as routes;
pub(super) use spread::design as spread;

use moec_ir::Diagnostic;
use moec_ir::kernel::Exchange;

/// Experts of a token at most: one for each lane, and one lane more.
const MOST_CHOSEN: u64 = 31;

/// Refuses what the code of both kernels cannot do.
fn check(family: &str, exchange: &Exchange) -> Result<(), Diagnostic> {
    let count = u64::from(exchange.ranks.count());
    let refuse = |what: String| {
        let message = format!("a {family} kernel has {what}");
        Err(Diagnostic::error("E0902", message).help("build the artefact again"))
    };
    if exchange.experts == 0 || !exchange.experts.is_multiple_of(count) {
        return refuse(format!("{} experts for {count} ranks", exchange.experts));
    }
    if !(1..=MOST_CHOSEN).contains(&exchange.top_k) {
        return refuse(format!("{} experts of a token", exchange.top_k));
    }
    Ok(())
}
