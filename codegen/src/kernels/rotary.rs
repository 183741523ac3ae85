//! Rotary position embedding: pairs of the last axis turned by each token's position
//! (Su et al., arXiv 2104.09864; both pairings are in use).
//!
//! A CTA reads the turns of its tokens once, for all of their heads that it takes.

use super::{Design, Step};
use crate::builder::{Builder, F32, I32, Ptr};
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::View;
use moec_ir::plan::Geometry;
use moec_ir::{Diagnostic, Dim};

/// Threads of a CTA at most.
const THREADS: u64 = 256;
/// Static shared memory of a CTA, in bytes (CUDA C++ programming guide, technical specifications).
const SHARED: u64 = 48 << 10;
/// Bytes of a turn: cosine and sine in float32.
const TURN: u64 = 8;

struct Rotary {
    x: View,
    out: View,
    pairing: Pairing,
    /// Vectors of pairs of a token's heads.
    items: Dim,
    /// Tokens of a CTA.
    tokens: u64,
    threads: u64,
}

/// Which elements of a row are pairs, and how many of them a thread turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pairing {
    /// Whether a pair is (2i, 2i + 1) or (i, i + half).
    interleaved: bool,
    /// Pairs of a row.
    half: u64,
    /// Pairs that a thread turns.
    at_once: u64,
}

pub(super) fn design(
    x: &View,
    out: &View,
    interleaved: bool,
    step: Step,
) -> Result<Box<dyn Design>, Diagnostic> {
    let pairing = Pairing::new(x, out, interleaved)?;
    let items = x.shape[1].clone() * pairing.vectors();
    let of_token = items.constant().unwrap_or(THREADS).max(1);
    let tokens = (THREADS / of_token)
        .min(SHARED / pairing.turn_bytes())
        .clamp(1, x.shape[0].eval(&step.sizes).max(1));
    let threads = (tokens * of_token).next_multiple_of(32).min(THREADS);
    Ok(Box::new(Rotary { x: x.clone(), out: out.clone(), pairing, items, tokens, threads }))
}

impl Pairing {
    /// For rows that are read and written as those views say.
    pub(super) fn new(x: &View, out: &View, interleaved: bool) -> Result<Self, Diagnostic> {
        let axis = x.shape.len() - 1;
        let half = x.shape[axis].constant().filter(|n| *n > 0 && n.is_multiple_of(2));
        let Some(half) = half.map(|n| n / 2).filter(|half| half * TURN <= SHARED) else {
            return Err(Diagnostic::error("E0902", format!("a rotary kernel turns {x}"))
                .help("the last axis is even and has at most 12288 elements"));
        };
        let width = vector_width(x).min(vector_width(out)).min(8);
        let width = if interleaved { (width / 2).max(1) } else { width.min(4) };
        let at_once = 1 << half.trailing_zeros().min(width.ilog2());
        Ok(Self { interleaved, half, at_once })
    }

    /// The same, with at most so many pairs for a thread at once: a power of two.
    pub(super) fn at_most(self, pairs: u64) -> Self {
        Self { at_once: self.at_once.min(pairs), ..self }
    }

    /// Where in the table the turns of a position begin.
    pub(super) fn turns_at<'k>(self, table: Ptr<'k>, position: I32<'k>) -> Ptr<'k> {
        table.index(position * self.half as i32, TURN)
    }

    /// Vectors of pairs of a row.
    pub(super) fn vectors(self) -> u64 {
        self.half / self.at_once
    }

    /// Bytes of the turns of a token.
    pub(super) fn turn_bytes(self) -> u64 {
        self.half * TURN
    }

    /// Copies the turns of `tokens` tokens to shared memory, by all threads; `position` gives
    /// those of the CTA's tokens.
    pub(super) fn fetch<'k>(
        self,
        b: &'k Builder<'k>,
        table: Ptr<'k>,
        to: Ptr<'k>,
        tokens: I32<'k>,
        position: impl Fn(I32<'k>) -> I32<'k>,
    ) {
        // 16 bytes of neighbouring turns at a time, where there are so many.
        let width = 1 << self.half.trailing_zeros().min(1);
        let per_row = self.half / width;
        let end = tokens * per_row as i32;
        b.for_loop(b.thread(), end, b.i32(b.threads()), (), |at, ()| {
            let (token, column) = (at / per_row as i32, at % per_row as i32);
            let first = position(token) * self.half as i32 + column * width as i32;
            let turns: Vec<F32<'k>> = table.index(first, TURN).load_f32(2 * width as usize);
            to.index(at, width * TURN).store_words(&turns);
        });
    }

