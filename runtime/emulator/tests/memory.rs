//! Loads, stores, address spaces and atomics.

mod machine;

use half::bf16;
use machine::{block, kernel, run, words};
use moec_emulator::LaunchConfig;

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn vectors_of_all_widths_go_through() {
    let x: Vec<u8> = (0..=255).cycle().take(1024).collect();
    for (ty, lanes, regs, step) in [
        ("b8", 4, "{%h1,%h2,%h3,%h4}", 4),
        ("b16", 2, "{%h1,%h2}", 4),
        ("b32", 2, "{%r1,%r2}", 8),
        ("b32", 4, "{%r1,%r2,%r3,%r4}", 16),
        ("b64", 2, "{%rd1,%rd2}", 16),
    ] {
        // Lane l copies element 31 - l as well as its own: one pass is coalesced, one is not.
        let text = kernel(&format!(
            "mad.wide.u32 %rd10, %t, {step}, %x; mad.wide.u32 %rd11, %t, {step}, %y;\n\
             ld.global.v{lanes}.{ty} {regs}, [%rd10]; st.global.v{lanes}.{ty} [%rd11], {regs};\n\
             xor.b32 %r10, %t, 31; mad.wide.u32 %rd10, %r10, {step}, %x;\n\
             ld.global.nc.L1::no_allocate.v{lanes}.{ty} {regs}, [%rd10];\n\
             mad.wide.u32 %rd11, %r10, {step}, %y;\n\
             st.global.v{lanes}.{ty} [%rd11+{}], {regs};",
            32 * step
        ));
        let size = 32 * step as usize;
        let out = run(&text, &block(32), &x, &vec![0; 2 * size]).expect("it runs");
        assert_eq!(out[..size], x[..size], "{ty} x {lanes}");
        assert_eq!(out[size..], x[..size], "{ty} x {lanes}, reversed");
    }
}

#[test]
fn narrow_loads_extend_into_wider_registers() {
    let text = kernel(
        "ld.global.s8 %r1, [%x]; ld.global.u8 %r2, [%x]; ld.global.s16 %rd1, [%x];\n\
         ld.global.s32 %rd2, [%x]; ld.global.s8 %h1, [%x]; cvt.u32.u16 %r3, %h1;\n\
         st.global.u32 [%y], %r1; st.global.u32 [%y+4], %r2; st.global.u64 [%y+8], %rd1;\n\
         st.global.u64 [%y+16], %rd2; st.global.u32 [%y+24], %r3; st.global.u8 [%y+28], %r1;",
    );
    let out = run(&text, &block(1), &bytes(&[0xffff_fff0]), &[0; 32]).expect("it runs");
    let minus = 0xffff_fff0;
    let expected = [minus, 0xf0, minus, u32::MAX, minus, u32::MAX, 0xfff0, 0xf0];
    assert_eq!(words(&out), expected);
}

#[test]
fn shared_memory_is_the_ctas_own_and_starts_at_zero() {
    let text = format!(
        ".shared .align 16 .b8 tile[128];\n.extern .shared .align 16 .b8 rest[];\n{}",
        kernel(
            "mov.u32 %r1, tile; shl.b32 %r2, %t, 2; add.u32 %r3, %r1, %r2;\n\
             ld.shared.u32 %r9, [%r3]; st.shared.u32 [%r3], %t; bar.sync 0;\n\
             xor.b32 %r4, %t, 1; shl.b32 %r4, %r4, 2; mov.u32 %r5, tile; add.u32 %r5, %r5, %r4;\n\
             cvt.u64.u32 %rd1, %r5; cvta.shared.u64 %rd2, %rd1; isspacep.shared %p1, %rd2;\n\
             selp.u32 %r6, 100, 0, %p1; ld.u32 %r7, [%rd2]; add.u32 %r7, %r7, %r6;\n\
             add.u32 %r7, %r7, %r9; mov.u32 %r8, rest; add.u32 %r8, %r8, %r2;\n\
             st.shared.u32 [%r8], %r7; ld.shared.u32 %r7, [%r8];\n\
             mov.u32 %r10, %ctaid.x; mad.lo.u32 %r10, %r10, 32, %t;\n\
             mad.wide.u32 %rd3, %r10, 4, %y; st.global.u32 [%rd3], %r7;",
        )
    );
    let config = LaunchConfig { grid: [2, 1, 1], dynamic_shared_bytes: 128, ..block(32) };
    let out = run(&text, &config, &[0; 4], &[0; 256]).expect("it runs");
    let expected: Vec<u32> = (0..64).map(|index| 100 + ((index % 32) ^ 1)).collect();
    assert_eq!(words(&out), expected);
}

