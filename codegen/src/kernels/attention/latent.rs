//! Attention of many heads that share a latent in a paged cache on Hopper's tensor cores, after
//! FlashMLA's dense decoding kernel (deepseek-ai/FlashMLA, docs/20250422-new-kernel-deep-dive.md).
//!
//! A CTA takes a token and 64 of its heads. Sums of values fill the registers of two warpgroups,
//! half of each value in either. Keys come a page at a time, two pages to a step: each warpgroup
//! turns the scores of one page into weights, in registers, and gives them to the other through
//! shared memory; both add the values of both pages to their half. The greatest score goes from the
//! one to the other and back, so that the weights of one page are computed while tensor cores
//! multiply for the other ("seesaw"). Values are the leading elements of keys, read across them.
//!
//! In reading order: `layout` (shared memory), `consumer` (the products).

mod consumer;
mod layout;

use super::{Operands, Problem};
use crate::builder::{Builder, I32};
use crate::kernels::hopper::tensor_map;
use crate::kernels::{Design, launch};
use consumer::Consumer;
use layout::{CONSUMERS, Half, KEYS, Layout, ROWS, WARPGROUP};
use moec_ir::plan::{Geometry, TensorMap};
use moec_ir::{DType, Target};

/// Registers of a copying and of a multiplying thread: together what 384 threads begin with, 168
/// each (multiples of 8; PTX ISA 9.7.19.5).
const REGISTERS: [u32; 2] = [24, 240];
/// Heads from which on a product of 64 rows pays: with fewer, reading the keys bounds the time, and
/// CUDA cores keep up with that.
const FEWEST_HEADS: u64 = 16;

/// Attention to a latent.
pub(super) struct Latent {
    problem: Problem,
    layout: Layout,
    /// Of each part of the queries, then of each part of the keys.
    tensor_maps: Vec<TensorMap>,
}

impl Latent {
    /// The design, where all heads share keys whose leading elements are the values, tensor copies
    /// can read the operands, and shared memory holds them.
    pub(super) fn new(problem: &Problem, target: &Target) -> Option<Self> {
        let dtype = problem.v.dtype;
        let inputs = || problem.q.iter().chain(&problem.k);
        let shared = problem.values_in_keys && problem.sharing == problem.heads;
        let paged = problem.page == Some(KEYS);
        let multiplied = matches!(dtype, DType::Bf16 | DType::F16);
        let stored = problem.out.strides.last() == Some(&1);
        if !shared || !paged || !multiplied || !stored || problem.heads < FEWEST_HEADS {
            return None;
        }
        // The greatest score times the factor is the greatest of the products.
        if problem.scale <= 0.0 || inputs().any(|view| view.dtype != dtype) {
            return None;
        }
        let layout = Layout::new(problem, target)?;
        let map = |(at, view)| tensor_map(at, view, KEYS);
        let of_keys = problem.k.iter().map(|view| {
            // One head: `[1, rows, d]`.
            let mut view = view.clone();
            view.shape.swap(0, 1);
            view.strides.swap(0, 1);
            view
        });
        let views: Vec<_> = problem.q.iter().cloned().chain(of_keys).collect();
        let tensor_maps = views.iter().enumerate().map(map).collect::<Option<Vec<_>>>()?;
        Some(Self { problem: problem.clone(), layout, tensor_maps })
    }
}

/// What the threads of a CTA have in common.
struct Cta<'k, 'd> {
    b: &'k Builder<'k>,
    design: &'d Latent,
    operands: &'d Operands<'k>,
    /// Start of shared memory.
    base: I32<'k>,
    token: I32<'k>,
    chunk: I32<'k>,
    first_head: I32<'k>,
    /// The first of the rows.
    first: I32<'k>,
    /// Keys of the chunk that the token sees, and pages of them.
    count: I32<'k>,
    pages: I32<'k>,
    /// Steps of two pages.
    steps: I32<'k>,
}

