//! Attention for many tokens on Hopper's tensor cores, after FlashAttention-3 (Shah et al.,
//! arXiv 2407.08608): scores stay in registers, and become the left operand of the product with
//! the values there.
//!
//! A CTA takes 128 neighbouring tokens and a head. One warp copies blocks of keys and of values to
//! two stages each; two warpgroups of 64 tokens multiply: the scores of a block are computed while
//! the values of the one before are added, and the weights of a block while the values of the one
//! before still are. CTAs whose tokens see most keys come first.
//!
//! Keys and values may lie in pages: the rows of a block come from as many places, and those of
//! values that no sequence owns are cleared before they are multiplied.
//!
//! In reading order: `layout` (sizes of blocks, shared memory), `rows` (which keys a token sees),
//! `pages` (where rows lie, which are nobody's), `consumer` (the products).

mod consumer;
mod layout;
mod pages;
mod rows;

use super::{Operands, Problem};
use crate::builder::{Builder, I32};
use crate::kernels::hopper::tensor_map;
use crate::kernels::{Design, launch};
use consumer::Consumer;
use layout::{CONSUMERS, Layout, ROWS, STAGES, WARPGROUP};
use moec_ir::kernel::View;
use moec_ir::plan::{Geometry, TensorMap};
use moec_ir::{DType, Target};
use rows::Span;

/// Registers of a copying and of a multiplying thread: together what 384 threads begin with, 168
/// each (multiples of 8; PTX ISA 9.7.19.5).
const REGISTERS: [u32; 2] = [24, 240];

/// Attention of many tokens.
pub(super) struct Flash {
    problem: Problem,
    layout: Layout,
    /// Of each part of the queries, of each part of the keys, and of the values.
    tensor_maps: Vec<TensorMap>,
}

impl Flash {
    /// The design, where tensor copies can read the operands, tensor cores multiply them, and
    /// shared memory and registers hold a block.
    pub(super) fn new(problem: &Problem, target: &Target) -> Option<Self> {
        if !Self::suits(problem) {
            return None;
        }
        let layout = Layout::new(problem, target)?;
        let tensor_maps = Self::tensor_maps(problem, layout.copied)?;
        Some(Self { problem: problem.clone(), layout, tensor_maps })
    }

    /// What does not fit, where that alone keeps the design from being.
    pub(super) fn limit(problem: &Problem, target: &Target) -> Option<String> {
        let suits = Self::suits(problem) && Self::tensor_maps(problem, ROWS).is_some();
        Layout::limit(problem, target).filter(|_| suits)
    }

    /// Whether tensor cores could multiply the operands, whatever their sizes.
    fn suits(problem: &Problem) -> bool {
        let dtype = problem.v.dtype;
        let inputs = || problem.q.iter().chain(&problem.k).chain([&problem.v]);
        let multiplied = matches!(dtype, DType::Bf16 | DType::F16);
        // A copy reads whole blocks: what follows the last key must be known to be the end, or of
        // the same page.
        let bounded = |view: &View| view.shape[0].constant().is_none();
        let bounded = match problem.page {
            Some(_) => problem.q.iter().all(bounded),
            None => inputs().all(bounded),
        };
        let stored = problem.out.strides[2] == 1 && problem.value.is_multiple_of(8);
        let paged = problem.page.is_none_or(|page| page >= pages::FEWEST_ROWS);
        let alike = inputs().all(|view| view.dtype == dtype);
        // The greatest score times the factor is the greatest of the products.
        paged && multiplied && bounded && stored && alike && problem.scale > 0.0
    }

    /// The tensor maps, of so many rows of keys at once, where tensor copies can read the operands.
    fn tensor_maps(problem: &Problem, copied: u64) -> Option<Vec<TensorMap>> {
        let parts = problem.q.len();
        let rows = |at: usize| if at < parts { ROWS } else { copied };
        let inputs = problem.q.iter().chain(&problem.k).chain([&problem.v]);
        let map = |(at, view)| tensor_map(at, &by_head(view), rows(at));
        inputs.enumerate().map(map).collect()
    }
}

/// The same elements as `[heads, rows, d]`.
fn by_head(view: &View) -> View {
    let mut view = view.clone();
    view.shape.swap(0, 1);
    view.strides.swap(0, 1);
    view
}

/// What the threads of a CTA have in common.
struct Cta<'k, 'd> {
    b: &'k Builder<'k>,
    design: &'d Flash,
    operands: &'d Operands<'k>,
    /// Start of shared memory.
    base: I32<'k>,
    head: I32<'k>,
    first_token: I32<'k>,
    n_tokens: I32<'k>,
    /// Keys that some token sees lie from here on, in so many blocks.
    first_key: I32<'k>,
    blocks: I32<'k>,
    end: I32<'k>,
    /// Where keys lie in pages: before here, each is seen by some token.
    dense_end: Option<I32<'k>>,
}

