//! Float16 and bfloat16 arithmetic, single and packed (PTX ISA 9.7.4).

use half::{bf16, f16};

use super::numeric::{Round, saturate};
use super::numeric::{bf16_bits, f16_bits, fma_bf16, fma16, max32, max32_nan, min32, min32_nan};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::shapes;
use crate::program::Exec;
use crate::ptx::ast::Instruction;
use crate::ptx::types::Type;

/// A 16-bit float format as the arithmetic sees it.
trait Format: 'static {
    fn value(bits: u32) -> f32;
    fn round(value: f32) -> u32;
    fn fma(a: u32, b: u32, c: u32) -> u32;
    /// Bits of infinity: everything above, without the sign, is a NaN.
    const INFINITY: u32;
}

struct Half;
struct Brain;

impl Format for Half {
    #[inline(always)]
    fn value(bits: u32) -> f32 {
        f32::from(f16::from_bits(bits as u16))
    }
    #[inline(always)]
    fn round(value: f32) -> u32 {
        f16_bits(value, Round::Nearest)
    }
    #[inline(always)]
    fn fma(a: u32, b: u32, c: u32) -> u32 {
        let [a, b, c] = [a, b, c].map(|bits| f16::from_bits(bits as u16));
        u32::from(fma16(a, b, c).to_bits())
    }
    const INFINITY: u32 = 0x7c00;
}

impl Format for Brain {
    #[inline(always)]
    fn value(bits: u32) -> f32 {
        f32::from_bits(bits << 16)
    }
    #[inline(always)]
    fn round(value: f32) -> u32 {
        bf16_bits(value)
    }
    #[inline(always)]
    fn fma(a: u32, b: u32, c: u32) -> u32 {
        let [a, b, c] = [a, b, c].map(|bits| bf16::from_bits(bits as u16));
        u32::from(fma_bf16(a, b, c).to_bits())
    }
    const INFINITY: u32 = 0x7f80;
}

/// `.ftz` of float16: subnormals become zeros.
#[inline(always)]
fn flush16(bits: u32) -> u32 {
    if bits & 0x7c00 == 0 { bits & 0x8000 } else { bits }
}

#[inline(always)]
fn pairs1(a: u32, op: impl Fn(u32) -> u32) -> u32 {
    op(a & 0xffff) | op(a >> 16) << 16
}

#[inline(always)]
fn pairs2(a: u32, b: u32, op: impl Fn(u32, u32) -> u32) -> u32 {
    op(a & 0xffff, b & 0xffff) | op(a >> 16, b >> 16) << 16
}

#[inline(always)]
fn pairs3(a: u32, b: u32, c: u32, op: impl Fn(u32, u32, u32) -> u32) -> u32 {
    op(a & 0xffff, b & 0xffff, c & 0xffff) | op(a >> 16, b >> 16, c >> 16) << 16
}

/// The executors of one operation on single and packed operands.
macro_rules! of_pairs {
    (unary, $packed:expr, |$a:ident| $body:expr) => {
        if $packed {
            shapes::unary(|a: u32| pairs1(a, |$a| $body))
        } else {
            shapes::unary(|a: u16| {
                let $a = u32::from(a);
                ($body) as u16
            })
        }
    };
    (binary, $packed:expr, |$a:ident, $b:ident| $body:expr) => {
        if $packed {
            shapes::binary(|a: u32, b: u32| pairs2(a, b, |$a, $b| $body))
        } else {
            shapes::binary(|a: u16, b: u16| {
                let ($a, $b) = (u32::from(a), u32::from(b));
                ($body) as u16
            })
        }
    };
    (ternary, $packed:expr, |$a:ident, $b:ident, $c:ident| $body:expr) => {
        if $packed {
            shapes::ternary(|a: u32, b: u32, c: u32| pairs3(a, b, c, |$a, $b, $c| $body))
        } else {
            shapes::ternary(|a: u16, b: u16, c: u16| {
                let ($a, $b, $c) = (u32::from(a), u32::from(b), u32::from(c));
                ($body) as u16
            })
        }
    };
}

