//! A function of each element of broadcast inputs: activations, residuals, copies, casts.

use super::elements::Grid;
use super::{Design, Step};
use crate::builder::{Builder, F32};
use crate::tensor::{Tensor, vector_width};
use moec_ir::graph::{BinaryFn, UnaryFn};
use moec_ir::kernel::{Scalar, View};
use moec_ir::plan::Geometry;
use moec_ir::{DType, Dim};

struct Pointwise {
    inputs: Vec<View>,
    out: View,
    code: Vec<Scalar>,
    grid: Grid,
    width: u64,
}

pub(super) fn design(inputs: &[View], out: &View, code: &[Scalar], step: Step) -> Box<dyn Design> {
    let mut views: Vec<View> = inputs.iter().chain([out]).cloned().collect();
    if copies_integers(&views, code) {
        views.iter_mut().for_each(|v| v.dtype = DType::F32);
    }
    merge_axes(&mut views);
    let out = views.pop().unwrap_or_else(|| out.clone());
    let width = vector_width(&out).min(8);
    let grid = Grid::new(&out.shape, width, step.sizes);
    Box::new(Pointwise { inputs: views, out, code: code.to_vec(), grid, width })
}

/// Whether integers are only moved: then their bits are, since float32 holds 24 of them.
fn copies_integers(views: &[View], code: &[Scalar]) -> bool {
    let moves = |c: &Scalar| matches!(c, Scalar::Input(_) | Scalar::Unary(UnaryFn::Identity, _));
    views.iter().all(|v| v.dtype == DType::I32) && code.iter().all(moves)
}

/// Drops axes of size 1 and joins neighbours that lie, in every operand, like one axis. Inputs
/// get the output's shape, with stride 0 where they repeat.
fn merge_axes(views: &mut [View]) {
    let Some(shape) = views.last().map(|v| v.shape.clone()) else { return };
    for view in views.iter_mut() {
        for axis in 0..shape.len() {
            if view.shape[axis].is_one() {
                view.strides[axis] = 0;
            }
        }
        view.shape.clone_from(&shape);
    }
    for axis in (0..shape.len()).rev() {
        let size = &views[0].shape[axis];
        if views[0].shape.len() > 1 && size.is_one() {
            remove_axis(views, axis);
        }
    }
    for axis in (1..views[0].shape.len()).rev() {
        let Some(size) = views[0].shape[axis].constant() else { continue };
        if views.iter().all(|v| v.strides[axis - 1] == v.strides[axis] * size) {
            for view in views.iter_mut() {
                view.strides[axis - 1] = view.strides[axis];
                view.shape[axis - 1] = view.shape[axis - 1].clone() * Dim::from(size);
            }
            remove_axis(views, axis);
        }
    }
}

fn remove_axis(views: &mut [View], axis: usize) {
    for view in views {
        view.shape.remove(axis);
        view.strides.remove(axis);
    }
}

impl Design for Pointwise {
    fn geometry(&self) -> Geometry {
        self.grid.geometry()
    }

    fn operands(&self) -> usize {
        self.inputs.len() + 1
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        self.grid.each(b, |index| {
            let inputs: Vec<Vec<F32<'k>>> = (self.inputs.iter().enumerate())
                .map(|(i, view)| Tensor::operand(b, i, view).load(index, self.width))
                .collect();
            let element = |i: usize| {
                let operands: Vec<_> = inputs.iter().map(|v| v[i]).collect();
                evaluate(b, &self.code, &operands)
            };
            let values: Vec<_> = (0..self.width as usize).map(element).collect();
            let out = Tensor::operand(b, self.inputs.len(), &self.out);
            out.store(index, &values);
        });
    }
}

/// The function's value for one element of each input.
pub(super) fn evaluate<'k>(b: &'k Builder<'k>, code: &[Scalar], inputs: &[F32<'k>]) -> F32<'k> {
    let mut steps: Vec<F32<'k>> = Vec::with_capacity(code.len());
    for scalar in code {
        let value = match *scalar {
            Scalar::Input(i) => inputs[i],
            Scalar::Constant(c) => b.f32(c.0 as f32),
            Scalar::Unary(f, x) => unary(f, steps[x]),
            Scalar::Binary(f, x, y) => binary(f, steps[x], steps[y]),
        };
        steps.push(value);
    }
    steps.pop().unwrap_or_else(|| b.f32(0.0))
}

fn unary(f: UnaryFn, x: F32<'_>) -> F32<'_> {
    match f {
        UnaryFn::Identity => x,
        UnaryFn::Neg => x.neg(),
        UnaryFn::Exp => x.exp(),
        UnaryFn::Log => x.ln(),
        UnaryFn::Sigmoid => x.sigmoid(),
        UnaryFn::Silu => x * x.sigmoid(),
        UnaryFn::Tanh => x.tanh(),
        UnaryFn::Sqrt => x.sqrt(),
        UnaryFn::Rsqrt => x.rsqrt_approx(),
        UnaryFn::Relu => x.relu(),
        UnaryFn::Sign => x.sign(),
        UnaryFn::Abs => x.abs(),
    }
}

fn binary<'k>(f: BinaryFn, x: F32<'k>, y: F32<'k>) -> F32<'k> {
    match f {
        BinaryFn::Add => x + y,
        BinaryFn::Sub => x - y,
        BinaryFn::Mul => x * y,
        BinaryFn::Div => x / y,
        BinaryFn::Max => x.max(y),
        BinaryFn::Min => x.min(y),
    }
}
