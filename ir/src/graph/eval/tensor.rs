//! Dense float64 tensors.

/// A dense row-major tensor of float64. Indices (token ids, experts) are whole numbers in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Size of each axis, outermost first.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Vec<f64>,
}

impl Tensor {
    /// A tensor from its parts.
    ///
    /// # Errors
    /// Where the number of elements is not the product of the sizes.
    pub fn new(shape: Vec<usize>, data: Vec<f64>) -> Result<Self, String> {
        if shape.iter().product::<usize>() == data.len() {
            Ok(Self { shape, data })
        } else {
            Err(format!("{} elements do not fill {shape:?}", data.len()))
        }
    }

    /// No rows of a given shape.
    pub fn empty_rows(row: impl IntoIterator<Item = usize>) -> Self {
        Self { shape: std::iter::once(0).chain(row).collect(), data: vec![] }
    }

    /// Size of the innermost axis; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The rows along the innermost axis.
    pub(super) fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.data.chunks_exact(self.last().max(1))
    }

    /// Row `i` along the innermost axis.
    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.last()..][..self.last()]
    }

    /// Elements between neighbours along each axis.
    pub(super) fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1; self.shape.len()];
        for i in (1..self.shape.len()).rev() {
            strides[i - 1] = strides[i] * self.shape[i];
        }
        strides
    }

    /// A tensor of `shape` whose element at each index is `self`'s at the inner product of the
    /// index and `strides`, plus `offset`.
    pub(super) fn strided(&self, shape: &[usize], strides: &[usize], offset: usize) -> Self {
        let count: usize = shape.iter().product();
        let mut data = Vec::with_capacity(count);
        let mut index = vec![0; shape.len()];
        let mut at = offset;
        for _ in 0..count {
            data.push(self.data[at]);
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                at += strides[axis];
                if index[axis] < shape[axis] {
                    break;
                }
                at -= strides[axis] * shape[axis];
                index[axis] = 0;
            }
        }
        Self { shape: shape.to_vec(), data }
    }

    /// Repeats to `shape` (aligned at the last axis; size 1 repeats).
    pub(super) fn broadcast_to(&self, shape: &[usize]) -> Self {
        if self.shape == shape {
            return self.clone();
        }
        let own = self.strides();
        let lead = shape.len() - self.shape.len();
        let strides: Vec<usize> = (0..shape.len())
            .map(|i| if i < lead || self.shape[i - lead] == 1 { 0 } else { own[i - lead] })
            .collect();
        self.strided(shape, &strides, 0)
    }
}

/// Inner product of two rows, in four interleaved sums.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (x, y) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = x.remainder().iter().zip(y.remainder()).map(|(p, q)| p * q).sum();
    for (p, q) in x.zip(y) {
        for i in 0..4 {
            sums[i] += p[i] * q[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}
