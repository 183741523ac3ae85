//! FP8 products: weights, rows, and the rows that are remembered.

use super::packed::cache_of;
use super::remembered::{self, Columns};
use super::rewrite::Rewrite;
use crate::{Fp8, Precision};
use moec_ir::graph::shape::in_blocks;
use moec_ir::graph::{Function, Node, NodeId, Op, PackedRow, Param, TensorType};
use moec_ir::{DType, Diagnostic, ScaleFormat};
use std::collections::{BTreeMap, BTreeSet};

/// A linear map by a weight of a recipe.
pub(super) struct Product<'r> {
    /// The weight, by its index.
    param: usize,
    recipe: &'r Fp8,
}

impl Product<'_> {
    /// Whether the rows that it multiplies are quantised.
    pub(super) fn rounds(&self) -> bool {
        self.recipe.activation_block.is_some()
    }
}

/// The function with FP8 products: `linear(x, w)` becomes
/// `linear(dequantize(quantize(x), block_scale(x)), dequantize(w, w_scale))`, with `w` in e4m3
/// and a new parameter `w_scale` (DeepSeek-V3 3.3.2); `x` stays as it is where the recipe has no
/// block for activations. Where `x` are columns of a cache that only
/// such products read, they are rounded before they are remembered and read as they are.
///
/// # Errors
/// E0410 where a weight of a recipe is used otherwise than as that of linear maps.
pub(super) fn quantize(
    function: &Function,
    precision: &Precision,
) -> Result<Function, Vec<Diagnostic>> {
    let products = products(function, precision)?;
    let mut rounded = remembered::find(function, &products);
    // What a packed cache keeps is rounded already: as these products round it, or not for them.
    let packed = |append: NodeId| function.caches[cache_of(function, append)?].packed;
    let alike = |packed: PackedRow, recipe: &Fp8| {
        recipe.activation_block == Some([1, packed.block]) && recipe.scales == packed.scales
    };
    rounded.retain(|append, _| match (packed(*append), &precision.linear) {
        (Some(packed), Some(recipe)) => alike(packed, recipe),
        (packed, _) => packed.is_none(),
    });
    let (params, scales) = with_scales(function, &products);
    let mut new = Rewrite::new();
    for (at, node) in function.nodes.iter().enumerate() {
        let mut operands = new.operands(node);
        let mut node = node.clone();
        if let Op::Param(i) = node.op {
            node.ty = params[i].ty.clone();
        }
        if let Some(product) = products.get(&NodeId(at)) {
            let stored = function.params[product.param].ty.dtype;
            let scale = scales[&product.param];
            operands[1] = weight(
                &mut new,
                operands[1],
                (scale, &params[scale]),
                stored,
                product.recipe,
                &node,
            );
            let remembered = remembered::source(function, node.inputs[0])
                .is_some_and(|(append, c)| rounded.get(&append).is_some_and(|r| r.contains(&c)));
            if !remembered {
                operands[0] = round_rows(&mut new, operands[0], product.recipe, &node);
            }
        }
        if let Some(columns) = rounded.get(&NodeId(at))
            && packed(NodeId(at)).is_none()
            && let Some(recipe) = &precision.linear
        {
            operands[1] = round_columns(&mut new, operands[1], columns, recipe, &node);
        }
        let id = new.push(Node { inputs: operands, ..node });
        new.put(id);
    }
    Ok(new.finish(&Function { params, ..function.clone() }))
}

/// The linear maps by weights of a recipe.
fn products<'r>(
    function: &Function,
    precision: &'r Precision,
) -> Result<BTreeMap<NodeId, Product<'r>>, Vec<Diagnostic>> {
    let (mut found, mut mistakes) = (BTreeMap::new(), vec![]);
    for (at, node) in function.nodes.iter().enumerate() {
        let is_product = matches!(node.op, Op::Linear | Op::HeadLinear | Op::ExpertLinear);
        let weight = node.inputs.get(1).filter(|_| is_product);
        let Some((param, whole)) = weight.and_then(|w| param_behind(function, *w)) else {
            continue;
        };
        let routed = node.op == Op::ExpertLinear;
        let Some(recipe) = precision.fp8(&function.params[param].name, routed) else { continue };
        if !whole || node.op == Op::HeadLinear {
            let what = if whole { "as one matrix per head" } else { "in parts" };
            mistakes.push(misused(&function.params[param], what, node));
        }
        found.insert(NodeId(at), Product { param, recipe });
    }
    let quantized: BTreeSet<usize> = found.values().map(|p| p.param).collect();
    for (at, node) in function.nodes.iter().enumerate() {
        for (operand, input) in node.inputs.iter().enumerate() {
            let Op::Param(param) = function.node(*input).op else { continue };
            let as_weight = operand == 1 && found.contains_key(&NodeId(at));
            let tells_view = found.values().any(|p| p.param == param) && is_view(&node.op);
            if quantized.contains(&param) && !as_weight && !tells_view {
                let what = "otherwise than as the weight of a linear map";
                mistakes.push(misused(&function.params[param], what, node));
            }
        }
    }
    if mistakes.is_empty() { Ok(found) } else { Err(mistakes) }
}

/// The parameter that a weight is, or is a view of, and whether it is the whole.
fn param_behind(function: &Function, weight: NodeId) -> Option<(usize, bool)> {
    match &function.node(weight).op {
        Op::Param(param) => Some((*param, true)),
        op if is_view(op) => {
            let (param, _) = param_behind(function, *function.node(weight).inputs.first()?)?;
            Some((param, false))
        }
        _ => None,
    }
}

fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Slice { .. } | Op::Transpose(_) | Op::Broadcast(_))
}

