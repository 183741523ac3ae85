//! Divergence, calls, barriers and exchange between lanes.

mod machine;

use machine::{block, kernel, lanes32, run, words};
use moec_emulator::LaunchConfig;

fn tids(count: u32) -> Vec<[u32; 3]> {
    (0..count).map(|lane| [lane, 0, 0]).collect()
}

#[test]
fn nested_branches_meet_again() {
    let body = "mov.u32 %d, 0; and.b32 %r1, %a, 1; setp.eq.u32 %p1, %r1, 0; @%p1 bra EVEN;\n\
                and.b32 %r1, %a, 2; setp.eq.u32 %p2, %r1, 0; @%p2 bra INNER;\n\
                add.u32 %d, %d, 10; bra OUT;\nINNER: add.u32 %d, %d, 20;\n\
                OUT: activemask.b32 %r2; popc.b32 %r2, %r2; add.u32 %d, %d, %r2; bra END;\n\
                EVEN: add.u32 %d, %d, 100;\nEND: activemask.b32 %r2; popc.b32 %r2, %r2;\n\
                mul.lo.u32 %r2, %r2, 1000; add.u32 %d, %d, %r2;";
    for (lane, out) in lanes32(body, &tids(32)).into_iter().enumerate() {
        // 16 odd lanes meet at OUT, all 32 at END.
        let inner = [100, 36, 100, 26][lane % 4];
        assert_eq!(out, 32_000 + inner, "lane {lane}");
    }
}

#[test]
fn loops_with_trip_counts_of_their_own() {
    let body = "mov.u32 %d, 0; mov.u32 %r1, 0;\nL: setp.ge.u32 %p1, %r1, %a; @%p1 bra E;\n\
                add.u32 %d, %d, %r1; add.u32 %r1, %r1, 1; bra L;\n\
                E: activemask.b32 %r2; popc.b32 %r2, %r2; mad.lo.u32 %d, %r2, 1000, %d;";
    for (lane, out) in (0..32u32).zip(lanes32(body, &tids(32))) {
        assert_eq!(out, 32_000 + lane * lane.saturating_sub(1) / 2);
    }
}

#[test]
fn a_jump_table_sends_each_lane_to_its_target() {
    let body = "and.b32 %r1, %a, 3; ts: .branchtargets A, B, C, A;\nbrx.idx %r1, ts;\n\
                A: mov.u32 %d, 1; bra E;\nB: mov.u32 %d, 2; bra E;\nC: mov.u32 %d, 3;\nE:";
    let expected: Vec<u32> = (0..32).map(|lane| [1, 2, 3, 1][lane % 4]).collect();
    assert_eq!(lanes32(body, &tids(32)), expected);
}

#[test]
fn labels_and_registers_belong_to_their_scope() {
    let body = "mov.u32 %d, %a;\n\
                { .reg .b32 %q; .reg .pred p; mov.u32 %q, 0;\nwait: add.u32 %q, %q, 1; setp.lt.u32 p, %q, 3;\n\
                @p bra wait; add.u32 %d, %d, %q; }\n\
                { .reg .b32 %q; .reg .pred p; mov.u32 %q, 0;\nwait: add.u32 %q, %q, 1; setp.lt.u32 p, %q, 5;\n\
                @p bra wait; add.u32 %d, %d, %q; }";
    assert_eq!(lanes32(body, &tids(32)), (8..40).collect::<Vec<u32>>());
}

