//! Floating point with IEEE 754 results (PTX ISA 9.7.3).

use super::numeric::{self, Round, canon, canon64, flush, saturate, saturate64};
use super::{math, operands};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::shapes;
use crate::program::{Exec, Inst};
use crate::ptx::ast::Instruction;
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &["copysign"];

/// `copysign d, a, b`: `b` with the sign of `a` (9.7.3.3).
pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let ty = words.ty()?;
    let exec = match ty {
        Type::F32 => shapes::binary(|a: f32, b: f32| b.copysign(a)),
        Type::F64 => shapes::binary(|a: f64, b: f64| b.copysign(a)),
        _ => return Err(words.wrong("the type is `.f32` or `.f64`")),
    };
    super::arithmetic::two(cx, words, instruction, ty, exec)
}

/// Takes a rounding modifier.
pub(super) fn take_round(words: &mut Words<'_>) -> Option<Round> {
    Some(match words.take_any(&["rn", "rz", "rm", "rp", "rna"])? {
        "rn" => Round::Nearest,
        "rz" => Round::Zero,
        "rm" => Round::Down,
        "rp" => Round::Up,
        _ => Round::Away,
    })
}

/// The executor of an operation in the form that `.ftz` and `.sat` ask for.
macro_rules! variants {
    ($ftz:expr, $sat:expr, $shape:path, |$($arg:ident),*| $body:expr) => {
        match ($ftz, $sat) {
            (false, false) => $shape(|$($arg: f32),*| $body),
            (true, false) => $shape(|$($arg: f32),*| {
                $(let $arg = flush($arg);)*
                flush($body)
            }),
            (false, true) => $shape(|$($arg: f32),*| saturate($body)),
            (true, true) => $shape(|$($arg: f32),*| {
                $(let $arg = flush($arg);)*
                saturate(flush($body))
            }),
        }
    };
}
pub(super) use variants;

/// The same operation in each rounding mode.
macro_rules! rounded {
    ($round:expr, $ftz:expr, $sat:expr, $shape:path, |$($arg:ident),*| $name:ident) => {
        match $round {
            Round::Zero => variants!($ftz, $sat, $shape, |$($arg),*| numeric::$name($($arg),*, Round::Zero)),
            Round::Down => variants!($ftz, $sat, $shape, |$($arg),*| numeric::$name($($arg),*, Round::Down)),
            Round::Up => variants!($ftz, $sat, $shape, |$($arg),*| numeric::$name($($arg),*, Round::Up)),
            _ => variants!($ftz, $sat, $shape, |$($arg),*| numeric::$name($($arg),*, Round::Nearest)),
        }
    };
}

macro_rules! rounded64 {
    ($round:expr, $shape:path, |$($arg:ident),*| $name:ident) => {
        match $round {
            Round::Zero => $shape(|$($arg: f64),*| numeric::$name($($arg),*, Round::Zero)),
            Round::Down => $shape(|$($arg: f64),*| numeric::$name($($arg),*, Round::Down)),
            Round::Up => $shape(|$($arg: f64),*| numeric::$name($($arg),*, Round::Up)),
            _ => $shape(|$($arg: f64),*| numeric::$name($($arg),*, Round::Nearest)),
        }
    };
}

/// `add sub mul fma mad div abs neg min max` of float32 and float64 (9.7.3.4 to 9.7.3.13).
pub(super) fn decode_arithmetic<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    ty: Type,
    types: &[Type],
) -> Result<(), Error> {
    if types.len() != 1 {
        return Err(words.unsupported("operands of mixed precision"));
    }
    if ty == Type::F32x2 {
        return decode_packed(cx, words, instruction);
    }
    let approximate = words.take_any(&["approx", "full"]);
    let round = take_round(words).unwrap_or(Round::Nearest);
    let (ftz, sat, nan) = (words.take("ftz"), words.take("sat"), words.take("NaN"));
    let exec = match ty {
        _ if take_xorsign(words)? => xorsign_exec(instruction.opcode, ty, ftz, nan),
        Type::F64 => exec64(instruction.opcode, round),
        _ if instruction.opcode == "div" && approximate.is_some() => Some(math::divide(ftz)),
        _ => exec32(instruction.opcode, round, ftz, sat, nan),
    };
    let exec = exec.ok_or_else(|| words.unsupported("no such operation on floats"))?;
    let mut inst = Decoder::blank(exec);
    let count = match instruction.opcode {
        "abs" | "neg" => 1,
        "fma" | "mad" => 3,
        "min" | "max" if instruction.operands.len() == 4 => {
            return Err(words.unsupported("three operands need sm_100"));
        }
        _ => 2,
    };
    if instruction.operands.len() != count + 1 {
        return Err(words.wrong(format!("{} operands are needed", count + 1)));
    }
    inst.a = cx.src(&instruction.operands[1], ty, words)?;
    if count > 1 {
        inst.b = cx.src(&instruction.operands[2], ty, words)?;
    }
    if count > 2 {
        inst.c = cx.src(&instruction.operands[3], ty, words)?;
    }
    inst.d = cx.dst(&instruction.operands[0], ty, words)?;
    cx.emit(inst);
    Ok(())
}

