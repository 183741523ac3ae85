//! One matrix per expert: rows that a route plan has sorted by expert.
//!
//! The sorted rows are cut into blocks of rows of one expert; a CTA finds its block from the
//! plan's offsets. How many blocks there are is known only on the device, so the grid covers
//! the worst case and CTAs beyond the last block end at once.

use super::factors::Factors;
use super::product::{Product, RowOut};
use super::variant::Variant;
use super::{Design, Step, hopper};
use crate::builder::{Bool, Builder, I32, Ptr};
use crate::tensor::Tensor;
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;
use moec_ir::{Dim, Target};

/// With more rows per expert than this, tensor cores multiply where they can. One row takes about
/// three instructions for each number of its expert's matrix, which CUDA cores issue faster than
/// memory delivers; more rows take more, or read the matrix again.
const ONE_BY_ONE: u64 = 1;

struct GroupedGemm {
    factors: Factors,
    c: View,
    top_k: u64,
    experts: u64,
    product: Product,
    variant: Variant,
}

pub(super) fn design(
    factors: Factors,
    c: &View,
    top_k: u64,
    step: Step,
    target: &Target,
) -> Box<dyn Design> {
    let product = Product::new(&factors, None, c);
    let experts = factors.w.shape[0].constant().unwrap_or(1).max(1);
    let pairs = c.shape[0].eval(&step.sizes) * top_k;
    // Experts that have rows at all share them; few tokens reach few experts.
    let rows = pairs.div_ceil(experts.min(pairs).max(1));
    if rows > ONE_BY_ONE
        && let Some(design) = hopper::grouped(&factors, c, top_k, rows, step, target)
    {
        return Box::new(design);
    }
    let variant = Variant::new(&product, rows, step.sizes);
    Box::new(GroupedGemm { factors, c: c.clone(), top_k, experts, product, variant })
}

/// Rows of one expert, by their places in the sorted list.
#[derive(Clone, Copy)]
struct Block<'k> {
    exists: Bool<'k>,
    expert: I32<'k>,
    first: I32<'k>,
    end: I32<'k>,
}

impl Design for GroupedGemm {
    fn geometry(&self) -> Geometry {
        let (rows, columns) = (self.variant.rows(), self.variant.columns());
        // At most floor((pairs + experts * (rows - 1)) / rows) blocks.
        let pairs = self.c.shape[0].clone() * self.top_k;
        let covered = pairs + Dim::from((self.experts - 1) * (rows - 1));
        super::launch(&[(covered, rows), (self.product.n.clone(), columns)], self.variant.threads())
    }

    fn operands(&self) -> usize {
        self.factors.operands() + 2
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let factors = self.factors.bind(b);
        let route = b.operand(self.factors.operands()).read_only();
        let c = Tensor::operand(b, self.operands() - 1, &self.c);
        let rows = self.variant.rows();
        let block = if rows == 1 { self.row(b, route) } else { self.block(b, route, rows) };
        // A row of the block: its token and which of the token's experts this is.
        let pair = |row: I32<'k>| {
            let place = (block.first + row).min(block.end - 1) + b.i32(self.experts + 1);
            let pair = route.index(place, 4).load_scalar::<i32>();
            [pair / self.top_k as i32, pair % self.top_k as i32]
        };
        let row_of_a = |row: I32<'k>| factors.a.at(&pair(row));
        let out = |row: I32<'k>| RowOut {
            exists: (block.first + row).lt(block.end),
            c: c.at(&pair(row)),
            add: None,
        };
        b.if_(block.exists, || {
            let weights = factors.w.at(&[block.expert]);
            self.variant.body(b, &self.product, b.cta(1), &row_of_a, weights, &out);
        });
    }
}

impl GroupedGemm {
    /// Blocks of one row: the expert is found by bisecting the offsets.
    fn row<'k>(&self, b: &'k Builder<'k>, route: Ptr<'k>) -> Block<'k> {
        let first = b.cta(0);
        let mut expert = b.i32(0);
        let mut stride = self.experts.next_power_of_two() / 2;
        while stride > 0 {
            let next = expert + b.i32(stride);
            let known = next.min(b.i32(self.experts - 1));
            let offset = route.index(known, 4).load_scalar::<i32>();
            expert = next.when(offset.le(first) & next.eq(known), expert);
            stride /= 2;
        }
        Block { exists: b.truth(true), expert, first, end: first + 1 }
    }

    /// Blocks of up to `rows` rows: each warp sums up the experts' blocks, 32 experts at a time,
    /// until it has passed this CTA's.
    fn block<'k>(&self, b: &'k Builder<'k>, route: Ptr<'k>, rows: u64) -> Block<'k> {
        let wanted = b.cta(0);
        let (zero, n_experts) = (b.i32(0), b.i32(self.experts));
        let start = vec![zero, zero, zero, zero, zero];
        let found = b.while_loop(
            start,
            |s| {
                let [from, blocks, ..] = s[..] else { return b.truth(false) };
                from.lt(n_experts) & blocks.le(wanted)
            },
            |s| {
                let (from, before) = (s[0], s[1]);
                let expert = from + b.lane();
                let known = expert.min(n_experts - 1);
                let [first, end] =
                    [0, 1].map(|i| route.add_const(4 * i).index(known, 4).load_scalar::<i32>());
                let own = (end - first).div_ceil(rows as i32).when(expert.lt(n_experts), zero);
                let through = own.inclusive_sum() + before;
                let mine = wanted.lt(through) & (through - own).le(wanted);
                let lane = mine.ballot().lowest_one();
                let place = first + (wanted - (through - own)) * rows as i32;
                let total = through.shuffle_from(b.i32(31));
                vec![
                    from + 32,
                    total,
                    from + lane,
                    place.shuffle_from(lane),
                    end.shuffle_from(lane),
                ]
            },
        );
        Block {
            exists: wanted.lt(found[1]),
            expert: found[2],
            first: found[3],
            end: (found[3] + rows as i32).min(found[4]),
        }
    }
}
