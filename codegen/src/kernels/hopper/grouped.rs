//! One matrix per expert: routed rows are gathered, multiplied with their expert's matrix, and
//! their results go to their own places. Any expert may have no rows.

use super::consumer::Consumer;
use super::dense::multiplies;
use super::expert_tiles::{ExpertTile, ExpertTiles, First, Rows};
use super::gather::Gather;
use super::operand::tensor_map;
use super::panels::Panels;
use super::results;
use super::ring::{Ring, Step};
use super::tile::{Problem, ROW_BYTES, Tile, WARPGROUP};
use super::widened::{self, Widened};
use crate::builder::{Builder, I32, Ptr, wgmma};
use crate::kernels::factors::{Bound, Factors};
use crate::kernels::product::{Product, RowIn, RowOut};
use crate::kernels::{Design, Step as Workload, Tiles};
use crate::tensor::Tensor;
use moec_ir::kernel::View;
use moec_ir::plan::{Geometry, TensorMap};
use moec_ir::{Dim, Target};

/// Bytes whose multiples addresses of gathered rows are (PTX ISA 9.7.9.25.3.1, `cp.async`).
const ALIGN: u64 = 16;

/// A product of rows that a plan has sorted by expert, wherever they are.
pub(in crate::kernels) struct Sorted {
    factors: Factors,
    experts: u64,
    /// Tiles side by side.
    across: u64,
    steps: u64,
    product: Product,
    tile: Tile,
    weights: TensorMap,
    panels: Option<Panels>,
}

