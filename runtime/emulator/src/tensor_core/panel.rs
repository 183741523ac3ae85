//! Operands decoded to float32 in the order in which the kernels read them.
//!
//! A holds one line per row, depth contiguous. B holds one line per depth, columns contiguous and
//! permuted within each group of eight: position `4 b + c` is column `2 c + b`. That is the order
//! in which the registers of an accumulator hold a row (PTX ISA 9.7.15.5.1, "Register Fragments"):
//! register `b` of a group holds columns `2 c + b` in four neighbouring lanes.

use super::element::{
    Element, ZERO, decode_bf16, decode_e4m3, decode_e5m2, decode_f16, decode_tf32,
};
use super::transpose::transpose;

/// Position of a column within the tile.
#[inline(always)]
pub(crate) fn position(column: usize) -> usize {
    (column & !7) | (column & 1) << 2 | (column & 7) >> 1
}

/// One operand: values and, for the bit-accurate sums, exponents.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) values: Vec<f32>,
    pub(crate) exponents: Vec<i16>,
    /// Whether exponents are decoded; set it before the panel is reset.
    pub(crate) with_exponents: bool,
    /// Rows of A, or columns of B rounded up to whole vectors.
    pub(crate) lines: usize,
    /// Products per sum.
    pub(crate) depth: usize,
    is_columns: bool,
    element: Option<Element>,
    flip: u32,
    /// Encodings in the order of `values`, before [`Panel::finish`].
    raw: Vec<u8>,
}

impl Default for Panel {
    fn default() -> Panel {
        Panel {
            values: Vec::new(),
            exponents: Vec::new(),
            with_exponents: true,
            lines: 0,
            depth: 0,
            is_columns: false,
            element: None,
            flip: 0,
            raw: Vec::new(),
        }
    }
}

impl Panel {
    /// Makes the panel an A of `rows` by `depth`; every element must then be put.
    pub(crate) fn reset_rows(&mut self, rows: usize, depth: usize, element: Element, negate: bool) {
        self.reset(rows, depth, element, negate);
        self.is_columns = false;
    }

    /// Makes the panel a B of `depth` by `columns`; every element must then be put.
    pub(crate) fn reset_columns(
        &mut self,
        columns: usize,
        depth: usize,
        element: Element,
        negate: bool,
    ) {
        let lines = padded(columns);
        self.reset(lines, depth, element, negate);
        self.is_columns = true;
        if columns < lines {
            self.raw.fill(0);
        }
    }

    fn reset(&mut self, lines: usize, depth: usize, element: Element, negate: bool) {
        let count = lines * depth;
        self.values.resize(count, 0.0);
        self.exponents.resize(count, ZERO);
        self.raw.resize(count * element.bytes() as usize, 0);
        (self.lines, self.depth, self.element) = (lines, depth, Some(element));
        self.flip = u32::from(negate) << 31;
    }

    /// The element type.
    pub(crate) fn element(&self) -> Element {
        self.element.unwrap_or(Element::Bf16)
    }

    fn index(&self, line: usize, k: usize) -> usize {
        if self.is_columns { k * self.lines + position(line) } else { line * self.depth + k }
    }

    /// Puts the element at `line` (row of A, column of B) and `k`.
    pub(crate) fn put(&mut self, line: usize, k: usize, bits: u32) {
        let (at, size) = (self.index(line, k), self.element().bytes() as usize);
        self.raw[at * size..(at + 1) * size].copy_from_slice(&bits.to_le_bytes()[..size]);
    }

    /// Puts four words into a row of an A, 16 bytes at a time: `chunk` counts them.
    #[inline]
    pub(crate) fn put_words(&mut self, line: usize, chunk: usize, words: [u32; 4]) {
        debug_assert!(!self.is_columns);
        let at = line * self.depth * self.element().bytes() as usize + 16 * chunk;
        let bytes = words.map(u32::to_le_bytes);
        self.raw[at..at + 16].copy_from_slice(bytes.as_flattened());
    }

