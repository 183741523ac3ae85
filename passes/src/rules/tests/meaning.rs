//! What kernels mean: definitions that share nothing with the rules.

use super::bounded::{Bounded, Fault, evaluate};
use super::evaluate::{CONTEXT, SIZES};
use crate::language::{Kernel, Router, Spread, Term};
use moec_ir::graph::eval::Tensor;
use moec_ir::graph::{BinaryFn, Op, ReduceFn, UnaryFn};
use moec_ir::kernel::{Scalar, Scoring};
use moec_ir::{Dim, Real, ScaleFormat};

type Result<T> = std::result::Result<T, Fault>;

fn dims(x: &Bounded) -> Vec<Dim> {
    x.value.shape.iter().map(|&n| Dim::from(n as u64)).collect()
}

fn number(c: Real) -> Bounded {
    Bounded::exact(Tensor { shape: vec![], data: vec![c.0] })
}

/// An operation whose result is shaped as its first operand.
fn as_first(op: &Op, x: &[&Bounded]) -> Result<Bounded> {
    evaluate(op, x, &dims(x[0]), CONTEXT)
}

/// The first result of a kernel, of that shape.
pub(super) fn first_result(kernel: &Kernel, x: &[&Bounded], shape: &[Dim]) -> Result<Bounded> {
    let op = |op: &Op, x: &[&Bounded]| evaluate(op, x, shape, CONTEXT);
    let add = |a: &Bounded, b: &Bounded| op(&Op::Binary(BinaryFn::Add), &[a, b]);
    let unscaled = |q: &Bounded, scale: &Bounded, block: [u64; 2]| {
        as_first(&Op::Dequantize { block }, &[q, scale])
    };
    match kernel {
        Kernel::Gemm => op(&Op::Linear, x),
        Kernel::GemmAdd => add(&op(&Op::Linear, &x[..2])?, x[2]),
        Kernel::HeadGemm => op(&Op::HeadLinear, x),
        Kernel::GroupedGemm { top_k } => {
            let chosen = chosen_of(x[2], x[1].value.shape[0], *top_k as usize)?;
            op(&Op::ExpertLinear, &[x[0], x[1], &chosen])
        }
        Kernel::Quantize { block, scales } => {
            op(&Op::Quantize { block: *block, scales: *scales }, x)
        }
        Kernel::RmsNormQuantize { block, scales, .. }
        | Kernel::PointwiseQuantize { block, scales, .. } => {
            let computed = before_quantising(kernel, x, shape)?;
            op(&Op::Quantize { block: *block, scales: *scales }, &[&computed])
        }
        Kernel::ScaledGemm { block }
        | Kernel::ScaledGemmAdd { block }
        | Kernel::ScaledGroupedGemm { block, .. } => {
            let at = kernel
                .scaled(x.len())
                .ok_or_else(|| Fault::Wrong("operands of a scaled product".into()))?;
            let a = match at.x_scale {
                Some(scale) => unscaled(x[0], x[scale], [1, block[1]])?,
                None => x[0].clone(),
            };
            let w = unscaled(x[at.w], x[at.w + 1], *block)?;
            match kernel {
                Kernel::ScaledGroupedGemm { top_k, .. } => {
                    let chosen = chosen_of(x[at.w + 2], w.value.shape[0], *top_k as usize)?;
                    op(&Op::ExpertLinear, &[&a, &w, &chosen])
                }
                Kernel::ScaledGemmAdd { .. } => add(&op(&Op::Linear, &[&a, &w])?, x[at.w + 2]),
                _ => op(&Op::Linear, &[&a, &w]),
            }
        }
        Kernel::RoutePlan { n_experts } => Ok(route(&x[0].value, *n_experts as usize)),
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
            let mut normed = as_first(&Op::RmsNorm { eps: *eps }, &[x[1], x[2]])?;
            if let Some((block, scales)) = *rounded {
                let q = as_first(&Op::Quantize { block, scales }, &[&normed])?;
                let scale = block_scales(&normed, block, scales)?;
                normed = unscaled(&q, &scale, [1, block])?;
            }
            let turned = as_first(&Op::Rotary(*rotary), &[x[3]])?;
            let mut row = dims(&normed);
            row[1] = row[1].clone() + dims(&turned)[1].clone();
            let row = evaluate(&Op::Concat { axis: 1 }, &[&normed, &turned], &row, CONTEXT)?;
            op(&Op::Append, &[x[0], &row])
        }
        Kernel::GatherPast => Ok(x[0].clone()),
        Kernel::Attention { parts, scale, .. } => {
            let part = |i: usize| op(&Op::Scores, &[x[i], x[parts + i]]);
            let mut scores = part(0)?;
            for i in 1..*parts {
                scores = as_first(&Op::Binary(BinaryFn::Add), &[&scores, &part(i)?])?;
            }
            let scores = as_first(&Op::Binary(BinaryFn::Mul), &[&scores, &number(*scale)])?;
            let weights = as_first(&Op::CausalSoftmax, &[&scores])?;
            op(&Op::Mix, &[&weights, x[2 * parts]])
        }
        Kernel::TopK { k, groups } => op(&Op::TopK { k: *k, groups: *groups }, x),
        Kernel::Router(router) => Ok(routed(router, x)?.0),
        Kernel::Pick => op(&Op::Pick, x),
        Kernel::Concat { axis } => op(&Op::Concat { axis: *axis }, x),
    }
}

