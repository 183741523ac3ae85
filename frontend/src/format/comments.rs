//! The comments of a file, handed out in order.

use moec_ir::Span;

/// A comment and where it stands.
pub(super) struct Comment<'a> {
    /// From `//` to the end of the line, without trailing blanks.
    pub(super) text: &'a str,
    /// Where.
    pub(super) span: Span,
}

/// All comments of a file.
pub(super) struct Comments<'a> {
    all: Vec<Comment<'a>>,
    next: usize,
}

impl<'a> Comments<'a> {
    /// The comments of a source; `//` within a string is none.
    pub(super) fn of(source: &'a str) -> Self {
        let mut all = Vec::new();
        let mut from = 0;
        for line in source.split_inclusive('\n') {
            let mut in_string = false;
            let bytes = line.as_bytes();
            for (at, &byte) in bytes.iter().enumerate() {
                in_string ^= byte == b'"';
                if !in_string && byte == b'/' && bytes.get(at + 1) == Some(&b'/') {
                    let text = line[at..].trim_end();
                    let start = from + at;
                    all.push(Comment { text, span: Span { start, end: start + text.len() } });
                    break;
                }
            }
            from += line.len();
        }
        Self { all, next: 0 }
    }

    /// The next comment if it begins before a place.
    pub(super) fn take_before(&mut self, place: usize) -> Option<&Comment<'a>> {
        let comment = self.all.get(self.next).filter(|c| c.span.start < place)?;
        self.next += 1;
        Some(comment)
    }

    /// Whether a comment begins within a range of bytes.
    pub(super) fn any_within(&self, start: usize, end: usize) -> bool {
        self.all.iter().any(|c| c.span.start >= start && c.span.start < end)
    }

    /// The comment behind a place, with nothing but blanks between.
    pub(super) fn behind(&self, source: &str, place: usize) -> Option<&Comment<'a>> {
        let found = self.all.iter().find(|c| c.span.start >= place)?;
        let between = source.get(place..found.span.start)?;
        let blank = between.chars().all(|c| c == ' ' || c == '\t' || c == ',');
        (blank && !between.contains('\n')).then_some(found)
    }
}