#[test]
fn functions_recurse_with_frames_of_their_own() {
    let text = format!(
        ".func (.param .b32 out) fib(.param .b32 n);\n\
         .func (.param .b32 out) fib(.param .b32 n) {{\n\
         .reg .b32 %r<8>; .reg .pred %p<2>;\n\
         ld.param.b32 %r1, [n]; setp.lt.u32 %p1, %r1, 2; @%p1 bra DONE;\n\
         sub.u32 %r2, %r1, 1; sub.u32 %r3, %r1, 2;\n\
         {{ .param .b32 a; .param .b32 r; st.param.b32 [a], %r2; call.uni (r), fib, (a);\n\
            ld.param.b32 %r4, [r]; }}\n\
         {{ .param .b32 a; .param .b32 r; st.param.b32 [a], %r3; call.uni (r), fib, (a);\n\
            ld.param.b32 %r5, [r]; }}\n\
         add.u32 %r1, %r4, %r5;\nDONE: st.param.b32 [out], %r1; ret; }}\n{}",
        kernel(
            "and.b32 %r1, %t, 15;\n\
             { .param .b32 a; .param .b32 r; st.param.b32 [a], %r1; call (r), fib, (a);\n\
               ld.param.b32 %r2, [r]; }\n\
             activemask.b32 %r3; popc.b32 %r3, %r3; mad.lo.u32 %r2, %r3, 100000, %r2;\n\
             mad.wide.u32 %rd1, %t, 4, %y; st.global.u32 [%rd1], %r2;",
        )
    );
    let out = words(&run(&text, &block(32), &[0; 4], &[0; 128]).expect("it runs"));
    let fib = [0u32, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610];
    for (lane, value) in out.into_iter().enumerate() {
        assert_eq!(value, 3_200_000 + fib[lane % 16], "lane {lane}");
    }
}

#[test]
fn indirect_calls_may_differ_by_lane() {
    let function = |name: &str, op: &str| {
        format!(
            ".func (.param .b32 out) {name}(.param .b32 n) {{ .reg .b32 %r<3>;\n\
             ld.param.b32 %r1, [n]; {op} st.param.b32 [out], %r1; ret; }}\n"
        )
    };
    let text = format!(
        "{}{}.global .u64 table[2] = {{f, g}};\n{}",
        function("f", "add.u32 %r1, %r1, 1000;"),
        function("g", "mul.lo.u32 %r1, %r1, 3;"),
        kernel(
            "and.b32 %r1, %t, 1; mul.wide.u32 %rd1, %r1, 8; mov.u64 %rd2, table;\n\
             add.u64 %rd1, %rd1, %rd2; ld.global.u64 %rd3, [%rd1];\n\
             { .param .b32 a; .param .b32 r; st.param.b32 [a], %t;\n\
               proto: .callprototype (.param .b32 _) _ (.param .b32 _);\n\
               call (r), %rd3, (a), proto; ld.param.b32 %r2, [r]; }\n\
             mad.wide.u32 %rd4, %t, 4, %y; st.global.u32 [%rd4], %r2;",
        )
    );
    let out = words(&run(&text, &block(32), &[0; 4], &[0; 128]).expect("it runs"));
    let expected: Vec<u32> =
        (0..32).map(|lane| if lane % 2 == 0 { lane + 1000 } else { 3 * lane }).collect();
    assert_eq!(out, expected);
}

#[test]
fn lanes_shuffle_in_every_mode() {
    let shuffled = |mode: &str, b: u32, c: u32| {
        let body =
            format!("shfl.sync.{mode}.b32 %d|%p1, %a, {b}, {c}, -1; @!%p1 add.u32 %d, %d, 100;");
        lanes32(&body, &tids(32))
    };
    for (lane, out) in (0..32u32).zip(shuffled("bfly", 5, 31)) {
        assert_eq!(out, lane ^ 5);
    }
    for (lane, out) in (0..32u32).zip(shuffled("up", 3, 0)) {
        assert_eq!(out, if lane < 3 { lane + 100 } else { lane - 3 });
    }
    for (lane, out) in (0..32u32).zip(shuffled("down", 4, 31)) {
        assert_eq!(out, if lane + 4 > 31 { lane + 100 } else { lane + 4 });
    }
    // Segments of eight: the mask of the segment in bits 8 to 12, the clamp below.
    for (lane, out) in (0..32u32).zip(shuffled("idx", 10, 0x1807)) {
        assert_eq!(out, (lane & 24) + 2);
    }
    for (lane, out) in (0..32u32).zip(shuffled("down", 3, 0x1807)) {
        assert_eq!(out, if lane % 8 + 3 > 7 { lane + 100 } else { lane + 3 });
    }
}

