//! mbarriers, bulk copies without tensor maps, and asynchronous stores.

mod machine;

use machine::{block, kernel, run, words};
use moec_emulator::{Error, FaultKind};

fn output(body: &str, threads: u32) -> Vec<u32> {
    let x: Vec<u8> = (0..1024u32).flat_map(|index| (index * 3 + 1).to_le_bytes()).collect();
    match run(&kernel(body), &block(threads), &x, &[0; 4096]) {
        Ok(bytes) => words(&bytes),
        Err(error) => panic!("{body}: {error}"),
    }
}

fn failure(body: &str, threads: u32) -> String {
    let result = run(&kernel(body), &block(threads), &[0; 4096], &[0; 4096]);
    match result {
        Err(Error::Fault(fault)) => {
            assert_ne!(fault.line, 0);
            assert!(!matches!(fault.kind, FaultKind::Limit(_)), "{}", fault.kind);
            fault.to_string()
        }
        Err(Error::Deadlock { waits, .. }) => waits,
        other => panic!("{body}: {other:?}"),
    }
}

const BARRIER: &str = ".shared .align 8 .b64 bar;\n";

#[test]
fn a_bulk_copy_brings_its_bytes_and_completes_the_phase() {
    let out = output(
        ".shared .align 8 .b64 bar; .shared .align 128 .b8 s[512];\n\
         setp.ne.u32 %p1, %t, 0; @%p1 bra go;\n\
         mbarrier.init.shared.b64 [bar], 1; fence.proxy.async;\n\
         mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 %rd1, [bar], 512;\n\
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%x+16], 256, [bar];\n\
         cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint [s+256], [%x+1024], 256, [bar], %rd1;\n\
         go: bar.sync 0;\n\
         wait: mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p2, [bar], 0, 0x989680; @!%p2 bra wait;\n\
         shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r2, %r2, %r1; ld.shared.u32 %r3, [%r2];\n\
         mad.wide.u32 %rd2, %t, 4, %y; st.global.u32 [%rd2], %r3;",
        128,
    );
    for index in 0..64 {
        assert_eq!(out[index], (index as u32 + 4) * 3 + 1);
        assert_eq!(out[64 + index], (index as u32 + 256) * 3 + 1);
    }
}

#[test]
fn bulk_stores_and_reductions_reach_device_memory() {
    let out = output(
        ".shared .align 128 .b8 s[512];\n\
         shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r2, %r2, %r1; st.shared.u32 [%r2], %t;\n\
         fence.proxy.async.shared::cta; bar.sync 0;\n\
         setp.ne.u32 %p1, %t, 0; @%p1 bra end;\n\
         cp.async.bulk.global.shared::cta.bulk_group [%y], [s], 512;\n\
         cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;\n\
         cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%y+256], [s], 256;\n\
         cp.reduce.async.bulk.global.shared::cta.bulk_group.max.s32 [%y], [s+16], 16;\n\
         cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0; cp.async.bulk.wait_group 0;\n\
         end:",
        128,
    );
    assert_eq!(out[..6], [4, 5, 6, 7, 4, 5]);
    for index in 64..128 {
        assert_eq!(out[index as usize], index + index - 64);
    }
}

#[test]
fn states_name_the_phase_before_their_arrival() {
    let out = output(
        ".shared .align 8 .b64 bar;\n\
         setp.ne.u32 %p1, %t, 0; @%p1 bra end;\n\
         mbarrier.init.shared::cta.b64 [bar], 3;\n\
         mbarrier.arrive.noComplete.release.cta.shared::cta.b64 %rd1, [bar], 1;\n\
         mbarrier.pending_count.b64 %r1, %rd1;\n\
         mbarrier.arrive.shared::cta.b64 %rd2, [bar], 1;\n\
         mbarrier.pending_count.b64 %r2, %rd2;\n\
         mbarrier.test_wait.shared::cta.b64 %p2, [bar], %rd1; selp.u32 %r3, 1, 0, %p2;\n\
         mbarrier.arrive_drop.shared::cta.b64 %rd3, [bar];\n\
         mbarrier.test_wait.shared::cta.b64 %p2, [bar], %rd1; selp.u32 %r4, 1, 0, %p2;\n\
         mbarrier.arrive.shared::cta.b64 %rd4, [bar];\n\
         mbarrier.pending_count.b64 %r5, %rd4;\n\
         mbarrier.test_wait.parity.shared::cta.b64 %p2, [bar], 0; selp.u32 %r6, 1, 0, %p2;\n\
         mbarrier.test_wait.parity.shared::cta.b64 %p2, [bar], 1; selp.u32 %r7, 1, 0, %p2;\n\
         mbarrier.inval.shared::cta.b64 [bar]; mbarrier.init.shared::cta.b64 [bar], 1;\n\
         mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 8;\n\
         mbarrier.arrive.shared::cta.b64 _, [bar];\n\
         mbarrier.test_wait.parity.shared::cta.b64 %p2, [bar], 0; selp.u32 %r8, 1, 0, %p2;\n\
         mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], 8;\n\
         mbarrier.test_wait.parity.shared::cta.b64 %p2, [bar], 0; selp.u32 %r9, 1, 0, %p2;\n\
         st.global.v4.u32 [%y], {%r1, %r2, %r3, %r4}; st.global.v4.u32 [%y+16], {%r5, %r6, %r7, %r8};\n\
         st.global.u32 [%y+32], %r9;\n\
         end:",
        1,
    );
    assert_eq!(out[..9], [3, 2, 0, 1, 2, 1, 0, 0, 1]);
}

