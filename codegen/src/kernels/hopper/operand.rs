//! Which matrices tensor copies can read, and their tensor maps.

use super::tile::ROW_BYTES;
use moec_ir::Dim;
use moec_ir::kernel::View;
use moec_ir::plan::TensorMap;

/// Addresses and strides of tensors are multiples of this many bytes (CUDA Driver API,
/// `cuTensorMapEncodeTiled`).
const ALIGN: u64 = 16;
/// Strides are below this (same place).
const FARTHEST: u64 = 1 << 40;

/// A matrix `[batch, rows, k]` as tensor copies see it: `k`, rows and, where there are several,
/// batch. `None` where alignment, strides or sizes forbid it.
pub(in crate::kernels) fn tensor_map(
    operand: usize,
    view: &View,
    box_rows: u64,
) -> Option<TensorMap> {
    let depth = ROW_BYTES / view.dtype.bytes();
    boxed(operand, view, [depth, box_rows], 128)
}

/// As [`tensor_map`], for a matrix whose rows lie next to each other: rows, `k` and, where there are
/// several, batch; boxes of 128 bytes of rows and so many along `k`.
pub(super) fn tensor_map_across(operand: usize, view: &View, depth: u64) -> Option<TensorMap> {
    let mut turned = view.clone();
    turned.shape.swap(1, 2);
    turned.strides.swap(1, 2);
    boxed(operand, &turned, [ROW_BYTES / view.dtype.bytes(), depth], 128)
}

/// As [`tensor_map`], for boxes of `[columns, rows]` elements with that swizzle.
pub(super) fn boxed(
    operand: usize,
    view: &View,
    [columns, rows]: [u64; 2],
    swizzle: u32,
) -> Option<TensorMap> {
    let [batch, m, k] = &view.shape[..] else { return None };
    let &[to_batch, to_row, to_column] = &view.strides[..] else { return None };
    let bytes = view.dtype.bytes();
    let dense = (to_column == 1 || k.is_one()) && k.constant()? > 0;
    if !dense || view.align < ALIGN {
        return None;
    }
    // Where an axis has one element its stride means nothing.
    let stride = |size: &Dim, stride: u64| match size.is_one() {
        true => (k.constant().unwrap_or(1) * bytes).next_multiple_of(ALIGN),
        false => stride * bytes,
    };
    let mut map = TensorMap {
        operand,
        dtype: view.dtype,
        dims: vec![k.clone(), m.clone()],
        strides: vec![stride(m, to_row)],
        box_dims: vec![columns as u32, rows as u32],
        swizzle,
    };
    if !batch.is_one() {
        map.dims.push(batch.clone());
        map.strides.push(stride(batch, to_batch));
        map.box_dims.push(1);
    }
    let fits = |&stride: &u64| stride > 0 && stride.is_multiple_of(ALIGN) && stride < FARTHEST;
    map.strides.iter().all(fits).then_some(map)
}
