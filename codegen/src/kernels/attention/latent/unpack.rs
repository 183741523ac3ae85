//! Quantised keys: a warpgroup reads e4m3 and scales, and writes bfloat16 where tensor cores read it.
//!
//! FlashMLA's kernel for its FP8 cache converts by way of float16 and float32, and two CTAs share
//! that work (deepseek-ai/FlashMLA, docs/20250929-hopper-fp8-sparse-deep-dive.md). Here bits are
//! moved instead and pairs multiplied, which takes no more than half the time of the products.
//!
//! A thread takes 16 elements of a row at once. While it converts those of one half of a page, what
//! it has read of the next is on its way, into the registers that have become free.

use super::layout::{CONSUMERS, Half, KEYS, PANEL, PANEL_BYTES, WARPGROUP};
use super::{Cta, Latent};
use crate::builder::pairs::PAIRS_BIAS;
use crate::builder::{F32, I32, Ptr, wgmma};
use moec_ir::ScaleFormat;

/// Elements that a thread reads at once, and a lane's place among those of a panel and row.
const PIECE: u64 = 16;
/// Halves of pages of a step.
const HALVES: i32 = 2 * CONSUMERS as i32;
/// Scales from which on products with numbers [`PAIRS_BIAS`] times too small could overflow: these
/// are multiplied before.
const LARGE: f32 = 128.0;

/// How a warpgroup goes through half of a page: `passes` times over all rows, `panels` at once, in
/// `turns`.
#[derive(Clone, Copy)]
struct Walk {
    passes: u64,
    panels: u64,
    turns: u64,
    /// Rows between the turns.
    apart: u64,
}

impl Walk {
    fn new(design: &Latent) -> Self {
        let of_half = design.problem.value / PANEL / CONSUMERS;
        // A warp reads two rows of four panels, four of two, or eight of one.
        let panels = 1 << of_half.trailing_zeros();
        let apart = 4 * 8 / panels;
        Self { passes: of_half / panels, panels, turns: KEYS / apart, apart }
    }

    /// Each of a thread's pieces: of which pass and turn.
    fn pieces(self) -> impl Iterator<Item = (u64, u64)> {
        (0..self.passes).flat_map(move |pass| (0..self.turns).map(move |turn| (pass, turn)))
    }
}

/// What has been read of half of a page: pieces, and the scale of each.
struct Read<'k> {
    words: Vec<I32<'k>>,
    scales: Vec<F32<'k>>,
}

/// A thread that unpacks.
pub(super) struct Unpacker<'k, 'c, 'd> {
    cta: &'c Cta<'k, 'd>,
    walk: Walk,
    /// The first of this thread's rows.
    row: I32<'k>,
    /// Which of the panels of a pass is this thread's.
    panel: I32<'k>,
    /// Where its first piece lies in the first page that there is.
    latent: Ptr<'k>,
    /// Where the scales of its first row lie.
    scales: Ptr<'k>,
    /// Where the two chunks of 16 bytes of its first piece go, from the first panel of a page on.
    to: [I32<'k>; 2],
}

impl<'k, 'c, 'd> Unpacker<'k, 'c, 'd> {
    /// `None` where keys are not quantised.
    pub(super) fn new(cta: &'c Cta<'k, 'd>) -> Option<Self> {
        let (b, walk) = (cta.b, Walk::new(cta.design));
        let scales = cta.operands.scales.as_ref()?;
        // Eight lanes take two rows of a panel, whose chunks of even and odd numbers the swizzle
        // keeps apart: no two of them store to one bank.
        let (lane, warp) = (b.lane(), b.warp() % 4);
        let (piece, parity, eight) = (lane % 4, lane / 4 % 2, lane / 8);
        let panels = walk.panels as i32;
        let panel = eight % panels;
        let row = (warp * (4 / panels) + eight / panels) * 2 + parity;
        let in_row = panel * PANEL as i32 + piece * PIECE as i32;
        let zero = b.i32(0);
        let to_row = panel * PANEL_BYTES as i32 + row * wgmma::ROW_BYTES as i32;
        let chunk = ((piece * 2) ^ (row % 8)) * 16;
        let to = to_row + cta.design.layout.keys(0, 0) as i32;
        Some(Self {
            cta,
            walk,
            row,
            panel,
            latent: cta.operands.k[0].at(&[row, zero, in_row]),
            scales: scales.tensor.at(&[row]),
            to: [to + chunk, to + (chunk ^ b.i32(16))],
        })
    }

