//! Sizes of tiles, their choice, and the layout of shared memory.

use super::scaled::boundaries;
use super::widened::{PANELS, Widened};
use crate::builder::wgmma;
use crate::kernels::Tiles;
use moec_ir::kernel::View;
use moec_ir::plan::{Extent, Geometry, TensorMap};
use moec_ir::{DType, Dim, Target};
use std::cmp::Ordering;
use std::collections::BTreeSet;

pub(super) use wgmma::ROW_BYTES;

/// Threads of a warpgroup.
pub(super) const WARPGROUP: u32 = 128;
/// Bytes of a barrier.
const BARRIER: u64 = 8;
/// Stages of the ring: a multiple of 4, so that scales come four at a time.
const MOST_STAGES: u64 = 8;
const FEWEST_STAGES: u64 = 4;
/// Stages of float32, which take four times the room and have no scales of rows.
const STAGES_OF_F32: [u64; 4] = [MOST_STAGES, FEWEST_STAGES, 3, 2];
/// Columns of a product are a multiple of this; of 8 for the instruction (PTX ISA 9.7.15.2), of 16
/// so that a stage of `w` keeps the next one aligned to 1024 bytes.
const COLUMNS: u64 = 16;
/// Rows and columns of a block of `w` that has one scale (DeepSeek-V3 3.3.2).
pub(in crate::kernels) const SCALE_BLOCK: u64 = 128;

/// Registers of a multiplying thread that sums may take: of 224 at least, so that addresses,
/// scales and phases have the others.
const MOST_SUMS: u64 = 192;
/// The same where operands are widened: of 192 with two multiplying warpgroups and of 240 with one,
/// and the left operand's numbers are among them.
const MOST_SUMS_WIDENED: [u64; 2] = [176, 160];
/// Places of the boundary between blocks of `w`, at most: for each there is a loop, and all have
/// to be compiled.
const MOST_BOUNDARIES: usize = 4;
/// Estimated times are alike where one is at most 103/100 of the other: 256 rows instead of 128
/// gained DeepGEMM 3 to 6 % on an H800 where `k` is long and lost 2 to 3 % where it is short
/// (ablations in its pull requests), which the estimate does not see.
const ALIKE: [u64; 2] = [100, 103];

/// What a CTA computes at a time, and how it is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// Type of both operands, as they lie in memory; where they are widened, of `w`.
    pub(super) dtype: DType,
    /// Rows: 64, 128 or 256.
    pub(super) rows: u64,
    /// Columns: a multiple of 16, at most 256.
    pub(super) columns: u64,
    /// Stages of the ring.
    pub(super) stages: u64,
    /// CTAs.
    pub(super) ctas: u64,
    /// Bytes of scales per row of `a` and stage; 0 without.
    pub(super) scale_bytes: u64,
    /// Whether threads gather the rows of `a`.
    pub(super) gathers: bool,
    /// Tiles of a cluster below each other, which share `w`, and beside each other, which share
    /// `a`: one of the two numbers is 1.
    pub(super) cluster: [u64; 2],
    /// Whether `w` is stored transposed: its stages are panels of 64 columns.
    pub(super) transposed: bool,
    /// Bytes that are left free before and behind the barriers.
    pub(super) around_barriers: [u64; 2],
    /// How operands are widened, if tensor cores do not multiply them as they are.
    pub(super) widened: Option<Widened>,
}

/// Tiles that can be computed, each with as many stages as fit.
fn candidates(problem: Problem, target: &Target) -> Vec<Tile> {
    let low = problem.gathers || problem.widened.is_some();
    let of_rows: &[u64] = if low { &[128, 64] } else { &[256, 128, 64] };
    let mut tiles = vec![];
    for columns in (1..=wgmma::MOST_COLUMNS / COLUMNS).rev().map(|n| n * COLUMNS) {
        for &rows in of_rows.iter().filter(|_| problem.allows(columns)) {
            let tile = |cluster, stages| Tile {
                dtype: problem.dtype,
                rows,
                columns,
                stages,
                ctas: u64::from(target.sms),
                scale_bytes: if problem.scaled_rows { 4 } else { 0 },
                gathers: problem.gathers,
                cluster,
                transposed: problem.transposed,
                around_barriers: [0; 2],
                widened: problem.widened,
            };
            tiles.extend(problem.clusters(rows, columns, target).into_iter().filter_map(
                |cluster| {
                    let wide = problem.widened.is_some_and(|w| w.a == DType::F32);
                    let stages = &STAGES_OF_F32[..if wide { 4 } else { 2 }];
                    let mut tiles = stages.iter().map(|&stages| tile(cluster, stages));
                    tiles.find(|tile| tile.fits(target))
                },
            ));
        }
    }
    tiles
}

