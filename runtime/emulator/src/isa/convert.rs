//! Conversions (PTX ISA 9.7.9.21, "cvt").
//!
//! Frequent conversions have loops of their own; the others go through one value of float64 or of
//! a 128-bit integer, which holds every source exactly.

use half::{bf16, f16};

use super::float::{saturated64, take_round};
use super::numeric::{
    NAN32, Round, bf16_bits, bf16_bits_rounded, canon, canon64, e4m3_as_f16, e4m3_bits, e4m3_value,
    e5m2_bits, e5m2_value, f16_bits, f16_value, f64_to_bf16, f64_to_f16, flush, round32, saturate,
};
use super::operands;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Cx, shapes};
use crate::program::{Exec, Flow, Inst};
use crate::ptx::ast::Instruction;
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &["cvt"];

const FTZ: u32 = 1 << 16;
const SAT: u32 = 1 << 17;
const RELU: u32 = 1 << 18;
const INTEGRAL: u32 = 1 << 19;
const WIDE: u32 = 1 << 20;
const SHORT: u32 = 1 << 21;

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if words.take("pack") {
        return decode_pack(cx, words, instruction);
    }
    let integral = words.take_any(&["rni", "rzi", "rmi", "rpi"]).map(|word| match word {
        "rni" => Round::Nearest,
        "rzi" => Round::Zero,
        "rmi" => Round::Down,
        _ => Round::Up,
    });
    let round = take_round(words);
    let (ftz, sat) = (words.take("ftz"), words.take("sat"));
    let (satfinite, relu) = (words.take("satfinite"), words.take("relu"));
    let types = words.types();
    let &[to, from] = types.as_slice() else {
        return Err(words.wrong("two types are needed"));
    };
    if is_packed(to) || is_packed(from) || to == Type::TF32 {
        return decode_packed(cx, words, instruction, (to, from), round, (satfinite, relu));
    }
    let [d, a] = operands(instruction, words)?;
    let (a, held) = cx.any_register(a, from, words)?;
    let (d, target) = cx.any_register(d, to, words)?;
    let mode = round.or(integral).unwrap_or(Round::Nearest);
    if from.bytes() < held.bytes() && held.bytes() == 8 {
        // A narrow source in a wide register: cut it first.
        let cut = cx.allot(Type::B32, words)?;
        cx.emit(Inst { d: cut, a, ..Decoder::blank(shapes::unary(|a: u64| a as u32)) });
        return emit(cx, words, (d, target, to), (cut, from), mode, (integral, ftz, sat, relu));
    }
    emit(cx, words, (d, target, to), (a, from), mode, (integral, ftz, sat, relu))
}

fn is_packed(ty: Type) -> bool {
    use Type::{BF16x2, E4M3x2, E5M2x2, F16x2};
    matches!(ty, F16x2 | BF16x2 | E4M3x2 | E5M2x2)
}

fn emit(
    cx: &mut Decoder<'_, '_>,
    words: &Words<'_>,
    (d, target, to): (u32, Type, Type),
    (a, from): (u32, Type),
    mode: Round,
    (integral, ftz, sat, relu): (Option<Round>, bool, bool, bool),
) -> Result<(), Error> {
    let wide = target.bytes() == 8;
    let plain = !ftz && !sat && !relu && wide == (to.bytes() == 8);
    let fast = if plain { fast_exec(to, from, mode, integral.is_some()) } else { None };
    let mut inst = Decoder::blank(fast.unwrap_or(convert));
    (inst.d, inst.a) = (d, a);
    let short = target.bytes() <= 2;
    let integral = integral.is_some();
    let flags =
        [(ftz, FTZ), (sat, SAT), (relu, RELU), (integral, INTEGRAL), (wide, WIDE), (short, SHORT)];
    inst.aux =
        flags.iter().fold(mode as u32, |bits, (set, flag)| if *set { bits | flag } else { bits });
    inst.b = code(from).ok_or_else(|| words.unsupported(format!("conversion from {from:?}")))?;
    inst.c = code(to).ok_or_else(|| words.unsupported(format!("conversion to {to:?}")))?;
    cx.emit(inst);
    Ok(())
}

