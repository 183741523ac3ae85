//! How kernels that give each block of a row a number of its own divide a tensor: a group of
//! lanes per block.

use crate::builder::{Bool, Builder, F32, I32};
use moec_ir::plan::Geometry;
use moec_ir::{Dim, Sizes};

/// Elements that a lane keeps in registers at most.
pub(super) const HELD: u64 = 64;
/// Threads of a CTA at most.
const THREADS: u64 = 128;

/// An index space whose innermost axis is cut into blocks; the last of a row may be shorter.
///
/// Fewer than 2^31 blocks.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// Sizes of the axes, the innermost in blocks.
    shape: Vec<Dim>,
    /// Size of the innermost axis.
    columns: Dim,
    /// Elements of a block.
    block: u64,
    /// Elements that a lane reads at once; divides blocks and rows.
    width: u64,
    /// Lanes of a block: a power of two, at most a warp.
    group: u32,
    threads: u32,
}

impl Blocks {
    /// Blocks of `block` elements of an axis of `columns`, read up to `width` at a time (a power
    /// of two that divides the axis); `shape` has the blocks of a row innermost.
    pub(super) fn new(shape: &[Dim], columns: &Dim, width: u64, block: u64, step: Sizes) -> Self {
        // A block that is longer than the row is the row.
        let block = columns.constant().map_or(block, |n| block.min(n.max(1)));
        let width = width.min(1 << block.trailing_zeros());
        let group = (block / width).next_power_of_two().min(32);
        let total = Dim::product(shape).eval(&step) * group;
        let threads = total.next_multiple_of(32).clamp(32, THREADS) as u32;
        let (shape, columns) = (shape.to_vec(), columns.clone());
        Self { shape, columns, block, width, group: group as u32, threads }
    }

    /// Elements that are read at once.
    pub(super) fn width(&self) -> u64 {
        self.width
    }

    /// The launch.
    pub(super) fn geometry(&self) -> Geometry {
        let per_cta = self.threads / self.group;
        super::launch(&[(Dim::product(&self.shape), per_cta.into())], self.threads)
    }

    /// Runs `body` for each block: once per lane of its group.
    pub(super) fn each<'k>(&self, b: &'k Builder<'k>, body: impl FnOnce(Block<'k, '_>)) {
        let group = self.group.cast_signed();
        let per_cta = self.threads.cast_signed() / group;
        let linear = b.cta(0) * per_cta + b.thread() / group;
        let total = b.size(&Dim::product(&self.shape));
        let mut rest = linear;
        let mut index = Vec::new();
        for (axis, size) in self.shape.iter().enumerate().rev() {
            let size = b.size(size);
            index.insert(0, if axis == 0 { rest } else { rest % size });
            rest = rest / size;
        }
        body(self.block(b, index, Some(linear.lt(total)), b.thread() % group));
    }

    /// The block of an index, for one lane of its group; whether it exists, where that is open.
    pub(super) fn block<'k>(
        &self,
        b: &'k Builder<'k>,
        index: Vec<I32<'k>>,
        exists: Option<Bool<'k>>,
        lane: I32<'k>,
    ) -> Block<'k, '_> {
        Block { b, blocks: self, index, exists, lane }
    }

    /// Lanes of a block: a power of two, at most a warp.
    pub(super) fn group(&self) -> u32 {
        self.group
    }

    /// Elements of a block that a lane holds.
    pub(super) fn per_lane(&self) -> u64 {
        (self.block / self.width).div_ceil(self.group.into()) * self.width
    }
}

/// One block, as one lane of its group sees it.
#[derive(Clone)]
pub(super) struct Block<'k, 'r> {
    b: &'k Builder<'k>,
    blocks: &'r Blocks,
    index: Vec<I32<'k>>,
    exists: Option<Bool<'k>>,
    lane: I32<'k>,
}

/// A block's elements: in registers, or read again for each pass.
pub(super) struct Values<'k, 'r> {
    block: Block<'k, 'r>,
    held: Option<Vec<Vec<F32<'k>>>>,
    load: Load<'k, 'r>,
}

