//! `mma.m8n8k4` of binary16 (PTX ISA 9.7.14.5.1): four products at once, each by two groups of
//! four lanes, sixteen lanes apart.

use super::{Shape, Tiles, accumulator_of, registers};
use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::Cx;
use crate::isa::matrix::whole_warp;
use crate::isa::operands;
use crate::program::{Flow, Inst, Reg};
use crate::ptx::ast::Instruction;
use crate::ptx::types::Type;
use crate::tensor_core::panel::position;
use crate::tensor_core::{Accumulator, Element, Rule, half_bits, multiply_add, padded};

const A_COLUMN: u64 = 1;
const B_COLUMN: u64 = 2;
const D_SINGLE: u64 = 4;
const C_SINGLE: u64 = 8;

pub(super) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
    _: Shape,
) -> Result<(), Error> {
    let layout = |words: &mut Words<'a>| {
        words.take_map(|word| match word {
            "row" => Some(false),
            "col" => Some(true),
            _ => None,
        })
    };
    let (Some(a_column), Some(b_column)) = (layout(words), layout(words)) else {
        return Err(words.wrong("the layouts of A and B are missing"));
    };
    let (d_type, c_type) = match words.types().as_slice() {
        &[d, Type::F16, Type::F16, c] => (accumulator_of(d), accumulator_of(c)),
        _ => return Err(words.wrong("four types are needed, `.f16` for A and B")),
    };
    let single = |ty| match ty {
        Some(Accumulator::F32) => Ok(true),
        Some(Accumulator::F16) => Ok(false),
        _ => Err(words.wrong("C and D are `.f16` or `.f32`")),
    };
    let (d_single, c_single) = (single(d_type)?, single(c_type)?);
    if c_single && !d_single {
        return Err(words.wrong("where C is `.f32`, D is too"));
    }
    let count = |single| if single { 8 } else { 4 };
    let counts = [(count(d_single), true), (2, false), (2, false), (count(c_single), false)];
    let parts: &[_; 4] = operands(instruction, words)?;
    let list = registers(cx, words, parts, counts, Type::B32)?;
    let d = cx.push_list(&list);
    let flags =
        [(a_column, A_COLUMN), (b_column, B_COLUMN), (d_single, D_SINGLE), (c_single, C_SINGLE)];
    let imm = flags.iter().fold(0, |all, (set, flag)| if *set { all | flag } else { all });
    cx.emit(Inst { d, aux: list.len() as u32, imm, ..Decoder::blank(quads) });
    Ok(())
}

/// Row and column of element `index` of an accumulator in a lane.
fn place(lane: usize, index: usize, single: bool) -> (usize, usize) {
    let upper = if lane < 16 { 0 } else { 4 };
    if single {
        (upper + (lane & 1) + (index & 2), (index & 4) + (lane & 2) + (index & 1))
    } else {
        (upper + lane % 4, index)
    }
}

unsafe fn quads(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    if let Err(flow) = whole_warp(cx) {
        return flow;
    }
    let [a_column, b_column, d_single, c_single] =
        [A_COLUMN, B_COLUMN, D_SINGLE, C_SINGLE].map(|flag| inst.imm & flag != 0);
    let count = |single| if single { 8 } else { 4 };
    let function = cx.function;
    let list: &[Reg] = &function.lists[inst.d as usize..(inst.d + inst.aux) as usize];
    let (d, rest) = list.split_at(count(d_single));
    let (a, rest) = rest.split_at(2);
    let (b, c) = rest.split_at(2);
    let frame = cx.frame;
    // SAFETY: registers of this frame.
    let row = |reg: Reg| -> &mut [u32; 32] { unsafe { &mut *frame.add(reg as usize).cast() } };
    let halves = |regs: &[Reg], lane: usize, index: usize| {
        row(regs[index / 2])[lane] >> (16 * (index % 2)) & 0xffff
    };
    let accumulator = if d_single { Accumulator::F32 } else { Accumulator::F16 };
    let rule = Rule::new(cx.launch.accumulation, Element::F16, accumulator, false);
    let Tiles { a: rows, b: columns, c: tile, .. } = &mut cx.worker.tiles;
    rows.with_exponents = rule.needs_exponents();
    columns.with_exponents = rule.needs_exponents();
    let width = padded(8);
    let mut results = [[[0f32; 8]; 8]; 4];
    for (quad, result) in results.iter_mut().enumerate() {
        rows.reset_rows(8, 4, Element::F16, false);
        columns.reset_columns(8, 4, Element::F16, false);
        tile.clear();
        tile.resize(8 * width, 0.0);
        for lane in [0, 1, 2, 3, 16, 17, 18, 19].map(|lane| lane + 4 * quad) {
            let (upper, own) = (if lane < 16 { 0 } else { 4 }, lane % 4);
            for index in 0..4 {
                let (line, k) = if a_column { (upper + index, own) } else { (upper + own, index) };
                rows.put(line, k, halves(a, lane, index));
                let (column, k) =
                    if b_column { (upper + own, index) } else { (upper + index, own) };
                columns.put(column, k, halves(b, lane, index));
            }
            for index in 0..8 {
                let (line, column) = place(lane, index, c_single);
                tile[line * width + position(column)] = match c_single {
                    true => f32::from_bits(row(c[index])[lane]),
                    false => Element::F16.decode(halves(c, lane, index)).0,
                };
            }
        }
        rows.finish();
        columns.finish();
        multiply_add(rule, rows, columns, tile);
        for (line, result) in result.iter_mut().enumerate() {
            *result = std::array::from_fn(|column| tile[line * width + position(column)]);
        }
    }
    for lane in 0..32 {
        for index in 0..8 {
            let (line, column) = place(lane, index, d_single);
            let value = results[lane % 16 / 4][line][column];
            if d_single {
                row(d[index])[lane] = value.to_bits();
            } else {
                let (word, shift) = (&mut row(d[index / 2])[lane], 16 * (index % 2));
                *word = *word & !(0xffff << shift) | u32::from(half_bits(value)) << shift;
            }
        }
    }
    Flow::Next
}
