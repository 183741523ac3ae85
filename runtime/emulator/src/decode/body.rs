//! One body: scopes, registers and labels; then each instruction by its family.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::flow_graph;
use super::lifetime::{Lifetimes, in_range};
use super::module::{Names, Symbol, lay_out};
use super::words::Words;
use crate::error::Error;
use crate::isa;
use crate::program::{Call, Const, Exec, Facts, Function, Inst, NO_REG, Reg, Slot};
use crate::ptx::ast::{Function as Source, Instruction, Operand, Statement, Variable};
use crate::ptx::types::{Space, Type};

/// Largest frame: registers of one warp in one call, in bytes.
const MAX_FRAME: u32 = 16 << 20;
/// Largest stack frame of one thread.
const MAX_LOCAL: u32 = 256 * 1024;

/// Where control goes behind an instruction.
#[derive(Clone, Debug)]
pub(crate) enum Goes {
    /// To the next one.
    On,
    /// To a label, or to the next one for lanes that the guard excludes.
    Branch(u32),
    /// To one of several labels.
    Table(Vec<u32>),
    /// Out of the function.
    Out,
    /// To the next one, where the lanes of an indirect call meet again.
    Meet,
}

/// A decoded instruction before labels have addresses.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) inst: Inst,
    pub(crate) goes: Goes,
    pub(crate) line: u32,
    pub(crate) opcode: u32,
}

/// What a name stands for inside a body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Local(u32),
    Param(u32),
    Module(Symbol),
}

#[derive(Debug, Default)]
struct Scope<'a> {
    number: u32,
    registers: HashMap<&'a str, (Type, Option<Reg>)>,
    ranges: HashMap<&'a str, (u64, Type)>,
    labels: BTreeMap<&'a str, u32>,
    places: BTreeMap<&'a str, Place>,
    targets: BTreeMap<&'a str, Vec<&'a str>>,
}

/// The state of decoding one body, and what families of instructions build with.
pub(crate) struct Decoder<'a, 'n> {
    pub(crate) names: &'n mut Names<'a>,
    scopes: Vec<Scope<'a>>,
    pub(crate) drafts: Vec<Draft>,
    /// Index of the draft at each label.
    label_at: Vec<u32>,
    frame_bytes: u32,
    free_preds: Vec<Reg>,
    lifetimes: Lifetimes<'a>,
    /// Registers of matrix products.
    pub(crate) product_names: BTreeSet<&'a str>,
    /// Rows to use again, by their number of rows.
    free_rows: BTreeMap<u32, Vec<Reg>>,
    /// Rows that become free after an instruction: which one, how many rows, where.
    expiring: BTreeMap<u32, Vec<(u32, Reg)>>,
    next_scope: u32,
    instruction: u32,
    consts: BTreeMap<Const, Reg>,
    pub(crate) lists: Vec<Reg>,
    pub(crate) calls: Vec<Call>,
    local_bytes: u32,
    stack_top: Option<Reg>,
    slot_sizes: BTreeMap<u32, u32>,
    opcode_names: BTreeMap<String, u32>,
    pub(crate) facts: Facts,
    pub(crate) callees: Vec<u32>,
    shared: Vec<u32>,
    pub(crate) is_entry: bool,
    guard: (Reg, u32),
    line: u32,
    opcode: u32,
}