#[test]
fn votes_matches_and_reductions() {
    let all = tids(32);
    let vote = "setp.lt.u32 %p1, %a, 7; vote.sync.ballot.b32 %d, %p1, -1;";
    assert_eq!(lanes32(vote, &all), [0x7f; 32]);
    let vote = "setp.lt.u32 %p1, %a, 32; vote.sync.all.pred %p2, %p1, -1; selp.u32 %d, 1, 0, %p2;";
    assert_eq!(lanes32(vote, &all), [1; 32]);
    let equal = "shr.u32 %r1, %a, 3; match.any.sync.b32 %d, %r1, -1;";
    for (lane, out) in lanes32(equal, &all).into_iter().enumerate() {
        assert_eq!(out, 0xff << (lane & 24));
    }
    assert_eq!(lanes32("redux.sync.add.s32 %d, %a, -1;", &all), [496; 32]);
    assert_eq!(
        lanes32("neg.s32 %r1, %a; redux.sync.min.s32 %d, %r1, -1;", &all),
        [-31i32 as u32; 32]
    );
    let elect = "elect.sync %r1|%p1, -1; selp.u32 %d, 1, 0, %p1;";
    assert_eq!(lanes32(elect, &all).iter().sum::<u32>(), 1);
    // Only the lanes of the mask take part, each half for itself.
    let halves = "setp.lt.u32 %p1, %a, 16; @%p1 bra LOW;\n\
                  redux.sync.add.s32 %d, %a, 0xffff0000; bra END;\n\
                  LOW: redux.sync.add.s32 %d, %a, 0x0000ffff;\nEND:";
    let sums = lanes32(halves, &all);
    assert_eq!((sums[0], sums[31]), (120, 376));
}

#[test]
fn lanes_that_meet_late_still_exchange() {
    // Each lane reaches the same shuffle through a loop of its own length.
    let body = "mov.u32 %r1, 0;\nL: add.u32 %r1, %r1, 1; setp.le.u32 %p1, %r1, %a; @%p1 bra L;\n\
                bar.warp.sync -1; shfl.sync.idx.b32 %d, %r1, 31, 31, -1;";
    assert_eq!(lanes32(body, &tids(32)), [32; 32]);
}

#[test]
fn a_lock_taken_lane_by_lane_makes_progress() {
    let text = kernel(
        "SPIN: atom.global.cas.b32 %r1, [%y], 0, 1; setp.ne.u32 %p1, %r1, 0; @%p1 bra SPIN;\n\
         ld.volatile.global.u32 %r2, [%y+4]; add.u32 %r2, %r2, 1;\n\
         st.volatile.global.u32 [%y+4], %r2; membar.gl;\n\
         atom.global.exch.b32 %r3, [%y], 0;",
    );
    let config = LaunchConfig { grid: [3, 1, 1], ..block(64) };
    let out = words(&run(&text, &config, &[0; 4], &[0; 8]).expect("it runs"));
    assert_eq!(out, [0, 192]);
}

#[test]
fn ctas_that_wait_for_each_other_run_together() {
    // The first CTA waits for the last.
    let text = kernel(
        "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra SIGNAL;\n\
         WAIT: ld.acquire.gpu.global.u32 %r2, [%y]; setp.lt.u32 %p2, %r2, 7; @%p2 bra WAIT;\n\
         st.global.u32 [%y+4], %r2; bra END;\n\
         SIGNAL: red.release.gpu.global.add.u32 [%y], 1;\nEND:",
    );
    let config = LaunchConfig { grid: [8, 1, 1], ..block(1) };
    assert_eq!(words(&run(&text, &config, &[0; 4], &[0; 8]).expect("it runs")), [7, 7]);
}

