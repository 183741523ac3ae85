//! Video instructions (PTX ISA 9.7.18): arithmetic on bytes and halves chosen from registers.
//!
//! Scalar forms (9.7.18.1) are here, those of two halves or four bytes at once in [`simd`].
//! Nothing here is fast: compilers emit these rarely.

mod simd;

use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::Cx;
use crate::program::{Flow, Inst, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &[
    "vadd",
    "vsub",
    "vabsdiff",
    "vmin",
    "vmax",
    "vshl",
    "vshr",
    "vmad",
    "vset",
    "vadd2",
    "vsub2",
    "vavrg2",
    "vabsdiff2",
    "vmin2",
    "vmax2",
    "vset2",
    "vadd4",
    "vsub4",
    "vavrg4",
    "vabsdiff4",
    "vmin4",
    "vmax4",
    "vset4",
];

/// The primary operation; its number is what an instruction keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Add,
    Sub,
    Average,
    Difference,
    Min,
    Max,
    ShiftLeft,
    ShiftRight,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

const OPERATIONS: [Operation; 14] = {
    use Operation::*;
    [
        Add,
        Sub,
        Average,
        Difference,
        Min,
        Max,
        ShiftLeft,
        ShiftRight,
        Equal,
        NotEqual,
        Less,
        LessEqual,
        Greater,
        GreaterEqual,
    ]
};

impl Operation {
    /// The operation of an opcode without `v` and the number of its lanes.
    fn take(name: &str, words: &mut Words<'_>) -> Option<Operation> {
        Some(match name {
            "add" => Operation::Add,
            "sub" => Operation::Sub,
            "avrg" => Operation::Average,
            "absdiff" => Operation::Difference,
            "min" => Operation::Min,
            "max" => Operation::Max,
            "shl" => Operation::ShiftLeft,
            "shr" => Operation::ShiftRight,
            _ => match words.take_any(&["eq", "ne", "lt", "le", "gt", "ge"])? {
                "eq" => Operation::Equal,
                "ne" => Operation::NotEqual,
                "lt" => Operation::Less,
                "le" => Operation::LessEqual,
                "gt" => Operation::Greater,
                _ => Operation::GreaterEqual,
            },
        })
    }

    /// Operands are 33-bit integers; shift amounts are at most 32.
    fn apply(self, a: i128, b: i128) -> i128 {
        match self {
            Operation::Add => a + b,
            Operation::Sub => a - b,
            Operation::Average => (a + b + i128::from(a + b >= 0)) >> 1,
            Operation::Difference => (a - b).abs(),
            Operation::Min => a.min(b),
            Operation::Max => a.max(b),
            Operation::ShiftLeft => a << b,
            Operation::ShiftRight => a >> b,
            Operation::Equal => i128::from(a == b),
            Operation::NotEqual => i128::from(a != b),
            Operation::Less => i128::from(a < b),
            Operation::LessEqual => i128::from(a <= b),
            Operation::Greater => i128::from(a > b),
            Operation::GreaterEqual => i128::from(a >= b),
        }
    }
}

/// What follows the primary operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Second {
    Nothing,
    Add,
    Min,
    Max,
}

const SECONDS: [Second; 4] = [Second::Nothing, Second::Add, Second::Min, Second::Max];

/// A byte, a half or all of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    at: u32,
    bits: u32,
}

impl Part {
    const WHOLE: Part = Part { at: 0, bits: 32 };

    fn named(name: &str) -> Option<Part> {
        Some(match name {
            "b0" => Part { at: 0, bits: 8 },
            "b1" => Part { at: 8, bits: 8 },
            "b2" => Part { at: 16, bits: 8 },
            "b3" => Part { at: 24, bits: 8 },
            "h0" => Part { at: 0, bits: 16 },
            "h1" => Part { at: 16, bits: 16 },
            _ => return None,
        })
    }

    fn mask(self) -> u32 {
        (u32::MAX >> (32 - self.bits)) << self.at
    }

    fn value(self, word: u32, signed: bool) -> i128 {
        extend((word & self.mask()) >> self.at, self.bits, signed)
    }

    fn pack(self) -> u64 {
        u64::from(self.at | self.bits << 5)
    }

    fn unpack(bits: u64) -> Part {
        Part { at: bits as u32 & 31, bits: (bits as u32 >> 5 & 63).clamp(1, 32) }
    }
}

/// The lower `bits` bits as a signed or unsigned number.
fn extend(word: u32, bits: u32, signed: bool) -> i128 {
    let up = 32 - bits;
    if signed { i128::from((word << up) as i32 >> up) } else { i128::from(word << up >> up) }
}

