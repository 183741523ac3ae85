//! What lies where in shared memory: queries, two pages of keys, what warpgroups tell each other,
//! barriers.

use super::super::Problem;
use super::super::limits::shared;
use crate::builder::wgmma;
use moec_ir::Target;

/// Threads of a warpgroup.
pub(super) const WARPGROUP: u64 = 128;
/// Warpgroups that multiply, pages of a step, and halves of a value.
pub(super) const CONSUMERS: u64 = 2;
/// Heads of a CTA.
pub(super) const ROWS: u64 = wgmma::ROWS;
/// Keys of a page.
pub(super) const KEYS: u64 = moec_ir::plan::PAGE_ROWS;
/// Elements of a row of 128 bytes.
pub(super) const PANEL: u64 = wgmma::ROW_BYTES / 2;
/// Bytes of 64 rows of 64 elements, of queries, keys and weights alike.
pub(super) const PANEL_BYTES: u64 = 64 * wgmma::ROW_BYTES;
/// Bytes of a barrier.
const BARRIER: u64 = 8;

/// What of a page is read last by the warpgroup whose scores it gives, and what by the other. The
/// first is the half of the values that the warpgroup sums; the other holds what follows the values
/// as well, where the weights go when the scores are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Near,
    Far,
}

/// 64 columns of an operand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) part: usize,
    pub(super) column: u64,
    /// Products along them, of 16 each.
    pub(super) steps: u64,
}

/// Whether each warpgroup sums whole panels of values.
fn halves(problem: &Problem) -> bool {
    problem.value.is_multiple_of(CONSUMERS * PANEL)
        && problem.value / CONSUMERS <= wgmma::MOST_COLUMNS
}

/// Where everything lies.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Panels of queries and of keys, part by part.
    sources: Vec<Source>,
    /// How many of them are values.
    values: u64,
}

impl Layout {
    /// The layout, where a page of keys goes twice into shared memory beside the queries, and each
    /// warpgroup sums whole panels of values.
    pub(super) fn new(problem: &Problem, target: &Target) -> Option<Self> {
        let layout = Self::of(problem);
        (halves(problem) && layout.fits(target)).then_some(layout)
    }

    /// What there is too much of, if anything.
    pub(super) fn limit(problem: &Problem, target: &Target) -> Option<String> {
        let layout = Self::of(problem);
        let value = problem.value;
        if !halves(problem) {
            let most = CONSUMERS * wgmma::MOST_COLUMNS;
            return Some(format!(
                "values of {value} elements are no multiple of {}, or more than {most}",
                CONSUMERS * PANEL
            ));
        }
        let depth: u64 = problem.depth.iter().sum();
        let what = format!("64 queries and two pages of keys of {depth} elements");
        (!layout.fits(target)).then(|| shared(&what, layout.shared_bytes(), target))
    }

    fn fits(&self, target: &Target) -> bool {
        self.shared_bytes() <= u64::from(target.shared_per_cta)
    }

    fn of(problem: &Problem) -> Self {
        let panels = |(part, &depth): (usize, &u64)| {
            (0..depth).step_by(PANEL as usize).map(move |column| {
                let steps = (depth - column).min(PANEL).div_ceil(wgmma::DEPTH_BYTES / 2);
                Source { part, column, steps }
            })
        };
        let sources = problem.depth.iter().enumerate().flat_map(panels).collect();
        Self { sources, values: problem.value / PANEL }
    }

    /// Panels of a page, with one for the weights where nothing follows the values.
    fn per_page(&self) -> u64 {
        (self.sources.len() as u64).max(self.values + 1)
    }

    /// The panels that are copied, of the queries and of each page.
    pub(super) fn panels(&self) -> impl Iterator<Item = (u64, Source)> + '_ {
        (0..).zip(self.sources.iter().copied())
    }

    /// Those of one half of a page.
    pub(super) fn panels_of(
        &self,
        page: u64,
        half: Half,
    ) -> impl Iterator<Item = (u64, Source)> + '_ {
        let near = self.values_of(page);
        self.panels().filter(move |(panel, _)| near.contains(panel) == (half == Half::Near))
    }

    /// Panels of the values that a warpgroup sums.
    pub(super) fn values_of(&self, warpgroup: u64) -> std::ops::Range<u64> {
        let each = self.values / CONSUMERS;
        warpgroup * each..(warpgroup + 1) * each
    }

    /// Bytes of the queries.
    pub(super) fn queries_bytes(&self) -> u64 {
        self.sources.len() as u64 * PANEL_BYTES
    }

    /// Bytes that are copied into one half of a page.
    pub(super) fn half_bytes(&self, page: u64, half: Half) -> u64 {
        self.panels_of(page, half).count() as u64 * PANEL_BYTES
    }

    /// A panel of the queries.
    pub(super) fn queries(&self, panel: u64) -> u64 {
        panel * PANEL_BYTES
    }

    /// A panel of the keys of a page.
    pub(super) fn keys(&self, page: u64, panel: u64) -> u64 {
        self.queries_bytes() + (page * self.per_page() + panel) * PANEL_BYTES
    }

    /// The weights of a page, 64 rows of 64, once its scores are known.
    pub(super) fn weights(&self, page: u64) -> u64 {
        self.keys(page, self.values)
    }

    /// What a warpgroup tells the other of each row, a float32.
    pub(super) fn told(&self, warpgroup: u64) -> u64 {
        self.keys(CONSUMERS, 0) + warpgroup * 4 * ROWS
    }

    /// The barrier that says that the queries have come.
    pub(super) fn queries_full(&self) -> u64 {
        self.told(CONSUMERS)
    }

    /// The barrier that says that half of a page has come.
    pub(super) fn full(&self, page: u64, half: Half) -> u64 {
        self.queries_full() + (1 + 2 * page + half as u64) * BARRIER
    }

    /// The barrier that says that half of a page may be overwritten.
    pub(super) fn empty(&self, page: u64, half: Half) -> u64 {
        self.full(CONSUMERS + page, half)
    }

    /// All shared memory.
    pub(super) fn shared_bytes(&self) -> u64 {
        self.empty(CONSUMERS, Half::Near)
    }
}
