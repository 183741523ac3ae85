//! Where a value lies: a buffer, an offset, and strides.

use moec_ir::kernel::View;
use moec_ir::plan::StepInput;
use moec_ir::{DType, Dim, TensorType};

/// A buffer before temporaries share memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Root {
    /// The function's input.
    Input(usize),
    /// The function's output.
    Output(usize),
    /// A weight.
    Weight(usize),
    /// A cache.
    Cache(usize),
    /// A table.
    Table(usize),
    /// What the runtime says of the step.
    Step(StepInput),
    /// Memory that ranks share.
    Symmetric(usize),
    /// What the runtime says of the group.
    Group,
    /// A temporary of its own.
    Temp(usize),
}

/// Memory that holds a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) root: Root,
    /// Bytes from the buffer's start.
    pub(super) offset: u64,
    pub(super) dtype: DType,
    pub(super) shape: Vec<Dim>,
    /// Elements between neighbours; 0 where the size is 1.
    pub(super) strides: Vec<u64>,
}

impl Place {
    /// The whole of a buffer, densely in row-major order. `None` where the size of an inner axis
    /// is known only when a step runs, which no stride expresses.
    pub(super) fn dense(root: Root, ty: &TensorType) -> Option<Self> {
        let mut strides = vec![0; ty.shape.len()];
        let mut next = Some(1_u64);
        for (axis, size) in ty.shape.iter().enumerate().rev() {
            if !size.is_one() {
                strides[axis] = next?;
                next = size.constant().and_then(|n| next?.checked_mul(n));
            }
        }
        Some(Self { root, offset: 0, dtype: ty.dtype, shape: ty.shape.clone(), strides })
    }

    /// Whether the elements lie densely in row-major order, wherever they begin.
    pub(super) fn is_dense(&self) -> bool {
        let ty = TensorType::new(self.dtype, self.shape.iter().cloned());
        Self::dense(self.root, &ty).is_some_and(|d| d.strides == self.strides)
    }

    /// Elements `start .. start + len` of an axis.
    pub(super) fn slice(&self, axis: usize, start: u64, len: u64) -> Self {
        let mut place = self.clone();
        place.offset += start * self.strides[axis] * self.dtype.bytes();
        place.shape[axis] = Dim::from(len);
        if len == 1 {
            place.strides[axis] = 0;
        }
        place
    }

    /// The axes in a new order.
    pub(super) fn transpose(&self, order: &[usize]) -> Self {
        let shape = order.iter().map(|&i| self.shape[i].clone()).collect();
        let strides = order.iter().map(|&i| self.strides[i]).collect();
        Self { shape, strides, ..self.clone() }
    }

    /// Repeated to a shape, aligned at the last axis.
    pub(super) fn broadcast(&self, shape: &[Dim]) -> Self {
        let lead = shape.len() - self.shape.len();
        let stride = |axis: usize| match axis.checked_sub(lead) {
            Some(own) if self.shape[own] == shape[axis] => self.strides[own],
            _ => 0,
        };
        let strides = (0..shape.len()).map(stride).collect();
        Self { shape: shape.to_vec(), strides, ..self.clone() }
    }

    /// The same elements in another shape, if strides express it.
    pub(super) fn reshape(&self, shape: &[Dim]) -> Option<Self> {
        let old: Vec<(Dim, u64)> =
            self.shape.iter().cloned().zip(self.strides.iter().copied()).collect();
        let old: Vec<(Dim, u64)> = old.into_iter().filter(|(size, _)| !size.is_one()).collect();
        let new: Vec<usize> = (0..shape.len()).filter(|&i| !shape[i].is_one()).collect();
        let mut strides = vec![0; shape.len()];
        let (mut i, mut j) = (old.len(), new.len());
        while i > 0 || j > 0 {
            // The shortest runs of axes, from the inside, that hold equally many elements.
            let (old_end, new_end) = (i, j);
            let (mut had, mut has) = (Dim::from(1), Dim::from(1));
            loop {
                let take_old = match (had.constant(), has.constant()) {
                    (Some(a), Some(b)) if a == b => i > 0 && (i == old_end || j == 0),
                    (Some(a), Some(b)) => a < b,
                    (Some(_), None) => true,
                    (None, Some(_)) => false,
                    (None, None) => had != has && j == 0,
                };
                if take_old {
                    i = i.checked_sub(1)?;
                    had = had * old[i].0.clone();
                } else {
                    j = j.checked_sub(1)?;
                    has = has * shape[new[j]].clone();
                }
                if had == has {
                    break;
                }
            }
            split(&old[i..old_end], &new[j..new_end], shape, &mut strides)?;
        }
        Some(Self { shape: shape.to_vec(), strides, ..self.clone() })
    }