    /// Turns a vector of pairs of a row, which `load` reads and `store` writes at an index along
    /// it; `turns` are those of the row's token.
    pub(super) fn turn<'k>(
        self,
        turns: Ptr<'k>,
        vector: I32<'k>,
        load: impl Fn(I32<'k>, u64) -> Vec<F32<'k>>,
        store: impl Fn(I32<'k>, &[F32<'k>]),
    ) {
        let pair = vector * self.at_once as i32;
        let turns = turns.index(pair, TURN).load_f32(2 * self.at_once as usize);
        if self.interleaved {
            let both = load(pair * 2, 2 * self.at_once);
            let (first, second) = turn(&every_other(&both, 0), &every_other(&both, 1), &turns);
            let both: Vec<_> = first.iter().zip(&second).flat_map(|(&p, &q)| [p, q]).collect();
            store(pair * 2, &both);
        } else {
            let at = [pair, pair + self.half as i32];
            let [first, second] = at.map(|at| load(at, self.at_once));
            let (first, second) = turn(&first, &second, &turns);
            store(at[0], &first);
            store(at[1], &second);
        }
    }
}

impl Design for Rotary {
    fn geometry(&self) -> Geometry {
        let grid = [(self.x.shape[0].clone(), self.tokens), (self.items.clone(), self.per_cta())];
        super::launch(&grid, self.threads as u32)
    }

    fn operands(&self) -> usize {
        4
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let x = Tensor::operand(b, 0, &self.x);
        let out = Tensor::operand(b, 3, &self.out);
        let rows = b.size(&self.x.shape[0]);
        let first = b.cta(0) * self.tokens as i32;
        let shared = b.shared_memory(self.tokens * self.pairing.turn_bytes());
        let tokens = b.i32(self.tokens).min(rows - first);
        self.pairing.fetch(b, b.operand(1).read_only(), shared, tokens, |token| {
            b.operand(2).read_only().index(first + token, 4).load_scalar()
        });
        b.barrier();
        let items = b.size(&self.items);
        let (token, item) = match self.tokens {
            1 => (b.i32(0), b.cta(1) * self.per_cta() as i32 + b.thread()),
            _ => (b.thread() / items, b.thread() % items),
        };
        let row = first + token;
        let inside = token.lt(tokens) & item.lt(items);
        b.if_(inside, || {
            let vectors = self.pairing.vectors() as i32;
            let (head, vector) = (item / vectors, item % vectors);
            let turns = shared.index(token, self.pairing.turn_bytes());
            self.pairing.turn(
                turns,
                vector,
                |at, n| x.load(&[row, head, at], n),
                |at, values| out.store(&[row, head, at], values),
            );
        });
    }
}

impl Rotary {
    /// Vectors of a token that a CTA turns.
    fn per_cta(&self) -> u64 {
        match (self.tokens, self.items.constant()) {
            (1, _) | (_, None) => self.threads,
            (_, Some(all)) => all,
        }
    }
}

fn every_other<'k>(values: &[F32<'k>], from: usize) -> Vec<F32<'k>> {
    values.iter().skip(from).step_by(2).copied().collect()
}

/// `(p cos - q sin, q cos + p sin)` for each pair; `turns` holds cosine and sine in turn.
fn turn<'k>(
    first: &[F32<'k>],
    second: &[F32<'k>],
    turns: &[F32<'k>],
) -> (Vec<F32<'k>>, Vec<F32<'k>>) {
    let pairs = first.iter().zip(second).zip(turns.chunks(2));
    pairs
        .map(|((&p, &q), turn)| {
            let (cos, sin) = (turn[0], turn[1]);
            (p.fma(cos, (q * sin).neg()), q.fma(cos, p * sin))
        })
        .unzip()
}
