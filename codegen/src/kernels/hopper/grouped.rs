//! One matrix per expert: routed rows are gathered, multiplied with their expert's matrix, and
//! their results go to their own places. Any expert may have no rows.

use super::consumer::Consumer;
use super::dense::multiplies;
use super::expert_tiles::{ExpertTile, ExpertTiles, Rows};
use super::gather::Gather;
use super::operand::tensor_map;
use super::panels::Panels;
use super::results;
use super::ring::{Ring, Step};
use super::tile::{Problem, Tile, WARPGROUP};
use crate::builder::{Builder, I32, Ptr, wgmma};
use crate::kernels::factors::Factors;
use crate::kernels::product::{Product, RowOut};
use crate::kernels::{Design, Step as Workload, Tiles};
use crate::tensor::Tensor;
use moec_ir::kernel::View;
use moec_ir::plan::{Geometry, TensorMap};
use moec_ir::{Dim, Target};

/// Bytes whose multiples addresses of gathered rows are (PTX ISA 9.7.9.25.3.1, `cp.async`).
const ALIGN: u64 = 16;

/// A product of routed rows.
pub(in crate::kernels) struct Grouped {
    factors: Factors,
    c: View,
    top_k: u64,
    experts: u64,
    /// Tiles side by side.
    across: u64,
    steps: u64,
    product: Product,
    tile: Tile,
    weights: TensorMap,
    panels: Option<Panels>,
}

/// The design for `rows` rows per expert that has some, where the operands can be copied and
/// tensor cores multiply them.
pub(in crate::kernels) fn design(
    factors: &Factors,
    c: &View,
    top_k: u64,
    rows: u64,
    step: Workload,
    target: &Target,
) -> Option<Grouped> {
    let Factors { a, w, scales } = factors;
    let [experts, columns, k] = [0, 1, 2].map(|axis| w.shape[axis].constant());
    let (experts, columns, k) = (experts?, columns?, k?);
    let rows_are_aligned = gathers(a) && scales.as_ref().is_none_or(|s| gathers(&s.a));
    if experts == 0 || !multiplies(factors) || !rows_are_aligned || c.strides[2] != 1 {
        return None;
    }
    let pairs = c.shape[0].eval(&step.sizes) * top_k;
    let problem = Problem {
        dtype: a.dtype,
        rows,
        columns,
        batch: experts.min(pairs).max(1),
        depth: k * a.dtype.bytes(),
        scaled: scales.is_some(),
        gathers: true,
        clusters: false,
        transposed: false,
    };
    let tile = Tile::choose(problem, target);
    Some(Grouped {
        weights: tensor_map(factors.operands() / 2, w, tile.columns)?,
        across: columns.div_ceil(tile.columns),
        steps: k.div_ceil(tile.depth()),
        product: Product::new(factors, None, c),
        factors: factors.clone(),
        c: c.clone(),
        top_k,
        experts,
        panels: Panels::fit(&tile, c, target),
        tile,
    })
}

/// Whether rows of that matrix can be copied 16 bytes at a time.
fn gathers(view: &View) -> bool {
    let last = view.shape.len() - 1;
    let aligned = |axis: usize| {
        view.shape[axis].is_one() || (view.strides[axis] * view.dtype.bytes()).is_multiple_of(ALIGN)
    };
    view.align >= ALIGN && view.strides[last] == 1 && (0..last).all(aligned)
}

impl Design for Grouped {
    fn geometry(&self) -> Geometry {
        // At most floor((pairs + experts * (rows - 1)) / rows) blocks of rows.
        let pairs = self.c.shape[0].clone() * self.top_k;
        let covered = pairs + Dim::from((self.experts - 1) * (self.tile.rows - 1));
        let shared = self.panels.map_or(self.tile.shared_bytes(), |panels| panels.end());
        self.tile.geometry(&covered, self.across, shared, vec![self.weights.clone()])
    }

    fn operands(&self) -> usize {
        self.factors.operands() + 2
    }

