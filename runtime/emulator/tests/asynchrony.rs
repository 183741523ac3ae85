//! Asynchronous operations under random schedules: kernels that wait as they must give the same
//! result for every seed; the same kernels without one of their waits do not.

mod machine;

use machine::{block, kernel, run_scheduled, words};
use moec_emulator::{Error, Schedule};

const SEEDS: std::ops::Range<u64> = 0..20;

fn output(body: &str, threads: u32, seed: u64) -> Result<Vec<u32>, Error> {
    let x: Vec<u8> = (0..1024u32).flat_map(|index| (index * 3 + 1).to_le_bytes()).collect();
    let text = kernel(body);
    let (bytes, _) = run_scheduled(Schedule::Seeded(seed), &text, &block(threads), &x, &[0; 4096])?;
    Ok(words(&bytes))
}

/// The kernel is right for every seed, and each of the mutants, which lack one of the `waits`,
/// is wrong for some.
fn check(threads: u32, waits: &[&str], expected: &[u32], kernel: impl Fn(&[&str]) -> String) {
    for seed in SEEDS {
        let out = output(&kernel(waits), threads, seed);
        let out = out.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(out[..expected.len()], *expected, "seed {seed}");
    }
    for at in 0..waits.len() {
        let mut fewer = waits.to_vec();
        fewer[at] = "";
        let body = kernel(&fewer);
        let is_wrong = |&seed: &u64| match output(&body, threads, seed) {
            Ok(out) => out[..expected.len()] != *expected,
            Err(Error::Fault(fault)) => {
                assert!(fault.line > 0);
                true
            }
            Err(_) => true,
        };
        let caught = SEEDS.filter(is_wrong).count();
        assert!(caught > 2, "without `{}`: {caught} seeds", waits[at]);
    }
}

#[test]
fn a_load_is_there_after_the_wait_at_its_mbarrier() {
    let expected: Vec<u32> = (0..128).map(|index| index * 3 + 1).collect();
    check(
        128,
        &["wait: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra wait;"],
        &expected,
        |waits| {
            format!(
                ".shared .align 8 .b64 bar; .shared .align 128 .b8 s[512];\n\
                 setp.ne.u32 %p1, %t, 0; @%p1 bra go;\n\
                 mbarrier.init.shared.b64 [bar], 1; fence.proxy.async;\n\
                 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 512;\n\
                 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%x], 512, [bar];\n\
                 go: bar.sync 0;\n{}\n\
                 shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r2, %r2, %r1; ld.shared.u32 %r3, [%r2];\n\
                 mad.wide.u32 %rd2, %t, 4, %y; st.global.u32 [%rd2], %r3;",
                waits[0]
            )
        },
    );
}

#[test]
fn a_buffer_is_free_after_the_wait_for_the_reads_of_its_store() {
    let expected: Vec<u32> = (0..32).chain(100..132).collect();
    check(
        32,
        &["cp.async.bulk.wait_group.read 0;", "cp.async.bulk.wait_group 0;"],
        &expected,
        |waits| {
            format!(
                ".shared .align 128 .b8 s[128];\n\
                 shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r2, %r2, %r1; st.shared.u32 [%r2], %t;\n\
                 fence.proxy.async.shared::cta; bar.sync 0; setp.ne.u32 %p1, %t, 0;\n\
                 @%p1 bra free;\n\
                 cp.async.bulk.global.shared::cta.bulk_group [%y], [s], 128;\n\
                 cp.async.bulk.commit_group; {}\n\
                 free: bar.sync 0; add.u32 %r3, %t, 100; st.shared.u32 [%r2], %r3;\n\
                 fence.proxy.async.shared::cta; bar.sync 0; @%p1 bra end;\n\
                 cp.async.bulk.global.shared::cta.bulk_group [%y+128], [s], 128;\n\
                 cp.async.bulk.commit_group; {}\n\
                 end:",
                waits[0], waits[1]
            )
        },
    );
}

#[test]
fn a_wait_without_read_sees_the_memory_written() {
    check(
        1,
        &["cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"],
        &[5, 0, 0, 0, 5],
        |waits| {
            format!(
                ".shared .align 128 .b8 s[16]; mov.u32 %r1, 5; st.shared.u32 [s], %r1;\n\
             fence.proxy.async; cp.async.bulk.global.shared::cta.bulk_group [%y], [s], 16;\n\
             {} ld.global.u32 %r2, [%y]; st.global.u32 [%y+16], %r2;",
                waits[0]
            )
        },
    );
}

