//! Bulk copies through tensor maps: boxes of every rank, at and beyond the edges, in every
//! swizzle, against an element-by-element model.

mod machine;

use machine::{device, module};
use moec_emulator::{Arg, Device, Error, Interleave, LaunchConfig, MapElement, Swizzle, TensorMap};

/// A device with a tensor of bytes 0, 1, 2, … (times 7) and a place for results.
struct Bench {
    device: Device,
    tensor: u64,
    bytes: Vec<u8>,
    out: u64,
}

const OUT: usize = 64 * 1024;

fn bench(bytes: usize) -> Bench {
    let mut device = device();
    let bytes: Vec<u8> = (0..bytes).map(|index| (index * 7 + index / 251) as u8).collect();
    let tensor = device.alloc(bytes.len(), "tensor").expect("there is room");
    let out = device.alloc(OUT, "out").expect("there is room");
    device.write(tensor, &bytes).expect("it fits");
    device.fill(out, 0xee, OUT).expect("it fits");
    Bench { device, tensor, bytes, out }
}

fn map(address: u64, element: MapElement, dims: &[u64], box_dims: &[u32]) -> TensorMap {
    let rank = dims.len();
    let mut map = TensorMap {
        address,
        element,
        rank,
        dims: [1; 5],
        strides: [0; 4],
        box_dims: [1; 5],
        element_strides: [1; 5],
        interleave: Interleave::None,
        swizzle: Swizzle::None,
        fill_nan: false,
    };
    map.dims[..rank].copy_from_slice(dims);
    map.box_dims[..rank].copy_from_slice(box_dims);
    let mut dense = dims[0] * u64::from(element.bytes());
    for (stride, extent) in map.strides.iter_mut().zip(&dims[1..]) {
        *stride = dense.next_multiple_of(16);
        dense = *stride * extent;
    }
    map
}

/// Elements of a box along each axis, and the bytes of the box.
fn extents(map: &TensorMap) -> ([u32; 5], usize) {
    let mut extents = [1; 5];
    for (axis, extent) in extents[..map.rank].iter_mut().enumerate() {
        let step = if axis == 0 { 1 } else { map.element_strides[axis] };
        *extent = map.box_dims[axis].div_ceil(step);
    }
    let count: u32 = extents.iter().product();
    (extents, (count * map.element.bytes()) as usize)
}

/// For each element of the box: its byte in shared memory (at a multiple of 1024) and its byte in
/// the tensor, if it has one.
fn places(map: &TensorMap, coordinates: [i32; 5]) -> Vec<(usize, Option<usize>)> {
    let (extents, bytes) = extents(map);
    let size = map.element.bytes() as usize;
    let mut out = Vec::new();
    for index in 0..bytes / size {
        let (mut left, mut inside, mut at) = (index, true, 0i64);
        for axis in 0..map.rank {
            let step = left % extents[axis] as usize;
            left /= extents[axis] as usize;
            let skip = if axis == 0 { 1 } else { map.element_strides[axis] };
            let place = i64::from(coordinates[axis]) + step as i64 * i64::from(skip);
            inside &= place >= 0 && place < map.dims[axis] as i64;
            at += place * if axis == 0 { size as i64 } else { map.strides[axis - 1] as i64 };
        }
        let plain = index * size;
        let rows = map.swizzle.span() as usize / 16;
        let row = if rows == 0 { 0 } else { plain / 128 % rows };
        out.push((plain ^ row << 4, inside.then_some(at as usize)));
    }
    out
}

fn text(body: &str) -> String {
    format!(
        ".visible .entry k(.param .align 64 .b8 map[128], .param .u64 out) {{\n\
         .reg .pred %p<8>; .reg .b32 %r<20>; .reg .b64 %rd<10>; .reg .b32 %t;\n\
         .shared .align 1024 .b8 s[{OUT}]; .shared .align 8 .b64 bar;\n\
         mov.u32 %t, %tid.x; mov.b64 %rd1, map; cvta.param.u64 %rd1, %rd1; ld.param.u64 %rd2, [out];\n\
         {body}\nret;\n}}\n"
    )
}

fn vector(map: &TensorMap, coordinates: [i32; 5]) -> String {
    coordinates[..map.rank].iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
}

