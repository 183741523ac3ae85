//! The 128-byte tensor map: its bits, and the rules of `cuTensorMapEncodeTiled` (CUDA driver API,
//! "Tensor Map Object Management").
//!
//! The places of the fields are those that ptxas writes for each `tensormap.replace` (read from
//! SASS for sm_90a); the bits that choose a promotion in L2 are not known and stay zero.

/// Element type of a tensor in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MapElement {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    /// float32 whose subnormals count as zero in reductions.
    F32Ftz,
    F64,
    Bf16,
    /// float32 rounded to 10 fraction bits.
    Tf32,
    /// As `Tf32`, subnormals to zero.
    Tf32Ftz,
}

/// How 16-byte chunks of a row are permuted in shared memory (PTX ISA 5.5.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Swizzle {
    /// Not at all.
    #[default]
    None,
    /// Within 32 bytes.
    Bytes32,
    /// Within 64 bytes.
    Bytes64,
    /// Within 128 bytes.
    Bytes128,
}

/// Interleaved layouts (PTX ISA 5.5.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interleave {
    /// Dimensions as given.
    #[default]
    None,
    /// Slices of 8 channels of 2 bytes.
    Bytes16,
    /// Slices of 16 channels of 2 bytes.
    Bytes32,
}

/// A tiled tensor map. Dimensions are innermost first; entries beyond `rank` are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Device address of the first element.
    pub address: u64,
    /// Element type.
    pub element: MapElement,
    /// Dimensions, 1 to 5.
    pub rank: usize,
    /// Elements along each dimension.
    pub dims: [u64; 5],
    /// Bytes between neighbours along dimensions 1 to 4; dimension 0 is dense.
    pub strides: [u64; 4],
    /// Elements of a box along each dimension.
    pub box_dims: [u32; 5],
    /// Steps between loaded elements along each dimension.
    pub element_strides: [u32; 5],
    /// Layout of the tensor.
    pub interleave: Interleave,
    /// Layout of the box.
    pub swizzle: Swizzle,
    /// Elements outside the tensor read as NaN, not as zero.
    pub fill_nan: bool,
}

impl MapElement {
    const ALL: [MapElement; 13] = [
        MapElement::U8,
        MapElement::U16,
        MapElement::U32,
        MapElement::S32,
        MapElement::U64,
        MapElement::S64,
        MapElement::F16,
        MapElement::F32,
        MapElement::F32Ftz,
        MapElement::F64,
        MapElement::Bf16,
        MapElement::Tf32,
        MapElement::Tf32Ftz,
    ];

    /// Bytes of an element.
    pub fn bytes(self) -> u32 {
        match self {
            MapElement::U8 => 1,
            MapElement::U16 | MapElement::F16 | MapElement::Bf16 => 2,
            MapElement::U64 | MapElement::S64 | MapElement::F64 => 8,
            _ => 4,
        }
    }

    fn is_float(self) -> bool {
        (MapElement::F16 as u32..).contains(&(self as u32))
    }

    /// The value of `.elemtype` of `tensormap.replace`.
    pub(crate) fn from_code(code: u32) -> Option<MapElement> {
        Self::ALL.get(code as usize).copied()
    }

    /// Bits 7 to 10 and bit 16 of the flags.
    fn flags(self) -> u32 {
        match self {
            MapElement::Tf32 => 1 << 16 | (MapElement::F32 as u32) << 7,
            MapElement::Tf32Ftz => 1 << 16 | (MapElement::F32Ftz as u32) << 7,
            other => (other as u32) << 7,
        }
    }
}

