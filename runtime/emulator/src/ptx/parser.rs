//! Module-level syntax: directives, variables and functions (PTX ISA chapter 11).

use super::ast::{Ast, Function, Init, Limits, Variable};
use super::lexer::{Token, Tokens, lex};
use super::types::{Space, Type};
use crate::error::Error;

/// Scopes nest at most this deep; deeper text is refused rather than recursed into.
pub(super) const MAX_NESTING: u32 = 64;

/// Parses one module.
pub(crate) fn parse(text: &str) -> Result<Ast<'_>, Error> {
    if !text.is_ascii() && text.contains('\0') {
        return Err(Error::parse(1, "the text holds zero bytes: is this a cubin?"));
    }
    let mut parser = Parser { tokens: lex(text)?, at: 0, nesting: 0 };
    let mut ast = Ast::default();
    while parser.peek() != Token::End {
        parser.module_item(&mut ast)?;
    }
    Ok(ast)
}

pub(super) struct Parser<'a> {
    tokens: Tokens<'a>,
    at: usize,
    pub(super) nesting: u32,
}

/// What stands before `.entry`, `.func` or a variable.
#[derive(Clone, Copy, Default)]
struct Linkage {
    is_extern: bool,
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Token<'a> {
        self.peek_at(0)
    }

    pub(super) fn peek_at(&self, ahead: usize) -> Token<'a> {
        self.tokens.tokens.get(self.at + ahead).copied().unwrap_or(Token::End)
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    pub(super) fn line(&self) -> u32 {
        let last = self.tokens.lines.len().saturating_sub(1);
        self.tokens.lines.get(self.at.min(last)).copied().unwrap_or(0)
    }

    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::parse(self.line(), message)
    }

    pub(super) fn accept(&mut self, punct: u8) -> bool {
        let found = self.peek() == Token::Punct(punct);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, punct: u8) -> Result<(), Error> {
        if self.accept(punct) {
            return Ok(());
        }
        let found = self.describe();
        Err(self.error(format!("expected `{}`, found {found}", char::from(punct))))
    }

    pub(super) fn describe(&self) -> String {
        match self.peek() {
            Token::Name(name) => format!("`{name}`"),
            Token::Dot(name) => format!("`.{name}`"),
            Token::Punct(punct) => format!("`{}`", char::from(punct)),
            Token::Text(text) => format!("\"{text}\""),
            Token::End => "the end of the text".to_string(),
            Token::Int(_) | Token::F32(_) | Token::F64(_) => "a number".to_string(),
        }
    }

    pub(super) fn name(&mut self) -> Result<&'a str, Error> {
        match self.peek() {
            Token::Name(name) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.error(format!("expected a name, found {}", self.describe()))),
        }
    }

    pub(super) fn unsigned(&mut self) -> Result<u64, Error> {
        match self.peek() {
            Token::Int(value) => {
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.error(format!("expected an integer, found {}", self.describe()))),
        }
    }

    pub(super) fn signed(&mut self) -> Result<i64, Error> {
        let negative = self.accept(b'-');
        let value = self.unsigned()? as i64;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    fn small(&mut self) -> Result<u32, Error> {
        let value = self.unsigned()?;
        u32::try_from(value).map_err(|_| self.error(format!("{value} is too large here")))
    }

    /// Passes over one directive that has no meaning here, up to its `;` or the end of its line.
    pub(super) fn skip_line(&mut self) {
        let line = self.line();
        while self.peek() != Token::End && self.line() == line {
            self.at += 1;
        }
    }

    pub(super) fn skip_statement(&mut self) {
        while !matches!(self.next(), Token::Punct(b';') | Token::End) {}
    }

    fn module_item(&mut self, ast: &mut Ast<'a>) -> Result<(), Error> {
        let line = self.line();
        let Token::Dot(directive) = self.peek() else {
            if self.accept(b';') {
                return Ok(());
            }
            return Err(self.error(format!("expected a directive, found {}", self.describe())));
        };
        match directive {
            "version" | "target" | "address_size" | "file" | "loc" => self.skip_line(),
            "pragma" | "alias" => self.skip_statement(),
            "section" => self.skip_section()?,
            _ => {
                let linkage = self.linkage();
                match self.peek() {
                    Token::Dot("entry") => ast.functions.push(self.function(true, line)?),
                    Token::Dot("func") => ast.functions.push(self.function(false, line)?),
                    _ => self.variables(linkage, &mut ast.variables)?,
                }
            }
        }
        Ok(())
    }

    fn linkage(&mut self) -> Linkage {
        let mut linkage = Linkage::default();
        loop {
            match self.peek() {
                Token::Dot("extern") => linkage.is_extern = true,
                Token::Dot("visible" | "weak" | "common") => {}
                _ => return linkage,
            }
            self.at += 1;
        }
    }

    /// `.section .debug_x { … }` (PTX ISA 11.5.3).
    pub(super) fn skip_section(&mut self) -> Result<(), Error> {
        let start = self.line();
        while self.peek() != Token::Punct(b'{') {
            if self.next() == Token::End {
                return Err(Error::parse(start, "`.section` without a body"));
            }
        }
        let mut depth = 0u32;
        loop {
            match self.next() {
                Token::Punct(b'{') => depth += 1,
                Token::Punct(b'}') => depth -= 1,
                Token::End => return Err(Error::parse(start, "this section never ends")),
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn function(&mut self, is_entry: bool, line: u32) -> Result<Function<'a>, Error> {
        self.next();
        while let Token::Dot("attribute") = self.peek() {
            self.next();
            self.skip_parentheses()?;
        }
        let mut results = Vec::new();
        if !is_entry && self.peek() == Token::Punct(b'(') {
            results = self.parameters()?;
        }
        let name = self.name()?;
        let params =
            if self.peek() == Token::Punct(b'(') { self.parameters()? } else { Vec::new() };
        let limits = self.limits()?;
        let body = match self.peek() {
            Token::Punct(b';') => {
                self.next();
                None
            }
            Token::Punct(b'{') => Some(self.block()?),
            _ => {
                return Err(self.error(format!(
                    "expected the body of `{name}` or `;`, found {}",
                    self.describe()
                )));
            }
        };
        Ok(Function { name, is_entry, results, params, limits, body, line })
    }

    fn skip_parentheses(&mut self) -> Result<(), Error> {
        self.expect(b'(')?;
        let mut depth = 1u32;
        while depth > 0 {
            match self.next() {
                Token::Punct(b'(') => depth += 1,
                Token::Punct(b')') => depth -= 1,
                Token::End => return Err(self.error("this list never ends")),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn parameters(&mut self) -> Result<Vec<Variable<'a>>, Error> {
        self.expect(b'(')?;
        let mut out = Vec::new();
        while !self.accept(b')') {
            out.push(self.variable(Linkage::default())?);
            if !self.accept(b',') && self.peek() != Token::Punct(b')') {
                return Err(self.error(format!("expected `,` or `)`, found {}", self.describe())));
            }
        }
        Ok(out)
    }

    fn limits(&mut self) -> Result<Limits, Error> {
        let mut limits = Limits::default();
        while let Token::Dot(directive) = self.peek() {
            self.next();
            match directive {
                "reqntid" => limits.required_block = Some(self.triple()?),
                "maxntid" => limits.max_block = Some(self.triple()?),
                "reqnctapercluster" => limits.required_cluster = Some(self.triple()?),
                "maxnreg" => limits.max_registers = Some(self.small()?),
                "minnctapersm" => limits.min_ctas = Some(self.small()?),
                "maxclusterrank" | "maxnctapersm" => {
                    self.small()?;
                }
                "explicitcluster" | "noreturn" | "abi_preserve" | "blocksareclusters" => {}
                "pragma" => self.skip_statement(),
                _ => return Err(self.error(format!("unknown function directive `.{directive}`"))),
            }
        }
        Ok(limits)
    }

    fn triple(&mut self) -> Result<[u32; 3], Error> {
        let mut out = [self.small()?, 1, 1];
        for slot in &mut out[1..] {
            if !self.accept(b',') {
                break;
            }
            *slot = self.small()?;
        }
        Ok(out)
    }

    fn variables(&mut self, linkage: Linkage, out: &mut Vec<Variable<'a>>) -> Result<(), Error> {
        let first = self.variable(linkage)?;
        let template = Variable { init: Vec::new(), count: 1, ..first.clone() };
        out.push(first);
        while self.accept(b',') {
            let mut more = Variable { name: self.name()?, ..template.clone() };
            self.shape_and_init(&mut more)?;
            out.push(more);
        }
        self.expect(b';')
    }

    /// The variables of one declaration inside a body.
    pub(super) fn local_variables(&mut self) -> Result<Vec<Variable<'a>>, Error> {
        let mut out = Vec::new();
        let linkage = self.linkage();
        self.variables(linkage, &mut out)?;
        Ok(out)
    }

    fn variable(&mut self, linkage: Linkage) -> Result<Variable<'a>, Error> {
        let line = self.line();
        let (mut space, mut ty, mut align, mut lanes) = (None, None, None, 1);
        while let Token::Dot(word) = self.peek() {
            self.next();
            match word {
                "global" | "const" => space = Some(Space::Global),
                "shared" | "shared::cta" | "shared::cluster" => space = Some(Space::Shared),
                "local" => space = Some(Space::Local),
                "param" => space = Some(Space::Param),
                "reg" => space = Some(Space::Param),
                "align" => {
                    // After `.ptr` the alignment is that of the memory pointed to.
                    let value = self.small()?;
                    if align.is_none() {
                        align = Some(value);
                    }
                }
                "ptr" => {
                    align = Some(align.unwrap_or(0));
                    if let Token::Dot("global" | "const" | "shared" | "local") = self.peek() {
                        self.next();
                    }
                }
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                "attribute" => self.skip_parentheses()?,
                "managed" | "unified" | "noalias" => {}
                _ => match Type::from_name(word) {
                    Some(found) => ty = Some(found),
                    None => {
                        return Err(self.error(format!("unknown declaration word `.{word}`")));
                    }
                },
            }
        }
        let (Some(space), Some(ty)) = (space, ty) else {
            return Err(self.error("a declaration needs a state space and a type"));
        };
        let align = align.filter(|&value| value != 0).unwrap_or(ty.bytes() * lanes);
        if !align.is_power_of_two() || align > 65536 {
            return Err(self.error(format!("alignment {align} is not a power of two up to 65536")));
        }
        let name = self.name()?;
        let is_extern = linkage.is_extern;
        let mut variable =
            Variable { name, space, ty, align, count: 1, is_extern, init: Vec::new(), line };
        self.shape_and_init(&mut variable)?;
        variable.count = variable.count.saturating_mul(u64::from(lanes));
        Ok(variable)
    }

    fn shape_and_init(&mut self, variable: &mut Variable<'a>) -> Result<(), Error> {
        variable.count = 1;
        let mut open = false;
        while self.accept(b'[') {
            if self.accept(b']') {
                open = true;
                continue;
            }
            let extent = self.unsigned()?;
            variable.count = variable.count.saturating_mul(extent);
            self.expect(b']')?;
        }
        if self.accept(b'=') {
            self.initialiser(variable.ty, &mut variable.init, 0)?;
        }
        if open {
            variable.count = variable.init.len() as u64;
        }
        Ok(())
    }

    fn initialiser(&mut self, ty: Type, out: &mut Vec<Init<'a>>, depth: u32) -> Result<(), Error> {
        if depth > MAX_NESTING {
            return Err(self.error("an initialiser nests too deep"));
        }
        if self.accept(b'{') {
            while !self.accept(b'}') {
                self.initialiser(ty, out, depth + 1)?;
                if !self.accept(b',') && self.peek() != Token::Punct(b'}') {
                    return Err(
                        self.error(format!("expected `,` or `}}`, found {}", self.describe()))
                    );
                }
            }
            return Ok(());
        }
        let negative = self.accept(b'-');
        let item = match self.next() {
            Token::Int(value) if negative => Init::Bits((value as i64).wrapping_neg() as u64),
            Token::Int(value) => Init::Bits(value),
            Token::F32(bits) => Init::Bits(u64::from(bits)),
            Token::F64(bits) if ty == Type::F32 => {
                Init::Bits(u64::from((f64::from_bits(bits) as f32).to_bits()))
            }
            Token::F64(bits) => Init::Bits(bits),
            Token::Name("generic") => {
                self.expect(b'(')?;
                let name = self.name()?;
                let inner = self.symbol_offset()?;
                self.expect(b')')?;
                Init::Symbol(name, inner.wrapping_add(self.symbol_offset()?))
            }
            Token::Name(name) => Init::Symbol(name, self.symbol_offset()?),
            _ => return Err(self.error("an initialiser needs numbers or names")),
        };
        out.push(item);
        Ok(())
    }

    fn symbol_offset(&mut self) -> Result<i64, Error> {
        if self.accept(b'+') { self.signed() } else { Ok(0) }
    }
}
