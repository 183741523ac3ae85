//! Every node of an e-graph as numbers, in float64, by the reference evaluator; kernels by
//! definitions that share nothing with the rules.

use crate::language::{EGraph, Kernel, Node, Router, Spread, Term};
use egg::Id;
use moec_ir::graph::eval::{Context, Tensor, eval_op};
use moec_ir::graph::{BinaryFn, Op, UnaryFn};
use moec_ir::kernel::{Scalar, Scoring};
use moec_ir::{Dim, Function, Sizes, TensorType};
use std::collections::BTreeMap;

/// Tokens remembered and tokens of the step.
const CONTEXT: Context = Context { past: 3, tokens: 4 };
const SIZES: Sizes = Sizes { tokens: 4, past: 7, sequences: 1 };
/// Of two equal values, computed in different orders in float64.
const TOLERANCE: f64 = 1e-9;

/// Computes every node and compares it with the other nodes of its class; returns how many were
/// compared.
pub(super) fn check_every_node(function: &Function, egraph: &EGraph) -> Result<usize, String> {
    let mut values: BTreeMap<Id, Tensor> = BTreeMap::new();
    let mut classes: Vec<_> = egraph.classes().collect();
    classes.sort_by_key(|c| c.id);
    loop {
        let before = values.len();
        for class in &classes {
            if values.contains_key(&class.id) {
                continue;
            }
            for node in &class.nodes {
                if let Some(value) = value(function, egraph, &values, node) {
                    values.insert(class.id, value.map_err(|e| format!("{node}: {e}"))?);
                    break;
                }
            }
        }
        if values.len() == before {
            break;
        }
    }
    let mut compared = 0;
    for class in &classes {
        for node in &class.nodes {
            let known = values.get(&class.id).ok_or_else(|| format!("{node} has no value"))?;
            let Some(own) = value(function, egraph, &values, node) else {
                return Err(format!("{node} cannot be computed"));
            };
            let own = own.map_err(|e| format!("{node}: {e}"))?;
            let differs = |(a, b): (&f64, &f64)| (a - b).abs() > TOLERANCE * (1.0 + a.abs());
            if own.shape != known.shape || own.data.iter().zip(&known.data).any(differs) {
                return Err(format!("c{}: {node} differs from {}", class.id, class.nodes[0]));
            }
            compared += 1;
        }
    }
    Ok(compared)
}

/// A node's value; `None` while an operand has none.
fn value(
    function: &Function,
    egraph: &EGraph,
    values: &BTreeMap<Id, Tensor>,
    node: &Node,
) -> Option<Result<Tensor, String>> {
    let of = |id: &Id| values.get(&egraph.find(*id));
    let operands: Vec<&Tensor> = node.children.iter().map(of).collect::<Option<_>>()?;
    let types: Vec<&TensorType> = node.children.iter().map(|c| &egraph[*c].data.ty).collect();
    let shape =
        &crate::language::node_type(node, &types, egraph.analysis.leaf(&node.term)).ok()?.shape;
    let number = |i: usize, salt: usize| random(shape, (salt * 7 + i) as u64);
    Some(match &node.term {
        Term::Math(Op::Input(i)) => Ok(match function.inputs[*i].dtype {
            moec_ir::DType::I32 => whole_numbers(shape),
            _ => number(*i, 1),
        }),
        Term::Math(Op::Param(i)) => Ok(number(*i, 2)),
        Term::Math(Op::Cache(i)) => {
            let past = [&[Dim::from(CONTEXT.past as u64)], shape.as_slice()].concat();
            Ok(random(&past, *i as u64 + 41))
        }
        Term::Math(op) => eval_op(op, &operands, shape, CONTEXT),
        Term::InCache | Term::First => Ok(operands[0].clone()),
        Term::Second { .. } | Term::Third => later_result(egraph, values, node, shape),
        Term::Kernel(kernel) => kernel_value(kernel, &operands, shape),
    })
}