/// Reads the vector that begins at an index.
type Load<'k, 'r> = Box<dyn Fn(&[I32<'k>]) -> Vec<F32<'k>> + 'r>;

impl<'k, 'r> Block<'k, 'r> {
    /// Calls `f` in one lane, with the block's index.
    pub(super) fn once(&self, f: impl FnOnce(&[I32<'k>])) {
        let first = self.lane.eq(self.b.i32(0));
        let first = self.exists.map_or(first, |exists| first & exists);
        self.b.if_(first, || f(&self.index));
    }

    /// The block's elements, which `load` reads a vector at a time.
    pub(super) fn values(&self, load: impl Fn(&[I32<'k>]) -> Vec<F32<'k>> + 'r) -> Values<'k, 'r> {
        let held = (self.blocks.per_lane() <= HELD).then(|| {
            (0..self.blocks.per_lane() / self.blocks.width)
                .map(|part| self.read(self.part(part), &load))
                .collect::<Vec<_>>()
        });
        Values { block: self.clone(), held, load: Box::new(load) }
    }

    /// This lane's vector of that number.
    fn part(&self, part: u64) -> I32<'k> {
        self.lane + self.b.i32(part * u64::from(self.blocks.group))
    }

    /// The index of a vector's first element, and the test that it exists where that is open.
    fn place(&self, vector: I32<'k>) -> (Vec<I32<'k>>, Option<Bool<'k>>) {
        let Blocks { columns, block, width, group, .. } = self.blocks;
        let b = self.b;
        let mut index = self.index.clone();
        let at = vector * *width as i32;
        let Some(last) = index.last_mut() else { return (index, None) };
        *last = *last * *block as i32 + at;
        let within =
            (!block.is_multiple_of(width * u64::from(*group))).then(|| at.lt(b.i32(*block)));
        let before_end = columns.div_exact(*block).is_none().then(|| last.lt(b.size(columns)));
        let tests = [within, before_end, self.exists].into_iter().flatten();
        let inside = tests.reduce(|p, q| p & q);
        (index, inside)
    }

    /// A vector's elements; zeros outside.
    fn read(&self, vector: I32<'k>, load: &dyn Fn(&[I32<'k>]) -> Vec<F32<'k>>) -> Vec<F32<'k>> {
        let (index, inside) = self.place(vector);
        let zeros = || vec![self.b.f32(0.0); self.blocks.width as usize];
        match inside {
            None => load(&index),
            Some(inside) => self.b.if_else(inside, zeros(), || load(&index)),
        }
    }
}

impl<'k: 'r, 'r> Values<'k, 'r> {
    /// Folds this lane's elements of the block; zeros stand for those that do not exist.
    pub(super) fn fold(&self, init: F32<'k>, f: impl Fn(F32<'k>, F32<'k>) -> F32<'k>) -> F32<'k> {
        let Block { b, blocks, .. } = self.block;
        let Some(parts) = &self.held else {
            let (end, step) = (b.i32(blocks.block / blocks.width), b.i32(blocks.group));
            return b.for_loop(self.block.lane, end, step, init, |vector, acc| {
                self.block.read(vector, &self.load).into_iter().fold(acc, &f)
            });
        };
        parts.iter().flatten().copied().fold(init, f)
    }

    /// A function of each vector: of its index and its elements.
    pub(super) fn map(
        self,
        f: impl Fn(&[I32<'k>], Vec<F32<'k>>) -> Vec<F32<'k>> + 'r,
    ) -> Values<'k, 'r> {
        let Self { block, held, load } = self;
        let mapped = |(part, values): (usize, Vec<F32<'k>>)| {
            let read = |index: &[I32<'k>]| f(index, values.clone());
            block.read(block.part(part as u64), &read)
        };
        let held = held.map(|parts| parts.into_iter().enumerate().map(mapped).collect());
        Values { block, held, load: Box::new(move |index| f(index, load(index))) }
    }

    /// The greatest magnitude of the block, in every lane of its group; NaN does not count.
    pub(super) fn greatest(&self) -> F32<'k> {
        let own = self.fold(self.block.b.f32(0.0), |most, v| most.max(v.abs()));
        own.across(self.block.blocks.group, F32::max)
    }

    /// Calls `f` for each of this lane's vectors that exist: its index and its elements.
    pub(super) fn each(&self, f: impl Fn(&[I32<'k>], &[F32<'k>])) {
        let Block { b, blocks, .. } = self.block;
        let visit = |vector: I32<'k>, values: &dyn Fn(&[I32<'k>]) -> Vec<F32<'k>>| {
            let (index, inside) = self.block.place(vector);
            match inside {
                None => f(&index, &values(&index)),
                Some(inside) => b.if_(inside, || f(&index, &values(&index))),
            }
        };
        let Some(parts) = &self.held else {
            let (end, step) = (b.i32(blocks.block / blocks.width), b.i32(blocks.group));
            b.for_loop(self.block.lane, end, step, (), |vector, ()| visit(vector, &self.load));
            return;
        };
        for (part, values) in parts.iter().enumerate() {
            visit(self.block.part(part as u64), &|_| values.clone());
        }
    }
}
