//! Operands that tensor cores take in another type than memory holds them in.
//!
//! Where sums of FP8 products have to be as exact as in float32, tensor cores cannot multiply FP8:
//! they keep 13 bits of such a sum, of 16-bit types 25 (arXiv 2505.09343, section 3.1.1). All
//! numbers of FP8 are numbers of float16 and of bfloat16; a float32 is the sum of three bfloat16
//! with 8 of its 24 bits each (but for bits below 2^-133). So the products are exact, and of a sum
//! no more is lost than in float32.
//!
//! `w` is widened in shared memory, by a warpgroup of its own between the copying one and those
//! that multiply; `a` in the registers of those.
//!
//! Of each 16 numbers along `k` the order is another in both operands: a thread's two pairs in the
//! fragment of `a` (PTX ISA 9.7.15.5.1, figure "WGMMA .m64nNk16 register fragment layout for matrix
//! A"), which are 8 apart, are neighbours in memory, so that a thread reads them at once; the two
//! pairs of each four numbers of `w` go 8 apart.

use super::ring::{Parity, Ring, Step};
use super::tile::{ROW_BYTES, WARPGROUP};
use crate::builder::{Builder, F32, I32, Ptr, wgmma};
use crate::kernels::factors::Factors;
use moec_ir::DType;

/// Numbers that a product is deep: 32 bytes of 16 bits each.
const DEPTH: u64 = 16;
/// Panels of 128 bytes that a step's 128 numbers of 16 bits are cut into.
pub(super) const PANELS: u64 = 2;
/// Products that are as deep as a panel.
const PER_PANEL: u64 = 4;
/// Bytes of a chunk, which a swizzle moves as a whole.
const CHUNK: i32 = 16;
/// Rows of `w` that the warpgroup widens at once.
const AT_ONCE: u64 = 32;
/// Numbers of bfloat16 that add up to a float32: the second is below 2^-7 of it, the third below
/// 2^-15. Of two float32 the products of a second and a third and of two thirds, below 2^-21 of the
/// whole, are left out.
const TERMS: u64 = 3;

/// What is widened to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Widened {
    /// Type of `a` in memory: e4m3 or float32.
    pub(super) a: DType,
    /// Type of `w` in memory: e4m3, or float32 where `a` is.
    pub(super) w: DType,
}

impl Widened {
    /// For FP8 whose products have to be summed more exactly than tensor cores sum them, or that is
    /// multiplied with float32; and for float32.
    pub(super) fn of(factors: &Factors) -> Option<Self> {
        let Factors { a, w, scales, .. } = factors;
        let widened = match scales {
            Some(scales) => scales.a.is_none() || !factors.sum_by_blocks(),
            None => [a.dtype, w.dtype] == [DType::F32; 2],
        };
        widened.then_some(Self { a: a.dtype, w: w.dtype })
    }

    /// The type that is multiplied.
    fn to(self) -> DType {
        if self.a == DType::F32 { DType::Bf16 } else { DType::F16 }
    }

    /// Numbers that add up to one of `a`, and to one of `w`.
    pub(super) fn terms(self) -> [u64; 2] {
        [self.a, self.w].map(|dtype| if dtype == DType::F32 { TERMS } else { 1 })
    }

    /// Which terms of `a` and `w` are multiplied, the smallest products first: each addition cuts off
    /// what is below the last bit of the sum so far.
    fn pairs(self) -> Vec<(u64, u64)> {
        let [of_a, of_w] = self.terms();
        let of = |i: u64| (0..of_w.min(TERMS - i)).map(move |j| (i, j));
        let mut pairs: Vec<_> = (0..of_a).flat_map(of).collect();
        pairs.sort_by_key(|(i, j)| std::cmp::Reverse(i + j));
        pairs
    }

    /// Products for each of a 16-bit type.
    pub(super) fn products(self) -> u64 {
        self.pairs().len() as u64
    }

    /// Registers of a thread for a step's numbers of 64 rows of `a`.
    pub(super) fn registers(self) -> u64 {
        PANELS * PER_PANEL * self.terms()[0] * 4
    }
}

/// Whether tensor cores cannot multiply factors as they are.
pub(in crate::kernels) fn widens(factors: &Factors) -> bool {
    Widened::of(factors).is_some()
}

/// Divides the warps that do not multiply: those from `first` on copy, and where operands are
/// widened a warpgroup behind them widens.
pub(super) fn beside<'k>(
    ring: &Ring<'k, '_>,
    first: I32<'k>,
    produce: impl FnOnce(),
    widen: impl FnOnce(),
) {
    let (b, tile) = (ring.b, ring.tile);
    match tile.widened {
        None => produce(),
        Some(_) => b.if_or(b.thread().lt(first + WARPGROUP as i32), produce, || {
            b.give_registers(tile.registers_of_widening());
            widen();
        }),
    }
}

