//! A parsed and decoded module.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::decode;
use crate::error::Error;
use crate::program::Program;
use crate::ptx::parser;

/// PTX that has been parsed and decoded: kernels ready to launch on any [`Device`](crate::Device).
/// A clone is the same module.
#[derive(Clone, Debug)]
pub struct Module {
    pub(crate) program: Arc<Program>,
    text: Arc<str>,
    /// The same for launches whose memory is followed, once it is needed.
    watched: Arc<OnceLock<Option<Program>>>,
    /// Tells modules apart, so that each has one copy of its variables per device.
    pub(crate) id: u64,
}

impl Module {
    /// Parses and decodes a module.
    ///
    /// # Errors
    /// [`Error::Parse`] where the text is not PTX, [`Error::Unsupported`] where it uses an
    /// instruction that this machine does not have; both name the line.
    pub fn parse(ptx: &str) -> Result<Module, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let program = Arc::new(decode::decode(&parser::parse(ptx)?, false)?);
        let (text, watched, id) =
            (ptx.into(), Arc::default(), NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Module { program, text, watched, id })
    }

    /// The program for launches whose memory is followed.
    pub(crate) fn watched(&self) -> Option<&Program> {
        let decode = || decode::decode(&parser::parse(&self.text).ok()?, true).ok();
        self.watched.get_or_init(decode).as_ref()
    }

    /// The names of the kernels, in alphabetical order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.program.kernels.keys().map(String::as_str)
    }
}
