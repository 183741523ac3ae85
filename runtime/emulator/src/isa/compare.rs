//! Comparisons (PTX ISA 9.7.5, 9.7.6) and tests of floats (9.7.3.1).

use half::{bf16, f16};

use super::numeric::flush;
use super::operands;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::{Cx, blend, shapes};
use crate::program::{Exec, Flow, Inst, NO_REG, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;

pub(crate) const OPCODES: &[&str] = &["setp", "set", "testp"];

const RELATIONS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if instruction.opcode == "testp" {
        return decode_testp(cx, words, instruction);
    }
    let relation = words
        .take_map(|word| RELATIONS.contains(&word).then_some(word))
        .ok_or_else(|| words.wrong("the comparison is missing"))?;
    let combine = words.take_any(&["and", "or", "xor"]);
    let ftz = words.take("ftz");
    let types = words.types();
    let (result, ty) = match (instruction.opcode, types.as_slice()) {
        ("setp", [ty]) => (None, *ty),
        ("set", [result, ty]) => (Some(*result), *ty),
        _ => return Err(words.wrong("the types are wrong")),
    };
    if matches!(ty, Type::F16x2 | Type::BF16x2) {
        let comparison = Comparison { relation, ty, ftz, combine };
        return match result {
            None => decode_packed(cx, words, instruction, &comparison),
            Some(result) => decode_packed_set(cx, words, instruction, &comparison, result),
        };
    }
    let exec = compare_exec(relation, ty, ftz)
        .ok_or_else(|| words.unsupported(format!("no such comparison of {ty:?}")))?;
    let (count, list) = (instruction.operands.len(), &instruction.operands);
    if count != 3 + usize::from(combine.is_some()) {
        return Err(words.wrong(format!("{count} operands do not fit")));
    }
    let mut inst = Decoder::blank(exec);
    inst.a = cx.src(&list[1], ty, words)?;
    inst.b = cx.src(&list[2], ty, words)?;
    if let Some(combine) = combine {
        let (c, flip) = cx.pred_src(&list[3], words)?;
        inst.c = c;
        inst.aux = combination(combine) | (flip & 4);
    }
    let Some(result) = result else {
        let (first, second) = cx.pred_pair(&list[0], words)?;
        inst.d = first;
        inst.imm = u64::from(second);
        cx.emit(inst);
        return Ok(());
    };
    let scratch = cx.allot(Type::Pred, words)?;
    inst.d = scratch;
    inst.imm = u64::from(NO_REG);
    cx.emit(inst);
    let d = cx.dst(&list[0], result, words)?;
    let truth = match result {
        Type::F32 => 1.0f32.to_bits(),
        Type::F16 => 0x3c00,
        Type::BF16 => 0x3f80,
        Type::U16 | Type::S16 => 0xffff,
        _ => u32::MAX,
    };
    cx.emit(Inst { d, a: scratch, aux: truth, ..Decoder::blank(spread) });
    Ok(())
}

/// Turns a predicate into `aux` or 0.
unsafe fn spread(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame.
    unsafe {
        let bits = *cx.pred(inst.a);
        let out = std::array::from_fn(|lane| if bits >> lane & 1 != 0 { inst.aux } else { 0 });
        blend(cx.row32(inst.d), &out, cx.mask);
    }
    Flow::Next
}

macro_rules! ordered {
    ($relation:expr, $ty:ty) => {
        Some(match $relation {
            "eq" => shapes::compare(|a: $ty, b: $ty| a == b),
            "ne" => shapes::compare(|a: $ty, b: $ty| a != b),
            "lt" | "lo" => shapes::compare(|a: $ty, b: $ty| a < b),
            "le" | "ls" => shapes::compare(|a: $ty, b: $ty| a <= b),
            "gt" | "hi" => shapes::compare(|a: $ty, b: $ty| a > b),
            "ge" | "hs" => shapes::compare(|a: $ty, b: $ty| a >= b),
            _ => return None,
        })
    };
}

