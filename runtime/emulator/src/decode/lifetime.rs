//! Registers that live within one basic block, so that their rows can be used again.
//!
//! PTX is close to single assignment: a kernel names thousands of registers, few of which live
//! long. A row takes 128 bytes per warp, so a row for each would not fit the host's caches.
//! A register may share its row if all instructions that name it lie in one block and the first
//! of them writes it whatever its old value. Sharing is safe under divergence, because an
//! instruction writes only the lanes that execute it, and each lane follows the graph.

use std::collections::HashMap;

use crate::ptx::ast::{Instruction, Operand, Statement};
use crate::ptx::types::Type;

/// Instructions whose first operand is written and not read.
const WRITERS: &[&str] = &[
    "abs", "add", "and", "atom", "bfe", "bfi", "bfind", "brev", "clz", "cnot", "copysign", "cos",
    "cvt", "cvta", "div", "dp4a", "ex2", "fma", "ld", "lg2", "lop3", "mad", "mad24", "max", "min",
    "mov", "mul", "mul24", "neg", "not", "or", "popc", "prmt", "rcp", "redux", "rem", "rsqrt",
    "sad", "selp", "shf", "shfl", "shl", "shr", "sin", "slct", "sqrt", "sub", "tanh", "xor",
];

/// Instructions that end a block.
const ENDS: &[&str] = &["bra", "brx", "call", "exit", "ret", "trap"];

/// A register by the number of its scope, in order of the text, and its name.
pub(super) type Key<'a> = (u32, &'a str);

#[derive(Clone, Copy, Debug)]
struct Touched {
    block: u32,
    last: u32,
    is_local: bool,
}

/// The last instruction, in order of the text, that names each register of one block.
#[derive(Debug, Default)]
pub(super) struct Lifetimes<'a> {
    touched: HashMap<Key<'a>, Touched>,
}

impl<'a> Lifetimes<'a> {
    /// Looks at a whole body.
    pub(super) fn of(body: &[Statement<'a>]) -> Lifetimes<'a> {
        let mut walk = Walk {
            scopes: vec![Names::default()],
            next_scope: 1,
            block: 0,
            instruction: 0,
            is_async: false,
            out: Lifetimes::default(),
        };
        walk.statements(body);
        walk.out
    }

    /// The last instruction that names the register, if its row can be used again after it.
    pub(super) fn end(&self, key: Key<'a>) -> Option<u32> {
        self.touched.get(&key).filter(|touched| touched.is_local).map(|touched| touched.last)
    }
}

#[derive(Debug, Default)]
struct Names<'a> {
    number: u32,
    single: HashMap<&'a str, Type>,
    ranges: HashMap<&'a str, (u64, Type)>,
}

struct Walk<'a> {
    scopes: Vec<Names<'a>>,
    next_scope: u32,
    block: u32,
    instruction: u32,
    /// Whether the instruction at hand may use its registers after it was issued.
    is_async: bool,
    out: Lifetimes<'a>,
}

impl<'a> Walk<'a> {
    fn statements(&mut self, statements: &[Statement<'a>]) {
        for statement in statements {
            let depth = self.scopes.len() - 1;
            match statement {
                Statement::Register { name, count: None, ty } => {
                    self.scopes[depth].single.insert(name, *ty);
                }
                Statement::Register { name, count: Some(count), ty } => {
                    self.scopes[depth].ranges.insert(name, (*count, *ty));
                }
                Statement::Label(..) => self.block += 1,
                Statement::Block(inner) => {
                    let number = self.next_scope;
                    self.next_scope += 1;
                    self.scopes.push(Names { number, ..Names::default() });
                    self.statements(inner);
                    self.scopes.pop();
                }
                Statement::Instruction(instruction) => self.visit(instruction),
                Statement::Variable(_) | Statement::Targets(..) => {}
            }
        }
    }

    fn visit(&mut self, instruction: &Instruction<'a>) {
        self.is_async = instruction.opcode == "wgmma";
        let writes = WRITERS.contains(&instruction.opcode) && instruction.guard.is_none();
        if let Some((name, _)) = instruction.guard {
            self.touch(name, false);
        }
        let (first, rest) = match instruction.operands.split_first() {
            Some((first, rest)) if writes => (Some(first), rest),
            _ => (None, instruction.operands.as_slice()),
        };
        for operand in rest {
            self.operand(operand, false);
        }
        if let Some(first) = first {
            self.operand(first, true);
        }
        self.instruction += 1;
        if ENDS.contains(&instruction.opcode) {
            self.block += 1;
        }
    }

    fn operand(&mut self, operand: &Operand<'a>, writes: bool) {
        match operand {
            Operand::Name(name, _) | Operand::Offset(name, _) => self.touch(name, writes),
            Operand::Not(name) => self.touch(name, false),
            Operand::Negated(inner) => self.operand(inner, false),
            Operand::Pair(first, second) => {
                self.operand(first, writes);
                self.operand(second, writes);
            }
            Operand::Vector(list) | Operand::List(list) => {
                for operand in list {
                    self.operand(operand, writes);
                }
            }
            Operand::Address { base, rest, .. } => {
                self.operand(base, false);
                for operand in rest {
                    self.operand(operand, false);
                }
            }
            Operand::Int(_) | Operand::F32(_) | Operand::F64(_) | Operand::Sink => {}
        }
    }

    fn touch(&mut self, name: &'a str, writes: bool) {
        let Some((scope, ty)) = self.scopes.iter().rev().find_map(|scope| {
            let ty = scope.single.get(name).copied();
            ty.or_else(|| in_range(&scope.ranges, name)).map(|ty| (scope.number, ty))
        }) else {
            return;
        };
        let (block, last) = (self.block, self.instruction);
        // Predicates take four bytes: nothing to gain.
        let is_local = writes && ty != Type::Pred;
        let touched =
            self.out.touched.entry((scope, name)).or_insert(Touched { block, last, is_local });
        touched.is_local &= touched.block == block && !self.is_async;
        touched.last = last;
    }
}

/// The type of a register of `.reg .b32 %r<5>;`. A prefix may itself end in digits, so every way
/// to cut the name is tried.
pub(super) fn in_range(ranges: &HashMap<&str, (u64, Type)>, name: &str) -> Option<Type> {
    let prefix = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    (prefix.len()..name.len()).find_map(|cut| {
        let &(count, ty) = ranges.get(&name[..cut])?;
        name[cut..].parse::<u64>().is_ok_and(|index| index < count).then_some(ty)
    })
}
