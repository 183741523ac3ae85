//! Matrix products of a warpgroup: every element type, layout, width and option, on small
//! integers, for which every order and rounding gives the same sums.

mod machine;

use machine::{block, kernel, run, words};
use moec_emulator::{Error, FaultKind};

/// One `wgmma.mma_async` and where its operands lie.
#[derive(Clone, Copy, Debug)]
struct Product {
    /// Types of A and B, and of D, as PTX names them.
    operand: &'static str,
    result: &'static str,
    columns: usize,
    /// Bytes of the swizzle pattern: 16 (none), 32, 64 or 128.
    span: usize,
    /// Whether A and B lie along their lines instead of along the depth.
    across: [bool; 2],
    a_in_registers: bool,
    negate: [bool; 2],
    adds: bool,
}

const PLAIN: Product = Product {
    operand: "bf16",
    result: "f32",
    columns: 64,
    span: 128,
    across: [false; 2],
    a_in_registers: false,
    negate: [false; 2],
    adds: true,
};

impl Product {
    fn size(&self) -> usize {
        match self.operand {
            "tf32" => 4,
            "bf16" | "f16" => 2,
            _ => 1,
        }
    }

    fn depth(&self) -> usize {
        32 / self.size()
    }

    /// The encoding of a small integer.
    fn encode(&self, value: i32) -> u32 {
        let bits = (value as f32).to_bits();
        let (sign, exponent) = (bits >> 31, (bits >> 23 & 0xff) as i32 - 127);
        let narrow = |bias: i32, fraction: u32| {
            let width = if bias == 15 { 5 } else { 4 };
            let magnitude = ((exponent + bias) as u32) << fraction
                | bits >> (23 - fraction) & ((1 << fraction) - 1);
            if value == 0 { 0 } else { sign << (width + fraction) | magnitude }
        };
        match self.operand {
            "tf32" => bits,
            "bf16" => bits >> 16,
            "f16" => narrow(15, 10),
            "e4m3" => narrow(7, 3),
            "e5m2" => narrow(15, 2),
            _ => value as u8 as u32,
        }
    }

    fn a(&self, row: usize, k: usize) -> i32 {
        ((row * 7 + k * 3) % 5) as i32 - if self.operand == "u8" { 0 } else { 2 }
    }

    fn b(&self, k: usize, column: usize) -> i32 {
        ((column * 5 + k * 11 + 1) % 7) as i32 - if self.operand == "u8" { 0 } else { 3 }
    }

    fn c(&self, row: usize, column: usize) -> i32 {
        ((row + 3 * column) % 9) as i32 - 4
    }
}

/// A matrix in shared memory: where it starts, its descriptor, and its image.
struct Image {
    start: usize,
    descriptor: u64,
    bytes: Vec<(usize, u32)>,
    end: usize,
}

/// Lays out `lines` by one instruction's depth, following the canonical layouts of PTX ISA
/// 9.7.15.5.1: atoms of 8 by `span` bytes, swizzled by their row.
fn lay_out(
    product: &Product,
    start: usize,
    lines: usize,
    across: bool,
    value: impl Fn(usize, usize) -> i32,
) -> Image {
    let (size, span) = (product.size(), product.span);
    // With room for a second step along the depth, take that one.
    let skip = if !across && span >= 64 { 32 } else { 0 };
    let per_span = span / size;
    let (leading, stride) = match (across, span) {
        // Core matrices of 8 by 16 bytes.
        (false, 16) => (lines / 8 * 128, 128),
        (false, _) => (16, 8 * span),
        (true, 16) => (128, 256),
        (true, _) => (product.depth() / 8 * 8 * span, 8 * span),
    };
    let mut bytes = Vec::new();
    let mut end = start;
    for line in 0..lines {
        for k in 0..product.depth() {
            let plain = match (across, span) {
                (false, 16) => {
                    let chunk = k / per_span;
                    line % 8 * 16 + line / 8 * stride + chunk * leading + k % per_span * size
                }
                (false, _) => line * span + skip + k * size,
                (true, 16) => {
                    let chunk = line / per_span;
                    k % 8 * 16 + k / 8 * leading + chunk * stride + line % per_span * size
                }
                (true, _) => {
                    let atom = line / per_span;
                    k % 8 * span + k / 8 * stride + atom * leading + line % per_span * size
                }
            };
            let row = (start + plain) / 128 % (span / 16);
            let at = (start + plain) ^ row << 4;
            bytes.push((at, product.encode(value(line, k))));
            end = end.max(at + size);
        }
    }
    let field = |bytes: usize| (bytes / 16) as u64;
    let mode = match span {
        16 => 0u64,
        32 => 3,
        64 => 2,
        _ => 1,
    };
    let descriptor = field(start + skip) | field(leading) << 16 | field(stride) << 32 | mode << 62;
    Image { start, descriptor, bytes, end }
}