    /// Puts, for eight lines from a multiple of eight, 16 bytes of elements that follow each other
    /// along the depth.
    #[inline]
    pub(crate) fn put_along_depth(&mut self, line: usize, k: usize, chunks: &[[u8; 16]; 8]) {
        let size = self.element().bytes() as usize;
        if self.is_columns {
            // In the order of positions.
            let [a, b, c, d, e, f, g, h] = *chunks;
            self.put_transposed([a, c, e, g, b, d, f, h], line + k * self.lines, self.lines);
        } else {
            for (row, chunk) in chunks.iter().enumerate() {
                let at = self.index(line + row, k) * size;
                self.raw[at..at + 16].copy_from_slice(chunk);
            }
        }
    }

    /// Puts, for eight depths, 16 bytes of two-byte elements that follow each other across lines,
    /// from a multiple of eight.
    #[inline]
    pub(crate) fn put_across_lines(&mut self, line: usize, k: usize, chunks: &[[u8; 16]; 8]) {
        debug_assert_eq!(self.element().bytes(), 2);
        if self.is_columns {
            for (depth, chunk) in chunks.iter().enumerate() {
                let at = 2 * ((k + depth) * self.lines + line);
                let (pairs, _) = chunk.as_chunks::<2>();
                let order = [0, 2, 4, 6, 1, 3, 5, 7].map(|column| pairs[column]);
                self.raw[at..at + 16].copy_from_slice(order.as_flattened());
            }
        } else {
            self.put_transposed(*chunks, line * self.depth + k, self.depth);
        }
    }

    /// Puts eight chunks so that their first elements become neighbours at place `at`, the second
    /// ones at `at + step`, and so on.
    #[inline(always)]
    fn put_transposed(&mut self, chunks: [[u8; 16]; 8], at: usize, step: usize) {
        let size = self.element().bytes() as usize;
        let flat = match size {
            4 => transpose::<4>(chunks),
            2 => transpose::<2>(chunks),
            _ => transpose::<1>(chunks),
        };
        for (index, eight) in flat.chunks_exact(8 * size).enumerate() {
            let at = (at + index * step) * size;
            self.raw[at..at + 8 * size].copy_from_slice(eight);
        }
    }

    /// Makes the panel an A of `count` rows that are all the row `line` of `from`.
    pub(crate) fn repeat_row(&mut self, from: &Panel, line: usize, count: usize) {
        (self.lines, self.depth, self.is_columns) = (count, from.depth, false);
        (self.element, self.with_exponents) = (from.element, from.with_exponents);
        let own = line * from.depth..(line + 1) * from.depth;
        self.values.clear();
        self.exponents.clear();
        for _ in 0..count {
            self.values.extend_from_slice(&from.values[own.clone()]);
            self.exponents.extend_from_slice(&from.exponents[own.clone()]);
        }
    }

    /// Makes the panel a B of these depths of `from`; one beyond its end is the last one.
    pub(crate) fn pick_depths(&mut self, from: &Panel, depths: impl Iterator<Item = usize>) {
        (self.lines, self.depth, self.is_columns) = (from.lines, 0, true);
        (self.element, self.with_exponents) = (from.element, from.with_exponents);
        self.values.clear();
        self.exponents.clear();
        for k in depths {
            let at = k.min(from.depth.saturating_sub(1)) * from.lines;
            self.values.extend_from_slice(&from.values[at..at + from.lines]);
            self.exponents.extend_from_slice(&from.exponents[at..at + from.lines]);
            self.depth += 1;
        }
    }

