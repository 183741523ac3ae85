//! From the graph to the plan, by equality saturation.
//!
//! Each function of a model becomes an e-graph that holds mathematical operations and kernels
//! alike. Rules ([`rules`]) add every form they know; extraction picks the cheapest kernels for
//! the target and the phase; plan construction lays values out and orders launches. A layer
//! that occurs 58 times is optimised once.
//!
//! ```
//! use moec_ir::{Graph, Phase, Target};
//! let graph: Graph = r#"
//! graph Tiny context 16
//! fn head(bf16[T, 8]) {
//!   param w: bf16[4, 8] = "head.weight"
//!   %0 = input 0 () : bf16[T, 8]
//!   %1 = param 0 () : bf16[4, 8]
//!   %2 logits = linear (%0, %1) : f32[T, 4]
//!   return %2
//! }
//! entry main(bf16[T, 8]) {
//!   %1 = head(%0)
//!   return %1
//! }
//! "#.trim().parse().unwrap();
//! let target = Target::named("h800").unwrap();
//! let optimized = moec_passes::optimize(&graph, &target, Phase::Decode, &Default::default()).unwrap();
//! assert_eq!(optimized.plan.functions[0].launches.len(), 1);
//! ```
//!
//! In reading order: [`language`] (what e-graphs hold), [`pattern`] and [`rules`] (what equals
//! what), [`saturate`], [`cost`], [`extract`], [`plan`] (launches, views, buffers),
//! [`verify_plan`], [`explain`], and [`optimize()`], which calls them in turn. Beside them stands
//! [`partition`]: which SMs communicate and which compute where experts are spread over ranks.

mod build;
pub mod cost;
mod explain;
mod extract;
mod language;
mod mla;
mod optimize;
pub mod partition;
mod pattern;
mod plan;
mod rules;
mod saturate;
mod spread;
mod verify_plan;
mod why_not;

pub use explain::{Explanation, KernelLine, RuleStep};
pub use mla::{BreakEven, Mla, MlaTable, mla_table};
pub use optimize::{Optimized, Options, RuleInfo, default_workload, optimize, rules};
pub use rules::Family;
pub use saturate::Limits;
pub use verify_plan::verify_plan;
pub use why_not::{Place, Reason, Total, WhyNot, why_not};
