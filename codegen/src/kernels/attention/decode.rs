//! Attention for few tokens: a CTA per token and block of heads; its warps divide the keys.
//!
//! A group of lanes takes a key: each of its lanes holds a slice of the queries and of the sums
//! of values in registers, so that keys and values are read once, in vectors, for all heads of
//! the block. Scores of several keys and heads are summed over the group together, and each
//! lane turns its share of them into weights. Groups keep maxima of their own, which are
//! reconciled at the end, through shared memory.

use super::{LOWEST, Operands, Problem, Scales, power_of_two_in};
use crate::builder::{Bool, Builder, F32, I32, Ptr};
use crate::kernels::{Design, launch};
use crate::tensor::{Tensor, vector_width};
use moec_ir::Sizes;
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;

/// Warps of a CTA.
const WARPS: u64 = 4;
/// Queries and sums that a lane holds at most: the rest of its 255 registers are for keys in
/// flight.
const HELD: u64 = 144;
/// Sums that a lane holds at most, for the shared memory that reconciling them takes:
/// `HELD_SUMS * 4 * 32 * WARPS` bytes, below 48 KiB.
const HELD_SUMS: u64 = 80;
/// CTAs that fill a GPU; sharing keys among more than four heads must leave as many.
const ENOUGH_CTAS: u64 = 132;

pub(super) struct Decode {
    problem: Problem,
    /// Lanes that share a key: a power of two.
    group: u64,
    /// Heads of a CTA: a power of two that divides those that share keys.
    heads: u64,
    /// Keys that a group takes at once.
    keys: u64,
    /// How each part of a key, and a value, is divided among the lanes of a group.
    parts: Vec<Slices>,
    value: Slices,
}

impl Decode {
    pub(super) fn new(problem: Problem, step: Sizes) -> Self {
        let tokens = problem.tokens().eval(&step).max(1);
        let most = power_of_two_in(problem.sharing, 8);
        let enough = |heads: u64| tokens * problem.heads / heads >= ENOUGH_CTAS;
        let head_counts = [8, 4, 2, 1].into_iter();
        let head_counts = head_counts.filter(|&n| n <= most && (n <= 4 || enough(n)));
        let choices = head_counts.flat_map(|n| [8, 16, 32].map(|group| (n, group)));
        let slices = |group: u64| {
            let parts: Vec<_> = problem.k.iter().map(|k| Slices::new(k, group)).collect();
            (parts, Slices::new(&problem.v, group))
        };
        let fits = |&(heads, group): &(u64, u64)| {
            let (parts, value) = slices(group);
            let held: u64 = parts.iter().map(Slices::held).sum::<u64>() + value.held();
            heads * held <= HELD && heads * value.held() <= HELD_SUMS
        };
        let (heads, group) = choices.clone().find(fits).unwrap_or((1, 32));
        let (parts, value) = slices(group);
        let keys = (group / heads).clamp(4, 8);
        Self { problem, group, heads, keys, parts, value }
    }

    /// Groups of a warp.
    fn groups(&self) -> u64 {
        32 / self.group
    }
}

impl Design for Decode {
    fn geometry(&self) -> Geometry {
        let blocks = self.problem.heads / self.heads;
        let chunks = self.problem.chunks();
        let grid = [(self.problem.tokens().clone(), 1), (blocks.into(), 1), (chunks.into(), 1)];
        launch(&grid, 32 * WARPS as u32)
    }

    fn operands(&self) -> usize {
        self.problem.operands()
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let operands = self.problem.bind(b);
        let place = Place::new(b, self);
        let (first, count) =
            operands.keys_of_chunk(place.token, place.chunk, self.problem.chunks());
        let queries = self.queries(b, &operands, &place);
        let reader = Reader::new(b, self, operands.clone(), &place, first);
        let state = State {
            max: b.f32(LOWEST),
            sum: b.f32(0.0),
            sums: vec![b.f32(0.0); (self.heads * self.value.held()) as usize],
        };
        let per_warp = self.keys * self.groups();
        let from = b.warp() * b.i32(per_warp);
        let init = (state.max, state.sum, state.sums);
        let (max, sum, sums) =
            b.for_loop(from, count, b.i32(per_warp * WARPS), init, |base, (max, sum, sums)| {
                let state = State { max, sum, sums };
                let next = self.attend(b, &place, &reader, &queries, (base, count), state);
                (next.max, next.sum, next.sums)
            });
        self.reconcile(b, &operands, &place, State { max, sum, sums });
    }
}

