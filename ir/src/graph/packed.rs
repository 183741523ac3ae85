//! Rows of a cache that are stored in FP8: FlashMLA's cache of MLA's latents.

use super::TensorType;
use crate::{DType, ScaleFormat};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How rows of MLA's cache are stored in FP8: the latent in e4m3, a float32 scale for each block of
/// it, then the rotated key in the cache's own type (deepseek-ai/FlashMLA 9241ae3e, README, "FP8 KV
/// Cache": 512 + 16 + 128 bytes). What is remembered is representable in that form: elements
/// that were quantised and dequantised by [`super::Op::Quantize`] and [`super::Op::Dequantize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PackedRow {
    /// Elements of the latent, with which a row begins.
    pub latent: u64,
    /// Elements that share a scale; the last block may be shorter.
    pub block: u64,
    /// How scales are rounded.
    pub scales: ScaleFormat,
}

/// Where the parts of a packed row lie, in bytes; the latent is at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedLayout {
    /// Scales of a row.
    pub n_scales: u64,
    /// The first scale.
    pub scales_at: u64,
    /// Elements of the key.
    pub key: u64,
    /// The first of them.
    pub key_at: u64,
    /// Bytes from a row to the next.
    pub bytes: u64,
}

impl PackedRow {
    /// Keys and rows begin at multiples of this many bytes, as tensor copies read them (CUDA Driver
    /// API, `cuTensorMapEncodeTiled`).
    const ALIGN: u64 = 16;

    /// Where the parts of a row of that type lie. `None` where the type is no row of a latent and a
    /// key, or where sizes are beyond 64 bits.
    pub fn layout(&self, row: &TensorType) -> Option<PackedLayout> {
        let [columns] = row.shape.as_slice() else { return None };
        let key = columns.constant()?.checked_sub(self.latent)?;
        if self.latent == 0 || self.block == 0 || key == 0 {
            return None;
        }
        let aligned = |bytes: u64, to: u64| bytes.checked_next_multiple_of(to);
        let n_scales = self.latent.div_ceil(self.block);
        let scales_at = aligned(self.latent, DType::F32.bytes())?;
        let scales_end = scales_at.checked_add(n_scales.checked_mul(DType::F32.bytes())?)?;
        let key_at = aligned(scales_end, Self::ALIGN)?;
        let key_end = key_at.checked_add(key.checked_mul(row.dtype.bytes())?)?;
        let bytes = aligned(key_end, Self::ALIGN)?;
        Some(PackedLayout { n_scales, scales_at, key, key_at, bytes })
    }
}

/// `e4m3 512 in [1, 128] scales f32`
impl fmt::Display for PackedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e4m3 {} in [1, {}] scales {}", self.latent, self.block, self.scales)
    }
}

impl FromStr for PackedRow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (latent, rest) = text.strip_prefix("e4m3 ")?.split_once(" in [1, ")?;
            let (block, scales) = rest.split_once("] scales ")?;
            let scales = match scales {
                "f32" => ScaleFormat::F32,
                "ue8m0" => ScaleFormat::Ue8m0,
                _ => return None,
            };
            Some(Self { latent: latent.parse().ok()?, block: block.parse().ok()?, scales })
        };
        read().ok_or_else(|| "`e4m3 LATENT in [1, BLOCK] scales f32`".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(latent: u64, key: u64, block: u64, dtype: DType) -> PackedLayout {
        let row = TensorType::new(dtype, [(latent + key).into()]);
        PackedRow { latent, block, scales: ScaleFormat::F32 }.layout(&row).unwrap()
    }

    #[test]
    fn a_row_of_deepseek_v3_takes_656_bytes() {
        let PackedLayout { n_scales, scales_at, key, key_at, bytes } =
            layout(512, 64, 128, DType::Bf16);
        assert_eq!([n_scales, scales_at, key, key_at, bytes], [4, 512, 64, 528, 656]);
    }

    #[test]
    fn parts_of_odd_sizes_are_aligned() {
        let odd = layout(130, 6, 128, DType::Bf16);
        assert_eq!([odd.n_scales, odd.scales_at, odd.key_at, odd.bytes], [2, 132, 144, 160]);
        assert_eq!(layout(128, 64, 128, DType::F32).bytes, 144 + 256);
    }

    #[test]
    fn what_is_no_latent_and_key_has_no_layout() {
        let packed = PackedRow { latent: 512, block: 128, scales: ScaleFormat::Ue8m0 };
        let of = |shape: &[u64]| {
            packed.layout(&TensorType::new(DType::Bf16, shape.iter().map(|&n| n.into())))
        };
        assert_eq!([of(&[512]), of(&[100]), of(&[2, 576])], [None; 3]);
        assert_eq!(packed.to_string().parse(), Ok(packed));
        assert!("e4m3 512".parse::<PackedRow>().is_err());
    }
}
