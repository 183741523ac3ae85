//! Everything that can go wrong, as one type.

use crate::fault::Fault;
use crate::hang::Hang;

/// Why a module was refused, a launch failed or a file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not PTX.
    #[error("PTX line {line}: {message}")]
    Parse {
        /// Line, from 1.
        line: u32,
        /// What is wrong.
        message: String,
    },
    /// The text is PTX that this machine does not execute.
    #[error("PTX line {line}: `{instruction}` is not supported: {message}")]
    Unsupported {
        /// Line, from 1.
        line: u32,
        /// The instruction as written, without operands.
        instruction: String,
        /// What about it.
        message: String,
    },
    /// A kernel did something that it must not.
    #[error("{0}")]
    Fault(Box<Fault>),
    /// Nothing can run and something waits.
    #[error("deadlock in kernel `{kernel}`: {waits}")]
    Deadlock {
        /// The kernel.
        kernel: String,
        /// Who waits where for what, as text.
        waits: String,
        /// The same in parts.
        hang: Box<Hang>,
    },
    /// A launch whose shape, arguments or needs do not fit.
    #[error("cannot launch `{kernel}`: {message}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// What does not fit, with both numbers.
        message: String,
    },
    /// A limit of this machine.
    #[error("limit reached: {0}")]
    Limit(String),
    /// A bad address, size or name given by the host program.
    #[error("device memory: {0}")]
    Memory(String),
    /// A launch description that cannot be used.
    #[error("{path}: {message}")]
    Description {
        /// The file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

impl Error {
    pub(crate) fn parse(line: u32, message: impl Into<String>) -> Error {
        Error::Parse { line, message: message.into() }
    }
}