/// Where the rows of a product are, by their number in the plan, and who waits for whom.
pub(in crate::kernels) trait SortedRows<'k> {
    /// The row of `a`.
    fn a(&self, row: I32<'k>) -> RowIn<'k>;
    /// Where the results of a row go; it exists where it is before `end`.
    fn out(&self, row: I32<'k>, end: I32<'k>) -> RowOut<'k>;
    /// Runs in all threads of the warpgroup that gathers, before it reads the tile's rows.
    fn before(&self, _: &ExpertTile<'k>) {}
    /// Runs in each warp that multiplies, when it has stored its results of the tile.
    fn after(&self, _: &ExpertTile<'k>) {}
}

/// How many rows a product has, and where they are multiplied.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Load<'t> {
    /// Rows in all, about.
    pub(in crate::kernels) pairs: u64,
    /// Rows of an expert that has some, about.
    pub(in crate::kernels) rows: u64,
    pub(in crate::kernels) target: &'t Target,
    /// Warpgroups that multiply, where that is settled.
    pub(in crate::kernels) consumers: Option<u64>,
    /// Most columns of a tile.
    pub(in crate::kernels) columns: u64,
}

impl Sorted {
    /// The product, where the operands can be copied and tensor cores multiply them.
    pub(in crate::kernels) fn new(factors: &Factors, c: &View, load: Load<'_>) -> Option<Self> {
        let Factors { a, w, scales, .. } = factors;
        let widened = Widened::of(factors);
        let [experts, columns, k] = [0, 1, 2].map(|axis| w.shape[axis].constant());
        let (experts, columns, k) = (experts?, columns?, k?);
        let rows_are_aligned = gathers(a) && factors.scales_of_a().is_none_or(gathers);
        if experts == 0 || !multiplies(factors) || !rows_are_aligned || c.strides[2] != 1 {
            return None;
        }
        let problem = Problem {
            dtype: w.dtype,
            rows: load.rows,
            columns,
            batch: experts.min(load.pairs).max(1),
            depth: k * if widened.is_some() { 1 } else { w.dtype.bytes() },
            scaled: scales.is_some(),
            scaled_rows: factors.scales_of_a().is_some(),
            widened,
            gathers: true,
            clusters: false,
            transposed: false,
        };
        let tile = Tile::choose_within((load.consumers, load.columns), problem, load.target);
        Some(Self {
            weights: tensor_map(factors.places.w, w, tile.columns)?,
            across: columns.div_ceil(tile.columns),
            steps: k.div_ceil(tile.depth()),
            product: Product::new(factors, None, c),
            factors: factors.clone(),
            experts,
            panels: Panels::fit(&tile, c, load.target),
            tile,
        })
    }

    /// Lays out two products that a CTA computes one after the other, for results of these views.
    pub(in crate::kernels) fn share(products: &mut [Self; 2], c: [&View; 2], target: &Target) {
        let [first, second] = products;
        Tile::share(&mut first.tile, &mut second.tile);
        for (product, c) in products.iter_mut().zip(c) {
            product.panels = Panels::fit(&product.tile, c, target);
        }
    }

    /// Rows of a block, tiles side by side, and warps that store results of each.
    pub(in crate::kernels) fn blocks(&self) -> [u64; 3] {
        [self.tile.rows, self.across, self.consumers() * u64::from(WARPGROUP / 32)]
    }

    /// Warpgroups that multiply.
    pub(in crate::kernels) fn consumers(&self) -> u64 {
        self.tile.consumers()
    }

    /// Threads of a CTA.
    pub(in crate::kernels) fn threads(&self) -> u32 {
        self.tile.threads()
    }

    /// Registers of a gathering and of a multiplying thread.
    pub(in crate::kernels) fn registers(&self) -> [u32; 2] {
        self.tile.registers()
    }

    /// Bytes of shared memory.
    pub(in crate::kernels) fn shared_bytes(&self) -> u64 {
        self.panels.map_or(self.tile.shared_bytes(), |panels| panels.end())
    }

    /// The tensor map of the weights.
    pub(in crate::kernels) fn weights(&self) -> &TensorMap {
        &self.weights
    }

    /// The stages, as code uses them.
    pub(in crate::kernels) fn ring<'k>(&self, b: &'k Builder<'k>) -> Ring<'k, '_> {
        Ring::new(b, &self.tile, self.steps)
    }

    /// Makes the barriers of the stages; all threads of the CTA come here.
    pub(in crate::kernels) fn prepare(ring: &Ring<'_, '_>) {
        // Each thread that gathers, and the one that starts tensor copies once more.
        ring.prepare(u64::from(WARPGROUP) + 1);
    }

    /// The tiles of a CTA, all blocks of an expert at once.
    pub(in crate::kernels) fn tiles<'k>(
        &self,
        b: &'k Builder<'k>,
        route: Ptr<'k>,
    ) -> ExpertTiles<'k> {
        ExpertTiles {
            b,
            rows: Rows::Sorted(route),
            experts: self.experts,
            tile: [self.tile.rows, self.tile.columns],
            across: self.across,
            step: self.tile.ctas,
            first: First::Cta,
            at_once: None,
        }
    }

    /// Threads that multiply.
    fn multiplying<'k>(&self, b: &'k Builder<'k>) -> I32<'k> {
        b.i32(self.tile.consumers() * u64::from(WARPGROUP))
    }

    /// Fills the stages, by a whole warpgroup; `map` is the number of the weights' tensor map.
    pub(in crate::kernels) fn produce<'k>(
        &self,
        b: &'k Builder<'k>,
        ring: &Ring<'k, '_>,
        tiles: &ExpertTiles<'k>,
        map: usize,
        rows: &dyn SortedRows<'k>,
    ) {
        let (tile, map) = (&self.tile, b.tensor_map(map));
        let leads = b.warp().eq(self.multiplying(b) / 32) & b.elected();
        b.if_(leads, || b.prefetch_tensor_map(map));
        let row_bytes = self.row_bytes();
        tiles.each(ring.start(), |expert_tile, parity| {
            let ExpertTile { place, end } = expert_tile;
            rows.before(&expert_tile);
            // Rows beyond the expert's are not read: they are zeros, and so are their products.
            let row_at = |row: I32<'k>| rows.a((place.row + row).min(end - 1));
            let gather = Gather::new(b, ring, row_bytes, end - place.row, &row_at);
            let copy = |step: Step<'k>, (): ()| {
                let full = ring.full(step.stage);
                b.mbarrier_wait(ring.empty(step.stage), step.parity ^ 1);
                b.if_(leads, || {
                    b.mbarrier_expect(full, tile.stage_bytes(false));
                    let across = tile.depth() / tile.panels_of_w();
                    for panel in 0..tile.panels_of_w() {
                        let k = step.index * tile.depth() as i32 + b.i32(panel * across);
                        let mut at = vec![k, place.column];
                        at.extend((self.experts > 1).then_some(place.batch));
                        let to = tile.w(step.stage) + panel * tile.columns * ROW_BYTES;
                        b.tensor_copy(ring.at(to), map, &at, full);
                    }
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
        self.product.k.constant().unwrap_or(0) * self.factors.a.dtype.bytes()
    }

    /// Products and results, by the multiplying warpgroups.
    pub(in crate::kernels) fn consume<'k>(
        &self,
        b: &'k Builder<'k>,
        ring: &Ring<'k, '_>,
        tiles: &ExpertTiles<'k>,
        rows: &dyn SortedRows<'k>,
    ) {
        let consumer = Consumer::new(b, ring, &self.factors);
        tiles.each(ring.start(), |expert_tile, parity| {
            let ExpertTile { place, end } = expert_tile;
            let (parity, sums) = consumer.multiply(place, parity);
            let out = |row: I32<'k>| rows.out(place.row + row, end);
            for (wave, sums) in (0..).zip(sums.chunks((self.tile.columns / 2) as usize)) {
                let row = consumer.first_row + b.i32(wave * wgmma::ROWS);
                results::scatter(b, self.panels, &self.product, row, place.column, sums, &out);
            }
            rows.after(&expert_tile);
            parity
        });
    }
}

/// Whether rows of that matrix can be copied 16 bytes at a time.
fn gathers(view: &View) -> bool {
    let last = view.shape.len() - 1;
    let aligned = |axis: usize| {
        view.shape[axis].is_one() || (view.strides[axis] * view.dtype.bytes()).is_multiple_of(ALIGN)
    };
    let dense = view.strides[last] == 1 || view.shape[last].is_one();
    view.align >= ALIGN && dense && (0..last).all(aligned)
}

/// A product of routed rows.
pub(in crate::kernels) struct Grouped {
    sorted: Sorted,
    c: View,
    top_k: u64,
}

/// The design for `rows` rows per expert that has some, where tensor cores can multiply.
pub(in crate::kernels) fn design(
    factors: &Factors,
    c: &View,
    top_k: u64,
    rows: u64,
    step: Workload,
    target: &Target,
) -> Option<Grouped> {
    let pairs = c.shape[0].eval(&step.sizes) * top_k;
    let load = Load { pairs, rows, target, consumers: None, columns: u64::MAX };
    Some(Grouped { sorted: Sorted::new(factors, c, load)?, c: c.clone(), top_k })
}

impl Design for Grouped {
    fn geometry(&self) -> Geometry {
        let Sorted { tile, experts, across, weights, .. } = &self.sorted;
        // At most floor((pairs + experts * (rows - 1)) / rows) blocks of rows.
        let pairs = self.c.shape[0].clone() * self.top_k;
        let covered = pairs + Dim::from((experts - 1) * (tile.rows - 1));
        tile.geometry(&covered, *across, self.sorted.shared_bytes(), vec![weights.clone()])
    }

    fn operands(&self) -> usize {
        self.sorted.factors.operands() + 2
    }

    fn tiles(&self) -> Option<Tiles> {
        Some(self.sorted.tile.tiles(self.sorted.product.k.constant()?, &self.c))
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let sorted = &self.sorted;
        let ring = sorted.ring(b);
        Sorted::prepare(&ring);
        // The plan of the routes: offsets of the experts' rows, then the rows.
        let route = b.operand(sorted.factors.operands()).read_only();
        let tiles = sorted.tiles(b, route);
        let rows = Routed {
            b,
            route,
            experts: sorted.experts,
            top_k: self.top_k as i32,
            factors: sorted.factors.bind(b),
            c: Tensor::operand(b, self.operands() - 1, &self.c),
        };
        let [few, many] = sorted.registers();
        b.if_or(
            b.thread().lt(sorted.multiplying(b)),
            || {
                b.take_registers(many);
                sorted.consume(b, &ring, &tiles, &rows);
            },
            || {
                let produce = || {
                    b.give_registers(few);
                    sorted.produce(b, &ring, &tiles, 0, &rows);
                };
                widened::beside(&ring, sorted.multiplying(b), produce, || {
                    tiles.each(ring.start(), |_, parity| widened::widen_tile(&ring, parity));
                });
            },
        );
    }
}

/// Rows that lie where their tokens do.
struct Routed<'k> {
    b: &'k Builder<'k>,
    route: Ptr<'k>,
    experts: u64,
    top_k: i32,
    factors: Bound<'k>,
    c: Tensor<'k>,
}

impl<'k> Routed<'k> {
    /// A routed row: its token and which of the token's experts this is.
    fn pair(&self, row: I32<'k>) -> [I32<'k>; 2] {
        let pair: I32<'k> = self.route.index(row + self.b.i32(self.experts + 1), 4).load_scalar();
        [pair / self.top_k, pair % self.top_k]
    }
}

impl<'k> SortedRows<'k> for Routed<'k> {
    fn a(&self, row: I32<'k>) -> RowIn<'k> {
        self.factors.a.at(&self.pair(row))
    }

    fn out(&self, row: I32<'k>, end: I32<'k>) -> RowOut<'k> {
        let pair = self.pair(row.min(end - 1));
        RowOut { exists: row.lt(end), c: self.c.at(&pair), add: None }
    }
}
