//! One matrix per expert: rows in places of fixed capacity, of which the device knows how many are
//! used. Tiles without rows are never begun; results of rows that are not used are not stored.

use super::consumer::Consumer;
use super::dense::multiplies;
use super::expert_tiles::{ExpertTile, ExpertTiles, First, Rows};
use super::operand::{boxed, tensor_map};
use super::panels::Panels;
use super::results;
use super::ring::{Ring, Step};
use super::tile::{Problem, Tile, WARPGROUP};
use super::widened::Widened;
use crate::builder::{Builder, I32, wgmma};
use crate::kernels::factors::Factors;
use crate::kernels::product::{Product, RowOut};
use crate::kernels::{Design, Tiles};
use crate::tensor::Tensor;
use moec_ir::Target;
use moec_ir::kernel::View;
use moec_ir::plan::{Geometry, TensorMap};

/// A product of counted rows.
pub(in crate::kernels) struct Masked {
    factors: Factors,
    c: View,
    experts: u64,
    /// Tiles side by side.
    across: u64,
    steps: u64,
    product: Product,
    tile: Tile,
    /// Of `a`, of `w` and, where they are scaled, of the scales of `a`.
    tensor_maps: Vec<TensorMap>,
    panels: Option<Panels>,
}

/// The design for about `expected` rows per expert, where tensor copies can read the operands and
/// tensor cores multiply them.
pub(in crate::kernels) fn design(
    factors: &Factors,
    c: &View,
    expected: u64,
    target: &Target,
) -> Option<Masked> {
    let Factors { a, w, scales, .. } = factors;
    let [experts, columns, k] = [0, 1, 2].map(|axis| w.shape[axis].constant());
    let (experts, columns, k) = (experts?, columns?, k?);
    // Those of float32 are for other kernels.
    let widened = Widened::of(factors).is_some();
    if experts == 0 || widened || !multiplies(factors) || c.strides[2] != 1 {
        return None;
    }
    let problem = Problem {
        dtype: a.dtype,
        rows: expected.max(1),
        columns,
        batch: experts,
        depth: k * a.dtype.bytes(),
        scaled: scales.is_some(),
        scaled_rows: scales.is_some(),
        widened: None,
        gathers: false,
        clusters: false,
        transposed: false,
    };
    let tile = Tile::choose(problem, target);
    let at_w = factors.places.w;
    let mut tensor_maps = vec![tensor_map(0, a, tile.rows)?, tensor_map(at_w, w, tile.columns)?];
    if let Some(scales) = factors.scales_of_a() {
        tensor_maps.push(boxed(1, scales, [tile.stages, tile.rows], 0)?);
    }
    Some(Masked {
        tensor_maps,
        across: columns.div_ceil(tile.columns),
        steps: k.div_ceil(tile.depth()),
        product: Product::new(factors, None, c),
        factors: factors.clone(),
        c: c.clone(),
        experts,
        panels: Panels::fit(&tile, c, target),
        tile,
    })
}

impl Design for Masked {
    fn geometry(&self) -> Geometry {
        let others = self.experts * self.across;
        let shared = self.panels.map_or(self.tile.shared_bytes(), |panels| panels.end());
        self.tile.geometry(&self.c.shape[1], others, shared, self.tensor_maps.clone())
    }

    fn operands(&self) -> usize {
        self.factors.operands() + 2
    }

    fn tiles(&self) -> Option<Tiles> {
        Some(self.tile.tiles(self.product.k.constant()?, &self.c))
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let (tile, steps) = (&self.tile, self.steps);
        let ring = Ring::new(b, tile, steps);
        ring.prepare(1);
        let count = b.operand(self.factors.operands()).read_only();
        let tiles = ExpertTiles {
            b,
            tile: [tile.rows, tile.columns],
            rows: Rows::Counted { count, capacity: b.size(&self.c.shape[1]) },
            experts: self.experts,
            across: self.across,
            step: tile.ctas,
            first: First::Cta,
            at_once: None,
        };
        let consumers = b.i32(tile.consumers() * u64::from(WARPGROUP));
        let [few, many] = tile.registers();
        b.if_or(
            b.thread().lt(consumers),
            || {
                b.take_registers(many);
                self.consume(b, &ring, &tiles);
            },
            || {
                b.give_registers(few);
                b.if_(b.warp().eq(consumers / 32), || self.produce(b, &ring, &tiles));
            },
        );
    }
}

impl Masked {
    /// Tiles of the factors: a warp finds them, one of its threads copies.
    fn produce<'k>(&self, b: &'k Builder<'k>, ring: &Ring<'k, '_>, tiles: &ExpertTiles<'k>) {
        let tile = &self.tile;
        let maps: Vec<_> = (0..self.tensor_maps.len()).map(|i| b.tensor_map(i)).collect();
        let leads = b.elected();
        b.if_(leads, || maps.iter().for_each(|&map| b.prefetch_tensor_map(map)));
        tiles.each(ring.start(), |ExpertTile { place, .. }, parity| {
            let at = |column: I32<'k>, row: I32<'k>| match self.experts {
                1 => vec![column, row],
                _ => vec![column, row, place.batch],
            };
            let copy = |step: Step<'k>, (): ()| {
                let (stage, full) = (step.stage, ring.full(step.stage));
                let with_scales = stage == 0 && maps.len() > 2;
                b.mbarrier_wait(ring.empty(stage), step.parity ^ 1);
                b.mbarrier_expect(full, tile.stage_bytes(with_scales));
                let k = step.index * tile.depth() as i32;
                b.tensor_copy(ring.at(tile.a(stage)), maps[0], &at(k, place.row), full);
                b.tensor_copy(ring.at(tile.w(stage)), maps[1], &at(k, place.column), full);
                if with_scales {
                    let set = ring.at(tile.scales(0)) + step.round * tile.scale_set() as i32;
                    b.tensor_copy(set, maps[2], &at(step.index, place.row), full);
                }
            };
            b.if_else(leads, parity.clone(), || ring.each(parity, (), copy).0)
        });
    }

    /// Products and results, by the multiplying warpgroups.
    fn consume<'k>(&self, b: &'k Builder<'k>, ring: &Ring<'k, '_>, tiles: &ExpertTiles<'k>) {
        let consumer = Consumer::new(b, ring, &self.factors);
        let c = Tensor::operand(b, self.operands() - 1, &self.c);
        tiles.each(ring.start(), |ExpertTile { place, end }, parity| {
            let (parity, sums) = consumer.multiply(place, parity);
            let out = |row: I32<'k>| {
                let row = place.row + row;
                RowOut { exists: row.lt(end), c: c.at(&[place.batch, row]), add: None }
            };
            for (wave, sums) in (0..).zip(sums.chunks((self.tile.columns / 2) as usize)) {
                let row = consumer.first_row + b.i32(wave * wgmma::ROWS);
                results::scatter(b, self.panels, &self.product, row, place.column, sums, &out);
            }
            parity
        });
    }
}
