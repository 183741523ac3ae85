//! The rows of a box: where each lies in the tensor and in shared memory.

use super::map::TensorMap;

/// A row of a box, along dimension 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BoxRow {
    /// Byte of the box where the row starts, before swizzling.
    pub(crate) offset: u32,
    /// Bytes of the row in shared memory.
    pub(crate) bytes: u32,
    /// Bytes at its start that lie before the tensor.
    pub(crate) before: u32,
    /// Bytes inside the tensor, 0 if the whole row is outside.
    pub(crate) inside: u32,
    /// Device address of the first inside byte.
    pub(crate) address: u64,
}

impl TensorMap {
    /// Elements of a box along `axis`: with an element stride above 1 only every so many-th is
    /// copied (dimension 0 ignores it).
    pub(crate) fn box_extent(&self, axis: usize) -> u32 {
        match axis {
            0 => self.box_dims[0],
            _ => self.box_dims[axis].div_ceil(self.element_strides[axis]),
        }
    }

    /// Bytes of a box in shared memory: what a transaction counts, elements outside the tensor
    /// included. Saturates: such a box fits nowhere.
    pub(crate) fn box_bytes(&self) -> u32 {
        let row = self.box_dims[0] * self.element.bytes();
        (1..self.rank).fold(row, |bytes, axis| bytes.saturating_mul(self.box_extent(axis)))
    }

    /// Calls `visit` for the rows of the box whose first element has `coordinates` (innermost
    /// first, possibly negative), in the order of shared memory.
    pub(crate) fn for_each_row<E>(
        &self,
        coordinates: [i32; 5],
        mut visit: impl FnMut(BoxRow) -> Result<(), E>,
    ) -> Result<(), E> {
        let size = i64::from(self.element.bytes());
        let (extent, width) = (self.dims[0] as i64, i64::from(self.box_dims[0]));
        let first = i64::from(coordinates[0]);
        let low = first.clamp(0, extent);
        let high = (first + width).clamp(0, extent);
        let (before, inside) = ((low - first).min(width) * size, (high - low) * size);
        let rows: u32 = (1..self.rank).map(|axis| self.box_extent(axis)).product();
        for row in 0..rows {
            let (mut left, mut is_inside) = (row, true);
            let mut address = self.address.wrapping_add((low * size) as u64);
            for (axis, &coordinate) in coordinates.iter().enumerate().take(self.rank).skip(1) {
                let step = left % self.box_extent(axis);
                left /= self.box_extent(axis);
                let at = i64::from(coordinate) + i64::from(step * self.element_strides[axis]);
                is_inside &= (0..self.dims[axis] as i64).contains(&at);
                address = address.wrapping_add((at as u64).wrapping_mul(self.strides[axis - 1]));
            }
            let bytes = (width * size) as u32;
            visit(BoxRow {
                offset: row * bytes,
                bytes,
                before: before as u32,
                inside: if is_inside { inside as u32 } else { 0 },
                address,
            })?;
        }
        Ok(())
    }

    /// The bytes of one element outside the tensor.
    pub(crate) fn fill(&self) -> [u8; 8] {
        use super::map::MapElement;
        let nan: u64 = match self.element {
            _ if !self.fill_nan => 0,
            MapElement::F16 | MapElement::Bf16 => 0x7fff,
            MapElement::F64 => 0x7fff_ffff_ffff_ffff,
            _ => 0x7fff_ffff,
        };
        nan.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::map::tests::matrix;
    use super::*;

    fn rows(map: &TensorMap, coordinates: [i32; 5]) -> Vec<BoxRow> {
        let mut all = Vec::new();
        map.for_each_row(coordinates, |row| {
            all.push(row);
            Ok::<(), ()>(())
        })
        .unwrap();
        all
    }

    #[test]
    fn boxes_inside_are_dense_rows() {
        let map = matrix();
        let all = rows(&map, [32, 16, 0, 0, 0]);
        assert_eq!(all.len(), 128);
        assert_eq!(map.box_bytes(), 128 * 128);
        for (index, row) in all.iter().enumerate() {
            let address = map.address + 64 + (16 + index as u64) * 320;
            let expected =
                BoxRow { offset: index as u32 * 128, bytes: 128, before: 0, inside: 128, address };
            assert_eq!(*row, expected);
        }
    }

    #[test]
    fn parts_outside_the_tensor_are_cut_on_every_side() {
        let map = matrix();
        // 160 columns: a box of 64 from 128 on has 32 inside; 200 rows: from 190 on ten.
        let all = rows(&map, [128, 190, 0, 0, 0]);
        assert_eq!((all[0].before, all[0].inside), (0, 64));
        assert_eq!((all[9].inside, all[10].inside), (64, 0));
        // Five columns and three rows before the tensor.
        let all = rows(&map, [-5, -3, 0, 0, 0]);
        assert_eq!((all[0].inside, all[2].inside), (0, 0));
        assert_eq!((all[3].before, all[3].inside, all[3].address), (10, 118, map.address));
        // Far outside.
        assert!(rows(&map, [1000, 0, 0, 0, 0]).iter().all(|row| row.inside == 0));
        assert!(rows(&map, [i32::MIN, i32::MIN, 0, 0, 0]).iter().all(|row| row.inside == 0));
        assert!(rows(&map, [i32::MAX, i32::MAX, 0, 0, 0]).iter().all(|row| row.inside == 0));
    }

    #[test]
    fn element_strides_take_every_so_manyth_row() {
        let mut map = matrix();
        map.box_dims[1] = 7;
        map.element_strides[1] = 3;
        let all = rows(&map, [0, 2, 0, 0, 0]);
        assert_eq!(all.len(), 3);
        assert_eq!(map.box_bytes(), 3 * 128);
        assert_eq!(all[2].address, map.address + (2 + 6) * 320);
        assert_eq!(all[2].offset, 256);
    }

    #[test]
    fn five_dimensions_are_walked_innermost_first() {
        let mut map = matrix();
        map.rank = 5;
        map.dims = [8, 4, 4, 4, 4];
        map.strides = [16, 64, 256, 1024];
        map.box_dims = [8, 2, 2, 2, 2];
        map.swizzle = crate::tma::Swizzle::None;
        map.check().unwrap();
        let all = rows(&map, [0, 1, 0, 3, 0]);
        assert_eq!(all.len(), 16);
        assert_eq!(all[1].address, map.address + 2 * 16 + 3 * 256);
        assert_eq!(all[2].address, map.address + 16 + 64 + 3 * 256);
        assert_eq!(all[4].inside, 0, "the fourth coordinate is 4");
        assert_eq!(all[8].address, map.address + 16 + 3 * 256 + 1024);
    }
}