    /// Copies the queries, and unpacks half after half of two pages, step after step; all threads
    /// of the warpgroup.
    pub(super) fn unpack(&self) {
        let (b, cta) = (self.cta.b, self.cta);
        self.one(|| cta.copy_queries());
        b.if_(b.i32(0).lt(cta.steps), || {
            let part = |n: i32| b.i32(n as u64);
            let Read { words, scales } = self.read(part(0), self.page(part(0)));
            let state = (words, (scales, self.page(part(1))));
            b.for_loop(part(0), cta.steps * HALVES, part(1), state, |at, state| {
                let (words, (scales, next)) = state;
                let after = self.page(at + 2);
                let Read { words, scales } = self.half(at, Read { words, scales }, next);
                (words, (scales, after))
            });
        });
    }

    /// What one thread of the warpgroup does.
    fn one(&self, body: impl FnOnce()) {
        let b = self.cta.b;
        let first = b.warp().eq(b.i32(CONSUMERS * WARPGROUP / 32));
        b.if_(first, || b.if_(b.elected(), body));
    }

    /// The page of a half, counted through all steps.
    fn page(&self, at: I32<'k>) -> I32<'k> {
        self.cta.page(at / 2)
    }

    /// The panel with which the values of a half begin: those of the warpgroup that gives the scores
    /// of its page come first.
    fn first_panel(&self, at: I32<'k>) -> I32<'k> {
        ((at ^ (at / 2)) % 2) * (self.walk.passes * self.walk.panels) as i32
    }

    /// Begins to read a half.
    fn read(&self, at: I32<'k>, page: I32<'k>) -> Read<'k> {
        let places = self.places(at, page);
        let (mut words, mut scales) = (vec![], vec![]);
        for (pass, turn) in self.walk.pieces() {
            let (piece, scale) = places.read(self, pass, turn);
            words.extend(piece);
            scales.push(scale);
        }
        Read { words, scales }
    }

    /// Where a half lies.
    fn places(&self, at: I32<'k>, page: I32<'k>) -> Places<'k> {
        let cta = self.cta;
        let column = self.first_panel(at) * PANEL as i32;
        let in_page = |first: Ptr<'k>, row: u64| first.index(page, KEYS * row);
        let rows = [self.rows_apart(), self.scales_apart()];
        let latent = in_page(self.latent, rows[0]).index(column, 1);
        let block = cta.design.quantized_block() as i32;
        let scales = (0..self.walk.passes).map(|pass| {
            let panel = self.panel + (pass * self.walk.panels) as i32;
            let number = (column + panel * PANEL as i32) / block;
            in_page(self.scales, rows[1]).index(number, 4)
        });
        Places { latent, scales: scales.collect(), rows }
    }

    fn rows_apart(&self) -> u64 {
        self.cta.operands.k[0].stride(0)
    }

    fn scales_apart(&self) -> u64 {
        self.cta.operands.scales.as_ref().map_or(0, |scales| scales.tensor.stride(0))
    }

