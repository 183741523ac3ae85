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
//! Keys may be quantised (`moec_ir::graph::PackedRow`): then a warpgroup unpacks them.
//!
//! In reading order: `layout` (shared memory), `unpack` (quantised keys), `consumer` (the products).

mod consumer;
mod layout;
mod unpack;

use super::{Operands, Problem};
use crate::builder::{Builder, I32};
use crate::kernels::hopper::tensor_map;
use crate::kernels::{Design, launch};
use consumer::Consumer;
use layout::{CONSUMERS, Half, KEYS, Layout, PANEL, ROWS, WARPGROUP};
use moec_ir::plan::{Geometry, TensorMap};
use moec_ir::{DType, Target};
use unpack::Unpacker;

/// Registers of a copying and of a multiplying thread: together what 384 threads begin with, 168
/// each (multiples of 8; PTX ISA 9.7.19.5).
const REGISTERS: [u32; 2] = [24, 240];
/// The same where a warpgroup unpacks keys.
const REGISTERS_TO_UNPACK: [u32; 2] = [88, 208];
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
        let tensor_maps = Self::tensor_maps(problem)?;
        let layout = Layout::new(problem, target)?;
        Some(Self { problem: problem.clone(), layout, tensor_maps })
    }

    /// What does not fit, where that alone keeps the design from being.
    pub(super) fn limit(problem: &Problem, target: &Target) -> Option<String> {
        Self::tensor_maps(problem)?;
        Layout::limit(problem, target)
    }

    /// The tensor maps, where sizes are not all that matters: all heads share keys whose leading
    /// elements are the values, and tensor copies can read the operands.
    fn tensor_maps(problem: &Problem) -> Option<Vec<TensorMap>> {
        let dtype = problem.q[0].dtype;
        // What tensor copies read: not what is quantised.
        let copied = || problem.k.iter().skip(usize::from(problem.quantized.is_some()));
        let inputs = || problem.q.iter().chain(copied());
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
        if !Self::unpacks(problem, dtype) {
            return None;
        }
        let map = |(at, view): (usize, _)| tensor_map(at, view, KEYS);
        let of_keys = copied().map(|view| {
            // One head: `[1, rows, d]`.
            let mut view = view.clone();
            view.shape.swap(0, 1);
            view.strides.swap(0, 1);
            view
        });
        let views: Vec<_> = problem.q.iter().cloned().chain(of_keys).collect();
        let parts = problem.q.len();
        let operands = (0..parts).chain(2 * parts - copied().count()..2 * parts);
        operands.zip(&views).map(map).collect()
    }

    /// Whether keys are not quantised, or can be unpacked: to bfloat16, whose exponents hold all
    /// products with scales, in whole panels that share them, 16 bytes at once.
    fn unpacks(problem: &Problem, dtype: DType) -> bool {
        let Some(quantized) = &problem.quantized else { return true };
        let keys = &problem.k[0];
        let aligned = |bytes: u64| bytes.is_multiple_of(16);
        dtype == DType::Bf16
            && quantized.block.is_multiple_of(PANEL)
            && keys.strides[2] == 1
            && aligned(keys.align)
            && aligned(keys.strides[0])
    }

    /// The tensor map of a part of the keys that is copied.
    fn map_of_keys(&self, part: usize) -> usize {
        let parts = self.problem.q.len();
        part + self.tensor_maps.len() - parts
    }

    /// Elements that share a scale.
    fn quantized_block(&self) -> u64 {
        self.problem.quantized.as_ref().map_or(1, |quantized| quantized.block)
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
        let unpacker = Unpacker::new(&cta);
        let registers = if unpacker.is_some() { REGISTERS_TO_UNPACK } else { REGISTERS };
        let warpgroup = b.warpgroup();
        b.if_or(
            warpgroup.lt(b.i32(CONSUMERS)),
            || {
                b.take_registers(registers[1]);
                let consume = |which| Consumer::new(&cta, which).consume();
                b.if_or(warpgroup.eq(b.i32(0)), || consume(0), || consume(1));
            },
            || {
                b.give_registers(registers[0]);
                match &unpacker {
                    Some(unpacker) => unpacker.unpack(),
                    None => {
                        let first = b.warp().eq(b.i32(CONSUMERS * WARPGROUP / 32));
                        b.if_(first, || b.if_(b.elected(), || cta.produce()));
                    }
                }
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
                    b.mbarrier_init(self.at(layout.full(page, half)), self.fillers(half));
                    // Each warp of the one warpgroup that reads it last.
                    b.mbarrier_init(self.at(layout.empty(page, half)), WARPGROUP / 32);
                }
            }
            b.fence_mbarrier_init();
        });
        b.barrier();
    }

    /// Arrivals that fill half of a page: of the thread that copies, and of the warps that unpack.
    fn fillers(&self, half: Half) -> u64 {
        let problem = &self.design.problem;
        match problem.quantized {
            None => 1,
            Some(_) => WARPGROUP / 32 + u64::from(half == Half::Far && problem.k.len() > 1),
        }
    }

    /// Where the page of that number lies; beyond the last, that one again: none of its keys counts.
    fn page(&self, number: I32<'k>) -> I32<'k> {
        let number = number.min(self.pages - 1);
        let lists = self.operands.pages.map(|(list, _)| list.index(self.first / KEYS as i32, 4));
        lists.map_or(number, |list| list.index(number, 4).load_scalar())
    }

    /// Copies the queries; one thread.
    fn copy_queries(&self) {
        let (b, layout) = (self.b, &self.design.layout);
        let full = self.at(layout.queries_full());
        b.mbarrier_expect(full, layout.queries_bytes());
        for (panel, source) in layout.panels() {
            let at = [b.i32(source.column), self.first_head, self.token];
            b.tensor_copy(self.at(layout.queries(panel)), b.tensor_map(source.part), &at, full);
        }
    }

    /// Copies the queries and, step after step, two pages of keys; one thread.
    fn produce(&self) {
        let (b, layout) = (self.b, &self.design.layout);
        self.copy_queries();
        b.for_loop(b.i32(0), self.steps, b.i32(1), (), |step, ()| {
            for which in 0..CONSUMERS {
                let page = self.page(step * CONSUMERS as i32 + which as i32);
                for half in [Half::Near, Half::Far] {
                    let full = self.at(layout.full(which, half));
                    b.mbarrier_wait(self.at(layout.empty(which, half)), (step % 2) ^ 1);
                    b.mbarrier_expect(full, layout.half_bytes(which, half));
                    for (panel, source) in layout.panels_of(which, half) {
                        let map = b.tensor_map(self.design.map_of_keys(source.part));
                        let at = [b.i32(source.column), page * KEYS as i32];
                        b.tensor_copy(self.at(layout.keys(which, panel)), map, &at, full);
                    }
                }
            }
        });
    }
}