/// Runs the product and compares every element.
fn check(product: Product) {
    let (d, text, x) = program(&product);
    let y = vec![0; 128 * d * 4];
    let out = run(&text, &block(128), &x, &y)
        .unwrap_or_else(|error| panic!("{product:?}: {error}\n{text}"));
    let out = words(&out);
    for row in 0..64 {
        for column in 0..product.columns {
            let sign = if product.negate[0] != product.negate[1] { -1 } else { 1 };
            let start = if product.adds { product.c(row, column) } else { 0 };
            let sum: i32 = (0..product.depth())
                .map(|k| sign * product.a(row, k) * product.b(k, column))
                .sum::<i32>()
                + start;
            let (warp, group, half) = (row / 16, row % 8, row / 8 % 2);
            let (lane, odd, block) = (4 * group + column % 8 / 2, column % 2, column / 8);
            let thread = 32 * warp + lane;
            let got = match product.result {
                "f16" => {
                    let word = out[thread * d + 2 * block + half] >> (16 * odd);
                    half_value(word as u16)
                }
                "s32" => out[thread * d + 4 * block + 2 * half + odd] as i32 as f32,
                _ => f32::from_bits(out[thread * d + 4 * block + 2 * half + odd]),
            };
            assert_eq!(got, sum as f32, "{product:?}, row {row}, column {column}");
        }
    }
}

fn half_value(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32()
}

/// Registers of D, the kernel, and its input.
fn program(product: &Product) -> (usize, String, Vec<u8>) {
    const BASE: usize = 1024;
    let a = lay_out(product, BASE, 64, product.across[0], |row, k| product.a(row, k));
    let b_start = a.end.next_multiple_of(1024);
    let b = lay_out(product, b_start, product.columns, product.across[1], |column, k| {
        product.b(k, column)
    });
    let shared = b.end.next_multiple_of(2048) - BASE;
    let mut image = vec![0u8; shared];
    for (at, bits) in a.bytes.iter().chain(&b.bytes) {
        image[at - BASE..][..product.size()].copy_from_slice(&bits.to_le_bytes()[..product.size()]);
    }
    assert_eq!((a.start, b.start), (BASE, b_start));
    let d = if product.result == "f16" { product.columns / 4 } else { product.columns / 2 };
    image.extend(c_words(product, d).iter().flat_map(|word| word.to_le_bytes()));
    image.extend(a_words(product).iter().flat_map(|word| word.to_le_bytes()));
    let list = |name: &str, count: usize| {
        (0..count).map(|index| format!("%{name}{index}")).collect::<Vec<_>>().join(", ")
    };
    let loads = |name: &str, count: usize, at: usize| -> String {
        (0..count)
            .map(|index| format!("ld.global.b32 %{name}{index}, [%rd3+{}];\n", at + 4 * index))
            .collect()
    };
    let stores: String =
        (0..d).map(|index| format!("st.global.b32 [%rd4+{}], %d{index};\n", 4 * index)).collect();
    let (operand, n, k) = (product.operand, product.columns, product.depth());
    let a_operand =
        if product.a_in_registers { format!("{{{}}}", list("a", 4)) } else { "%rd10".into() };
    let flags = |flags: &[bool]| -> String {
        flags.iter().map(|&flag| format!(", {}", i32::from(flag))).collect()
    };
    let factors: String =
        product.negate.iter().map(|&negate| if negate { ", -1" } else { ", 1" }).collect();
    let tail = match (product.size(), product.a_in_registers) {
        _ if product.result == "s32" => String::new(),
        (2, false) => factors + &flags(&product.across),
        (2, true) => factors + &flags(&product.across[1..]),
        _ => factors,
    };
    let body = format!(
        ".reg .b32 %d<{d}>; .reg .b32 %a<4>; .shared .align 1024 .b8 s[{shared}];\n\
         mov.u32 %r1, s; shl.b32 %r2, %t, 4; add.u32 %r3, %r1, %r2; add.u32 %r4, %r1, {shared};\n\
         cvt.u64.u32 %rd1, %r2; add.u64 %rd2, %x, %rd1;\n\
         copy: ld.global.v4.b32 {{%r5, %r6, %r7, %r8}}, [%rd2];\n\
         st.shared.v4.b32 [%r3], {{%r5, %r6, %r7, %r8}};\n\
         add.u32 %r3, %r3, 2048; add.u64 %rd2, %rd2, 2048;\n\
         setp.lt.u32 %p1, %r3, %r4; @%p1 bra copy;\n\
         mad.wide.u32 %rd3, %t, {c_bytes}, %x;\n{c_loads}\
         mad.wide.u32 %rd3, %t, 16, %x;\n{a_loads}\
         fence.proxy.async; bar.sync 0;\n\
         mov.b64 %rd10, 0x{a_desc:x}; mov.b64 %rd11, 0x{b_desc:x}; setp.eq.u32 %p2, 1, {adds};\n\
         wgmma.fence.sync.aligned;\n\
         wgmma.mma_async.sync.aligned.m64n{n}k{k}.{result}.{operand}.{operand} \
         {{{d_list}}}, {a_operand}, %rd11, %p2{tail};\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n\
         mad.wide.u32 %rd4, %t, {c_bytes}, %y;\n{stores}",
        c_bytes = 4 * d,
        c_loads = loads("d", d, shared),
        a_loads = loads("a", 4, shared + 128 * 4 * d),
        a_desc = a.descriptor,
        b_desc = b.descriptor,
        adds = u32::from(product.adds),
        result = product.result,
        d_list = list("d", d),
    );
    (d, kernel(&body), image)
}

