//! Matrices in shared memory as `wgmma` sees them (PTX ISA 9.7.15.5.1, "Shared Memory Matrix
//! Layout" and "Matrix Descriptor").

use super::element::Element;
use super::panel::Panel;

/// The 64-bit matrix descriptor, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatrixDescriptor {
    /// First byte, a multiple of 16.
    pub(crate) start: u32,
    /// "Leading dimension byte offset".
    pub(crate) leading: u32,
    /// "Stride dimension byte offset".
    pub(crate) stride: u32,
    /// Row of the swizzle pattern in which the pattern starts.
    pub(crate) base_offset: u32,
    /// Chunks of 16 bytes over which the pattern permutes: 1, 2, 4 or 8.
    pub(crate) span: u32,
}

/// In which direction elements follow each other in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Major {
    /// Along the depth.
    Depth,
    /// Along the rows of A or the columns of B ("transposed").
    Line,
}

impl MatrixDescriptor {
    /// Decodes; the error says which rule the bits break.
    pub(crate) fn decode(bits: u64) -> Result<MatrixDescriptor, String> {
        let reserved = bits & 0x3ff1_c000_c000_c000;
        if reserved != 0 {
            return Err(format!(
                "the matrix descriptor 0x{bits:016x} has reserved bits 0x{reserved:x} set"
            ));
        }
        let field = |at: u32| (bits >> at & 0x3fff) as u32 * 16;
        let span = [1, 8, 4, 2][(bits >> 62) as usize];
        let descriptor = MatrixDescriptor {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset: (bits >> 49 & 7) as u32,
            span,
        };
        let pattern_row = descriptor.start >> 7 & (span - 1);
        if pattern_row != descriptor.base_offset & (span - 1) {
            return Err(format!(
                "the matrix at shared address 0x{:x} starts in row {pattern_row} of its \
                 {}-byte swizzle pattern, its base offset says {}",
                descriptor.start,
                span * 16,
                descriptor.base_offset
            ));
        }
        Ok(descriptor)
    }

    /// Addresses of 16 bytes each that hold elements from `chunk` on along the contiguous direction
    /// (`chunk` counts 16 bytes), for the eight of `group` in the other direction.
    #[inline(always)]
    pub(crate) fn chunks(&self, major: Major, group: u32, chunk: u32) -> [u32; 8] {
        let width = self.span;
        let offset = match (major, width) {
            (Major::Depth, 1) => group * self.stride + chunk * self.leading,
            // More than one pattern along the depth occurs only where B is twice as deep as A.
            (Major::Depth, _) => {
                group * self.stride + chunk % width * 16 + chunk / width * self.leading
            }
            (Major::Line, 1) => group * self.leading + chunk * self.stride,
            (Major::Line, _) => {
                group * self.stride + chunk % width * 16 + chunk / width * self.leading
            }
        };
        let first = self.start.wrapping_add(offset);
        std::array::from_fn(|within| {
            let linear = first.wrapping_add(within as u32 * width * 16);
            let row = (linear >> 7).wrapping_sub(self.base_offset);
            (linear ^ (row & (width - 1)) << 4) & 0x3_ffff
        })
    }