impl Problem {
    /// Shapes of clusters, of tiles of so many rows and columns: of two where both have results, and
    /// tensor copies, which reach several CTAs as a thread's copies do not.
    fn clusters(&self, rows: u64, columns: u64, target: &Target) -> Vec<[u64; 2]> {
        let pairs = self.clusters && target.sms.is_multiple_of(2);
        let shapes = [
            ([1, 1], true),
            ([2, 1], pairs && self.rows > rows),
            ([1, 2], pairs && self.columns > columns),
        ];
        shapes.into_iter().filter(|(_, exists)| *exists).map(|(shape, _)| shape).collect()
    }

    /// Whether tiles may have so many columns.
    fn allows(&self, columns: u64) -> bool {
        let across = self.columns.div_ceil(columns);
        let few = |places: BTreeSet<u64>| places.len() <= MOST_BOUNDARIES;
        if self.transposed {
            return columns.is_multiple_of(ROW_BYTES / self.dtype.bytes());
        }
        !self.scaled || boundaries(columns, across, SCALE_BLOCK).is_some_and(few)
    }
}

/// What decides the choice of a tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub(super) dtype: DType,
    pub(super) rows: u64,
    pub(super) columns: u64,
    pub(super) batch: u64,
    /// Bytes along `k`.
    pub(super) depth: u64,
    pub(super) scaled: bool,
    /// Whether rows of `a` have scales too.
    pub(super) scaled_rows: bool,
    /// How operands are widened.
    pub(super) widened: Option<Widened>,
    /// Whether threads gather the rows of `a`, each thread an eighth of a row at a time: those of
    /// 256 rows have no registers for so many addresses.
    pub(super) gathers: bool,
    /// Whether CTAs of a cluster may share what they copy.
    pub(super) clusters: bool,
    /// Whether `w` is stored transposed.
    pub(super) transposed: bool,
}

impl Tile {
    /// The tile with the least estimated time; of those within [`ALIKE`] of it, the one that
    /// reads the fewest operands for a multiply-add.
    pub(super) fn choose(problem: Problem, target: &Target) -> Self {
        Self::choose_of(candidates(problem, target), problem)
    }

    /// The same of those that so many warpgroups multiply, where that is given, and that have so
    /// many columns at most.
    pub(super) fn choose_within(
        (consumers, columns): (Option<u64>, u64),
        problem: Problem,
        target: &Target,
    ) -> Self {
        let fits = |tile: &Self| {
            consumers.is_none_or(|n| tile.consumers() == n) && tile.columns <= columns
        };
        Self::choose_of(candidates(problem, target).into_iter().filter(fits).collect(), problem)
    }

    fn choose_of(all: Vec<Self>, problem: Problem) -> Self {
        let least = all.iter().map(|tile| tile.cycles(problem)).min().unwrap_or(0);
        let alike = |tile: &Self| tile.cycles(problem) * ALIKE[0] <= least * ALIKE[1];
        // Operands are read once for each of the other's rows.
        let traffic = |tile: &Self| {
            let reads = tile.fill() as f64 / (tile.rows * tile.columns) as f64;
            (reads, tile.cycles(problem), tile.ctas_of_cluster())
        };
        all.into_iter()
            .filter(alike)
            .min_by(|a, b| traffic(a).partial_cmp(&traffic(b)).unwrap_or(Ordering::Equal))
            .unwrap_or_else(|| crate::builder::bug("no tile fits shared memory"))
    }

