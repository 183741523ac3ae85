//! The thin runtime: loads compiled artefacts and weights and runs them on a device.
//!
//! It links no LLVM and decides nothing: a plan names every buffer, weight and launch of a
//! step, and the same PTX runs on a GPU ([`device::cuda`]) and on its emulator
//! ([`device::emulator`]).
//!
//! ```no_run
//! use moec_runtime::{Artefact, Checkpoint, Engine, Phase, Rows, Session, device};
//! # fn main() -> moec_runtime::Result<()> {
//! let artefact = Artefact::read("tiny-v3.artefact".as_ref())?;
//! let weights = Checkpoint::open("tiny-v3".as_ref())?;
//! let device = Box::new(device::Emulator::default());
//! let mut session = Session::new(device, artefact, &weights, 128, &mut |_| {})?;
//! let sequence = session.open(128)?;
//! let logits = session.step(Phase::Prefill, &[(sequence, &[1, 2, 3])], Rows::Last)?;
//! assert_eq!(logits[0].len() as u64, session.vocab());
//! # Ok(())
//! # }
//! ```
//!
//! In reading order: [`artefact`] and [`weights`] (what is loaded), [`device`] (what runs
//! it), [`engine`] and [`session`] (how a model is stepped), [`group`] (the same with its experts spread
//! over several devices), [`reference`](mod@reference) (the same in
//! float64, without kernels), [`simulate`] (whether schedules agree), [`numerics`](mod@numerics) (what FP8 loses), [`tokenizer`], [`sampling`] and [`generate`](mod@generate) (text).

pub mod artefact;
pub mod device;
pub mod engine;
pub mod generate;
pub mod group;
pub mod numerics;
pub mod reference;
pub mod sampling;
pub mod session;
pub mod simulate;
pub mod tokenizer;
pub mod weights;

pub use artefact::{Artefact, Compiled};
pub use device::Device;
pub use engine::{Engine, Rows, SequenceId};
pub use generate::generate;
pub use group::GroupSession;
pub use moec_ir::Phase;
pub use numerics::numerics;
pub use reference::Reference;
pub use sampling::{Sampler, Sampling};
pub use session::Session;
pub use tokenizer::Tokenizer;
pub use weights::Checkpoint;

use moec_ir::Diagnostic;

/// What every fallible function of this crate returns: the value or all that is wrong.
pub type Result<T> = std::result::Result<T, Vec<Diagnostic>>;

/// A failure of one diagnostic.
pub(crate) fn fail<T>(diagnostic: Diagnostic) -> Result<T> {
    Err(vec![diagnostic])
}
