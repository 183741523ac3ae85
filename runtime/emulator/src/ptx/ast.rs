//! The parsed module, close to the text and borrowing from it.

use super::types::{Space, Type};

/// One `.ptx` file.
#[derive(Debug, Default)]
pub(crate) struct Ast<'a> {
    pub(crate) variables: Vec<Variable<'a>>,
    pub(crate) functions: Vec<Function<'a>>,
}

/// A `.entry` or `.func`, with a body or as a prototype (PTX ISA 11.1).
#[derive(Debug)]
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    pub(crate) is_entry: bool,
    pub(crate) results: Vec<Variable<'a>>,
    pub(crate) params: Vec<Variable<'a>>,
    pub(crate) limits: Limits,
    pub(crate) body: Option<Vec<Statement<'a>>>,
    pub(crate) line: u32,
}

/// Performance-tuning and cluster directives of an entry (PTX ISA 11.4, 11.7).
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) required_block: Option<[u32; 3]>,
    pub(crate) max_block: Option<[u32; 3]>,
    pub(crate) required_cluster: Option<[u32; 3]>,
    pub(crate) max_registers: Option<u32>,
    pub(crate) min_ctas: Option<u32>,
}

/// A variable in a state space (PTX ISA 5.4).
#[derive(Clone, Debug)]
pub(crate) struct Variable<'a> {
    pub(crate) name: &'a str,
    pub(crate) space: Space,
    pub(crate) ty: Type,
    pub(crate) align: u32,
    /// Elements; 1 for a scalar, 0 for `x[]`.
    pub(crate) count: u64,
    pub(crate) is_extern: bool,
    pub(crate) init: Vec<Init<'a>>,
    pub(crate) line: u32,
}

impl Variable<'_> {
    /// Bytes that the variable takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.count.saturating_mul(u64::from(self.ty.bytes()))
    }
}

/// One element of an initialiser.
#[derive(Clone, Debug)]
pub(crate) enum Init<'a> {
    /// A number, as the bits of the element.
    Bits(u64),
    /// The address of a symbol plus a byte offset. Addresses of device memory are generic too.
    Symbol(&'a str, i64),
}

/// One statement of a body.
#[derive(Debug)]
pub(crate) enum Statement<'a> {
    /// `.reg .b32 %r<5>;`: name, count (none for a single name), type.
    Register { name: &'a str, count: Option<u64>, ty: Type },
    /// A variable of `.shared`, `.local`, `.param`, `.global` or `.const`.
    Variable(Variable<'a>),
    /// `name:`.
    Label(&'a str, u32),
    /// `name: .branchtargets a, b;`.
    Targets(&'a str, Vec<&'a str>),
    /// `{ … }`: a scope of its own for registers, variables and labels.
    Block(Vec<Statement<'a>>),
    /// An instruction.
    Instruction(Instruction<'a>),
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Instruction<'a> {
    /// The predicate of `@p` and whether it is negated.
    pub(crate) guard: Option<(&'a str, bool)>,
    /// The word before the first dot.
    pub(crate) opcode: &'a str,
    /// The words after dots.
    pub(crate) modifiers: Vec<&'a str>,
    pub(crate) operands: Vec<Operand<'a>>,
    pub(crate) line: u32,
}

/// One operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand<'a> {
    /// A register, symbol, label or special register (`%tid` with its dot part).
    Name(&'a str, Option<&'a str>),
    /// A symbol plus a constant.
    Offset(&'a str, i64),
    /// An integer constant.
    Int(i128),
    /// Bits of a float32 constant.
    F32(u32),
    /// Bits of a float64 constant.
    F64(u64),
    /// `_`.
    Sink,
    /// `!p`.
    Not(&'a str),
    /// `-a`, where `a` is a register.
    Negated(Box<Operand<'a>>),
    /// `a|b`.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `{a, b}`.
    Vector(Vec<Operand<'a>>),
    /// `[base+offset, rest…]`.
    Address { base: Box<Operand<'a>>, offset: i64, rest: Vec<Operand<'a>> },
    /// `(a, b)` of a call.
    List(Vec<Operand<'a>>),
}