/// Decodes a function; a prototype becomes a function without a body.
pub(crate) fn decode_function<'a>(
    source: &Source<'a>,
    names: &mut Names<'a>,
) -> Result<Function, Error> {
    let mut decoder = Decoder {
        names,
        scopes: vec![Scope::default()],
        drafts: Vec::new(),
        label_at: Vec::new(),
        frame_bytes: 128,
        free_preds: Vec::new(),
        product_names: BTreeSet::new(),
        lifetimes: source.body.as_deref().map(Lifetimes::of).unwrap_or_default(),
        free_rows: BTreeMap::new(),
        expiring: BTreeMap::new(),
        next_scope: 1,
        instruction: 0,
        consts: BTreeMap::new(),
        lists: Vec::new(),
        calls: Vec::new(),
        local_bytes: 0,
        stack_top: None,
        slot_sizes: BTreeMap::new(),
        opcode_names: BTreeMap::new(),
        facts: Facts::default(),
        callees: Vec::new(),
        shared: Vec::new(),
        is_entry: source.is_entry,
        guard: (NO_REG, 0),
        line: source.line,
        opcode: 0,
    };
    let (mut formals, mut results) = (Vec::new(), Vec::new());
    if source.is_entry {
        let (slots, bytes) = lay_out(&source.params);
        if bytes > 32764 {
            return Err(Error::parse(
                source.line,
                format!(
                    "`{}` has {bytes} bytes of parameters, at most 32764 are allowed",
                    source.name
                ),
            ));
        }
        for (param, slot) in source.params.iter().zip(slots) {
            decoder.scopes[0].places.insert(param.name, Place::Param(slot.offset));
        }
    } else {
        for (variables, slots) in [(&source.params, &mut formals), (&source.results, &mut results)]
        {
            for variable in variables {
                slots.push(decoder.stack_variable(variable)?);
            }
        }
    }
    let Some(body) = &source.body else {
        let name = source.name.to_string();
        return Ok(Function::prototype(name, formals, results));
    };
    isa::product_registers::collect(body, &mut decoder.product_names);
    decoder.block(body)?;
    decoder.line = source.line;
    decoder.guard = (NO_REG, 0);
    decoder.opcode = decoder.opcode_number("ret");
    decoder.emit_going(Decoder::blank(isa::control::ret), Goes::Out);
    let code = flow_graph::link(&decoder.drafts, &decoder.label_at);
    let mut opcode_names = vec![String::new(); decoder.opcode_names.len()];
    for (name, index) in decoder.opcode_names {
        opcode_names[index as usize] = name;
    }
    Ok(Function {
        name: source.name.to_string(),
        insts: code.insts,
        lines: code.lines,
        opcodes: code.opcodes,
        names: opcode_names,
        tables: code.tables,
        lists: decoder.lists,
        calls: decoder.calls,
        frame_bytes: decoder.frame_bytes,
        consts: decoder.consts.into_iter().map(|(value, reg)| (reg, value)).collect(),
        local_bytes: decoder.local_bytes,
        stack_top: decoder.stack_top.unwrap_or(NO_REG),
        formals,
        results,
        has_body: true,
        facts: decoder.facts,
        callees: decoder.callees,
        shared: decoder.shared,
    })
}

