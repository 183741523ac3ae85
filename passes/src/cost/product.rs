//! Products of matrices on tensor cores: tiles in waves.
//!
//! A CTA per SM computes tiles in turn. A tile takes a stage for each 128 bytes along `k`, whose
//! time is that of the slowest of tensor cores, shared memory and L2, and then hands its results
//! over. Operands and results pass HBM once. Not seen: hits and conflicts in L2, where the rows
//! of FP8 scales change within a tile, skew between SMs.

use super::{Estimate, Machine};

/// Bytes along `k` of a stage: the widest swizzle (PTX ISA 5.5.7).
const STAGE_BYTES: f64 = 128.0;
/// Cycles of a stage in which tensor cores wait: for the barrier, and for the next `wgmma` after
/// the last has been waited for. Calibrated, for tiles of 128 x 128 to 256 x 128, on the rows of
/// pull requests 74 and 81 in `deepgemm_pr_ablations.csv`.
const GAP_CYCLES: f64 = 80.0;
/// Cycles of moving the sums of a 64 x 128 tile to float32 registers, once per stage of FP8: the
/// static stalls in `docs/sass-report.md`. Another warpgroup's products hide them, where there is
/// one.
const PROMOTE_CYCLES: f64 = 116.0;
/// Cycles from a tile's last product to the next one's first, beside writing its results: the
/// last `wgmma` and its promotion, conversion, barriers. Calibrated on the rows of n = 32768, k =
/// 512 in `deepgemm_readme_dense.csv` and `profile_train_gemms.csv`.
const EPILOGUE_CYCLES: f64 = 1000.0;
/// Columns below which `wgmma` takes no fewer cycles (`hopper_microbench_h800pcie.csv`).
const FEWEST_COLUMNS: f64 = 64.0;
/// float32 registers that a thread has for sums (`codegen`'s choice of tiles has the same limit).
const MOST_SUMS: f64 = 192.0;

/// A product, of one matrix or of several.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Matrices.
    pub batch: f64,
    /// Rows of the result of each.
    pub rows: f64,
    /// Columns of the result.
    pub columns: f64,
    /// Elements that are summed.
    pub depth: f64,
    /// Bytes of an element of the operands.
    pub element: f64,
    /// Bytes of a result.
    pub result: f64,
    /// Bytes to and from HBM.
    pub bytes: f64,
}

/// Which tiles a code generator writes.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    /// Rows at most: 64, 128 or 256.
    pub rows: u64,
    /// Columns at most, in steps of 16.
    pub columns: u64,
    /// CTAs that share what each reads of one operand (multicast within a cluster).
    pub cluster: u64,
}

impl Tiles {
    /// Those of `codegen/src/kernels/hopper/tile.rs`.
    pub const OURS: Self = Self { rows: 256, columns: 256, cluster: 1 };
}

impl Product {
    /// One product with nothing beside its operands and its result.
    pub fn dense(batch: f64, [rows, columns, depth]: [f64; 3], element: f64, result: f64) -> Self {
        let bytes = batch * ((rows + columns) * depth * element + rows * columns * result);
        Self { batch, rows, columns, depth, element, result, bytes }
    }

    /// The predicted time with the best tile.
    pub fn estimate(&self, machine: &Machine, tiles: Tiles) -> Estimate {
        self.best_tile(machine, tiles).1
    }

    /// Rows and columns of the best tile, and the predicted time with it.
    pub fn best_tile(&self, machine: &Machine, tiles: Tiles) -> ([f64; 2], Estimate) {
        let rows = [64, 128, 256].into_iter().filter(|rows| *rows <= tiles.rows);
        let columns = (16..=tiles.columns.max(16)).step_by(16);
        let all = rows.flat_map(|rows| columns.clone().map(move |c| [rows as f64, c as f64]));
        let fitting = all.filter(|tile| self.fits(machine, *tile));
        let with = |tile| (tile, self.with_tile(machine, tile, tiles.cluster as f64));
        let best = fitting.map(with).min_by(|a, b| a.1.total.total_cmp(&b.1.total));
        best.unwrap_or_else(|| {
            let least = [64.0, 16.0];
            (least, self.with_tile(machine, least, 1.0))
        })
    }

    /// Whether four stages fit shared memory, and sums and a stage's products registers.
    fn fits(&self, machine: &Machine, [rows, columns]: [f64; 2]) -> bool {
        let warpgroups = if rows > 64.0 { 2.0 } else { 1.0 };
        let sums = rows / 64.0 / warpgroups * columns / 2.0;
        let products = if self.element <= 1.0 { columns / 2.0 } else { 0.0 };
        let shared = 4.0 * (rows + columns) * STAGE_BYTES;
        sums + products <= MOST_SUMS && shared <= f64::from(machine.target.shared_per_cta)
    }

    /// The predicted time with tiles of so many rows and columns, whose CTAs share what they read
    /// of one operand in clusters.
    pub fn with_tile(
        &self,
        machine: &Machine,
        [rows, columns]: [f64; 2],
        cluster: f64,
    ) -> Estimate {
        let clock = machine.clock(self.element);
        let tiles = self.batch * (self.rows / rows).ceil() * (self.columns / columns).ceil();
        let sms = f64::from(machine.sms).min(tiles);
        let waves = (tiles / f64::from(machine.sms)).ceil();
        let stages = waves * (self.depth * self.element / STAGE_BYTES).ceil();

        // Two FLOPs for two bytes of bf16 along `k`, and of other types in proportion.
        let products = rows * columns.max(FEWEST_COLUMNS) * STAGE_BYTES / machine.tensor_rate();
        let alone = self.element <= 1.0 && rows <= 64.0;
        let promotion = if alone { PROMOTE_CYCLES * columns / 128.0 } else { 0.0 };
        let tensor = stages * (products + promotion + GAP_CYCLES) / clock;
        // Each 64 rows of a tile read all of its columns.
        let read = rows / 64.0 * (64.0 + columns) * STAGE_BYTES;
        let shared = stages * machine.shared_cycles(read) / clock;
        // The larger operand is the shared one.
        let multicast = rows.max(columns) * (1.0 - 1.0 / cluster);
        let l2 = stages * machine.l2(sms * (rows + columns - multicast) * STAGE_BYTES);
        let hbm = machine.hbm(self.bytes);

        let hand_over = EPILOGUE_CYCLES / clock;
        let results = waves * (hand_over + machine.write(rows * columns * self.result));
        let computing = results + tensor.max(shared).max(l2);
        let start = machine.target.launch_s + machine.fill();
        let total = start + computing.max(hand_over + hbm);
        let exposed = total - tensor.max(shared).max(l2).max(hbm);
        let bytes = self.bytes;
        Estimate { tensor, cuda: 0.0, shared, l2, hbm, exposed, total, bytes }
    }
}
