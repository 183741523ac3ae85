//! Products with a structured sparse A: `mma.sp` (PTX ISA 9.7.14.6) and what `wgmma` shares.
//!
//! Half of each row is stored; metadata says to which columns the stored elements belong. Which
//! lane holds which metadata the manual shows in pictures (9.7.14.6.2): with selector `f` and
//! lanes `4 g + t`, either the word of one lane covers 16 bits of row `g` and above them 16 bits
//! of row `g + 8` (elements of 16 and 32 bits), or a row has words of its own (8 and 4 bits).

use super::{
    Shape, Tiles, accumulator_of, element_of, go_together, pack_types, registers, unpack_types,
};
use crate::decode::operand::literal;
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::Cx;
use crate::isa::matrix::whole_warp;
use crate::program::{Flow, Inst, Reg};
use crate::ptx::ast::{Instruction, Operand};
use crate::ptx::types::Type;
use crate::tensor_core::fragments::{Row, gather, load_columns, load_rows, scatter};
use crate::tensor_core::{Accumulator, Element, Rule, multiply_add_sparse, padded};

/// Which elements of a row are stored (9.7.14.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::isa) enum Pattern {
    /// One of two.
    OneOfTwo,
    /// Two of four.
    TwoOfFour,
    /// Two pairs of neighbours of eight.
    PairsOfEight,
}

impl Pattern {
    /// The pattern of an element type.
    pub(in crate::isa) fn of(element: Element) -> Pattern {
        if element == Element::Tf32 { Pattern::OneOfTwo } else { Pattern::TwoOfFour }
    }
}

/// The metadata of 16 rows.
#[derive(Clone, Copy, Debug)]
pub(in crate::isa) struct Metadata {
    pub(in crate::isa) words: Row,
    pub(in crate::isa) selector: u32,
    /// Whether a word belongs to one row.
    pub(in crate::isa) row_is_word: bool,
}

impl Metadata {
    /// The column of A of the stored element at `place` of `line`.
    pub(in crate::isa) fn column(&self, pattern: Pattern, line: usize, place: usize) -> usize {
        // Four bits per chunk: two indices of two bits.
        let chunk = match pattern {
            Pattern::OneOfTwo => place,
            Pattern::TwoOfFour => place / 2,
            Pattern::PairsOfEight => place / 4,
        };
        let (group, upper, selector) = (4 * (line % 8), line / 8, self.selector as usize);
        let bits = if self.row_is_word {
            self.words[(group + 2 * (selector + chunk / 8) + upper) % 32] >> (4 * (chunk % 8))
        } else {
            self.words[(group + selector + chunk / 4) % 32] >> (16 * upper + 4 * (chunk % 4))
        };
        let index = |number: usize| (bits >> (2 * number) & 3) as usize;
        match pattern {
            // 0b0100 is the first of the two, 0b1110 the second.
            Pattern::OneOfTwo => 2 * chunk + index(0) / 2,
            Pattern::TwoOfFour => 4 * chunk + index(place % 2),
            Pattern::PairsOfEight => 8 * chunk + 2 * index(place % 4 / 2) + place % 2,
        }
    }
}

/// The four matrices of an instruction and, where A is sparse, its metadata and selector.
#[allow(clippy::type_complexity)]
pub(super) fn split<'i, 'a>(
    instruction: &'i Instruction<'a>,
    is_sparse: bool,
    words: &Words<'_>,
) -> Result<(&'i [Operand<'a>], Option<(&'i Operand<'a>, &'i Operand<'a>)>), Error> {
    match instruction.operands.as_slice() {
        [matrices @ .., metadata, selector] if is_sparse && matrices.len() == 4 => {
            Ok((matrices, Some((metadata, selector))))
        }
        matrices if !is_sparse && matrices.len() == 4 => Ok((matrices, None)),
        _ => Err(words.wrong("the number of operands does not fit")),
    }
}

/// The lane from which on a group of four lanes gives metadata: `all` of them do, or a pair, or
/// with `single` one.
pub(in crate::isa) fn selector(
    operand: &Operand<'_>,
    all: bool,
    single: bool,
    words: &Words<'_>,
) -> Result<u32, Error> {
    let value = literal(operand, Type::U32, words)?;
    let most = match (all, single) {
        (true, _) => 0,
        (_, true) => 3,
        _ => 1,
    };
    if value > most {
        return Err(words.wrong(format!("the sparsity selector {value}: at most {most} here")));
    }
    Ok(value as u32)
}

