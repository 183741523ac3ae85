//! `c = a * wᵀ (+ add)` in 16-bit types.

use super::operand::product_maps;
use super::results;
use super::ring::{Ring, Step};
use super::schedule::{Place, Schedule};
use super::tile::{Problem, Tile, WARPGROUP};
use crate::builder::{Builder, F32, I32, wgmma};
use crate::kernels::factors::Factors;
use crate::kernels::product::{Product, RowOut};
use crate::kernels::{Design, Step as Workload};
use crate::tensor::Tensor;
use moec_ir::kernel::View;
use moec_ir::plan::{Geometry, TensorMap};
use moec_ir::{DType, Target};

/// A product of matrices in bfloat16 or float16.
pub(in crate::kernels) struct Plain {
    add: Option<View>,
    c: View,
    product: Product,
    tile: Tile,
    schedule: Schedule,
    steps: u64,
    tensor_maps: Vec<TensorMap>,
}

/// The design, where tensor copies can read the operands.
pub(in crate::kernels) fn design(
    factors: &Factors,
    add: Option<&View>,
    c: &View,
    step: Workload,
    target: &Target,
) -> Option<Plain> {
    let Factors { a, w, scales: None } = factors else { return None };
    let [batch, columns, k] = [0, 1, 2].map(|axis| w.shape[axis].constant());
    let (batch, columns, k) = (batch?, columns?, k?);
    let sixteen = matches!(a.dtype, DType::Bf16 | DType::F16) && a.dtype == w.dtype;
    let dense = [Some(c), add].into_iter().flatten().all(|view| view.strides[2] == 1);
    if !sixteen || !dense {
        return None;
    }
    let problem = Problem {
        dtype: a.dtype,
        rows: c.shape[1].eval(&step.sizes),
        columns,
        batch,
        depth: k * a.dtype.bytes(),
        scaled: false,
    };
    let tile = Tile::choose(problem, target);
    Some(Plain {
        tensor_maps: product_maps(&tile, a, w, [0, 1])?,
        schedule: Schedule::new(&tile, columns, batch),
        steps: k.div_ceil(tile.depth()),
        product: Product::new(factors, add, c),
        add: add.cloned(),
        c: c.clone(),
        tile,
    })
}

impl Design for Plain {
    fn geometry(&self) -> Geometry {
        self.tile.geometry(&self.c.shape[1], self.schedule.others(), self.tensor_maps.clone())
    }

    fn operands(&self) -> usize {
        3 + usize::from(self.add.is_some())
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let ring = Ring { b, tile: &self.tile, base: b.dynamic_shared(), steps: self.steps };
        ring.prepare(1);
        let consumers = b.i32(self.tile.consumers() * u64::from(WARPGROUP));
        let [few, many] = self.tile.registers();
        b.if_or(
            b.thread().lt(consumers),
            || {
                b.take_registers(many);
                self.consume(b, &ring);
            },
            || {
                b.give_registers(few);
                let first = b.warp().eq(consumers / 32);
                b.if_(first, || b.if_(b.elected(), || self.produce(b, &ring)));
            },
        );
    }
}

