//! Video instructions on two halves or four bytes at once (PTX ISA 9.7.18.2).

use super::{OPERATIONS, Operation, clamp, destination, extend, take_signs};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::Cx;
use crate::program::{Flow, Inst, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;

/// What `imm` holds. Lanes come lowest first.
#[derive(Clone, Copy, Debug)]
struct Form {
    operation: Operation,
    lanes: u32,
    /// Of D, A and B.
    signed: [bool; 3],
    saturates: bool,
    /// Results are added to C instead of standing beside parts of it.
    accumulates: bool,
    /// A bit per lane whose result counts.
    mask: u32,
    /// Per operand and lane, which part of the pair B:A it takes.
    choices: [[u32; 4]; 2],
}

impl Form {
    fn pack(self) -> u64 {
        let flags = [
            self.signed[0],
            self.signed[1],
            self.signed[2],
            self.saturates,
            self.accumulates,
            self.lanes == 4,
        ];
        let flags = flags.iter().enumerate().fold(0, |all, (at, &one)| all | u64::from(one) << at);
        let choices = self.choices.iter().flatten().rev();
        let choices = choices.fold(0, |all, &one| all << 3 | u64::from(one));
        choices | flags << 24 | u64::from(self.mask) << 32 | (self.operation as u64) << 40
    }

    fn unpack(bits: u64) -> Form {
        let flag = |at: u32| bits >> (24 + at) & 1 != 0;
        let choice = |at: usize| (bits >> (3 * at) & 7) as u32;
        Form {
            operation: OPERATIONS[(bits >> 40 & 15).min(13) as usize],
            lanes: if flag(5) { 4 } else { 2 },
            signed: [flag(0), flag(1), flag(2)],
            saturates: flag(3),
            accumulates: flag(4),
            mask: (bits >> 32 & 15) as u32,
            choices: [0, 4].map(|first| std::array::from_fn(|lane| choice(first + lane))),
        }
    }

    fn compute(&self, a: u32, b: u32, c: u32) -> u32 {
        let bits = 32 / self.lanes;
        let ones = u32::MAX >> (32 - bits);
        let pair = u64::from(b) << 32 | u64::from(a);
        let mut out = c;
        for lane in (0..self.lanes).filter(|lane| self.mask >> lane & 1 != 0) {
            let value = |operand: usize| {
                let part = self.choices[operand][lane as usize] % (2 * self.lanes);
                extend((pair >> (part * bits)) as u32, bits, self.signed[1 + operand])
            };
            let mut result = self.operation.apply(value(0), value(1));
            if self.saturates {
                result = clamp(result, bits, self.signed[0]);
            }
            out = if self.accumulates {
                out.wrapping_add(result as u32)
            } else {
                out & !(ones << (lane * bits)) | (result as u32 & ones) << (lane * bits)
            };
        }
        out
    }
}

pub(super) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    lanes: u32,
) -> Result<(), Error> {
    let name = instruction.opcode.trim_start_matches('v').trim_end_matches(['2', '4']);
    let operation =
        Operation::take(name, words).ok_or_else(|| words.wrong("the comparison is missing"))?;
    let signed = take_signs(words, name == "set")?;
    let (saturates, accumulates) = (words.take("sat"), words.take("add"));
    let [d, a, b, c] = super::super::operands(instruction, words)?;
    let first = |first: u32| std::array::from_fn(|lane| first + lane as u32);
    let (a, a_choice) = source(cx, a, lanes, first(0), words)?;
    let (b, b_choice) = source(cx, b, lanes, first(lanes), words)?;
    let c = cx.src(c, Type::B32, words)?;
    let (d, part) = destination(d, words)?;
    let mask = match part {
        None => (1 << lanes) - 1,
        Some(part) => {
            mask(part, lanes).ok_or_else(|| words.wrong(format!("`.{part}` names no lanes")))?
        }
    };
    let d = cx.dst(&d, Type::B32, words)?;
    let choices = [a_choice, b_choice];
    let form = Form { operation, lanes, signed, saturates, accumulates, mask, choices };
    cx.emit(Inst { d, a, b, c, imm: form.pack(), ..Decoder::blank(simd) });
    Ok(())
}

/// The digits of `.h10` or `.b3210`, highest lane first.
fn digits(part: &str, lanes: u32) -> Option<Vec<u32>> {
    let digits = part.strip_prefix(if lanes == 2 { 'h' } else { 'b' })?;
    digits.chars().map(|letter| letter.to_digit(2 * lanes)).collect()
}

/// The lanes that a destination names.
fn mask(part: &str, lanes: u32) -> Option<u32> {
    let digits = digits(part, lanes)?;
    let fits = !digits.is_empty() && digits.iter().all(|&digit| digit < lanes);
    fits.then(|| digits.iter().fold(0, |mask, digit| mask | 1 << digit))
}

/// A register and, per lane, what the operand takes from the pair B:A.
fn source<'a>(
    cx: &mut Decoder<'a, '_>,
    operand: &Operand<'a>,
    lanes: u32,
    otherwise: [u32; 4],
    words: &Words<'a>,
) -> Result<(Reg, [u32; 4]), Error> {
    let Operand::Name(name, Some(part)) = operand else {
        return Ok((cx.src(operand, Type::B32, words)?, otherwise));
    };
    let found = digits(part, lanes).filter(|digits| digits.len() == lanes as usize);
    let Some(digits) = found else {
        return Err(words.wrong(format!("`.{part}` does not choose {lanes} parts")));
    };
    let mut choice = [0; 4];
    for (slot, &digit) in choice.iter_mut().zip(digits.iter().rev()) {
        *slot = digit;
    }
    Ok((cx.src(&Operand::Name(name, None), Type::B32, words)?, choice))
}

unsafe fn simd(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let form = Form::unpack(inst.imm);
    // SAFETY: operands of this frame.
    unsafe {
        let (a, b, c) = (&*cx.row32(inst.a), &*cx.row32(inst.b), &*cx.row32(inst.c));
        let out = std::array::from_fn(|lane| form.compute(a[lane], b[lane], c[lane]));
        cx.put32(inst.d, &out);
    }
    Flow::Next
}