/// Registers of C, thread by thread.
fn c_words(product: &Product, d: usize) -> Vec<u32> {
    let mut out = Vec::new();
    for thread in 0..128 {
        for index in 0..d {
            let line = thread / 32 * 16 + thread % 32 / 4;
            let member = 2 * (thread % 4);
            out.push(match product.result {
                "f16" => {
                    let at =
                        |odd| product.c(line + 8 * (index % 2), 8 * (index / 2) + member + odd);
                    let bits = |value: i32| u32::from(half::f16::from_f32(value as f32).to_bits());
                    bits(at(0)) | bits(at(1)) << 16
                }
                result => {
                    let row = line + 8 * (index / 2 % 2);
                    let value = product.c(row, 8 * (index / 4) + member + index % 2);
                    if result == "s32" { value as u32 } else { (value as f32).to_bits() }
                }
            });
        }
    }
    out
}

/// Registers of A, thread by thread.
fn a_words(product: &Product) -> Vec<u32> {
    let (size, count) = (product.size(), 4 / product.size());
    let mut out = Vec::new();
    for thread in 0..128 {
        for register in 0..4 {
            let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (register % 2);
            let word = (0..count).fold(0, |word, element| {
                let k = count * (thread % 4) + element + 4 * count * (register / 2);
                word | product.encode(product.a(row, k)) << (8 * size * element)
            });
            out.push(word);
        }
    }
    out
}

