//! What products on tensor cores move between L2 and the SMs, by the arithmetic of their tiles.

/// The tiles of a product on tensor cores, as far as they decide what is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Rows of a tile of results.
    pub rows: u64,
    /// Columns of a tile of results.
    pub columns: u64,
    /// Tiles below each other, and tiles beside each other, that are computed together by the CTAs
    /// of a cluster: what they share is read once.
    pub cluster: [u64; 2],
    /// Columns of the results: rows of a matrix of weights.
    pub n: u64,
    /// Bytes of a row of weights.
    pub row_bytes: u64,
    /// Bytes of a row of activations.
    pub row_bytes_of_a: u64,
    /// Bytes of the scales of a row of activations; 0 without.
    pub scale_bytes: u64,
    /// Bytes of a result.
    pub result_bytes: u64,
}

/// Bytes that a product moves between L2 and the SMs. Not in it: what is added to the results, the
/// routes of rows to experts, and the scales of weights, one number for 128 x 128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Movement {
    /// Of the factors.
    pub factors: u64,
    /// Of the scales of activations.
    pub scales: u64,
    /// Of the results.
    pub results: u64,
}

impl Tiles {
    /// The sum over all tiles of `(rows of activations + rows of weights) * K`, scales of those
    /// rows of activations, and each result once. `rows` are those of activations for each matrix
    /// of weights. A tile at an edge reads only what is there.
    pub fn movement(&self, rows: &[u64]) -> Movement {
        let [below, beside] = self.cluster;
        let across = self.n.div_ceil(self.columns * beside);
        let all: u64 = rows.iter().sum();
        let down: u64 = rows.iter().map(|rows| rows.div_ceil(self.rows * below)).sum();
        Movement {
            factors: across * all * self.row_bytes_of_a + down * self.n * self.row_bytes,
            scales: across * beside * all * self.scale_bytes,
            results: all * self.n * self.result_bytes,
        }
    }
}
