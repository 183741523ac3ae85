//! Shapes: what each operation accepts and returns.

use super::{Groups, Op};
use crate::Dim;

/// A shape as a list of sizes, outermost first.
pub type Shape = Vec<Dim>;

/// The shape of an operation's value, given the shapes of its operands.
///
/// `own` is the shape of the function's input, parameter or cache row that [`Op::Input`],
/// [`Op::Param`] and [`Op::Cache`] read.
///
/// # Errors
/// One sentence with the two sizes that disagree: lower case, no final stop.
pub fn infer(op: &Op, operands: &[&[Dim]], own: Option<&[Dim]>) -> Result<Shape, String> {
    let expected = arity(op);
    if expected.is_some_and(|n| n != operands.len()) || (expected.is_none() && operands.is_empty())
    {
        let n = expected.map_or("one or more".into(), |n| n.to_string());
        return Err(format!("`{}` takes {n} operands, not {}", op.name(), operands.len()));
    }
    match op {
        Op::Input(_) | Op::Param(_) | Op::Cache(_) => own
            .map(<[Dim]>::to_vec)
            .ok_or_else(|| format!("`{}` reads nothing that exists", op.name())),
        Op::Constant(_) => Ok(vec![]),
        Op::Linear | Op::HeadLinear | Op::ExpertLinear | Op::Combine => product(op, operands),
        Op::Reshape(_)
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Transpose(_)
        | Op::Broadcast(_) => layout(op, operands),
        Op::Lookup => {
            let (table, ids) = (operands[0], operands[1]);
            need_rank(op, table, 1, "table")?;
            Ok([ids, &table[1..]].concat())
        }
        Op::Unary(_) | Op::Softmax => Ok(operands[0].to_vec()),
        Op::Binary(_) => broadcast(operands[0], operands[1]),
        Op::Reduce(_) => {
            need_rank(op, operands[0], 1, "operand")?;
            let mut shape = operands[0].to_vec();
            if let Some(last) = shape.last_mut() {
                *last = Dim::from(1);
            }
            Ok(shape)
        }
        Op::RmsNorm { .. } => {
            need_rank(op, operands[0], 1, "operand")?;
            need_rank_exactly(op, operands[1], 1, "weight")?;
            same(
                "elements normalised",
                operands[0].last(),
                "elements of the weight",
                operands[1].last(),
            )?;
            Ok(operands[0].to_vec())
        }
        Op::Quantize { block, .. } => {
            need_rank(op, operands[0], 1, "operand")?;
            in_blocks(operands[0], *block)?;
            Ok(operands[0].to_vec())
        }
        Op::BlockScale { block, .. } => {
            need_rank(op, operands[0], 1, "operand")?;
            in_blocks(operands[0], *block)
        }
        Op::Dequantize { block } => dequantize(op, operands[0], operands[1], *block),
        Op::Rotary(r) => {
            let x = operands[0];
            if !(2..=3).contains(&x.len()) {
                return Err(format!("`rotary` takes `[T, D]` or `[T, H, D]`, not {}", show(x)));
            }
            same("elements rotated", Some(&Dim::from(r.dim)), "size of the last axis", x.last())?;
            if r.dim % 2 == 1 {
                return Err(format!("`rotary` turns pairs, and {} is odd", r.dim));
            }
            Ok(x.to_vec())
        }
        Op::Append | Op::Attend { .. } | Op::Scores | Op::CausalSoftmax | Op::Mix => {
            attention(op, operands)
        }
        Op::TopK { k, groups } => top_k(*k, groups.as_ref(), operands[0]),
        Op::Dispatch | Op::Collect => {
            let (x, chosen) = (operands[0], operands[1]);
            need_rank(op, x, 1, "rows")?;
            need_rank_exactly(op, chosen, 2, "indices")?;
            same("rows", x.first(), "rows of indices", chosen.first())?;
            Ok(x.to_vec())
        }
        Op::Pick => {
            need_rank_exactly(op, operands[0], 2, "values")?;
            need_rank_exactly(op, operands[1], 2, "indices")?;
            same("rows of values", operands[0].first(), "rows of indices", operands[1].first())?;
            Ok(operands[1].to_vec())
        }
    }
}

