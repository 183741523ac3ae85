//! Approximate functions (PTX ISA 9.7.3.14 to 9.7.3.22).
//!
//! The hardware's tables are not published for sm_90. Here every function is computed in float64
//! with an error below 2^-50 and rounded once, which is the correctly rounded value except for
//! arguments whose true value lies that close to the middle between two floats. That is inside
//! each bound that the ISA documents: `ex2` 2 ulp, `rcp` and `div` 1 and 2 ulp, `rsqrt` 2^-22.9,
//! `lg2` 2^-22, `sin` and `cos` 2^-20.5 in [-pi, pi], `tanh` 2^-11.

use super::float::{exact_unary, one, take_round, variants};
use super::numeric::{NAN32, NAN64, Round, bf16_bits, canon, f16_bits, flush, saturate};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::shapes;
use crate::program::Exec;
use crate::ptx::ast::Instruction;
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &["rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let approximate = words.take("approx");
    let round = take_round(words);
    let ftz = words.take("ftz");
    let ty = words.ty()?;
    let exec = match (instruction.opcode, ty) {
        ("rcp" | "sqrt", Type::F32 | Type::F64) if !approximate => {
            let round = round.unwrap_or(Round::Nearest);
            exact_unary(instruction.opcode, ty, round, ftz)
        }
        (op, Type::F32) => exec32(op, ftz),
        ("rcp", Type::F64) => Some(shapes::unary(coarse_rcp64)),
        ("rsqrt", Type::F64) => Some(shapes::unary(coarse_rsqrt64)),
        (op, _) => exec16(op, ty, ftz),
    };
    let exec = exec.ok_or_else(|| words.unsupported("no such function on this type"))?;
    one(cx, words, instruction, ty, exec)
}

fn exec32(op: &str, ftz: bool) -> Option<Exec> {
    Some(match op {
        "rcp" => variants!(ftz, false, shapes::unary, |a| canon(1.0 / a)),
        "sqrt" => variants!(ftz, false, shapes::unary, |a| canon(a.sqrt())),
        "rsqrt" => variants!(ftz, false, shapes::unary, |a| rsqrt32(a)),
        "ex2" => variants!(ftz, false, shapes::unary, |a| ex2(a)),
        "lg2" => variants!(ftz, false, shapes::unary, |a| lg2(a)),
        "sin" => variants!(ftz, false, shapes::unary, |a| canon(libm::sin(f64::from(a)) as f32)),
        "cos" => variants!(ftz, false, shapes::unary, |a| canon(libm::cos(f64::from(a)) as f32)),
        "tanh" => variants!(ftz, false, shapes::unary, |a| canon(libm::tanh(f64::from(a)) as f32)),
        _ => return None,
    })
}

fn exec16(op: &str, ty: Type, _ftz: bool) -> Option<Exec> {
    fn half(bits: u32, f: impl Fn(f32) -> f32) -> u32 {
        f16_bits(f(f32::from(half::f16::from_bits(bits as u16))), Round::Nearest)
    }
    fn brain(bits: u32, f: impl Fn(f32) -> f32) -> u32 {
        bf16_bits(f(f32::from_bits(bits << 16)))
    }
    fn tanh(value: f32) -> f32 {
        libm::tanh(f64::from(value)) as f32
    }
    Some(match (op, ty) {
        ("ex2", Type::F16) => shapes::unary(|a: u16| half(u32::from(a), ex2) as u16),
        ("ex2", Type::BF16) => shapes::unary(|a: u16| brain(u32::from(a), ex2) as u16),
        ("ex2", Type::F16x2) => {
            shapes::unary(|a: u32| half(a & 0xffff, ex2) | half(a >> 16, ex2) << 16)
        }
        ("ex2", Type::BF16x2) => {
            shapes::unary(|a: u32| brain(a & 0xffff, ex2) | brain(a >> 16, ex2) << 16)
        }
        ("tanh", Type::F16) => shapes::unary(|a: u16| half(u32::from(a), tanh) as u16),
        ("tanh", Type::BF16) => shapes::unary(|a: u16| brain(u32::from(a), tanh) as u16),
        ("tanh", Type::F16x2) => {
            shapes::unary(|a: u32| half(a & 0xffff, tanh) | half(a >> 16, tanh) << 16)
        }
        ("tanh", Type::BF16x2) => {
            shapes::unary(|a: u32| brain(a & 0xffff, tanh) | brain(a >> 16, tanh) << 16)
        }
        _ => return None,
    })
}

/// `div.approx` and `div.full` (9.7.3.8): the quotient rounded to nearest.
pub(super) fn divide(ftz: bool) -> Exec {
    variants!(ftz, false, shapes::binary, |a, b| canon(a / b))
}

#[inline(always)]
fn rsqrt32(a: f32) -> f32 {
    canon((1.0 / f64::from(a).sqrt()) as f32)
}

/// 2^f for f in [-1/2, 1/2] as a series, to 1e-16: the powers of ln 2 over factorials.
const EXP2: [f64; 13] = [
    1.0,
    std::f64::consts::LN_2,
    0.240_226_506_959_100_72,
    0.055_504_108_664_821_58,
    0.009_618_129_107_628_477,
    0.001_333_355_814_642_844_3,
    0.000_154_035_303_933_816_1,
    1.525_273_380_405_984e-5,
    1.321_548_679_014_431e-6,
    1.017_808_600_923_97e-7,
    7.054_911_620_801_123e-9,
    4.445_538_271_870_811e-10,
    2.567_843_599_348_821e-11,
];

/// 2^a, rounded once. Plain arithmetic, so that all hosts agree and lanes vectorise.
#[inline(always)]
fn ex2(a: f32) -> f32 {
    let wide = f64::from(a).clamp(-160.0, 130.0);
    // Adding and taking away 1.5 * 2^52 rounds to an integer.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    let shifted = wide + MAGIC;
    let whole = shifted - MAGIC;
    let fraction = wide - whole;
    let mut sum = EXP2[12];
    let mut term = 12;
    while term > 0 {
        term -= 1;
        sum = sum * fraction + EXP2[term];
    }
    let exponent = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(1023) << 52;
    let value = (sum * f64::from_bits(exponent)) as f32;
    if a.is_nan() { NAN32 } else { value }
}

#[inline(always)]
fn lg2(a: f32) -> f32 {
    canon(libm::log2(f64::from(a)) as f32)
}

/// `rcp.approx.ftz.f64` (9.7.3.15): the upper 32 bits of the reciprocal, the lower ones zero;
/// subnormal inputs and results are flushed. The reciprocal is rounded to the 20 bits of the
/// mantissa's upper word.
fn coarse_rcp64(a: f64) -> f64 {
    upper_word(1.0 / flush64(a))
}

/// `rsqrt.approx.ftz.f64` (9.7.3.18), in the same manner.
fn coarse_rsqrt64(a: f64) -> f64 {
    upper_word(1.0 / flush64(a).sqrt())
}

fn flush64(a: f64) -> f64 {
    if a.is_subnormal() { 0f64.copysign(a) } else { a }
}

fn upper_word(value: f64) -> f64 {
    if value.is_nan() {
        return NAN64;
    }
    if value.is_infinite() {
        return value;
    }
    let rounded = value.to_bits().wrapping_add(1 << 31) & 0xffff_ffff_0000_0000;
    flush64(f64::from_bits(rounded))
}
