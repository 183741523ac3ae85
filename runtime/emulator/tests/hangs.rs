//! Hangs are found, whoever spins, and reported with what is known of them.

mod machine;
mod ranks;

use moec_emulator::{Error, Hang, LaunchConfig, QueuedLaunch, Schedule, WaitsFor};
use ranks::{group, kernel, queued, schedules, shaped};

fn hang(result: Result<moec_emulator::GroupReport, Error>) -> (Hang, String) {
    match result {
        Err(Error::Deadlock { hang, waits, .. }) => (*hang, waits),
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_ranks_that_wait_for_each_other_are_reported_exactly() {
    // Each waits for the other's flag before it sets its own; rank 1 has a launch to come.
    let module = kernel(
        "",
        "mov.u32 %r2, 3; @%p0 bra w; st.relaxed.sys.global.u32 [%y+4], %r2;\n\
         w: ld.acquire.sys.global.u32 %r1, [%x];\n\
         setp.ne.u32 %p1, %r1, 1; @%p1 bra w;\n\
         st.release.sys.global.u32 [%y], %r1;",
    );
    for schedule in schedules(10) {
        let mut group = group(2, 2, schedule);
        let flags = group.alloc_symmetric(8, "flags").expect("there is room");
        let at = [group.address(flags, 0), group.address(flags, 1)];
        for rank in 0..2 {
            group.device_mut(rank).write(at[rank as usize], &[0; 8]).expect("it is there");
        }
        let queues = [
            vec![queued(&module, 1, at[0] + 4, at[1], 0)],
            vec![queued(&module, 1, at[1] + 4, at[0], 1), queued(&module, 1, at[1], at[0], 2)],
        ];
        let (hang, text) = hang(group.run(&queues));
        assert!(!hang.is_livelock && hang.waiters.len() == 2 && hang.more == 0, "{text}");
        for (rank, waiter) in (0u32..).zip(&hang.waiters) {
            let label = format!("launch {rank}");
            assert_eq!(waiter.rank, Some((rank, label.clone())));
            assert_eq!((waiter.cta, waiter.warp, waiter.lanes), ([0; 3], 0, 1));
            assert_eq!(waiter.line, 9);
            let WaitsFor::Memory(places) = &waiter.wait else { panic!("{text}") };
            assert_eq!(places.len(), 1);
            let place = &places[0];
            assert_eq!((place.rank, place.value, place.bytes), (Some(rank), 3, 4));
            assert_eq!(place.allocation, Some(("flags".to_string(), 4)));
            let writer = place.last_writer.as_ref().expect("it was written");
            let peer = (1 - rank, format!("launch {}", 1 - rank));
            assert_eq!((writer.rank.as_ref(), writer.cta, writer.line), (Some(&peer), 0, 8));
        }
        assert_eq!(hang.not_begun.len(), 1);
        assert_eq!(hang.not_begun[0].rank, Some((1, "launch 2".to_string())));
        let expected = "all threads wait\n  \
            rank 0 `launch 0`, CTA (0, 0, 0) on SM ";
        assert!(text.starts_with(expected), "{text}");
        let part = "waits for a change of byte 4 of `flags` of rank 0, which holds 3 (written last \
                    by rank 1 `launch 1`, CTA 0, warp 0, PTX line 8)";
        assert!(text.contains(part), "{text}");
        assert!(text.contains("not begun: rank 1 `launch 2`, 1 CTAs: the launch before"), "{text}");
    }
}

#[test]
fn a_grid_larger_than_the_device_hangs_at_its_own_barrier() {
    // All CTAs of a grid meet at a counter; 12 of 16 find room.
    let module = kernel(
        "",
        "red.release.gpu.global.add.u32 [%x], 1; mov.u32 %r3, %nctaid.x;\n\
         mul.lo.u32 %r3, %r3, 1024;\n\
         w: ld.acquire.gpu.global.u32 %r1, [%x]; setp.lt.u32 %p1, %r1, %r3; @%p1 bra w;",
    );
    let launch = |x, ctas| QueuedLaunch {
        config: LaunchConfig { grid: [ctas, 1, 1], block: [1024, 1, 1], ..LaunchConfig::default() },
        ..queued(&module, 1, x, 0, 0)
    };
    for schedule in schedules(5) {
        for (ctas, fits) in [(12, true), (16, false)] {
            let mut group = shaped(1, 1, schedule, 6);
            let x = group.device_mut(0).alloc(4, "counter").expect("there is room");
            group.device_mut(0).write(x, &[0; 4]).expect("it is there");
            let result = group.run(&[vec![launch(x, ctas)]]);
            if fits {
                result.expect("it runs");
                continue;
            }
            let (hang, text) = hang(result);
            assert!(hang.more > 0 && hang.waiters.len() == 256, "{text}");
            assert_eq!((hang.not_begun[0].ctas, hang.not_begun[0].is_resident), (4, true));
            assert!(text.contains("4 CTAs have found no room on the device yet"), "{text}");
            assert!(text.contains("`counter` of rank 0, which holds 12288"), "{text}");
            assert!(text.len() < 12_000 && text.contains("… and"), "{}", text.len());
        }
    }
}

#[test]
fn placement_decides_whether_an_oversubscribed_grid_hangs() {
    // CTA 0 waits for the last: it is there only if it was admitted before CTA 0's kind filled all.
    let module = kernel(
        "",
        "mov.u32 %r2, %ctaid.x; mov.u32 %r3, %nctaid.x; sub.u32 %r3, %r3, 1;\n\
         setp.eq.u32 %p1, %r2, %r3; mov.u32 %r4, 1; @%p1 st.release.gpu.global.u32 [%x], %r4;\n\
         w: ld.acquire.gpu.global.u32 %r1, [%x]; setp.ne.u32 %p2, %r1, 1; @%p2 bra w;",
    );
    let runs = |schedule| {
        let mut group = shaped(1, 1, schedule, 2);
        let x = group.device_mut(0).alloc(4, "flag").expect("there is room");
        group.device_mut(0).write(x, &[0; 4]).expect("it is there");
        let launch = QueuedLaunch {
            config: LaunchConfig { grid: [6, 1, 1], block: [1024, 1, 1], ..Default::default() },
            ..queued(&module, 1, x, 0, 0)
        };
        group.run(&[vec![launch]]).is_ok()
    };
    assert!(!runs(Schedule::InOrder));
    let good = (0..40).filter(|&seed| runs(Schedule::Seeded(seed))).count();
    assert!((5..36).contains(&good), "{good}");
}

#[test]
fn a_poll_costs_nothing_while_it_waits() {
    // Rank 1 counts to 200 thousand before it sets the flag that 64 warps of rank 0 wait for.
    let waits =
        kernel("", "w: ld.acquire.sys.global.u32 %r1, [%x]; setp.ne.u32 %p1, %r1, 1; @%p1 bra w;");
    let sets = kernel(
        "",
        "mov.u32 %r1, 0; c: add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 200000; @%p1 bra c;\n\
         mov.u32 %r2, 1; st.release.sys.global.u32 [%y], %r2;",
    );
    for schedule in [Schedule::InOrder, Schedule::Seeded(3)] {
        let mut group = group(2, 2, schedule);
        let flag = group.alloc_symmetric(4, "flag").expect("there is room");
        let at = group.address(flag, 0);
        group.device_mut(0).write(at, &[0; 4]).expect("it is there");
        let waiting = QueuedLaunch {
            config: LaunchConfig { grid: [8, 1, 1], block: [256, 1, 1], ..Default::default() },
            ..queued(&waits, 1, at, 0, 0)
        };
        let report = group.run(&[vec![waiting], vec![queued(&sets, 1, 0, at, 1)]]);
        let report = report.expect("it runs");
        let spent = report.launches[0][0].warp_instructions;
        assert!(spent < 64 * 60, "{spent}");
    }
}

#[test]
fn a_lock_between_lanes_and_a_wait_with_a_deadline_are_no_hangs() {
    let lock = kernel(
        "",
        "w: atom.acquire.sys.global.cas.b32 %r1, [%x], 0, 1; setp.ne.u32 %p1, %r1, 0; @%p1 bra w;\n\
         ld.relaxed.sys.global.u32 %r2, [%x+64]; add.u32 %r2, %r2, 1;\n\
         st.relaxed.sys.global.u32 [%x+64], %r2; mov.u32 %r3, 0;\n\
         st.release.sys.global.u32 [%x], %r3;",
    );
    let deadline = kernel(
        "",
        "mov.u64 %rd1, %clock64; add.u64 %rd1, %rd1, 3000;\n\
         w: ld.relaxed.sys.global.u32 %r1, [%x+128]; mov.u64 %rd2, %clock64;\n\
         setp.lt.u64 %p1, %rd2, %rd1; @%p1 bra w;",
    );
    for schedule in schedules(50) {
        let mut group = group(2, 2, schedule);
        let x = group.alloc_symmetric(256, "lock").expect("there is room");
        let at = group.address(x, 0);
        group.device_mut(0).write(at, &[0; 256]).expect("it is there");
        let queue = |n| vec![queued(&lock, 40, at, 0, n), queued(&deadline, 32, at, 0, n)];
        group.run(&[queue(0), queue(1)]).expect("it runs");
        let mut count = [0; 4];
        group.device(0).read(at + 64, &mut count).expect("it is there");
        assert_eq!(u32::from_le_bytes(count), 80, "{schedule:?}");
    }
}
