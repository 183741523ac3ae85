//! Both products without tensor cores: few rows, types and shapes that those do not multiply.

use super::activate::Activate;
use super::member::Tasks;
use super::sorted::{Rows, turns};
use crate::builder::{Builder, I32};
use crate::kernels::factors::Factors;
use crate::kernels::hopper::{ExpertTiles, First, Rows as TileRows, SortedRows};
use crate::kernels::product::Product;
use crate::kernels::variant::Variant;
use moec_ir::Sizes;
use moec_ir::kernel::View;
use moec_ir::kernel::exchange::Split;

/// One of the products.
pub(super) struct OnCores {
    factors: Factors,
    product: Product,
    variant: Variant,
}

impl OnCores {
    /// For about `rows` rows of each expert.
    pub(super) fn new(factors: &Factors, c: &View, rows: u64, sizes: Sizes) -> Self {
        let product = Product::new(factors, None, c);
        let variant = Variant::new(&product, rows, sizes);
        Self { factors: factors.clone(), product, variant }
    }

    /// Threads of a CTA, at least.
    pub(super) fn threads(&self) -> u32 {
        self.variant.threads()
    }

    /// Rows of a block, and parts in which its results are counted.
    pub(super) fn block(&self) -> [u64; 2] {
        [self.variant.rows(), self.across()]
    }

    fn across(&self) -> u64 {
        self.factors.columns().div_ceil(self.variant.columns())
    }

    /// The product of all blocks of this CTA.
    fn run<'k>(&self, b: &'k Builder<'k>, split: Split, rows: &Rows<'k, '_>) {
        let variant = &self.variant;
        let experts = rows.member.exchange.experts_each();
        let tiles = ExpertTiles {
            b,
            rows: TileRows::Sorted(rows.plan.route),
            experts,
            tile: [variant.rows(), variant.columns()],
            across: self.across(),
            step: u64::from(split.compute),
            first: First::Is(b.cta(0) - b.i32(split.comm)),
            at_once: turns(experts, variant.rows()),
        };
        let factors = self.factors.bind(b);
        tiles.each((), |tile, ()| {
            rows.wait_all(&tile, b.thread());
            b.barrier();
            let (first, end) = (tile.place.row, tile.end);
            let a = |row: I32<'k>| rows.a((first + row).min(end - 1));
            let out = |row: I32<'k>| {
                let mut out = rows.out(first + row, end);
                out.exists = out.exists & row.lt(b.i32(variant.rows()));
                out
            };
            let column_block = tile.place.column / variant.columns() as i32;
            let weights = factors.w.at(&[tile.place.batch]);
            let body = || variant.body(b, &self.product, column_block, &a, weights, &out);
            match variant {
                // Threads of tiles meet at barriers.
                Variant::Many(_) => body(),
                _ if b.threads() == variant.threads() => body(),
                _ => b.if_(b.thread().lt(b.i32(variant.threads())), body),
            }
            b.barrier();
            b.if_(b.warp().eq(b.i32(0)), || rows.count(&tile));
        });
    }
}

/// What the computing CTAs do.
pub(super) fn compute<'k>(
    b: &'k Builder<'k>,
    products: &[OnCores; 2],
    activate: &Activate<'_>,
    split: Split,
    rows: [&Rows<'k, '_>; 2],
) {
    b.note("role: multiply, first product");
    products[0].run(b, split, rows[0]);
    let warps = b.threads() / 32;
    let own = (b.cta(0) - b.i32(split.comm)) * warps.cast_signed() + b.warp();
    let tasks = Tasks { first: own, step: u64::from(split.compute * warps) };
    activate.run(b, &rows[0].progress, &rows[0].plan, tasks);
    b.note("role: multiply, second product");
    products[1].run(b, split, rows[1]);
}
