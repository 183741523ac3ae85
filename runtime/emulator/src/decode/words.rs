//! The dotted words of an opcode, taken one by one in any order.

use crate::error::Error;
use crate::ptx::ast::Instruction;
use crate::ptx::types::{Space, Type};

/// The modifiers of one instruction that no decoder has taken yet.
#[derive(Debug)]
pub(crate) struct Words<'a> {
    opcode: &'a str,
    all: Vec<&'a str>,
    left: Vec<Option<&'a str>>,
    line: u32,
}

impl<'a> Words<'a> {
    pub(crate) fn new(instruction: &Instruction<'a>) -> Words<'a> {
        Words {
            opcode: instruction.opcode,
            all: instruction.modifiers.clone(),
            left: instruction.modifiers.iter().copied().map(Some).collect(),
            line: instruction.line,
        }
    }

    /// The instruction as written, without operands.
    pub(crate) fn text(&self) -> String {
        let mut text = self.opcode.to_string();
        for word in &self.all {
            text.push('.');
            text.push_str(word);
        }
        text
    }

    /// That this instruction is not supported.
    pub(crate) fn unsupported(&self, message: impl Into<String>) -> Error {
        Error::Unsupported { line: self.line, instruction: self.text(), message: message.into() }
    }

    /// That this instruction is not right.
    pub(crate) fn wrong(&self, message: impl Into<String>) -> Error {
        Error::Parse { line: self.line, message: format!("`{}`: {}", self.text(), message.into()) }
    }

    /// Takes `word`; false if it is not there.
    pub(crate) fn take(&mut self, word: &str) -> bool {
        for slot in &mut self.left {
            if *slot == Some(word) {
                *slot = None;
                return true;
            }
        }
        false
    }

    /// Takes the first of `words` that is there.
    pub(crate) fn take_any<'w>(&mut self, words: &[&'w str]) -> Option<&'w str> {
        words.iter().copied().find(|word| self.take(word))
    }

    /// Takes the first word left for which `read` has a value.
    pub(crate) fn take_map<T>(&mut self, read: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        for slot in &mut self.left {
            if let Some(value) = slot.and_then(&read) {
                *slot = None;
                return Some(value);
            }
        }
        None
    }

    /// Takes the next type.
    pub(crate) fn ty(&mut self) -> Result<Type, Error> {
        match self.take_map(Type::from_name) {
            Some(ty) => Ok(ty),
            None => Err(self.wrong("a type is missing")),
        }
    }

    /// Takes all types, in order.
    pub(crate) fn types(&mut self) -> Vec<Type> {
        std::iter::from_fn(|| self.take_map(Type::from_name)).collect()
    }

    /// Takes a state space; generic if none is named.
    pub(crate) fn space(&mut self) -> Space {
        let found = self.take_map(|word| match word {
            "global" | "const" => Some(Space::Global),
            "shared" | "shared::cta" | "shared::cluster" => Some(Space::Shared),
            "local" => Some(Space::Local),
            "param" | "param::entry" | "param::func" => Some(Space::Param),
            _ => None,
        });
        found.unwrap_or(Space::Generic)
    }

    /// Refuses what is left.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        match self.left.iter().flatten().next() {
            None => Ok(()),
            Some(word) => Err(self.unsupported(format!("unknown modifier `.{word}`"))),
        }
    }
}
