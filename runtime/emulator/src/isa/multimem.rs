//! Operations on multicast addresses (PTX ISA 9.7.9.15, "multimem").
//!
//! This machine is one device, on which every multimem address has one replica: its own memory.
//! A reduction over all replicas is then a plain one, and a load that reduces is a load.

use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::ptx::ast::Instruction;
use crate::tma::Reduction;

pub(crate) const OPCODES: &[&str] = &["multimem"];

pub(crate) fn decode<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &mut Words<'a>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    let verb = words.take_any(&["red", "st", "ld_reduce"]);
    let plain = |opcode| Instruction { opcode, ..instruction.clone() };
    match verb {
        Some("red") => super::atomic::decode(cx, words, &plain("red")),
        Some("st") => super::memory::decode(cx, words, &plain("st")),
        Some("ld_reduce") => {
            let operation = words.take_map(Reduction::from_name);
            operation.ok_or_else(|| words.wrong("the operation is missing"))?;
            words.take_any(&["acc::f32", "acc::f16"]);
            super::memory::decode(cx, words, &plain("ld"))
        }
        _ => Err(words.unsupported("this operation on multicast addresses")),
    }
}
