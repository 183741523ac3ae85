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
    to: Results,
    rows: NormedRows,
}

pub(super) fn design(normed: Normed<'_>, to: To<'_>, step: Step) -> Box<dyn Design> {
    let Normed { x, residual, weight, eps } = normed;
    let kept = residual.into_iter().flat_map(|(r, s)| [r, s]);
    let views = [x, weight, to.q].into_iter().chain(to.out).chain(kept);
    let blocks = to.blocks(views.map(vector_width).min().unwrap_or(1), step);
    let rows = NormedRows::new(blocks, &to.q.shape, &to.scale.shape[2], eps, step);
    Box::new(RmsNormQuantize {
        x: x.clone(),
        residual: residual.cloned(),
        weight: weight.clone(),
        to: to.keep(),
        rows,
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
        self.rows.team.geometry()
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
            width: self.rows.blocks.width(),
        };
        let read = |index: &[I32<'k>]| operands.read(index);
        let again = |index: &[I32<'k>]| operands.read_again(index);
        self.rows.team.for_row(b, |row| {
            self.rows.row(row, &read, &again, &|block, values, factor| {
                operands.store(block, values, factor);
            });
        });
    }
}

impl RmsNormQuantize {
    fn weight_at(&self) -> usize {
        if self.residual.is_some() { 3 } else { 1 }
    }
}

/// Rows that are normed block by block.
pub(super) struct NormedRows {
    pub(super) blocks: Blocks,
    pub(super) team: Team,
    /// `[R, H, N]`
    shape: Vec<Dim>,
    /// Blocks of a row.
    per_row: Dim,
    eps: f32,
}

impl NormedRows {
    /// For blocks of rows of that shape, `per_row` to a row.
    pub(super) fn new(blocks: Blocks, shape: &[Dim], per_row: &Dim, eps: Real, step: Step) -> Self {
        let team = Team::new(Dim::product(&shape[..2]), &shape[2], blocks.width(), step.sizes);
        let (shape, per_row) = (shape.to_vec(), per_row.clone());
        Self { blocks, team, shape, per_row, eps: eps.0 as f32 }
    }

    /// The code of one row: `store` gets each of its blocks and the factor of the row's elements.
    /// Where they do not stay in registers they are read a second time, by `again`; each thread
    /// reads in both passes what it wrote.
    pub(super) fn row<'k, 'r>(
        &'r self,
        row: Row<'k>,
        read: &'r dyn Fn(&[I32<'k>]) -> Vec<F32<'k>>,
        again: &'r dyn Fn(&[I32<'k>]) -> Vec<F32<'k>>,
        store: &dyn Fn(&Block<'k, 'r>, Values<'k, 'r>, F32<'k>),
    ) where
        'k: 'r,
    {
        let b = row.b;
        let square = |acc: F32<'k>, s: F32<'k>| s.fma(s, acc);
        let norm = |squares: F32<'k>| {
            let total = row.combine(squares, 0.0, |p, q| p + q);
            (total / b.size(&self.shape[2]).to_f32() + self.eps).rsqrt_approx()
        };
        let at_once = u64::from(row.threads / self.blocks.group());
        let rounds = self.per_row.constant().map(|n| n.div_ceil(at_once));
        if let Some(rounds) = rounds.filter(|n| n * self.blocks.per_lane() <= HELD) {
            let blocks: Vec<Block<'k, '_>> =
                (0..rounds).map(|round| self.block(row, b.i32(round))).collect();
            let values: Vec<Values<'k, '_>> =
                blocks.iter().map(|block| block.values(read)).collect();
            let factor = norm(values.iter().fold(b.f32(0.0), |acc, v| v.fold(acc, square)));
            for (block, values) in blocks.iter().zip(values) {
                store(block, values, factor);
            }
            return;
        }
        let rounds = b.size(&self.per_row).div_ceil(at_once as i32);
        let squares = b.for_loop(b.i32(0), rounds, b.i32(1), b.f32(0.0), |round, acc| {
            self.block(row, round).values(read).fold(acc, square)
        });
        let factor = norm(squares);
        b.for_loop(b.i32(0), rounds, b.i32(1), (), |round, ()| {
            let block = self.block(row, round);
            let values = block.values(again);
            store(&block, values, factor);
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
        self.to.store(block, &normed(values, factor, &self.weight, self.width));
    }
}

/// A block of a row times the row's factor and the weights.
pub(super) fn normed<'k: 'r, 'r>(
    values: Values<'k, 'r>,
    factor: F32<'k>,
    weight: &'r Tensor<'k>,
    width: u64,
) -> Values<'k, 'r> {
    values.map(move |index, values| {
        let weights = weight.load(&index[2..], width);
        values.iter().zip(weights).map(|(&s, w)| s * factor * w).collect()
    })
}