/// Loops for what programs convert all the time.
fn fast_exec(to: Type, from: Type, mode: Round, integral: bool) -> Option<Exec> {
    use Type::{B32, BF16, F16, F32, F64, S32, S64, U16, U32, U64};
    Some(match (to, from) {
        (S64, S32) => shapes::unary(|a: i32| i64::from(a)),
        (U64 | S64, U32) => shapes::unary(|a: u32| u64::from(a)),
        (U32 | S32 | B32, U64 | S64) => shapes::unary(|a: u64| a as u32),
        (U32 | S32, U16) => shapes::unary(|a: u16| u32::from(a)),
        (U16, U32 | S32) => shapes::unary(|a: u32| a as u16),
        (F32, S32) if mode == Round::Nearest => shapes::unary(|a: i32| a as f32),
        (F32, U32) if mode == Round::Nearest => shapes::unary(|a: u32| a as f32),
        (F64, F32) => shapes::unary(|a: f32| canon64(f64::from(a))),
        (F32, F64) if mode == Round::Nearest && !integral => {
            shapes::unary(|a: f64| canon(a as f32))
        }
        (F32, F16) => shapes::unary(|a: f16| f16_value(a)),
        (F32, BF16) => shapes::unary(|a: bf16| canon(f32::from(a))),
        (F16, F32) if mode == Round::Nearest => {
            shapes::unary(|a: f32| f16_bits(a, Round::Nearest) as u16)
        }
        (BF16, F32) if mode == Round::Nearest => shapes::unary(|a: f32| bf16_bits(a) as u16),
        (S32, F32) if mode == Round::Zero => {
            shapes::unary(|a: f32| if a.is_nan() { 0 } else { a as i32 })
        }
        _ => return None,
    })
}

const TYPES: [Type; 12] = [
    Type::U8,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S8,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F16,
    Type::BF16,
    Type::F32,
    Type::F64,
];

fn code(ty: Type) -> Option<u32> {
    TYPES.iter().position(|&one| one == ty).map(|index| index as u32)
}

#[derive(Clone, Copy)]
enum Value {
    Integer(i128),
    Float(f64),
}

fn read(bits: u64, ty: Type, ftz: bool) -> Value {
    match ty {
        Type::U8 => Value::Integer(i128::from(bits as u8)),
        Type::U16 => Value::Integer(i128::from(bits as u16)),
        Type::U32 => Value::Integer(i128::from(bits as u32)),
        Type::U64 => Value::Integer(i128::from(bits)),
        Type::S8 => Value::Integer(i128::from(bits as i8)),
        Type::S16 => Value::Integer(i128::from(bits as i16)),
        Type::S32 => Value::Integer(i128::from(bits as i32)),
        Type::S64 => Value::Integer(i128::from(bits as i64)),
        Type::F16 => Value::Float(f64::from(f16::from_bits(bits as u16))),
        Type::BF16 => Value::Float(f64::from(bf16::from_bits(bits as u16))),
        Type::F32 => {
            let value = f32::from_bits(bits as u32);
            Value::Float(f64::from(if ftz { flush(value) } else { value }))
        }
        _ => Value::Float(f64::from_bits(bits)),
    }
}

fn to_integral(value: f64, mode: Round) -> f64 {
    match mode {
        Round::Zero => value.trunc(),
        Round::Down => value.floor(),
        Round::Up => value.ceil(),
        _ => value.round_ties_even(),
    }
}

/// Range of an integer type.
fn range(ty: Type) -> (i128, i128) {
    let bits = 8 * ty.bytes();
    if ty.is_signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    }
}

