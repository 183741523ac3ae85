//! Attention for many tokens: tiles of queries times tiles of keys through shared memory.
//!
//! A CTA takes 64 rows of queries, a row being a token and one of the heads that share keys.
//! It goes through the keys that its rows see in blocks of 64: products of queries and keys are
//! summed in registers slice by slice of the depth; they become weights, which go through
//! shared memory to where the sums of values are. A warp owns whole rows, so that maxima need
//! no barrier, and skips blocks that none of its rows sees.
//!
//! Weights of 0 are multiplied too: a NaN or an infinity among the values of a token also
//! reaches the other rows of a warp that sees the token.

use super::tile::{PITCH, ROWS, Ranges, Transposed, Values};
use super::{LOWEST, Operands, Problem};
use crate::builder::{Bool, Builder, F32, I32, Ptr};
use crate::kernels::{Design, launch};
use crate::tensor::vector_width;
use moec_ir::plan::Geometry;

/// Bytes of shared memory that a tile of values may take.
const VALUES: u64 = 16 << 10;
/// Keys whose values are added without a branch: divides those of a tile of values.
const AT_ONCE: u64 = 8;
/// Rows of a thread.
const THREAD_ROWS: u64 = 8;
/// Bytes between the weights of neighbouring keys: padded, for stores to spread over the banks.
const WEIGHTS_PITCH: u64 = 4 * (ROWS + 4);

pub(super) struct Prefill {
    problem: Problem,
    /// Threads that share a row: 16 or 32 neighbouring lanes.
    across: u64,
    /// Keys of a thread, of a block of `ROWS`.
    keys: u64,
    /// Elements along the depth that are in shared memory at once.
    slice: u64,
    /// How a row of sums is divided: a thread takes vectors of `width` in turn.
    width: u64,
    slots: u64,
}

impl Prefill {
    pub(super) fn new(problem: Problem) -> Self {
        let len = problem.value;
        let across = if len <= 256 { 16 } else { 32 };
        let padded = |width: u64| (len / width).div_ceil(across) * width;
        let widths = [4, 2, 1].into_iter().filter(|w| len.is_multiple_of(*w));
        let width = widths.min_by_key(|&w| padded(w)).unwrap_or(1);
        let slots = (len / width).div_ceil(across);
        // Twice the threads fill twice as much.
        Self { problem, across, keys: ROWS / across, slice: across, width, slots }
    }

    fn threads(&self) -> u64 {
        ROWS / THREAD_ROWS * self.across
    }

    /// Sums of values that a thread holds per row.
    fn held(&self) -> u64 {
        self.slots * self.width
    }
}

impl Design for Prefill {
    fn geometry(&self) -> Geometry {
        let sharing = self.problem.sharing;
        let rows = self.problem.tokens().clone() * sharing;
        let grid = [(rows, ROWS), ((self.problem.heads / sharing).into(), 1)];
        launch(&grid, self.threads() as u32)
    }

    fn operands(&self) -> usize {
        self.problem.operands()
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let operands = self.problem.bind(b);
        let place = Place::new(b, self);
        let n_rows = b.size(self.problem.tokens()) * b.i32(self.problem.sharing);
        let sharing = b.i32(self.problem.sharing);
        let ranges = Ranges::new(b, THREAD_ROWS * 32 / self.across, || {
            let row = place.tile + b.thread();
            let (first, count) = operands.keys_of(row.min(n_rows - 1) / sharing);
            let exists = row.lt(n_rows);
            (first.when(exists, b.i32(i32::MAX)), (first + count).when(exists, b.i32(0)))
        });
        let tiles = Tiles::new(b, self);
        let queries = self.query_rows(b, &operands, &place, &tiles, n_rows);
        let zeros = |n: u64| vec![b.f32(0.0); n as usize];
        let state = State {
            max: vec![b.f32(LOWEST); THREAD_ROWS as usize],
            weight: zeros(THREAD_ROWS),
            sums: zeros(THREAD_ROWS * self.held()),
        };
        let block = Block {
            b,
            design: self,
            operands: &operands,
            place: &place,
            tiles: &tiles,
            ranges: &ranges,
        };
        let init = (ranges.next(b, b.i32(0)), state.flat());
        let (_, state) = b.while_loop(
            init,
            |(from, _)| from.ne(b.i32(i32::MAX)),
            |(from, state)| {
                let end = ranges.block_end(b, from);
                let state = block.take(from, end, &queries, State::from_flat(state));
                (ranges.next(b, end), state.flat())
            },
        );
        self.store(b, &operands, &place, n_rows, State::from_flat(state));
    }
}

