//! Integer arithmetic and bit operations against first principles.

mod machine;

use machine::{lanes32, lanes64, one32, one64};

/// Values where carries, signs and shifts go wrong.
const EDGES: [u32; 10] =
    [0, 1, 2, 31, 32, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1234_5678, 0xdead_beef];

fn pairs() -> Vec<[u32; 3]> {
    EDGES.iter().flat_map(|&a| EDGES.map(|b| [a, b, a ^ b.rotate_left(7)])).collect()
}

fn check32(body: &str, expected: impl Fn(u32, u32, u32) -> u32) {
    let inputs = pairs();
    for (out, [a, b, c]) in lanes32(body, &inputs).into_iter().zip(&inputs) {
        assert_eq!(out, expected(*a, *b, *c), "{body} on {a:#x}, {b:#x}, {c:#x}");
    }
}

fn check64(body: &str, expected: impl Fn(u64, u64, u64) -> u64) {
    let wide = |a: u32, b: u32| u64::from(a) << 32 | u64::from(b);
    let inputs: Vec<[u64; 3]> =
        pairs().iter().map(|&[a, b, c]| [wide(a, b), wide(b, c), wide(c, a)]).collect();
    for (out, [a, b, c]) in lanes64(body, &inputs).into_iter().zip(&inputs) {
        assert_eq!(out, expected(*a, *b, *c), "{body} on {a:#x}, {b:#x}, {c:#x}");
    }
}