macro_rules! floats {
    ($relation:expr, $ty:ty, |$x:ident| $prepare:expr) => {{
        #[inline(always)]
        fn p($x: $ty) -> $ty {
            $prepare
        }
        Some(match $relation {
            "eq" => shapes::compare(|a: $ty, b: $ty| p(a) == p(b)),
            "ne" => shapes::compare(|a: $ty, b: $ty| p(a) < p(b) || p(a) > p(b)),
            "lt" => shapes::compare(|a: $ty, b: $ty| p(a) < p(b)),
            "le" => shapes::compare(|a: $ty, b: $ty| p(a) <= p(b)),
            "gt" => shapes::compare(|a: $ty, b: $ty| p(a) > p(b)),
            "ge" => shapes::compare(|a: $ty, b: $ty| p(a) >= p(b)),
            "equ" => shapes::compare(|a: $ty, b: $ty| !(p(a) < p(b) || p(a) > p(b))),
            "neu" => shapes::compare(|a: $ty, b: $ty| p(a) != p(b)),
            "ltu" => shapes::compare(|a: $ty, b: $ty| !(p(a) >= p(b))),
            "leu" => shapes::compare(|a: $ty, b: $ty| !(p(a) > p(b))),
            "gtu" => shapes::compare(|a: $ty, b: $ty| !(p(a) <= p(b))),
            "geu" => shapes::compare(|a: $ty, b: $ty| !(p(a) < p(b))),
            "num" => shapes::compare(|a: $ty, b: $ty| !a.is_nan() && !b.is_nan()),
            "nan" => shapes::compare(|a: $ty, b: $ty| a.is_nan() || b.is_nan()),
            _ => return None,
        })
    }};
}

#[allow(clippy::neg_cmp_op_on_partial_ord)]
fn compare_exec(relation: &str, ty: Type, ftz: bool) -> Option<Exec> {
    match ty {
        Type::B16 | Type::U16 => ordered!(relation, u16),
        Type::S16 => ordered!(relation, i16),
        Type::B32 | Type::U32 => ordered!(relation, u32),
        Type::S32 => ordered!(relation, i32),
        Type::B64 | Type::U64 => ordered!(relation, u64),
        Type::S64 => ordered!(relation, i64),
        Type::F32 if ftz => floats!(relation, f32, |x| flush(x)),
        Type::F32 => floats!(relation, f32, |x| x),
        Type::F64 => floats!(relation, f64, |x| x),
        Type::F16 if ftz => floats!(relation, f16, |x| flush16(x)),
        Type::F16 => floats!(relation, f16, |x| x),
        Type::BF16 => floats!(relation, bf16, |x| x),
        _ => None,
    }
}

/// `.ftz` of float16: a subnormal becomes a zero.
#[inline(always)]
fn flush16(value: f16) -> f16 {
    if value.to_bits() & 0x7c00 == 0 { f16::ZERO } else { value }
}

/// What the words of a comparison of packed halves say.
struct Comparison<'w> {
    relation: &'w str,
    ty: Type,
    ftz: bool,
    combine: Option<&'w str>,
}

/// Comparisons of packed halves: two predicates, one per half (9.7.7.2).
fn decode_packed<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    comparison: &Comparison<'_>,
) -> Result<(), Error> {
    let [d, rest @ ..] = instruction.operands.as_slice() else {
        return Err(words.wrong("the destination is missing"));
    };
    let into = cx.pred_pair(d, words)?;
    compare_halves(cx, words, rest, comparison, into)
}

/// `set` of packed halves (9.7.7.1): 1.0 or all ones in the halves for which the relation holds.
fn decode_packed_set<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    comparison: &Comparison<'_>,
    result: Type,
) -> Result<(), Error> {
    let truth = match result {
        Type::F16x2 => 0x3c00,
        Type::BF16x2 => 0x3f80,
        Type::U32 | Type::S32 => 0xffff,
        _ => return Err(words.unsupported(format!("no such comparison into {result:?}"))),
    };
    let [d, rest @ ..] = instruction.operands.as_slice() else {
        return Err(words.wrong("the destination is missing"));
    };
    let (low, high) = (cx.allot(Type::Pred, words)?, cx.allot(Type::Pred, words)?);
    compare_halves(cx, words, rest, comparison, (low, high))?;
    let (first, second) = (cx.allot(Type::B32, words)?, cx.allot(Type::B32, words)?);
    cx.emit(Inst { d: first, a: low, aux: truth, ..Decoder::blank(spread) });
    cx.emit(Inst { d: second, a: high, aux: truth << 16, ..Decoder::blank(spread) });
    let d = cx.dst(d, result, words)?;
    let join = shapes::binary(|a: u32, b: u32| a | b);
    cx.emit(Inst { d, a: first, b: second, ..Decoder::blank(join) });
    Ok(())
}