/// Where a thread stands.
struct Place<'k> {
    /// The first row of the CTA.
    tile: I32<'k>,
    /// The first head of those that share keys.
    first_head: I32<'k>,
    /// The thread's first row within the tile, and its index among those that share it.
    row: I32<'k>,
    column: I32<'k>,
}

impl<'k> Place<'k> {
    fn new(b: &'k Builder<'k>, design: &Prefill) -> Self {
        Self {
            tile: b.cta(0) * b.i32(ROWS),
            first_head: b.cta(1) * b.i32(design.problem.sharing),
            row: b.thread() / b.i32(design.across) * b.i32(THREAD_ROWS),
            column: b.thread() % b.i32(design.across),
        }
    }
}

/// Shared memory. Values take the place of queries and keys, which are used before them.
struct Tiles<'k> {
    queries: Transposed<'k>,
    keys: Transposed<'k>,
    values: Values<'k>,
    /// Weights: keys outermost.
    weights: Ptr<'k>,
}

impl<'k> Tiles<'k> {
    fn new(b: &'k Builder<'k>, design: &Prefill) -> Self {
        let len = design.problem.value;
        let keys = 1 << (VALUES / (4 * len)).clamp(1, ROWS).ilog2();
        let slices = design.slice * PITCH;
        let shared = b.shared_memory((2 * slices).max(4 * keys * len));
        Self {
            queries: Transposed::new(b, shared),
            keys: Transposed::new(b, shared.add_const(slices)),
            values: Values { shared, keys, len },
            weights: b.shared_memory(ROWS * WEIGHTS_PITCH),
        }
    }
}

/// What is known of a thread's rows after some blocks.
#[derive(Clone)]
struct State<'k> {
    /// Greatest score of each row.
    max: Vec<F32<'k>>,
    /// Sum of the weights of this thread's keys, for each row.
    weight: Vec<F32<'k>>,
    /// Weighted sums of values, rows outermost.
    sums: Vec<F32<'k>>,
}

/// A state as a loop carries it.
type Flat<'k> = (Vec<F32<'k>>, Vec<F32<'k>>, Vec<F32<'k>>);

impl<'k> State<'k> {
    fn flat(self) -> Flat<'k> {
        (self.max, self.weight, self.sums)
    }

    fn from_flat((max, weight, sums): Flat<'k>) -> Self {
        Self { max, weight, sums }
    }
}

impl Prefill {
    /// The row of queries that this thread moves to shared memory, of each part.
    fn query_rows<'k>(
        &self,
        b: &'k Builder<'k>,
        operands: &Operands<'k>,
        place: &Place<'k>,
        tiles: &Tiles<'k>,
        n_rows: I32<'k>,
    ) -> Vec<Ptr<'k>> {
        let row = (place.tile + tiles.queries.row).min(n_rows - 1);
        let sharing = b.i32(self.problem.sharing);
        let (token, head) = (row / sharing, place.first_head + row % sharing);
        operands.q.iter().map(|q| q.at(&[token, head])).collect()
    }

    /// Divides by the sums of weights and stores the rows that exist.
    fn store<'k>(
        &self,
        b: &'k Builder<'k>,
        operands: &Operands<'k>,
        place: &Place<'k>,
        n_rows: I32<'k>,
        state: State<'k>,
    ) {
        let out = &operands.out;
        let width = self.width.min(vector_width(&self.problem.out)) as usize;
        let sharing = b.i32(self.problem.sharing);
        let of_row = state.sums.chunks(self.held() as usize).zip(state.weight);
        for (i, (sums, weight)) in of_row.enumerate() {
            let total = weight.across(self.across as u32, |p, q| p + q);
            let row = place.tile + place.row + b.i32(i as u64);
            let (token, head) = (row / sharing, place.first_head + row % sharing);
            for (slot, sums) in sums.chunks(self.width as usize).enumerate() {
                let vector = place.column + b.i32(slot as u64 * self.across);
                let vectors = b.i32(self.problem.value / self.width);
                b.if_(row.lt(n_rows) & vector.lt(vectors), || {
                    let results: Vec<_> = sums.iter().map(|&s| s / total).collect();
                    let column = vector * b.i32(self.width);
                    for (j, results) in results.chunks(width).enumerate() {
                        let column = column + b.i32((j * width) as u64);
                        out.at(&[token, head, column]).store(out.dtype(), results);
                    }
                });
            }
        }
    }
}

/// What a block of keys is computed with.
struct Block<'k, 'a> {
    b: &'k Builder<'k>,
    design: &'a Prefill,
    operands: &'a Operands<'k>,
    place: &'a Place<'k>,
    tiles: &'a Tiles<'k>,
    ranges: &'a Ranges<'k>,
}