/// The box as shared memory holds it after a load.
fn load(bench: &mut Bench, map: &TensorMap, coordinates: [i32; 5]) -> Result<Vec<u8>, Error> {
    let (_, bytes) = extents(map);
    let body = format!(
        "setp.ne.u32 %p1, %t, 0; @%p1 bra wait;\n\
         mbarrier.init.shared::cta.b64 [bar], 1; fence.proxy.async.shared::cta;\n\
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {bytes};\n\
         cp.async.bulk.tensor.{}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
         [s], [%rd1, {{{}}}], [bar];\n\
         wait: bar.sync 0;\n\
         try: mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], 0; @!%p2 bra try;\n\
         mov.u32 %r1, %t;\n\
         copy: shl.b32 %r2, %r1, 2; mov.u32 %r3, s; add.u32 %r3, %r3, %r2; ld.shared.u32 %r4, [%r3];\n\
         cvt.u64.u32 %rd3, %r2; add.u64 %rd3, %rd3, %rd2; st.global.u32 [%rd3], %r4;\n\
         add.u32 %r1, %r1, 64; setp.lt.u32 %p3, %r1, {}; @%p3 bra copy;",
        map.rank,
        vector(map, coordinates),
        bytes / 4
    );
    launch(bench, map, &body)?;
    let mut out = vec![0; bytes];
    bench.device.read(bench.out, &mut out)?;
    Ok(out)
}

fn launch(bench: &mut Bench, map: &TensorMap, body: &str) -> Result<(), Error> {
    let module = module(&text(body))?;
    let config = LaunchConfig { block: [64, 1, 1], ..LaunchConfig::default() };
    let bytes = map.encode().map_err(|rule| panic!("{rule}: {map:?}")).unwrap_or([0; 128]);
    let args = [Arg::Bytes(bytes.to_vec()), Arg::U64(bench.out)];
    bench.device.launch(&module, "k", &config, &args).map(|_| ())
}

fn check_load(bench: &mut Bench, map: &TensorMap, coordinates: [i32; 5], fill: &[u8]) {
    let got = load(bench, map, coordinates).unwrap_or_else(|error| panic!("{map:?}: {error}"));
    let size = map.element.bytes() as usize;
    for (at, place) in places(map, coordinates) {
        let expected = match place {
            Some(place) => &bench.bytes[place..place + size],
            None => fill,
        };
        assert_eq!(&got[at..at + size], expected, "{map:?} at {coordinates:?}, byte {at}");
    }
}

#[test]
fn boxes_of_every_rank_are_loaded_with_their_edges() {
    let mut bench = bench(1 << 18);
    let dims = [40u64, 9, 7, 5, 3];
    let boxes = [16u32, 4, 3, 2, 2];
    for rank in 1..=5 {
        let map = map(bench.tensor, MapElement::U16, &dims[..rank], &boxes[..rank]);
        for coordinates in
            [[0; 5], [8, 2, 1, 1, 0], [32, 7, 6, 4, 2], [-8, -2, -1, -1, -1], [100, 0, 0, 0, 0]]
        {
            check_load(&mut bench, &map, coordinates, &[0, 0]);
        }
    }
}

#[test]
fn every_swizzle_and_element_size_lands_where_it_must() {
    let mut bench = bench(1 << 18);
    for element in [MapElement::U8, MapElement::Bf16, MapElement::F32, MapElement::F64] {
        let size = element.bytes();
        for (swizzle, span) in [
            (Swizzle::None, 128),
            (Swizzle::Bytes32, 32),
            (Swizzle::Bytes64, 64),
            (Swizzle::Bytes128, 128),
        ] {
            let mut map =
                map(bench.tensor, element, &[256 / u64::from(size), 64], &[span / size, 24]);
            map.swizzle = swizzle;
            check_load(
                &mut bench,
                &map,
                [(16 / size) as i32, 3, 0, 0, 0],
                &[0; 8][..size as usize],
            );
        }
    }
}

#[test]
fn outside_elements_may_be_nan_and_strides_skip_elements() {
    let mut bench = bench(1 << 16);
    let mut strided = map(bench.tensor, MapElement::F32, &[32, 40], &[32, 13]);
    strided.element_strides[1] = 3;
    check_load(&mut bench, &strided, [0, 4, 0, 0, 0], &[0; 4]);
    let mut filled = map(bench.tensor, MapElement::Bf16, &[32, 40], &[32, 8]);
    filled.fill_nan = true;
    check_load(&mut bench, &filled, [16, 36, 0, 0, 0], &[0xff, 0x7f]);
}