/// Compares the lower halves into one predicate and the upper ones into another. The halves are
/// taken apart first, so that the single comparisons serve.
fn compare_halves<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &Words<'a>,
    sources: &[Operand<'a>],
    comparison: &Comparison<'_>,
    (low, high): (Reg, Reg),
) -> Result<(), Error> {
    let Comparison { relation, ty, ftz, combine } = *comparison;
    let (a, b, with) = match (sources, combine) {
        ([a, b], None) => (a, b, None),
        ([a, b, c], Some(combine)) => (a, b, Some((c, combine))),
        _ => return Err(words.wrong(format!("{} operands do not fit", sources.len() + 1))),
    };
    let single = if ty == Type::F16x2 { Type::F16 } else { Type::BF16 };
    let exec = compare_exec(relation, single, ftz)
        .ok_or_else(|| words.unsupported("no such comparison"))?;
    let (a, b) = (cx.src(a, ty, words)?, cx.src(b, ty, words)?);
    let (upper_a, upper_b) = (upper_half(cx, a, words)?, upper_half(cx, b, words)?);
    let (mut c, mut aux) = (NO_REG, 0);
    if let Some((operand, combine)) = with {
        let (source, flip) = cx.pred_src(operand, words)?;
        // A copy: the first result may be the same predicate.
        c = cx.allot(Type::Pred, words)?;
        cx.emit(Inst { d: c, a: source, ..Decoder::blank(copy_predicate) });
        aux = combination(combine) | (flip & 4);
    }
    for (d, a, b) in [(low, a, b), (high, upper_a, upper_b)] {
        cx.emit(Inst { d, a, b, c, aux, imm: u64::from(NO_REG), ..Decoder::blank(exec) });
    }
    Ok(())
}

/// The number of a combination in `aux`, as [`shapes::finish_compare`] reads it.
fn combination(word: &str) -> u32 {
    match word {
        "and" => 1,
        "or" => 2,
        _ => 3,
    }
}

unsafe fn copy_predicate(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    // SAFETY: operands of this frame.
    unsafe {
        let bits = *cx.pred(inst.a);
        cx.set_pred(inst.d, bits);
    }
    Flow::Next
}

fn upper_half(cx: &mut Decoder<'_, '_>, a: Reg, words: &Words<'_>) -> Result<Reg, Error> {
    let d = cx.allot(Type::B32, words)?;
    cx.emit(Inst { d, a, ..Decoder::blank(shapes::unary(|a: u32| a >> 16)) });
    Ok(d)
}

/// `testp` (9.7.3.1).
fn decode_testp<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let test =
        words.take_any(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]);
    let ty = words.ty()?;
    let [p, a]: &[Operand<'a>; 2] = operands(instruction, words)?;
    macro_rules! test {
        ($ty:ty) => {
            match test {
                Some("finite") => shapes::compare(|a: $ty, _: $ty| a.is_finite()),
                Some("infinite") => shapes::compare(|a: $ty, _: $ty| a.is_infinite()),
                Some("number") => shapes::compare(|a: $ty, _: $ty| !a.is_nan()),
                Some("notanumber") => shapes::compare(|a: $ty, _: $ty| a.is_nan()),
                Some("normal") => shapes::compare(|a: $ty, _: $ty| a.is_normal()),
                _ => shapes::compare(|a: $ty, _: $ty| a.is_subnormal()),
            }
        };
    }
    let exec = match ty {
        Type::F32 => test!(f32),
        Type::F64 => test!(f64),
        _ => return Err(words.wrong("the type is `.f32` or `.f64`")),
    };
    let a = cx.src(a, ty, words)?;
    let d = cx.dst(p, Type::Pred, words)?;
    cx.emit(Inst { d, a, b: a, imm: u64::from(NO_REG), ..Decoder::blank(exec) });
    Ok(())
}
