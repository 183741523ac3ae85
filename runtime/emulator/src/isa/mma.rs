//! Matrix products of one warp (PTX ISA 9.7.14.5.14, "mma").
//!
//! What kernels use is here; other types and shapes are in [`small`], [`quads`] and [`sparse`].

mod quads;
mod small;
pub(super) mod sparse;

use super::matrix::whole_warp;
use super::operands;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::Cx;
use crate::program::{Flow, Inst, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;
use crate::tensor_core::fragments::{Row, gather, load_columns, load_rows, scatter};
use crate::tensor_core::{
    Accumulator, Element, Panel, Picked, Rule, multiply_add, multiply_add_integers, padded,
};

pub(crate) const OPCODES: &[&str] = &["mma"];

/// What `imm` holds: the element types, the accumulator, the depth, saturation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    a: Element,
    b: Element,
    accumulator: Accumulator,
    depth: u32,
    saturates: bool,
}

/// An element type by its name.
pub(super) fn element_of(ty: Type) -> Option<Element> {
    Some(match ty {
        Type::BF16 => Element::Bf16,
        Type::F16 => Element::F16,
        Type::TF32 => Element::Tf32,
        Type::E4M3 => Element::E4m3,
        Type::E5M2 => Element::E5m2,
        Type::S8 => Element::S8,
        Type::U8 => Element::U8,
        _ => return None,
    })
}

/// An accumulator type by its name.
pub(super) fn accumulator_of(ty: Type) -> Option<Accumulator> {
    Some(match ty {
        Type::F32 => Accumulator::F32,
        Type::F16 => Accumulator::F16,
        Type::S32 => Accumulator::S32,
        _ => return None,
    })
}

/// Whether operands of these types meet in one product.
pub(super) fn go_together(a: Element, b: Element, accumulator: Accumulator) -> bool {
    let both = |kind: fn(Element) -> bool| kind(a) && kind(b);
    match accumulator {
        Accumulator::S32 => both(Element::is_integer),
        Accumulator::F16 => both(Element::is_fp8) || (a, b) == (Element::F16, Element::F16),
        Accumulator::F32 => both(Element::is_fp8) || (a == b && !a.is_integer()),
    }
}

const ELEMENTS: [Element; 7] = [
    Element::Bf16,
    Element::F16,
    Element::Tf32,
    Element::E4m3,
    Element::E5m2,
    Element::S8,
    Element::U8,
];
const ACCUMULATORS: [Accumulator; 3] = [Accumulator::F32, Accumulator::F16, Accumulator::S32];

/// Packs element and accumulator types into twelve bits.
pub(super) fn pack_types(a: Element, b: Element, accumulator: Accumulator) -> u64 {
    let number = |element: Element| ELEMENTS.iter().position(|&one| one == element).unwrap_or(0);
    let accumulator = ACCUMULATORS.iter().position(|&one| one == accumulator).unwrap_or(0);
    (number(a) | number(b) << 4 | accumulator << 8) as u64
}

/// The types that [`pack_types`] packed.
pub(super) fn unpack_types(bits: u64) -> (Element, Element, Accumulator) {
    let number = |at: u32, most: usize| (bits >> at & 15).min(most as u64) as usize;
    (ELEMENTS[number(0, 6)], ELEMENTS[number(4, 6)], ACCUMULATORS[number(8, 2)])
}

impl Form {
    fn pack(self) -> u64 {
        pack_types(self.a, self.b, self.accumulator)
            | u64::from(self.depth) << 16
            | u64::from(self.saturates) << 32
    }

    fn unpack(bits: u64) -> Form {
        let (a, b, accumulator) = unpack_types(bits);
        let depth = (bits >> 16 & 0xff) as u32;
        Form { a, b, accumulator, depth, saturates: bits >> 32 & 1 != 0 }
    }

