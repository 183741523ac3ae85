//! Rotary position embedding: pairs of the last axis turned by each token's position
//! (Su et al., arXiv 2104.09864; both pairings are in use).

use super::elements::Grid;
use super::{Design, Step};
use crate::builder::{Builder, F32, I32};
use crate::tensor::{Tensor, vector_width};
use moec_ir::Dim;
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

struct Rotary {
    x: View,
    out: View,
    interleaved: bool,
    grid: Grid,
    /// Pairs that a thread turns.
    pairs: u64,
    half: Dim,
}

pub(super) fn design(x: &View, out: &View, interleaved: bool, step: Step) -> Box<dyn Design> {
    let half = x.shape[2].div_exact(2).unwrap_or_else(|| x.shape[2].clone());
    let width = vector_width(x).min(vector_width(out)).min(8);
    let width = if interleaved { (width / 2).max(1) } else { width.min(4) };
    let divides = |&pairs: &u64| pairs <= width && half.div_exact(pairs).is_some();
    let pairs = [4, 2].into_iter().find(divides).unwrap_or(1);
    let grid =
        Grid::new(&[x.shape[0].clone(), x.shape[1].clone(), half.clone()], pairs, step.sizes);
    Box::new(Rotary { x: x.clone(), out: out.clone(), interleaved, grid, pairs, half })
}

impl Design for Rotary {
    fn geometry(&self) -> Geometry {
        self.grid.geometry()
    }

    fn operands(&self) -> usize {
        4
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let x = Tensor::operand(b, 0, &self.x);
        let out = Tensor::operand(b, 3, &self.out);
        self.grid.each(b, |index| {
            let (t, h, pair) = (index[0], index[1], index[2]);
            let half = b.size(&self.half);
            let position = b.operand(2).index(t, 4).load_scalar::<i32>();
            let row = b.operand(1).read_only().index(position * half, 8);
            let turns = row.index(pair, 8).load_f32(2 * self.pairs as usize);
            let (first, second) = match self.interleaved {
                true => {
                    let both = x.load(&[t, h, pair * 2], 2 * self.pairs);
                    (every_other(&both, 0), every_other(&both, 1))
                }
                false => {
                    let at = |pair: I32<'k>| x.load(&[t, h, pair], self.pairs);
                    (at(pair), at(pair + half))
                }
            };
            let (first, second) = turn(&first, &second, &turns);
            if self.interleaved {
                let both: Vec<_> = first.iter().zip(&second).flat_map(|(&p, &q)| [p, q]).collect();
                out.store(&[t, h, pair * 2], &both);
            } else {
                out.store(&[t, h, pair], &first);
                out.store(&[t, h, pair + half], &second);
            }
        });
    }
}

fn every_other<'k>(values: &[F32<'k>], from: usize) -> Vec<F32<'k>> {
    values.iter().skip(from).step_by(2).copied().collect()
}

/// `(p cos - q sin, q cos + p sin)` for each pair; `turns` holds cosine and sine in turn.
fn turn<'k>(
    first: &[F32<'k>],
    second: &[F32<'k>],
    turns: &[F32<'k>],
) -> (Vec<F32<'k>>, Vec<F32<'k>>) {
    let pairs = first.iter().zip(second).zip(turns.chunks(2));
    pairs
        .map(|((&p, &q), turn)| {
            let (cos, sin) = (turn[0], turn[1]);
            (p.fma(cos, (q * sin).neg()), q.fma(cos, p * sin))
        })
        .unzip()
}
