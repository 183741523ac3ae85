//! How kernels that work on rows divide them: a team of threads per row.
//!
//! Short rows get a warp each, long ones a CTA each. A thread holds its elements of a row in
//! registers between passes where they are few, and reads them again otherwise.

use crate::builder::{Bool, Builder, Carried, F32, I32};
use moec_ir::plan::Geometry;
use moec_ir::{Dim, Sizes};

/// Rows up to this many elements get a warp.
const WARP_ROW: u64 = 1024;
/// Elements that a thread keeps in registers at most.
const HELD: u64 = 64;

/// Who works on a row.
#[derive(Clone, Debug)]
pub(super) struct Team {
    /// Threads per row: 32, or all of the CTA.
    threads: u32,
    /// Rows that a CTA takes.
    rows_per_cta: u32,
    /// Number of rows.
    rows: Dim,
    /// Elements that a thread reads at once.
    width: u64,
    /// Row length in such vectors.
    vectors: Dim,
}

impl Team {
    /// For `rows` rows of `len` elements, read `width` at a time (a divisor of `len`).
    pub(super) fn new(rows: Dim, len: &Dim, width: u64, step: Sizes) -> Self {
        let vectors = len.div_exact(width).unwrap_or_else(|| len.clone());
        let count = vectors.eval(&step).max(1);
        if count * width <= WARP_ROW {
            let rows_per_cta = rows.eval(&step).clamp(1, 4) as u32;
            return Self { threads: 32, rows_per_cta, rows, width, vectors };
        }
        let threads = (count.div_ceil(4).next_multiple_of(32)).clamp(64, 512) as u32;
        Self { threads, rows_per_cta: 1, rows, width, vectors }
    }

    /// The launch.
    pub(super) fn geometry(&self) -> Geometry {
        let grid = [(self.rows.clone(), self.rows_per_cta.into())];
        super::launch(&grid, self.threads * self.rows_per_cta)
    }

    /// Runs `body` for each row of this CTA: once per thread, with the row's index.
    pub(super) fn for_row<'k>(&self, b: &'k Builder<'k>, body: impl FnOnce(Row<'k>)) {
        let constant = self.vectors.constant();
        let held =
            constant.map(|v| v.div_ceil(self.threads.into())).filter(|c| c * self.width <= HELD);
        let (index, thread) = match self.threads {
            32 => (b.cta(0) * self.rows_per_cta.cast_signed() + b.warp(), b.lane()),
            _ => (b.cta(0), b.thread()),
        };
        let row = Row {
            b,
            index,
            thread,
            threads: self.threads,
            width: self.width,
            vectors: b.size(&self.vectors),
            constant,
            held,
        };
        if self.rows_per_cta > 1 {
            b.if_(index.lt(b.size(&self.rows)), || body(row));
        } else {
            body(row);
        }
    }
}

/// One row, as one thread of its team sees it.
#[derive(Clone, Copy)]
pub(super) struct Row<'k> {
    pub(super) b: &'k Builder<'k>,
    /// Which row.
    pub(super) index: I32<'k>,
    /// Which of its team's threads.
    pub(super) thread: I32<'k>,
    /// How many those are: a multiple of 32.
    pub(super) threads: u32,
    width: u64,
    vectors: I32<'k>,
    constant: Option<u64>,
    held: Option<u64>,
}

/// A row's elements: in registers, or read again for each pass.
pub(super) struct Elements<'k, 'r> {
    row: Row<'k>,
    held: Option<Vec<Part<'k>>>,
    load: Load<'k, 'r>,
    again: Option<Load<'k, 'r>>,
}

/// Reads the vector that begins at an element of the row.
type Load<'k, 'r> = Box<dyn Fn(I32<'k>) -> Vec<F32<'k>> + 'r>;

/// A vector of a row: where it begins, whether it lies within the row, its elements.
struct Part<'k> {
    at: I32<'k>,
    inside: Option<Bool<'k>>,
    values: Vec<F32<'k>>,
}

impl<'k> Row<'k> {
    /// Reads the row, vector by vector.
    pub(super) fn elements<'r>(
        self,
        load: impl Fn(I32<'k>) -> Vec<F32<'k>> + 'r,
    ) -> Elements<'k, 'r> {
        let b = self.b;
        let held = self.held.map(|parts| {
            (0..parts)
                .map(|part| {
                    let vector = self.thread + b.i32(part * u64::from(self.threads));
                    let at = vector * self.width as i32;
                    let inside = self.guard(vector, part);
                    let values = match inside {
                        None => load(at),
                        Some(inside) => {
                            let zeros = vec![b.f32(0.0); self.width as usize];
                            b.if_else(inside, zeros, || load(at))
                        }
                    };
                    Part { at, inside, values }
                })
                .collect()
        });
        Elements { row: self, held, load: Box::new(load), again: None }
    }

