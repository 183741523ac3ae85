//! Finds the instructions that access registers of matrix products, so that the rules for them
//! can be checked (see `exec/products.rs`): before each one stands a check that costs nothing
//! elsewhere.

use std::collections::BTreeSet;

use crate::decode::{Decoder, Words};
use crate::error::Error;
use crate::exec::Cx;
use crate::program::{Flow, Inst};
use crate::ptx::ast::{Instruction, Operand, Statement};

/// Instructions whose first operand is read, or is an address.
const READERS: &[&str] = &["st", "red", "stmatrix", "multimem", "cp", "bar", "barrier", "mbarrier"];

/// Adds the names of registers that hold accumulators or A of products in `body`.
pub(crate) fn collect<'a>(body: &[Statement<'a>], names: &mut BTreeSet<&'a str>) {
    for statement in body {
        match statement {
            Statement::Block(inner) => collect(inner, names),
            Statement::Instruction(instruction) if instruction.opcode == "wgmma" => {
                for operand in instruction.operands.iter().take(2) {
                    if let Operand::Vector(_) = operand {
                        visit(operand, &mut |name| {
                            names.insert(name);
                        });
                    }
                }
            }
            _ => {}
        }
    }
}

/// Calls `found` for every name in an operand.
fn visit<'a>(operand: &Operand<'a>, found: &mut impl FnMut(&'a str)) {
    match operand {
        Operand::Name(name, _) | Operand::Offset(name, _) | Operand::Not(name) => found(name),
        Operand::Negated(inner) => visit(inner, found),
        Operand::Pair(first, second) => {
            visit(first, found);
            visit(second, found);
        }
        Operand::Vector(list) | Operand::List(list) => {
            list.iter().for_each(|operand| visit(operand, found));
        }
        Operand::Address { base, rest, .. } => {
            visit(base, found);
            rest.iter().for_each(|operand| visit(operand, found));
        }
        _ => {}
    }
}

/// Puts a check before an instruction that accesses such registers.
pub(crate) fn guard<'a>(
    cx: &mut Decoder<'a, '_>,
    words: &Words<'_>,
    instruction: &Instruction<'a>,
) -> Result<(), Error> {
    if cx.product_names.is_empty() || instruction.opcode == "wgmma" {
        return Ok(());
    }
    let mut names = Vec::new();
    for (index, operand) in instruction.operands.iter().enumerate() {
        let writes = index == 0 && !READERS.contains(&instruction.opcode);
        visit(operand, &mut |name| names.push((name, writes)));
    }
    names.retain(|(name, _)| cx.product_names.contains(name));
    let mut list = Vec::new();
    for (name, writes) in names {
        if let Some((reg, _)) = cx.find_register(name, words)? {
            list.push(reg | u32::from(writes));
        }
    }
    if !list.is_empty() {
        let d = cx.push_list(&list);
        cx.emit(Inst { d, aux: list.len() as u32, ..Decoder::blank(touch) });
    }
    Ok(())
}

/// `d` a list of registers, with the lowest bit set for those that are written.
unsafe fn touch(cx: &mut Cx<'_>, inst: &Inst) -> Flow {
    let function = cx.function;
    if !cx.follows_products() {
        return Flow::Next;
    }
    for &word in &function.lists[inst.d as usize..(inst.d + inst.aux) as usize] {
        if let Err(rule) = cx.warp.products.touch(word & !1, word & 1 != 0) {
            return cx.misuse(rule);
        }
    }
    Flow::Next
}
