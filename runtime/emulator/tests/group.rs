//! Several devices in one process: addresses, what reaches whom, queues, and order.

mod machine;

use machine::{module, words};
use moec_emulator::{
    Arg, DeviceConfig, Error, FaultKind, Group, GroupConfig, LaunchConfig, Module, QueuedLaunch,
    Schedule,
};

fn group(ranks: u32, ranks_per_node: u32, schedule: Schedule) -> Group {
    let device = DeviceConfig {
        schedule,
        threads: 1,
        memory_bytes: 1 << 28,
        livelock_instructions: 1 << 20,
        ..DeviceConfig::default()
    };
    Group::new(GroupConfig { ranks, ranks_per_node, device }).expect("the shape is good")
}

/// `k(x, y, n)`, with `%n` the number and `%t` the thread.
fn kernel(body: &str) -> Module {
    let text = format!(
        ".visible .entry k(.param .u64 x, .param .u64 y, .param .u32 n) {{\n\
         .reg .pred %p<16>; .reg .b32 %r<40>; .reg .b64 %rd<40>;\n\
         .reg .b32 %t, %n; .reg .b64 %x, %y;\n\
         ld.param.u64 %x, [x]; ld.param.u64 %y, [y]; ld.param.u32 %n, [n]; mov.u32 %t, %tid.x;\n\
         {body}\nret;\n}}\n"
    );
    module(&text).expect("it parses")
}

fn queued(module: &Module, x: u64, y: u64, n: u32) -> QueuedLaunch {
    QueuedLaunch {
        label: format!("launch {n}"),
        module: module.clone(),
        kernel: "k".to_string(),
        config: LaunchConfig::default(),
        args: vec![Arg::U64(x), Arg::U64(y), Arg::U32(n)],
    }
}

fn schedules() -> impl Iterator<Item = Schedule> {
    std::iter::once(Schedule::InOrder).chain((0..20).map(Schedule::Seeded))
}

#[test]
fn ranks_have_windows_and_symmetric_memory_the_same_offset() {
    let mut group = group(4, 2, Schedule::InOrder);
    for rank in 0..4 {
        let bytes = 100 * (rank as usize + 1);
        let address = group.device_mut(rank).alloc(bytes, "own").expect("there is room");
        assert_eq!(address >> 40, u64::from(rank) + 1);
    }
    let id = group.alloc_symmetric(64, "shared").expect("there is room");
    let offset = |rank| group.address(id, rank) - (u64::from(rank + 1) << 40);
    assert!((0..4).all(|rank| offset(rank) == offset(0) && offset(rank) >= 400));
    group.free_symmetric(id).expect("it lives");
    assert!(group.free_symmetric(id).is_err());
}

#[test]
fn a_shape_that_does_not_fit_is_refused() {
    for (ranks, ranks_per_node) in [(0, 1), (3, 2), (200, 2), (2, 0)] {
        let config = GroupConfig { ranks, ranks_per_node, ..GroupConfig::default() };
        assert!(matches!(Group::new(config), Err(Error::Limit(_))));
    }
}

#[test]
fn ping_and_pong_between_two_ranks() {
    // x: own flag, y: the peer's; rank 0 begins. Each adds one to what it got and passes it on.
    let module = kernel(
        "mov.u32 %r1, 0;\n\
         again: setp.eq.u32 %p1, %n, 0; setp.eq.u32 %p2, %r1, 0; and.pred %p3, %p1, %p2;\n\
         @%p3 bra send;\n\
         wait: ld.acquire.sys.global.u32 %r2, [%x]; setp.le.u32 %p4, %r2, %r1; @%p4 bra wait;\n\
         mov.u32 %r1, %r2;\n\
         send: setp.ge.u32 %p5, %r1, 10; @%p5 bra end;\n\
         add.u32 %r3, %r1, 1; st.release.sys.global.u32 [%y], %r3;\n\
         setp.eq.u32 %p3, %r1, 0; @%p3 mov.u32 %r1, 1; \n\
         bra again;\n\
         end: setp.eq.u32 %p6, %r1, 10; add.u32 %r3, %r1, 1; @%p6 st.release.sys.global.u32 [%y], %r3;",
    );
    for schedule in schedules() {
        let mut group = group(2, 2, schedule);
        let flag = group.alloc_symmetric(4, "flag").expect("there is room");
        let at = [group.address(flag, 0), group.address(flag, 1)];
        let zero = [0; 4];
        at.iter().zip(0..).for_each(|(&at, rank)| {
            group.device_mut(rank).write(at, &zero).expect("it is there");
        });
        let queue = |rank: usize| vec![queued(&module, at[rank], at[1 - rank], rank as u32)];
        group.run(&[queue(0), queue(1)]).expect("it runs");
        let mut last = [0; 4];
        group.device(0).read(at[0], &mut last).expect("it is there");
        assert!([10, 11].contains(&words(&last)[0]), "{schedule:?} {last:?}");
    }
}

