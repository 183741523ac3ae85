//! RMSNorm with its result in FP8: the norm's rows, divided among groups of lanes that each take
//! whole blocks.

use super::blocks::{Block, Blocks, HELD, Values};
use super::quantize::{Quantized, Results, To};
use super::rms_norm::add_and_keep;
use super::rows::{Row, Team};
use super::{Design, Step};
use crate::builder::{Builder, F32, I32};
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;
use moec_ir::{Dim, Real};

/// What is normed.
pub(super) struct Normed<'s> {
    pub(super) x: &'s View,
    pub(super) residual: Option<&'s (View, View)>,
    pub(super) weight: &'s View,
    pub(super) eps: Real,
}

struct RmsNormQuantize {
    x: View,
    residual: Option<(View, View)>,
    weight: View,
    eps: Real,
    to: Results,
    blocks: Blocks,
    team: Team,
    /// `[R, H, N]`
    shape: Vec<Dim>,
    /// Blocks of a row.
    per_row: Dim,
}

pub(super) fn design(normed: Normed<'_>, to: To<'_>, step: Step) -> Box<dyn Design> {
    let Normed { x, residual, weight, eps } = normed;
    let kept = residual.into_iter().flat_map(|(r, s)| [r, s]);
    let views = [x, weight, to.q].into_iter().chain(to.out).chain(kept);
    let blocks = to.blocks(views.map(vector_width).min().unwrap_or(1), step);
    let shape = &to.q.shape;
    let team = Team::new(Dim::product(&shape[..2]), &shape[2], blocks.width(), step.sizes);
    Box::new(RmsNormQuantize {
        x: x.clone(),
        residual: residual.cloned(),
        weight: weight.clone(),
        eps,
        to: to.keep(),
        blocks,
        team,
        shape: shape.clone(),
        per_row: to.scale.shape[2].clone(),
    })
}

/// The operands in the kernel under construction.
struct Operands<'k> {
    x: Tensor<'k>,
    /// The residual, and the sum that is kept.
    fused: Option<(Tensor<'k>, Tensor<'k>)>,
    weight: Tensor<'k>,
    to: Quantized<'k>,
    width: u64,
}

impl Design for RmsNormQuantize {
    fn geometry(&self) -> Geometry {
        self.team.geometry()
    }

    fn operands(&self) -> usize {
        self.weight_at() + 1 + self.to.operands()
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let at = self.weight_at();
        let fused = self
            .residual
            .as_ref()
            .map(|(residual, sum)| (Tensor::operand(b, 1, residual), Tensor::operand(b, 2, sum)));
        let operands = Operands {
            x: Tensor::operand(b, 0, &self.x),
            fused,
            weight: Tensor::operand(b, at, &self.weight).read_only(),
            to: self.to.bind(b, at + 1),
            width: self.blocks.width(),
        };
        self.team.for_row(b, |row| self.row(row, &operands));
    }
}

impl RmsNormQuantize {
    fn weight_at(&self) -> usize {
        if self.residual.is_some() { 3 } else { 1 }
    }

    /// The code of one row. Each thread reads in both passes what it wrote.
    fn row<'k>(&self, row: Row<'k>, operands: &Operands<'k>) {
        let b = row.b;
        let square = |acc: F32<'k>, s: F32<'k>| s.fma(s, acc);
        let norm = |squares: F32<'k>| {
            let total = row.combine(squares, 0.0, |p, q| p + q);
            (total / b.size(&self.shape[2]).to_f32() + self.eps.0 as f32).rsqrt_approx()
        };
        let at_once = u64::from(row.threads / self.blocks.group());
        let rounds = self.per_row.constant().map(|n| n.div_ceil(at_once));
        if let Some(rounds) = rounds.filter(|n| n * self.blocks.per_lane() <= HELD) {
            let blocks: Vec<Block<'k, '_>> =
                (0..rounds).map(|round| self.block(row, b.i32(round))).collect();
            let values: Vec<Values<'k, '_>> =
                blocks.iter().map(|block| block.values(|index| operands.read(index))).collect();
            let factor = norm(values.iter().fold(b.f32(0.0), |acc, v| v.fold(acc, square)));
            for (block, values) in blocks.iter().zip(values) {
                operands.store(block, values, factor);
            }
            return;
        }
        let rounds = b.size(&self.per_row).div_ceil(at_once as i32);
        let squares = b.for_loop(b.i32(0), rounds, b.i32(1), b.f32(0.0), |round, acc| {
            self.block(row, round).values(|index| operands.read(index)).fold(acc, square)
        });
        let factor = norm(squares);
        b.for_loop(b.i32(0), rounds, b.i32(1), (), |round, ()| {
            let block = self.block(row, round);
            let values = block.values(|index| operands.read_again(index));
            operands.store(&block, values, factor);
        });
    }

    /// The block that this thread's group takes in a round.
    fn block<'k>(&self, row: Row<'k>, round: I32<'k>) -> Block<'k, '_> {
        let b = row.b;
        let group = self.blocks.group();
        let at_once = row.threads / group;
        let column = round * at_once.cast_signed() + row.thread / group.cast_signed();
        let heads = b.size(&self.shape[1]);
        let index = vec![row.index / heads, row.index % heads, column];
        let known = self.per_row.div_exact(at_once.into()).is_some();
        let exists = (!known).then(|| column.lt(b.size(&self.per_row)));
        self.blocks.block(b, index, exists, row.thread % group.cast_signed())
    }
}

impl<'k> Operands<'k> {
    /// What is normed; the sum is stored.
    fn read(&self, index: &[I32<'k>]) -> Vec<F32<'k>> {
        let values = self.x.load(index, self.width);
        match &self.fused {
            None => values,
            Some((residual, sum)) => {
                add_and_keep(sum, index, &values, &residual.load(index, self.width))
            }
        }
    }

    /// What is normed, after [`Operands::read`].
    fn read_again(&self, index: &[I32<'k>]) -> Vec<F32<'k>> {
        self.fused.as_ref().map_or(&self.x, |(_, sum)| sum).load(index, self.width)
    }

    /// Normalises a block and stores it.
    fn store<'r>(&'r self, block: &Block<'k, 'r>, values: Values<'k, 'r>, factor: F32<'k>)
    where
        'k: 'r,
    {
        let normed = values.map(move |index, values| {
            let weights = self.weight.load(&index[2..], self.width);
            values.iter().zip(weights).map(|(&s, w)| s * factor * w).collect()
        });
        self.to.store(block, &normed);
    }
}
