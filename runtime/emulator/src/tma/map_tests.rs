//! Tensor maps: bits, rules and single fields.

use super::*;

pub(in crate::tma) fn matrix() -> TensorMap {
    TensorMap {
        address: 0x10_0000_1000,
        element: MapElement::Bf16,
        rank: 2,
        dims: [160, 200, 1, 1, 1],
        strides: [320, 0, 0, 0],
        box_dims: [64, 128, 1, 1, 1],
        element_strides: [1; 5],
        interleave: Interleave::None,
        swizzle: Swizzle::Bytes128,
        fill_nan: false,
    }
}

fn word(bytes: &[u8; 128], index: usize) -> u32 {
    u32::from_le_bytes(bytes[4 * index..4 * index + 4].try_into().unwrap())
}

#[test]
fn fields_lie_where_ptxas_writes_them() {
    let bytes = matrix().encode().unwrap();
    assert_eq!(word(&bytes, 0), 0x1000);
    assert_eq!(word(&bytes, 1), 0x10);
    assert_eq!(word(&bytes, 2), 1 << 4 | 10 << 7 | 3 << 13 | 1 << 21);
    assert_eq!(word(&bytes, 3), 320 >> 4);
    assert_eq!((word(&bytes, 8), word(&bytes, 9)), (159, 199));
    assert_eq!((word(&bytes, 13), word(&bytes, 14)), (63 << 24, 127));
}

#[test]
fn maps_of_every_rank_and_type_round_trip() {
    for rank in 1..=5 {
        for code in 0..13 {
            let element = MapElement::from_code(code).unwrap();
            let mut map = matrix();
            (map.rank, map.element) = (rank, element);
            map.dims = [64, 9, 1 << 32, 3, 5];
            map.strides = [1 << 12, (1 << 40) - 16, 16, 1 << 36];
            map.box_dims = [16 / element.bytes(), 256, 2, 3, 1];
            map.element_strides = [1, 8, 2, 1, 3];
            for axis in rank..5 {
                (map.dims[axis], map.box_dims[axis], map.element_strides[axis]) = (1, 1, 1);
                map.strides[axis - 1] = 0;
            }
            map.fill_nan = element.is_float();
            let bytes = map.encode().unwrap();
            assert_eq!(TensorMap::decode(&bytes), Ok(map));
        }
    }
}

#[test]
fn every_broken_rule_is_named() {
    let refuse = |change: fn(&mut TensorMap), words: &str| {
        let mut map = matrix();
        change(&mut map);
        let message = map.encode().unwrap_err();
        assert!(message.contains(words), "{message}");
    };
    refuse(|map| map.rank = 6, "1 to 5 dimensions");
    refuse(|map| map.rank = 0, "1 to 5 dimensions");
    refuse(|map| map.address += 8, "multiple of 16");
    refuse(|map| map.address = 0, "above 0");
    refuse(|map| map.dims[1] = 0, "dimension 1 has 0");
    refuse(|map| map.dims[0] = (1 << 32) + 1, "2^32");
    refuse(|map| map.strides[0] = 328, "stride of dimension 1 is 328");
    refuse(|map| map.strides[0] = 1 << 40, "below 2^40");
    refuse(|map| map.box_dims[1] = 257, "257 elements");
    refuse(|map| map.box_dims[1] = 0, "0 elements");
    refuse(|map| map.element_strides[1] = 9, "element stride");
    refuse(|map| map.box_dims[0] = 60, "multiple of 16");
    refuse(|map| map.box_dims[0] = 128, "256 bytes, the swizzle covers 128");
    refuse(|map| map.interleave = Interleave::Bytes16, "3 to 5 dimensions");
    refuse(
        |map| {
            (map.rank, map.interleave) = (3, Interleave::Bytes16);
        },
        "no swizzle",
    );
    refuse(
        |map| {
            (map.rank, map.interleave) = (3, Interleave::Bytes32);
            (map.address, map.strides) = (0x2000, [320, 640, 0, 0]);
        },
        "32-byte swizzle",
    );
    refuse(
        |map| {
            (map.element, map.fill_nan) = (MapElement::U16, true);
        },
        "no NaN",
    );
}

#[test]
fn garbage_is_not_a_map() {
    assert!(TensorMap::decode(&[0; 128]).is_err());
    assert!(TensorMap::decode(&[0xff; 128]).is_err());
    let mut bytes = matrix().encode().unwrap();
    bytes[100] = 1;
    assert!(TensorMap::decode(&bytes).unwrap_err().contains("not a tensor map"));
}

#[test]
fn replacing_every_field_of_zeros_gives_the_encoded_map() {
    let map = TensorMap { element: MapElement::Tf32, box_dims: [32, 128, 1, 1, 1], ..matrix() };
    let mut bytes = [0; 128];
    let fields = [
        (Field::Address, 0, map.address),
        (Field::Rank, 0, 1),
        (Field::BoxDim, 0, 32),
        (Field::BoxDim, 1, 128),
        (Field::GlobalDim, 0, 160),
        (Field::GlobalDim, 1, 200),
        (Field::GlobalStride, 0, 320),
        (Field::ElementStride, 0, 1),
        (Field::ElementStride, 1, 1),
        (Field::ElementType, 0, 11),
        (Field::Interleave, 0, 0),
        (Field::Swizzle, 0, 3),
        (Field::Fill, 0, 0),
    ];
    for (field, axis, value) in fields {
        replace(&mut bytes, field, axis, value).unwrap();
    }
    assert_eq!(TensorMap::decode(&bytes), Ok(map));
    assert!(replace(&mut bytes, Field::Swizzle, 0, 4).is_err());
    assert!(replace(&mut bytes, Field::GlobalStride, 4, 16).is_err());
    assert!(replace(&mut bytes, Field::GlobalStride, 0, 8).is_err());
}

#[test]
fn swizzles_permute_chunks_by_the_row_within_the_pattern() {
    assert_eq!(Swizzle::None.apply(0x7f0), 0x7f0);
    assert_eq!(Swizzle::Bytes128.apply(0x410), 0x410);
    assert_eq!(Swizzle::Bytes128.apply(0x480), 0x490);
    assert_eq!(Swizzle::Bytes128.apply(0x7f7), 0x787);
    assert_eq!(Swizzle::Bytes64.apply(0x180), 0x1b0);
    assert_eq!(Swizzle::Bytes64.apply(0x200), 0x200);
    assert_eq!(Swizzle::Bytes32.apply(0x080), 0x090);
    assert_eq!(Swizzle::Bytes32.apply(0x100), 0x100);
}