/// Widens `w` in all steps of a tile; the parity after it.
pub(super) fn widen_tile<'k>(ring: &Ring<'k, '_>, parity: Parity<'k>) -> Parity<'k> {
    ring.each(parity, (), |step, ()| widen(ring, step)).0
}

/// Widens the `w` of a stage.
fn widen<'k>(ring: &Ring<'k, '_>, step: Step<'k>) {
    let b = ring.b;
    ring.wait_full(step);
    match ring.tile.transposed {
        true => widen_across(ring, step),
        false => widen_along(ring, step),
    }
    b.fence_async();
    b.mbarrier_arrive(ring.wide_full(step.stage), b.i32(1));
}

/// Where a row's chunk lies in rows of 128 bytes.
fn swizzled<'k>(chunk: I32<'k>, row: I32<'k>) -> I32<'k> {
    (chunk ^ (row % 8)) * CHUNK
}

/// Of `w` whose rows go along `k`. Eight threads take half of two neighbouring rows, one row's first
/// and the other's second half, then the other halves: so they write all banks, and read all where
/// `w` is FP8.
fn widen_along<'k>(ring: &Ring<'k, '_>, step: Step<'k>) {
    let (b, tile) = (ring.b, ring.tile);
    let thread = b.thread() % WARPGROUP as i32;
    let (quarter, odd) = (thread % 4, thread / 4 % 2);
    let row = thread / 8 * 2 + odd;
    let wide = Wide { ring, step, row };
    let from = b.dynamic_shared_ptr().add_const(tile.w(step.stage)).index(row, ROW_BYTES);
    for half in 0..PANELS {
        let panel = odd ^ b.i32(half);
        let part = panel * PER_PANEL as i32 + quarter;
        let from: Vec<Ptr<'k>> = match tile.dtype {
            DType::F32 => {
                let from = from.index(part / 2, tile.columns * ROW_BYTES);
                let chunk = part % 2 * 4;
                (0..4).map(|i| from.index(swizzled(chunk + b.i32(i), row), 1)).collect()
            }
            _ => vec![from.index(swizzled(part, row), 1)],
        };
        wide.each_rows(&|below| {
            let read = |from: &Ptr<'k>| from.add_const(below).load_words::<i32>(4);
            let words: Vec<I32<'k>> = from.iter().flat_map(read).collect();
            wide.write(panel, quarter, below, &words);
        });
    }
}

/// Of float32 whose columns go along `k`: a thread takes 16 neighbours along `k` of one of 32 columns.
fn widen_across<'k>(ring: &Ring<'k, '_>, step: Step<'k>) {
    let (b, tile) = (ring.b, ring.tile);
    let thread = b.thread() % WARPGROUP as i32;
    let (row, part) = (thread % 32, thread / 32);
    let wide = Wide { ring, step, row };
    let shared = b.dynamic_shared_ptr().add_const(tile.w(step.stage));
    let [columns, bytes] = tile.panel();
    for panel in 0..PANELS {
        let first = part * DEPTH as i32 + b.i32(panel * PER_PANEL * DEPTH);
        let of_thread = shared.index(first, ROW_BYTES).index(row % 4, 4);
        wide.each_rows(&|below| {
            let of_panel = of_thread.add_const(below / ROW_BYTES / columns * bytes);
            let word = |k: u64| {
                let at = of_panel.add_const(k * ROW_BYTES);
                at.index(swizzled(row / 4, b.i32(k)), 1).load_scalar()
            };
            let words: Vec<I32<'k>> = (0..DEPTH).map(word).collect();
            wide.write(b.i32(panel), part, below, &words);
        });
    }
}

/// Where a thread puts what it has widened: a row of the stage's wide tiles, and those 32 and more
/// below.
struct Wide<'k, 't, 'r> {
    ring: &'r Ring<'k, 't>,
    step: Step<'k>,
    row: I32<'k>,
}

impl<'k> Wide<'k, '_, '_> {
    /// Runs `body` for this thread's rows that exist: so many bytes below the first.
    fn each_rows(&self, body: &dyn Fn(u64)) {
        let (b, columns) = (self.ring.b, self.ring.tile.columns);
        for rows in (0..columns).step_by(AT_ONCE as usize) {
            match columns - rows {
                left if left < AT_ONCE => {
                    b.if_(self.row.lt(b.i32(left)), || body(rows * ROW_BYTES));
                }
                _ => body(rows * ROW_BYTES),
            }
        }
    }