/// Where a thread stands.
struct Place<'k> {
    token: I32<'k>,
    chunk: I32<'k>,
    first_head: I32<'k>,
    /// The lane's index within its group, and the group's within its warp.
    lane: I32<'k>,
    group: I32<'k>,
}

impl<'k> Place<'k> {
    fn new(b: &'k Builder<'k>, design: &Decode) -> Self {
        Self {
            token: b.cta(0),
            chunk: b.cta(2),
            first_head: b.cta(1) * b.i32(design.heads),
            lane: b.lane() % b.i32(design.group),
            group: b.lane() / b.i32(design.group),
        }
    }
}

/// What is known after some keys. A lane's maximum and sum of weights are those of head
/// `lane / repeat % heads`; the sums of values are of all heads, heads outermost.
struct State<'k> {
    max: F32<'k>,
    sum: F32<'k>,
    sums: Vec<F32<'k>>,
}

impl Decode {
    /// This lane's slices of the queries, by head, times the scale; 0 beyond a part's end.
    fn queries<'k>(
        &self,
        b: &'k Builder<'k>,
        operands: &Operands<'k>,
        place: &Place<'k>,
    ) -> Vec<Vec<F32<'k>>> {
        let of_head = |head: u64| {
            let mut values = Vec::new();
            for (part, q) in self.parts.iter().zip(&operands.q) {
                let row = q.at(&[place.token, place.first_head + b.i32(head)]);
                for slot in 0..part.slots {
                    let (at, inside) = part.element(b, place.lane, slot);
                    let slice = part.load(q, row.index(at, q.stride(2)));
                    let scaled = slice.into_iter().map(|x| x * self.problem.scale);
                    values.extend(scaled.map(|x| match inside {
                        None => x,
                        Some(inside) => x.when(inside, b.f32(0.0)),
                    }));
                }
            }
            values
        };
        (0..self.heads).map(of_head).collect()
    }

    /// Takes the keys from `base` on that are below `count`.
    fn attend<'k>(
        &self,
        b: &'k Builder<'k>,
        place: &Place<'k>,
        reader: &Reader<'k>,
        queries: &[Vec<F32<'k>>],
        (base, count): (I32<'k>, I32<'k>),
        state: State<'k>,
    ) -> State<'k> {
        let own = base + place.group;
        // Beyond the end, the last key is read again and weighs nothing.
        let rows: Vec<I32<'k>> =
            (0..self.keys).map(|u| (own + b.i32(u * self.groups())).min(count - 1)).collect();
        let rows: Vec<I32<'k>> = rows.into_iter().map(|row| reader.place(b, row)).collect();
        let scores: Vec<F32<'k>> =
            rows.iter().flat_map(|&row| self.dot(b, &reader.key(row), queries)).collect();
        let scores = self.spread(b, place, (own, count), &scores);
        let best = scores.iter().copied().fold(state.max, F32::max);
        let max = across_lanes(best, self.heads * self.repeat(), self.group, F32::max);
        let factor = (state.max - max).ex2_approx();
        let weights: Vec<F32<'k>> = scores.iter().map(|&s| (s - max).ex2_approx()).collect();
        let sum = weights.iter().fold(state.sum * factor, |sum, &w| sum + w);
        let mut sums = self.rescale(b, factor, state.sums);
        for (u, &row) in rows.iter().enumerate() {
            let value = reader.value(row);
            for (head, sums) in sums.chunks_mut(value.len()).enumerate() {
                let score = u * self.heads as usize + head;
                let (chunk, index) = (score / self.group as usize, score as u64 % self.group);
                let weight = self.of_index(weights[chunk], index);
                sums.iter_mut().zip(&value).for_each(|(s, &x)| *s = x.fma(weight, *s));
            }
        }
        State { max, sum, sums }
    }

    /// This lane's share of the scores of a key, by head.
    fn dot<'k>(
        &self,
        b: &'k Builder<'k>,
        key: &[F32<'k>],
        queries: &[Vec<F32<'k>>],
    ) -> Vec<F32<'k>> {
        let share = |query: &Vec<F32<'k>>| {
            query.iter().zip(key).fold(b.f32(0.0), |sum, (&x, &y)| x.fma(y, sum))
        };
        queries.iter().map(share).collect()
    }

    /// Lanes of a group that hold the same score, where there are fewer scores than lanes.
    fn repeat(&self) -> u64 {
        (self.group / (self.keys * self.heads)).max(1)
    }

    /// Sums the lanes' shares of scores (keys outermost, then heads). Of each `group` scores,
    /// lane `i` gets that of index `i / repeat`; keys beyond the end weigh nothing.
    fn spread<'k>(
        &self,
        b: &'k Builder<'k>,
        place: &Place<'k>,
        (own, count): (I32<'k>, I32<'k>),
        scores: &[F32<'k>],
    ) -> Vec<F32<'k>> {
        let keys_of_chunk = self.group / self.heads;
        let chunk = |(c, scores): (u64, &[F32<'k>])| {
            let (score, index) = b.sum_spread(scores.to_vec(), place.lane, self.group as u32);
            let key = index / b.i32(self.heads) + b.i32(c * keys_of_chunk);
            let exists = (own + key * b.i32(self.groups())).lt(count);
            score.when(exists, b.f32(f32::NEG_INFINITY))
        };
        (0..).zip(scores.chunks(self.group as usize)).map(chunk).collect()
    }

    /// The value that the group's lanes hold for that head, or score of a chunk.
    fn of_index<'k>(&self, value: F32<'k>, index: u64) -> F32<'k> {
        value.shuffle_within(self.group as u32, (index * self.repeat()) as u32)
    }

    /// Multiplies the sums of each head by its factor, if any is not 1.
    fn rescale<'k>(&self, b: &'k Builder<'k>, factor: F32<'k>, sums: Vec<F32<'k>>) -> Vec<F32<'k>> {
        let moved = factor.lt(b.f32(1.0)).ballot().ne(b.i32(0));
        b.if_else(moved, sums.clone(), || self.scale(factor, &sums))
    }

    /// Multiplies the sums of each head by its factor.
    fn scale<'k>(&self, factor: F32<'k>, sums: &[F32<'k>]) -> Vec<F32<'k>> {
        let of_head = |(head, sums): (usize, &[F32<'k>])| {
            let factor = self.of_index(factor, head as u64);
            sums.iter().map(|&s| s * factor).collect::<Vec<_>>()
        };
        sums.chunks(self.value.held() as usize).enumerate().flat_map(of_head).collect()
    }

    /// Brings the groups of all warps together and stores the results.
    fn reconcile<'k>(
        &self,
        b: &'k Builder<'k>,
        operands: &Operands<'k>,
        place: &Place<'k>,
        state: State<'k>,
    ) {
        let (heads, repeat) = (self.heads, self.repeat());
        let by_warp = 4 * heads;
        let maxima = b.shared_memory(WARPS * by_warp);
        let weights = b.shared_memory(WARPS * by_warp);
        let head = b.lane() / b.i32(repeat) % b.i32(heads);
        let first = b.lane().lt(b.i32(heads * repeat)) & (b.lane() % b.i32(repeat)).eq(b.i32(0));
        let of_warp = across_lanes(state.max, self.group, 32, F32::max);
        b.if_(first, || maxima.index(b.warp(), by_warp).index(head, 4).store_scalar(of_warp));
        b.barrier();
        let max = (0..WARPS)
            .map(|w| maxima.add_const(w * by_warp).index(head, 4).load_scalar())
            .reduce(F32::max)
            .unwrap_or(state.max);
        let factor = (state.max - max).ex2_approx();
        let sum = across_lanes(state.sum * factor, heads * repeat, 32, |p, q| p + q);
        b.if_(first, || weights.index(b.warp(), by_warp).index(head, 4).store_scalar(sum));
        if let Some(log_sums) = &operands.log_sums {
            b.barrier();
            b.if_(first & b.warp().eq(b.i32(0)), || {
                let total = (0..WARPS)
                    .map(|w| weights.add_const(w * by_warp).index(head, 4).load_scalar())
                    .reduce(|p: F32<'k>, q| p + q)
                    .unwrap_or(sum);
                let at = [place.token, place.chunk, place.first_head + head];
                log_sums.store(&at, &[max + total.lg2_approx()]);
            });
        }
        let columns = self.value.slots * self.group * self.value.width;
        let row = 4 * heads * columns;
        let shared = b.shared_memory(WARPS * self.groups() * row);
        let state_at = b.warp() * b.i32(self.groups()) + place.group;
        let at = shared.index(state_at, row).index(place.lane, 4 * self.value.width);
        let sums = self.scale(factor, &state.sums);
        let width = self.value.width as usize;
        for (i, slice) in sums.chunks(width).enumerate() {
            let step = 4 * (self.group as usize * width * i) as u64;
            for (j, words) in slice.chunks(4).enumerate() {
                at.add_const(step + 16 * j as u64).store_words(words);
            }
        }
        b.barrier();
        self.store(b, operands, place, &Gathered { shared, row, columns, weights, by_warp });
    }

    /// Sums what the groups found and stores the results.
    fn store<'k>(
        &self,
        b: &'k Builder<'k>,
        operands: &Operands<'k>,
        place: &Place<'k>,
        gathered: &Gathered<'k>,
    ) {
        let out = &operands.out;
        let value = self.problem.value;
        let width = vector_width(&self.problem.out).min(4);
        let threads = 32 * WARPS;
        let (to, step) = (b.i32(self.heads * value), b.i32(threads * width));
        b.for_loop(b.thread() * b.i32(width), to, step, (), |at, ()| {
            let (head, column) = (at / b.i32(value), at % b.i32(value));
            let weight = (0..WARPS)
                .map(|w| gathered.weights.add_const(w * gathered.by_warp).index(head, 4))
                .map(Ptr::load_scalar)
                .reduce(|p, q| p + q)
                .unwrap_or(b.f32(0.0));
            let from = gathered.shared.index(head, 4 * gathered.columns).index(column, 4);
            let sums = (0..WARPS * self.groups())
                .map(|i| from.add_const(i * gathered.row).load_f32(width as usize))
                .reduce(|p, q| p.into_iter().zip(q).map(|(x, y)| x + y).collect())
                .unwrap_or_default();
            // A chunk may have no keys; of all there is one.
            let weight = match operands.log_sums {
                Some(_) => weight.when(weight.gt(b.f32(0.0)), b.f32(1.0)),
                None => weight,
            };
            let results: Vec<F32<'k>> = sums.into_iter().map(|s| s / weight).collect();
            let at = operands.result([place.token, place.chunk, place.first_head + head]);
            let to = out.at(&[at, vec![column]].concat());
            to.store(out.dtype(), &results);
        });
    }
}

