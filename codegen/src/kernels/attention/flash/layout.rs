//! Sizes of blocks and the layout of shared memory.

use super::super::Problem;
use super::super::limits::shared;
use crate::builder::wgmma;
use moec_ir::Target;

/// Threads of a warpgroup.
pub(super) const WARPGROUP: u32 = 128;
/// Warpgroups that multiply.
pub(super) const CONSUMERS: u64 = 2;
/// Tokens of a CTA.
pub(super) const ROWS: u64 = CONSUMERS * wgmma::ROWS;
/// Blocks of keys, and of values, in shared memory.
pub(super) const STAGES: u64 = 2;
/// Elements of a row of 128 bytes.
pub(super) const PANEL: u64 = wgmma::ROW_BYTES / 2;
/// Sums, scores and weights that a thread holds at most: 240 registers less those for maxima, sums,
/// addresses and what is in between.
const HELD: u64 = 176;
/// Bytes of a barrier.
const BARRIER: u64 = 8;

/// Elements of rows as shared memory holds them: beyond their end are zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// Matrices of 64 columns.
    pub(super) panels: u64,
    /// Products along them, of 16 each.
    pub(super) steps: u64,
}

impl Columns {
    fn new(n: u64) -> Self {
        Self { panels: n.div_ceil(PANEL), steps: n.div_ceil(wgmma::DEPTH_BYTES / 2) }
    }
}

/// Bytes of a matrix of 64 columns.
pub(super) fn panel_bytes(rows: u64) -> u64 {
    rows * wgmma::ROW_BYTES
}

/// Keys of a block, at least.
const FEWEST_KEYS: u64 = 32;

/// Where everything lies: queries, stages of keys, stages of values, barriers.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Keys of a block.
    pub(super) keys: u64,
    /// Those of them that are copied at once: they belong to one page.
    pub(super) copied: u64,
    pub(super) parts: Vec<Columns>,
    pub(super) value: Columns,
}

impl Layout {
    /// The largest blocks that fit shared memory and registers.
    pub(super) fn new(problem: &Problem, target: &Target) -> Option<Self> {
        let fits = |layout: &Self| {
            let held = problem.value / 2 + layout.keys / 2 + layout.keys / 4;
            problem.value <= wgmma::MOST_COLUMNS
                && held <= HELD
                && layout.shared_bytes() <= u64::from(target.shared_per_cta)
        };
        [128, 64, FEWEST_KEYS].map(|keys| Self::of(problem, keys)).into_iter().find(fits)
    }

    /// What there is too much of, if anything.
    pub(super) fn limit(problem: &Problem, target: &Target) -> Option<String> {
        let (value, depth) = (problem.value, problem.depth.iter().sum::<u64>());
        if Self::new(problem, target).is_some() {
            return None;
        }
        if value > wgmma::MOST_COLUMNS {
            let most = wgmma::MOST_COLUMNS;
            return Some(format!("values have {value} elements, and sums of {most} fit registers"));
        }
        let what = format!(
            "128 queries and two blocks of {FEWEST_KEYS} keys of {depth} elements and values of \
             {value}"
        );
        Some(shared(&what, Self::of(problem, FEWEST_KEYS).shared_bytes(), target))
    }

    fn of(problem: &Problem, keys: u64) -> Self {
        let parts = problem.depth.iter().map(|&d| Columns::new(d)).collect();
        let copied = problem.page.map_or(keys, |page| page.min(keys));
        Self { keys, copied, parts, value: Columns::new(problem.value) }
    }

    fn panels(&self) -> u64 {
        self.parts.iter().map(|part| part.panels).sum()
    }

    fn panels_before(&self, part: usize) -> u64 {
        self.parts[..part].iter().map(|part| part.panels).sum()
    }

    pub(super) fn queries_bytes(&self) -> u64 {
        self.panels() * panel_bytes(ROWS)
    }

    /// Bytes of a block of keys.
    pub(super) fn keys_bytes(&self) -> u64 {
        self.panels() * panel_bytes(self.keys)
    }

    /// Bytes of a block of values.
    pub(super) fn values_bytes(&self) -> u64 {
        self.value.panels * panel_bytes(self.keys)
    }

    /// Where a part of the queries lies.
    pub(super) fn queries(&self, part: usize) -> u64 {
        self.panels_before(part) * panel_bytes(ROWS)
    }

    /// Where a part of the keys lies in the first stage.
    pub(super) fn keys_at(&self, part: usize) -> u64 {
        self.queries_bytes() + self.panels_before(part) * panel_bytes(self.keys)
    }

    /// Where the values lie in the first stage.
    pub(super) fn values_at(&self) -> u64 {
        self.queries_bytes() + STAGES * self.keys_bytes()
    }

    /// The barrier that says that the queries have come.
    pub(super) fn queries_full(&self) -> u64 {
        self.values_at() + STAGES * self.values_bytes()
    }

    /// The barriers that say that a stage of keys is full; those of values follow.
    pub(super) fn full(&self, stage: u64) -> u64 {
        self.queries_full() + (1 + stage) * BARRIER
    }

    /// The barriers that say that a stage of keys is empty; those of values follow.
    pub(super) fn empty(&self, stage: u64) -> u64 {
        self.full(2 * STAGES) + stage * BARRIER
    }

    /// All shared memory.
    pub(super) fn shared_bytes(&self) -> u64 {
        self.empty(2 * STAGES)
    }
}