impl Design for Latent {
    /// Heads along x: neighbours read the same keys.
    fn geometry(&self) -> Geometry {
        let chunks = self.problem.chunks();
        let grid = [
            (self.problem.heads.into(), ROWS),
            (self.problem.tokens().clone(), 1),
            (chunks.into(), 1),
        ];
        Geometry {
            shared_bytes: self.layout.shared_bytes() as u32,
            tensor_maps: self.tensor_maps.clone(),
            ..launch(&grid, (WARPGROUP * (CONSUMERS + 1)) as u32)
        }
    }

    fn operands(&self) -> usize {
        self.problem.operands()
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let operands = self.problem.bind(b);
        let token = b.cta(1);
        // The same in all lanes, visibly: no branch on them divides a warp.
        let chunk = b.cta(2);
        let (first, count) = operands.keys_of_chunk(token, chunk, self.problem.chunks());
        let [first, count] = [first, count].map(|n| n.shuffle_from(b.i32(0)));
        let pages = count.div_ceil(KEYS as i32);
        let cta = Cta {
            b,
            design: self,
            operands: &operands,
            base: b.dynamic_shared(),
            token,
            chunk,
            first_head: b.cta(0) * ROWS as i32,
            first,
            count,
            pages,
            steps: pages.div_ceil(CONSUMERS as i32),
        };
        cta.prepare();
        let warpgroup = b.warpgroup();
        b.if_or(
            warpgroup.lt(b.i32(CONSUMERS)),
            || {
                b.take_registers(REGISTERS[1]);
                let consume = |which| Consumer::new(&cta, which).consume();
                b.if_or(warpgroup.eq(b.i32(0)), || consume(0), || consume(1));
            },
            || {
                b.give_registers(REGISTERS[0]);
                let first = b.warp().eq(b.i32(CONSUMERS * WARPGROUP / 32));
                b.if_(first, || b.if_(b.elected(), || cta.produce()));
            },
        );
    }
}

impl<'k> Cta<'k, '_> {
    fn at(&self, offset: u64) -> I32<'k> {
        self.base + offset as i32
    }

    /// Makes the barriers; all threads of the CTA come here.
    fn prepare(&self) {
        let (b, layout) = (self.b, &self.design.layout);
        b.if_(b.thread().eq(b.i32(0)), || {
            b.mbarrier_init(self.at(layout.queries_full()), 1);
            for page in 0..CONSUMERS {
                for half in [Half::Near, Half::Far] {
                    b.mbarrier_init(self.at(layout.full(page, half)), 1);
                    // Each warp of the one warpgroup that reads it last.
                    b.mbarrier_init(self.at(layout.empty(page, half)), WARPGROUP / 32);
                }
            }
            b.fence_mbarrier_init();
        });
        b.barrier();
    }

    /// Copies the queries and, step after step, two pages of keys; one thread.
    fn produce(&self) {
        let (b, layout) = (self.b, &self.design.layout);
        let parts = self.design.problem.q.len();
        let full = self.at(layout.queries_full());
        b.mbarrier_expect(full, layout.queries_bytes());
        for (panel, source) in layout.panels() {
            let at = [b.i32(source.column), self.first_head, self.token];
            b.tensor_copy(self.at(layout.queries(panel)), b.tensor_map(source.part), &at, full);
        }
        let pages = self.operands.pages.map(|(list, _)| list.index(self.first / KEYS as i32, 4));
        b.for_loop(b.i32(0), self.steps, b.i32(1), (), |step, ()| {
            for which in 0..CONSUMERS {
                // Beyond the last page, that one again; none of its keys counts.
                let page = (step * CONSUMERS as i32 + which as i32).min(self.pages - 1);
                let page: I32<'k> = pages.map_or(page, |list| list.index(page, 4).load_scalar());
                for half in [Half::Near, Half::Far] {
                    let full = self.at(layout.full(which, half));
                    b.mbarrier_wait(self.at(layout.empty(which, half)), (step % 2) ^ 1);
                    b.mbarrier_expect(full, layout.half_bytes(which, half));
                    for (panel, source) in layout.panels_of(which, half) {
                        let map = b.tensor_map(parts + source.part);
                        let at = [b.i32(source.column), page * KEYS as i32];
                        b.tensor_copy(self.at(layout.keys(which, panel)), map, &at, full);
                    }
                }
            }
        });
    }
}