/// A program that multiplies what lies in registers and, with the 128-byte swizzle, in the first
/// `columns` rows of shared memory; `x` holds B's rows of 128 bytes, then per thread `words`.
fn with_a_in_registers(columns: usize, instruction: &str, words: usize) -> String {
    let d = columns / 2;
    let list: Vec<String> = (0..d).map(|index| format!("%d{index}")).collect();
    let instruction = instruction.replace("{D}", &format!("{{{}}}", list.join(", ")));
    let at = columns * 128;
    let mut body = format!(
        ".reg .b32 %d<{d}>; .reg .b32 %a<8>; .shared .align 1024 .b8 s[{at}];\n\
         mov.u32 %r1, %t;\n\
         fill: shl.b32 %r2, %r1, 4; cvt.u64.u32 %rd1, %r2; add.u64 %rd1, %rd1, %x;\n\
         ld.global.v4.b32 {{%r3, %r4, %r5, %r6}}, [%rd1];\n\
         shr.u32 %r7, %r2, 3; and.b32 %r7, %r7, 112; xor.b32 %r7, %r7, %r2;\n\
         mov.u32 %r8, s; add.u32 %r8, %r8, %r7; st.shared.v4.b32 [%r8], {{%r3, %r4, %r5, %r6}};\n\
         add.u32 %r1, %r1, 128; setp.lt.u32 %p1, %r1, {}; @%p1 bra fill;\n\
         mad.lo.u32 %r2, %t, {}, {at}; cvt.u64.u32 %rd1, %r2; add.u64 %rd1, %rd1, %x;\n",
        at / 16,
        4 * words,
    );
    for word in 0..words {
        body += &format!("ld.global.b32 %a{word}, [%rd1+{}];\n", 4 * word);
    }
    for index in 0..d {
        body += &format!("mov.b32 %d{index}, {index};\n");
    }
    body += &format!(
        "fence.proxy.async; bar.sync 0; mov.b64 %rd3, 0x4000004000010040; setp.eq.u32 %p2, 1, 1;\n\
         wgmma.fence.sync.aligned; {instruction}\n\
         wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n\
         mad.lo.u32 %r2, %t, {}, 0; cvt.u64.u32 %rd1, %r2; add.u64 %rd1, %rd1, %y;\n",
        4 * d
    );
    for index in 0..d {
        body += &format!("st.global.b32 [%rd1+{}], %d{index};\n", 4 * index);
    }
    kernel(&body)
}

/// Row and column of element `index` of a thread's accumulator.
fn place(thread: usize, index: usize) -> (usize, usize) {
    let lane = thread % 32;
    (
        thread / 32 * 16 + lane / 4 + 8 * (index / 2 % 2),
        8 * (index / 4) + 2 * (lane % 4) + index % 2,
    )
}

#[test]
fn single_bits_are_counted() {
    let columns = 32;
    let bit = |seed: usize, line: usize, k: usize| {
        (seed * 77 + line * 1009 + k * 9176 + line * k).wrapping_mul(2_654_435_761) >> 13 & 1
    };
    let text = with_a_in_registers(
        columns,
        "wgmma.mma_async.sync.aligned.m64n32k256.s32.b1.b1.and.popc \
         {D}, {%a0, %a1, %a2, %a3}, %rd3, %p2;",
        4,
    );
    let mut x = vec![0u8; columns * 128];
    for column in 0..columns {
        for k in 0..256 {
            x[column * 128 + k / 8] |= (bit(1, column, k) << (k % 8)) as u8;
        }
    }
    for thread in 0..128 {
        for register in 0..4 {
            let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (register % 2);
            let word = (0..32).fold(0u32, |word, i| {
                word | (bit(0, row, 32 * (thread % 4) + 128 * (register / 2) + i) as u32) << i
            });
            x.extend_from_slice(&word.to_le_bytes());
        }
    }
    let out = words(&run(&text, &block(128), &x, &vec![0; 128 * columns * 2]).unwrap());
    for thread in 0..128 {
        for index in 0..columns / 2 {
            let (row, column) = place(thread, index);
            let both = (0..256).filter(|&k| bit(0, row, k) & bit(1, column, k) == 1).count();
            assert_eq!(out[thread * columns / 2 + index], (both + index) as u32);
        }
    }
}