/// Stores (or reduces) a box of bytes 0, 3, 6, … and gives the tensor back.
fn store(
    bench: &mut Bench,
    map: &TensorMap,
    coordinates: [i32; 5],
    reduction: &str,
) -> Result<Vec<u8>, Error> {
    let opcode = match reduction {
        "" => format!("cp.async.bulk.tensor.{}d.global.shared::cta.tile.bulk_group", map.rank),
        operation => format!(
            "cp.reduce.async.bulk.tensor.{}d.global.shared::cta.{operation}.tile.bulk_group",
            map.rank
        ),
    };
    let body = format!(
        "mov.u32 %r1, %t;\n\
         fill: mul.lo.u32 %r2, %r1, 3; mov.u32 %r3, s; add.u32 %r3, %r3, %r1; st.shared.u8 [%r3], %r2;\n\
         add.u32 %r1, %r1, 64; setp.lt.u32 %p3, %r1, {}; @%p3 bra fill;\n\
         fence.proxy.async.shared::cta; bar.sync 0;\n\
         setp.ne.u32 %p1, %t, 0; @%p1 bra end;\n\
         {opcode} [%rd1, {{{}}}], [s];\n\
         cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;\nend:",
        extents(map).1,
        vector(map, coordinates)
    );
    launch(bench, map, &body)?;
    let mut out = vec![0; bench.bytes.len()];
    bench.device.read(bench.tensor, &mut out)?;
    Ok(out)
}

#[test]
fn stores_write_what_lies_inside_and_nothing_else() {
    for coordinates in [[4, 2, 0, 0, 0], [-3, -1, 0, 0, 0], [28, 38, 0, 0, 0], [0, 50, 0, 0, 0]] {
        let mut bench = bench(1 << 14);
        let mut map = map(bench.tensor, MapElement::U16, &[40, 40], &[32, 8]);
        map.swizzle = Swizzle::Bytes64;
        let got = store(&mut bench, &map, coordinates, "").expect("it runs");
        let mut expected = bench.bytes.clone();
        for (at, place) in places(&map, coordinates) {
            if let Some(place) = place {
                expected[place] = (at * 3) as u8;
                expected[place + 1] = ((at + 1) * 3) as u8;
            }
        }
        assert!(got == expected, "{coordinates:?}");
    }
}

#[test]
fn reductions_combine_elements() {
    for (operation, element, combine) in [
        ("add", MapElement::U32, (|a, b| a.wrapping_add(b)) as fn(u32, u32) -> u32),
        ("min", MapElement::S32, |a, b| (a as i32).min(b as i32) as u32),
        ("max", MapElement::U32, |a, b| a.max(b)),
        ("xor", MapElement::U32, |a, b| a ^ b),
    ] {
        let mut bench = bench(1 << 14);
        let map = map(bench.tensor, element, &[24, 24], &[16, 4]);
        let coordinates = [12, 22, 0, 0, 0];
        let got = store(&mut bench, &map, coordinates, operation).expect("it runs");
        let mut expected = bench.bytes.clone();
        for (at, place) in places(&map, coordinates) {
            if let Some(place) = place {
                let word = |index: usize| bench.bytes[place + index];
                let old = u32::from_le_bytes(std::array::from_fn(word));
                let value =
                    u32::from_le_bytes(std::array::from_fn(|index| ((at + index) * 3) as u8));
                expected[place..place + 4].copy_from_slice(&combine(old, value).to_le_bytes());
            }
        }
        assert!(got == expected, "{operation}");
    }
    let mut bench = bench(1 << 14);
    let map = map(bench.tensor, MapElement::F32, &[24, 24], &[16, 4]);
    let error = store(&mut bench, &map, [0; 5], "min").expect_err("float32 has no minimum");
    assert!(error.to_string().contains("no reduction"), "{error}");
}