impl<'k> Block<'k, '_> {
    /// Takes keys `from .. end`.
    fn take(
        &self,
        from: I32<'k>,
        end: I32<'k>,
        queries: &[Ptr<'k>],
        state: State<'k>,
    ) -> State<'k> {
        let b = self.b;
        let concerned = self.ranges.concern_warp(from, end);
        let n_scores = (THREAD_ROWS * self.design.keys) as usize;
        let mut scores = vec![b.f32(0.0); n_scores];
        let keys = &self.tiles.keys;
        let key = self.operands.row(b, (from + keys.row).min(end - 1));
        for (part, &query) in queries.iter().enumerate() {
            let head =
                self.design.problem.head_of(b, &self.design.problem.k[part], self.place.first_head);
            let row = self.operands.k[part].at(&[key, head]);
            scores = self.add_part(part, query, (key, row), concerned, scores);
        }
        let before = state.clone().flat();
        let state = b.if_else(concerned, before, || self.weigh(from, end, &scores, state).flat());
        self.add_values(from, end, concerned, State::from_flat(state))
    }

    /// Adds the products of one part of queries and keys to the scores, slice by slice.
    fn add_part(
        &self,
        part: usize,
        query: Ptr<'k>,
        (key, at_key): (I32<'k>, Ptr<'k>),
        concerned: Bool<'k>,
        scores: Vec<F32<'k>>,
    ) -> Vec<F32<'k>> {
        let b = self.b;
        // Values, which are quantised, are the first part.
        let scales = self.operands.scales.as_ref().filter(|_| part == 0);
        let (q, k) = (&self.operands.q[part], &self.operands.k[part]);
        let slice = |at: I32<'k>, depth: u64, scores: Vec<F32<'k>>| {
            b.barrier();
            self.tiles.queries.fill(b, (q, query), at, depth, |_, values| values);
            self.tiles.keys.fill(b, (k, at_key), at, depth, |column, values| match scales {
                Some(scales) => scales.times(b, key, column, values),
                None => values,
            });
            b.barrier();
            b.if_else(concerned, scores.clone(), || self.multiply(depth, scores))
        };
        let (depth, size) = (self.design.problem.depth[part], self.design.slice);
        let (whole, rest) = (depth / size * size, depth % size);
        let scores = match whole {
            0 => scores,
            _ => b.for_loop(b.i32(0), b.i32(whole), b.i32(size), scores, |at, scores| {
                slice(at, size, scores)
            }),
        };
        if rest == 0 { scores } else { slice(b.i32(whole), rest, scores) }
    }

    /// Adds the products of a slice to a thread's block of scores, rows outermost.
    fn multiply(&self, depth: u64, mut scores: Vec<F32<'k>>) -> Vec<F32<'k>> {
        let b = self.b;
        let design = self.design;
        let rows = self.tiles.queries.shared.index(self.place.row, 4);
        let first = self.place.column * b.i32(design.keys);
        let columns = self.tiles.keys.shared.index(first, 4);
        for i in 0..depth {
            let xs = rows.add_const(i * PITCH).load_f32(THREAD_ROWS as usize);
            let ys = columns.add_const(i * PITCH).load_f32(design.keys as usize);
            for (scores, &x) in scores.chunks_mut(ys.len()).zip(&xs) {
                scores.iter_mut().zip(&ys).for_each(|(s, &y)| *s = x.fma(y, *s));
            }
        }
        scores
    }

    /// Turns scores into weights, puts those into shared memory and rescales the sums.
    fn weigh(
        &self,
        from: I32<'k>,
        end: I32<'k>,
        scores: &[F32<'k>],
        state: State<'k>,
    ) -> State<'k> {
        let b = self.b;
        let design = self.design;
        let rows = THREAD_ROWS as usize;
        let first = self.ranges.shared.index(self.place.row, 4);
        let (firsts, ends) = (load_i32(first, rows), load_i32(first.add_const(4 * ROWS), rows));
        let key = from + self.place.column * b.i32(design.keys);
        let mut next = State { max: vec![], weight: vec![], sums: vec![] };
        let mut weights = Vec::new();
        for (i, scores) in scores.chunks(design.keys as usize).enumerate() {
            // A row sees keys `first .. first + span`, as far as this block goes; one that
            // begins after this block sees none.
            let span = ends[i].min(end).max(firsts[i]) - firsts[i];
            let at = key - firsts[i];
            let masked: Vec<F32<'k>> = (0..)
                .zip(scores)
                .map(|(j, &s)| {
                    let seen = (at + b.i32(j)).lt(span);
                    (s * design.problem.scale).when(seen, b.f32(f32::NEG_INFINITY))
                })
                .collect();
            let best = masked.iter().copied().fold(state.max[i], F32::max);
            let max = best.across(design.across as u32, F32::max);
            let factor = (state.max[i] - max).ex2_approx();
            let row: Vec<F32<'k>> = masked.iter().map(|&s| (s - max).ex2_approx()).collect();
            next.weight.push(row.iter().fold(state.weight[i] * factor, |sum, &w| sum + w));
            next.max.push(max);
            let held = design.held() as usize;
            next.sums.extend(state.sums[i * held..][..held].iter().map(|&s| s * factor));
            weights.push(row);
        }
        self.put(&weights);
        next
    }

    /// Puts the weights of this thread's rows and keys into shared memory, keys outermost.
    fn put(&self, weights: &[Vec<F32<'k>>]) {
        let first = self.place.column * self.b.i32(self.design.keys);
        let to = self.tiles.weights.index(first, WEIGHTS_PITCH).index(self.place.row, 4);
        for key in 0..self.design.keys {
            let column: Vec<F32<'k>> = weights.iter().map(|row| row[key as usize]).collect();
            for (i, words) in column.chunks(4).enumerate() {
                to.add_const(key * WEIGHTS_PITCH + 16 * i as u64).store_words(words);
            }
        }
    }

    /// Adds the weighted values of keys `from .. end`.
    fn add_values(
        &self,
        from: I32<'k>,
        end: I32<'k>,
        concerned: Bool<'k>,
        state: State<'k>,
    ) -> State<'k> {
        let b = self.b;
        let values = &self.tiles.values;
        let problem = &self.design.problem;
        let head = problem.head_of(b, &problem.v, self.place.first_head);
        let State { max, weight, sums } = state;
        let (keys, step) = (end - from, b.i32(values.keys));
        let sums = b.for_loop(b.i32(0), keys, step, sums, |at, sums| {
            let left = (keys - at).div_ceil(AT_ONCE as i32) * AT_ONCE as i32;
            let keys = left.min(b.i32(values.keys));
            b.barrier();
            values.fill(b, self.operands, head, (from + at, end - 1), keys);
            b.barrier();
            let weights = self.tiles.weights.index(at, WEIGHTS_PITCH).index(self.place.row, 4);
            b.if_else(concerned, sums.clone(), || self.accumulate(weights, keys, sums))
        });
        State { max, weight, sums }
    }

    /// Adds the weighted values of the first `keys` rows in shared memory to a thread's sums.
    fn accumulate(&self, weights: Ptr<'k>, keys: I32<'k>, sums: Vec<F32<'k>>) -> Vec<F32<'k>> {
        let (b, design) = (self.b, self.design);
        let places = self.value_places();
        let width = design.width as usize;
        let row = 4 * design.problem.value;
        b.for_loop(b.i32(0), keys, b.i32(AT_ONCE), sums, |first, mut sums| {
            let weights = weights.index(first, WEIGHTS_PITCH);
            let places: Vec<_> =
                places.iter().map(|&(at, step)| (at.index(first, row), step)).collect();
            for key in 0..AT_ONCE {
                let load =
                    |&(at, step): &(Ptr<'k>, u64)| at.add_const(key * row + step).load_f32(width);
                let value: Vec<F32<'k>> = places.iter().flat_map(load).collect();
                let weights = weights.add_const(key * WEIGHTS_PITCH).load_f32(THREAD_ROWS as usize);
                for (sums, &weight) in sums.chunks_mut(value.len()).zip(&weights) {
                    sums.iter_mut().zip(&value).for_each(|(s, &x)| *s = x.fma(weight, *s));
                }
            }
            sums
        })
    }

    /// Where this thread's vectors of a value lie: an address and a constant. Where there are
    /// fewer vectors than threads, the last is read again and its sums are not stored.
    fn value_places(&self) -> Vec<(Ptr<'k>, u64)> {
        let (b, design) = (self.b, self.design);
        let shared = self.tiles.values.shared;
        let vectors = design.problem.value / design.width;
        let bytes = 4 * design.width;
        let place = |slot: u64| {
            let first = slot * design.across;
            if first + design.across <= vectors {
                return (shared.index(self.place.column, bytes), first * bytes);
            }
            let near = (self.place.column + b.i32(first)).min(b.i32(vectors - 1));
            (shared.index(near, bytes), 0)
        };
        (0..design.slots).map(place).collect()
    }
}

/// Consecutive integers in shared memory, a power of two of them.
fn load_i32<'k>(at: Ptr<'k>, count: usize) -> Vec<I32<'k>> {
    let width = count.min(4);
    (0..count / width)
        .flat_map(|i| at.add_const((4 * width * i) as u64).load_words(width))
        .collect()
}