/// Number of operands; `None` means one or more.
fn arity(op: &Op) -> Option<usize> {
    Some(match op {
        Op::Input(_) | Op::Param(_) | Op::Cache(_) | Op::Constant(_) => 0,
        Op::Reshape(_)
        | Op::Slice { .. }
        | Op::Transpose(_)
        | Op::Broadcast(_)
        | Op::Unary(_)
        | Op::Reduce(_)
        | Op::Softmax
        | Op::Quantize { .. }
        | Op::BlockScale { .. }
        | Op::Rotary(_)
        | Op::CausalSoftmax
        | Op::TopK { .. } => 1,
        Op::Concat { .. } => return None,
        Op::ExpertLinear | Op::Attend { .. } => 3,
        _ => 2,
    })
}

fn product(op: &Op, operands: &[&[Dim]]) -> Result<Shape, String> {
    let (x, w) = (operands[0], operands[1]);
    let inner = "columns of the weight";
    match op {
        Op::Linear => {
            need_rank(op, x, 1, "operand")?;
            need_rank_exactly(op, w, 2, "weight")?;
            same("columns of the operand", x.last(), inner, w.last())?;
            Ok([&x[..x.len() - 1], &w[..1]].concat())
        }
        Op::HeadLinear => {
            need_rank_exactly(op, x, 3, "operand")?;
            need_rank_exactly(op, w, 3, "weight")?;
            if !x[1].is_one() {
                same("heads of the operand", x.get(1), "heads of the weight", w.first())?;
            }
            same("columns of the operand", x.last(), inner, w.last())?;
            Ok(vec![x[0].clone(), w[0].clone(), w[1].clone()])
        }
        Op::ExpertLinear => {
            let chosen = operands[2];
            need_rank_exactly(op, w, 3, "weight")?;
            need_rank_exactly(op, chosen, 2, "chosen experts")?;
            if !(2..=3).contains(&x.len()) {
                return Err(format!(
                    "an expert's operand is `[T, K]` or `[T, k, K]`, not {}",
                    show(x)
                ));
            }
            same(
                "tokens of the operand",
                x.first(),
                "tokens of the chosen experts",
                chosen.first(),
            )?;
            if x.len() == 3 {
                same("rows per token", x.get(1), "experts per token", chosen.get(1))?;
            }
            same("columns of the operand", x.last(), inner, w.last())?;
            Ok(vec![chosen[0].clone(), chosen[1].clone(), w[1].clone()])
        }
        _ => {
            need_rank_exactly(op, x, 3, "operand")?;
            need_rank_exactly(op, w, 2, "weights")?;
            same("tokens", x.first(), "tokens of the weights", w.first())?;
            same("rows per token", x.get(1), "weights per token", w.get(1))?;
            Ok(vec![x[0].clone(), x[2].clone()])
        }
    }
}