    /// Cycles that a CTA takes: those of its tiles in turn (a whole number of waves of CTAs, tiles
    /// that lie partly outside counted in full); of a tile, the tensor cores' or those of filling
    /// shared memory, whichever are more, and the epilogue's. Figures per SM: 64 x 256 x 32 bytes
    /// in 128 cycles (arXiv 2501.12084, table of wgmma throughput), 64 bytes a cycle from L2
    /// (DeepGEMM's model of the same choice).
    fn cycles(&self, problem: Problem) -> u64 {
        let [below, beside] = self.cluster;
        let down = problem.rows.div_ceil(self.rows * below);
        let across = problem.columns.div_ceil(self.columns * beside);
        let waves = (down * across * problem.batch).div_ceil(self.ctas / self.ctas_of_cluster());
        let steps = problem.depth.div_ceil(ROW_BYTES);
        let multiply = self.rows * self.columns / 32;
        // Below 64 columns an instruction takes as long as with 64.
        let multiply = multiply.max(self.rows * 64 / 32);
        // Products of 16 bits take twice as long for as many numbers.
        let multiply = multiply * self.widened.map_or(1, |w| 2 * w.products());
        let fill = self.fill() * ROW_BYTES / 64;
        let results = self.rows * self.columns / 16;
        waves * (steps * multiply.max(fill) + results)
    }

    /// Rows of 128 bytes of both operands that a CTA copies for each step along `k`.
    fn fill(&self) -> u64 {
        let [below, beside] = self.cluster;
        self.rows * self.panels_of_a() / beside + self.columns * self.panels_of_w() / below
    }

    /// Rows of 128 bytes that a row of `w` is cut into in a stage.
    pub(super) fn panels_of_w(&self) -> u64 {
        self.widened.map_or(1, |w| w.w.bytes())
    }

    /// Rows of 128 bytes that a row of `a` is cut into in a stage.
    pub(super) fn panels_of_a(&self) -> u64 {
        self.widened.map_or(1, |w| w.a.bytes())
    }

    /// CTAs of a cluster.
    pub(super) fn ctas_of_cluster(&self) -> u64 {
        self.cluster.iter().product()
    }

    /// Whether a multiplying thread has registers for its sums, and shared memory has room.
    fn fits(&self, target: &Target) -> bool {
        let of_wave = self.columns / 2;
        let products = if self.scale_bytes > 0 || self.widened.is_some() { of_wave } else { 0 };
        let (of_a, most) = match self.widened {
            None => (0, MOST_SUMS),
            Some(w) => (w.registers(), MOST_SUMS_WIDENED[self.consumers() as usize - 1]),
        };
        self.waves() * of_wave + products + of_a <= most
            && self.shared_bytes() <= u64::from(target.shared_per_cta)
    }

    /// Warpgroups that multiply.
    pub(super) fn consumers(&self) -> u64 {
        if self.rows == wgmma::ROWS { 1 } else { 2 }
    }

    /// Products of 64 rows that a warpgroup computes.
    pub(super) fn waves(&self) -> u64 {
        self.rows / wgmma::ROWS / self.consumers()
    }

    /// Threads of a CTA.
    pub(super) fn threads(&self) -> u32 {
        WARPGROUP * (self.consumers() as u32 + 1 + u32::from(self.widened.is_some()))
    }

    /// Registers of a copying and of a multiplying thread: together what the CTA begins with,
    /// 168 for each of 384 threads or 255 for each of 256 (multiples of 8; PTX ISA 9.7.19.5).
    pub(super) fn registers(&self) -> [u32; 2] {
        if self.widened.is_some() {
            return if self.consumers() == 2 { [56, 192] } else { [72, 240] };
        }
        match (self.consumers(), self.gathers) {
            (2, false) => [40, 232],
            (2, true) => [56, 224],
            (_, false) => [40, 248],
            (_, true) => [72, 248],
        }
    }

    /// Registers of a widening thread: what is left of 128 for each of 512 threads, or less than is
    /// left of 168 for each of 384.
    pub(super) fn registers_of_widening(&self) -> u32 {
        if self.consumers() == 2 { 72 } else { 104 }
    }

    /// Elements along `k` of a stage.
    pub(super) fn depth(&self) -> u64 {
        match self.widened {
            None => ROW_BYTES / self.dtype.bytes(),
            Some(_) => SCALE_BLOCK,
        }
    }

    /// What decides the bytes that a product of matrices with rows of `k` elements moves, whose
    /// results `c` has.
    pub(super) fn tiles(&self, k: u64, c: &View) -> Tiles {
        Tiles {
            rows: self.rows,
            columns: self.columns,
            cluster: self.cluster,
            n: c.shape[2].constant().unwrap_or(0),
            row_bytes: k * self.dtype.bytes(),
            row_bytes_of_a: k * self.widened.map_or(self.dtype, |w| w.a).bytes(),
            scale_bytes: k.div_ceil(self.depth()) * self.scale_bytes,
            result_bytes: c.dtype.bytes(),
        }
    }