    /// The view that a kernel gets.
    pub(super) fn view(&self) -> View {
        let align = 1 << (self.offset | View::ALIGN).trailing_zeros();
        View { dtype: self.dtype, shape: self.shape.clone(), strides: self.strides.clone(), align }
    }
}

/// Gives the axes `new` the strides of the run of axes `old`, which must lie as one.
fn split(old: &[(Dim, u64)], new: &[usize], shape: &[Dim], strides: &mut [u64]) -> Option<()> {
    for pair in old.windows(2) {
        let inner = pair[1].0.constant()?.checked_mul(pair[1].1)?;
        if pair[0].1 != inner {
            return None;
        }
    }
    let mut stride = Some(old.last()?.1);
    for &axis in new.iter().rev() {
        strides[axis] = stride?;
        stride = shape[axis].constant().and_then(|n| stride?.checked_mul(n));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use moec_ir::Sym;

    fn place(shape: &[Dim]) -> Place {
        let ty = TensorType::new(DType::Bf16, shape.iter().cloned());
        Place::dense(Root::Temp(0), &ty).expect("a dense place")
    }

    fn t() -> Dim {
        Sym::Tokens.into()
    }

    #[test]
    fn axes_split_and_merge_where_strides_allow() {
        let x = place(&[t(), 12.into()]);
        let split = x.reshape(&[t(), 3.into(), 4.into()]).expect("a split of the last axis");
        assert_eq!(split.strides, [12, 4, 1]);
        let part = split.slice(2, 1, 2);
        assert_eq!((part.offset, part.strides.as_slice()), (2, [12, 4, 1].as_slice()));
        assert_eq!(part.reshape(&[t(), 6.into()]), None);
        let rows = part.reshape(&[t() * 3, 2.into()]).expect("rows 4 apart");
        assert_eq!(rows.strides, [4, 1]);
        let back = rows.reshape(&[t(), 3.into(), 1.into(), 2.into()]).expect("rows by token");
        assert_eq!(back.strides, [12, 4, 0, 1]);
        assert_eq!(x.reshape(&[t() * 12]).expect("all in one").strides, [1]);
    }

    #[test]
    fn repeated_axes_merge_with_nothing_but_themselves() {
        let row = place(&[1.into(), 4.into()]).broadcast(&[t(), 4.into()]);
        assert_eq!(row.strides, [0, 1]);
        assert_eq!(row.reshape(&[t() * 4]), None);
        assert_eq!(row.reshape(&[t(), 2.into(), 2.into()]).expect("a split").strides, [0, 2, 1]);
    }

    #[test]
    fn a_symbol_inside_has_no_dense_place() {
        let ty = TensorType::new(DType::F32, [Dim::from(4), t()]);
        assert_eq!(Place::dense(Root::Temp(0), &ty), None);
        let one = TensorType::new(DType::F32, [Dim::from(1), t()]);
        assert!(Place::dense(Root::Temp(0), &one).is_some());
    }

    #[test]
    fn the_view_of_a_slice_says_how_it_is_aligned() {
        let x = place(&[t(), 64.into()]);
        assert_eq!(x.view().align, 16);
        assert_eq!(x.slice(1, 3, 4).view().align, 2);
        assert_eq!(x.slice(1, 8, 4).view().align, 16);
    }
}