/// The second or third result of a kernel whose first has the shape `whole`.
pub(super) fn later_result(
    term: &Term,
    kernel: &Kernel,
    x: &[&Bounded],
    [whole, shape]: [&[Dim]; 2],
) -> Result<Bounded> {
    match kernel {
        Kernel::RmsNormQuantize { block, scales, .. }
        | Kernel::PointwiseQuantize { block, scales, .. } => {
            let computed = before_quantising(kernel, x, whole)?;
            if *term == Term::Third {
                Ok(computed)
            } else {
                block_scales(&computed, *block, *scales)
            }
        }
        Kernel::AddRmsNorm { .. } => evaluate(&Op::Binary(BinaryFn::Add), &x[..2], shape, CONTEXT),
        Kernel::Quantize { block, scales } => block_scales(x[0], *block, *scales),
        Kernel::Router(router) => Ok(routed(router, x)?.1),
        other => Err(Fault::Wrong(format!("{other:?} has one result"))),
    }
}

fn before_quantising(kernel: &Kernel, x: &[&Bounded], shape: &[Dim]) -> Result<Bounded> {
    match kernel {
        Kernel::RmsNormQuantize { eps, .. } => {
            evaluate(&Op::RmsNorm { eps: *eps }, x, shape, CONTEXT)
        }
        Kernel::PointwiseQuantize { code, .. } => pointwise(code, x, shape),
        other => Err(Fault::Wrong(format!("{other:?} quantises nothing"))),
    }
}

fn block_scales(x: &Bounded, block: u64, scales: ScaleFormat) -> Result<Bounded> {
    let mut shape = x.value.shape.clone();
    let columns = shape.pop().unwrap_or(1);
    shape.push(columns.div_ceil(block as usize));
    let shape: Vec<Dim> = shape.into_iter().map(|n| Dim::from(n as u64)).collect();
    evaluate(&Op::BlockScale { block, scales }, &[x], &shape, CONTEXT)
}

/// What experts give that are spread over ranks, by the operations that it is made of.
fn experts(spread: &Spread, x: &[&Bounded], shape: &[Dim]) -> Result<Bounded> {
    let at = spread.places();
    let whole = |tensor: &Bounded, scale: Option<usize>, block: [u64; 2]| match scale {
        Some(scale) => as_first(&Op::Dequantize { block }, &[tensor, x[scale]]),
        None => Ok(tensor.clone()),
    };
    let [first, second] = spread.blocks.map(|block| block.unwrap_or([1, 1]));
    let rows = |width: u64| [shape[0].clone(), Dim::from(spread.top_k), Dim::from(width)];
    let product = |a: &Bounded, w: &Bounded, width: u64| {
        evaluate(&Op::ExpertLinear, &[a, w, x[at.chosen]], &rows(width), CONTEXT)
    };
    let sent = whole(x[0], at.x_scale, [1, first[1]])?;
    let hidden = product(&sent, &whole(x[at.w], at.w_scale, first)?, spread.hidden.0)?;
    let width = spread.middle.0;
    let pieces = spread.inputs.iter().map(|&start| {
        let slice = Op::Slice { axis: 2, start, len: width };
        evaluate(&slice, &[&hidden], &rows(width), CONTEXT)
    });
    let pieces = pieces.collect::<Result<Vec<Bounded>>>()?;
    let pieces: Vec<&Bounded> = pieces.iter().collect();
    let mut middle = pointwise(&spread.code, &pieces, &rows(width))?;
    if let Some((block, scales)) = spread.quantized {
        let q = as_first(&Op::Quantize { block, scales }, &[&middle])?;
        let s = block_scales(&middle, block, scales)?;
        middle = as_first(&Op::Dequantize { block: [1, block] }, &[&q, &s])?;
    }
    let result = product(&middle, &whole(x[at.v], at.v_scale, second)?, spread.result.0)?;
    let sum = evaluate(&Op::Combine, &[&result, x[at.weight]], shape, CONTEXT)?;
    let add = Op::Binary(BinaryFn::Add);
    x[at.adds..].iter().try_fold(sum, |sum, y| evaluate(&add, &[&sum, y], shape, CONTEXT))
}