#[test]
fn launches_of_a_rank_run_in_their_order_and_ranks_apart() {
    // Each launch multiplies by 10 and adds its number; a rank that is ahead waits for nobody.
    let module = kernel(
        "ld.global.u32 %r1, [%x]; mul.lo.u32 %r1, %r1, 10; add.u32 %r1, %r1, %n;\n\
         st.global.u32 [%x], %r1; fence.acq_rel.gpu;",
    );
    for schedule in schedules() {
        let mut group = group(3, 3, schedule);
        let mut queues = Vec::new();
        let mut places = Vec::new();
        for rank in 0..3 {
            let x = group.device_mut(rank).alloc(4, "x").expect("there is room");
            group.device_mut(rank).write(x, &[0; 4]).expect("it is there");
            let launch = |n| queued(&module, x, 0, n + rank);
            queues.push((1..4).map(launch).collect::<Vec<_>>());
            places.push(x);
        }
        let report = group.run(&queues).expect("it runs");
        assert!(report.launches.iter().all(|rank| rank.len() == 3));
        for (rank, &x) in (0u32..).zip(&places) {
            let mut out = [0; 4];
            group.device(rank).read(x, &mut out).expect("it is there");
            assert_eq!(words(&out), [123 + 111 * rank]);
        }
    }
}