/// Into the range of an integer of `bits` bits.
fn clamp(value: i128, bits: u32, signed: bool) -> i128 {
    if signed {
        value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        value.clamp(0, (1 << bits) - 1)
    }
}

/// What `imm` of a scalar instruction holds.
#[derive(Clone, Copy, Debug)]
struct Form {
    operation: Operation,
    /// Of D, A and B.
    signed: [bool; 3],
    parts: [Part; 3],
    saturates: bool,
    second: Second,
    /// Shift amounts count modulo 32; else they stop at 32.
    wraps: bool,
}

impl Form {
    fn pack(self) -> u64 {
        let [d, a, b] = self.parts.map(Part::pack);
        let flags = [self.signed[0], self.signed[1], self.signed[2], self.saturates, self.wraps];
        let flags = flags.iter().enumerate().fold(0, |all, (at, &one)| all | u64::from(one) << at);
        d | a << 11
            | b << 22
            | flags << 33
            | (self.operation as u64) << 40
            | (self.second as u64) << 48
    }

    fn unpack(bits: u64) -> Form {
        let flag = |at: u32| bits >> (33 + at) & 1 != 0;
        Form {
            operation: OPERATIONS[(bits >> 40 & 15).min(13) as usize],
            signed: [flag(0), flag(1), flag(2)],
            parts: [0, 11, 22].map(|at| Part::unpack(bits >> at)),
            saturates: flag(3),
            second: SECONDS[(bits >> 48 & 3) as usize],
            wraps: flag(4),
        }
    }

    fn compute(&self, a: u32, b: u32, c: u32) -> u32 {
        let [d_part, a_part, b_part] = self.parts;
        let (a, mut b) = (a_part.value(a, self.signed[1]), b_part.value(b, self.signed[2]));
        if matches!(self.operation, Operation::ShiftLeft | Operation::ShiftRight) {
            b = if self.wraps { b & 31 } else { b.min(32) };
        }
        let mut value = self.operation.apply(a, b);
        if self.saturates {
            value = clamp(value, d_part.bits, self.signed[0]);
        }
        let third = extend(c, 32, self.signed[0]);
        match self.second {
            Second::Add => value += third,
            Second::Min => value = value.min(third),
            Second::Max => value = value.max(third),
            Second::Nothing => {}
        }
        let mask = d_part.mask();
        if d_part == Part::WHOLE {
            value as u32
        } else {
            (value as u32) << d_part.at & mask | c & !mask
        }
    }
}

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let name = instruction.opcode.trim_start_matches('v');
    match name.as_bytes().last() {
        Some(b'2') => return simd::decode(cx, words, instruction, 2),
        Some(b'4') => return simd::decode(cx, words, instruction, 4),
        _ => {}
    }
    if name == "mad" {
        return decode_mad(cx, words, instruction);
    }
    let operation =
        Operation::take(name, words).ok_or_else(|| words.wrong("the comparison is missing"))?;
    let signed = take_signs(words, name == "set")?;
    let saturates = words.take("sat");
    let wraps = words.take_any(&["wrap", "clamp"]) == Some("wrap");
    let second = match words.take_any(&["add", "min", "max"]) {
        None => Second::Nothing,
        Some("add") => Second::Add,
        Some("min") => Second::Min,
        Some(_) => Second::Max,
    };
    let (d, a, b, c) = match instruction.operands.as_slice() {
        [d, a, b] if second == Second::Nothing => (d, a, b, None),
        [d, a, b, c] => (d, a, b, Some(c)),
        _ => return Err(words.wrong("the number of operands does not fit")),
    };
    let ((a, a_part), (b, b_part)) = (source(cx, a, words)?, source(cx, b, words)?);
    let c = match c {
        Some(c) => cx.src(c, Type::B32, words)?,
        None => a,
    };
    let (d, d_part) = destination(d, words)?;
    let d_part = match d_part {
        None => Part::WHOLE,
        Some(name) => match Part::named(name) {
            Some(part) if instruction.operands.len() == 4 && second == Second::Nothing => part,
            _ => return Err(words.wrong(format!("`.{name}` does not fit here"))),
        },
    };
    let d = cx.dst(&d, Type::B32, words)?;
    let parts = [d_part, a_part, b_part];
    let form = Form { operation, signed, parts, saturates, second, wraps };
    cx.emit(Inst { d, a, b, c, imm: form.pack(), ..Decoder::blank(scalar) });
    Ok(())
}

