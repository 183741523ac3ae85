//! How the registers of a warp hold matrices (PTX ISA 9.7.14.5 for `mma`, 9.7.15.5.1 for `wgmma`;
//! one warp of a warpgroup holds 16 of the 64 rows, laid out as in `mma.m16n8`).
//!
//! A row is 32 registers of the same name, one per lane. A lane is 4 `group` + `member`.

use super::accumulate::half_bits;
use super::element::{Accumulator, Element};
use super::panel::{Panel, padded};

/// A register in all lanes.
pub(crate) type Row = [u32; 32];

/// Registers that hold `columns` of an accumulator.
pub(crate) fn accumulator_registers(accumulator: Accumulator, columns: usize) -> usize {
    if accumulator == Accumulator::F16 { columns / 4 } else { columns / 2 }
}

/// Copies an accumulator of 16 rows into `tile`, whose rows have [`padded`] columns in the order
/// of [`super::panel::position`].
pub(crate) fn gather(
    accumulator: Accumulator,
    columns: usize,
    tile: &mut [f32],
    register: impl Fn(usize) -> *const Row,
) {
    let width = padded(columns);
    assert!(tile.len() >= 16 * width, "the tile is smaller than the accumulator");
    for index in 0..accumulator_registers(accumulator, columns) {
        if accumulator == Accumulator::F16 {
            // SAFETY: the caller's registers exist.
            let row = unsafe { &*register(index) };
            let (half, block) = (index & 1, index >> 1);
            for (lane, &word) in row.iter().enumerate() {
                let at = (8 * half + lane / 4) * width + 8 * block + lane % 4;
                tile[at] = Element::F16.decode(word & 0xffff).0;
                tile[at + 4] = Element::F16.decode(word >> 16).0;
            }
        } else {
            let (half, at) = (index >> 1 & 1, 8 * (index >> 2) + 4 * (index & 1));
            // SAFETY: the caller's registers exist; rows below 16 and columns below `width` lie
            // in the tile. Four lanes hold four neighbours of a row.
            unsafe {
                let from = register(index).cast::<[u32; 4]>();
                let to = tile.as_mut_ptr().add(8 * half * width + at);
                for group in 0..8 {
                    to.add(group * width).cast::<[u32; 4]>().write(from.add(group).read());
                }
            }
        }
    }
}

/// Copies `tile` back into the registers of an accumulator.
pub(crate) fn scatter(
    accumulator: Accumulator,
    columns: usize,
    tile: &[f32],
    register: impl Fn(usize) -> *mut Row,
) {
    let width = padded(columns);
    assert!(tile.len() >= 16 * width, "the tile is smaller than the accumulator");
    for index in 0..accumulator_registers(accumulator, columns) {
        if accumulator == Accumulator::F16 {
            // SAFETY: the caller's registers exist.
            let row = unsafe { &mut *register(index) };
            let (half, block) = (index & 1, index >> 1);
            for (lane, word) in row.iter_mut().enumerate() {
                let at = (8 * half + lane / 4) * width + 8 * block + lane % 4;
                let (low, high) = (half_bits(tile[at]), half_bits(tile[at + 4]));
                *word = u32::from(low) | u32::from(high) << 16;
            }
        } else {
            let (half, at) = (index >> 1 & 1, 8 * (index >> 2) + 4 * (index & 1));
            // SAFETY: as in `gather`.
            unsafe {
                let to = register(index).cast::<[u32; 4]>();
                let from = tile.as_ptr().add(8 * half * width + at);
                for group in 0..8 {
                    to.add(group).write(from.add(group * width).cast::<[u32; 4]>().read());
                }
            }
        }
    }
}

/// Puts a warp's registers of A into rows `first..first + 16` of `panel`.
pub(crate) fn load_rows(
    panel: &mut Panel,
    first: usize,
    registers: usize,
    register: impl Fn(usize) -> *const Row,
) {
    for index in 0..registers {
        // SAFETY: the caller's registers exist.
        let row = unsafe { &*register(index) };
        let (groups, _) = row.as_chunks::<4>();
        for (group, words) in groups.iter().enumerate() {
            // Four lanes hold 16 bytes of a row that follow each other.
            panel.put_words(first + group + 8 * (index & 1), index >> 1, *words);
        }
    }
    panel.finish();
}