    fn tiles(&self) -> Option<Tiles> {
        Some(self.tile.tiles(self.product.k.constant()?, &self.c))
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let (tile, steps) = (&self.tile, self.steps);
        let ring = Ring { b, tile, base: b.dynamic_shared(), steps };
        // Each thread that gathers, and the one that starts tensor copies once more.
        ring.prepare(u64::from(WARPGROUP) + 1);
        let tiles = ExpertTiles {
            b,
            tile,
            rows: Rows::Sorted(self.route(b)),
            experts: self.experts,
            across: self.across,
        };
        let [few, many] = tile.registers();
        b.if_or(
            b.thread().lt(self.consumers(b)),
            || {
                b.take_registers(many);
                self.consume(b, &ring, &tiles);
            },
            || {
                b.give_registers(few);
                self.produce(b, &ring, &tiles);
            },
        );
    }
}

impl Grouped {
    /// Threads that multiply.
    fn consumers<'k>(&self, b: &'k Builder<'k>) -> I32<'k> {
        b.i32(self.tile.consumers() * u64::from(WARPGROUP))
    }

    /// The plan of the routes: offsets of the experts' rows, then the rows.
    fn route<'k>(&self, b: &'k Builder<'k>) -> Ptr<'k> {
        b.operand(self.factors.operands()).read_only()
    }

    /// A routed row: its token and which of the token's experts this is.
    fn pair<'k>(&self, b: &'k Builder<'k>, row: I32<'k>) -> [I32<'k>; 2] {
        let route = self.route(b);
        let pair: I32<'k> = route.index(row + b.i32(self.experts + 1), 4).load_scalar();
        [pair / self.top_k as i32, pair % self.top_k as i32]
    }

    /// Fills the stages, by a whole warpgroup.
    fn produce<'k>(&self, b: &'k Builder<'k>, ring: &Ring<'k, '_>, tiles: &ExpertTiles<'k, '_>) {
        let (tile, map) = (&self.tile, b.tensor_map(0));
        let factors = self.factors.bind(b);
        let leads = b.warp().eq(self.consumers(b) / 32) & b.elected();
        b.if_(leads, || b.prefetch_tensor_map(map));
        let row_bytes = self.row_bytes();
        tiles.each(ring.start(), |ExpertTile { place, end }, parity| {
            // Rows beyond the expert's are not read: they are zeros, and so are their products.
            let row_at = |row: I32<'k>| factors.a.at(&self.pair(b, (place.row + row).min(end - 1)));
            let gather = Gather::new(b, ring, row_bytes, end - place.row, &row_at);
            let copy = |step: Step<'k>, (): ()| {
                let full = ring.at(tile.full(step.stage));
                b.mbarrier_wait(ring.at(tile.empty(step.stage)), step.parity ^ 1);
                b.if_(leads, || {
                    b.mbarrier_expect(full, tile.stage_bytes(false));
                    let mut at = vec![step.index * tile.depth() as i32, place.column];
                    at.extend((self.experts > 1).then_some(place.batch));
                    b.tensor_copy(ring.at(tile.w(step.stage)), map, &at, full);
                });
                gather.copy(step);
            };
            let (parity, ()) = ring.each(parity, (), copy);
            gather.end();
            parity
        });
    }

    /// Bytes of a row of `a`.
    fn row_bytes(&self) -> u64 {
        self.product.k.constant().unwrap_or(0) * self.tile.dtype.bytes()
    }

    /// Products and results, by the multiplying warpgroups.
    fn consume<'k>(&self, b: &'k Builder<'k>, ring: &Ring<'k, '_>, tiles: &ExpertTiles<'k, '_>) {
        let consumer = Consumer::new(b, ring, &self.factors);
        let c = Tensor::operand(b, self.operands() - 1, &self.c);
        tiles.each(ring.start(), |ExpertTile { place, end }, parity| {
            let (parity, sums) = consumer.multiply(place, parity);
            let out = |row: I32<'k>| {
                let row = place.row + row;
                let pair = self.pair(b, row.min(end - 1));
                RowOut { exists: row.lt(end), c: c.at(&pair), add: None }
            };
            for (wave, sums) in (0..).zip(sums.chunks((self.tile.columns / 2) as usize)) {
                let row = consumer.first_row + b.i32(wave * wgmma::ROWS);
                results::scatter(b, self.panels, &self.product, row, place.column, sums, &out);
            }
            parity
        });
    }
}