#[test]
fn cp_async_arrives_at_an_mbarrier() {
    let out = output(
        ".shared .align 8 .b64 bar; .shared .align 16 .b8 s[512];\n\
         setp.eq.u32 %p1, %t, 0; @%p1 mbarrier.init.shared.b64 [bar], 32; bar.sync 0;\n\
         shl.b32 %r1, %t, 4; mov.u32 %r2, s; add.u32 %r2, %r2, %r1; cvt.u64.u32 %rd1, %r1; add.u64 %rd1, %rd1, %x;\n\
         cp.async.cg.shared.global [%r2], [%rd1], 16;\n\
         cp.async.mbarrier.arrive.noinc.shared.b64 [bar];\n\
         wait: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra wait;\n\
         cp.async.mbarrier.arrive.shared.b64 [bar];\n\
         ld.shared.u32 %r3, [%r2]; mad.wide.u32 %rd2, %t, 4, %y; st.global.u32 [%rd2], %r3;",
        32,
    );
    assert_eq!(out[..3], [1, 13, 25]);
}

#[test]
fn a_try_wait_that_nobody_can_end_returns_false() {
    // The thread itself arrives after a first look.
    let out = output(
        ".shared .align 8 .b64 bar;\n\
         mbarrier.init.shared.b64 [bar], 1;\n\
         mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; selp.u32 %r1, 1, 0, %p2;\n\
         mbarrier.arrive.shared.b64 %rd1, [bar];\n\
         mbarrier.try_wait.shared.b64 %p2, [bar], %rd1; selp.u32 %r2, 1, 0, %p2;\n\
         st.global.v2.u32 [%y], {%r1, %r2};",
        1,
    );
    assert_eq!(out[..2], [0, 1]);
}

#[test]
fn a_barrier_that_never_completes_is_a_deadlock_with_its_counts() {
    let waits = failure(
        &format!(
            "{BARRIER}setp.eq.u32 %p1, %t, 0; @%p1 mbarrier.init.shared.b64 [bar], 2; bar.sync 0;\n\
             @%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 64;\n\
             wait: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra wait;"
        ),
        64,
    );
    assert!(waits.contains("misses 1 of 2 arrivals and 64 bytes"), "{waits}");
    // With `test_wait` the threads spin; that is noticed too.
    let waits = failure(
        &format!(
            "{BARRIER}setp.eq.u32 %p1, %t, 0; @%p1 mbarrier.init.shared.b64 [bar], 2; bar.sync 0;\n\
             wait: mbarrier.test_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra wait;"
        ),
        64,
    );
    assert!(waits.contains("changes nothing"), "{waits}");
}

#[test]
fn misuse_of_an_mbarrier_is_reported() {
    let init = "mbarrier.init.shared.b64 [bar], 1;";
    for (body, words) in [
        ("mbarrier.arrive.shared.b64 _, [bar];", "no mbarrier here"),
        ("mbarrier.init.shared.b64 [bar], 0;", "0 arrivals"),
        ("mbarrier.init.shared.b64 [bar], 1048576;", "between 1 and 1048575"),
        ("{init} st.shared.u64 [bar], %x; mbarrier.arrive.shared.b64 _, [bar];", "no mbarrier"),
        (
            "{init} mbarrier.inval.shared.b64 [bar]; mbarrier.arrive.shared.b64 _, [bar];",
            "no mbarrier",
        ),
        ("{init} mbarrier.arrive.shared.b64 _, [bar], 2;", "2 arrivals where 1 of 1"),
        ("{init} mbarrier.arrive.noComplete.shared.b64 %rd1, [bar], 1;", "`.noComplete` excludes"),
        ("{init} mbarrier.expect_tx.relaxed.cta.shared.b64 [bar], 1048576;", "transaction count"),
        ("mbarrier.init.shared.b64 [bar+4], 1;", "misaligned"),
        ("mbarrier.init.b64 [%x], 1;", "not one of shared memory"),
        ("{init} mbarrier.test_wait.parity.shared.b64 %p1, [bar], 2;", "not the parity"),
    ] {
        let text = failure(&format!("{BARRIER}{}", body.replace("{init}", init)), 1);
        assert!(text.contains(words), "{body}: {text}");
    }
}

#[test]
fn bad_bulk_copies_are_reported() {
    let open = ".shared .align 8 .b64 bar; .shared .align 128 .b8 s[512];\n mbarrier.init.shared.b64 [bar], 1;\n";
    for (copy, words) in [
        ("[s], [%x], 24, [bar];", "not a multiple of 16"),
        ("[s+8], [%x], 16, [bar];", "misaligned"),
        ("[s], [%x+8], 16, [bar];", "not a multiple of 16"),
        ("[s], [%x+4080], 32, [bar];", "past the end of `x`"),
        ("[s], [%x], 4096, [bar];", "out of bounds"),
    ] {
        let opcode = "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes";
        let text = failure(&format!("{open}{opcode} {copy}"), 1);
        assert!(text.contains(words), "{copy}: {text}");
    }
}