/// Takes the types of D, A and B; a comparison has none for D, whose result is unsigned.
fn take_signs(words: &mut Words<'_>, compares: bool) -> Result<[bool; 3], Error> {
    let types = words.types();
    if types.iter().any(|ty| !matches!(ty, Type::U32 | Type::S32)) {
        return Err(words.wrong("the types are `.u32` and `.s32`"));
    }
    match types.as_slice() {
        [d, a, b] if !compares => Ok([d, a, b].map(|ty| ty.is_signed())),
        [a, b] if compares => Ok([false, a.is_signed(), b.is_signed()]),
        _ => Err(words.wrong("the number of types does not fit")),
    }
}

/// A register and the part of it that counts.
fn source<'a>(
    cx: &mut Decoder<'a, '_>,
    operand: &Operand<'a>,
    words: &Words<'a>,
) -> Result<(Reg, Part), Error> {
    match operand {
        Operand::Name(name, Some(part)) if !name.contains("tid") => {
            let part = Part::named(part)
                .ok_or_else(|| words.wrong(format!("`.{part}` is no part of a register")))?;
            Ok((cx.src(&Operand::Name(name, None), Type::B32, words)?, part))
        }
        _ => Ok((cx.src(operand, Type::B32, words)?, Part::WHOLE)),
    }
}

/// A destination without its part, and the part.
fn destination<'a>(
    operand: &Operand<'a>,
    words: &Words<'_>,
) -> Result<(Operand<'a>, Option<&'a str>), Error> {
    match operand {
        Operand::Name(name, part) => Ok((Operand::Name(name, None), *part)),
        _ => Err(words.wrong("the destination is not a register")),
    }
}

unsafe fn scalar(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let form = Form::unpack(inst.imm);
    // SAFETY: operands of this frame.
    unsafe {
        let (a, b, c) = (&*cx.row32(inst.a), &*cx.row32(inst.b), &*cx.row32(inst.c));
        let out = std::array::from_fn(|lane| form.compute(a[lane], b[lane], c[lane]));
        cx.put32(inst.d, &out);
    }
    Flow::Next
}

/// `vmad` (9.7.18.1.3). `aux` holds flags and the shift, `imm` the parts of A and B.
fn decode_mad<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let [_, a_signed, b_signed] = take_signs(words, false)?;
    let (plus_one, saturates) = (words.take("po"), words.take("sat"));
    let shift = match words.take_any(&["shr7", "shr15"]) {
        None => 0,
        Some("shr7") => 7,
        Some(_) => 15,
    };
    let [d, a, b, c] = super::operands(instruction, words)?;
    let negated = |operand: &Operand<'a>| match operand {
        Operand::Negated(inner) => ((**inner).clone(), true),
        plain => (plain.clone(), false),
    };
    let [(a, minus_a), (b, minus_b), (c, minus_c)] = [a, b, c].map(negated);
    let minus_product = minus_a != minus_b;
    let negations = [minus_product, minus_c, plus_one];
    if negations.iter().filter(|&&one| one).count() > 1 {
        return Err(words.wrong("at most one of A·B and C is negated, and none with `.po`"));
    }
    let ((a, a_part), (b, b_part)) = (source(cx, &a, words)?, source(cx, &b, words)?);
    let c = cx.src(&c, Type::B32, words)?;
    let d = cx.dst(d, Type::B32, words)?;
    let flags = [a_signed, b_signed, minus_product, minus_c, plus_one, saturates];
    let flags = flags.iter().enumerate().fold(0, |all, (at, &one)| all | u32::from(one) << at);
    let imm = a_part.pack() | b_part.pack() << 11;
    cx.emit(Inst { d, a, b, c, aux: flags | shift << 8, imm, ..Decoder::blank(mad) });
    Ok(())
}

unsafe fn mad(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let [a_signed, b_signed, negates, minus_c, plus_one, saturates] =
        [0, 1, 2, 3, 4, 5].map(|at| inst.aux >> at & 1 != 0);
    let (a_part, b_part) = (Part::unpack(inst.imm), Part::unpack(inst.imm >> 11));
    let signed = a_signed || b_signed || negates || minus_c;
    let compute = |a: u32, b: u32, c: u32| {
        let product = a_part.value(a, a_signed) * b_part.value(b, b_signed);
        let product = if negates { -product } else { product };
        let c = if minus_c { !c } else { c };
        let sum = product + extend(c, 32, signed) + i128::from(plus_one || minus_c);
        let shifted = sum >> (inst.aux >> 8);
        (if saturates { clamp(shifted, 32, signed) } else { shifted }) as u32
    };
    // SAFETY: operands of this frame.
    unsafe {
        let (a, b, c) = (&*cx.row32(inst.a), &*cx.row32(inst.b), &*cx.row32(inst.c));
        let out = std::array::from_fn(|lane| compute(a[lane], b[lane], c[lane]));
        cx.put32(inst.d, &out);
    }
    Flow::Next
}