fn misused(param: &Param, what: &str, node: &Node) -> Diagnostic {
    let name = &param.name;
    let message = format!("the FP8 weight `{name}` is used {what}, which is not compiled");
    let mut mistake = Diagnostic::error("E0410", message);
    for span in &node.spans {
        mistake = mistake.at(*span, "here");
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    mistake.help(format!("leave it as it is stored: `keep: {last}` in the section `precision`"))
}

/// The parameters, those of products in e4m3 and with their scales behind them all, and the
/// index of the scales of each.
fn with_scales(
    function: &Function,
    products: &BTreeMap<NodeId, Product<'_>>,
) -> (Vec<Param>, BTreeMap<usize, usize>) {
    let mut params = function.params.clone();
    let mut scales = BTreeMap::new();
    for Product { param, recipe } in products.values() {
        if scales.contains_key(param) {
            continue;
        }
        scales.insert(*param, params.len());
        let weight = &mut params[*param];
        weight.ty.dtype = DType::F8e4m3;
        let [rows, columns] = recipe.weight_block;
        let blocks = || -> Result<_, String> {
            let mut shape = in_blocks(&weight.ty.shape, columns)?;
            let outer = shape.len() - 2;
            shape[outer] = in_blocks(&shape[outer..=outer], rows)?.remove(0);
            Ok(shape)
        };
        let shape = blocks().unwrap_or_else(|fault| panic!("bug in moec: a weight has {fault}"));
        let mut scale = Param {
            name: format!("{}_scale", weight.name),
            tensor: format!("{}_scale_inv", weight.tensor),
            ty: TensorType::new(DType::F32, shape),
        };
        while params.iter().any(|p| p.name == scale.name) {
            scale.name = format!("{}_of_blocks", scale.name);
        }
        params.push(scale);
    }
    (params, scales)
}

/// A weight by its scales, as it would be stored without FP8.
fn weight(
    new: &mut Rewrite,
    quantized: NodeId,
    (index, scale): (usize, &Param),
    stored: DType,
    recipe: &Fp8,
    like: &Node,
) -> NodeId {
    let scale = new.param(index, &scale.ty, like);
    let block = recipe.weight_block;
    new.add(Op::Dequantize { block }, vec![quantized, scale], stored, like)
}

/// Rows rounded to FP8 and back, where the recipe rounds rows.
fn round_rows(new: &mut Rewrite, x: NodeId, recipe: &Fp8, like: &Node) -> NodeId {
    match recipe.activation_block {
        Some([_, block]) => round(new, x, (block, recipe.scales), like),
        None => x,
    }
}

/// Rows rounded to e4m3 and back, by blocks that share a scale of that format.
pub(super) fn round(
    new: &mut Rewrite,
    x: NodeId,
    (block, scales): (u64, ScaleFormat),
    like: &Node,
) -> NodeId {
    let dtype = new.ty(x).dtype;
    let q = new.add(Op::Quantize { block, scales }, vec![x], DType::F8e4m3, like);
    let s = new.add(Op::BlockScale { block, scales }, vec![x], DType::F32, like);
    new.add(Op::Dequantize { block: [1, block] }, vec![q, s], dtype, like)
}

/// Rows of which some columns are rounded to FP8 and back.
fn round_columns(
    new: &mut Rewrite,
    rows: NodeId,
    columns: &[Columns],
    recipe: &Fp8,
    like: &Node,
) -> NodeId {
    let dtype = new.ty(rows).dtype;
    let bounds: BTreeSet<u64> = columns.iter().flat_map(|c| [c.start, c.start + c.len]).collect();
    let pieces = cut(new, rows, &bounds, like);
    let (mut result, mut at) = (vec![], 0);
    let mut pieces = pieces.into_iter().peekable();
    while let Some((first, len)) = pieces.next() {
        let Some(own) = columns.iter().find(|c| c.start == at) else {
            result.push(first);
            at += len;
            continue;
        };
        let (mut inside, end) = (vec![first], own.start + own.len);
        at += len;
        while let Some((piece, len)) = pieces.next_if(|_| at < end) {
            inside.push(piece);
            at += len;
        }
        let whole = side_by_side(new, inside, dtype, like);
        result.push(round_rows(new, whole, recipe, like));
    }
    side_by_side(new, result, dtype, like)
}

fn side_by_side(new: &mut Rewrite, pieces: Vec<NodeId>, dtype: DType, like: &Node) -> NodeId {
    match pieces.as_slice() {
        [one] => *one,
        _ => new.add(Op::Concat { axis: 1 }, pieces, dtype, like),
    }
}

/// Rows in pieces, each with its number of columns, so that all bounds lie between pieces: the
/// pieces that they were made of, cut where a bound lies within one.
fn cut(new: &mut Rewrite, rows: NodeId, bounds: &BTreeSet<u64>, like: &Node) -> Vec<(NodeId, u64)> {
    let made_of = new.pieces(rows).unwrap_or_else(|| vec![rows]);
    let (mut result, mut begin) = (vec![], 0);
    for piece in made_of {
        let size = new.ty(piece).last().unwrap_or(0);
        let inside = bounds.range(begin + 1..(begin + size).max(begin + 1)).map(|b| b - begin);
        let ends: Vec<u64> = inside.chain([size]).collect();
        let mut start = 0;
        for end in ends {
            let len = end - start;
            let dtype = new.ty(piece).dtype;
            let slice = Op::Slice { axis: 1, start, len };
            let part = if len == size { piece } else { new.add(slice, vec![piece], dtype, like) };
            result.push((part, len));
            start = end;
        }
        begin += size;
    }
    result
}