#[test]
fn barriers_count_and_reduce() {
    let text = format!(
        ".shared .align 4 .b8 sum[256];\n{}",
        kernel(
            "mov.u32 %r1, sum; mad.lo.u32 %r2, %t, 4, %r1; st.shared.u32 [%r2], %t;\n\
             barrier.sync 3, 64; xor.b32 %r3, %t, 63; mad.lo.u32 %r3, %r3, 4, %r1;\n\
             ld.shared.u32 %r4, [%r3];\n\
             setp.lt.u32 %p1, %t, 40; bar.red.popc.u32 %r5, 0, %p1;\n\
             bar.red.and.pred %p2, 1, %p1; bar.red.or.pred %p3, 1, !%p1;\n\
             selp.u32 %r6, 1, 0, %p2; selp.u32 %r7, 2, 0, %p3; or.b32 %r6, %r6, %r7;\n\
             mad.lo.u32 %r4, %r5, 100, %r4; mad.lo.u32 %r4, %r6, 10000, %r4;\n\
             mad.wide.u32 %rd1, %t, 4, %y; st.global.u32 [%rd1], %r4;",
        )
    );
    let out = words(&run(&text, &block(64), &[0; 4], &[0; 256]).expect("it runs"));
    let expected: Vec<u32> = (0..64).map(|lane| 24_000 + 63 - lane).collect();
    assert_eq!(out, expected);
}

#[test]
fn producers_arrive_and_consumers_wait() {
    // Warp 0 arrives at barrier 1 without waiting; warp 1 waits there.
    let text = format!(
        ".shared .align 4 .b8 box[4];\n{}",
        kernel(
            "setp.ge.u32 %p1, %t, 32; @%p1 bra TAKE; mov.u32 %r1, 5; st.shared.u32 [box], %r1;\n\
             bar.arrive 1, 64; bra END;\nTAKE: bar.sync 1, 64; ld.shared.u32 %r2, [box];\n\
             st.global.u32 [%y], %r2;\nEND:",
        )
    );
    assert_eq!(words(&run(&text, &block(64), &[0; 4], &[0; 4]).expect("it runs")), [5]);
}

#[test]
fn threads_that_have_left_do_not_hold_barriers_up() {
    let text = kernel(
        "setp.ge.u32 %p1, %t, 40; @%p1 exit; bar.sync 0; mad.wide.u32 %rd1, %t, 4, %y;\n\
         st.global.u32 [%rd1], 1;",
    );
    let out = words(&run(&text, &block(96), &[0; 4], &[0; 384]).expect("it runs"));
    assert_eq!(out.iter().sum::<u32>(), 40);
}

#[test]
fn special_registers_describe_the_place() {
    let text = kernel(
        "mov.u32 %r1, %tid.y; mov.u32 %r2, %ntid.x; mad.lo.u32 %r3, %r1, %r2, %t;\n\
         mov.u32 %r4, %ctaid.z; mov.u32 %r5, %nctaid.z; mov.u32 %r6, %laneid;\n\
         mov.u32 %r7, %lanemask_lt; popc.b32 %r7, %r7; setp.eq.u32 %p1, %r6, %r7;\n\
         mov.u64 %rd2, %clock64; mov.u64 %rd3, %clock64; setp.lt.u64 %p2, %rd2, %rd3;\n\
         and.pred %p1, %p1, %p2; selp.u32 %r8, 1000, 0, %p1;\n\
         mad.lo.u32 %r9, %r4, 48, %r3; add.u32 %r8, %r8, %r5; mad.wide.u32 %rd1, %r9, 4, %y;\n\
         st.global.u32 [%rd1], %r8;",
    );
    let config = LaunchConfig { grid: [1, 1, 2], block: [12, 4, 1], ..LaunchConfig::default() };
    let out = words(&run(&text, &config, &[0; 4], &[0; 384]).expect("it runs"));
    assert_eq!(out, [1002; 96]);
}

#[test]
fn printed_text_comes_back() {
    let text = format!(
        ".global .align 1 .b8 format[12] = {{118,61,37,100,32,37,46,50,102,10,0}};\n\
         .extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);\n{}",
        kernel(
            ".local .align 8 .b8 args[16]; mov.b64 %rd1, args; st.local.u32 [%rd1], %t;\n\
             mov.b64 %rd2, 0d3FF8000000000000; st.local.b64 [%rd1+8], %rd2;\n\
             cvta.local.u64 %rd3, %rd1; mov.u64 %rd4, format;\n\
             { .param .b64 f; .param .b64 a; .param .b32 r; st.param.b64 [f], %rd4;\n\
               st.param.b64 [a], %rd3; call.uni (r), vprintf, (f, a); }",
        )
    );
    let (_, report) = machine::run_reported(&text, &block(2), &[0; 4], &[0; 4]).expect("it runs");
    assert_eq!(report.printed, "v=0 1.50\nv=1 1.50\n");
}

