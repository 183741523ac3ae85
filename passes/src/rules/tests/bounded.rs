//! Numbers and how far they can be from what they stand for.
//!
//! A running error analysis (Higham, "Accuracy and Stability of Numerical Algorithms", 3.3): each
//! element has a bound on its distance from the exact value, and every operation turns the bounds
//! of its operands into those of its result. Two ways to compute one value, each in float64, may
//! then differ by the sum of their bounds and by no more.

use moec_ir::graph::eval::{Context, Tensor, eval_op};
use moec_ir::graph::{BinaryFn, ReduceFn, UnaryFn};
use moec_ir::{Dim, Op, Real, ScaleFormat, e4m3};

/// Half the distance from 1 to the next float64.
const ROUNDING: f64 = f64::EPSILON / 2.0;
/// Roundings of a function of one number: what `libm` implementations stay below, and the
/// composition of three in `silu`.
const OF_A_FUNCTION: f64 = 8.0;

/// A tensor and a bound on the error of each element.
#[derive(Clone, Debug)]
pub(super) struct Bounded {
    pub(super) value: Tensor,
    pub(super) error: Tensor,
}

/// An operation on numbers alone.
type Plain<'a> = dyn Fn(&Op, &[&Tensor]) -> Result<Tensor, Fault> + 'a;

/// Why an operation has no bounded value.
#[derive(Debug)]
pub(super) enum Fault {
    /// It has no value.
    Wrong(String),
    /// Errors could have changed a choice between two numbers.
    Undecided,
}

impl Bounded {
    /// Without any error.
    pub(super) fn exact(value: Tensor) -> Self {
        let error = Tensor { shape: value.shape.clone(), data: vec![0.0; value.data.len()] };
        Self { value, error }
    }

    /// Adds to each element's bound.
    fn and(mut self, more: impl Fn(usize, f64) -> f64) -> Self {
        for (at, (value, error)) in self.value.data.iter().zip(&mut self.error.data).enumerate() {
            *error += more(at, *value);
        }
        self
    }

    fn last(&self) -> usize {
        self.value.last().max(1)
    }

    /// The greatest bound and the greatest magnitude of the row that an element lies in.
    fn row_maxima(&self, at: usize) -> [f64; 2] {
        let row = at / self.last() * self.last()..(at / self.last() + 1) * self.last();
        let most = |of: &Tensor| of.data[row.clone()].iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        [most(&self.error), most(&self.value)]
    }
}

/// An operation on bounded values; `shape` is that of its result.
pub(super) fn evaluate(
    op: &Op,
    x: &[&Bounded],
    shape: &[Dim],
    context: Context,
) -> Result<Bounded, Fault> {
    let plain = |op: &Op, x: &[&Tensor]| eval_op(op, x, shape, context).map_err(Fault::Wrong);
    let values: Vec<&Tensor> = x.iter().map(|x| &x.value).collect();
    if let Op::Attend { scale } = op {
        return attend(*scale, x, shape, context);
    }
    let value = plain(op, &values)?;
    if value.data.iter().any(|v| !v.is_finite()) {
        return Err(Fault::Wrong(format!("`{}` is not finite", op.name())));
    }
    let result = |error: Tensor| Bounded { value: value.clone(), error };
    // Sums have at most as many terms as some axis is long.
    let terms = x.iter().flat_map(|x| &x.value.shape).max().copied().unwrap_or(1) as f64 + 4.0;
    Ok(match op {
        Op::Constant(_) => Bounded::exact(value),
        Op::Linear
        | Op::HeadLinear
        | Op::ExpertLinear
        | Op::Combine
        | Op::Scores
        | Op::Mix
        | Op::Dequantize { .. }
        | Op::Binary(BinaryFn::Mul) => {
            // |a b - (a + δa)(b + δb)| <= |a| eb + ea |b| + ea eb, and the rounding of the sum.
            let rest = &values[2..];
            let of = |a: &Tensor, b: &Tensor| plain(op, &[&[a, b], rest].concat());
            let (a, b) = (abs(values[0]), abs(values[1]));
            let mut error = of(&a, &x[1].error)?;
            for part in [of(&x[0].error, &b)?, of(&x[0].error, &x[1].error)?] {
                error.data.iter_mut().zip(part.data).for_each(|(e, p)| *e += p);
            }
            let rounded = of(&a, &b)?;
            result(error).and(|at, _| terms * ROUNDING * rounded.data[at])
        }
        Op::Reshape(_)
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Transpose(_)
        | Op::Broadcast(_)
        | Op::Append => {
            let errors: Vec<&Tensor> = x.iter().map(|x| &x.error).collect();
            result(plain(op, &errors)?)
        }
        Op::Lookup | Op::Pick | Op::Dispatch | Op::Collect => {
            result(plain(op, &[&x[0].error, values[1]])?)
        }
        Op::Unary(f) => unary(*f, x[0], value.clone(), shape, context)?,
        Op::Binary(f) => binary(*f, x, &result, &plain)?,
        Op::Reduce(ReduceFn::Max) => Bounded::exact(value.clone()).and(|at, _| {
            let n = x[0].last();
            x[0].row_maxima(at * n)[0]
        }),
        Op::Reduce(_) => {
            let sums = plain(op, &[&abs(values[0])])?;
            result(plain(op, &[&x[0].error])?).and(|at, _| terms * ROUNDING * sums.data[at])
        }
        Op::Softmax | Op::CausalSoftmax => {
            // Each power's relative error is that of its exponent and of the function.
            Bounded::exact(value.clone()).and(|at, p| {
                let [error, most] = x[0].row_maxima(at);
                let functions = (terms + OF_A_FUNCTION + 2.0 * most) * ROUNDING;
                p * (2.0 * error + functions).exp_m1()
            })
        }
        Op::RmsNorm { eps } => norm(*eps, x, value.clone(), terms),
        Op::Rotary(r) => Bounded::exact(value.clone()).and(|at, _| {
            let [error, most] = x[0].row_maxima(at);
            r.amplitude.0.abs() * 2.0 * (error + OF_A_FUNCTION * ROUNDING * most)
        }),
        Op::BlockScale { .. } => {
            let ends = |sign| scales(op, x[0], shape, context, sign);
            let (low, high) = (ends(-1.0)?, ends(1.0)?);
            let rounded = Bounded::exact(value.clone()).and(|at, s| {
                (s - low.data[at]).max(high.data[at] - s) + ROUNDING * OF_A_FUNCTION * s
            });
            // Which power of two is above is a choice.
            let moved = rounded.value.data.iter().zip(&rounded.error.data);
            if moved.into_iter().any(|(s, e)| *e > s / 4.0) {
                return Err(Fault::Undecided);
            }
            rounded
        }
        Op::Quantize { block, scales } => quantize(*block, *scales, x[0], value.clone(), context)?,
        Op::TopK { .. } => {
            decided(x[0])?;
            Bounded::exact(value)
        }
        Op::Input(_) | Op::Param(_) | Op::Cache(_) | Op::Attend { .. } => {
            return Err(Fault::Wrong(format!("`{}` is no operation on operands", op.name())));
        }
    })
}