/// `mma.sp` of floats. `imm` holds types, depth and selector.
pub(super) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    shape: Shape,
) -> Result<(), Error> {
    let form = match words.types().as_slice() {
        &[d, a, b, c] if c == d => (element_of(a), element_of(b), accumulator_of(d)),
        _ => return Err(words.unsupported("four types are needed, those of C and D the same")),
    };
    let (Some(a), Some(b), Some(accumulator)) = form else {
        return Err(words.unsupported("this type of element or accumulator"));
    };
    // Bytes of a row of A if it were dense.
    let bytes = shape.depth * a.bytes();
    let fits = if a.is_fp8() { bytes == 64 } else { matches!(bytes, 32 | 64) };
    if !go_together(a, b, accumulator) || !fits || (shape.rows, shape.columns) != (16, 8) {
        return Err(words.unsupported("these types do not go together, or not in this shape"));
    }
    let (parts, Some((metadata, selector_operand))) = split(instruction, true, words)? else {
        return Err(words.wrong("metadata and selector are missing"));
    };
    let [a_count, b_count, c_count] = counts(accumulator, bytes);
    let all = [(c_count, true), (a_count, false), (b_count, false), (c_count, false)];
    let mut list = registers(cx, words, parts, all, Type::B32)?;
    list.push(cx.src(metadata, Type::B32, words)?);
    let chosen = selector(selector_operand, a.is_fp8(), bytes == 32, words)?;
    // A pair begins at lane 0 or 2.
    let first = if bytes == 32 { chosen } else { 2 * chosen };
    let d = cx.push_list(&list);
    let imm = pack_types(a, b, accumulator) | u64::from(shape.depth) << 16 | u64::from(first) << 32;
    cx.emit(Inst { d, aux: list.len() as u32, imm, ..Decoder::blank(mma_sparse) });
    Ok(())
}

/// Registers of A, B, and C or D, for rows of `bytes` bytes.
fn counts(accumulator: Accumulator, bytes: u32) -> [usize; 3] {
    let c = if accumulator == Accumulator::F16 { 2 } else { 4 };
    [bytes as usize / 16, bytes as usize / 16, c]
}

/// `d` the list of registers of D, A, B, C and the metadata.
unsafe fn mma_sparse(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    let (a_element, b_element, accumulator) = unpack_types(inst.imm);
    let depth = (inst.imm >> 16 & 0xff) as usize;
    let [a_count, b_count, c_count] = counts(accumulator, depth as u32 * a_element.bytes());
    let function = cx.function;
    let list: &[Reg] = &function.lists[inst.d as usize..(inst.d + inst.aux) as usize];
    let (d, rest) = list.split_at(c_count);
    let (a, rest) = rest.split_at(a_count);
    let (b, rest) = rest.split_at(b_count);
    let (c, metadata) = rest.split_at(c_count);
    let frame = cx.frame;
    let row = |reg: Reg| -> *mut Row {
        // SAFETY: a register of this frame.
        unsafe { frame.add(reg as usize).cast() }
    };
    let metadata = Metadata {
        // SAFETY: as above.
        words: unsafe { *row(metadata[0]) },
        selector: (inst.imm >> 32 & 3) as u32,
        row_is_word: a_element.is_fp8(),
    };
    let Tiles { a: panel, b: columns, c: tile, picked, .. } = &mut cx.worker.tiles;
    let rule = Rule::new(cx.launch.accumulation, a_element, accumulator, false);
    panel.with_exponents = rule.needs_exponents();
    columns.with_exponents = rule.needs_exponents();
    panel.reset_rows(16, depth / 2, a_element, false);
    load_rows(panel, 0, a_count, |index| row(a[index]));
    columns.reset_columns(8, depth, b_element, false);
    load_columns(columns, b_count, |index| row(b[index]));
    tile.resize(16 * padded(8), 0.0);
    gather(accumulator, 8, tile, |index| row(c[index]));
    let pattern = Pattern::of(a_element);
    multiply_add_sparse(rule, (panel, columns), tile, picked, |line, place| {
        metadata.column(pattern, line, place)
    });
    scatter(accumulator, 8, tile, |index| row(d[index]));
    Flow::Next
}