/// One value as bits of `to`, sign-extended to 64 bits for signed integers.
fn write(value: Value, from: Type, to: Type, flags: u32) -> u64 {
    let mode = mode_of(flags);
    let (sat, relu) = (flags & SAT != 0, flags & RELU != 0);
    let is_integer = !matches!(to, Type::F16 | Type::BF16 | Type::F32 | Type::F64);
    match value {
        Value::Integer(integer) if is_integer => {
            let (low, high) = range(to);
            let integer = if sat { integer.clamp(low, high) } else { integer };
            cut(integer, to)
        }
        Value::Integer(integer) => float_bits(integer as f64, residue(integer), to, mode, flags),
        Value::Float(float) if is_integer => {
            let (low, high) = range(to);
            if float.is_nan() {
                // Zero, or the sign bit alone where a 64-bit integer or a float64 takes part.
                let marked = to.bytes() == 8 || from == Type::F64;
                return if marked && to.bytes() >= 4 { 1 << (8 * to.bytes() - 1) } else { 0 };
            }
            cut((to_integral(float, mode) as i128).clamp(low, high), to)
        }
        Value::Float(float) => {
            let float = if flags & INTEGRAL != 0 { to_integral(float, mode) } else { float };
            let float = if relu && (float < 0.0 || (float == 0.0 && float.is_sign_negative())) {
                0.0
            } else {
                float
            };
            float_bits(float, 0.0, to, mode, flags)
        }
    }
}

fn mode_of(flags: u32) -> Round {
    match flags & 0xff {
        1 => Round::Zero,
        2 => Round::Down,
        3 => Round::Up,
        4 => Round::Away,
        _ => Round::Nearest,
    }
}

/// What a 64-bit integer loses as a float64.
fn residue(integer: i128) -> f64 {
    (integer - (integer as f64) as i128) as f64
}

fn cut(integer: i128, to: Type) -> u64 {
    match to {
        Type::U8 => u64::from(integer as u8),
        Type::U16 => u64::from(integer as u16),
        Type::U32 => u64::from(integer as u32),
        Type::S8 => integer as i8 as u64,
        Type::S16 => integer as i16 as u64,
        Type::S32 => integer as i32 as u64,
        _ => integer as u64,
    }
}

fn float_bits(value: f64, rest: f64, to: Type, mode: Round, flags: u32) -> u64 {
    let sat = flags & SAT != 0;
    match to {
        Type::F64 => {
            let value = match (mode, rest > 0.0, rest < 0.0) {
                (Round::Up, true, _) => value.next_up(),
                (Round::Down, _, true) => value.next_down(),
                (Round::Zero, true, _) if value < 0.0 => value.next_up(),
                (Round::Zero, _, true) if value > 0.0 => value.next_down(),
                _ => value,
            };
            if sat { saturated64(value).to_bits() } else { canon64(value).to_bits() }
        }
        Type::F32 => {
            let value = if value.is_nan() { NAN32 } else { round32(value, rest, mode) };
            let value = if flags & FTZ != 0 { flush(value) } else { value };
            u64::from(if sat { saturate(value).to_bits() } else { value.to_bits() })
        }
        Type::F16 => {
            let value = if sat { saturated64(value) } else { value };
            let exact = f64::from(value as f32) == value;
            u64::from(if mode == Round::Nearest || !exact {
                u32::from(f64_to_f16(value).to_bits())
            } else {
                f16_bits(value as f32, mode)
            })
        }
        _ => {
            let value = if sat { saturated64(value) } else { value };
            let exact = f64::from(value as f32) == value;
            u64::from(if mode == Round::Nearest || !exact {
                u32::from(f64_to_bf16(value).to_bits())
            } else {
                bf16_bits_rounded(value as f32, mode)
            })
        }
    }
}

/// Any conversion of single values: `b` and `c` are type codes, `aux` the modifiers.
unsafe fn convert(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let (from, to) = (TYPES[inst.b as usize], TYPES[inst.c as usize]);
    let mut out = [0u64; 32];
    // SAFETY: operands of this frame, of the widths that the decoder checked.
    unsafe {
        for (lane, slot) in out.iter_mut().enumerate() {
            let bits = if from.bytes() == 8 {
                cx.row64(inst.a)[lane]
            } else {
                u64::from(cx.row32(inst.a)[lane])
            };
            *slot = write(read(bits, from, inst.aux & FTZ != 0), from, to, inst.aux);
        }
        if inst.aux & WIDE != 0 {
            cx.put64(inst.d, &out);
        } else {
            // A 16-bit register keeps zeros above its bits; a wider one keeps the sign.
            let keep = if inst.aux & SHORT != 0 { 0xffff } else { u32::MAX };
            cx.put32(inst.d, &out.map(|value| value as u32 & keep));
        }
    }
    Flow::Next
}

