//! Reading patterns.

use super::{AttrPattern, Names, Pattern};
use crate::language::Attr;

impl Pattern {
    /// Reads a pattern; its variables join `names`.
    ///
    /// # Errors
    /// What was expected, and the rest of the text from there.
    pub(crate) fn parse(text: &str, names: &mut Names) -> Result<Self, String> {
        let mut reader = Reader { rest: text, names };
        let pattern = reader.pattern()?;
        match reader.peek() {
            None => Ok(pattern),
            Some(_) => Err(format!("the end was expected before `{}`", reader.rest)),
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
    names: &'a mut Names,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.rest = &self.rest[c.len_utf8()..];
        }
        found
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.take(c) { Ok(()) } else { Err(format!("`{c}` was expected at `{}`", self.rest)) }
    }

    fn word(&mut self) -> Result<String, String> {
        self.peek();
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '@'))
            .unwrap_or(self.rest.len());
        if end == 0 {
            return Err(format!("a name was expected at `{}`", self.rest));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(word.to_owned())
    }

    fn pattern(&mut self) -> Result<Pattern, String> {
        let mut name = self.word()?;
        let mut label = None;
        if self.take('=') {
            label = Some(self.names.intern(&name));
            name = self.word()?;
        }
        let attrs = if self.take('[') { self.list(']', Self::attribute)? } else { vec![] };
        let children = if self.take('(') { self.list(')', Self::pattern)? } else { vec![] };
        if attrs.is_empty() && children.is_empty() {
            return Ok(Pattern::Var(self.names.intern(&name)));
        }
        Ok(Pattern::Op { label, name, attrs, children })
    }

    fn list<T>(
        &mut self,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let mut items = vec![item(self)?];
        while self.take(',') {
            items.push(item(self)?);
        }
        self.expect(close)?;
        Ok(items)
    }

    fn attribute(&mut self) -> Result<AttrPattern, String> {
        if self.take('(') {
            let mut order = vec![];
            while !self.take(')') {
                let axis = self.word()?;
                order.push(axis.parse().map_err(|_| format!("`{axis}` is not an axis"))?);
            }
            return Ok(AttrPattern::Literal(Attr::Order(order)));
        }
        let word = self.word()?;
        Ok(match word.parse() {
            Ok(n) => AttrPattern::Literal(Attr::Int(n)),
            Err(_) => AttrPattern::Var(self.names.intern(&word)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_read_as_an_equation_is_written() {
        let mut names = Names::default();
        let text = "scores(q, k=slice[2, a, b](transpose[(0 2 1)](q)))";
        let Ok(Pattern::Op { children, .. }) = Pattern::parse(text, &mut names) else {
            panic!("{text} is a pattern")
        };
        assert_eq!(children[0], Pattern::Var(0));
        let Pattern::Op { label: Some(1), name, attrs, children } = &children[1] else {
            panic!("a labelled slice")
        };
        assert_eq!((name.as_str(), attrs.len()), ("slice", 3));
        let order = AttrPattern::Literal(Attr::Order(vec![0, 2, 1]));
        assert!(matches!(&children[0], Pattern::Op { attrs, .. } if attrs == &[order]));
    }

    #[test]
    fn text_that_is_no_pattern_is_refused_with_its_place() {
        for (text, at) in [("scores(q, k", "`)`"), ("slice[", "a name"), ("a b", "the end")] {
            let fault = Pattern::parse(text, &mut Names::default()).unwrap_err();
            assert!(fault.starts_with(at), "{text}: {fault}");
        }
    }
}
