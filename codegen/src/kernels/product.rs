//! What the matrix products have in common: how their operands lie along rows and columns.

use crate::builder::{Bool, F32, Ptr};
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
            down: vector_width(&transposed(view)),
        }
    }

    /// How many elements of a row of `k` are read at once: divides `k`.
    pub(super) fn along(&self, k: &Dim) -> u64 {
        let fits = |&width: &u64| k.div_exact(width).is_some() && self.reads(width);
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// Whether `width` elements of a row can be read at once, in accesses of 16 bytes or less.
    fn reads(&self, width: u64) -> bool {
        self.width >= width || self.width * self.dtype.bytes() == View::ALIGN
    }
}

impl Product {
    /// From views whose last two axes are the matrices' rows and columns.
    pub(super) fn new(a: &View, w: &View, add: Option<&View>, c: &View) -> Self {
        let k = w.shape[w.shape.len() - 1].clone();
        let n = w.shape[w.shape.len() - 2].clone();
        let (a, w) = (Side::new(a), Side::new(w));
        let width = a.along(&k).min(w.along(&k));
        Self { k, n, a, w, add: add.map(Side::new), c: Side::new(c), width }
    }

    /// Whether the weights are read down their columns, several rows at a time: they are stored
    /// transposed, as where a projection of MLA is absorbed.
    pub(super) fn reads_down(&self) -> bool {
        self.width == 1 && self.w.down > 1 && self.w.column != self.w.dtype.bytes()
    }

    /// Stores consecutive results of one row, from column `at` on, where `column_exists`.
    pub(super) fn store<'k>(
        &self,
        row: RowOut<'k>,
        at: crate::builder::I32<'k>,
        values: &[F32<'k>],
    ) {
        let width = values.len() as u64;
        let c = row.c.index(at, self.c.column);
        let added = match (self.add, row.add) {
            (Some(side), Some(from)) => side
                .load(from.index(at, side.column), width)
                .into_iter()
                .zip(values)
                .map(|(x, &y)| x + y)
                .collect(),
            _ => values.to_vec(),
        };
        self.c.store(c, &added);
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