impl Swizzle {
    /// Bytes within which chunks move, 0 for none.
    pub fn span(self) -> u32 {
        match self {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }

    /// Where the byte at `address` of the plain layout goes: chunk bits 4.. are combined with the
    /// row bits 7.. of the same address.
    #[inline(always)]
    pub(crate) fn apply(self, address: u32) -> u32 {
        let chunks = (self.span() / 16).max(1) - 1;
        address ^ (address >> 7 & chunks) << 4
    }
}

impl TensorMap {
    /// Checks every rule of `cuTensorMapEncodeTiled`.
    ///
    /// # Errors
    /// The rule that is broken, with the numbers.
    pub fn check(&self) -> Result<(), String> {
        let rank = self.rank;
        if !(1..=5).contains(&rank) {
            return Err(format!("a tensor map has 1 to 5 dimensions, not {rank}"));
        }
        if self.interleave != Interleave::None && rank < 3 {
            return Err(format!("an interleaved tensor has 3 to 5 dimensions, not {rank}"));
        }
        let align = if self.interleave == Interleave::Bytes32 { 32 } else { 16 };
        if self.address == 0 || !self.address.is_multiple_of(align) {
            return Err(format!(
                "the tensor's address 0x{:x} is not a multiple of {align} above 0",
                self.address
            ));
        }
        for (axis, &extent) in self.dims[..rank].iter().enumerate() {
            if extent == 0 || extent > 1 << 32 {
                return Err(format!(
                    "dimension {axis} has {extent} elements: 1 to 2^32 are allowed"
                ));
            }
        }
        for (axis, &stride) in (1..).zip(&self.strides[..rank - 1]) {
            if !stride.is_multiple_of(align) || stride >= 1 << 40 {
                return Err(format!(
                    "the stride of dimension {axis} is {stride} bytes: a multiple of {align} below \
                     2^40 is needed"
                ));
            }
        }
        for axis in 0..rank {
            let (extent, step) = (self.box_dims[axis], self.element_strides[axis]);
            if extent == 0 || extent > 256 {
                return Err(format!(
                    "the box has {extent} elements along dimension {axis}: 1 to 256 are allowed"
                ));
            }
            if step == 0 || step > 8 {
                return Err(format!(
                    "the element stride of dimension {axis} is {step}: 1 to 8 are allowed"
                ));
            }
        }
        self.check_layout()
    }

    fn check_layout(&self) -> Result<(), String> {
        let inner = self.box_dims[0] * self.element.bytes();
        match self.interleave {
            Interleave::Bytes32 if self.swizzle != Swizzle::Bytes32 => {
                return Err("the 32-byte interleave needs the 32-byte swizzle".to_string());
            }
            Interleave::Bytes16 if self.swizzle != Swizzle::None => {
                return Err("the 16-byte interleave allows no swizzle".to_string());
            }
            Interleave::None if !inner.is_multiple_of(16) => {
                return Err(format!(
                    "the innermost extent of the box is {inner} bytes: a multiple of 16 is needed"
                ));
            }
            Interleave::None if self.swizzle != Swizzle::None && inner > self.swizzle.span() => {
                return Err(format!(
                    "the innermost extent of the box is {inner} bytes, the swizzle covers {}",
                    self.swizzle.span()
                ));
            }
            _ => {}
        }
        if self.fill_nan && !self.element.is_float() {
            return Err(format!("elements of type {:?} have no NaN to fill with", self.element));
        }
        Ok(())
    }

    /// The 128 bytes of the map, as `cuTensorMapEncodeTiled` gives them.
    ///
    /// # Errors
    /// As [`TensorMap::check`].
    pub fn encode(&self) -> Result<[u8; 128], String> {
        self.check()?;
        let mut words = [0u32; 32];
        words[0] = self.address as u32;
        words[1] = (self.address >> 32) as u32;
        words[2] = (self.rank as u32 - 1) << 4
            | self.element.flags()
            | (self.interleave as u32) << 11
            | (self.swizzle as u32) << 13
            | u32::from(self.fill_nan) << 15
            | 1 << 21;
        for axis in 0..self.rank {
            if axis > 0 {
                let stride = self.strides[axis - 1] >> 4;
                words[2 + axis] = stride as u32;
                words[7] |= ((stride >> 32) as u32) << (4 * (axis - 1));
            }
            words[8 + axis] = (self.dims[axis] - 1) as u32;
            words[13] |= (self.element_strides[axis] - 1) << (3 * axis);
            let extent = self.box_dims[axis] - 1;
            match axis {
                0 => words[13] |= extent << 24,
                _ => words[14] |= extent << (8 * (axis - 1)),
            }
        }
        let mut bytes = [0; 128];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(bytes)
    }

