//! Gradients of weights from FP8: both factors have a scale for each row and 128 along `k`, which is
//! the tokens; sums are added to float32 matrices in place (DeepSeek-V3 3.3.3).
//!
//! A step along `k` is a block of scales. Those of both factors come with their tiles: a
//! multiplying thread reads two of rows and, for every 8 columns, two of columns. How many steps
//! an expert has the device knows.

use super::ring::{Ring, Step};
use super::rounds::Stage;
use super::schedule::{Place, Schedule};
use super::tile::{ROW_BYTES, SCALE_BLOCK, Tile, WARPGROUP};
use crate::builder::{Builder, F32, I32, wgmma};
use crate::kernels::Design;
use crate::tensor::{Tensor, vector_width};
use moec_ir::kernel::View;
use moec_ir::plan::{Geometry, TensorMap};
use moec_ir::{DType, Dim, Target};

/// Rows of a tile, and its columns at most: of a multiplying thread's registers sums, products and
/// scales take 64 + 64 + 34.
const ROWS: u64 = 128;
const MOST_COLUMNS: u64 = 128;
/// Stages: as many as fit beside each other.
const STAGES: u64 = 6;
/// Addresses and strides of tensors are multiples of so many bytes (CUDA Driver API,
/// `cuTensorMapEncodeTiled`).
const ALIGN: u64 = 16;

/// A product that sums over tokens.
pub(in crate::kernels) struct Gradient {
    dw: View,
    /// Length of the sums where all experts' tokens are one.
    tokens: Dim,
    /// Whether each expert has tokens of its own.
    grouped: bool,
    rows: u64,
    columns: u64,
    tile: Tile,
    schedule: Schedule,
    /// Of each factor and its scales.
    tensor_maps: Vec<TensorMap>,
}

/// The design, where tensor copies can read the operands: dy, its scales, x, its scales.
pub(in crate::kernels) fn design(
    [dy, dy_scale, x, x_scale]: [&View; 4],
    dw: &View,
    grouped: bool,
    target: &Target,
) -> Option<Gradient> {
    let [experts, rows, columns] = [0, 1, 2].map(|axis| dw.shape[axis].constant());
    let (experts, rows, columns) = (experts?, rows?, columns?);
    let tile = Tile {
        dtype: DType::F8e4m3,
        rows: ROWS,
        columns: columns.next_multiple_of(16).min(MOST_COLUMNS),
        stages: STAGES,
        ctas: u64::from(target.sms),
        // Two sets, of which rows have one and columns the other.
        scale_bytes: 4,
        gathers: false,
        transposed: false,
        around_barriers: [0; 2],
        cluster: [1, 1],
        widened: None,
    };
    let tensor_maps = vec![
        numbers(0, dy, tile.rows)?,
        scales(1, dy_scale, tile.rows)?,
        numbers(2, x, tile.columns)?,
        scales(3, x_scale, tile.columns)?,
    ];
    let schedule = Schedule::new(&tile, columns, experts);
    let (dw, tokens) = (dw.clone(), dy.shape[1].clone());
    Some(Gradient { dw, tokens, grouped, rows, columns, tile, schedule, tensor_maps })
}

/// The map of a factor `[rows, tokens]`.
fn numbers(operand: usize, view: &View, rows: u64) -> Option<TensorMap> {
    let boxes = [ROW_BYTES, rows];
    map(operand, view, [1, 0], boxes, ROW_BYTES as u32)
}

/// The map of scales `[rows, blocks]` that lie side by side for all rows of a block.
fn scales(operand: usize, view: &View, rows: u64) -> Option<TensorMap> {
    map(operand, view, [0, 1], [rows, 1], 0)
}

/// The map of a matrix whose axis `inner` is dense.
fn map(
    operand: usize,
    view: &View,
    [inner, outer]: [usize; 2],
    [along, down]: [u64; 2],
    swizzle: u32,
) -> Option<TensorMap> {
    let stride = view.strides[outer] * view.dtype.bytes();
    let fits = view.strides[inner] == 1 && stride > 0 && stride.is_multiple_of(ALIGN);
    (fits && view.align >= ALIGN).then(|| TensorMap {
        operand,
        dtype: view.dtype,
        dims: vec![view.shape[inner].clone(), view.shape[outer].clone()],
        strides: vec![stride],
        box_dims: vec![along as u32, down as u32],
        swizzle,
    })
}