impl Plain {
    /// Tiles of `a` and `w`, by one thread.
    fn produce<'k>(&self, b: &'k Builder<'k>, ring: &Ring<'k, '_>) {
        let tile = &self.tile;
        let maps = [0, 1].map(|i| b.tensor_map(i));
        maps.iter().for_each(|&map| b.prefetch_tensor_map(map));
        let bytes = tile.a(1) + tile.w(1) - tile.w(0);
        let rows = b.size(&self.c.shape[1]);
        self.schedule.each(b, tile, rows, ring.start(), |place, parity| {
            let copy = |step: Step<'k>, (): ()| {
                let (stage, full) = (step.stage, ring.at(tile.full(step.stage)));
                b.mbarrier_wait(ring.at(tile.empty(stage)), step.parity ^ 1);
                b.mbarrier_expect(full, bytes);
                let k = step.index * tile.depth() as i32;
                let box_at = |row: I32<'k>| match self.schedule.batch {
                    1 => vec![k, row],
                    _ => vec![k, row, place.batch],
                };
                b.tensor_copy(ring.at(tile.a(stage)), maps[0], &box_at(place.row), full);
                b.tensor_copy(ring.at(tile.w(stage)), maps[1], &box_at(place.column), full);
            };
            ring.each(parity, (), copy).0
        });
    }

    /// Products and results, by the multiplying warpgroups.
    fn consume<'k>(&self, b: &'k Builder<'k>, ring: &Ring<'k, '_>) {
        let tile = &self.tile;
        let rows = b.size(&self.c.shape[1]);
        let share = tile.rows / tile.consumers();
        let first_row = (b.thread() / WARPGROUP as i32) * share as i32;
        self.schedule.each(b, tile, rows, ring.start(), |place, parity| {
            let count = (tile.waves() * tile.columns / 2) as usize;
            let zeros = vec![b.f32(0.0); count];
            let (parity, sums) = ring
                .each(parity, zeros, |step, sums| self.multiply(b, ring, first_row, step, sums));
            let sums = b.wgmma_wait(0, &sums);
            let last = (self.steps - 1) % tile.stages;
            b.mbarrier_arrive(ring.at(tile.empty(last)), lane_is_first(b));
            let out = self.out(b, place, rows);
            for (wave, sums) in (0..).zip(sums.chunks((tile.columns / 2) as usize)) {
                let row = first_row + b.i32(wave * wgmma::ROWS);
                results::store(b, &self.product, row, place.column, sums, &out);
            }
            parity
        });
    }

    /// Adds the products of one step; those of the step before have ended afterwards, and its
    /// stage is given back.
    fn multiply<'k>(
        &self,
        b: &'k Builder<'k>,
        ring: &Ring<'k, '_>,
        first_row: I32<'k>,
        step: Step<'k>,
        sums: Vec<F32<'k>>,
    ) -> Vec<F32<'k>> {
        let tile = &self.tile;
        let stage = step.stage;
        b.mbarrier_wait(ring.at(tile.full(stage)), step.parity);
        let mut sums = b.wgmma_fence(&sums);
        let a = b.wgmma_descriptor(ring.at(tile.a(stage)) + first_row * wgmma::ROW_BYTES as i32);
        let w = b.wgmma_descriptor(ring.at(tile.w(stage)));
        let count = (tile.columns / 2) as usize;
        for part in 0..wgmma::ROW_BYTES / wgmma::DEPTH_BYTES {
            let along = (part * wgmma::DEPTH_BYTES / 16) as i64;
            for wave in 0..tile.waves() {
                let down = (wave * wgmma::ROWS * wgmma::ROW_BYTES / 16) as i64;
                let from = wave as usize * count;
                let of_wave = &sums[from..from + count];
                let of_wave =
                    b.wgmma(tile.dtype, tile.columns, a + (along + down), w + along, Some(of_wave));
                sums.splice(from..from + count, of_wave);
            }
        }
        b.wgmma_commit();
        b.wgmma_wait(1, &[]);
        let before = (stage + tile.stages - 1) % tile.stages;
        let who = match stage {
            // Before the first step of a tile there is none.
            0 => b.i32(0).when(step.index.eq(b.i32(0)), lane_is_first(b)),
            _ => lane_is_first(b),
        };
        b.mbarrier_arrive(ring.at(tile.empty(before)), who);
        sums
    }

    /// Where rows of a tile go.
    fn out<'k>(
        &self,
        b: &'k Builder<'k>,
        place: Place<'k>,
        rows: I32<'k>,
    ) -> impl Fn(I32<'k>) -> RowOut<'k> {
        let c = Tensor::operand(b, self.operands() - 1, &self.c);
        let add = self.add.as_ref().map(|view| Tensor::operand(b, 2, view));
        move |row| {
            let row = place.row + row;
            RowOut {
                exists: row.lt(rows),
                c: c.at(&[place.batch, row]),
                add: add.as_ref().map(|add| add.at(&[place.batch, row])),
            }
        }
    }
}

/// 1 in the first lane of a warp, else 0.
fn lane_is_first<'k>(b: &'k Builder<'k>) -> I32<'k> {
    b.i32(1).when(b.lane().eq(b.i32(0)), b.i32(0))
}
