//! The instructions, one file per family: what each file decodes and how it executes.
//!
//! A family is a list of opcodes and a function that turns one instruction into code. To add
//! one, write a file with `OPCODES` and `decode` and put it into [`FAMILIES`].

mod arithmetic;
mod atomic;
mod barrier;
mod bits;
mod bulk;
mod bulk_tensor;
mod carry;
mod cluster;
mod compare;
pub(crate) mod control;
mod convert;
mod copy;
mod float;
mod half;
mod host;
mod math;
mod matrix;
mod mbarrier;
mod memory;
pub(crate) mod mma;
mod moves;
mod multimem;
pub(crate) mod numeric;
mod nvshmem;
mod pointer;
pub(crate) mod product_registers;
pub(crate) mod special;
mod stack;
mod tensor_map;
mod video;
mod warp;
mod wgmma;
mod wmma;

use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::ptx::ast::Instruction;

/// Decodes one instruction of a family: emits code, or refuses.
pub(crate) type Decode =
    for<'a, 'n> fn(&mut Decoder<'a, 'n>, &mut Words<'a>, &Instruction<'a>) -> Result<(), Error>;

/// Opcodes and who decodes them.
const FAMILIES: &[(&[&str], Decode)] = &[
    (matrix::OPCODES, matrix::decode),
    (mma::OPCODES, mma::decode),
    (wgmma::OPCODES, wgmma::decode),
    (wmma::OPCODES, wmma::decode),
    (mbarrier::OPCODES, mbarrier::decode),
    (cluster::OPCODES, cluster::decode),
    (tensor_map::OPCODES, tensor_map::decode),
    (multimem::OPCODES, multimem::decode),
    (arithmetic::OPCODES, arithmetic::decode),
    (float::OPCODES, float::decode),
    (math::OPCODES, math::decode),
    (carry::OPCODES, carry::decode),
    (bits::OPCODES, bits::decode),
    (compare::OPCODES, compare::decode),
    (convert::OPCODES, convert::decode),
    (moves::OPCODES, moves::decode),
    (memory::OPCODES, memory::decode),
    (atomic::OPCODES, atomic::decode),
    (copy::OPCODES, copy::decode),
    (control::OPCODES, control::decode),
    (stack::OPCODES, stack::decode),
    (video::OPCODES, video::decode),
    (warp::OPCODES, warp::decode),
    (barrier::OPCODES, barrier::decode),
];

/// Decodes one instruction.
pub(crate) fn decode<'a>(
    decoder: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    for (opcodes, decode) in FAMILIES {
        if opcodes.contains(&instruction.opcode) {
            return decode(decoder, words, instruction);
        }
    }
    Err(words.unsupported("this machine does not know the instruction"))
}

/// The operands of an instruction, which must be `N`.
pub(crate) fn operands<'i, 'a, const N: usize>(
    instruction: &'i Instruction<'a>,
    words: &Words<'_>,
) -> Result<&'i [crate::ptx::ast::Operand<'a>; N], Error> {
    instruction.operands.as_slice().try_into().map_err(|_| {
        words.wrong(format!("{} operands where {N} are needed", instruction.operands.len()))
    })
}