#[test]
fn a_sparse_a_meets_the_columns_that_metadata_names() {
    // Type, bytes of an element, dense depth, whether a row has words of metadata of its own.
    for (ty, size, depth, row_is_word, selector) in
        [("bf16", 2, 32, false, 0), ("bf16", 2, 32, false, 1), ("s8", 1, 64, true, 0)]
    {
        let columns = 64;
        let value = |seed: usize, line: usize, k: usize| {
            ((seed * 7 + line * 31 + k * 17 + line * k) % 9) as i32 - 4
        };
        let encode = |value: i32| match ty {
            "bf16" => (value as f32).to_bits() >> 16,
            _ => u32::from(value as u8),
        };
        let pairs = [0b0100, 0b1000, 0b1001, 0b1100, 0b1101, 0b1110];
        let nibble = |row: usize, chunk: usize| pairs[(row * 5 + chunk * 3 + row * chunk) % 6];
        let dense = |row: usize, stored: usize| {
            4 * (stored / 2) + (nibble(row, stored / 2) >> (2 * (stored % 2)) & 3)
        };
        let (d, tail) = if ty == "bf16" { ("f32", ", 1, 1, 0") } else { ("s32", "") };
        let text = with_a_in_registers(
            columns,
            &format!(
                "wgmma.mma_async.sp.sync.aligned.m64n64k{depth}.{d}.{ty}.{ty} \
                 {{D}}, {{%a0, %a1, %a2, %a3}}, %rd3, %a4, {selector}, %p2{tail};"
            ),
            5,
        );
        let mut x = vec![0u8; columns * 128];
        for column in 0..columns {
            for k in 0..depth {
                let bytes = encode(value(1, column, k)).to_le_bytes();
                let at = column * 128 + k * size;
                x[at..at + size].copy_from_slice(&bytes[..size]);
            }
        }
        let per_word = 4 / size;
        for thread in 0..128 {
            let (group, member) = (thread % 32 / 4, thread % 4);
            let warp_row = thread / 32 * 16;
            for register in 0..4 {
                let row = warp_row + group + 8 * (register % 2);
                let word = (0..per_word).fold(0, |word, element| {
                    let stored = per_word * (member + 4 * (register / 2)) + element;
                    word | encode(value(0, row, dense(row, stored))) << (8 * size * element)
                });
                x.extend_from_slice(&word.to_le_bytes());
            }
            let nibbles = |row: usize, first: usize, count: usize| {
                (0..count).fold(0u32, |all, i| {
                    all | (nibble(warp_row + row, first + i) as u32) << (4 * i)
                })
            };
            let metadata = match row_is_word {
                true => nibbles(group + 8 * (member % 2), 8 * (member / 2), 8),
                false if member / 2 == selector => {
                    let first = 4 * (member % 2);
                    nibbles(group, first, 4) | nibbles(group + 8, first, 4) << 16
                }
                false => 0x1234_5678,
            };
            x.extend_from_slice(&metadata.to_le_bytes());
        }
        let out = words(&run(&text, &block(128), &x, &vec![0; 128 * columns * 2]).unwrap());
        for thread in 0..128 {
            for index in 0..columns / 2 {
                let (row, column) = place(thread, index);
                let sum: i32 = (0..depth / 2)
                    .map(|stored| dense(row, stored))
                    .map(|k| value(0, row, k) * value(1, column, k))
                    .sum();
                let got = out[thread * columns / 2 + index];
                match ty {
                    // The accumulator starts at the bits `index`, a subnormal number.
                    "bf16" if sum == 0 => assert!(f32::from_bits(got).abs() < 1e-30),
                    "bf16" => {
                        assert_eq!(f32::from_bits(got), sum as f32, "row {row} column {column}")
                    }
                    _ => assert_eq!(got as i32, sum + index as i32, "row {row} column {column}"),
                }
            }
        }
    }
}

#[test]
fn every_type_gives_its_sums() {
    for (operand, result) in [
        ("bf16", "f32"),
        ("f16", "f32"),
        ("f16", "f16"),
        ("tf32", "f32"),
        ("e4m3", "f32"),
        ("e5m2", "f32"),
        ("e4m3", "f16"),
        ("s8", "s32"),
        ("u8", "s32"),
    ] {
        for a_in_registers in [false, true] {
            check(Product { operand, result, a_in_registers, ..PLAIN });
        }
    }
}

#[test]
fn every_width_exists() {
    for columns in (8..=256).step_by(8) {
        check(Product { columns, ..PLAIN });
        check(Product { columns, operand: "e4m3", ..PLAIN });
    }
    for columns in [8, 24, 32, 48, 208] {
        check(Product { columns, operand: "s8", result: "s32", ..PLAIN });
    }
}

#[test]
fn every_layout_is_read_in_place() {
    for span in [16, 32, 64, 128] {
        for operand in ["bf16", "tf32", "e4m3"] {
            check(Product { operand, span, ..PLAIN });
        }
        for across in [[true, false], [false, true], [true, true]] {
            check(Product { span, across, columns: 128, ..PLAIN });
        }
        check(Product {
            span,
            across: [false, true],
            a_in_registers: true,
            operand: "f16",
            ..PLAIN
        });
    }
}