#[test]
fn local_memory_and_parameters_have_addresses() {
    let text = kernel(
        ".local .align 8 .b8 stack[16];\n\
         mov.b64 %rd1, stack; cvta.local.u64 %rd2, %rd1; isspacep.local %p1, %rd2;\n\
         st.u32 [%rd2+4], %t; ld.local.u32 %r1, [%rd1+4]; add.u32 %r1, %r1, 5;\n\
         mov.b64 %rd3, x; cvta.param.u64 %rd4, %rd3; ld.u64 %rd5, [%rd4]; sub.u64 %rd5, %rd5, %x;\n\
         cvt.u32.u64 %r2, %rd5; add.u32 %r1, %r1, %r2; @!%p1 mov.u32 %r1, 0;\n\
         mad.wide.u32 %rd6, %t, 4, %y; st.global.u32 [%rd6], %r1;",
    );
    let out = run(&text, &block(32), &[0; 4], &[0; 128]).expect("it runs");
    assert_eq!(words(&out), (5..37).collect::<Vec<u32>>());
}

#[test]
fn module_variables_have_their_initial_values() {
    let text = format!(
        ".global .align 4 .u32 list[3] = {{7, 8, 9}};\n\
         .const .align 4 .f32 half = 0f3F000000;\n\
         .global .u64 pointer = list;\n.global .u64 inner = generic(list)+8;\n{}",
        kernel(
            "ld.global.u64 %rd1, [pointer]; ld.global.u32 %r1, [%rd1+4];\n\
             ld.const.f32 %r2, [half]; ld.global.u64 %rd2, [inner]; ld.u32 %r3, [%rd2];\n\
             ld.global.u32 %r4, [list+8];\n\
             st.global.v4.u32 [%y], {%r1, %r2, %r3, %r4};",
        )
    );
    let out = run(&text, &block(1), &[0; 4], &[0; 16]).expect("it runs");
    assert_eq!(words(&out), [8, 0x3f00_0000, 9, 9]);
}

#[test]
fn atomics_return_the_old_value_and_count_every_lane() {
    let text = kernel(
        "atom.global.add.u32 %r1, [%y], 1; mad.wide.u32 %rd1, %t, 4, %y;\n\
         st.global.u32 [%rd1+16], %r1; red.global.gpu.relaxed.max.s32 [%y+4], %t;\n\
         atom.global.sys.release.exch.b32 %r2, [%y+8], %t;\n\
         atom.acquire.gpu.global.cas.b32 %r3, [%y+12], 0, 77;",
    );
    let out = words(&run(&text, &block(64), &[0; 4], &[0; 272]).expect("it runs"));
    assert_eq!(out[0], 64);
    assert_eq!(out[1], 63);
    assert!(out[2] < 64);
    assert_eq!(out[3], 77);
    let mut seen = out[4..].to_vec();
    seen.sort_unstable();
    assert_eq!(seen, (0..64).collect::<Vec<u32>>());
}

#[test]
fn atomics_on_floats_and_vectors_round_per_operation() {
    let text = kernel(
        "mov.b32 %r1, 0f3F800000; atom.global.add.f32 %r2, [%y], %r1;\n\
         mov.b32 %r3, 0x40003f80; red.global.add.noftz.bf16x2 [%y+4], %r3;\n\
         red.global.gpu.relaxed.add.v4.f32 [%y+16], {%r1, %r1, %r1, %r1};\n\
         mov.b64 %rd1, 0d3FF0000000000000; red.global.add.f64 [%y+8], %rd1;",
    );
    let out = run(&text, &block(32), &[0; 4], &[0; 32]).expect("it runs");
    let list = words(&out);
    assert_eq!(f32::from_bits(list[0]), 32.0);
    assert_eq!(f32::from(bf16::from_bits(list[1] as u16)), 32.0);
    assert_eq!(f32::from(bf16::from_bits((list[1] >> 16) as u16)), 64.0);
    assert_eq!(f64::from_le_bytes(out[8..16].try_into().unwrap()), 32.0);
    assert_eq!(list[4..], [32f32.to_bits(); 4]);
}

#[test]
fn asynchronous_copies_fill_with_zeros() {
    let text = format!(
        ".shared .align 16 .b8 tile[512];\n{}",
        kernel(
            "mov.u32 %r1, tile; mad.lo.u32 %r2, %t, 16, %r1; mad.wide.u32 %rd1, %t, 16, %x;\n\
             setp.lt.u32 %p1, %t, 8; selp.u32 %r3, 16, 4, %p1;\n\
             cp.async.cg.shared.global.L2::128B [%r2], [%rd1], 16, %r3;\n\
             cp.async.commit_group; cp.async.wait_group 0; bar.warp.sync -1;\n\
             ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r2]; mad.wide.u32 %rd2, %t, 16, %y;\n\
             st.global.v4.u32 [%rd2], {%r4, %r5, %r6, %r7};",
        )
    );
    let x: Vec<u32> = (1..129).collect();
    let out = words(&run(&text, &block(32), &bytes(&x), &[0xff; 512]).expect("it runs"));
    for lane in 0..32 {
        let first = 4 * lane as u32 + 1;
        let rest = if lane < 8 { [first + 1, first + 2, first + 3] } else { [0; 3] };
        assert_eq!(out[4 * lane], first);
        assert_eq!(out[4 * lane + 1..4 * lane + 4], rest, "lane {lane}");
    }
}
