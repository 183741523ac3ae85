//! Syntax of a function's body: statements and operands (PTX ISA 4.2, 6.4).

use super::ast::{Instruction, Operand, Statement};
use super::lexer::Token;
use super::parser::{MAX_NESTING, Parser};
use super::types::Type;
use crate::error::Error;

impl<'a> Parser<'a> {
    /// `{ … }`, the braces included.
    pub(super) fn block(&mut self) -> Result<Vec<Statement<'a>>, Error> {
        self.expect(b'{')?;
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self.error(format!("scopes nest deeper than {MAX_NESTING}")));
        }
        let mut out = Vec::new();
        while !self.accept(b'}') {
            if self.peek() == Token::End {
                return Err(self.error("this body never ends"));
            }
            self.statement(&mut out)?;
        }
        self.nesting -= 1;
        Ok(out)
    }

    fn statement(&mut self, out: &mut Vec<Statement<'a>>) -> Result<(), Error> {
        match self.peek() {
            Token::Punct(b';') => {
                self.next();
            }
            Token::Punct(b'{') => {
                let inner = self.block()?;
                out.push(Statement::Block(inner));
            }
            Token::Dot("reg") => self.registers(out)?,
            Token::Dot("loc" | "file") => self.skip_line(),
            Token::Dot("section") => self.skip_section()?,
            Token::Dot("pragma") => self.skip_statement(),
            Token::Dot(_) => {
                out.extend(self.local_variables()?.into_iter().map(Statement::Variable));
            }
            Token::Name(name) if self.peek_at(1) == Token::Punct(b':') => {
                let line = self.line();
                self.next();
                self.next();
                out.extend(self.after_label(name, line)?);
            }
            Token::Name(_) | Token::Punct(b'@') => {
                let instruction = self.instruction()?;
                out.push(Statement::Instruction(instruction));
            }
            _ => return Err(self.error(format!("expected a statement, found {}", self.describe()))),
        }
        Ok(())
    }

    fn after_label(&mut self, name: &'a str, line: u32) -> Result<Option<Statement<'a>>, Error> {
        match self.peek() {
            Token::Dot("branchtargets" | "calltargets") => {
                self.next();
                let mut targets = vec![self.name()?];
                while self.accept(b',') {
                    targets.push(self.name()?);
                }
                self.expect(b';')?;
                Ok(Some(Statement::Targets(name, targets)))
            }
            Token::Dot("callprototype") => {
                self.skip_statement();
                // An indirect call passes what it passes: the prototype adds nothing.
                Ok(None)
            }
            _ => Ok(Some(Statement::Label(name, line))),
        }
    }

    fn registers(&mut self, out: &mut Vec<Statement<'a>>) -> Result<(), Error> {
        self.next();
        let Token::Dot(word) = self.peek() else {
            return Err(self.error("`.reg` needs a type"));
        };
        let ty = Type::from_name(word).ok_or_else(|| {
            self.error(format!("`.{word}` is not a type of registers that this machine has"))
        })?;
        self.next();
        loop {
            let name = self.name()?;
            let mut count = None;
            if self.accept(b'<') {
                count = Some(self.unsigned()?);
                self.expect(b'>')?;
            }
            out.push(Statement::Register { name, count, ty });
            if !self.accept(b',') {
                return self.expect(b';');
            }
        }
    }

    fn instruction(&mut self) -> Result<Instruction<'a>, Error> {
        let mut guard = None;
        if self.accept(b'@') {
            let negated = self.accept(b'!');
            guard = Some((self.name()?, negated));
        }
        let line = self.line();
        let opcode = self.name()?;
        let mut modifiers = Vec::new();
        while let Token::Dot(word) = self.peek() {
            modifiers.push(word);
            self.next();
        }
        let mut operands = Vec::new();
        while !self.accept(b';') {
            operands.push(self.operand(0)?);
            if !self.accept(b',') && self.peek() != Token::Punct(b';') {
                let found = self.describe();
                return Err(self.error(format!("expected `,` or `;` in `{opcode}`, found {found}")));
            }
        }
        Ok(Instruction { guard, opcode, modifiers, operands, line })
    }

    fn operand(&mut self, depth: u32) -> Result<Operand<'a>, Error> {
        if depth > 8 {
            return Err(self.error("operands nest too deep"));
        }
        let first = self.single(depth)?;
        if self.accept(b'|') {
            let second = self.single(depth)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn single(&mut self, depth: u32) -> Result<Operand<'a>, Error> {
        match self.peek() {
            Token::Punct(b'[') => self.address(depth),
            Token::Punct(b'{') => Ok(Operand::Vector(self.list(b'}', depth)?)),
            Token::Punct(b'(') => Ok(Operand::List(self.list(b')', depth)?)),
            Token::Punct(b'!') => {
                self.next();
                Ok(Operand::Not(self.name()?))
            }
            Token::Punct(b'-') => {
                self.next();
                Ok(match self.next() {
                    Token::Int(value) => Operand::Int(-i128::from(value)),
                    Token::F32(bits) => Operand::F32(bits ^ 0x8000_0000),
                    Token::F64(bits) => Operand::F64(bits ^ (1 << 63)),
                    Token::Name(name) => Operand::Negated(Box::new(self.after_name(name)?)),
                    _ => return Err(self.error("expected a number or a register after `-`")),
                })
            }
            Token::Int(value) => {
                self.next();
                Ok(Operand::Int(i128::from(value)))
            }
            Token::F32(bits) => {
                self.next();
                Ok(Operand::F32(bits))
            }
            Token::F64(bits) => {
                self.next();
                Ok(Operand::F64(bits))
            }
            Token::Name("_") => {
                self.next();
                Ok(Operand::Sink)
            }
            Token::Name(name) => {
                self.next();
                Ok(self.after_name(name)?)
            }
            _ => Err(self.error(format!("expected an operand, found {}", self.describe()))),
        }
    }

    fn after_name(&mut self, name: &'a str) -> Result<Operand<'a>, Error> {
        if let Token::Dot(part) = self.peek() {
            self.next();
            return Ok(Operand::Name(name, Some(part)));
        }
        if self.peek() == Token::Punct(b'+') {
            self.next();
            return Ok(Operand::Offset(name, self.signed()?));
        }
        if self.peek() == Token::Punct(b'-') {
            return Ok(Operand::Offset(name, self.signed()?));
        }
        Ok(Operand::Name(name, None))
    }

    fn list(&mut self, close: u8, depth: u32) -> Result<Vec<Operand<'a>>, Error> {
        self.next();
        let mut out = Vec::new();
        while !self.accept(close) {
            out.push(self.operand(depth + 1)?);
            if !self.accept(b',') && self.peek() != Token::Punct(close) {
                return Err(
                    self.error(format!("expected `,` in a list, found {}", self.describe()))
                );
            }
        }
        Ok(out)
    }

    fn address(&mut self, depth: u32) -> Result<Operand<'a>, Error> {
        self.next();
        let (base, offset) = match self.single(depth + 1)? {
            Operand::Offset(name, offset) => (Operand::Name(name, None), offset),
            Operand::Int(value) if self.accept(b'+') => {
                (Operand::Int(value.wrapping_add(i128::from(self.signed()?))), 0)
            }
            other => (other, 0),
        };
        let mut rest = Vec::new();
        while self.accept(b',') {
            rest.push(self.operand(depth + 1)?);
        }
        self.expect(b']')?;
        Ok(Operand::Address { base: Box::new(base), offset, rest })
    }
}