    /// Registers of A, of B, and of C or D.
    fn registers(self) -> [usize; 3] {
        let words = (self.depth * self.a.bytes() / 4) as usize;
        [words / 2, words / 4, if self.accumulator == Accumulator::F16 { 2 } else { 4 }]
    }
}

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if !words.take("sync") || !words.take("aligned") {
        return Err(words.wrong("`.sync.aligned` is missing"));
    }
    let shape = words.take_map(Shape::named).ok_or_else(|| words.wrong("the shape is missing"))?;
    let is_sparse = words.take_any(&["sp", "sp::ordered_metadata"]).is_some();
    let has = |word: &str| instruction.modifiers.contains(&word);
    if shape == (Shape { rows: 8, columns: 8, depth: 4 }) && !has("f64") && !is_sparse {
        return quads::decode(cx, words, instruction, shape);
    }
    if !words.take("row") || !words.take("col") {
        return Err(words.unsupported("operands lie `.row.col` in this shape"));
    }
    let is_quick = shape.rows == 16 && (has("s8") || has("u8")) && matches!(shape.depth, 16 | 32);
    match is_sparse {
        _ if has("f64") => return small::decode_doubles(cx, words, instruction, shape),
        _ if has("s32") && (is_sparse || !is_quick) => {
            return small::decode_integers(cx, words, instruction, shape, is_sparse);
        }
        true => return sparse::decode(cx, words, instruction, shape),
        false => {}
    }
    let depth = shape.depth;
    if (shape.rows, shape.columns) != (16, 8) {
        return Err(words.unsupported("these types have no such shape"));
    }
    let saturates = words.take("satfinite");
    let types = words.types();
    let form = match types.as_slice() {
        &[d, a, b, c] if c == d => (element_of(a), element_of(b), accumulator_of(d)),
        _ => return Err(words.unsupported("four types are needed, those of C and D the same")),
    };
    let (Some(a), Some(b), Some(accumulator)) = form else {
        return Err(words.unsupported("this type of element or accumulator"));
    };
    let form = Form { a, b, accumulator, depth, saturates };
    let bits = depth.saturating_mul(8 * a.bytes());
    if !go_together(a, b, accumulator) || !matches!(bits, 128 | 256) {
        return Err(words.unsupported("these types do not go together, or not in this shape"));
    }
    let parts: &[_; 4] = operands(instruction, words)?;
    let [a_count, b_count, c_count] = form.registers();
    let counts = [(c_count, true), (a_count, false), (b_count, false), (c_count, false)];
    let list = registers(cx, words, parts, counts, Type::B32)?;
    let start = cx.push_list(&list);
    let aux = list.len() as u32;
    cx.emit(Inst { d: start, aux, imm: form.pack(), ..Decoder::blank(mma) });
    Ok(())
}

/// Rows of A, columns of B, and products per sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) rows: u32,
    pub(super) columns: u32,
    pub(super) depth: u32,
}

impl Shape {
    /// The shape of `m16n8k16`.
    pub(super) fn named(name: &str) -> Option<Shape> {
        let (rows, rest) = name.strip_prefix('m')?.split_once('n')?;
        let (columns, depth) = rest.split_once('k')?;
        let number = |text: &str| text.parse().ok().filter(|&value: &u32| value <= 256);
        Some(Shape { rows: number(rows)?, columns: number(columns)?, depth: number(depth)? })
    }
}

/// The registers of D, A, B and C, all of type `ty`: how many, and which are written.
pub(super) fn registers<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &Words<'a>,
    matrices: &[Operand<'a>],
    counts: [(usize, bool); 4],
    ty: Type,
) -> Result<Vec<Reg>, Error> {
    let mut list = Vec::new();
    for (operand, (count, writes)) in matrices.iter().zip(counts) {
        let single = std::slice::from_ref(operand);
        let parts = match operand {
            Operand::Vector(parts) => parts.as_slice(),
            _ => single,
        };
        if parts.len() != count {
            return Err(words.wrong(format!("{} registers where {count} are needed", parts.len())));
        }
        for part in parts {
            list.push(match writes {
                true => cx.dst(part, ty, words)?,
                false => cx.src(part, ty, words)?,
            });
        }
    }
    Ok(list)
}

/// `d` the list of registers of D, A, B and C.
unsafe fn mma(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    let form = Form::unpack(inst.imm);
    let [a_count, b_count, c_count] = form.registers();
    let function = cx.function;
    let list: &[Reg] = &function.lists[inst.d as usize..(inst.d + inst.aux) as usize];
    let (d, rest) = list.split_at(c_count);
    let (a, rest) = rest.split_at(a_count);
    let (b, c) = rest.split_at(b_count);
    let frame = cx.frame;
    let row = |reg: Reg| -> *mut Row {
        // SAFETY: a register of this frame.
        unsafe { frame.add(reg as usize).cast() }
    };
    let Tiles { a: panel, b: columns, c: tile, sums, .. } = &mut cx.worker.tiles;
    let rule = Rule::new(cx.launch.accumulation, form.a, form.accumulator, false);
    panel.with_exponents = rule.needs_exponents();
    columns.with_exponents = rule.needs_exponents();
    panel.reset_rows(16, form.depth as usize, form.a, false);
    load_rows(panel, 0, a_count, |index| row(a[index]));
    columns.reset_columns(8, form.depth as usize, form.b, false);
    load_columns(columns, b_count, |index| row(b[index]));
    tile.resize(16 * padded(8), 0.0);
    gather(form.accumulator, 8, tile, |index| row(c[index]));
    multiply(rule, (panel, columns), tile, sums, form.saturates);
    scatter(form.accumulator, 8, tile, |index| row(d[index]));
    Flow::Next
}

/// Room for operands and results, kept from one product to the next.
#[derive(Debug, Default)]
pub(crate) struct Tiles {
    pub(super) a: Panel,
    pub(super) b: Panel,
    pub(super) c: Vec<f32>,
    pub(super) sums: Vec<f32>,
    pub(super) picked: Picked,
}

/// Adds `A·B` to the tile, whose words are int32 for integers.
pub(super) fn multiply(
    rule: Rule,
    (a, b): (&Panel, &Panel),
    tile: &mut [f32],
    sums: &mut Vec<f32>,
    saturates: bool,
) {
    if rule.accumulator == Accumulator::S32 {
        multiply_add_integers((a, b), tile, sums, saturates);
    } else {
        multiply_add(rule, a, b, tile);
    }
}