    /// Decodes what was put; the panel is then ready.
    pub(crate) fn finish(&mut self) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2")]
            unsafe fn on_avx2(panel: &mut Panel) {
                panel.decode();
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the host has it.
                return unsafe { on_avx2(self) };
            }
        }
        self.decode();
    }

    #[inline(always)]
    fn decode(&mut self) {
        match self.element() {
            Element::Bf16 => self.decode_with(|bytes| decode_bf16(half(bytes))),
            Element::F16 => self.decode_with(|bytes| decode_f16(half(bytes))),
            Element::Tf32 => self.decode_with(|bytes| decode_tf32(u32::from_le_bytes(bytes))),
            Element::E4m3 => self.decode_with(|[byte]| decode_e4m3(u32::from(byte))),
            Element::E5m2 => self.decode_with(|[byte]| decode_e5m2(u32::from(byte))),
            Element::S8 => self.decode_with(|[byte]| (f32::from(byte as i8), 0)),
            Element::U8 => self.decode_with(|[byte]| (f32::from(byte), 0)),
        }
    }

    #[inline(always)]
    fn decode_with<const SIZE: usize>(&mut self, decode: impl Fn([u8; SIZE]) -> (f32, i16)) {
        let flip = self.flip;
        let (elements, _) = self.raw.as_chunks::<SIZE>();
        if !self.with_exponents {
            for (&bytes, value) in elements.iter().zip(&mut self.values) {
                *value = f32::from_bits(decode(bytes).0.to_bits() ^ flip);
            }
            return;
        }
        let out = self.values.iter_mut().zip(&mut self.exponents);
        for (&bytes, (value, exponent)) in elements.iter().zip(out) {
            let decoded = decode(bytes);
            *value = f32::from_bits(decoded.0.to_bits() ^ flip);
            *exponent = decoded.1;
        }
    }
}

#[inline(always)]
fn half(bytes: [u8; 2]) -> u32 {
    u32::from(u16::from_le_bytes(bytes))
}

/// Columns of a tile rounded up to whole vectors of the kernels.
pub(crate) fn padded(columns: usize) -> usize {
    if columns <= 16 { 16 } else { columns.next_multiple_of(32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_put_the_lanes_of_a_register_side_by_side() {
        assert_eq!([0, 2, 4, 6, 1, 3, 5, 7, 8, 9].map(position), [0, 1, 2, 3, 4, 5, 6, 7, 8, 12]);
    }

    #[test]
    fn chunks_land_where_single_elements_do() {
        let chunks: [[u8; 16]; 8] = std::array::from_fn(|line| {
            std::array::from_fn(|index| (line * 77 + index * 23 + 5) as u8)
        });
        for element in [Element::Bf16, Element::F16, Element::Tf32, Element::E4m3, Element::S8] {
            let size = element.bytes() as usize;
            let count = 16 / size;
            let bits = |chunk: usize, index: usize| {
                let mut word = [0; 4];
                word[..size].copy_from_slice(&chunks[chunk][index * size..(index + 1) * size]);
                u32::from_le_bytes(word)
            };
            for (columns, across) in [(false, false), (false, true), (true, false), (true, true)] {
                if across && size != 2 {
                    continue;
                }
                let reset = |panel: &mut Panel| match columns {
                    true => panel.reset_columns(24, 32, element, true),
                    false => panel.reset_rows(24, 32, element, true),
                };
                let (mut whole, mut single) = (Panel::default(), Panel::default());
                reset(&mut whole);
                reset(&mut single);
                match across {
                    true => whole.put_across_lines(8, 16, &chunks),
                    false => whole.put_along_depth(8, count, &chunks),
                }
                for chunk in 0..8 {
                    for index in 0..count {
                        match across {
                            true => single.put(8 + index, 16 + chunk, bits(chunk, index)),
                            false => single.put(8 + chunk, count + index, bits(chunk, index)),
                        }
                    }
                }
                whole.finish();
                single.finish();
                let words = |panel: &Panel| -> Vec<u32> {
                    panel.values.iter().map(|value| value.to_bits()).collect()
                };
                assert_eq!(words(&whole), words(&single), "{element:?}");
                assert_eq!(whole.exponents, single.exponents, "{element:?}");
            }
        }
    }
}