/// What all groups found, in shared memory.
struct Gathered<'k> {
    /// By group, head and column.
    shared: Ptr<'k>,
    /// Bytes per group.
    row: u64,
    columns: u64,
    /// Sums of weights, by warp and head.
    weights: Ptr<'k>,
    /// Bytes per warp.
    by_warp: u64,
}

/// Combines over the lanes whose index agrees below bit `from` (both powers of two), within
/// `to` neighbours.
fn across_lanes<'k>(
    value: F32<'k>,
    from: u64,
    to: u64,
    combine: impl Fn(F32<'k>, F32<'k>) -> F32<'k>,
) -> F32<'k> {
    let distances = std::iter::successors(Some(from), |d| Some(2 * d)).take_while(|&d| d < to);
    distances.fold(value, |v, d| combine(v, v.shuffle_xor(d as i32)))
}

/// How a row is divided among the lanes of a group: vectors in turn.
#[derive(Clone, Debug)]
struct Slices {
    /// Elements of a vector.
    width: u64,
    vectors: u64,
    /// Vectors that a lane takes.
    slots: u64,
    group: u64,
}

impl Slices {
    /// Few instructions per lane: a load per vector, then one to unpack and at least one to
    /// compute with each element.
    fn new(view: &View, group: u64) -> Self {
        let len = view.shape[2].constant().unwrap_or(1);
        let widest = vector_width(view);
        let cost = |width: u64| (len / width).div_ceil(group) * (2 * width + 1);
        let widths = [16, 8, 4, 2, 1].into_iter().filter(|&w| w <= widest);
        let width = widths.min_by_key(|&w| cost(w)).unwrap_or(1);
        let vectors = len / width;
        Self { width, vectors, slots: vectors.div_ceil(group), group }
    }

