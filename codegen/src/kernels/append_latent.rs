//! What MLA remembers of a token, into its row of the cache: the latent, normed, and the key that
//! all heads share, rotated (DeepSeek-V2 2.1.2 and 2.1.3).

use super::rms_norm::factor;
use super::rotary::Pairing;
use super::rows::Team;
use super::{Design, Step};
use crate::builder::{Builder, F32, I32};
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;
use moec_ir::{Diagnostic, Real};

/// Pairs that a thread turns at most: their turns are 16 bytes, so that neighbouring lanes read
/// whole sectors.
const PAIRS: u64 = 2;

struct AppendLatent {
    latent: View,
    weight: View,
    key: View,
    cache: View,
    eps: Real,
    pairing: Pairing,
    team: Team,
    width: u64,
    /// Elements of the latent: where the key begins in a row of the cache.
    len: u64,
}

pub(super) fn design(
    [latent, weight, key, cache]: [&View; 4],
    eps: Real,
    interleaved: bool,
    step: Step,
) -> Result<Box<dyn Design>, Diagnostic> {
    let pairing = Pairing::new(key, cache, interleaved)?.at_most(PAIRS);
    let columns = |view: &View| view.shape.last().and_then(moec_ir::Dim::constant).unwrap_or(0);
    let len = columns(latent);
    if len == 0 || columns(weight) != len || columns(cache) != len + columns(key) {
        let message = format!("an append_latent kernel writes {latent} and {key} to {cache}");
        return Err(Diagnostic::error("E0902", message).help("build the artefact again"));
    }
    let width = [latent, weight].map(vector_width).into_iter().min().unwrap_or(1);
    let team = Team::new(latent.shape[0].clone(), &latent.shape[1], width, step.sizes);
    let [latent, weight, key, cache] = [latent, weight, key, cache].map(View::clone);
    Ok(Box::new(AppendLatent { latent, weight, key, cache, eps, pairing, team, width, len }))
}

impl Design for AppendLatent {
    fn geometry(&self) -> Geometry {
        self.team.geometry()
    }

    fn operands(&self) -> usize {
        7
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let latent = Tensor::operand(b, 0, &self.latent);
        let weight = Tensor::operand(b, 1, &self.weight).read_only();
        let key = Tensor::operand(b, 2, &self.key);
        let [turns, positions, slots] = [3, 4, 5].map(|i| b.operand(i).read_only());
        let cache = Tensor::operand(b, 6, &self.cache);
        self.team.for_row(b, |row| {
            let elements = row.elements(|at| latent.load(&[row.index, at], self.width));
            let factor = factor(row, &elements, &self.latent.shape[1], self.eps);
            let slot = slots.index(row.index, 4).load_scalar::<i32>();
            // Unsigned: a negative slot, of a token that is not remembered, is above every size.
            b.if_(slot.lt(b.size(&self.cache.shape[0])), || {
                elements.each(|at, values| {
                    let weights = weight.load(&[at], self.width);
                    let normed: Vec<F32<'k>> =
                        values.iter().zip(weights).map(|(&s, w)| s * factor * w).collect();
                    cache.store(&[slot, at], &normed);
                });
                let position = positions.index(row.index, 4).load_scalar::<i32>();
                let turns = self.pairing.turns_at(turns, position);
                let (end, step) = (b.i32(self.pairing.vectors()), b.i32(row.threads));
                b.for_loop(row.thread, end, step, (), |vector, ()| {
                    let place = |at: I32<'k>| [slot, at + b.i32(self.len)];
                    self.pairing.turn(
                        turns,
                        vector,
                        |at, n| key.load(&[row.index, at], n),
                        |at, values| cache.store(&place(at), values),
                    );
                });
            });
        });
    }
}