/// The second result of the operand's kernel, the sum that a norm keeps or scales, or the third:
/// what was quantised.
fn later_result(
    egraph: &EGraph,
    values: &BTreeMap<Id, Tensor>,
    node: &Node,
    shape: &[Dim],
) -> Result<Tensor, String> {
    let both = &egraph[node.children[0]].nodes[0];
    let x: Vec<&Tensor> = both.children.iter().map(|c| &values[&egraph.find(*c)]).collect();
    let scales_of = |x: Result<Tensor, String>, block: u64, scales| {
        eval_op(&Op::BlockScale { block, scales }, &[&x?], shape, CONTEXT)
    };
    let whole = &egraph[node.children[0]].data.ty.shape;
    let is_third = node.term == Term::Third;
    match both.as_kernel() {
        Some(Kernel::RmsNormQuantize { eps, block, scales }) => {
            let normed = eval_op(&Op::RmsNorm { eps: *eps }, &x, whole, CONTEXT);
            if is_third { normed } else { scales_of(normed, *block, *scales) }
        }
        Some(Kernel::PointwiseQuantize { code, block, scales }) => {
            let computed = pointwise(code, &x, whole);
            if is_third { computed } else { scales_of(computed, *block, *scales) }
        }
        Some(Kernel::AddRmsNorm { .. }) => {
            eval_op(&Op::Binary(BinaryFn::Add), &x[..2], shape, CONTEXT)
        }
        Some(Kernel::Quantize { block, scales }) => {
            eval_op(&Op::BlockScale { block: *block, scales: *scales }, &x, shape, CONTEXT)
        }
        Some(Kernel::Router(router)) => Ok(routed(router, &x)?.1),
        other => Err(format!("{other:?} has one result")),
    }
}

fn kernel_value(kernel: &Kernel, x: &[&Tensor], shape: &[Dim]) -> Result<Tensor, String> {
    let op = |op: &Op, x: &[&Tensor]| eval_op(op, x, shape, CONTEXT);
    let add = |a: &Tensor, b: &Tensor| op(&Op::Binary(BinaryFn::Add), &[a, b]);
    match kernel {
        Kernel::Gemm => op(&Op::Linear, x),
        Kernel::GemmAdd => add(&op(&Op::Linear, &x[..2])?, x[2]),
        Kernel::HeadGemm => op(&Op::HeadLinear, x),
        Kernel::GroupedGemm { top_k } => {
            let chosen = chosen_of(x[2], x[1].shape[0], *top_k as usize)?;
            op(&Op::ExpertLinear, &[x[0], x[1], &chosen])
        }
        Kernel::Quantize { block, scales } => {
            op(&Op::Quantize { block: *block, scales: *scales }, x)
        }
        Kernel::RmsNormQuantize { eps, block, scales } => {
            let normed = op(&Op::RmsNorm { eps: *eps }, x)?;
            op(&Op::Quantize { block: *block, scales: *scales }, &[&normed])
        }
        Kernel::PointwiseQuantize { code, block, scales } => {
            let computed = pointwise(code, x, shape)?;
            op(&Op::Quantize { block: *block, scales: *scales }, &[&computed])
        }
        Kernel::ScaledGemm { block }
        | Kernel::ScaledGemmAdd { block }
        | Kernel::ScaledGroupedGemm { block, .. } => {
            let at = kernel.scaled(x.len()).ok_or("operands of a scaled product")?;
            let a = match at.x_scale {
                Some(scale) => unscaled(x[0], x[scale], [1, block[1]]),
                None => x[0].clone(),
            };
            let w = unscaled(x[at.w], x[at.w + 1], *block);
            match kernel {
                Kernel::ScaledGroupedGemm { top_k, .. } => {
                    let chosen = chosen_of(x[at.w + 2], w.shape[0], *top_k as usize)?;
                    op(&Op::ExpertLinear, &[&a, &w, &chosen])
                }
                Kernel::ScaledGemmAdd { .. } => add(&op(&Op::Linear, &[&a, &w])?, x[at.w + 2]),
                _ => op(&Op::Linear, &[&a, &w]),
            }
        }
        Kernel::RoutePlan { n_experts } => Ok(route(x[0], *n_experts as usize)),
        Kernel::Combine => {
            x[2..].iter().try_fold(op(&Op::Combine, &x[..2])?, |sum, y| add(&sum, y))
        }
        Kernel::SpreadExperts(spread) => experts(spread, x, shape),
        Kernel::RmsNorm { eps } => op(&Op::RmsNorm { eps: *eps }, x),
        Kernel::AddRmsNorm { eps, .. } => {
            op(&Op::RmsNorm { eps: *eps }, &[&add(x[0], x[1])?, x[2]])
        }
        Kernel::Pointwise(code) => pointwise(code, x, shape),
        Kernel::Reduce(f) => op(&Op::Reduce(*f), x),
        Kernel::Softmax => op(&Op::Softmax, x),
        Kernel::Rotary(r) => op(&Op::Rotary(*r), x),
        Kernel::Gather => op(&Op::Lookup, x),
        Kernel::Scatter => op(&Op::Append, x),
        Kernel::AppendLatent { eps, rotary, rounded } => {
            let dims = |x: &[usize]| x.iter().map(|&n| Dim::from(n as u64)).collect::<Vec<_>>();
            let as_first = |op: &Op, x: &[&Tensor]| eval_op(op, x, &dims(&x[0].shape), CONTEXT);
            let mut normed = as_first(&Op::RmsNorm { eps: *eps }, &[x[1], x[2]])?;
            if let Some((block, scales)) = *rounded {
                let [rows, n] = [normed.shape[0], normed.shape[1]];
                let q = as_first(&Op::Quantize { block, scales }, &[&normed])?;
                let scale = Op::BlockScale { block, scales };
                let of_blocks = dims(&[rows, n.div_ceil(block as usize)]);
                let scale = eval_op(&scale, &[&normed], &of_blocks, CONTEXT)?;
                normed = as_first(&Op::Dequantize { block: [1, block] }, &[&q, &scale])?;
            }
            let turned = as_first(&Op::Rotary(*rotary), &[x[3]])?;
            let row = dims(&[x[1].shape[0], x[1].shape[1] + x[3].shape[1]]);
            let row = eval_op(&Op::Concat { axis: 1 }, &[&normed, &turned], &row, CONTEXT)?;
            op(&Op::Append, &[x[0], &row])
        }
        Kernel::GatherPast => Ok(x[0].clone()),
        Kernel::Attention { parts, scale, .. } => {
            let part = |i: usize| eval_op(&Op::Scores, &[x[i], x[parts + i]], shape, CONTEXT);
            let mut scores = part(0)?;
            for i in 1..*parts {
                let other = part(i)?;
                scores.data.iter_mut().zip(other.data).for_each(|(a, b)| *a += b);
            }
            scores.data.iter_mut().for_each(|s| *s *= scale.0);
            let weights = eval_op(&Op::CausalSoftmax, &[&scores], shape, CONTEXT)?;
            eval_op(&Op::Mix, &[&weights, x[2 * parts]], shape, CONTEXT)
        }
        Kernel::TopK { k, groups } => op(&Op::TopK { k: *k, groups: *groups }, x),
        Kernel::Router(router) => Ok(routed(router, x)?.0),
        Kernel::Pick => op(&Op::Pick, x),
        Kernel::Concat { axis } => op(&Op::Concat { axis: *axis }, x),
    }
}