fn exec32(opcode: &str, round: Round, ftz: bool, sat: bool, nan: bool) -> Option<Exec> {
    Some(match opcode {
        "add" if round == Round::Nearest => {
            variants!(ftz, sat, shapes::binary, |a, b| canon(a + b))
        }
        "sub" if round == Round::Nearest => {
            variants!(ftz, sat, shapes::binary, |a, b| canon(a - b))
        }
        "mul" if round == Round::Nearest => {
            variants!(ftz, sat, shapes::binary, |a, b| canon(a * b))
        }
        "fma" | "mad" if round == Round::Nearest => {
            variants!(ftz, sat, shapes::ternary, |a, b, c| canon(a.mul_add(b, c)))
        }
        "add" => rounded!(round, ftz, sat, shapes::binary, |a, b| add32),
        "sub" => rounded!(round, ftz, sat, shapes::binary, |a, b| sub32),
        "mul" => rounded!(round, ftz, sat, shapes::binary, |a, b| mul32),
        "fma" | "mad" => rounded!(round, ftz, sat, shapes::ternary, |a, b, c| fma32),
        "div" => rounded!(round, ftz, false, shapes::binary, |a, b| div32),
        "min" if nan => variants!(ftz, false, shapes::binary, |a, b| numeric::min32_nan(a, b)),
        "max" if nan => variants!(ftz, false, shapes::binary, |a, b| numeric::max32_nan(a, b)),
        "min" => variants!(ftz, false, shapes::binary, |a, b| numeric::min32(a, b)),
        "max" => variants!(ftz, false, shapes::binary, |a, b| numeric::max32(a, b)),
        "neg" => variants!(ftz, false, shapes::unary, |a| -a),
        "abs" => variants!(ftz, false, shapes::unary, |a| a.abs()),
        _ => return None,
    })
}

/// Takes `.xorsign.abs` of `min` and `max`.
pub(super) fn take_xorsign(words: &mut Words<'_>) -> Result<bool, Error> {
    let found = words.take("xorsign");
    if found && !words.take("abs") {
        return Err(words.wrong("`.xorsign` needs `.abs`"));
    }
    Ok(found)
}

/// `min.xorsign.abs` and `max.xorsign.abs` (9.7.3.11, 9.7.3.12).
fn xorsign_exec(opcode: &str, ty: Type, ftz: bool, nan: bool) -> Option<Exec> {
    use numeric::{max32, max32_nan, min32, min32_nan, xorsign32};
    Some(match (opcode, ty, nan) {
        ("min", Type::F32, false) => {
            variants!(ftz, false, shapes::binary, |a, b| xorsign32(a, b, min32))
        }
        ("max", Type::F32, false) => {
            variants!(ftz, false, shapes::binary, |a, b| xorsign32(a, b, max32))
        }
        ("min", Type::F32, true) => {
            variants!(ftz, false, shapes::binary, |a, b| xorsign32(a, b, min32_nan))
        }
        ("max", Type::F32, true) => {
            variants!(ftz, false, shapes::binary, |a, b| xorsign32(a, b, max32_nan))
        }
        _ => return None,
    })
}

fn exec64(opcode: &str, round: Round) -> Option<Exec> {
    Some(match opcode {
        "add" => rounded64!(round, shapes::binary, |a, b| add64),
        "sub" => rounded64!(round, shapes::binary, |a, b| sub64),
        "mul" => rounded64!(round, shapes::binary, |a, b| mul64),
        "fma" | "mad" => rounded64!(round, shapes::ternary, |a, b, c| fma64),
        "div" => rounded64!(round, shapes::binary, |a, b| div64),
        "min" => shapes::binary(|a: f64, b: f64| numeric::min64(a, b)),
        "max" => shapes::binary(|a: f64, b: f64| numeric::max64(a, b)),
        "neg" => shapes::unary(|a: f64| -a),
        "abs" => shapes::unary(|a: f64| a.abs()),
        _ => return None,
    })
}

/// `.f32x2` needs sm_100: refused, as ptxas would for sm_90a.
fn decode_packed<'a>(
    _: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let [..] = operands::<3>(instruction, words)?;
    Err(words.unsupported("`.f32x2` needs sm_100"))
}

/// `rcp` and `sqrt` with IEEE rounding (9.7.3.14, 9.7.3.16), for [`math`].
pub(super) fn exact_unary(opcode: &str, ty: Type, round: Round, ftz: bool) -> Option<Exec> {
    Some(match (opcode, ty) {
        ("rcp", Type::F32) => rounded!(round, ftz, false, shapes::unary, |a| rcp32),
        ("sqrt", Type::F32) => rounded!(round, ftz, false, shapes::unary, |a| sqrt32),
        ("rcp", Type::F64) => rounded64!(round, shapes::unary, |a| rcp64),
        ("sqrt", Type::F64) => rounded64!(round, shapes::unary, |a| sqrt64),
        _ => return None,
    })
}

/// A unary operation on one operand.
pub(super) fn one<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &Words<'a>,
    instruction: &Instruction<'a>,
    ty: Type,
    exec: Exec,
) -> Result<(), Error> {
    let [d, a] = operands(instruction, words)?;
    let a = cx.src(a, ty, words)?;
    let d = cx.dst(d, ty, words)?;
    cx.emit(Inst { d, a, ..Decoder::blank(exec) });
    Ok(())
}

/// Saturation of float64 is not an instruction, but conversions use it.
pub(super) fn saturated64(value: f64) -> f64 {
    saturate64(canon64(value))
}