    /// The test that a vector is within the row, where that is not known.
    fn guard(self, vector: I32<'k>, part: u64) -> Option<Bool<'k>> {
        let always = self.constant.is_some_and(|v| (part + 1) * u64::from(self.threads) <= v);
        (!always).then(|| vector.lt(self.vectors))
    }

    /// Whether this thread is the first of the row's team.
    pub(super) fn is_first_thread(self) -> Bool<'k> {
        self.thread.eq(self.b.i32(0))
    }

    /// Combines one number per thread over the row's team, in a fixed order; every thread gets
    /// the result. All threads of the CTA must come here.
    pub(super) fn combine(
        self,
        value: F32<'k>,
        neutral: f32,
        f: impl Fn(F32<'k>, F32<'k>) -> F32<'k>,
    ) -> F32<'k> {
        let b = self.b;
        let value = value.across(32, &f);
        if self.threads == 32 {
            return value;
        }
        let warps = self.threads / 32;
        let shared = b.shared_memory(u64::from(warps) * 4);
        b.if_(b.lane().eq(b.i32(0)), || shared.index(b.warp(), 4).store_scalar(value));
        b.barrier();
        let lane = b.lane();
        let of_warp = b
            .if_else(lane.lt(b.i32(warps)), b.f32(neutral), || shared.index(lane, 4).load_scalar());
        // Lane 0 of the team's width holds the total; the others of the warp need it too.
        of_warp.across(warps.next_power_of_two(), f).shuffle_from(b.i32(0))
    }
}

impl<'k: 'r, 'r> Elements<'k, 'r> {
    /// How [`Elements::each`] reads rows that are too long for registers, where reading them
    /// once has stored something.
    pub(super) fn then_read(self, again: impl Fn(I32<'k>) -> Vec<F32<'k>> + 'r) -> Self {
        Self { again: Some(Box::new(again)), ..self }
    }

    /// A function of each element; computed once where the elements are in registers.
    pub(super) fn map(self, f: impl Fn(F32<'k>) -> F32<'k> + Clone + 'r) -> Self {
        let row = self.row;
        let held = self.held.map(|parts| {
            let each =
                |part: Part<'k>| Part { values: part.values.into_iter().map(&f).collect(), ..part };
            parts.into_iter().map(each).collect()
        });
        let through = |load: Load<'k, 'r>| -> Load<'k, 'r> {
            let f = f.clone();
            Box::new(move |at| load(at).into_iter().map(&f).collect())
        };
        Self { row, held, load: through(self.load), again: self.again.map(through) }
    }

    /// Folds this thread's elements of the row.
    pub(super) fn fold<C: Carried<'k>>(&self, init: C, f: impl Fn(C, F32<'k>) -> C) -> C {
        let row = self.row;
        let b = row.b;
        let Some(parts) = &self.held else {
            let (from, to) = (row.thread, row.vectors);
            return b.for_loop(from, to, b.i32(row.threads), init, |vector, acc| {
                (self.load)(vector * row.width as i32).into_iter().fold(acc, &f)
            });
        };
        parts.iter().fold(init, |acc, part| {
            let values = || part.values.iter().copied().fold(acc.clone(), &f);
            match part.inside {
                None => values(),
                Some(inside) => b.if_else(inside, acc.clone(), values),
            }
        })
    }

    /// Calls `f` for each of this thread's vectors: where it begins and its elements.
    pub(super) fn each(&self, f: impl Fn(I32<'k>, &[F32<'k>])) {
        let row = self.row;
        let b = row.b;
        let Some(parts) = &self.held else {
            b.for_loop(row.thread, row.vectors, b.i32(row.threads), (), |vector, ()| {
                let at = vector * row.width as i32;
                f(at, &self.again.as_ref().unwrap_or(&self.load)(at));
            });
            return;
        };
        for part in parts {
            match part.inside {
                None => f(part.at, &part.values),
                Some(inside) => b.if_(inside, || f(part.at, &part.values)),
            }
        }
    }
}