/// Puts a warp's registers of an 8-column B into `panel`.
pub(crate) fn load_columns(
    panel: &mut Panel,
    registers: usize,
    register: impl Fn(usize) -> *const Row,
) {
    let bytes = panel.element().bytes() as usize;
    let count = 4 / bytes;
    for index in 0..registers {
        // SAFETY: the caller's registers exist.
        let row = unsafe { &*register(index) };
        for (lane, &word) in row.iter().enumerate() {
            let k = count * (lane % 4) + 4 * count * index;
            for element in 0..count {
                panel.put(lane / 4, k + element, part(word, element, bytes));
            }
        }
    }
    panel.finish();
}

fn part(word: u32, element: usize, bytes: usize) -> u32 {
    match bytes {
        4 => word,
        2 => word >> (16 * element) & 0xffff,
        _ => word >> (8 * element) & 0xff,
    }
}

#[cfg(test)]
mod tests {
    use super::super::panel::position;
    use super::*;

    #[test]
    fn accumulators_lie_as_the_isa_says() {
        // PTX ISA: row = lane / 4 + 8 (i / 2 % 2), column = 8 (i / 4) + 2 (lane % 4) + i % 2.
        let columns = 24;
        let mut rows = vec![[0u32; 32]; columns / 2];
        for (index, row) in rows.iter_mut().enumerate() {
            for (lane, word) in row.iter_mut().enumerate() {
                let line = lane / 4 + 8 * (index / 2 % 2);
                let column = 8 * (index / 4) + 2 * (lane % 4) + index % 2;
                *word = ((line * 100 + column) as f32).to_bits();
            }
        }
        let width = padded(columns);
        let mut tile = vec![-1.0; 16 * width];
        gather(Accumulator::F32, columns, &mut tile, |index| &rows[index]);
        for line in 0..16 {
            for column in 0..columns {
                assert_eq!(tile[line * width + position(column)], (line * 100 + column) as f32);
            }
        }
        let back = vec![std::cell::Cell::new([0u32; 32]); columns / 2];
        scatter(Accumulator::F32, columns, &tile, |index| back[index].as_ptr());
        assert!(back.iter().zip(&rows).all(|(cell, row)| cell.get() == *row));
    }

    #[test]
    fn binary16_accumulators_hold_two_columns_per_register() {
        let columns = 8;
        let mut rows = [[0u32; 32]; 2];
        for (index, row) in rows.iter_mut().enumerate() {
            for (lane, word) in row.iter_mut().enumerate() {
                let value = |odd: usize| {
                    let column = 2 * (lane % 4) + odd;
                    u32::from(half_bits(((lane / 4 + 8 * index) * 8 + column) as f32))
                };
                *word = value(0) | value(1) << 16;
            }
        }
        let mut tile = vec![0.0; 16 * 16];
        gather(Accumulator::F16, columns, &mut tile, |index| &rows[index]);
        for line in 0..16 {
            for column in 0..8 {
                assert_eq!(tile[line * 16 + position(column)], (line * 8 + column) as f32);
            }
        }
        let back = vec![std::cell::Cell::new([0u32; 32]); 2];
        scatter(Accumulator::F16, columns, &tile, |index| back[index].as_ptr());
        assert!(back.iter().zip(&rows).all(|(cell, row)| cell.get() == *row));
    }

    #[test]
    fn operands_lie_as_the_isa_says() {
        // Bytes, depth 32: A register r, byte i: row lane / 4 + 8 (r % 2), depth 4 (lane % 4) + i
        // + 16 (r / 2); B register r: column lane / 4, depth 4 (lane % 4) + i + 16 r.
        let mut rows = [[0u32; 32]; 4];
        for (index, row) in rows.iter_mut().enumerate() {
            for (lane, word) in row.iter_mut().enumerate() {
                let bytes: [u8; 4] = std::array::from_fn(|i| {
                    let k = 4 * (lane % 4) + i + 16 * (index / 2);
                    ((lane / 4 + 8 * (index % 2)) * 7 + k) as u8
                });
                *word = u32::from_le_bytes(bytes);
            }
        }
        let mut a = Panel::default();
        a.reset_rows(16, 32, Element::U8, false);
        load_rows(&mut a, 0, 4, |index| &rows[index]);
        for line in 0..16 {
            for k in 0..32 {
                assert_eq!(a.values[line * 32 + k], (line * 7 + k) as f32);
            }
        }
        let mut b = Panel::default();
        b.reset_columns(8, 32, Element::U8, false);
        load_columns(&mut b, 2, |index| &rows[2 * index]);
        for column in 0..8 {
            for k in 0..32 {
                let at = k * b.lines + position(column);
                assert_eq!(b.values[at], (column * 7 + k) as f32);
            }
        }
    }
}