    /// Decodes `lines` by 32 bytes of depth into `panel`, which must have been reset. `read`
    /// gives the 16 bytes at each of eight shared addresses.
    #[inline]
    pub(crate) fn load<E>(
        &self,
        major: Major,
        lines: usize,
        panel: &mut Panel,
        read: impl FnMut([u32; 8], &mut [[u8; 16]; 8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.load_from(major, 0, lines, panel, read)
    }

    /// As [`MatrixDescriptor::load`], for the lines from `first` on, a multiple of eight.
    #[inline]
    pub(crate) fn load_from<E>(
        &self,
        major: Major,
        first: usize,
        lines: usize,
        panel: &mut Panel,
        mut read: impl FnMut([u32; 8], &mut [[u8; 16]; 8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let per_chunk = 16 / panel.element().bytes() as usize;
        let (groups, chunks) = match major {
            Major::Depth => (lines / 8, panel.depth / per_chunk),
            Major::Line => (panel.depth / 8, lines / per_chunk),
        };
        let (first_group, first_chunk) = match major {
            Major::Depth => (first / 8, 0),
            Major::Line => (0, first / per_chunk),
        };
        let mut bytes = [[0; 16]; 8];
        for group in 0..groups {
            for chunk in 0..chunks {
                let (at, from) = ((first_group + group) as u32, (first_chunk + chunk) as u32);
                read(self.chunks(major, at, from), &mut bytes)?;
                match major {
                    Major::Depth => panel.put_along_depth(8 * group, chunk * per_chunk, &bytes),
                    Major::Line => panel.put_across_lines(chunk * per_chunk, 8 * group, &bytes),
                }
            }
        }
        panel.finish();
        Ok(())
    }
}

/// Columns per `wgmma` allowed for an element type (PTX ISA 9.7.15.2, "Matrix Shape").
pub(crate) fn is_width(element: Element, columns: u32) -> bool {
    let most = columns.is_multiple_of(8) && (8..=256).contains(&columns);
    most && (!element.is_integer() || columns == 8 || columns == 24 || columns.is_multiple_of(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl MatrixDescriptor {
        fn chunk(&self, major: Major, index: u32, chunk: u32) -> u32 {
            self.chunks(major, index / 8, chunk)[index as usize % 8]
        }
    }

    fn descriptor(start: u32, leading: u32, stride: u32, swizzle: u64) -> u64 {
        let field = |bytes: u32| u64::from(bytes >> 4);
        field(start) | field(leading) << 16 | field(stride) << 32 | swizzle << 62
    }

    #[test]
    fn depth_major_rows_of_128_bytes_follow_the_swizzle_of_tma() {
        // 16 rows of 128 bytes, as TMA writes a box with the 128-byte swizzle.
        let matrix = MatrixDescriptor::decode(descriptor(0x2000, 16, 1024, 1)).unwrap();
        for row in 0..16 {
            for chunk in 0..2 {
                let linear = 0x2000 + row * 128 + chunk * 16;
                let expected = linear ^ (linear >> 7 & 7) << 4;
                assert_eq!(matrix.chunk(Major::Depth, row, chunk), expected);
            }
        }
        // The second step along the depth starts 32 bytes further in the same pattern.
        let matrix = MatrixDescriptor::decode(descriptor(0x2020, 16, 1024, 1)).unwrap();
        let linear = 0x2020 + 3 * 128 + 16;
        assert_eq!(matrix.chunk(Major::Depth, 3, 1), linear ^ 3 << 4);
    }

    #[test]
    fn layouts_without_swizzle_are_core_matrices_of_128_bytes() {
        let matrix = MatrixDescriptor::decode(descriptor(0x400, 2048, 128, 0)).unwrap();
        assert_eq!(matrix.chunk(Major::Depth, 0, 0), 0x400);
        assert_eq!(matrix.chunk(Major::Depth, 1, 0), 0x410);
        assert_eq!(matrix.chunk(Major::Depth, 8, 0), 0x480);
        assert_eq!(matrix.chunk(Major::Depth, 0, 1), 0x400 + 2048);
        // Transposed: chunks of lines are a stride apart, groups of depth the leading offset.
        assert_eq!(matrix.chunk(Major::Line, 1, 2), 0x400 + 16 + 2 * 128);
        assert_eq!(matrix.chunk(Major::Line, 9, 0), 0x400 + 16 + 2048);
    }

    #[test]
    fn every_chunk_of_a_tile_has_its_own_address() {
        for (swizzle, span) in [(0, 1), (3, 2), (2, 4), (1, 8)] {
            let (leading, stride) = match span {
                1 => (4096, 128),
                _ => (16384, span * 128),
            };
            let matrix =
                MatrixDescriptor::decode(descriptor(0x4000, leading, stride, swizzle)).unwrap();
            let mut seen: Vec<u32> = (0..64)
                .flat_map(|line| (0..2).map(move |chunk| matrix.chunk(Major::Depth, line, chunk)))
                .collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 128, "span {span}");
            let (leading, stride) = if span == 1 { (128, 256) } else { (4096, span * 128) };
            let matrix =
                MatrixDescriptor::decode(descriptor(0x4000, leading, stride, swizzle)).unwrap();
            let mut seen: Vec<u32> = (0..16)
                .flat_map(|k| (0..8).map(move |chunk| matrix.chunk(Major::Line, k, chunk)))
                .collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 128, "span {span}, lines");
        }
    }

    #[test]
    fn bad_descriptors_are_refused() {
        assert!(MatrixDescriptor::decode(1 << 14).unwrap_err().contains("reserved"));
        let off = descriptor(0x2080, 16, 1024, 1);
        assert!(MatrixDescriptor::decode(off).unwrap_err().contains("row 1"));
        assert!(MatrixDescriptor::decode(off | 1 << 49).is_ok());
        assert!(is_width(Element::Bf16, 8) && !is_width(Element::Bf16, 264));
        assert!(is_width(Element::S8, 24) && !is_width(Element::S8, 40));
    }

    #[test]
    fn loading_transposed_equals_loading_the_transpose() {
        let bytes: Vec<u8> = (0..16384u32).map(|index| (index * 7 + index / 256) as u8).collect();
        let read = |addresses: [u32; 8], out: &mut [[u8; 16]; 8]| -> Result<(), ()> {
            *out = addresses.map(|at| std::array::from_fn(|index| bytes[at as usize + index]));
            Ok(())
        };
        // 16 deep, 64 columns, along columns with the 128-byte swizzle.
        let matrix = MatrixDescriptor::decode(descriptor(0x400, 4096, 1024, 1)).unwrap();
        let mut panel = Panel::default();
        panel.reset_columns(64, 16, Element::Bf16, false);
        matrix.load(Major::Line, 64, &mut panel, read).unwrap();
        let mut single = Panel::default();
        single.reset_columns(64, 16, Element::Bf16, false);
        for k in 0..16u32 {
            for column in 0..64u32 {
                let linear = 0x400 + k / 8 * 1024 + k % 8 * 128 + column * 2;
                let at = (linear ^ (linear >> 7 & 7) << 4) as usize;
                let bits = u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
                single.put(column as usize, k as usize, bits);
            }
        }
        single.finish();
        assert_eq!(panel.values.len(), single.values.len());
        assert!(panel.values.iter().zip(&single.values).all(|(x, y)| x.to_bits() == y.to_bits()));
    }
}