/// What experts give that are spread over ranks, by the operations that it is made of.
fn experts(spread: &Spread, x: &[&Tensor], shape: &[Dim]) -> Result<Tensor, String> {
    let at = spread.places();
    let whole = |tensor: &Tensor, scale: Option<usize>, block: [u64; 2]| match scale {
        Some(scale) => unscaled(tensor, x[scale], block),
        None => tensor.clone(),
    };
    let [first, second] = spread.blocks.map(|block| block.unwrap_or([1, 1]));
    let rows = |width: u64| [shape[0].clone(), Dim::from(spread.top_k), Dim::from(width)];
    let product = |a: &Tensor, w: &Tensor, width: u64| {
        eval_op(&Op::ExpertLinear, &[a, w, x[at.chosen]], &rows(width), CONTEXT)
    };
    let sent = whole(x[0], at.x_scale, [1, first[1]]);
    let hidden = product(&sent, &whole(x[at.w], at.w_scale, first), spread.hidden.0)?;
    let width = spread.middle.0;
    let pieces = spread.inputs.iter().map(|&start| {
        let slice = Op::Slice { axis: 2, start, len: width };
        eval_op(&slice, &[&hidden], &rows(width), CONTEXT)
    });
    let pieces = pieces.collect::<Result<Vec<Tensor>, String>>()?;
    let pieces: Vec<&Tensor> = pieces.iter().collect();
    let mut middle = pointwise(&spread.code, &pieces, &rows(width))?;
    if let Some((block, scales)) = spread.quantized {
        let q = eval_op(&Op::Quantize { block, scales }, &[&middle], &rows(width), CONTEXT)?;
        let blocks = rows(width.div_ceil(block));
        let s = eval_op(&Op::BlockScale { block, scales }, &[&middle], &blocks, CONTEXT)?;
        middle = unscaled(&q, &s, [1, block]);
    }
    let result = product(&middle, &whole(x[at.v], at.v_scale, second), spread.result.0)?;
    let sum = eval_op(&Op::Combine, &[&result, x[at.weight]], shape, CONTEXT)?;
    let add = Op::Binary(BinaryFn::Add);
    x[at.adds..].iter().try_fold(sum, |sum, y| eval_op(&add, &[&sum, y], shape, CONTEXT))
}