fn abs(x: &Tensor) -> Tensor {
    Tensor { shape: x.shape.clone(), data: x.data.iter().map(|v| v.abs()).collect() }
}

/// A monotone function errs at most as far as its values at both ends of the interval.
fn unary(
    f: UnaryFn,
    x: &Bounded,
    value: Tensor,
    shape: &[Dim],
    context: Context,
) -> Result<Bounded, Fault> {
    let moved = |sign: f64| -> Result<Tensor, Fault> {
        let mut at = x.value.clone();
        at.data.iter_mut().zip(&x.error.data).for_each(|(v, e)| *v += sign * e);
        eval_op(&Op::Unary(f), &[&at], shape, context).map_err(Fault::Wrong)
    };
    let (below, above) = (moved(-1.0)?, moved(1.0)?);
    if f == UnaryFn::Sign && below.data != above.data {
        return Err(Fault::Undecided);
    }
    Ok(Bounded::exact(value).and(|at, v| {
        let ends = (below.data[at] - v).abs().max((above.data[at] - v).abs());
        // The greatest slope of x / (1 + e^-x) is below 1.1.
        let ends = if f == UnaryFn::Silu { 1.1 * x.error.data[at] } else { ends };
        let exact = matches!(
            f,
            UnaryFn::Identity | UnaryFn::Neg | UnaryFn::Relu | UnaryFn::Abs | UnaryFn::Sign
        );
        ends + if exact { 0.0 } else { OF_A_FUNCTION * ROUNDING * v.abs() }
    }))
}

fn binary(
    f: BinaryFn,
    x: &[&Bounded],
    result: &dyn Fn(Tensor) -> Bounded,
    plain: &Plain<'_>,
) -> Result<Bounded, Fault> {
    let sum = |a: &Tensor, b: &Tensor| plain(&Op::Binary(BinaryFn::Add), &[a, b]);
    let errors = sum(&x[0].error, &x[1].error)?;
    if f != BinaryFn::Div {
        let rounds = matches!(f, BinaryFn::Add | BinaryFn::Sub);
        return Ok(result(errors).and(|_, v| if rounds { ROUNDING * v.abs() } else { 0.0 }));
    }
    // |a / b - (a + δa) / (b + δb)| <= (ea + |a / b| eb) / (|b| - eb)
    let zeros = Tensor { data: vec![0.0; errors.data.len()], shape: errors.shape };
    let (ea, eb) = (sum(&zeros, &x[0].error)?, sum(&zeros, &x[1].error)?);
    let b = sum(&zeros, &abs(&x[1].value))?;
    if b.data.iter().zip(&eb.data).any(|(b, e)| b <= e) {
        return Err(Fault::Undecided);
    }
    Ok(result(zeros).and(|at, v| {
        let moved = ea.data[at] + v.abs() * eb.data[at];
        moved / (b.data[at] - eb.data[at]) + ROUNDING * v.abs()
    }))
}

