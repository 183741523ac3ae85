//! `c = a * wᵀ (+ add)`, batched over heads.

use super::consumer::Consumer;
use super::operand::{boxed, tensor_map, tensor_map_across};
use super::panels::{self, LanePanels, Panels};
use super::results;
use super::ring::{Ring, Step};
use super::schedule::{Place, Schedule};
use super::tile::{Problem, ROW_BYTES, SCALE_BLOCK, Tile, WARPGROUP};
use super::widened::{self, Widened};
use crate::builder::{Builder, F32, I32, wgmma};
use crate::kernels::factors::Factors;
use crate::kernels::product::{Product, RowOut};
use crate::kernels::{Design, Step as Workload, Tiles};
use crate::tensor::Tensor;
use moec_ir::kernel::View;
use moec_ir::plan::{Geometry, TensorMap};
use moec_ir::{DType, Target};

/// A product of matrices.
pub(in crate::kernels) struct Dense {
    factors: Factors,
    add: Option<View>,
    c: View,
    product: Product,
    tile: Tile,
    schedule: Schedule,
    steps: u64,
    /// Of `a`, of `w`, where they are scaled of the scales of `a`, and where results go through
    /// panels of those.
    tensor_maps: Vec<TensorMap>,
    panels: Option<Panels>,
}

/// The design, where tensor copies can read the operands and tensor cores multiply them.
pub(in crate::kernels) fn design(
    factors: &Factors,
    add: Option<&View>,
    c: &View,
    step: Workload,
    target: &Target,
) -> Option<Dense> {
    let Factors { a, w, scales, .. } = factors;
    let [batch, columns, k] = [0, 1, 2].map(|axis| w.shape[axis].constant());
    let (batch, columns, k) = (batch?, columns?, k?);
    let dense = [Some(c), add].into_iter().flatten().all(|view| view.strides[2] == 1);
    if !multiplies(factors) || !dense {
        return None;
    }
    // Tensor cores read FP8 along `k` only (PTX ISA 9.7.15.5.1).
    let transposed = scales.is_none() && w.strides[2] != 1;
    let widened = Widened::of(factors);
    let problem = Problem {
        dtype: w.dtype,
        rows: c.shape[1].eval(&step.sizes),
        columns,
        batch,
        depth: k * if widened.is_some() { 1 } else { w.dtype.bytes() },
        scaled: scales.is_some(),
        scaled_rows: factors.scales_of_a().is_some(),
        widened,
        gathers: false,
        clusters: !transposed && widened.is_none(),
        transposed,
    };
    let tile = Tile::choose(problem, target);
    let at_w = factors.places.w;
    let [below, beside] = tile.cluster;
    let of_w = match transposed {
        true => tensor_map_across(at_w, w, tile.depth())?,
        false => tensor_map(at_w, w, tile.columns / below)?,
    };
    let mut tensor_maps = vec![tensor_map(0, a, tile.rows / beside)?, of_w];
    if let Some(scales) = factors.scales_of_a() {
        tensor_maps.push(boxed(1, scales, [tile.stages, tile.rows], 0)?);
    }
    let product = Product::new(factors, add, c);
    // What is added is read two columns at a time.
    let panels = Panels::fit(&tile, c, target).filter(|_| product.n.div_exact(2).is_some());
    let at_c = factors.operands() + usize::from(add.is_some());
    let stored = panels.and_then(|panels| Some((panels, panels.tensor_map(at_c, c)?)));
    let panels = stored.map(|(panels, map)| {
        tensor_maps.push(map);
        panels
    });
    Some(Dense {
        tensor_maps,
        panels,
        schedule: Schedule::new(&tile, columns, batch),
        steps: k.div_ceil(tile.depth()),
        product,
        factors: factors.clone(),
        add: add.cloned(),
        c: c.clone(),
        tile,
    })
}