#[test]
fn numbers_are_printed_as_c_prints_them() {
    // "%e %g %G\n"
    let text = format!(
        ".global .align 1 .b8 format[10] = {{37,101,32,37,103,32,37,71,10,0}};\n\
         .extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);\n{}",
        kernel(
            ".local .align 8 .b8 args[24]; mov.b64 %rd1, args;\n\
             mov.b64 %rd2, 0d3FF8000000000000; st.local.b64 [%rd1], %rd2;\n\
             mov.b64 %rd2, 0d40F86A0000000000; st.local.b64 [%rd1+8], %rd2;\n\
             mov.b64 %rd2, 0d3E7AD7F29ABCAF48; st.local.b64 [%rd1+16], %rd2;\n\
             cvta.local.u64 %rd3, %rd1; mov.u64 %rd4, format;\n\
             { .param .b64 f; .param .b64 a; .param .b32 r; st.param.b64 [f], %rd4;\n\
               st.param.b64 [a], %rd3; call.uni (r), vprintf, (f, a); }",
        )
    );
    let (_, report) = machine::run_reported(&text, &block(1), &[0; 4], &[0; 4]).expect("it runs");
    assert_eq!(report.printed, "1.500000e+00 100000 1E-07\n");
}

#[test]
fn the_heap_of_a_device_is_empty() {
    let text = format!(
        ".extern .func (.param .b64 r) malloc (.param .b64 n);\n\
         .extern .func free (.param .b64 p);\n{}",
        kernel(
            "mov.b64 %rd1, 16; mov.b64 %rd2, 1;\n\
             { .param .b64 n; .param .b64 r; st.param.b64 [n], %rd1;\n\
               call.uni (r), malloc, (n); ld.param.b64 %rd2, [r]; }\n\
             { .param .b64 p; st.param.b64 [p], %rd2; call.uni free, (p); }\n\
             mad.wide.u32 %rd3, %t, 8, %y; st.global.b64 [%rd3], %rd2;",
        )
    );
    let out = machine::run(&text, &block(32), &[0; 4], &[0xff; 256]).expect("it runs");
    assert!(out.iter().all(|&byte| byte == 0));
}

#[test]
fn registers_that_live_shortly_share_room() {
    // More registers than a frame has rows, each used in the next instruction only.
    let mut body = String::from(".reg .b32 %s<150000>; mov.u32 %s0, %a;\n");
    for index in 1..150_000 {
        body.push_str(&format!("add.u32 %s{index}, %s{}, 1;\n", index - 1));
    }
    body.push_str("mov.u32 %d, %s149999;");
    let expected: Vec<u32> = (0..4).map(|lane| lane + 149_999).collect();
    assert_eq!(lanes32(&body, &tids(4)), expected);
}

#[test]
fn sharing_rows_keeps_the_lanes_of_a_diverged_warp_apart() {
    // Both sides hold a value of their own across a meeting of the whole warp.
    let body = "setp.lt.u32 %p1, %a, 16; @%p1 bra LOW;\n\
                add.u32 %r1, %a, 100; bar.warp.sync -1; add.u32 %d, %r1, 1; bra END;\n\
                LOW: add.u32 %r2, %a, 200; add.u32 %r3, %r2, 5; bar.warp.sync -1;\n\
                sub.u32 %d, %r3, %r2; add.u32 %d, %d, %a;\nEND:";
    let out = lanes32(body, &tids(32));
    for (lane, value) in (0..32).zip(out) {
        assert_eq!(value, if lane < 16 { lane + 5 } else { lane + 101 });
    }
}
