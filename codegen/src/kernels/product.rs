//! What the matrix products have in common: how their operands lie along rows and columns.

use super::factors::Factors;
use crate::builder::{Bool, F32, I32, Ptr};
use crate::tensor::vector_width;
use moec_ir::kernel::View;
use moec_ir::{DType, Dim};

/// `c[m, n] = sum_k a[m, k] * w[n, k] (+ add[m, n])`; where rows lie is the caller's business.
#[derive(Clone, Debug)]
pub(super) struct Product {
    /// Length of the sums.
    pub(super) k: Dim,
    /// Columns of the result.
    pub(super) n: Dim,
    pub(super) a: Side,
    pub(super) w: Side,
    pub(super) add: Option<Side>,
    pub(super) c: Side,
    /// Elements along `k` that are read at once from `a` and `w`; divides `k`.
    pub(super) width: u64,
}

/// One matrix of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    /// Element type.
    pub(super) dtype: DType,
    /// Bytes between rows.
    pub(super) row: u64,
    /// Bytes between elements of a row.
    pub(super) column: u64,
    /// Elements of a row that can be accessed at once.
    width: u64,
    /// Elements of a column that can be accessed at once.
    pub(super) down: u64,
    /// How its scales lie, where it has some.
    pub(super) scaling: Option<Scaling>,
}

/// How the scales of a matrix lie: a float32 per block of rows and columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scaling {
    /// Rows of a block.
    pub(super) rows: u64,
    /// Columns of a block.
    columns: u64,
    /// Bytes between rows of scales.
    row: u64,
    /// Bytes between scales of a row.
    column: u64,
}

/// A row of a factor.
#[derive(Clone, Copy)]
pub(super) struct RowIn<'k> {
    /// Its first element.
    pub(super) data: Ptr<'k>,
    /// Its first scale, where the factor has scales.
    pub(super) scale: Option<Ptr<'k>>,
}

/// The same matrices with rows and columns exchanged.
fn transposed(view: &View) -> View {
    let mut view = view.clone();
    let last = view.shape.len() - 1;
    view.shape.swap(last - 1, last);
    view.strides.swap(last - 1, last);
    view
}

/// Where a row of the result goes.
#[derive(Clone, Copy)]
pub(super) struct RowOut<'k> {
    /// Whether it exists.
    pub(super) exists: Bool<'k>,
    /// Its first element.
    pub(super) c: Ptr<'k>,
    /// The first element of what is added.
    pub(super) add: Option<Ptr<'k>>,
}

impl Side {
    /// The last two axes of a view as rows and columns.
    pub(super) fn new(view: &View) -> Self {
        let bytes = view.dtype.bytes();
        let stride = |axis: usize| match view.shape[axis].is_one() {
            true => 0,
            false => view.strides[axis] * bytes,
        };
        let last = view.shape.len() - 1;
        Self {
            dtype: view.dtype,
            row: stride(last - 1),
            column: stride(last),
            width: vector_width(view),
            down: vector_width(&transposed(view)).min(LONGEST),
            scaling: None,
        }
    }

    /// The same with a scale per block of so many rows and columns.
    fn scaled(self, scale: &View, [rows, columns]: [u64; 2]) -> Self {
        let Self { row, column, .. } = Self::new(scale);
        // Elements that are read at once have one scale: their number, a power of two, divides
        // the block.
        let down = self.down.min(1 << rows.trailing_zeros());
        Self { down, scaling: Some(Scaling { rows, columns, row, column }), ..self }
    }