#[test]
fn groups_of_copies_are_waited_for_in_order() {
    let expected: Vec<u32> = (0..32).flat_map(|lane| [lane * 3 + 1, (lane + 32) * 3 + 1]).collect();
    check(
        32,
        &["cp.async.commit_group;", "cp.async.wait_group 1;", "cp.async.wait_all;"],
        &expected,
        |waits| {
            format!(
                ".shared .align 16 .b8 s[256];\n\
                 shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r2, %r2, %r1; mad.wide.u32 %rd1, %t, 4, %x;\n\
                 cp.async.ca.shared.global [%r2], [%rd1], 4; {}\n\
                 cp.async.ca.shared.global [%r2+128], [%rd1+128], 4; cp.async.commit_group;\n\
                 {} ld.shared.u32 %r3, [%r2];\n\
                 {} ld.shared.u32 %r4, [%r2+128];\n\
                 mad.wide.u32 %rd2, %t, 8, %y; st.global.v2.u32 [%rd2], {{%r3, %r4}};",
                waits[0], waits[1], waits[2]
            )
        },
    );
}

#[test]
fn an_arrival_follows_the_copies_of_its_thread() {
    let expected: Vec<u32> = (0..32).map(|lane| (lane ^ 1) * 3 + 1).collect();
    check(
        32,
        &["wait: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra wait;"],
        &expected,
        |waits| {
            format!(
                ".shared .align 8 .b64 bar; .shared .align 16 .b8 s[128];\n\
                 setp.eq.u32 %p1, %t, 0; @%p1 mbarrier.init.shared.b64 [bar], 32; bar.warp.sync -1;\n\
                 shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r3, %r2, %r1; mad.wide.u32 %rd1, %t, 4, %x;\n\
                 cp.async.ca.shared.global [%r3], [%rd1], 4;\n\
                 cp.async.mbarrier.arrive.noinc.shared.b64 [bar];\n{}\n\
                 xor.b32 %r1, %r1, 4; add.u32 %r3, %r2, %r1; ld.shared.u32 %r4, [%r3];\n\
                 mad.wide.u32 %rd2, %t, 4, %y; st.global.u32 [%rd2], %r4;",
                waits[0]
            )
        },
    );
}

#[test]
fn operands_of_a_product_stay_until_the_wait() {
    // A and B are ones (bf16): sums of 16. Refilled with twos right behind the wait.
    let one = 16f32.to_bits();
    check(128, &["wgmma.wait_group.sync.aligned 0;"], &[one; 128], |waits| {
        format!(
            ".reg .b32 %d<4>; .shared .align 1024 .b8 s[3072];\n\
             mov.u32 %r1, s; mad.lo.u32 %r2, %t, 24, %r1; mov.b32 %r3, 0x3f803f80; mov.b32 %r4, 0x40004000;\n\
             st.shared.v2.b32 [%r2], {{%r3, %r3}}; st.shared.v2.b32 [%r2+8], {{%r3, %r3}};\n\
             st.shared.v2.b32 [%r2+16], {{%r3, %r3}};\n\
             fence.proxy.async; bar.sync 0;\n\
             mov.b64 %rd1, 0x0000000800040040; mov.b64 %rd2, 0x00000008000400c0; setp.ne.u32 %p1, %t, %t;\n\
             wgmma.fence.sync.aligned;\n\
             wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%d0, %d1, %d2, %d3}}, %rd1, %rd2, %p1, 1, 1, 0, 0;\n\
             wgmma.commit_group.sync.aligned; {}\n\
             st.shared.v2.b32 [%r2], {{%r4, %r4}};\n\
             wgmma.wait_group.sync.aligned 0;\n\
             mad.wide.u32 %rd3, %t, 4, %y; st.global.b32 [%rd3], %d0;",
            waits[0]
        )
    });
}

#[test]
fn a_cta_must_not_end_before_its_copies() {
    let body = ".shared .align 8 .b64 bar; .shared .align 128 .b8 s[128];\n\
                mbarrier.init.shared.b64 [bar], 1; fence.proxy.async;\n\
                mbarrier.arrive.expect_tx.shared.b64 _, [bar], 128;\n\
                cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%x], 128, [bar];";
    let ends = |seed| match output(body, 1, seed) {
        Err(Error::Fault(fault)) => {
            assert!(fault.to_string().contains("the CTA ends"), "{fault}");
            assert!(fault.instruction.starts_with("cp.async.bulk"), "{fault}");
            true
        }
        other => {
            assert!(other.is_ok(), "{other:?}");
            false
        }
    };
    assert!(SEEDS.filter(|&seed| ends(seed)).count() > 5);
}