    /// Writes a half when its place is free, and reads the next on the way.
    fn half(&self, at: I32<'k>, read: Read<'k>, next: I32<'k>) -> Read<'k> {
        let (b, cta) = (self.cta.b, self.cta);
        let layout = &cta.design.layout;
        let near = layout.full(0, Half::Near);
        let barriers = (at % HALVES) * 8;
        let full = cta.at(near) + barriers;
        let scales = self.of_keys(at, &read.scales);
        let large = scales.iter().map(|&s| !s.lt(b.f32(LARGE))).reduce(|p, q| p | q);
        let places = self.places(at + 1, next);
        let page = (at / 2 % 2) * (layout.keys(1, 0) - layout.keys(0, 0)) as i32;
        let offset = page + self.first_panel(at) * PANEL_BYTES as i32;
        let to = self.to.map(|to| b.dynamic_shared_ptr().index(to + offset, 1));
        b.mbarrier_wait(cta.at(layout.empty(0, Half::Near)) + barriers, (at / HALVES % 2) ^ 1);
        self.one(|| self.copy_rest(at, full));
        let convert = |large: bool| {
            let (mut words, mut next_scales) = (vec![], vec![]);
            let pieces = self.walk.pieces().zip(read.words.chunks_exact(4)).zip(&scales);
            for (((pass, turn), piece), &scale) in pieces {
                let row = turn * self.walk.apart * wgmma::ROW_BYTES;
                let at = pass * self.walk.panels * PANEL_BYTES + row;
                let values = self.dequantized(piece, scale, large);
                for (to, chunk) in to.iter().zip(values.chunks_exact(4)) {
                    to.add_const(at).store_words(chunk);
                }
                let (piece, scale) = places.read(self, pass, turn);
                words.extend(piece);
                next_scales.push(scale);
            }
            (words, next_scales)
        };
        let any = large.map_or(b.i32(0), |large| large.ballot()).ne(b.i32(0));
        let (words, scales) = b.either(any, || convert(true), || convert(false));
        b.fence_async();
        b.warp_barrier();
        b.mbarrier_arrive(full, b.i32(1).when(b.lane().eq(b.i32(0)), b.i32(0)));
        Read { words, scales }
    }

    /// The scales of rows that are keys; 0 of the others: whatever lies there, it is to count for
    /// nothing.
    fn of_keys(&self, at: I32<'k>, scales: &[F32<'k>]) -> Vec<F32<'k>> {
        let (b, cta) = (self.cta.b, self.cta);
        let left = cta.count - ((at / 2) * KEYS as i32).min(cta.count);
        b.if_else(left.lt(b.i32(KEYS)), scales.to_vec(), || {
            let of_row = |((_, turn), &scale): ((u64, u64), &F32<'k>)| {
                let row = self.row + (turn * self.walk.apart) as i32;
                scale.when(row.lt(left), b.f32(0.0))
            };
            self.walk.pieces().zip(scales).map(of_row).collect()
        })
    }

    /// 16 elements, times their scale, in pairs.
    fn dequantized(&self, piece: &[I32<'k>], scale: F32<'k>, large: bool) -> Vec<I32<'k>> {
        let b = self.cta.b;
        let format = self.cta.design.problem.quantized.as_ref().map(|q| q.format);
        let pairs = piece.iter().flat_map(|word| word.e4m3_pairs());
        let [near, rest] = if large { scale } else { scale * PAIRS_BIAS }.split_pairs();
        let times = |pair: I32<'k>| {
            let pair = if large { pair.times_pair(b.bf16_pair(PAIRS_BIAS)) } else { pair };
            match format {
                // A power of two is a bfloat16.
                Some(ScaleFormat::Ue8m0) => pair.times_pair(near),
                _ => pair.fma_pair(near, pair.times_pair(rest)),
            }
        };
        pairs.map(times).collect()
    }

    /// Copies what follows the values, into the half where it is; one thread.
    fn copy_rest(&self, at: I32<'k>, full: I32<'k>) {
        let (b, cta) = (self.cta.b, self.cta);
        let layout = &cta.design.layout;
        let rest: Vec<_> = layout.panels().filter(|(_, source)| source.part > 0).collect();
        if rest.is_empty() {
            return;
        }
        b.if_((at % 2).eq(b.i32(1)), || {
            b.mbarrier_expect(full, rest.len() as u64 * PANEL_BYTES);
            let page = self.page(at);
            for (panel, source) in rest {
                let [first, second] = [0, 1].map(|page| layout.keys(page, panel));
                let to = cta.at(first) + (at / 2 % 2) * (second - first) as i32;
                let at = [b.i32(source.column), page * KEYS as i32];
                b.tensor_copy(to, b.tensor_map(cta.design.map_of_keys(source.part)), &at, full);
            }
        });
    }
}

/// Where half of a page lies, for one thread.
struct Places<'k> {
    latent: Ptr<'k>,
    /// Of each pass.
    scales: Vec<Ptr<'k>>,
    /// Bytes between rows, of both.
    rows: [u64; 2],
}

impl<'k> Places<'k> {
    /// A piece and its scale.
    fn read(&self, of: &Unpacker<'k, '_, '_>, pass: u64, turn: u64) -> (Vec<I32<'k>>, F32<'k>) {
        let [latent, scales] = self.rows.map(|row| turn * of.walk.apart * row);
        let at = self.latent.add_const(pass * of.walk.panels * PANEL + latent);
        let scale = self.scales[pass as usize].add_const(scales).load_scalar();
        (at.load_words(4), scale)
    }
}
