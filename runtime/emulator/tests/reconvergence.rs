//! Lanes that meet at a `.sync` instruction go on together, wherever a warp's share of time ends.

mod machine;

use machine::{block, kernel, run, words};

/// Each round: some lanes wait for the others before a place where they would meet, so that both
/// go past it apart; then an exchange in which they meet, and a part of one side.
fn rounds(count: u32, padding: usize) -> Vec<u32> {
    let text = kernel(&format!(
        "mov.u32 %r1, 0; mov.u32 %r2, 0; mov.u32 %r8, 0;\n\
         round: and.b32 %r3, %r1, 31; setp.lt.u32 %p1, %t, %r3; @!%p1 bra first;\n\
         bar.warp.sync -1;\n\
         first: {padding}\
         @%p1 bra second;\n\
         bar.warp.sync -1;\n\
         second: shr.u32 %r4, %t, 2; match.any.sync.b32 %r5, %r4, -1;\n\
         popc.b32 %r6, %r5; add.u32 %r2, %r2, %r6;\n\
         setp.eq.u32 %p2, %t, %r3; @!%p2 bra skip; add.u32 %r8, %r8, 1;\n\
         skip: bar.warp.sync -1;\n\
         add.u32 %r1, %r1, 1; setp.lt.u32 %p3, %r1, {count}; @%p3 bra round;\n\
         mad.wide.u32 %rd1, %t, 8, %y; st.global.v2.u32 [%rd1], {{%r2, %r8}};",
        padding = "add.u32 %r7, %r7, 1;\n".repeat(padding)
    ));
    words(&run(&text, &block(32), &[0; 4], &[0; 256]).expect("it runs"))
}

#[test]
fn no_lane_is_left_behind_when_a_share_of_time_ends_at_a_meeting() {
    for padding in 0..8 {
        let out = rounds(640, padding);
        for lane in 0..32 {
            assert_eq!(
                out[2 * lane..2 * lane + 2],
                [4 * 640, 20],
                "lane {lane}, padding {padding}"
            );
        }
    }
}

#[test]
fn groups_of_lanes_shuffle_side_by_side() {
    // Groups of eight lanes, each with a member mask of its own, at one instruction.
    let text = machine::kernel(
        "and.b32 %r1, %t, 24; mov.b32 %r2, 255; shl.b32 %r3, %r2, %r1;\n\
         shfl.sync.bfly.b32 %r4, %t, 7, 0x181f, %r3; redux.sync.add.u32 %r5, %t, %r3;\n\
         mad.lo.u32 %r4, %r5, 100, %r4; mad.wide.u32 %rd1, %t, 4, %y; st.global.u32 [%rd1], %r4;",
    );
    let out = machine::run(&text, &machine::block(32), &[0; 4], &[0; 128]).expect("it runs");
    for (lane, got) in (0..32u32).zip(machine::words(&out)) {
        let first = lane & !7;
        let sum: u32 = (first..first + 8).sum();
        assert_eq!(got, sum * 100 + (lane ^ 7), "lane {lane}");
    }
}