    /// Reads a map.
    ///
    /// # Errors
    /// As [`TensorMap::check`], and for bits that no map has.
    pub fn decode(bytes: &[u8; 128]) -> Result<TensorMap, String> {
        let (chunks, _) = bytes.as_chunks::<4>();
        let word = |index: usize| u32::from_le_bytes(chunks[index]);
        let flags = word(2);
        let code = flags >> 7 & 15;
        let element = match (MapElement::from_code(code), flags >> 16 & 1) {
            (Some(MapElement::F32), 1) => MapElement::Tf32,
            (Some(MapElement::F32Ftz), 1) => MapElement::Tf32Ftz,
            (Some(element), 0) if code <= MapElement::Bf16 as u32 => element,
            _ => return Err(format!("the tensor map has an unknown element type ({code})")),
        };
        let interleave = match flags >> 11 & 3 {
            0 => Interleave::None,
            1 => Interleave::Bytes16,
            2 => Interleave::Bytes32,
            _ => return Err("the tensor map has an unknown interleaved layout (3)".to_string()),
        };
        let swizzle = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128]
            [(flags >> 13 & 3) as usize];
        let unknown = flags & !0x007f_fff0;
        if unknown != 0 || (16..32).any(|index| word(index) != 0) {
            return Err("this is not a tensor map: bits that no map has are set".to_string());
        }
        let map = TensorMap {
            address: u64::from(word(0)) | u64::from(word(1)) << 32,
            element,
            rank: (flags >> 4 & 7) as usize + 1,
            dims: std::array::from_fn(|axis| u64::from(word(8 + axis)) + 1),
            strides: std::array::from_fn(|axis| {
                (u64::from(word(3 + axis)) | u64::from(word(7) >> (4 * axis) & 15) << 32) << 4
            }),
            box_dims: std::array::from_fn(|axis| match axis {
                0 => (word(13) >> 24) + 1,
                _ => (word(14) >> (8 * (axis - 1)) & 0xff) + 1,
            }),
            element_strides: std::array::from_fn(|axis| (word(13) >> (3 * axis) & 7) + 1),
            interleave,
            swizzle,
            fill_nan: flags >> 15 & 1 != 0,
        };
        map.check()?;
        Ok(map)
    }
}

/// A field of a tensor map that `tensormap.replace` writes (PTX ISA 9.7.9.28).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Address,
    Rank,
    BoxDim,
    GlobalDim,
    GlobalStride,
    ElementStride,
    ElementType,
    Interleave,
    Swizzle,
    Fill,
}

/// Writes one field of a map's bytes; `axis` is the dimension, for fields that have one.
pub(crate) fn replace(
    bytes: &mut [u8; 128],
    field: Field,
    axis: u32,
    value: u64,
) -> Result<(), String> {
    let mut set = |word: usize, at: u32, bits: u32, value: u64| {
        let mask = ((1u64 << bits) - 1) as u32;
        let place = &mut bytes[4 * word..4 * word + 4];
        let old = u32::from_le_bytes([place[0], place[1], place[2], place[3]]);
        let new = old & !(mask << at) | (value as u32 & mask) << at;
        place.copy_from_slice(&new.to_le_bytes());
    };
    let limit = if field == Field::GlobalStride { 4 } else { 5 };
    if axis >= limit {
        return Err(format!("dimension {axis} of a field that has {limit}"));
    }
    let at = axis as usize;
    let most = |most: u64| match value {
        value if value <= most => Ok(()),
        value => Err(format!("{value} does not fit the field {field:?}, which goes to {most}")),
    };
    match field {
        Field::Address => {
            set(0, 0, 32, value);
            set(1, 0, 32, value >> 32);
        }
        Field::Rank => {
            most(4)?;
            set(2, 4, 3, value);
        }
        Field::BoxDim => {
            let extent = value.wrapping_sub(1);
            match axis {
                0 => set(13, 24, 8, extent),
                _ => set(14, 8 * (axis - 1), 8, extent),
            }
        }
        Field::GlobalDim => set(8 + at, 0, 32, value.wrapping_sub(1)),
        Field::GlobalStride => {
            if !value.is_multiple_of(16) || value >= 1 << 40 {
                return Err(format!(
                    "a stride of {value} bytes: a multiple of 16 below 2^40 is needed"
                ));
            }
            set(3 + at, 0, 32, value >> 4);
            set(7, 4 * axis, 4, value >> 36);
        }
        Field::ElementStride => set(13, 3 * axis, 3, value.wrapping_sub(1)),
        Field::ElementType => {
            let element = u32::try_from(value).ok().and_then(MapElement::from_code);
            let element = element.ok_or_else(|| format!("there is no element type {value}"))?;
            let flags = u64::from(element.flags());
            set(2, 7, 4, flags >> 7);
            set(2, 16, 1, flags >> 16);
        }
        Field::Interleave => {
            most(2)?;
            set(2, 11, 2, value);
        }
        Field::Swizzle => {
            most(3)?;
            set(2, 13, 2, value);
        }
        Field::Fill => {
            most(1)?;
            set(2, 15, 1, value);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "map_tests.rs"]
pub(super) mod tests;