/// Conversions to and from packed formats: of two floats, the first goes into the upper half.
fn decode_packed<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    (to, from): (Type, Type),
    round: Option<Round>,
    (satfinite, relu): (bool, bool),
) -> Result<(), Error> {
    use Type::{BF16x2, E4M3x2, E5M2x2, F16x2, F32, TF32};
    let zero = round == Some(Round::Zero);
    let fits = |exec| if satfinite { None } else { Some(exec) };
    let exec = match (to, from, zero, relu) {
        (BF16x2, F32, ..) if satfinite => finite_pair::<0x7f7f>(zero, relu),
        (F16x2, F32, ..) if satfinite => finite_pair::<0x7bff>(zero, relu),
        (BF16x2, F32, true, true) => fits(shapes::binary(|a: f32, b: f32| {
            let [a, b] = [a, b].map(|x| bf16_bits_rounded(relu32(x), Round::Zero));
            a << 16 | b
        })),
        (F16x2, F32, true, true) => fits(shapes::binary(|a: f32, b: f32| {
            let [a, b] = [a, b].map(|x| f16_bits(relu32(x), Round::Zero));
            a << 16 | b
        })),
        (E4M3x2, F16x2, false, true) => {
            Some(shapes::unary(|a: u32| halves(a, |x| e4m3_bits(relu32(x))) as u16))
        }
        (E5M2x2, F16x2, false, true) => {
            Some(shapes::unary(|a: u32| halves(a, |x| e5m2_bits(relu32(x))) as u16))
        }
        (TF32, F32, true, true) => Some(shapes::unary(|a: f32| tf32_zero(relu32(a)))),
        (TF32, F32, false, true) if round == Some(Round::Nearest) => {
            Some(shapes::unary(|a: f32| tf32_even(relu32(a))))
        }
        (BF16x2, F32, false, false) => {
            fits(shapes::binary(|a: f32, b: f32| bf16_bits(a) << 16 | bf16_bits(b)))
        }
        (BF16x2, F32, false, true) => {
            fits(shapes::binary(|a: f32, b: f32| bf16_bits(relu32(a)) << 16 | bf16_bits(relu32(b))))
        }
        (BF16x2, F32, true, false) => fits(shapes::binary(|a: f32, b: f32| {
            bf16_bits_rounded(a, Round::Zero) << 16 | bf16_bits_rounded(b, Round::Zero)
        })),
        (F16x2, F32, false, false) => fits(shapes::binary(|a: f32, b: f32| {
            f16_bits(a, Round::Nearest) << 16 | f16_bits(b, Round::Nearest)
        })),
        (F16x2, F32, false, true) => fits(shapes::binary(|a: f32, b: f32| {
            f16_bits(relu32(a), Round::Nearest) << 16 | f16_bits(relu32(b), Round::Nearest)
        })),
        (F16x2, F32, true, false) => fits(shapes::binary(|a: f32, b: f32| {
            f16_bits(a, Round::Zero) << 16 | f16_bits(b, Round::Zero)
        })),
        (E4M3x2, F32, false, false) => {
            Some(shapes::binary(|a: f32, b: f32| (e4m3_bits(a) << 8 | e4m3_bits(b)) as u16))
        }
        (E5M2x2, F32, false, false) => {
            Some(shapes::binary(|a: f32, b: f32| (e5m2_bits(a) << 8 | e5m2_bits(b)) as u16))
        }
        (E4M3x2, F32, false, true) => Some(shapes::binary(|a: f32, b: f32| {
            (e4m3_bits(relu32(a)) << 8 | e4m3_bits(relu32(b))) as u16
        })),
        (E5M2x2, F32, false, true) => Some(shapes::binary(|a: f32, b: f32| {
            (e5m2_bits(relu32(a)) << 8 | e5m2_bits(relu32(b))) as u16
        })),
        (E4M3x2, F16x2, false, false) => Some(shapes::unary(|a: u32| halves(a, e4m3_bits) as u16)),
        (E5M2x2, F16x2, false, false) => Some(shapes::unary(|a: u32| halves(a, e5m2_bits) as u16)),
        (F16x2, E4M3x2, false, _) => Some(if relu {
            shapes::unary(|a: u16| widen(a, |byte| relu32(e4m3_value(byte))))
        } else {
            shapes::unary(|a: u16| e4m3_as_f16((a >> 8) as u8) << 16 | e4m3_as_f16(a as u8))
        }),
        (F16x2, E5M2x2, false, _) => Some(if relu {
            shapes::unary(|a: u16| widen(a, |byte| relu32(e5m2_value(byte))))
        } else {
            shapes::unary(|a: u16| widen(a, e5m2_value))
        }),
        (TF32, F32, _, false) => Some(match round {
            Some(Round::Away) => shapes::unary(|a: f32| tf32_away(a)),
            Some(Round::Zero) => shapes::unary(tf32_zero),
            _ => shapes::unary(|a: f32| tf32_even(a)),
        }),
        _ => None,
    };
    let exec = exec.ok_or_else(|| words.unsupported("this conversion of packed values"))?;
    if matches!((to, from), (TF32, _) | (_, F16x2 | E4M3x2 | E5M2x2)) {
        let [d, a] = operands(instruction, words)?;
        let a = cx.src(a, if to == TF32 { Type::B32 } else { from }, words)?;
        let d = cx.dst(d, if to == TF32 { Type::B32 } else { to }, words)?;
        cx.emit(Inst { d, a, ..Decoder::blank(exec) });
        return Ok(());
    }
    let [d, a, b] = operands(instruction, words)?;
    let (a, b) = (cx.src(a, from, words)?, cx.src(b, from, words)?);
    let d = cx.dst(d, to, words)?;
    cx.emit(Inst { d, a, b, ..Decoder::blank(exec) });
    Ok(())
}

