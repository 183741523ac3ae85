//! Caches in FP8: what is remembered of MLA's latent is quantised, and kept so.

use super::fp8::round;
use super::rewrite::Rewrite;
use crate::{Fp8Cache, Precision};
use moec_ir::Diagnostic;
use moec_ir::graph::{Function, Node, NodeId, Op, PackedRow};
use std::collections::BTreeMap;

/// The function whose caches are packed ([`PackedRow`]) but those that the section `precision`
/// excepts: `append(cache, concat(norm, key))` becomes `append(cache,
/// concat(dequantize(quantize(norm), block_scale(norm)), key))`.
///
/// # Errors
/// E0411 where a cache does not keep a norm and a rotated key beside it, or where its rows are read
/// otherwise than as one of these.
pub(super) fn pack(
    function: &Function,
    recipe: &Fp8Cache,
    precision: &Precision,
) -> Result<Function, Vec<Diagnostic>> {
    let (mut latents, mut mistakes) = (BTreeMap::new(), vec![]);
    for (at, node) in function.nodes.iter().enumerate() {
        let Some(cache) = cache_of(function, NodeId(at)) else { continue };
        if precision.excepts(&function.caches[cache].name) {
            continue;
        }
        match latent(function, NodeId(at)) {
            Ok(pieces) => _ = latents.insert(NodeId(at), (cache, pieces)),
            Err(why) => mistakes.push(no_latent(&function.caches[cache].name, why, node, recipe)),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let mut packed = function.clone();
    let mut new = Rewrite::new();
    for (at, node) in function.nodes.iter().enumerate() {
        let mut operands = new.operands(node);
        if let Some((cache, [norm, key])) = latents.get(&NodeId(at)) {
            let [norm, key] = [norm, key].map(|piece| new.of(*piece));
            let latent = new.ty(norm).last().unwrap_or(0);
            let Fp8Cache { block, scales, .. } = *recipe;
            packed.caches[*cache].packed = Some(PackedRow { latent, block, scales });
            let rounded = round(&mut new, norm, (block, scales), node);
            let dtype = new.ty(operands[1]).dtype;
            operands[1] = new.add(Op::Concat { axis: 1 }, vec![rounded, key], dtype, node);
        }
        let id = new.push(Node { inputs: operands, ..node.clone() });
        new.put(id);
    }
    Ok(new.finish(&packed))
}

/// The cache that a node appends to, if that is what it does.
pub(super) fn cache_of(function: &Function, node: NodeId) -> Option<usize> {
    let node = function.node(node);
    match (&node.op, node.inputs.first().map(|cache| &function.node(*cache).op)) {
        (Op::Append, Some(Op::Cache(cache))) => Some(*cache),
        _ => None,
    }
}

/// The norm and the key that are remembered, or why they are not.
fn latent(function: &Function, append: NodeId) -> Result<[NodeId; 2], &'static str> {
    let row = function.node(function.node(append).inputs[1]);
    let pieces = match (&row.op, row.inputs.as_slice()) {
        (Op::Concat { axis: 1 }, &[norm, key]) if row.ty.shape.len() == 2 => [norm, key],
        _ => return Err("what it keeps is not a latent and a key, side by side"),
    };
    let [norm, key] = pieces.map(|piece| function.node(piece));
    if !matches!(norm.op, Op::RmsNorm { .. }) || !matches!(key.op, Op::Rotary(_)) {
        return Err("what it keeps is not `concat(rms_norm(…), rotary(…))`");
    }
    let [latent, key] = [norm, key].map(|piece| piece.ty.last().unwrap_or(0));
    let reads_one = |(at, node): (usize, &Node)| {
        let reads = node.inputs.contains(&append);
        let one = match node.op {
            Op::Slice { axis: 1, start, len } => {
                [(0, latent), (latent, key)].contains(&(start, len))
            }
            _ => false,
        };
        !reads || one || at == append.0
    };
    let returned = function.outputs.contains(&append);
    if returned || !function.nodes.iter().enumerate().all(reads_one) {
        return Err("its rows are read otherwise than as the latent and the key");
    }
    Ok(pieces)
}

fn no_latent(name: &str, why: &str, node: &Node, recipe: &Fp8Cache) -> Diagnostic {
    let message = format!("the cache `{name}` cannot be kept in FP8: {why}");
    let mut mistake = Diagnostic::error("E0411", message).at(recipe.span, "asked for here");
    for span in &node.spans {
        mistake = mistake.and(*span, "appended here");
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    mistake.help(format!("leave it as it is: `keep: {last}` in the section `precision`"))
}