/// Whether tensor cores multiply these types, with these scales.
pub(super) fn multiplies(factors: &Factors) -> bool {
    let Factors { a, w, scales, .. } = factors;
    match scales {
        None => {
            let multiplied = matches!(a.dtype, DType::Bf16 | DType::F16 | DType::F32);
            multiplied && a.dtype == w.dtype
        }
        // A step along `k` is a block.
        Some(scales) => {
            let of_a = if scales.a.is_some() { DType::F8e4m3 } else { DType::F32 };
            let side_by_side = scales.w.strides[2] == 1 || scales.w.shape[2].is_one();
            let types = a.dtype == of_a && w.dtype == DType::F8e4m3;
            types && scales.block == [SCALE_BLOCK; 2] && side_by_side
        }
    }
}

impl Design for Dense {
    fn geometry(&self) -> Geometry {
        let tile = &self.tile;
        let shared = self.panels.map_or(tile.shared_bytes(), |panels| panels.end());
        tile.geometry(&self.c.shape[1], self.schedule.others(), shared, self.tensor_maps.clone())
    }

    fn operands(&self) -> usize {
        self.factors.operands() + 1 + usize::from(self.add.is_some())
    }

    fn tiles(&self) -> Option<Tiles> {
        Some(self.tile.tiles(self.product.k.constant()?, &self.c))
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let ring = Ring::new(b, &self.tile, self.steps);
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
                let produce = || {
                    b.give_registers(few);
                    let first = b.warp().eq(consumers / 32);
                    b.if_(first, || b.if_(b.elected(), || self.produce(b, &ring)));
                };
                widened::beside(&ring, consumers, produce, || {
                    let rows = b.size(&self.c.shape[1]);
                    self.schedule.each(b, &self.tile, rows, ring.start(), |_, parity| {
                        widened::widen_tile(&ring, parity)
                    });
                });
            },
        );
        ring.end();
    }
}

