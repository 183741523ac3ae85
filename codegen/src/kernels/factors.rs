//! The factors of a matrix product: two matrices and, where they are FP8, the scales of their
//! blocks (DeepSeek-V3 3.3.2).

use super::product::RowIn;
use crate::builder::{Builder, I32};
use crate::tensor::Tensor;
use moec_ir::kernel::View;

/// The factors as a spec describes them.
#[derive(Clone, Debug)]
pub(super) struct Factors {
    pub(super) a: View,
    pub(super) w: View,
    pub(super) scales: Option<Scales>,
    pub(super) places: Places,
}

/// Which operands of the kernel they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) a: usize,
    pub(super) a_scale: usize,
    pub(super) w: usize,
    pub(super) w_scale: usize,
}

/// Where the scales of FP8 factors lie.
#[derive(Clone, Debug)]
pub(super) struct Scales {
    /// A scale per row of `a` and block of columns, where `a` is FP8.
    pub(super) a: Option<View>,
    /// A scale per block of `w`.
    pub(super) w: View,
    /// Rows and columns of a block of `w`; a block of `a` is one row of as many columns.
    pub(super) block: [u64; 2],
    /// Products that tensor cores may sum before the sum moves to a float32 register.
    pub(super) promote_every: u64,
}

impl Factors {
    /// Factors that are numbers as they stand.
    pub(super) fn plain(a: &View, w: &View) -> Self {
        let places = Places { a: 0, a_scale: 0, w: 1, w_scale: 1 };
        Self { a: a.clone(), w: w.clone(), scales: None, places }
    }

    /// FP8 factors, of which `a` may be of another type and have no scales; views in the order of
    /// their operands: a, its scales, w, its scales.
    pub(super) fn scaled(
        (a, a_scale): (&View, Option<&View>),
        [w, w_scale]: [&View; 2],
        block: [u64; 2],
        promote_every: u64,
    ) -> Self {
        let scales = Scales { a: a_scale.cloned(), w: w_scale.clone(), block, promote_every };
        let at_w = 1 + usize::from(a_scale.is_some());
        let places = Places { a: 0, a_scale: at_w - 1, w: at_w, w_scale: at_w + 1 };
        Self { scales: Some(scales), places, ..Self::plain(a, w) }
    }

    /// Whether tensor cores may sum the products of a block: those of FP8 keep 13 fraction bits.
    pub(super) fn sum_by_blocks(&self) -> bool {
        self.scales.as_ref().is_none_or(|s| s.promote_every == s.block[1])
    }

    /// Columns of the product, where they are known: rows of `w`.
    pub(super) fn columns(&self) -> u64 {
        self.w.shape[self.w.shape.len() - 2].constant().unwrap_or(0)
    }

    /// How many operands these are: the kernel's first, where nothing else is said.
    pub(super) fn operands(&self) -> usize {
        2 + usize::from(self.scales.is_some()) + usize::from(self.scales_of_a().is_some())
    }

    /// The scales of `a`, where it has some.
    pub(super) fn scales_of_a(&self) -> Option<&View> {
        self.scales.as_ref()?.a.as_ref()
    }

    /// The operands of the kernel under construction.
    pub(super) fn bind<'k>(&self, b: &'k Builder<'k>) -> Bound<'k> {
        let operand = |i: usize, view: &View| Tensor::operand(b, i, view).read_only();
        let matrix = |i: usize, view: &View, at: usize, scale: Option<&View>| Matrix {
            data: operand(i, view),
            scale: scale.map(|scale| operand(at, scale)),
        };
        let (scales, places) = (self.scales.as_ref(), self.places);
        Bound {
            a: matrix(places.a, &self.a, places.a_scale, self.scales_of_a()),
            w: matrix(places.w, &self.w, places.w_scale, scales.map(|s| &s.w)),
        }
    }
}

/// The factors in the kernel under construction.
pub(super) struct Bound<'k> {
    pub(super) a: Matrix<'k>,
    pub(super) w: Matrix<'k>,
}

/// A matrix and its scales.
pub(super) struct Matrix<'k> {
    data: Tensor<'k>,
    scale: Option<Tensor<'k>>,
}

impl<'k> Matrix<'k> {
    /// The row of that index; row 0 of the matrix where the index of the row is left out.
    pub(super) fn at(&self, index: &[I32<'k>]) -> RowIn<'k> {
        RowIn { data: self.data.at(index), scale: self.scale.as_ref().map(|s| s.at(index)) }
    }
}
