//! Text to tokens (PTX ISA section 4, "Syntax").

use crate::error::Error;

/// What one token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// A name: letters, digits, `_`, `$`, `%`.
    Name(&'a str),
    /// A dot and what follows it, `::` included, without the dot.
    Dot(&'a str),
    /// An integer literal.
    Int(u64),
    /// A `0f` literal: the bits of a float32.
    F32(u32),
    /// A `0d` or decimal literal: the bits of a float64.
    F64(u64),
    /// A string, without its quotes.
    Text(&'a str),
    /// One character of punctuation.
    Punct(u8),
    /// The end of the text.
    End,
}

/// All tokens of a text and the line of each.
#[derive(Debug)]
pub(crate) struct Tokens<'a> {
    pub(crate) tokens: Vec<Token<'a>>,
    pub(crate) lines: Vec<u32>,
}

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%')
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%')
}

/// Splits `text` into tokens; the last one is [`Token::End`].
pub(crate) fn lex(text: &str) -> Result<Tokens<'_>, Error> {
    let mut lexer = Lexer { text, bytes: text.as_bytes(), at: 0, line: 1 };
    let mut out = Tokens { tokens: Vec::new(), lines: Vec::new() };
    loop {
        let token = lexer.next()?;
        out.tokens.push(token);
        out.lines.push(lexer.line);
        if token == Token::End {
            return Ok(out);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::parse(self.line, message)
    }

    fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.at < self.bytes.len() && accept(self.bytes[self.at]) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or("")
    }

    fn skip_blank(&mut self) -> Result<(), Error> {
        loop {
            match self.peek(0) {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'/' if self.peek(1) == b'/' => {
                    self.take_while(|byte| byte != b'\n');
                }
                b'/' if self.peek(1) == b'*' => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), Error> {
        let start = self.line;
        self.at += 2;
        while !(self.peek(0) == b'*' && self.peek(1) == b'/') {
            if self.at >= self.bytes.len() {
                return Err(Error::parse(start, "this comment never ends"));
            }
            self.line += u32::from(self.peek(0) == b'\n');
            self.at += 1;
        }
        self.at += 2;
        Ok(())
    }

    fn next(&mut self) -> Result<Token<'a>, Error> {
        self.skip_blank()?;
        if self.at >= self.bytes.len() {
            return Ok(Token::End);
        }
        match self.peek(0) {
            byte if is_name_start(byte) => Ok(Token::Name(self.take_while(is_name))),
            b'0'..=b'9' => self.number(),
            b'.' => Ok(self.dot()),
            b'"' => self.string(),
            byte if byte.is_ascii_graphic() => {
                self.at += 1;
                Ok(Token::Punct(byte))
            }
            byte => Err(self.error(format!("unexpected byte 0x{byte:02x}"))),
        }
    }

    fn dot(&mut self) -> Token<'a> {
        self.at += 1;
        let start = self.at;
        loop {
            self.take_while(is_name);
            let qualifier = self.peek(0) == b':' && self.peek(1) == b':' && is_name(self.peek(2));
            if !qualifier || self.at == start {
                return Token::Dot(self.text.get(start..self.at).unwrap_or(""));
            }
            self.at += 2;
        }
    }

    fn string(&mut self) -> Result<Token<'a>, Error> {
        self.at += 1;
        let text = self.take_while(|byte| byte != b'"' && byte != b'\n');
        if self.peek(0) != b'"' {
            return Err(self.error("this string never ends"));
        }
        self.at += 1;
        Ok(Token::Text(text))
    }

    fn number(&mut self) -> Result<Token<'a>, Error> {
        let word = self.take_while(|byte| byte.is_ascii_alphanumeric());
        let lower = word.to_ascii_lowercase();
        let bad = |lexer: &Self| lexer.error(format!("`{word}` is not a number"));
        if self.peek(0) == b'.' && self.peek(1).is_ascii_digit() && !lower.starts_with("0x") {
            return self.decimal(word);
        }
        if let Some(hex) = lower.strip_prefix("0f") {
            return match (hex.len(), u32::from_str_radix(hex, 16)) {
                (8, Ok(bits)) => Ok(Token::F32(bits)),
                _ => Err(self.error(format!("`{word}` needs eight hex digits after `0f`"))),
            };
        }
        if let Some(hex) = lower.strip_prefix("0d") {
            return match (hex.len(), u64::from_str_radix(hex, 16)) {
                (16, Ok(bits)) => Ok(Token::F64(bits)),
                _ => Err(self.error(format!("`{word}` needs sixteen hex digits after `0d`"))),
            };
        }
        let digits = lower.strip_suffix('u').unwrap_or(&lower);
        let value = if let Some(hex) = digits.strip_prefix("0x") {
            u64::from_str_radix(hex, 16)
        } else if let Some(binary) = digits.strip_prefix("0b") {
            u64::from_str_radix(binary, 2)
        } else if digits.len() > 1 && digits.starts_with('0') {
            u64::from_str_radix(&digits[1..], 8)
        } else {
            digits.parse()
        };
        value.map(Token::Int).map_err(|_| bad(self))
    }

    fn decimal(&mut self, whole: &str) -> Result<Token<'a>, Error> {
        self.at += 1;
        let mut text = format!("{whole}.{}", self.take_while(|byte| byte.is_ascii_alphanumeric()));
        if text.ends_with(['e', 'E']) && matches!(self.peek(0), b'+' | b'-') {
            text.push(char::from(self.peek(0)));
            self.at += 1;
            text.push_str(self.take_while(|byte| byte.is_ascii_digit()));
        }
        match text.parse::<f64>() {
            Ok(value) => Ok(Token::F64(value.to_bits())),
            Err(_) => Err(self.error(format!("`{text}` is not a number"))),
        }
    }
}