#[test]
fn misuse_is_reported() {
    let mut bench = bench(1 << 12);
    let tensor = bench.tensor;
    // The map covers more than the allocation.
    let large = map(tensor, MapElement::U8, &[64, 1000], &[64, 8]);
    let error = load(&mut bench, &large, [0, 60, 0, 0, 0]).expect_err("it is outside");
    assert!(error.to_string().contains("past the end of `tensor`"), "{error}");
    // The instruction has another number of dimensions.
    let mut flat = map(tensor, MapElement::U8, &[64], &[64]);
    let body = "cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes \
                [s], [%rd1, {0, 0}], [bar];";
    let error = launch(&mut bench, &flat, body).expect_err("the ranks differ");
    assert!(error.to_string().contains("has 1 dimensions, the instruction 2"), "{error}");
    // The mbarrier was not initialised.
    let body = "cp.async.bulk.tensor.1d.shared::cta.global.mbarrier::complete_tx::bytes \
                [s], [%rd1, {0}], [bar];";
    let error = launch(&mut bench, &flat, body).expect_err("there is no mbarrier");
    assert!(error.to_string().contains("no mbarrier"), "{error}");
    // The destination is not a multiple of 128.
    let error = launch(&mut bench, &flat, &body.replace("[s]", "[s+64]")).expect_err("misaligned");
    assert!(error.to_string().contains("misaligned"), "{error}");
    // Not a map.
    let body = "cp.async.bulk.tensor.1d.shared::cta.global.mbarrier::complete_tx::bytes \
                [s], [%rd2, {0}], [bar];";
    let error = launch(&mut bench, &flat, body).expect_err("not a map");
    assert!(error.to_string().contains("tensor map"), "{error}");
    // A box larger than shared memory, of more bytes than 32 bits count.
    flat = map(tensor, MapElement::U8, &[64, 64, 64, 64, 64], &[256; 5]);
    let body = "cp.async.bulk.tensor.5d.shared::cta.global.mbarrier::complete_tx::bytes \
                [s], [%rd1, {0, 0, 0, 0, 0}], [bar];";
    let error = launch(&mut bench, &flat, body).expect_err("too large");
    assert!(error.to_string().contains("out of bounds"), "{error}");
}

#[test]
fn a_kernel_can_make_its_own_map() {
    let mut bench = bench(1 << 14);
    let ready = map(bench.tensor, MapElement::Bf16, &[40, 24], &[16, 8]);
    let (_, bytes) = extents(&ready);
    let tensor = bench.tensor;
    let body = format!(
        ".shared .align 128 .b8 m[128];\n\
         setp.ge.u32 %p1, %t, 32; @%p1 bra end;\n\
         shl.b32 %r1, %t, 2; mov.u32 %r2, m; add.u32 %r1, %r1, %r2; mov.u32 %r3, 0; st.shared.u32 [%r1], %r3;\n\
         bar.warp.sync -1; mov.b64 %rd4, {tensor};\n\
         setp.ne.u32 %p2, %t, 0; @%p2 bra made;\n\
         tensormap.replace.tile.global_address.shared::cta.b1024.b64 [m], %rd4;\n\
         tensormap.replace.tile.rank.shared::cta.b1024.b32 [m], 1;\n\
         tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [m], 0, 16;\n\
         tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [m], 1, 8;\n\
         tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [m], 0, 40;\n\
         tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [m], 1, 24;\n\
         mov.b64 %rd5, 80;\n\
         tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [m], 0, %rd5;\n\
         tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [m], 0, 1;\n\
         tensormap.replace.tile.element_stride.shared::cta.b1024.b32 [m], 1, 1;\n\
         tensormap.replace.tile.elemtype.shared::cta.b1024.b32 [m], 10;\n\
         tensormap.replace.tile.interleave_layout.shared::cta.b1024.b32 [m], 0;\n\
         tensormap.replace.tile.swizzle_mode.shared::cta.b1024.b32 [m], 0;\n\
         tensormap.replace.tile.fill_mode.shared::cta.b1024.b32 [m], 0;\n\
         made: bar.warp.sync -1; add.u64 %rd6, %rd2, 4096;\n\
         tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%rd6], [m], 128;\n\
         @%p2 bra end;\n\
         fence.proxy.tensormap::generic.acquire.gpu [%rd6], 128;\n\
         mbarrier.init.shared::cta.b64 [bar], 1;\n\
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {bytes};\n\
         cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [s], [%rd6, {{8, 20}}], [bar];\n\
         try: mbarrier.try_wait.parity.shared::cta.b64 %p3, [bar], 0; @!%p3 bra try;\n\
         cp.async.bulk.global.shared::cta.bulk_group [%rd2], [s], {bytes};\n\
         cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;\nend:"
    );
    launch(&mut bench, &ready, &body).expect("it runs");
    let mut got = vec![0; bytes];
    bench.device.read(bench.out, &mut got).expect("it is there");
    for (at, place) in places(&ready, [8, 20, 0, 0, 0]) {
        let expected = place.map_or(0, |place| bench.bytes[place]);
        assert_eq!(got[at], expected);
    }
}