#[test]
fn factors_and_scale_d_apply() {
    for negate in [[true, false], [false, true], [true, true]] {
        check(Product { negate, ..PLAIN });
        check(Product { negate, operand: "e5m2", a_in_registers: true, ..PLAIN });
    }
    check(Product { adds: false, ..PLAIN });
    check(Product { adds: false, operand: "s8", result: "s32", ..PLAIN });
}

/// The text of a product with `from` replaced.
fn changed(from: &str, to: &str) -> Result<Vec<u8>, Error> {
    let (d, text, x) = program(&PLAIN);
    assert!(text.contains(from), "{from}");
    run(&text.replace(from, to), &block(128), &x, &vec![0; 128 * d * 4])
}

#[test]
fn each_missing_fence_or_wait_is_reported() {
    for (from, to, rule) in [
        ("wgmma.fence.sync.aligned;", "", "before the first"),
        ("wgmma.wait_group.sync.aligned 0;", "", "wgmma.wait_group is missing"),
        ("wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;", "is missing"),
        ("wgmma.commit_group.sync.aligned;", "", "wgmma.wait_group is missing"),
        (
            "wgmma.fence.sync.aligned;",
            "wgmma.fence.sync.aligned; mov.b32 %d3, 0;",
            "since the last wgmma.fence",
        ),
    ] {
        match changed(from, to) {
            Err(Error::Fault(fault)) => {
                let text = fault.to_string();
                assert!(
                    matches!(fault.kind, FaultKind::Misuse(_)) && text.contains(rule),
                    "{text}"
                );
            }
            other => panic!("`{from}` -> `{to}`: {other:?}"),
        }
    }
}

#[test]
fn a_warpgroup_that_disagrees_is_reported() {
    let diverging = [
        // Warp 1 has another descriptor.
        (
            "wgmma.fence",
            "shr.u32 %r9, %t, 5; setp.eq.u32 %p3, %r9, 1; @%p3 add.u64 %rd11, %rd11, 64; wgmma.fence",
        ),
        // So has one lane.
        ("wgmma.fence", "setp.eq.u32 %p3, %t, 7; @%p3 add.u64 %rd10, %rd10, 64; wgmma.fence"),
        // One warp does not add.
        ("wgmma.fence", "setp.lt.u32 %p2, %t, 96; wgmma.fence"),
    ];
    for (from, to) in &diverging {
        let result = changed(from, to);
        assert!(
            matches!(&result, Err(Error::Fault(fault)) if matches!(fault.kind, FaultKind::Misuse(_))),
            "{to}: {result:?}"
        );
    }
    // A warp that never comes is a deadlock that names the others.
    let result = changed("wgmma.fence", "setp.ge.u32 %p3, %t, 96; @%p3 ret; wgmma.fence");
    match result {
        Err(Error::Deadlock { waits, .. }) => {
            assert!(waits.contains("3 of 4 have come"), "{waits}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn shapes_and_types_that_do_not_exist_are_refused_when_loaded() {
    for (from, to) in [
        ("m64n64k16", "m64n60k16"),
        ("m64n64k16", "m64n64k32"),
        ("m64n64k16", "m64n264k16"),
        (".f32.bf16.bf16", ".f32.bf16.f16"),
        (".f32.bf16.bf16", ".f16.bf16.bf16"),
        (", 1, 1, 0, 0;", ", 1, 2, 0, 0;"),
        (", 1, 1, 0, 0;", ", 1, 1, 0;"),
    ] {
        let result = changed(from, to);
        assert!(
            matches!(result, Err(Error::Parse { .. } | Error::Unsupported { .. })),
            "{to}: {result:?}"
        );
    }
}

#[test]
fn matrices_outside_shared_memory_are_reported() {
    let result = changed("wgmma.fence", "mov.b64 %rd11, 0x4000004000013fc0; wgmma.fence");
    match result {
        Err(Error::Fault(fault)) => assert!(fault.to_string().contains("shared memory of the CTA")),
        other => panic!("{other:?}"),
    }
}