    /// Elements that a lane takes.
    fn held(&self) -> u64 {
        self.slots * self.width
    }

    /// Whether some lanes have no vector in that turn; they take the last one again.
    fn is_ragged(&self, slot: u64) -> bool {
        (slot + 1) * self.group > self.vectors
    }

    /// The first element of a lane's vector, and whether it has one where that is not certain.
    fn element<'k>(
        &self,
        b: &'k Builder<'k>,
        lane: I32<'k>,
        slot: u64,
    ) -> (I32<'k>, Option<Bool<'k>>) {
        let vector = lane + b.i32(slot * self.group);
        if !self.is_ragged(slot) {
            return (vector * b.i32(self.width), None);
        }
        let near = vector.min(b.i32(self.vectors - 1));
        (near * b.i32(self.width), Some(vector.lt(b.i32(self.vectors))))
    }

    /// A vector of this division from a tensor that may be aligned less.
    fn load<'k>(&self, tensor: &Tensor<'k>, at: Ptr<'k>) -> Vec<F32<'k>> {
        let width = tensor.vector_width().min(self.width);
        let step = width * tensor.stride(2);
        (0..self.width / width)
            .flat_map(|i| at.add_const(i * step).load(tensor.dtype(), width))
            .collect()
    }
}

/// Reads the keys and values of one token, this lane's slices.
struct Reader<'k> {
    operands: Operands<'k>,
    /// The first row of the sequence.
    first: I32<'k>,
    parts: Vec<Source<'k>>,
    value: Source<'k>,
}