/// The tokens of an expert: their first column, and blocks of columns.
struct Range<'k> {
    first: I32<'k>,
    blocks: I32<'k>,
}

impl Design for Gradient {
    fn geometry(&self) -> Geometry {
        let (tile, others) = (&self.tile, self.schedule.others());
        tile.geometry(&self.rows.into(), others, tile.shared_bytes(), self.tensor_maps.clone())
    }

    fn operands(&self) -> usize {
        5 + usize::from(self.grouped)
    }

    fn body<'k>(&self, b: &'k Builder<'k>) {
        let tile = &self.tile;
        let ring = Ring::new(b, tile, 0);
        ring.prepare(1);
        let consumers = b.i32(tile.consumers() * u64::from(WARPGROUP));
        let [few, many] = tile.registers();
        b.if_or(
            b.thread().lt(consumers),
            || {
                b.take_registers(many);
                self.consume(b, &ring);
            },
            || {
                b.give_registers(few);
                let first = b.warp().eq(consumers / 32);
                b.if_(first, || b.if_(b.elected(), || self.produce(b, &ring)));
            },
        );
    }
}

impl Gradient {
    fn range<'k>(&self, b: &'k Builder<'k>, place: Place<'k>) -> Range<'k> {
        let (first, count) = match self.grouped {
            true => {
                let range = b.operand(4).read_only().index(place.batch, 8);
                let words: Vec<I32<'k>> = range.load_words(2);
                (words[0], words[1])
            }
            false => (b.i32(0), b.size(&self.tokens)),
        };
        Range { first, blocks: count.div_ceil(SCALE_BLOCK as i32) }
    }

    /// Tiles of the factors and their scales, by one thread.
    fn produce<'k>(&self, b: &'k Builder<'k>, ring: &Ring<'k, '_>) {
        let tile = &self.tile;
        let maps: Vec<_> = (0..self.tensor_maps.len()).map(|i| b.tensor_map(i)).collect();
        maps.iter().for_each(|&map| b.prefetch_tensor_map(map));
        let bytes = (tile.rows + tile.columns) * (ROW_BYTES + tile.scale_bytes);
        self.schedule.each(b, tile, b.i32(self.rows), b.i32(0), |place, parity| {
            let range = self.range(b, place);
            let first_block = range.first / SCALE_BLOCK as i32;
            let step = |step: Step<'k>, (): ()| {
                let (stage, full) = (step.stage, ring.full(step.stage));
                b.mbarrier_wait(ring.empty(stage), step.parity ^ 1);
                b.mbarrier_expect(full, bytes);
                let k = range.first + step.index * SCALE_BLOCK as i32;
                let block = first_block + step.index;
                let copy = |to: u64, map: usize, at: [I32<'k>; 2]| {
                    b.tensor_copy(ring.at(to), maps[map], &at, full);
                };
                copy(tile.a(stage), 0, [k, place.row]);
                copy(self.scales(0, stage), 1, [place.row, block]);
                copy(tile.w(stage), 2, [k, place.column]);
                copy(self.scales(1, stage), 3, [place.column, block]);
            };
            let idle = |step: Step<'k>| {
                b.mbarrier_wait(ring.empty(step.stage), step.parity ^ 1);
                b.mbarrier_arrive(ring.full(step.stage), b.i32(1));
            };
            ring.each_of(range.blocks, parity, (), &Stage { step: &step, idle: &idle }).0
        });
    }

    /// Where in shared memory the scales of a stage lie: of rows, or of columns.
    fn scales(&self, set: u64, stage: u64) -> u64 {
        self.tile.scales(set) + stage * self.tile.rows * self.tile.scale_bytes
    }

    /// Products and results, by the multiplying warpgroups.
    fn consume<'k>(&self, b: &'k Builder<'k>, ring: &Ring<'k, '_>) {
        let tile = &self.tile;
        let first_row = b.warpgroup() * wgmma::ROWS as i32;
        let releases = b.i32(1).when(b.lane().eq(b.i32(0)), b.i32(0));
        let idle = |step: Step<'k>| {
            ring.wait_full(step);
            b.mbarrier_arrive(ring.empty(step.stage), releases);
        };
        self.schedule.each(b, tile, b.i32(self.rows), b.i32(0), |place, parity| {
            let range = self.range(b, place);
            let zeros = vec![b.f32(0.0); (tile.columns / 2) as usize];
            let adds_nothing = b.i32(0).anew();
            let step = |step: Step<'k>, (sums, products): Sums<'k>| {
                ring.wait_full(step);
                let (of_rows, of_columns) = self.read_scales(b, step.stage, first_row);
                let fenced = b.wgmma_fence(&[&sums[..], &products].concat());
                let (mut sums, mut products) =
                    (fenced[..sums.len()].to_vec(), fenced[sums.len()..].to_vec());
                let [a, w] = ring.descriptors(step.stage, first_row);
                for part in 0..ROW_BYTES / wgmma::DEPTH_BYTES {
                    let along = (part * wgmma::DEPTH_BYTES / 16) as i32;
                    // The first products overwrite what is there; ptxas must not know.
                    let adds = if part == 0 { adds_nothing.anew() } else { b.i32(1) };
                    let at = [a + along, w + along].map(|at| b.wgmma_descriptor_at(at));
                    products = b.wgmma(tile.dtype, tile.columns, at, &products, adds);
                }
                b.wgmma_commit();
                products = b.wgmma_wait(0, &products);
                b.mbarrier_arrive(ring.empty(step.stage), releases);
                for (i, (sum, product)) in sums.iter_mut().zip(&products).enumerate() {
                    let factor = of_rows[i / 2 % 2] * of_columns[i / 4 * 2 + i % 2];
                    *sum = product.fma(factor, *sum);
                }
                (sums, products)
            };
            let stage = Stage { step: &step, idle: &idle };
            let state = (zeros.clone(), zeros);
            let (parity, (sums, _)) = ring.each_of(range.blocks, parity, state, &stage);
            b.if_(range.blocks.ne(b.i32(0)), || self.add(b, place, first_row, &sums));
            parity
        });
    }

    /// The scales of this thread's two rows, and of its columns.
    fn read_scales<'k>(
        &self,
        b: &'k Builder<'k>,
        stage: u64,
        first_row: I32<'k>,
    ) -> ([F32<'k>; 2], Vec<F32<'k>>) {
        let shared = b.dynamic_shared_ptr();
        let row = first_row + (b.warp() % 4) * 16 + b.lane() / 4;
        let of_rows = shared.add_const(self.scales(0, stage)).index(row, 4);
        let of_columns = shared.add_const(self.scales(1, stage)).index(b.lane() % 4, 8);
        let columns =
            (0..self.tile.columns / 8).flat_map(|i| of_columns.add_const(32 * i).load_words(2));
        ([0, 8].map(|below| of_rows.add_const(4 * below).load_scalar()), columns.collect())
    }

    /// Adds this warpgroup's sums of a tile to the gradient.
    fn add<'k>(&self, b: &'k Builder<'k>, place: Place<'k>, first_row: I32<'k>, sums: &[F32<'k>]) {
        let dw = Tensor::operand(b, self.operands() - 1, &self.dw);
        let row = place.row + first_row + (b.warp() % 4) * 16 + b.lane() / 4;
        let column = place.column + (b.lane() % 4) * 2;
        let width = vector_width(&self.dw).min(2) as usize;
        let whole = self.columns.is_multiple_of(self.tile.columns);
        for half in 0..2 {
            let row = row + 8 * half as i32;
            let add = |column: I32<'k>, values: &[F32<'k>]| {
                let at = dw.at(&[place.batch, row, column]);
                let before = at.load_words::<f32>(values.len());
                let after: Vec<_> = before.iter().zip(values).map(|(&x, &y)| x + y).collect();
                at.store_words(&after);
            };
            b.if_(row.lt(b.i32(self.rows)), || {
                for (group, sums) in (0..).zip(sums.chunks(4)) {
                    let pair = &sums[2 * half..2 * half + 2];
                    for (i, values) in (0..).step_by(width).zip(pair.chunks(width)) {
                        let column = column + (8 * group + i);
                        match whole {
                            true => add(column, values),
                            false => b.if_(column.lt(b.i32(self.columns)), || add(column, values)),
                        }
                    }
                }
            });
        }
    }
}

/// Sums in float32, and the registers of the tensor cores' products.
type Sums<'k> = (Vec<F32<'k>>, Vec<F32<'k>>);