impl<'a> Decoder<'a, '_> {
    fn block(&mut self, statements: &[Statement<'a>]) -> Result<(), Error> {
        for statement in statements {
            if let Statement::Label(name, line) = statement {
                let id = self.label_at.len() as u32;
                self.label_at.push(u32::MAX);
                if self.scope().labels.insert(name, id).is_some() {
                    return Err(Error::parse(*line, format!("label `{name}` stands here twice")));
                }
            }
            if let Statement::Targets(name, labels) = statement {
                self.scope().targets.insert(name, labels.clone());
            }
        }
        for statement in statements {
            self.statement(statement)?;
        }
        Ok(())
    }

    fn scope(&mut self) -> &mut Scope<'a> {
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    fn statement(&mut self, statement: &Statement<'a>) -> Result<(), Error> {
        match statement {
            Statement::Register { name, count: None, ty } => {
                self.scope().registers.insert(name, (*ty, None));
            }
            Statement::Register { name, count: Some(count), ty } => {
                self.scope().ranges.insert(name, (*count, *ty));
            }
            Statement::Variable(variable) => self.variable(variable)?,
            Statement::Label(name, _) => {
                if let Some(&id) = self.scope().labels.get(name) {
                    self.label_at[id as usize] = self.drafts.len() as u32;
                }
            }
            Statement::Targets(..) => {}
            Statement::Block(inner) => {
                let number = self.next_scope;
                self.next_scope += 1;
                self.scopes.push(Scope { number, ..Scope::default() });
                self.block(inner)?;
                self.scopes.pop();
            }
            Statement::Instruction(instruction) => self.instruction(instruction)?,
        }
        Ok(())
    }

    fn variable(&mut self, variable: &Variable<'a>) -> Result<(), Error> {
        let place = match variable.space {
            Space::Local | Space::Param => Place::Local(self.stack_variable(variable)?.offset),
            Space::Shared => Place::Module(Symbol::Shared(self.names.add_shared(variable)?)),
            _ => {
                let at = self.names.add_global(variable)?;
                self.names.initialise(variable, at)?;
                Place::Module(Symbol::Global(at))
            }
        };
        self.scope().places.insert(variable.name, place);
        Ok(())
    }

    fn stack_variable(&mut self, variable: &Variable<'a>) -> Result<Slot, Error> {
        let bytes = variable.bytes().max(1);
        let offset = self.local_bytes.next_multiple_of(variable.align.max(8));
        let end = u64::from(offset).saturating_add(bytes);
        if end > u64::from(MAX_LOCAL) {
            return Err(Error::parse(
                variable.line,
                format!("the stack of this function takes more than {MAX_LOCAL} bytes per thread"),
            ));
        }
        self.local_bytes = (end as u32).next_multiple_of(16);
        let slot = Slot { offset, bytes: bytes as u32 };
        self.slot_sizes.insert(offset, slot.bytes);
        self.scope().places.insert(variable.name, Place::Local(offset));
        Ok(slot)
    }

    /// The row that holds what `alloca` has taken.
    pub(crate) fn stack_top(&mut self, words: &Words<'_>) -> Result<Reg, Error> {
        match self.stack_top {
            Some(reg) => Ok(reg),
            None => {
                let reg = self.allot(Type::B32, words)?;
                self.stack_top = Some(reg);
                Ok(reg)
            }
        }
    }

    fn opcode_number(&mut self, name: &str) -> u32 {
        let next = self.opcode_names.len() as u32;
        *self.opcode_names.entry(name.to_string()).or_insert(next)
    }

    fn instruction(&mut self, instruction: &Instruction<'a>) -> Result<(), Error> {
        let mut words = Words::new(instruction);
        self.line = instruction.line;
        self.opcode = self.opcode_number(&words.text());
        self.guard = (NO_REG, 0);
        if let Some((name, negated)) = instruction.guard {
            let reg = self.register(name, &words)?;
            if reg.1 != Type::Pred {
                return Err(words.wrong(format!("the guard `{name}` is not a predicate")));
            }
            self.guard = (reg.0, if negated { u32::MAX } else { 0 });
        }
        isa::product_registers::guard(self, &words, instruction)?;
        isa::decode(self, &mut words, instruction)?;
        for (rows, reg) in self.expiring.remove(&self.instruction).unwrap_or_default() {
            self.free_rows.entry(rows).or_default().push(reg);
        }
        self.instruction += 1;
        words.finish()
    }

    /// An instruction without operands.
    pub(crate) fn blank(exec: Exec) -> Inst {
        let none = NO_REG;
        Inst {
            exec,
            guard: none,
            guard_flip: 0,
            d: none,
            a: none,
            b: none,
            c: none,
            aux: 0,
            imm: 0,
        }
    }

    /// Adds an instruction; the guard is added here.
    pub(crate) fn emit(&mut self, inst: Inst) {
        self.emit_going(inst, Goes::On);
    }

    /// Adds an instruction that goes elsewhere than on.
    pub(crate) fn emit_going(&mut self, mut inst: Inst, goes: Goes) {
        (inst.guard, inst.guard_flip) = self.guard;
        self.drafts.push(Draft { inst, goes, line: self.line, opcode: self.opcode });
    }

    /// A number for one more memory instruction.
    pub(crate) fn site(&mut self) -> u32 {
        self.names.sites += 1;
        self.names.sites - 1
    }

    /// Room in the frame for a register.
    pub(crate) fn allot(&mut self, ty: Type, words: &Words<'_>) -> Result<Reg, Error> {
        if ty == Type::Pred {
            if self.free_preds.is_empty() {
                let base = self.rows(1, words)?;
                self.free_preds.extend((0..32).rev().map(|index| base + 4 * index));
            }
            return self.free_preds.pop().ok_or_else(|| words.wrong("no predicate is left"));
        }
        self.rows(ty.bytes().div_ceil(4), words)
    }

    /// Room for a register of the text: a row that is free again if the register lives shortly.
    fn allot_named(
        &mut self,
        key: (u32, &'a str),
        ty: Type,
        words: &Words<'_>,
    ) -> Result<Reg, Error> {
        let Some(end) = self.lifetimes.end(key) else {
            return self.allot(ty, words);
        };
        let rows = ty.bytes().div_ceil(4);
        let free = self.free_rows.get_mut(&rows).and_then(Vec::pop);
        let reg = match free {
            Some(reg) => reg,
            None => self.rows(rows, words)?,
        };
        self.expiring.entry(end).or_default().push((rows, reg));
        Ok(reg)
    }

    fn rows(&mut self, count: u32, words: &Words<'_>) -> Result<Reg, Error> {
        let reg = self.frame_bytes;
        self.frame_bytes += 128 * count;
        if self.frame_bytes > MAX_FRAME {
            return Err(words.unsupported(format!(
                "this function uses more than {} registers",
                MAX_FRAME / 128
            )));
        }
        Ok(reg)
    }

    /// A row that holds a constant.
    pub(crate) fn constant(&mut self, value: Const, words: &Words<'_>) -> Result<Reg, Error> {
        if let Some(&reg) = self.consts.get(&value) {
            return Ok(reg);
        }
        let wide = match value {
            Const::Word(_) => false,
            Const::Wide(_) | Const::Global(_) => true,
            Const::Shared(_, _, wide) | Const::Local(_, wide) | Const::Param(_, wide) => wide,
            Const::Special(special) => special.is_wide(),
        };
        let reg = self.rows(1 + u32::from(wide), words)?;
        self.consts.insert(value, reg);
        Ok(reg)
    }

    /// A register by name, with its type.
    pub(crate) fn register(
        &mut self,
        name: &'a str,
        words: &Words<'_>,
    ) -> Result<(Reg, Type), Error> {
        match self.find_register(name, words)? {
            Some(found) => Ok(found),
            None => Err(words.wrong(format!("`{name}` is not a register"))),
        }
    }

    /// A register by name, or none if the name is something else.
    pub(crate) fn find_register(
        &mut self,
        name: &'a str,
        words: &Words<'_>,
    ) -> Result<Option<(Reg, Type)>, Error> {
        for index in (0..self.scopes.len()).rev() {
            let found = match self.scopes[index].registers.get(name) {
                Some(&found) => Some(found),
                None => in_range(&self.scopes[index].ranges, name).map(|ty| (ty, None)),
            };
            if let Some((ty, reg)) = found {
                let reg = match reg {
                    Some(reg) => reg,
                    None => self.allot_named((self.scopes[index].number, name), ty, words)?,
                };
                self.scopes[index].registers.insert(name, (ty, Some(reg)));
                return Ok(Some((reg, ty)));
            }
        }
        Ok(None)
    }

    /// What a name of memory or of a function stands for.
    pub(crate) fn place(&mut self, name: &str) -> Option<Place> {
        let found = self.scopes.iter().rev().find_map(|scope| scope.places.get(name).copied());
        let found = found.or_else(|| self.names.symbols.get(name).copied().map(Place::Module));
        if let Some(Place::Module(Symbol::Shared(number))) = found
            && !self.shared.contains(&number)
        {
            self.shared.push(number);
        }
        found
    }

    /// Bytes of a variable in the stack.
    pub(crate) fn slot_bytes(&mut self, name: &str) -> u32 {
        match self.place(name) {
            Some(Place::Local(offset)) => self.slot_sizes.get(&offset).copied().unwrap_or(0),
            _ => 0,
        }
    }

    /// A function's number.
    pub(crate) fn function_number(&self, name: &str, words: &Words<'_>) -> Result<u32, Error> {
        match self.names.symbols.get(name) {
            Some(Symbol::Function(number)) => Ok(*number),
            _ => Err(words.wrong(format!("there is no function `{name}`"))),
        }
    }

    /// A label's number.
    pub(crate) fn label(&self, operand: &Operand<'a>, words: &Words<'_>) -> Result<u32, Error> {
        let Operand::Name(name, None) = operand else {
            return Err(words.wrong("a label is missing"));
        };
        self.label_named(name, words)
    }

    fn label_named(&self, name: &str, words: &Words<'_>) -> Result<u32, Error> {
        let found = self.scopes.iter().rev().find_map(|scope| scope.labels.get(name));
        found.copied().ok_or_else(|| words.wrong(format!("there is no label `{name}`")))
    }

    /// The labels of a `.branchtargets` list.
    pub(crate) fn targets(&self, name: &str, words: &Words<'_>) -> Result<Vec<u32>, Error> {
        let found = self.scopes.iter().rev().find_map(|scope| scope.targets.get(name));
        let Some(labels) = found else {
            return Err(words.wrong(format!("there is no list of branch targets `{name}`")));
        };
        labels.iter().map(|label| self.label_named(label, words)).collect()
    }
}
