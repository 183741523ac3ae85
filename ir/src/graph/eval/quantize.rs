//! Block-scaled FP8 (DeepSeek-V3 3.3.2), each function as its operation is defined.

use super::Tensor;
use crate::{ScaleFormat, e4m3};

/// The elements of `x` in units of their blocks' scales, as e4m3 has them.
pub(super) fn quantize(x: &Tensor, block: u64, format: ScaleFormat) -> Vec<f64> {
    let blocks = x.rows().flat_map(|row| row.chunks(block as usize));
    blocks
        .flat_map(|block| {
            let scale = scale(block, format);
            block.iter().map(move |v| e4m3::round(v / scale))
        })
        .collect()
}

/// The scale of each block.
pub(super) fn scales(x: &Tensor, block: u64, format: ScaleFormat) -> Vec<f64> {
    let blocks = x.rows().flat_map(|row| row.chunks(block as usize));
    blocks.map(|block| scale(block, format)).collect()
}

fn scale(block: &[f64], format: ScaleFormat) -> f64 {
    let greatest = block.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    match format {
        _ if greatest == 0.0 => 1.0,
        ScaleFormat::F32 => greatest / e4m3::MAX,
        ScaleFormat::Ue8m0 => power_above(greatest / e4m3::MAX),
    }
}

/// The least power of two that is not below a positive number.
fn power_above(x: f64) -> f64 {
    let below = f64::from_bits(x.to_bits() >> 52 << 52);
    if below == x { x } else { below * 2.0 }
}

/// Each element times the scale of its block of rows and columns.
pub(super) fn dequantize(q: &Tensor, scale: &Tensor, [rows, columns]: [u64; 2]) -> Vec<f64> {
    let (rows, columns) = (rows as usize, columns as usize);
    let n = if q.shape.len() > 1 { q.shape[q.shape.len() - 2] } else { 1 };
    let blocks = n.div_ceil(rows);
    let of_row = |(at, row): (usize, &[f64])| {
        let scales = scale.row(at / n.max(1) * blocks + at % n.max(1) / rows);
        let scaled = row.chunks(columns).zip(scales);
        scaled.flat_map(|(block, s)| block.iter().map(move |v| v * s)).collect::<Vec<f64>>()
    };
    q.rows().enumerate().flat_map(of_row).collect()
}
