//! Both products on tensor cores, one after the other in the same CTAs.

use super::activate::Activate;
use super::member::Tasks;
use super::sorted::{Rows, turns};
use crate::builder::Builder;
use crate::kernels::hopper::{ExpertTiles, First, Sorted};
use moec_ir::kernel::exchange::Split;

/// The number of the barrier at which stages pass from one product to the next.
const STAGES: u64 = 1;

/// What the computing CTAs do.
pub(super) fn compute<'k>(
    b: &'k Builder<'k>,
    products: &[Sorted; 2],
    activate: &Activate<'_>,
    split: Split,
    rows: [&Rows<'k, '_>; 2],
) {
    let [first, second] = products;
    let rings = [first.ring(b), second.ring(b)];
    rings.iter().for_each(Sorted::prepare);
    let route = rows[0].plan.route;
    let of_cta = b.cta(0) - b.i32(split.comm);
    let tiles = products.each_ref().map(|product| {
        let tiles = product.tiles(b, route);
        let at_once = turns(tiles.experts, tiles.tile[0]);
        ExpertTiles { first: First::Is(of_cta), at_once, ..tiles }
    });
    let (threads, warps) = (u64::from(b.threads()), first.consumers() * 4);
    // Rows that are waited for take more of a gathering thread than rows that are there.
    let [few, many] = match (first.consumers(), first.registers()) {
        (2, [few, many]) => [few + 16, many - 8],
        (_, registers) => registers,
    };
    b.if_or(
        b.warp().lt(b.i32(warps)),
        || {
            b.take_registers(many);
            b.note("role: multiply, first product");
            first.consume(b, &rings[0], &tiles[0], rows[0]);
            // What threads wrote to shared memory comes before the copies of the next product.
            b.fence_async();
            b.named_arrive(STAGES, threads);
            let own = of_cta * warps as i32 + b.warp();
            let tasks = Tasks { first: own, step: u64::from(split.compute) * warps };
            activate.run(b, &rows[0].progress, &rows[0].plan, tasks);
            b.note("role: multiply, second product");
            second.consume(b, &rings[1], &tiles[1], rows[1]);
        },
        || {
            b.give_registers(few);
            b.note("role: gather, first product");
            first.produce(b, &rings[0], &tiles[0], 0, rows[0]);
            b.fence_async();
            b.named_barrier(STAGES, threads);
            b.note("role: gather, second product");
            second.produce(b, &rings[1], &tiles[1], 1, rows[1]);
        },
    );
}