fn fault(group: &mut Group, x: u64) -> (FaultKind, String) {
    let module = kernel("ld.global.u32 %r1, [%x];\nst.global.u32 [%x], %r1;");
    let ranks = group.config().ranks;
    let mut queues = vec![Vec::new(); ranks as usize];
    queues[1].push(queued(&module, x, 0, 7));
    match group.run(&queues) {
        Err(Error::Fault(fault)) => {
            assert_eq!(fault.rank, Some((1, "launch 7".to_string())));
            (fault.kind.clone(), fault.to_string())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn memory_out_of_reach_is_a_fault_that_says_so() {
    let mut group = group(4, 2, Schedule::InOrder);
    let table = group.alloc_symmetric(64, "table").expect("there is room");
    let own = group.device_mut(0).alloc(64, "own").expect("there is room");
    let far = group.address(table, 2) + 8;
    let (kind, text) = fault(&mut group, far);
    assert!(matches!(kind, FaultKind::Peer(_)));
    for part in ["rank 1 of node 0", "rank 2 of node 1", "byte 8 of `table`", "PTX line 8: `ld."] {
        assert!(text.contains(part), "{text}");
    }
    let (kind, text) = fault(&mut group, own);
    assert!(matches!(kind, FaultKind::Peer(_)));
    for part in ["rank 1", "rank 0", "not symmetric", "`own`", "PTX line 8"] {
        assert!(text.contains(part), "{text}");
    }
    let past = group.address(table, 0) + 64;
    let (kind, text) = fault(&mut group, past);
    assert_eq!(kind, FaultKind::OutOfBounds);
    assert!(text.contains("0 bytes past the end of `table`"), "{text}");
}

#[test]
fn a_seed_fixes_the_run_on_any_number_of_host_threads() {
    // Tickets that all CTAs of all ranks draw from one counter.
    let module = kernel(
        "atom.relaxed.sys.global.add.u32 %r1, [%x], 1; mov.u32 %r2, %ctaid.x;\n\
         mad.wide.u32 %rd1, %r2, 4, %y; st.global.u32 [%rd1], %r1;",
    );
    let run = |schedule, threads| {
        let device =
            DeviceConfig { schedule, threads, memory_bytes: 1 << 28, ..Default::default() };
        let config = GroupConfig { ranks: 4, ranks_per_node: 4, device };
        let mut group = Group::new(config).expect("the shape is good");
        let counter = group.alloc_symmetric(4, "counter").expect("there is room");
        let out = group.alloc_symmetric(64, "out").expect("there is room");
        let at = group.address(counter, 0);
        group.device_mut(0).write(at, &[0; 4]).expect("it is there");
        let launch = |rank| QueuedLaunch {
            config: LaunchConfig { grid: [16, 1, 1], ..LaunchConfig::default() },
            ..queued(&module, at, group.address(out, rank), 0)
        };
        let queues: Vec<_> = (0..4).map(|rank| vec![launch(rank)]).collect();
        group.run(&queues).expect("it runs");
        let mut all = Vec::new();
        for rank in 0..4 {
            let mut bytes = [0; 64];
            group.device(rank).read(group.address(out, rank), &mut bytes).expect("it is there");
            all.extend(words(&bytes));
        }
        all
    };
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..5 {
        let tickets = run(Schedule::Seeded(seed), 1);
        assert_eq!(tickets, run(Schedule::Seeded(seed), 3));
        let mut sorted = tickets.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..64).collect::<Vec<u32>>());
        seen.insert(tickets);
    }
    assert_eq!(seen.len(), 5);
}

#[test]
fn a_timeline_shows_ranks_side_by_side() {
    // Rank 0 runs 10 CTAs of 100 steps on 4 SMs, then signals; rank 1 waits and goes on.
    let work =
        kernel("mov.u32 %r1, 0; c: add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 100; @%p1 bra c;");
    let signal = kernel("mov.u32 %r1, 1; pmevent 3; st.release.sys.global.u32 [%y], %r1;");
    let wait = kernel(
        "w: ld.acquire.sys.global.u32 %r1, [%x]; setp.ne.u32 %p1, %r1, 1; @%p1 bra w; pmevent 4;",
    );
    for schedule in schedules() {
        let device = DeviceConfig {
            sm_count: 4,
            schedule,
            threads: 1,
            memory_bytes: 1 << 28,
            timeline: true,
            ..DeviceConfig::default()
        };
        let config = GroupConfig { ranks: 2, ranks_per_node: 2, device };
        let mut group = Group::new(config).expect("the shape is good");
        let flag = group.alloc_symmetric(4, "flag").expect("there is room");
        let at = group.address(flag, 1);
        group.device_mut(1).write(at, &[0; 4]).expect("it is there");
        let many = QueuedLaunch {
            config: LaunchConfig { grid: [10, 1, 1], ..LaunchConfig::default() },
            ..queued(&work, 0, 0, 0)
        };
        let queues = [vec![many, queued(&signal, 0, at, 1)], vec![queued(&wait, at, 0, 2)]];
        let report = group.run(&queues).expect("it runs");
        let timeline = report.timeline.expect("it was asked for");
        let first: Vec<_> =
            timeline.ctas.iter().filter(|cta| (cta.rank, cta.launch) == (0, 0)).collect();
        assert_eq!(first.len(), 10);
        for (index, one) in first.iter().enumerate() {
            assert!(one.end - one.begin > 300 && one.sm < 4);
            let meets = |other: &moec_emulator::CtaSpan| {
                other.sm == one.sm && one.begin < other.end && other.begin < one.end
            };
            assert!(first[..index].iter().all(|other| !meets(other)));
        }
        let end = first.iter().map(|cta| cta.end).max().expect("there are ten");
        let [sent, seen] = [8, 16].map(|event| {
            let mut marks = timeline.marks.iter().filter(|mark| mark.events == event);
            marks.next().expect("it was made")
        });
        assert!(sent.time >= end && (sent.rank, sent.launch, seen.rank) == (0, 1, 1));
        assert!(seen.time + 300 > sent.time && timeline.ticks >= seen.time, "{schedule:?}");
    }
}
