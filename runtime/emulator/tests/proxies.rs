//! What the asynchronous proxy and the read-only path do not see without the right fence (PTX ISA
//! 8.6, "Proxies").

mod machine;
mod ranks;

use std::collections::BTreeSet;

use machine::words;
use moec_emulator::{Group, Module, Schedule};
use ranks::{group, kernel, queued};

/// The words at `y` of rank 0 after `run` with each of so many seeds; `x` and `y` hold zeros.
fn outcomes(module: &Module, threads: u32, seeds: u64) -> BTreeSet<u32> {
    let run = |seed| {
        let mut group: Group = group(1, 1, Schedule::Seeded(seed));
        let x = group.device_mut(0).alloc(1024, "x").expect("there is room");
        let y = group.device_mut(0).alloc(1024, "y").expect("there is room");
        for at in [x, y] {
            group.device_mut(0).write(at, &[0; 1024]).expect("it is there");
        }
        let mut launch = queued(module, threads, x, y, 0);
        launch.config.grid = [2, 1, 1];
        group.run(&[vec![launch]]).expect("it runs");
        let mut out = [0; 4];
        group.device(0).read(y, &mut out).expect("it is there");
        words(&out)[0]
    };
    (0..seeds).map(run).collect()
}

const STORE: &str = "cp.async.bulk.global.shared::cta.bulk_group [%y], [%r10], 16;\n\
                     cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";

/// A CTA writes to shared memory; its first thread copies that to `y`.
fn shared(before: &str, between: &str) -> BTreeSet<u32> {
    let module = kernel(
        "",
        &format!(
            ".shared .align 128 .b8 s[128];\n\
             mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra end;\n\
             mov.u32 %r10, s; setp.ne.u32 %p2, %t, 40; mov.u32 %r2, 7;\n\
             @!%p2 st.shared.u32 [%r10], %r2; {before}\n\
             bar.sync 0; setp.ne.u32 %p3, %t, 0; @%p3 bra end; {between} {STORE}\n\
             fence.acq_rel.gpu;\n\
             end:"
        ),
    );
    outcomes(&module, 64, 40)
}

#[test]
fn stores_to_shared_memory_need_a_fence_before_a_bulk_copy() {
    let fence = "fence.proxy.async.shared::cta;";
    assert_eq!(shared(fence, ""), BTreeSet::from([7]));
    assert_eq!(shared("", fence), BTreeSet::from([7]));
    assert_eq!(shared("", "fence.proxy.async;"), BTreeSet::from([7]));
    assert_eq!(shared("", ""), BTreeSet::from([0, 7]));
    // A fence by a warp that has not met the writer orders nothing.
    let early = "setp.lt.u32 %p4, %t, 32; @%p4 fence.proxy.async;";
    assert_eq!(shared(early, ""), BTreeSet::from([0, 7]));
}

/// CTA 0 writes to `x` and signals; CTA 1 waits and copies `x` by way of shared memory to `y`.
fn global(before: &str, behind: &str) -> BTreeSet<u32> {
    let module = kernel(
        "",
        &format!(
            ".shared .align 128 .b8 s[128]; .shared .align 8 .b64 bar;\n\
             mov.u32 %r1, %ctaid.x; mov.u32 %r2, 7; mov.u32 %r10, s; mov.u32 %r11, bar;\n\
             setp.ne.u32 %p1, %r1, 0; @%p1 bra wait;\n\
             st.global.u32 [%x], %r2; {before} st.release.gpu.global.u32 [%x+256], %r2; bra end;\n\
             wait: ld.acquire.gpu.global.u32 %r3, [%x+256]; setp.ne.u32 %p2, %r3, 7;\n\
             @%p2 bra wait; {behind}\n\
             mbarrier.init.shared.b64 [%r11], 1; fence.mbarrier_init.release.cluster;\n\
             mbarrier.arrive.expect_tx.shared.b64 _, [%r11], 16;\n\
             cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r10], [%x], 16, [%r11];\n\
             again: mbarrier.try_wait.parity.shared.b64 %p3, [%r11], 0; @!%p3 bra again;\n\
             ld.shared.u32 %r4, [%r10]; st.global.u32 [%y], %r4;\n\
             end:"
        ),
    );
    outcomes(&module, 1, 60)
}

#[test]
fn stores_to_device_memory_need_a_fence_before_a_bulk_copy() {
    let fence = "fence.proxy.async.global;";
    assert_eq!(global(fence, ""), BTreeSet::from([7]));
    assert_eq!(global("", fence), BTreeSet::from([7]));
    assert_eq!(global("", ""), BTreeSet::from([0, 7]));
}

#[test]
fn the_read_only_path_misses_what_the_kernel_writes() {
    let module = |load: &str| {
        kernel(
            "",
            &format!(
                "mov.u32 %r1, %ctaid.x; mov.u32 %r2, 7; setp.ne.u32 %p1, %r1, 0; @%p1 bra wait;\n\
                 st.global.u32 [%x], %r2; st.release.gpu.global.u32 [%x+256], %r2; bra end;\n\
                 wait: ld.acquire.gpu.global.u32 %r3, [%x+256]; setp.ne.u32 %p2, %r3, 7;\n\
                 @%p2 bra wait; {load} %r4, [%x]; st.global.u32 [%y], %r4;\n\
                 end:"
            ),
        )
    };
    assert_eq!(outcomes(&module("ld.global.u32"), 1, 40), BTreeSet::from([7]));
    assert_eq!(outcomes(&module("ld.global.nc.u32"), 1, 40), BTreeSet::from([0]));
}

#[test]
fn a_missing_barrier_before_a_read_of_device_memory_is_noticed() {
    let module = |barrier: &str| {
        kernel(
            "",
            &format!(
                "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra end;\n\
                 setp.ne.u32 %p2, %t, 40; mov.u32 %r2, 7; @!%p2 st.global.u32 [%x], %r2;\n\
                 mov.u32 %r5, 0; c: add.u32 %r5, %r5, 1; setp.lt.u32 %p4, %r5, 30; @%p4 bra c;\n\
                 {barrier} setp.ne.u32 %p3, %t, 0; @%p3 bra end;\n\
                 ld.global.u32 %r4, [%x]; st.global.u32 [%y], %r4; fence.acq_rel.gpu;\n\
                 end:"
            ),
        )
    };
    assert_eq!(outcomes(&module("bar.sync 0;"), 64, 60), BTreeSet::from([7]));
    assert_eq!(outcomes(&module(""), 64, 60), BTreeSet::from([0, 7]));
}