impl Design for Flash {
    /// Heads along x: neighbours read the same keys, where heads share them.
    fn geometry(&self) -> Geometry {
        let grid = [(self.problem.heads.into(), 1), (self.problem.tokens().clone(), ROWS)];
        Geometry {
            shared_bytes: self.layout.shared_bytes() as u32,
            tensor_maps: self.tensor_maps.clone(),
            ..launch(&grid, WARPGROUP * (CONSUMERS as u32 + 1))
        }
    }

    fn operands(&self) -> usize {
        self.problem.operands()
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let operands = self.problem.bind(b);
        let n_tokens = b.size(self.problem.tokens());
        let tiles = n_tokens.div_ceil(ROWS as i32);
        let first_token = (tiles - 1 - b.cta(1)) * ROWS as i32;
        let spans = Span::of_lane(b, &operands, first_token, n_tokens);
        let seen = Span::around(b, &spans);
        let cta = Cta {
            b,
            design: self,
            operands: &operands,
            base: b.dynamic_shared(),
            head: b.cta(0),
            first_token,
            n_tokens,
            first_key: seen.first,
            blocks: (seen.end - seen.first).div_ceil(self.layout.keys as i32),
            end: seen.end,
            dense_end: self.problem.page.map(|_| pages::dense_end(b, &spans)),
        };
        cta.prepare();
        let consumers = b.i32(CONSUMERS * u64::from(WARPGROUP));
        b.if_or(
            b.thread().lt(consumers),
            || {
                b.take_registers(REGISTERS[1]);
                Consumer::new(&cta).consume();
            },
            || {
                b.give_registers(REGISTERS[0]);
                let first = b.warp().eq(consumers / 32);
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
        let warps = CONSUMERS * u64::from(WARPGROUP / 32);
        b.if_(b.thread().eq(b.i32(0)), || {
            b.mbarrier_init(self.at(layout.queries_full()), 1);
            for stage in 0..2 * STAGES {
                b.mbarrier_init(self.at(layout.full(stage)), 1);
                b.mbarrier_init(self.at(layout.empty(stage)), warps);
            }
            b.fence_mbarrier_init();
        });
        b.barrier();
    }

    /// Copies the queries and, block after block, keys and values; one thread.
    fn produce(&self) {
        let (b, layout) = (self.b, &self.design.layout);
        let parts = layout.parts.len();
        let full = self.at(layout.queries_full());
        b.mbarrier_expect(full, layout.queries_bytes());
        for part in 0..parts {
            let to = self.at(layout.queries(part));
            self.copy(part, to, layout.parts[part].panels, &[self.first_token], full);
        }
        b.for_loop(b.i32(0), self.blocks, b.i32(1), (), |block, ()| {
            let rows = self.rows_of(block);
            let (stage, parity) = (block % STAGES as i32, block / STAGES as i32 % 2);
            let barriers = |first: u64| {
                let at = stage * 8;
                (self.at(layout.full(first)) + at, self.at(layout.empty(first)) + at)
            };
            let (full, empty) = barriers(0);
            b.mbarrier_wait(empty, parity ^ 1);
            b.mbarrier_expect(full, layout.keys_bytes());
            for part in 0..parts {
                let to = self.at(layout.keys_at(part)) + stage * layout.keys_bytes() as i32;
                self.copy(parts + part, to, layout.parts[part].panels, &rows, full);
            }
            let (full, empty) = barriers(STAGES);
            b.mbarrier_wait(empty, parity ^ 1);
            b.mbarrier_expect(full, layout.values_bytes());
            let to = self.at(layout.values_at()) + stage * layout.values_bytes() as i32;
            self.copy(2 * parts, to, layout.value.panels, &rows, full);
        });
    }

    /// Copies rows of an operand, 64 elements of each at a time: as many from each of `rows` as its
    /// tensor map has.
    fn copy(&self, operand: usize, to: I32<'k>, panels: u64, rows: &[I32<'k>], full: I32<'k>) {
        let (b, problem) = (self.b, &self.design.problem);
        let map = b.tensor_map(operand);
        let view = problem.q.iter().chain(&problem.k).chain([&problem.v]).nth(operand);
        let head = view.map_or(b.i32(0), |view| problem.head_of(b, view, self.head));
        let heads = view.is_some_and(|view| !view.shape[1].is_one());
        let copied = if operand < problem.q.len() { ROWS } else { self.design.layout.copied };
        for panel in 0..panels {
            let column = b.i32(panel * layout::PANEL);
            for (number, &row) in (panel * rows.len() as u64..).zip(rows) {
                let at = if heads { vec![column, row, head] } else { vec![column, row] };
                b.tensor_copy(to + (number * layout::panel_bytes(copied)) as i32, map, &at, full);
            }
        }
    }
}