/// Experts and weights, token by token.
fn routed(router: &Router, x: &[&Tensor]) -> Result<(Tensor, Tensor), String> {
    let dims = |t: &Tensor| t.shape.iter().map(|&n| Dim::from(n as u64)).collect::<Vec<_>>();
    let scoring = match router.scoring {
        Scoring::Sigmoid => Op::Unary(UnaryFn::Sigmoid),
        Scoring::Softmax => Op::Softmax,
    };
    let scores = eval_op(&scoring, &x[..1], &dims(x[0]), CONTEXT)?;
    let mut keys = scores.clone();
    let n = x[0].shape[1];
    if let Some(bias) = x.get(1) {
        keys.data.iter_mut().enumerate().for_each(|(at, key)| *key += bias.data[at % n]);
    }
    let k = router.k as usize;
    let shape = [Dim::from(x[0].shape[0] as u64), Dim::from(router.k)];
    let top_k = Op::TopK { k: router.k, groups: router.groups };
    let chosen = eval_op(&top_k, &[&keys], &shape, CONTEXT)?;
    let mut weights = chosen.clone();
    for (t, row) in weights.data.chunks_mut(k).enumerate() {
        row.iter_mut().for_each(|w| *w = scores.data[t * n + *w as usize]);
        let sum = if router.normalize { row.iter().sum() } else { 1.0 };
        row.iter_mut().for_each(|w| *w = *w / sum * router.scale.0);
    }
    Ok((chosen, weights))
}

/// Each element times the scale of its block of rows and columns.
fn unscaled(q: &Tensor, scale: &Tensor, [rows, columns]: [u64; 2]) -> Tensor {
    let rank = q.shape.len();
    let [n, k] = [q.shape[rank - 2], q.shape[rank - 1]];
    let [down, across] = [n.div_ceil(rows as usize), k.div_ceil(columns as usize)];
    let value = |(at, v): (usize, &f64)| {
        let (matrix, row, column) = (at / (n * k), at / k % n, at % k);
        let block = (matrix * down + row / rows as usize) * across + column / columns as usize;
        v * scale.data[block]
    };
    Tensor { shape: q.shape.clone(), data: q.data.iter().enumerate().map(value).collect() }
}

/// Offsets of each expert's rows, then rows `t * k + j` by expert.
fn route(chosen: &Tensor, n_experts: usize) -> Tensor {
    let rows_of = |e: usize| (0..chosen.data.len()).filter(move |&r| chosen.data[r] == e as f64);
    let mut data = vec![0.0];
    for e in 0..n_experts {
        data.push(data[e] + rows_of(e).count() as f64);
    }
    data.extend((0..n_experts).flat_map(rows_of).map(|r| r as f64));
    Tensor { shape: vec![data.len()], data }
}

/// The experts chosen, read back from a route.
fn chosen_of(route: &Tensor, n_experts: usize, top_k: usize) -> Result<Tensor, String> {
    let rows = &route.data[n_experts + 1..];
    let mut chosen = vec![f64::NAN; rows.len()];
    for e in 0..n_experts {
        for row in &rows[route.data[e] as usize..route.data[e + 1] as usize] {
            chosen[*row as usize] = e as f64;
        }
    }
    Tensor::new(vec![rows.len() / top_k, top_k], chosen)
}

fn pointwise(code: &[Scalar], x: &[&Tensor], shape: &[Dim]) -> Result<Tensor, String> {
    let sizes: Vec<usize> = shape.iter().map(|d| d.eval(&SIZES) as usize).collect();
    let zeros = Tensor { data: vec![0.0; sizes.iter().product()], shape: sizes };
    let op = |op: Op, x: &[&Tensor]| eval_op(&op, x, shape, CONTEXT);
    let spread = |t: &Tensor| op(Op::Binary(BinaryFn::Add), &[&zeros, t]);
    let mut steps: Vec<Tensor> = vec![];
    for step in code {
        let value = match *step {
            Scalar::Input(i) => spread(x[i])?,
            Scalar::Constant(c) => spread(&Tensor { shape: vec![], data: vec![c.0] })?,
            Scalar::Unary(f, a) => op(Op::Unary(f), &[&steps[a]])?,
            Scalar::Binary(f, a, b) => op(Op::Binary(f), &[&steps[a], &steps[b]])?,
        };
        steps.push(value);
    }
    steps.pop().ok_or_else(|| "the function is empty".into())
}

/// Numbers between -1 and 1 that differ by their salt (a linear congruential generator, Knuth's
/// MMIX constants).
fn random(shape: &[Dim], salt: u64) -> Tensor {
    let shape: Vec<usize> = shape.iter().map(|d| d.eval(&SIZES) as usize).collect();
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let data = (0..shape.iter().product::<usize>()).map(|_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    });
    Tensor { data: data.collect(), shape }
}

/// Small indices that differ within each row of up to three.
fn whole_numbers(shape: &[Dim]) -> Tensor {
    let shape: Vec<usize> = shape.iter().map(|d| d.eval(&SIZES) as usize).collect();
    let data = (0..shape.iter().product::<usize>()).map(|i| ((i * 2 + i / 3) % 3) as f64);
    Tensor { data: data.collect(), shape }
}