    /// Where in shared memory a stage of `a` lies.
    pub(super) fn a(&self, stage: u64) -> u64 {
        stage * self.rows * self.panels_of_a() * ROW_BYTES
    }

    /// Where in shared memory a stage of `w` lies.
    pub(super) fn w(&self, stage: u64) -> u64 {
        self.a(self.stages) + stage * self.columns * self.panels_of_w() * ROW_BYTES
    }

    /// Columns of `w` in a panel of a stage, and the bytes of one, where it is stored transposed:
    /// as many rows of 128 bytes as a stage is deep.
    pub(super) fn panel(&self) -> [u64; 2] {
        [ROW_BYTES / self.dtype.bytes(), self.depth() * ROW_BYTES]
    }

    /// Where in shared memory a stage of `w` lies, widened: panels of 128 bytes of each column.
    pub(super) fn wide(&self, stage: u64) -> u64 {
        let terms = self.widened.map_or(0, |w| w.terms()[1]);
        self.w(self.stages) + stage * self.wide_term(terms)
    }

    /// Where within a stage of the widened `w` the terms of that number lie.
    pub(super) fn wide_term(&self, term: u64) -> u64 {
        term * PANELS * self.columns * ROW_BYTES
    }

    /// Where in shared memory one of two sets of scales lies.
    pub(super) fn scales(&self, set: u64) -> u64 {
        self.wide(self.stages) + set * self.scale_set()
    }

    /// Bytes of a set of scales: those of all stages.
    pub(super) fn scale_set(&self) -> u64 {
        self.rows * self.stages * self.scale_bytes
    }

    /// Bytes that tensor copies bring into a stage, with the scales of a round or without.
    pub(super) fn stage_bytes(&self, with_scales: bool) -> u64 {
        let scales = if with_scales { self.scale_set() } else { 0 };
        let of_a = if self.gathers { 0 } else { self.rows * self.panels_of_a() };
        let rows = of_a + self.columns * self.panels_of_w();
        rows * ROW_BYTES + scales
    }

    /// The barrier that says that a stage is full.
    pub(super) fn full(&self, stage: u64) -> u64 {
        self.scales(2) + self.around_barriers[0] + stage * BARRIER
    }

    /// The barrier that says that a stage is empty.
    pub(super) fn empty(&self, stage: u64) -> u64 {
        self.full(self.stages) + stage * BARRIER
    }

    /// The barrier that says that the widened `w` of a stage is there.
    pub(super) fn wide_full(&self, stage: u64) -> u64 {
        self.empty(self.stages) + stage * BARRIER
    }

    /// Shared memory up to the end of the barriers.
    pub(super) fn shared_bytes(&self) -> u64 {
        let last = if self.widened.is_some() { self.stages } else { 0 };
        self.wide_full(last) + self.around_barriers[1]
    }

    /// Lays out tiles of two products that a CTA computes one after the other: their stages take
    /// the same place, their barriers each their own.
    pub(super) fn share(first: &mut Self, second: &mut Self) {
        let end = first.scales(2).max(second.scales(2));
        let barriers = |tile: &Self| 2 * tile.stages * BARRIER;
        first.around_barriers = [end - first.scales(2), barriers(second)];
        second.around_barriers = [end + barriers(first) - second.scales(2), 0];
    }

    /// The launch, for `rows` rows and `others` tiles (or clusters of tiles) beside each other, with
    /// that much shared memory.
    pub(super) fn geometry(
        &self,
        rows: &Dim,
        others: u64,
        shared_bytes: u64,
        tensor_maps: Vec<TensorMap>,
    ) -> Geometry {
        let tiles = Extent {
            times: others * self.ctas_of_cluster(),
            at_most: Some(self.ctas),
            ..Extent::new(rows.clone(), self.rows * self.cluster[0])
        };
        let one = || Extent::new(Dim::from(1), 1);
        Geometry {
            grid: [tiles, one(), one()],
            block: [self.threads(), 1, 1],
            cluster: self.ctas_of_cluster() as u32,
            shared_bytes: shared_bytes as u32,
            tensor_maps,
        }
    }
}
