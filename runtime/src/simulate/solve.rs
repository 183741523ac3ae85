//! The smallest change of a matrix by which it maps given rows to given results.

/// `X`, row-major `[n, width]`, and the factor of its Gram matrix.
pub(super) struct Solver<'x> {
    x: &'x [f64],
    width: usize,
    n: usize,
    /// Lower triangle `L` of `X X^T + e = L L^T`, row-major.
    factor: Vec<f64>,
}

impl<'x> Solver<'x> {
    /// Factors the Gram matrix (Cholesky; Golub and Van Loan, Matrix Computations, 4.2). Its
    /// diagonal grows by a millionth of its mean, so that rows that nearly repeat each other do
    /// not ask for a huge change.
    pub(super) fn new(x: &'x [f64], width: usize) -> Self {
        let n = x.len() / width.max(1);
        let row = |i: usize| &x[i * width..][..width];
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mean = (0..n).map(|i| dot(row(i), row(i))).sum::<f64>() / n.max(1) as f64;
        let mut factor = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let own = if i == j { mean * 1e-6 + f64::MIN_POSITIVE } else { 0.0 };
                let before = dot(&factor[i * n..][..j], &factor[j * n..][..j]);
                let left = dot(row(i), row(j)) + own - before;
                factor[i * n + j] = if i == j {
                    left.max(f64::MIN_POSITIVE).sqrt()
                } else {
                    left / factor[j * n + j]
                };
            }
        }
        Self { x, width, n, factor }
    }

    /// The shortest `d` with `x_t . d = b_t` for every row, as nearly as it goes.
    pub(super) fn shortest(&self, b: &[f64]) -> Vec<f64> {
        let (n, l) = (self.n, &self.factor);
        let mut a = b.to_vec();
        for i in 0..n {
            let before: f64 = (0..i).map(|j| l[i * n + j] * a[j]).sum();
            a[i] = (a[i] - before) / l[i * n + i];
        }
        for i in (0..n).rev() {
            let behind: f64 = (i + 1..n).map(|j| l[j * n + i] * a[j]).sum();
            a[i] = (a[i] - behind) / l[i * n + i];
        }
        let mut d = vec![0.0; self.width];
        for (row, a) in self.x.chunks(self.width.max(1)).zip(&a) {
            d.iter_mut().zip(row).for_each(|(d, x)| *d += a * x);
        }
        d
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_mapped_to_what_is_asked_for() {
        let x = [1.0, 2.0, 0.0, 1.0, 0.5, -1.0, 3.0, 2.0, 0.0, 1.0, 1.0, -2.0];
        let b = [3.0, -3.0, 2.5];
        let d = Solver::new(&x, 4).shortest(&b);
        for (row, b) in x.chunks(4).zip(b) {
            let got: f64 = row.iter().zip(&d).map(|(x, d)| x * d).sum();
            assert!((got - b).abs() < 1e-3, "{got} for {b}");
        }
    }

    #[test]
    fn equal_rows_do_not_make_it_explode() {
        let d = Solver::new(&[1.0, 2.0, 1.0, 2.0], 2).shortest(&[1.0, 1.0]);
        assert!((d[0] - 0.2).abs() < 1e-3 && (d[1] - 0.4).abs() < 1e-3, "{d:?}");
    }
}