/// This lane's slices of rows of one tensor.
struct Source<'k> {
    tensor: Tensor<'k>,
    slices: Slices,
    /// For each slice: its place in the sequence's first row, as an address and a constant.
    places: Vec<(Ptr<'k>, u64)>,
    /// Where elements are quantised: their scales, the row at which those of the sequence begin,
    /// and the first element of each slice.
    scales: Option<(Scales<'k>, I32<'k>, Vec<I32<'k>>)>,
}

impl<'k> Reader<'k> {
    fn new(
        b: &'k Builder<'k>,
        design: &Decode,
        operands: Operands<'k>,
        place: &Place<'k>,
        first: I32<'k>,
    ) -> Self {
        let source = |tensor: &Tensor<'k>, view: &View, slices: &Slices, scales| {
            let head = design.problem.head_of(b, view, place.first_head);
            // Rows of pages have no place relative to the first.
            let origin = if operands.pages.is_some() { b.i32(0) } else { first };
            let row = tensor.at(&[origin, head]);
            let stride = tensor.stride(2);
            let whole = row.index(slices.element(b, place.lane, 0).0, stride);
            let at = |slot: u64| match slices.is_ragged(slot) {
                false => (whole, slot * slices.group * slices.width * stride),
                true => (row.index(slices.element(b, place.lane, slot).0, stride), 0),
            };
            let places = (0..slices.slots).map(at).collect();
            let column = |slot| slices.element(b, place.lane, slot).0;
            let scales: Option<&Scales<'k>> = scales;
            let scales = scales
                .map(|scales| (scales.clone(), origin, (0..slices.slots).map(column).collect()));
            Source { tensor: tensor.clone(), slices: slices.clone(), places, scales }
        };
        let problem = &design.problem;
        let keys = operands.k.iter().zip(&problem.k).zip(&design.parts);
        // Values, which are quantised, are the first part.
        let scales = operands.scales.as_ref();
        let parts = keys.enumerate().map(|(part, ((tensor, view), slices))| {
            source(tensor, view, slices, scales.filter(|_| part == 0))
        });
        Self {
            parts: parts.collect(),
            value: source(&operands.v, &problem.v, &design.value, scales),
            first,
            operands,
        }
    }

    /// Where the sequence's row of that number lies, in rows from where the sources begin.
    fn place(&self, b: &'k Builder<'k>, row: I32<'k>) -> I32<'k> {
        match self.operands.pages {
            Some(_) => self.operands.row(b, self.first + row),
            None => row,
        }
    }

    /// This lane's slices of all parts of a key.
    fn key(&self, row: I32<'k>) -> Vec<F32<'k>> {
        self.parts.iter().flat_map(|part| part.read(row)).collect()
    }

    /// This lane's slices of a value.
    fn value(&self, row: I32<'k>) -> Vec<F32<'k>> {
        self.value.read(row)
    }
}

impl<'k> Source<'k> {
    fn read(&self, row: I32<'k>) -> Vec<F32<'k>> {
        let stride = self.tensor.stride(0);
        let slice = |(slot, &(at, step)): (usize, &(Ptr<'k>, u64))| {
            let values = self.slices.load(&self.tensor, at.index(row, stride).add_const(step));
            match &self.scales {
                Some((scales, first, columns)) => {
                    scales.times(at.builder(), *first + row, columns[slot], values)
                }
                None => values,
            }
        };
        self.places.iter().enumerate().flat_map(slice).collect()
    }
}