/// `.relu`: negative values become 0, NaN stays.
fn relu32(value: f32) -> f32 {
    if value <= 0.0 { 0.0 } else { value }
}

fn halves(a: u32, narrow: impl Fn(f32) -> u32) -> u32 {
    let value = |bits: u32| f32::from(f16::from_bits(bits as u16));
    narrow(value(a >> 16)) << 8 | narrow(value(a & 0xffff))
}

fn widen(a: u16, value: impl Fn(u8) -> f32) -> u32 {
    let half = |byte: u8| f16_bits(value(byte), Round::Nearest);
    half((a >> 8) as u8) << 16 | half(a as u8)
}

/// `.satfinite` of packed halves whose largest value is `MOST`: what would be infinite becomes it.
fn finite_pair<const MOST: u32>(zero: bool, relu: bool) -> Option<Exec> {
    #[inline(always)]
    fn one<const MOST: u32>(value: f32, mode: Round) -> u32 {
        let bits = match MOST {
            0x7f7f => bf16_bits_rounded(value, mode),
            _ => f16_bits(value, mode),
        };
        if !value.is_nan() && bits & 0x7fff > MOST { bits & 0x8000 | MOST } else { bits }
    }
    #[inline(always)]
    fn pair<const MOST: u32>(a: f32, b: f32, mode: Round) -> u32 {
        one::<MOST>(a, mode) << 16 | one::<MOST>(b, mode)
    }
    const NEAREST: Round = Round::Nearest;
    Some(match (zero, relu) {
        (false, false) => shapes::binary(|a: f32, b: f32| pair::<MOST>(a, b, NEAREST)),
        (false, true) => {
            shapes::binary(|a: f32, b: f32| pair::<MOST>(relu32(a), relu32(b), NEAREST))
        }
        (true, false) => shapes::binary(|a: f32, b: f32| pair::<MOST>(a, b, Round::Zero)),
        (true, true) => {
            shapes::binary(|a: f32, b: f32| pair::<MOST>(relu32(a), relu32(b), Round::Zero))
        }
    })
}

