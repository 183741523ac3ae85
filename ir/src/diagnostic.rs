//! How a user's mistake is told: one type for all stages, drawn in one place.

use codespan_reporting::diagnostic as drawn;
use codespan_reporting::files::SimpleFile;
use codespan_reporting::term;
use serde::{Deserialize, Serialize};

/// A range of bytes in the source file.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The smallest range that holds both.
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is produced.
    Error,
    /// Something is produced that may not be what was meant.
    Warning,
}

/// A place in the source and what it has to do with the mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What stands there: lower case, no final stop; may be empty.
    pub message: String,
    /// Whether this is the place to edit (drawn with `^^^`) or one it disagrees with (`---`).
    pub primary: bool,
}

/// One mistake: what, where, and what to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// `E` and four digits; each code has a page in `docs/errors/`. By stage: 01 syntax,
    /// 02 names, 03 shapes, 04 precision, parallel, train and target sections, 05 import,
    /// 06 weights, 07 tokenizer, 08 optimizer and plan, 09 code generation, 10 artefact, 11 devices,
    /// 12 sessions and generation, 13 simulation.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: lower case, no final stop, names in backticks.
    pub message: String,
    /// Where. Empty where the source has no text to show (a weight file, say).
    pub labels: Vec<Label>,
    /// What to try; the edit to make where there is one.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error without a place yet.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            labels: vec![],
            help: None,
        }
    }

    /// A warning without a place yet.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Adds the place to edit.
    #[must_use]
    pub fn at(mut self, span: Span, message: impl Into<String>) -> Self {
        self.labels.push(Label { span, message: message.into(), primary: true });
        self
    }

    /// Adds a place that the first disagrees with.
    #[must_use]
    pub fn and(mut self, span: Span, message: impl Into<String>) -> Self {
        self.labels.push(Label { span, message: message.into(), primary: false });
        self
    }

    /// Says what to try.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Draws the diagnostic against its source, in colour where asked.
    ///
    /// This is the only place where a diagnostic becomes text.
    pub fn render(&self, file_name: &str, source: &str, colour: bool) -> String {
        let severity = match self.severity {
            Severity::Error => drawn::Severity::Error,
            Severity::Warning => drawn::Severity::Warning,
        };
        let labels = self.labels.iter().map(|l| {
            let range = floor(source, l.span.start)..floor(source, l.span.end);
            let style =
                if l.primary { drawn::LabelStyle::Primary } else { drawn::LabelStyle::Secondary };
            drawn::Label::new(style, (), range).with_message(&l.message)
        });
        let mut d = drawn::Diagnostic::new(severity)
            .with_code(self.code)
            .with_message(&self.message)
            .with_labels(labels.collect());
        if let Some(help) = &self.help {
            d = d.with_notes(vec![format!("help: {help}")]);
        }
        let file = SimpleFile::new(file_name, source);
        let config = term::Config::default();
        let written = if colour {
            let mut out = term::termcolor::Ansi::new(Vec::new());
            term::emit(&mut out, &config, &file, &d).map(|()| out.into_inner())
        } else {
            let mut out = term::termcolor::NoColor::new(Vec::new());
            term::emit(&mut out, &config, &file, &d).map(|()| out.into_inner())
        };
        match written {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => format!("error[{}]: {}\n", self.code, self.message),
        }
    }
}

/// The nearest character boundary at or before a byte offset.
fn floor(source: &str, offset: usize) -> usize {
    let mut at = offset.min(source.len());
    while !source.is_char_boundary(at) {
        at -= 1;
    }
    at
}
