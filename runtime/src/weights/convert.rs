//! Element types of checkpoints to element types of plans.

use half::{bf16, f16};
use moec_ir::{DType, e4m3};
use rayon::prelude::*;
use safetensors::Dtype;
use std::ops::ControlFlow;

/// Whether a checkpoint's element type can become a plan's. FP8 is taken as it is: without its
/// scales it cannot become anything else.
pub fn can_convert(from: Dtype, to: DType) -> bool {
    let float = matches!(from, Dtype::F32 | Dtype::BF16 | Dtype::F16 | Dtype::F64);
    match to {
        DType::F64 | DType::F32 | DType::Bf16 | DType::F16 => float,
        DType::F8e4m3 => from == Dtype::F8_E4M3,
        DType::F8e5m2 => from == Dtype::F8_E5M2,
        DType::I32 => from == Dtype::I32,
    }
}

/// Whether the bytes stay as they are.
fn same(from: Dtype, to: DType) -> bool {
    matches!(
        (from, to),
        (Dtype::F64, DType::F64)
            | (Dtype::F32, DType::F32)
            | (Dtype::BF16, DType::Bf16)
            | (Dtype::F16, DType::F16)
            | (Dtype::F8_E4M3, DType::F8e4m3)
            | (Dtype::F8_E5M2, DType::F8e5m2)
            | (Dtype::I32, DType::I32)
    )
}

/// Converts little-endian elements, rounding to nearest even, and gives them to `sink` in
/// pieces of about `chunk` bytes of input. Bytes that need no conversion pass in one piece.
///
/// # Panics
/// Where [`can_convert`] is false: a mistake of the caller.
pub fn convert(
    bytes: &[u8],
    from: Dtype,
    to: DType,
    chunk: usize,
    mut sink: impl FnMut(&[u8]) -> ControlFlow<()>,
) {
    if same(from, to) {
        let _ = sink(bytes);
        return;
    }
    assert!(can_convert(from, to), "{from} cannot become {to}");
    let chunk = (chunk / 8).max(1) * 8;
    let mut out = Vec::new();
    for piece in bytes.chunks(chunk) {
        let values: Vec<f64> = to_f64(piece, from);
        out.clear();
        match to {
            DType::F64 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            DType::F32 => out.extend(values.iter().flat_map(|v| (*v as f32).to_le_bytes())),
            DType::Bf16 => {
                out.extend(values.iter().flat_map(|v| bf16::from_f64(*v).to_le_bytes()));
            }
            _ => out.extend(values.iter().flat_map(|v| f16::from_f64(*v).to_le_bytes())),
        }
        if sink(&out).is_break() {
            return;
        }
    }
}

/// Multiplies the elements of a row-major `[.., N, K]` by the scales of their blocks, and rounds
/// them to `to`, to nearest even. `scales` is `[.., ceil(N / rows), ceil(K / columns)]`. Gives
/// them to `sink` row of blocks by row of blocks.
///
/// # Panics
/// Where `to` is no type that [`convert`] gives for float64: a mistake of the caller.
pub fn dequantize(
    (bytes, from): (&[u8], Dtype),
    shape: &[u64],
    scales: &[f64],
    block: [u64; 2],
    to: DType,
    mut sink: impl FnMut(&[u8]) -> ControlFlow<()>,
) {
    let [n, k] = match *shape {
        [.., n, k] => [n, k].map(|n| n as usize),
        _ => return,
    };
    let [rows, columns] = block.map(|n| n.max(1) as usize);
    let of_row = k.div_ceil(columns);
    let matrices = bytes.chunks((n * k).max(1));
    let groups = matrices.flat_map(|matrix| matrix.chunks((rows * k).max(1)));
    for (group, scales) in groups.zip(scales.chunks(of_row.max(1))) {
        let mut values = to_f64(group, from);
        for row in values.chunks_mut(k.max(1)) {
            for (block, scale) in row.chunks_mut(columns).zip(scales) {
                block.iter_mut().for_each(|v| *v *= scale);
            }
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut go_on = ControlFlow::Continue(());
        convert(&bytes, Dtype::F64, to, bytes.len(), |piece| {
            go_on = sink(piece);
            go_on
        });
        if go_on.is_break() {
            return;
        }
    }
}

/// Floating-point elements as float64, exactly; FP8 without any scale, integers as they are.
/// Types that no model uses give zeros.
pub fn to_f64(bytes: &[u8], from: Dtype) -> Vec<f64> {
    fn map<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64 + Sync) -> Vec<f64> {
        let (elements, _) = bytes.as_chunks::<N>();
        elements.par_iter().with_min_len(1 << 14).map(|e| f(*e)).collect()
    }
    match from {
        Dtype::F64 => map(bytes, f64::from_le_bytes),
        Dtype::F32 => map(bytes, |b| f64::from(f32::from_le_bytes(b))),
        Dtype::BF16 => map(bytes, |b| bf16::from_le_bytes(b).to_f64()),
        Dtype::F16 => map(bytes, |b| f16::from_le_bytes(b).to_f64()),
        Dtype::F8_E4M3 => map(bytes, |[b]| e4m3::decode(b)),
        Dtype::I32 => map(bytes, |b| f64::from(i32::from_le_bytes(b))),
        _ => vec![0.0; bytes.len() * 8 / from.bitsize().max(1)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(bytes: &[u8], from: Dtype, to: DType) -> Vec<u8> {
        let mut out = Vec::new();
        convert(bytes, from, to, 8, |piece| {
            out.extend_from_slice(piece);
            ControlFlow::Continue(())
        });
        out
    }

    #[test]
    fn float32_becomes_bf16_by_round_to_nearest_even() {
        // 1 + 2^-8 is halfway between 1 and the next bf16; 1 + 3 * 2^-8 between two odd ends.
        let values = [1.0f32, 1.0 + 0.003_906_25, 1.0 + 3.0 * 0.003_906_25, f32::INFINITY, -2.5];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let out = converted(&bytes, Dtype::F32, DType::Bf16);
        let bits: Vec<u16> = out.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
        assert_eq!(bits, [0x3f80, 0x3f80, 0x3f82, 0x7f80, 0xc020]);
    }

    #[test]
    fn every_element_is_multiplied_by_the_scale_of_its_block() {
        // Two matrices of 3 rows and 5 columns in blocks of 2 by 3: 2 by 2 scales each.
        let one = 0x38;
        let scales = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let mut out: Vec<f32> = vec![];
        let shape = [2, 3, 5];
        dequantize((&[one; 30], Dtype::F8_E4M3), &shape, &scales, [2, 3], DType::F32, |piece| {
            out.extend(piece.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
            ControlFlow::Continue(())
        });
        let row = |s: [f32; 2]| [s[0], s[0], s[0], s[1], s[1]];
        let rows = [[1., 2.], [1., 2.], [3., 4.], [5., 6.], [5., 6.], [7., 8.]];
        assert_eq!(out, rows.map(row).concat());
    }

    #[test]
    fn fp8_without_scales_becomes_nothing_else() {
        assert!(!can_convert(Dtype::F8_E4M3, DType::Bf16));
        assert!(can_convert(Dtype::F8_E4M3, DType::F8e4m3));
    }
}