/// Experts and weights, token by token.
fn routed(router: &Router, x: &[&Bounded]) -> Result<(Bounded, Bounded)> {
    let scoring = match router.scoring {
        Scoring::Sigmoid => Op::Unary(UnaryFn::Sigmoid),
        Scoring::Softmax => Op::Softmax,
    };
    let scores = as_first(&scoring, &x[..1])?;
    let keys = match x.get(1) {
        Some(bias) => as_first(&Op::Binary(BinaryFn::Add), &[&scores, bias])?,
        None => scores.clone(),
    };
    let shape = [dims(x[0])[0].clone(), Dim::from(router.k)];
    let top_k = Op::TopK { k: router.k, groups: router.groups };
    let chosen = evaluate(&top_k, &[&keys], &shape, CONTEXT)?;
    let mut weights = evaluate(&Op::Pick, &[&scores, &chosen], &shape, CONTEXT)?;
    if router.normalize {
        let one = [shape[0].clone(), Dim::from(1)];
        let sum = evaluate(&Op::Reduce(ReduceFn::Sum), &[&weights], &one, CONTEXT)?;
        weights = as_first(&Op::Binary(BinaryFn::Div), &[&weights, &sum])?;
    }
    let scale = number(router.scale);
    let weights = as_first(&Op::Binary(BinaryFn::Mul), &[&weights, &scale])?;
    Ok((chosen, weights))
}

/// Offsets of each expert's rows, then rows `t * k + j` by expert.
fn route(chosen: &Tensor, n_experts: usize) -> Bounded {
    let rows_of = |e: usize| (0..chosen.data.len()).filter(move |&r| chosen.data[r] == e as f64);
    let mut data = vec![0.0];
    for e in 0..n_experts {
        data.push(data[e] + rows_of(e).count() as f64);
    }
    data.extend((0..n_experts).flat_map(rows_of).map(|r| r as f64));
    Bounded::exact(Tensor { shape: vec![data.len()], data })
}

/// The experts chosen, read back from a route.
fn chosen_of(route: &Bounded, n_experts: usize, top_k: usize) -> Result<Bounded> {
    let route = &route.value.data;
    let rows = &route[n_experts + 1..];
    let mut chosen = vec![f64::NAN; rows.len()];
    for e in 0..n_experts {
        for row in &rows[route[e] as usize..route[e + 1] as usize] {
            chosen[*row as usize] = e as f64;
        }
    }
    let chosen = Tensor::new(vec![rows.len() / top_k, top_k], chosen).map_err(Fault::Wrong)?;
    Ok(Bounded::exact(chosen))
}

fn pointwise(code: &[Scalar], x: &[&Bounded], shape: &[Dim]) -> Result<Bounded> {
    let sizes: Vec<usize> = shape.iter().map(|d| d.eval(&SIZES) as usize).collect();
    let zeros = Tensor { data: vec![0.0; sizes.iter().product()], shape: sizes };
    let zeros = Bounded::exact(zeros);
    let op = |op: Op, x: &[&Bounded]| evaluate(&op, x, shape, CONTEXT);
    let spread = |x: &Bounded| op(Op::Binary(BinaryFn::Add), &[&zeros, x]);
    let mut steps: Vec<Bounded> = vec![];
    for step in code {
        let value = match *step {
            Scalar::Input(i) => spread(x[i])?,
            Scalar::Constant(c) => spread(&number(c))?,
            Scalar::Unary(f, a) => op(Op::Unary(f), &[&steps[a]])?,
            Scalar::Binary(f, a, b) => op(Op::Binary(f), &[&steps[a], &steps[b]])?,
        };
        steps.push(value);
    }
    steps.pop().ok_or_else(|| Fault::Wrong("the function is empty".into()))
}