pub(super) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    ty: Type,
) -> Result<(), Error> {
    words.take("rn");
    let nan = words.take("NaN");
    let (ftz, sat, relu) = (words.take("ftz"), words.take("sat"), words.take("relu"));
    let packed = matches!(ty, Type::F16x2 | Type::BF16x2);
    let op = instruction.opcode;
    let (oob, signs) = (words.take("oob"), super::float::take_xorsign(words)?);
    let exec = match ty {
        _ if oob && (op != "fma" || ftz || sat) => None,
        Type::F16 | Type::F16x2 if oob => Some(fma_oob::<Half>(packed, relu)),
        _ if oob => Some(fma_oob::<Brain>(packed, relu)),
        Type::F16 | Type::F16x2 if signs && ftz => xorsign::<Half, true>(op, packed, nan),
        Type::F16 | Type::F16x2 if signs => xorsign::<Half, false>(op, packed, nan),
        _ if signs => xorsign::<Brain, false>(op, packed, nan),
        Type::F16 | Type::F16x2 if ftz => half_ftz(op, packed, sat, relu, nan),
        Type::F16 | Type::F16x2 => plain::<Half>(op, packed, sat, relu, nan),
        _ => plain::<Brain>(op, packed, sat, relu, nan),
    };
    let exec = exec.ok_or_else(|| words.unsupported("no such operation on 16-bit floats"))?;
    let mut inst = Decoder::blank(exec);
    let count = match op {
        "abs" | "neg" => 1,
        "fma" => 3,
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

/// `.relu`: negative results become 0, NaN stays.
#[inline(always)]
fn relu(bits: u32) -> u32 {
    if bits & 0x8000 != 0 { 0 } else { bits }
}

#[inline(always)]
fn fma_relu<T: Format>(a: u32, b: u32, c: u32) -> u32 {
    let bits = T::fma(a, b, c);
    if bits & 0x7fff > T::INFINITY { 0x7fff } else { relu(bits) }
}

/// What `.oob` takes for an element outside a tensor: TMA fills with the canonical NaN where the
/// map asks for it (5.5.3.3, "Out of Boundary Access").
const OUTSIDE: u32 = 0x7fff;

/// `fma.oob` (9.7.4.4): +0 where an operand comes from outside a tensor.
fn fma_oob<T: Format>(packed: bool, relu: bool) -> Exec {
    #[inline(always)]
    fn inside(operands: [u32; 3], result: u32) -> u32 {
        if operands.contains(&OUTSIDE) { 0 } else { result }
    }
    if relu {
        of_pairs!(ternary, packed, |a, b, c| inside([a, b, c], fma_relu::<T>(a, b, c)))
    } else {
        of_pairs!(ternary, packed, |a, b, c| inside([a, b, c], T::fma(a, b, c)))
    }
}

/// `min.xorsign.abs` and `max.xorsign.abs` (9.7.4.7, 9.7.4.8).
fn xorsign<T: Format, const FTZ: bool>(op: &str, packed: bool, nan: bool) -> Option<Exec> {
    #[inline(always)]
    fn signed<T: Format, const FTZ: bool>(a: u32, b: u32, op: impl Fn(f32, f32) -> f32) -> u32 {
        let [a, b] = [a, b].map(|bits| if FTZ { flush16(bits) } else { bits });
        let magnitude = T::round(op(T::value(a & 0x7fff), T::value(b & 0x7fff)));
        let sign = (a ^ b) & 0x8000;
        if magnitude > T::INFINITY { magnitude } else { magnitude | sign }
    }
    Some(match (op, nan) {
        ("min", false) => of_pairs!(binary, packed, |a, b| signed::<T, FTZ>(a, b, min32)),
        ("max", false) => of_pairs!(binary, packed, |a, b| signed::<T, FTZ>(a, b, max32)),
        ("min", true) => of_pairs!(binary, packed, |a, b| signed::<T, FTZ>(a, b, min32_nan)),
        ("max", true) => of_pairs!(binary, packed, |a, b| signed::<T, FTZ>(a, b, max32_nan)),
        _ => return None,
    })
}

fn plain<T: Format>(op: &str, packed: bool, sat: bool, relu: bool, nan: bool) -> Option<Exec> {
    Some(match (op, sat, relu, nan) {
        ("add", false, ..) => {
            of_pairs!(binary, packed, |a, b| T::round(T::value(a) + T::value(b)))
        }
        ("sub", false, ..) => {
            of_pairs!(binary, packed, |a, b| T::round(T::value(a) - T::value(b)))
        }
        ("mul", false, ..) => {
            of_pairs!(binary, packed, |a, b| T::round(T::value(a) * T::value(b)))
        }
        ("add", true, ..) => {
            of_pairs!(binary, packed, |a, b| T::round(saturate(T::value(a) + T::value(b))))
        }
        ("sub", true, ..) => {
            of_pairs!(binary, packed, |a, b| T::round(saturate(T::value(a) - T::value(b))))
        }
        ("mul", true, ..) => {
            of_pairs!(binary, packed, |a, b| T::round(saturate(T::value(a) * T::value(b))))
        }
        ("fma", false, false, _) => of_pairs!(ternary, packed, |a, b, c| T::fma(a, b, c)),
        ("fma", true, false, _) => {
            of_pairs!(ternary, packed, |a, b, c| T::round(saturate(T::value(T::fma(a, b, c)))))
        }
        ("fma", false, true, _) => of_pairs!(ternary, packed, |a, b, c| fma_relu::<T>(a, b, c)),
        ("min", _, _, false) => {
            of_pairs!(binary, packed, |a, b| T::round(min32(T::value(a), T::value(b))))
        }
        ("max", _, _, false) => {
            of_pairs!(binary, packed, |a, b| T::round(max32(T::value(a), T::value(b))))
        }
        ("min", _, _, true) => {
            of_pairs!(binary, packed, |a, b| T::round(min32_nan(T::value(a), T::value(b))))
        }
        ("max", _, _, true) => {
            of_pairs!(binary, packed, |a, b| T::round(max32_nan(T::value(a), T::value(b))))
        }
        ("neg", ..) => of_pairs!(unary, packed, |a| a ^ 0x8000),
        ("abs", ..) => of_pairs!(unary, packed, |a| a & 0x7fff),
        _ => return None,
    })
}

/// Float16 with `.ftz`: inputs and results flushed.
fn half_ftz(op: &str, packed: bool, sat: bool, relu: bool, nan: bool) -> Option<Exec> {
    macro_rules! value {
        ($bits:ident) => {
            Half::value(flush16($bits))
        };
    }
    if relu {
        // Only `fma` has both (9.7.4.5).
        return (op == "fma" && !sat).then(|| {
            of_pairs!(ternary, packed, |a, b, c| flush16(fma_relu::<Half>(
                flush16(a),
                flush16(b),
                flush16(c)
            )))
        });
    }
    Some(match (op, sat, nan) {
        ("add", false, _) => {
            of_pairs!(binary, packed, |a, b| flush16(Half::round(value!(a) + value!(b))))
        }
        ("sub", false, _) => {
            of_pairs!(binary, packed, |a, b| flush16(Half::round(value!(a) - value!(b))))
        }
        ("mul", false, _) => {
            of_pairs!(binary, packed, |a, b| flush16(Half::round(value!(a) * value!(b))))
        }
        ("add", true, _) => {
            of_pairs!(binary, packed, |a, b| flush16(Half::round(saturate(value!(a) + value!(b)))))
        }
        ("sub", true, _) => {
            of_pairs!(binary, packed, |a, b| flush16(Half::round(saturate(value!(a) - value!(b)))))
        }
        ("mul", true, _) => {
            of_pairs!(binary, packed, |a, b| flush16(Half::round(saturate(value!(a) * value!(b)))))
        }
        ("fma", true, _) => of_pairs!(ternary, packed, |a, b, c| flush16(Half::round(saturate(
            Half::value(Half::fma(flush16(a), flush16(b), flush16(c)))
        )))),
        ("fma", false, _) => of_pairs!(ternary, packed, |a, b, c| flush16(Half::fma(
            flush16(a),
            flush16(b),
            flush16(c)
        ))),
        ("min", _, false) => {
            of_pairs!(binary, packed, |a, b| Half::round(min32(value!(a), value!(b))))
        }
        ("max", _, false) => {
            of_pairs!(binary, packed, |a, b| Half::round(max32(value!(a), value!(b))))
        }
        ("min", _, true) => {
            of_pairs!(binary, packed, |a, b| Half::round(min32_nan(value!(a), value!(b))))
        }
        ("max", _, true) => {
            of_pairs!(binary, packed, |a, b| Half::round(max32_nan(value!(a), value!(b))))
        }
        ("neg", ..) => of_pairs!(unary, packed, |a| flush16(a) ^ 0x8000),
        ("abs", ..) => of_pairs!(unary, packed, |a| flush16(a) & 0x7fff),
        _ => return None,
    })
}