/// To 10 bits of mantissa, towards zero.
fn tf32_zero(value: f32) -> f32 {
    let value = canon(value);
    if value.is_nan() { value } else { f32::from_bits(value.to_bits() & !0x1fff) }
}

/// To 10 bits of mantissa, ties away from zero.
fn tf32_away(value: f32) -> f32 {
    if value.is_nan() || value.is_infinite() {
        return canon(value);
    }
    f32::from_bits((value.to_bits() + 0x1000) & !0x1fff)
}

/// To 10 bits of mantissa, ties to even.
fn tf32_even(value: f32) -> f32 {
    if value.is_nan() || value.is_infinite() {
        return canon(value);
    }
    let bits = value.to_bits();
    f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
}

/// `cvt.pack.sat` (9.7.9.22): two integers saturated into one register, above it part of `c`.
fn decode_pack<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    words.take("sat");
    let types = words.types();
    let Some(&Type::S16 | &Type::U16) = types.first() else {
        return decode_pack_bytes(cx, words, instruction, &types);
    };
    let [d, a, b] = operands(instruction, words)?;
    let exec = if types[0] == Type::S16 {
        shapes::binary(|a: i32, b: i32| {
            let [a, b] = [a, b].map(|x| x.clamp(-32768, 32767) as u32 & 0xffff);
            a << 16 | b
        })
    } else {
        shapes::binary(|a: i32, b: i32| (a.clamp(0, 65535) as u32) << 16 | b.clamp(0, 65535) as u32)
    };
    let (a, b) = (cx.src(a, Type::S32, words)?, cx.src(b, Type::S32, words)?);
    let d = cx.dst(d, Type::B32, words)?;
    cx.emit(Inst { d, a, b, ..Decoder::blank(exec) });
    Ok(())
}

fn decode_pack_bytes<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    types: &[Type],
) -> Result<(), Error> {
    let [d, a, b, c] = operands(instruction, words)?;
    let narrow = words.take_any(&["s4", "u4", "s2", "u2"]);
    let exec = match types.first() {
        _ if narrow.is_some() => match narrow {
            Some("s4") => shapes::ternary(|a: i32, b: i32, c: u32| narrow_pair::<4>(a, b, c, -8)),
            Some("u4") => shapes::ternary(|a: i32, b: i32, c: u32| narrow_pair::<4>(a, b, c, 0)),
            Some("s2") => shapes::ternary(|a: i32, b: i32, c: u32| narrow_pair::<2>(a, b, c, -2)),
            _ => shapes::ternary(|a: i32, b: i32, c: u32| narrow_pair::<2>(a, b, c, 0)),
        },
        Some(Type::S8) => shapes::ternary(|a: i32, b: i32, c: u32| {
            let [a, b] = [a, b].map(|x| x.clamp(-128, 127) as u32 & 0xff);
            c << 16 | a << 8 | b
        }),
        Some(Type::U8) => shapes::ternary(|a: i32, b: i32, c: u32| {
            c << 16 | (a.clamp(0, 255) as u32) << 8 | b.clamp(0, 255) as u32
        }),
        _ => return Err(words.wrong("no such type to pack into")),
    };
    let (a, b) = (cx.src(a, Type::S32, words)?, cx.src(b, Type::S32, words)?);
    let c = cx.src(c, Type::B32, words)?;
    let d = cx.dst(d, Type::B32, words)?;
    cx.emit(Inst { d, a, b, c, ..Decoder::blank(exec) });
    Ok(())
}

/// Two integers of `BITS` bits, the lowest of which is `low`, below the lower bits of `c`.
#[inline(always)]
fn narrow_pair<const BITS: u32>(a: i32, b: i32, c: u32, low: i32) -> u32 {
    let ones = (1 << BITS) - 1;
    let [a, b] = [a, b].map(|x| (x.clamp(low, low + ones) & ones) as u32);
    c << (2 * BITS) | a << BITS | b
}
