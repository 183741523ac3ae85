//! How mistakes reach the user.

use moec_ir::{Diagnostic, Severity};
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

/// Why a command stopped.
pub(crate) enum Failure {
    /// Mistakes in the input, and the source they are in where there is one.
    Diagnostics(Vec<Diagnostic>, Option<Source>),
    /// A file that cannot be read or written, or a command that makes no sense.
    Message(String),
    /// Mistakes were printed already.
    Told,
    /// Whoever read our output has stopped reading.
    ClosedPipe,
}

/// A source file.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Source {
    /// Reads a source file.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let cannot = |why: String| Failure::Message(format!("`{name}` cannot be read: {why}"));
        let bytes = std::fs::read(path).map_err(|e| cannot(e.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| cannot("it is not UTF-8 text".into()))?;
        Ok(Self { name, text })
    }

    /// Mistakes in this source.
    pub(crate) fn failure(&self, diagnostics: Vec<Diagnostic>) -> Failure {
        Failure::Diagnostics(diagnostics, Some(self.clone()))
    }
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self::Diagnostics(diagnostics, None)
    }
}

impl Failure {
    /// Prints the mistakes to standard error; the exit status of a mistake in the input.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Diagnostics(diagnostics, source) => {
                tell(&diagnostics, source.as_ref());
                let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
                if errors > 1 {
                    eprintln!("{errors} errors");
                }
            }
            Self::Message(message) => eprintln!("error: {message}"),
            Self::Told => {}
            Self::ClosedPipe => return ExitCode::SUCCESS,
        }
        ExitCode::from(1)
    }
}

/// Draws diagnostics on standard error, in colour on a terminal that wants it.
pub(crate) fn tell(diagnostics: &[Diagnostic], source: Option<&Source>) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (name, text) = source.map_or(("", ""), |s| (s.name.as_str(), s.text.as_str()));
    for diagnostic in diagnostics {
        eprintln!("{}", diagnostic.render(name, text, colour).trim_end());
    }
}