fn layout(op: &Op, operands: &[&[Dim]]) -> Result<Shape, String> {
    let x = operands[0];
    match op {
        Op::Reshape(shape) => {
            let (had, has) = (Dim::product(x), Dim::product(shape));
            if had == has {
                Ok(shape.clone())
            } else {
                Err(format!("{} has {had} elements and {} has {has}", show(x), show(shape)))
            }
        }
        Op::Slice { axis, start, len } => {
            let size = x.get(*axis).ok_or_else(|| no_axis(*axis, x))?;
            let end = start.checked_add(*len).ok_or("a slice ends beyond every size")?;
            if size.constant().is_none_or(|n| end > n) {
                return Err(format!("elements {start} to {end} of an axis of size {size}"));
            }
            let mut shape = x.to_vec();
            shape[*axis] = Dim::from(*len);
            Ok(shape)
        }
        Op::Concat { axis } => {
            let mut shape = x.to_vec();
            if *axis >= shape.len() {
                return Err(no_axis(*axis, x));
            }
            for y in &operands[1..] {
                let agrees = y.len() == x.len() && (0..x.len()).all(|i| i == *axis || x[i] == y[i]);
                if !agrees {
                    return Err(format!("{} and {} differ beside axis {axis}", show(x), show(y)));
                }
                shape[*axis] = shape[*axis].clone() + y[*axis].clone();
            }
            Ok(shape)
        }
        Op::Transpose(perm) => {
            let mut seen = perm.clone();
            seen.sort_unstable();
            if seen.iter().copied().ne(0..x.len()) {
                return Err(format!("{perm:?} is not an order of the axes of {}", show(x)));
            }
            Ok(perm.iter().map(|&i| x[i].clone()).collect())
        }
        Op::Broadcast(shape) => {
            let fits = shape.len() == x.len()
                && x.iter().zip(shape).all(|(from, to)| from == to || from.is_one());
            if fits {
                Ok(shape.clone())
            } else {
                Err(format!("{} does not repeat to {}", show(x), show(shape)))
            }
        }
        _ => Err(format!("`{}` is not an operation of layout", op.name())),
    }
}

/// A shape with one element in place of each block of the last axis.
///
/// # Errors
/// Where the blocks are empty, or the axis is longer than any size known when a model is
/// compiled.
pub fn in_blocks(shape: &[Dim], block: u64) -> Result<Shape, String> {
    let Some((last, outer)) = shape.split_last() else {
        return Err("a number has no blocks".into());
    };
    let count = match (block, last.constant()) {
        (0, _) => return Err("a block of 0 elements".into()),
        (1, _) => last.clone(),
        (_, Some(n)) => Dim::from(n.div_ceil(block)),
        (_, None) => return Err(format!("an axis of size {last} has no fixed number of blocks")),
    };
    Ok([outer, &[count]].concat())
}

fn dequantize(
    op: &Op,
    q: &[Dim],
    scale: &[Dim],
    [rows, columns]: [u64; 2],
) -> Result<Shape, String> {
    need_rank(op, q, if rows == 1 { 1 } else { 2 }, "operand")?;
    let mut wanted = in_blocks(q, columns)?;
    if rows != 1 {
        let n = q.len() - 2;
        wanted[n] = in_blocks(&q[n..=n], rows)?.remove(0);
    }
    if wanted == scale {
        Ok(q.to_vec())
    } else {
        Err(format!(
            "{} in blocks of [{rows}, {columns}] has scales {}, not {}",
            show(q),
            show(&wanted),
            show(scale)
        ))
    }
}

fn attention(op: &Op, operands: &[&[Dim]]) -> Result<Shape, String> {
    let past = Dim::from(crate::Sym::Past);
    let x = operands[0];
    match op {
        Op::Append => {
            let rows = operands[1];
            if rows.first() != Some(&crate::Sym::Tokens.into()) || rows[1..] != *x {
                return Err(format!("a cache of rows {} cannot take {}", show(x), show(rows)));
            }
            Ok([&[past], x].concat())
        }
        Op::CausalSoftmax => {
            need_rank_exactly(op, x, 3, "scores")?;
            Ok(x.to_vec())
        }
        Op::Scores | Op::Mix | Op::Attend { .. } => {
            let y = operands[1];
            need_rank_exactly(op, x, 3, "operand")?;
            need_rank_exactly(op, y, 3, "keys or values")?;
            share_heads(&x[1], &y[1])?;
            if matches!(op, Op::Mix) {
                same("keys weighed", x.last(), "values", y.first())?;
                return Ok(vec![x[0].clone(), x[1].clone(), y[2].clone()]);
            }
            same("elements of a query", x.last(), "elements of a key", y.last())?;
            if matches!(op, Op::Scores) {
                return Ok(vec![x[0].clone(), x[1].clone(), y[0].clone()]);
            }
            let v = operands[2];
            need_rank_exactly(op, v, 3, "values")?;
            share_heads(&x[1], &v[1])?;
            same("keys", y.first(), "values", v.first())?;
            Ok(vec![x[0].clone(), x[1].clone(), v[2].clone()])
        }
        _ => Err(format!("`{}` is not an operation of attention", op.name())),
    }
}