fn norm(eps: Real, x: &[&Bounded], value: Tensor, terms: f64) -> Bounded {
    let n = x[0].last();
    Bounded::exact(value).and(|at, y| {
        let row = at / n * n..(at / n + 1) * n;
        let (v, e) = (&x[0].value.data[row.clone()], &x[0].error.data[row]);
        let mean = |of: &dyn Fn(usize) -> f64| (0..n).map(of).sum::<f64>() / n as f64;
        let squares = mean(&|i| v[i] * v[i]) + eps.0;
        let moved = mean(&|i| 2.0 * v[i].abs() * e[i] + e[i] * e[i]) + terms * ROUNDING * squares;
        let scale = squares.sqrt().recip();
        // The derivative of z^-1/2 is -z^-3/2 / 2.
        let of_scale = 0.51 * scale.powi(3) * moved;
        let (i, weight) = (at % n, x[1].value.data[at % n].abs());
        let of_weight = x[1].error.data[at % n];
        weight * (scale * e[i] + v[i].abs() * of_scale)
            + v[i].abs() * scale * of_weight
            + OF_A_FUNCTION * ROUNDING * y.abs()
    })
}

/// The scales of blocks whose elements are all as great, or as small, as their bounds let them.
fn scales(
    op: &Op,
    x: &Bounded,
    shape: &[Dim],
    context: Context,
    sign: f64,
) -> Result<Tensor, Fault> {
    let mut end = abs(&x.value);
    end.data.iter_mut().zip(&x.error.data).for_each(|(v, e)| *v = (*v + sign * e).max(0.0));
    eval_op(op, &[&end], shape, context).map_err(Fault::Wrong)
}

/// Both ends of the interval of each quotient are rounded to the same number, or a choice is open.
fn quantize(
    block: u64,
    format: ScaleFormat,
    x: &Bounded,
    value: Tensor,
    context: Context,
) -> Result<Bounded, Fault> {
    let (n, block_size) = (x.last(), block as usize);
    let blocks = n.div_ceil(block_size);
    let mut shape: Vec<Dim> = x.value.shape.iter().map(|&n| Dim::from(n as u64)).collect();
    shape.pop();
    shape.push(Dim::from(blocks as u64));
    let op = Op::BlockScale { block, scales: format };
    let of_scales = evaluate(&op, &[x], &shape, context)?;
    let open = value.data.iter().enumerate().any(|(at, q)| {
        let block = at / n * blocks + at % n / block_size;
        let (v, e) = (x.value.data[at], x.error.data[at]);
        let (s, s_error) = (of_scales.value.data[block], of_scales.error.data[block]);
        let mut ends =
            [v - e, v + e].into_iter().flat_map(|v| [v / (s - s_error), v / (s + s_error)]);
        ends.any(|end| e4m3::round(end) != *q)
    });
    if open { Err(Fault::Undecided) } else { Ok(Bounded::exact(value)) }
}

/// Scores of one row, and sums of as many of them as a group has, that their errors could put in
/// another order leave a choice open.
fn decided(x: &Bounded) -> Result<(), Fault> {
    let n = x.last();
    for (at, row) in x.value.data.chunks(n).enumerate() {
        let error = x.row_maxima(at * n)[0];
        let mut sorted = row.to_vec();
        sorted.sort_by(f64::total_cmp);
        let near = sorted.windows(2).any(|pair| pair[1] - pair[0] <= 2.0 * error * n as f64);
        if near && error > 0.0 {
            return Err(Fault::Undecided);
        }
    }
    Ok(())
}

fn attend(scale: Real, x: &[&Bounded], shape: &[Dim], context: Context) -> Result<Bounded, Fault> {
    let scores = evaluate(&Op::Scores, &x[..2], shape, context)?;
    let own: Vec<Dim> = scores.value.shape.iter().map(|&n| Dim::from(n as u64)).collect();
    let factor = Bounded::exact(Tensor { shape: vec![], data: vec![scale.0] });
    let scaled = evaluate(&Op::Binary(BinaryFn::Mul), &[&scores, &factor], &own, context)?;
    let weights = evaluate(&Op::CausalSoftmax, &[&scaled], &own, context)?;
    evaluate(&Op::Mix, &[&weights, x[2]], shape, context)
}

/// Whether two values of one type agree within their bounds.
pub(super) fn agree(a: &Bounded, b: &Bounded) -> bool {
    let pairs = a.value.data.iter().zip(&b.value.data);
    let bounds = a.error.data.iter().zip(&b.error.data);
    a.value.shape == b.value.shape
        && pairs.zip(bounds).all(|((a, b), (ea, eb))| (a - b).abs() <= ea + eb)
}