#[test]
fn sums_and_products_wrap() {
    check32("add.u32 %d, %a, %b;", |a, b, _| a.wrapping_add(b));
    check32("sub.s32 %d, %a, %b;", |a, b, _| a.wrapping_sub(b));
    check32("mul.lo.u32 %d, %a, %b;", |a, b, _| a.wrapping_mul(b));
    check32("mad.lo.s32 %d, %a, %b, %c;", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check64("mad.lo.u64 %d, %a, %b, %c;", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
}

#[test]
fn high_halves_of_products_keep_the_sign() {
    check32("mul.hi.u32 %d, %a, %b;", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    check32("mul.hi.s32 %d, %a, %b;", |a, b, _| {
        ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
    });
    check64("mul.hi.s64 %d, %a, %b;", |a, b, _| {
        ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
    });
}

#[test]
fn wide_products_have_twice_the_bits() {
    let body = "cvt.u32.u64 %r1, %a; cvt.u32.u64 %r2, %b; mad.wide.s32 %d, %r1, %r2, %c;";
    check64(body, |a, b, c| {
        (i64::from(a as i32) * i64::from(b as i32)).wrapping_add(c as i64) as u64
    });
}

#[test]
fn saturation_stops_at_the_ends() {
    check32("add.sat.s32 %d, %a, %b;", |a, b, _| (a as i32).saturating_add(b as i32) as u32);
    check32("sub.sat.s32 %d, %a, %b;", |a, b, _| (a as i32).saturating_sub(b as i32) as u32);
}

#[test]
fn quotients_truncate_and_division_by_zero_is_harmless() {
    check32("div.s32 %d, %a, %b;", |a, b, _| {
        if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }
    });
    check32("rem.u32 %d, %a, %b;", |a, b, _| if b == 0 { a } else { a % b });
}

#[test]
fn order_respects_the_sign() {
    check32("min.s32 %d, %a, %b;", |a, b, _| (a as i32).min(b as i32) as u32);
    check32("max.u32 %d, %a, %b;", |a, b, _| a.max(b));
    check32("abs.s32 %d, %a;", |a, _, _| (a as i32).wrapping_abs() as u32);
    check32("sad.s32 %d, %a, %b, %c;", |a, b, c| c.wrapping_add((a as i32).abs_diff(b as i32)));
}

#[test]
fn narrow_types_use_their_own_width() {
    let body = "cvt.u16.u32 %h1, %a; cvt.u16.u32 %h2, %b;\n\
                mul.wide.s16 %d, %h1, %h2;";
    check32(body, |a, b, _| (i32::from(a as i16) * i32::from(b as i16)) as u32);
    let body = "cvt.u16.u32 %h1, %a; cvt.u16.u32 %h2, %b;\n\
                add.s16 %h3, %h1, %h2; cvt.u32.u16 %d, %h3;";
    check32(body, |a, b, _| u32::from((a as u16).wrapping_add(b as u16)));
    let body = "cvt.u16.u32 %h1, %a; shr.s16 %h2, %h1, %b; cvt.s32.s16 %d, %h2;";
    check32(body, |a, b, _| i32::from((a as i16) >> b.min(15)) as u32);
}

#[test]
fn shifts_clamp_at_the_width() {
    check32("shl.b32 %d, %a, %b;", |a, b, _| a.checked_shl(b).unwrap_or(0));
    check32("shr.u32 %d, %a, %b;", |a, b, _| a.checked_shr(b).unwrap_or(0));
    check32("shr.s32 %d, %a, %b;", |a, b, _| ((a as i32) >> b.min(31)) as u32);
}

#[test]
fn funnel_shifts_take_the_pair() {
    let pair = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
    check32("shf.l.wrap.b32 %d, %a, %b, %c;", |a, b, c| (pair(a, b) << (c & 31) >> 32) as u32);
    check32("shf.r.clamp.b32 %d, %a, %b, %c;", |a, b, c| (pair(a, b) >> c.min(32)) as u32);
}

#[test]
fn logic_follows_its_table() {
    check32("lop3.b32 %d, %a, %b, %c, 0x96;", |a, b, c| a ^ b ^ c);
    check32("lop3.b32 %d, %a, %b, %c, 0xca;", |a, b, c| (a & b) | (!a & c));
    check32("not.b32 %d, %a;", |a, _, _| !a);
    check32("cnot.b32 %d, %a;", |a, _, _| u32::from(a == 0));
}

#[test]
fn bit_fields_are_cut_and_put() {
    check32("bfe.u32 %d, %a, 4, 8;", |a, _, _| a >> 4 & 0xff);
    check32("bfe.s32 %d, %a, 4, 8;", |a, _, _| (((a >> 4) as i8) as i32) as u32);
    check32("bfe.s32 %d, %a, 28, 16;", |a, _, _| ((a as i32) >> 28) as u32);
    check32("bfe.s32 %d, %a, 3, 0;", |_, _, _| 0);
    check32("bfi.b32 %d, %a, %b, 8, 12;", |a, b, _| b & !0xfff00 | a << 8 & 0xfff00);
    check32("bfi.b32 %d, %a, %b, 40, 12;", |_, b, _| b);
}

#[test]
fn counting_and_finding() {
    check32("popc.b32 %d, %a;", |a, _, _| a.count_ones());
    check32("clz.b32 %d, %a;", |a, _, _| a.leading_zeros());
    check32("brev.b32 %d, %a;", |a, _, _| a.reverse_bits());
    check32("bfind.u32 %d, %a;", |a, _, _| a.checked_ilog2().unwrap_or(u32::MAX));
    check32("bfind.s32 %d, %a;", |a, _, _| {
        let a = if (a as i32) < 0 { !a } else { a };
        a.checked_ilog2().unwrap_or(u32::MAX)
    });
}

#[test]
fn bytes_are_permuted() {
    assert_eq!(one32("prmt.b32 %d, %a, %b, %c;", 0x3322_1100, 0x7766_5544, 0x7410), 0x7744_1100);
    // Bit 3 of a selector replicates the byte's sign.
    assert_eq!(one32("prmt.b32 %d, %a, %b, %c;", 0x0000_80ff, 0, 0x1198), 0x8080_ffff);
    assert_eq!(one32("prmt.b32.f4e %d, %a, %b, %c;", 0x3322_1100, 0x7766_5544, 1), 0x4433_2211);
    assert_eq!(one32("prmt.b32.rc8 %d, %a, %b, %c;", 0x3322_1100, 0, 2), 0x2222_2222);
}

#[test]
fn dot_products_of_bytes_add_up() {
    assert_eq!(one32("dp4a.s32.s32 %d, %a, %b, %c;", 0xff02_0304, 0x0101_01ff, 10), 10);
    assert_eq!(one32("dp4a.u32.u32 %d, %a, %b, %c;", 0xff02_0304, 0x0101_01ff, 0), 1280);
    assert_eq!(one32("dp2a.lo.u32.u32 %d, %a, %b, %c;", 0x0002_0003, 0x0005_0706, 1), 33);
}

#[test]
fn carries_chain_through_128_bits() {
    let body = "cvt.u32.u64 %r1, %a; cvt.u32.u64 %r2, %b;\n\
                shr.u64 %rd1, %a, 32; shr.u64 %rd2, %b, 32;\n\
                cvt.u32.u64 %r3, %rd1; cvt.u32.u64 %r4, %rd2;\n\
                add.cc.u32 %r5, %r1, %r2; addc.u32 %r6, %r3, %r4; mov.b64 %d, {%r5, %r6};";
    check64(body, |a, b, _| a.wrapping_add(b));
    let body = "cvt.u32.u64 %r1, %a; cvt.u32.u64 %r2, %b;\n\
                shr.u64 %rd1, %a, 32; shr.u64 %rd2, %b, 32;\n\
                cvt.u32.u64 %r3, %rd1; cvt.u32.u64 %r4, %rd2;\n\
                sub.cc.u32 %r5, %r1, %r2; subc.u32 %r6, %r3, %r4; mov.b64 %d, {%r5, %r6};";
    check64(body, |a, b, _| a.wrapping_sub(b));
}

#[test]
fn the_carry_of_a_subtraction_is_set_where_nothing_was_borrowed() {
    let body = "sub.cc.u32 %r1, %a, %b; addc.u32 %d, 0, 0;";
    assert_eq!(one32(body, 5, 3, 0), 1);
    assert_eq!(one32(body, 3, 5, 0), 0);
}

#[test]
fn selections_and_comparisons() {
    let body = "setp.lt.s32 %p1, %a, %b; selp.b32 %d, %a, %b, %p1;";
    check32(body, |a, b, _| (a as i32).min(b as i32) as u32);
    let body = "setp.lo.u32 %p2, %b, %c; setp.eq.and.u32 %p1|%p3, %a, %b, !%p2;\n\
                selp.u32 %r1, 1, 0, %p1; selp.u32 %r2, 2, 0, %p3; or.b32 %d, %r1, %r2;";
    check32(body, |a, b, c| {
        let with = b >= c;
        u32::from(a == b && with) | u32::from(a != b && with) << 1
    });
    check32(
        "set.ge.u32.s32 %d, %a, %b;",
        |a, b, _| {
            if a as i32 >= b as i32 { u32::MAX } else { 0 }
        },
    );
    check32("slct.u32.s32 %d, %a, %b, %c;", |a, b, c| if c as i32 >= 0 { a } else { b });
    assert_eq!(one64("selp.b64 %d, %a, %b, 1;", 7, 9, 0), 7);
}

#[test]
fn packed_integers_keep_their_halves_apart() {
    fn halves(a: u32, b: u32, op: impl Fn(i16, i16) -> i16) -> u32 {
        let half = |at: u32| u32::from(op((a >> at) as i16, (b >> at) as i16) as u16) << at;
        half(0) | half(16)
    }
    check32("add.u16x2 %d, %a, %b;", |a, b, _| halves(a, b, i16::wrapping_add));
    check32("add.s16x2 %d, %a, %b;", |a, b, _| halves(a, b, i16::wrapping_add));
    check32("min.s16x2 %d, %a, %b;", |a, b, _| halves(a, b, i16::min));
    check32("max.s16x2 %d, %a, %b;", |a, b, _| halves(a, b, i16::max));
    let unsigned = |a: i16, b: i16| (a as u16).max(b as u16) as i16;
    check32("max.u16x2 %d, %a, %b;", |a, b, _| halves(a, b, unsigned));
    let unsigned = |a: i16, b: i16| (a as u16).min(b as u16) as i16;
    check32("min.u16x2 %d, %a, %b;", |a, b, _| halves(a, b, unsigned));
    check32("max.relu.s16x2 %d, %a, %b;", |a, b, _| halves(a, b, |a, b| a.max(b).max(0)));
    check32("min.relu.s16x2 %d, %a, %b;", |a, b, _| halves(a, b, |a, b| a.min(b).max(0)));
    check32("max.relu.s32 %d, %a, %b;", |a, b, _| (a as i32).max(b as i32).max(0) as u32);
    check32("min.relu.s32 %d, %a, %b;", |a, b, _| (a as i32).min(b as i32).max(0) as u32);
}

#[test]
fn lop3_tests_its_result_beside_a_predicate() {
    for (combine, with) in [("and", "%p1"), ("or", "%p1"), ("and", "!%p1"), ("or", "!%p1")] {
        let body = format!(
            "setp.gt.s32 %p1, %c, 0; lop3.{combine}.b32 %r1|%p1, %a, %b, %c, 0x80, {with};\n\
             selp.b32 %d, 0xffffffff, 0, %p1; lop3.{combine}.b32 _|%p2, %a, %b, %c, 0x80, 0;"
        );
        check32(&body, |a, b, c| {
            let with = (c as i32 > 0) != with.starts_with('!');
            let is_set = a & b & c != 0;
            let result = if combine == "and" { is_set && with } else { is_set || with };
            if result { u32::MAX } else { 0 }
        });
    }
}

#[test]
fn fns_finds_the_nth_set_bit_from_a_place() {
    let find = |mask, base, n: i32| one32("fns.b32 %d, %a, %b, %c;", mask, base, n as u32);
    assert_eq!(find(0b1011_0100, 0, 1), 2);
    assert_eq!(find(0b1011_0100, 2, 1), 2);
    assert_eq!(find(0b1011_0100, 3, 2), 5);
    assert_eq!(find(0b1011_0100, 7, -3), 4);
    assert_eq!(find(0b1011_0100, 4, 0), 4);
    assert_eq!(find(0b1011_0100, 3, 0), u32::MAX);
    assert_eq!(find(0b1011_0100, 0, 5), u32::MAX);
    assert_eq!(find(0b1011_0100, 1, -1), u32::MAX);
    assert_eq!(find(u32::MAX, 31, -32), 0);
}