fn share_heads(heads: &Dim, shared: &Dim) -> Result<(), String> {
    match (heads.constant(), shared.constant()) {
        (Some(h), Some(s)) if s > 0 && h % s == 0 => Ok(()),
        _ => Err(format!("{heads} heads cannot share {shared} heads of keys or values evenly")),
    }
}

fn top_k(k: u64, groups: Option<&Groups>, scores: &[Dim]) -> Result<Shape, String> {
    let (rows, experts) = match scores {
        [rows, experts] => {
            (rows.clone(), experts.constant().ok_or("`top_k` needs a fixed number of scores")?)
        }
        _ => return Err(format!("`top_k` takes `[T, E]`, not {}", show(scores))),
    };
    let mut choice = experts;
    if let Some(g) = groups {
        if g.count == 0 || experts % g.count != 0 {
            return Err(format!("{experts} experts do not fall into {} equal groups", g.count));
        }
        if g.keep == 0 || g.keep > g.count {
            return Err(format!("{} of {} groups cannot be kept", g.keep, g.count));
        }
        if let super::GroupScore::SumOfTop(n) = g.by
            && (n == 0 || n > experts / g.count)
        {
            return Err(format!("a group of {} experts has no {n} best", experts / g.count));
        }
        choice = experts / g.count * g.keep;
    }
    if k == 0 || k > choice {
        return Err(format!("top {k} of {choice} experts"));
    }
    Ok(vec![rows, Dim::from(k)])
}

/// The shape of two operands repeated to fit each other (aligned at the last axis).
///
/// # Errors
/// One sentence with the two shapes.
pub fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Shape, String> {
    let rank = a.len().max(b.len());
    let size = |s: &[Dim], i: usize| {
        (i + s.len()).checked_sub(rank).map_or(Dim::from(1), |j| s[j].clone())
    };
    (0..rank)
        .map(|i| match (size(a, i), size(b, i)) {
            (x, y) if x == y || y.is_one() => Ok(x),
            (x, y) if x.is_one() => Ok(y),
            (x, y) => Err(format!("{x} and {y} do not fit: {} and {}", show(a), show(b))),
        })
        .collect()
}

fn need_rank(op: &Op, shape: &[Dim], rank: usize, what: &str) -> Result<(), String> {
    if shape.len() >= rank {
        Ok(())
    } else {
        Err(format!(
            "the {what} of `{}` needs {rank} axes or more; {} has {}",
            op.name(),
            show(shape),
            shape.len()
        ))
    }
}

fn need_rank_exactly(op: &Op, shape: &[Dim], rank: usize, what: &str) -> Result<(), String> {
    if shape.len() == rank {
        Ok(())
    } else {
        Err(format!(
            "the {what} of `{}` needs {rank} axes; {} has {}",
            op.name(),
            show(shape),
            shape.len()
        ))
    }
}

fn same(a: &str, x: Option<&Dim>, b: &str, y: Option<&Dim>) -> Result<(), String> {
    match (x, y) {
        (Some(x), Some(y)) if x == y => Ok(()),
        (Some(x), Some(y)) => Err(format!("{a}: {x}, but {b}: {y}")),
        _ => Err(format!("{a} and {b} must both be given")),
    }
}

fn no_axis(axis: usize, shape: &[Dim]) -> String {
    format!("{} has no axis {axis}", show(shape))
}

/// `[T, 128]`.
pub fn show(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}