    /// Writes 16 numbers, as they lie in memory, to part `part` of a panel.
    fn write(&self, panel: I32<'k>, part: I32<'k>, below: u64, words: &[I32<'k>]) {
        let (b, tile) = (self.ring.b, self.ring.tile);
        let to = tile.widened.map_or(DType::F16, Widened::to);
        let fours: Vec<Vec<[I32<'k>; 2]>> = match tile.dtype {
            DType::F32 => {
                let four = |four: &[I32<'k>]| split(b, four.iter().map(|x| x.bits()).collect());
                words.chunks(4).map(four).collect()
            }
            other => words.iter().map(|word| vec![word.widened_f8(other, to)]).collect(),
        };
        for (term, at) in (0..fours[0].len()).zip(0..) {
            let to_panel = b
                .dynamic_shared_ptr()
                .add_const(tile.wide(self.step.stage) + tile.wide_term(at) + below)
                .index(self.row, ROW_BYTES)
                .index(panel, tile.columns * ROW_BYTES);
            for pair in 0..2 {
                let words: Vec<_> = fours.iter().map(|four| four[term][pair]).collect();
                let chunk = swizzled(part * 2 + pair as i32, self.row);
                to_panel.index(chunk, 1).store_words(&words);
            }
        }
    }
}

/// The sums of the products of one step and 64 rows from `first_row` on, in the registers of those
/// `before`, which are added where `adds` is not 0.
pub(super) fn products<'k>(
    ring: &Ring<'k, '_>,
    form: Widened,
    step: Step<'k>,
    first_row: I32<'k>,
    before: &[F32<'k>],
    adds: I32<'k>,
) -> Vec<F32<'k>> {
    let (b, tile) = (ring.b, ring.tile);
    let w = ring.descriptor(tile.wide(step.stage));
    let of_part = form.terms()[0] as usize * 4;
    let words: Vec<I32<'k>> = (0..PANELS * PER_PANEL)
        .flat_map(|part| fragment(ring, form, step, first_row, part))
        .collect();
    let words = b.hold(&words);
    let (mut sums, mut adds) = (b.wgmma_fence(before), adds);
    for (i, j) in form.pairs() {
        for (part, of_part) in (0..).zip(words.chunks_exact(of_part)) {
            let a = &of_part[4 * i as usize..][..4];
            let along = tile.wide_term(j)
                + part / PER_PANEL * tile.columns * ROW_BYTES
                + part % PER_PANEL * wgmma::DEPTH_BYTES;
            let w = b.wgmma_descriptor_at(w + (along / 16) as i32);
            let operands = ([a[0], a[1], a[2], a[3]], w);
            sums = b.wgmma_of_registers_along(form.to(), tile.columns, operands, &sums, adds);
            adds = b.i32(1);
        }
    }
    b.wgmma_commit();
    let sums = b.wgmma_wait(0, &sums);
    // Until here the products read them.
    b.hold(&words);
    sums
}

/// This thread's numbers of `a` in part `part` of a step, term by term: those of its row, of the row
/// 8 below, then the pairs behind them in the same rows.
fn fragment<'k>(
    ring: &Ring<'k, '_>,
    form: Widened,
    step: Step<'k>,
    first_row: I32<'k>,
    part: u64,
) -> Vec<I32<'k>> {
    let (b, tile) = (ring.b, ring.tile);
    let (below, quarter) = (b.lane() / 4, b.lane() % 4);
    let row = first_row + (b.warp() % 4) * 16 + below;
    let bytes = form.a.bytes();
    // Chunks of 16 bytes: one holds the numbers of four threads, or those of one.
    let per_panel = ROW_BYTES / DEPTH / bytes;
    let (panel, at) = (part / per_panel, part % per_panel);
    let (chunk, within) = match bytes {
        1 => (b.i32(at), quarter * 4),
        _ => (b.i32(at * 4) + quarter, b.i32(0)),
    };
    let from = b
        .dynamic_shared_ptr()
        .add_const(tile.a(step.stage) + panel * tile.rows * ROW_BYTES)
        .index(row, ROW_BYTES)
        .index((chunk ^ below) * CHUNK + within, 1);
    let of_rows = [0, 8].map(|rows| {
        let from = from.add_const(rows * ROW_BYTES);
        match form.a {
            DType::F32 => split(b, from.load_words(4)),
            other => vec![from.load_scalar::<i32>().widened_f8(other, form.to())],
        }
    });
    let [upper, lower] = &of_rows;
    upper.iter().zip(lower).flat_map(|(u, l)| [u[0], l[0], u[1], l[1]]).collect()
}

/// Four float32 as three times two pairs of bfloat16, which add up to them: 8 bits of each number at
/// a time, and what is left is a float32 again.
fn split<'k>(b: &'k Builder<'k>, mut left: Vec<F32<'k>>) -> Vec<[I32<'k>; 2]> {
    let upper = |bits: I32<'k>| bits & b.i32(0xffff_0000_u32);
    let mut terms = vec![];
    for _ in 0..TERMS {
        let bits: Vec<I32<'k>> = left.iter().map(|x| x.bits()).collect();
        terms.push([0, 2].map(|i| bits[i] >> 16 | upper(bits[i + 1])));
        left = left.iter().zip(&bits).map(|(&x, &bits)| x - upper(bits).bits()).collect();
    }
    terms
}