impl Dense {
    /// Tiles of the factors, by one thread.
    fn produce<'k>(&self, b: &'k Builder<'k>, ring: &Ring<'k, '_>) {
        let tile = &self.tile;
        let maps: Vec<_> = (0..self.tensor_maps.len()).map(|i| b.tensor_map(i)).collect();
        maps.iter().for_each(|&map| b.prefetch_tensor_map(map));
        let rows = b.size(&self.c.shape[1]);
        let [below, beside] = tile.cluster;
        self.schedule.each(b, tile, rows, ring.start(), |place, parity| {
            let at = |column: I32<'k>, row: I32<'k>| match self.schedule.batch {
                1 => vec![column, row],
                _ => vec![column, row, place.batch],
            };
            let copy = |step: Step<'k>, (): ()| {
                let (stage, full) = (step.stage, ring.full(step.stage));
                let with_scales = stage == 0 && self.factors.scales_of_a().is_some();
                ring.wait_empty(step);
                b.mbarrier_expect(full, tile.stage_bytes(with_scales));
                let k = step.index * tile.depth() as i32;
                let across = tile.depth() / tile.panels_of_a();
                for panel in 0..tile.panels_of_a() {
                    let of_a = |row: I32<'k>| at(k + b.i32(panel * across), place.row + row);
                    let to = tile.a(stage) + panel * tile.rows * ROW_BYTES;
                    ring.copy(step, maps[0], to, [tile.rows, beside], of_a);
                }
                match tile.transposed {
                    true => {
                        let [columns, bytes] = tile.panel();
                        for panel in 0..tile.columns / columns {
                            let column = place.column + b.i32(panel * columns);
                            let to = ring.at(tile.w(stage) + panel * bytes);
                            b.tensor_copy(to, maps[1], &at(column, k), full);
                        }
                    }
                    false => {
                        let across = tile.depth() / tile.panels_of_w();
                        for panel in 0..tile.panels_of_w() {
                            let k = k + b.i32(panel * across);
                            let of_w = |row: I32<'k>| at(k, place.column + row);
                            let to = tile.w(stage) + panel * tile.columns * ROW_BYTES;
                            ring.copy(step, maps[1], to, [tile.columns, below], of_w);
                        }
                    }
                }
                if with_scales {
                    // The other set is still read; this one no more, since its round's end
                    // comes before the use of this stage that has just ended.
                    let set = ring.at(tile.scales(0)) + step.round * tile.scale_set() as i32;
                    b.tensor_copy(set, maps[2], &at(step.index, place.row), full);
                }
            };
            ring.each(parity, (), copy).0
        });
    }

    /// Products and results, by the multiplying warpgroups.
    fn consume<'k>(&self, b: &'k Builder<'k>, ring: &Ring<'k, '_>) {
        let tile = &self.tile;
        let rows = b.size(&self.c.shape[1]);
        let consumer = Consumer::new(b, ring, &self.factors);
        self.schedule.each(b, tile, rows, ring.start(), |place, parity| {
            let (parity, sums) = consumer.multiply(place, parity);
            let waves: Vec<_> = sums.chunks((tile.columns / 2) as usize).collect();
            match &self.panels {
                Some(panels) => {
                    self.send(&panels.of_lane(b), place, rows, consumer.first_row, &waves)
                }
                None => self.store(b, place, rows, consumer.first_row, &waves),
            }
            parity
        });
        if self.panels.is_some() {
            panels::end(b);
        }
    }

    /// Stores this warpgroup's part of a tile by tensor copies.
    fn send<'k>(
        &self,
        panels: &LanePanels<'k>,
        place: Place<'k>,
        rows: I32<'k>,
        first_row: I32<'k>,
        waves: &[&[F32<'k>]],
    ) {
        let b = panels.b;
        let of_warp = place.row + first_row + (b.warp() % 4) * 16;
        let row_of = |wave: u64| of_warp + b.i32(wave * wgmma::ROWS);
        let waves =
            (0..).zip(waves).map(|(wave, sums)| self.added(b, place, rows, row_of(wave), sums));
        let at = |wave: usize, beside: u64| {
            let mut at = vec![place.column + b.i32(beside), row_of(wave as u64)];
            at.extend((self.schedule.batch > 1).then_some(place.batch));
            at
        };
        let map = b.tensor_map(self.tensor_maps.len() - 1);
        panels.send(map, &waves.collect::<Vec<_>>(), at);
    }

    /// Sums of 16 rows from `row` on with what is added to them; of rows and columns that do not
    /// exist, anything.
    fn added<'k>(
        &self,
        b: &'k Builder<'k>,
        place: Place<'k>,
        rows: I32<'k>,
        row: I32<'k>,
        sums: &[F32<'k>],
    ) -> Vec<F32<'k>> {
        if self.add.is_none() {
            return sums.to_vec();
        }
        let out = [0, 8].map(|below| {
            let row = (row + b.lane() / 4 + b.i32(below)).min(rows - 1);
            self.out(b, place, rows, row)
        });
        let column = place.column + (b.lane() % 4) * 2;
        let last = b.size(&self.product.n) - 2;
        let pairs = (0..).zip(sums.chunks(2));
        let each = |(i, pair): (u64, &[F32<'k>])| {
            let at = (column + b.i32(i / 2 * 8)).min(last);
            self.product.added(out[(i % 2) as usize], at, pair)
        };
        pairs.flat_map(each).collect()
    }

    /// Stores this warpgroup's part of a tile from its registers.
    fn store<'k>(
        &self,
        b: &'k Builder<'k>,
        place: Place<'k>,
        rows: I32<'k>,
        first_row: I32<'k>,
        waves: &[&[F32<'k>]],
    ) {
        let out = |row: I32<'k>| self.out(b, place, rows, place.row + row);
        for (wave, sums) in (0..).zip(waves) {
            let row = first_row + b.i32(wave * wgmma::ROWS);
            results::store(b, &self.product, row, place.column, sums, &out);
        }
    }

    /// Where the results of a row go.
    fn out<'k>(
        &self,
        b: &'k Builder<'k>,
        place: Place<'k>,
        rows: I32<'k>,
        row: I32<'k>,
    ) -> RowOut<'k> {
        let c = Tensor::operand(b, self.operands() - 1, &self.c);
        let at_add = self.factors.operands();
        let add = self.add.as_ref().map(|view| Tensor::operand(b, at_add, view));
        RowOut {
            exists: row.lt(rows),
            c: c.at(&[place.batch, row]),
            add: add.as_ref().map(|add| add.at(&[place.batch, row])),
        }
    }
}