    /// How many elements of a row of `k` are read at once: divides `k` and blocks.
    pub(super) fn along(&self, k: &Dim) -> u64 {
        let longest = if self.dtype.bytes() == 1 { View::ALIGN } else { LONGEST };
        let fits = |&width: &u64| {
            width <= longest
                && k.div_exact(width).is_some()
                && self.scaling.is_none_or(|s| s.columns.is_multiple_of(width))
                && self.reads(width)
        };
        [16, 8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// The row `index` rows below.
    pub(super) fn row_below<'k>(&self, from: RowIn<'k>, index: I32<'k>) -> RowIn<'k> {
        let data = from.data.index(index, self.row);
        RowIn { data, scale: self.scale_row(from, index) }
    }

    /// The first scale of the row `index` rows below.
    pub(super) fn scale_row<'k>(&self, from: RowIn<'k>, index: I32<'k>) -> Option<Ptr<'k>> {
        let (scaling, first) = self.scaling.zip(from.scale)?;
        Some(match scaling.rows {
            1 => first.index(index, scaling.row),
            rows => first.index(index / divisor(rows), scaling.row),
        })
    }

    /// The scale of column `k`; `scales` is the first of the row.
    pub(super) fn scale<'k>(&self, scales: Option<Ptr<'k>>, k: I32<'k>) -> Option<F32<'k>> {
        let (scaling, first) = self.scaling.zip(scales)?;
        Some(first.index(k / divisor(scaling.columns), scaling.column).load_scalar())
    }

    /// Whether `width` elements of a row can be read at once, in accesses of 16 bytes or less.
    fn reads(&self, width: u64) -> bool {
        self.width >= width || self.width * self.dtype.bytes() == View::ALIGN
    }
}

/// Elements of a vector at most, but for FP8: 16 bytes of bfloat16.
pub(super) const LONGEST: u64 = 8;

/// A block's size as a divisor of indices, which are below 2^31.
fn divisor(size: u64) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

impl Product {
    /// From views whose last two axes are the matrices' rows and columns.
    pub(super) fn new(factors: &Factors, add: Option<&View>, c: &View) -> Self {
        let Factors { a, w, scales, .. } = factors;
        let k = w.shape[w.shape.len() - 1].clone();
        let n = w.shape[w.shape.len() - 2].clone();
        let (mut a, mut w) = (Side::new(a), Side::new(w));
        if let Some(scales) = scales {
            a = scales.a.iter().fold(a, |a, scale| a.scaled(scale, [1, scales.block[1]]));
            w = w.scaled(&scales.w, scales.block);
        }
        let width = a.along(&k).min(w.along(&k));
        Self { k, n, a, w, add: add.map(Side::new), c: Side::new(c), width }
    }

    /// Whether the weights are read down their columns, several rows at a time: they are stored
    /// transposed, as where a projection of MLA is absorbed.
    pub(super) fn reads_down(&self) -> bool {
        self.width == 1 && self.w.down > 1 && self.w.column != self.w.dtype.bytes()
    }

    /// Stores consecutive results of one row, from column `at` on, where `column_exists`.
    pub(super) fn store<'k>(&self, row: RowOut<'k>, at: I32<'k>, values: &[F32<'k>]) {
        let added = self.added(row, at, values);
        self.c.store(row.c.index(at, self.c.column), &added);
    }

    /// Consecutive results of one row, from column `at` on, with what is added to them.
    pub(super) fn added<'k>(
        &self,
        row: RowOut<'k>,
        at: I32<'k>,
        values: &[F32<'k>],
    ) -> Vec<F32<'k>> {
        let Some((side, from)) = self.add.zip(row.add) else { return values.to_vec() };
        let others = side.load(from.index(at, side.column), values.len() as u64);
        others.into_iter().zip(values).map(|(x, &y)| x + y).collect()
    }
}

impl Side {
    fn load<'k>(&self, at: Ptr<'k>, count: u64) -> Vec<F32<'k>> {
        let width = self.width.min(count);
        (0..count / width)
            .flat_map(|i| at.add_const(i * width * self.column).load(self.dtype, width))
            .collect()
    }

    fn store<'k>(&self, at: Ptr<'k>, values: &[F32<'k>]) {
        let width = self.width.min(values.len() as u64);
        for (i, chunk) in values.chunks(width as usize).enumerate() {
            at.add_const(i as u64 * width * self.column).store(self.dtype, chunk);
        }
    }
}
