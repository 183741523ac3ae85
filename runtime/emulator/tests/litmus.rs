//! Litmus tests of the memory model: an outcome that the PTX ISA forbids must never appear, one
//! that it allows must appear under some seeds (PTX ISA chapter 8).

mod machine;

use std::collections::BTreeSet;

use machine::{module, words};
use moec_emulator::{
    Arg, Device, DeviceConfig, Group, GroupConfig, LaunchConfig, Module, QueuedLaunch, Schedule,
};

const SEEDS: std::ops::Range<u64> = 0..300;

/// `k(x, r)`: CTA (or rank) `%n` runs `bodies[n]`; `%x` is the place of X, Y lies 256 bytes behind
/// it, results go to `%r` and behind.
fn text(bodies: &[&str], by_rank: bool) -> Module {
    let mut all = String::new();
    for (number, body) in bodies.iter().enumerate() {
        all += &format!("t{number}: {body}\nbra end;\n");
    }
    let jumps: String = (0..bodies.len())
        .map(|number| format!("setp.eq.u32 %p1, %n, {number}; @%p1 bra t{number};\n"))
        .collect();
    let number = if by_rank { "ld.param.u32 %n, [n];" } else { "mov.u32 %n, %ctaid.x;" };
    let text = format!(
        ".visible .entry k(.param .u64 x, .param .u64 r, .param .u32 n) {{\n\
         .reg .pred %p<8>; .reg .b32 %a, %b, %c, %n; .reg .b64 %x, %y, %r, %q;\n\
         ld.param.u64 %x, [x]; ld.param.u64 %r, [r]; add.u64 %y, %x, 256;\n\
         mov.u32 %a, 9; mov.u32 %b, 9; {number}\n{jumps}{all}end: ret;\n}}\n"
    );
    module(&text).expect("it parses")
}

/// The results of `count` words over all seeds, with one CTA per body on one device.
fn outcomes(bodies: &[&str], count: usize) -> BTreeSet<Vec<u32>> {
    outcomes_of(SEEDS, bodies, count)
}

fn outcomes_of(seeds: std::ops::Range<u64>, bodies: &[&str], count: usize) -> BTreeSet<Vec<u32>> {
    let module = text(bodies, false);
    let run = |seed| {
        let schedule = Schedule::Seeded(seed);
        let mut device = Device::new(DeviceConfig {
            schedule,
            threads: 1,
            memory_bytes: 1 << 24,
            livelock_instructions: 1 << 20,
            ..DeviceConfig::default()
        });
        let x = device.alloc(512, "x").expect("there is room");
        let r = device.alloc(64, "r").expect("there is room");
        device.write(x, &[0; 512]).expect("it is there");
        let config = LaunchConfig { grid: [bodies.len() as u32, 1, 1], ..LaunchConfig::default() };
        let args = [Arg::U64(x), Arg::U64(r), Arg::U32(0)];
        device.launch(&module, "k", &config, &args).expect("it runs");
        let mut out = vec![0; 4 * count];
        device.read(r, &mut out).expect("it is there");
        words(&out)
    };
    seeds.map(run).collect()
}

/// As [`outcomes`], with one rank per body; X and Y lie on the last rank, results too.
fn rank_outcomes(bodies: &[&str], count: usize) -> BTreeSet<Vec<u32>> {
    let module = text(bodies, true);
    let ranks = bodies.len() as u32;
    let run = |seed| {
        let device = DeviceConfig {
            schedule: Schedule::Seeded(seed),
            threads: 1,
            memory_bytes: 1 << 24,
            livelock_instructions: 1 << 20,
            ..DeviceConfig::default()
        };
        let mut group =
            Group::new(GroupConfig { ranks, ranks_per_node: ranks, device }).expect("it fits");
        let x = group.alloc_symmetric(512, "x").expect("there is room");
        let r = group.alloc_symmetric(64, "r").expect("there is room");
        let (x, r) = (group.address(x, ranks - 1), group.address(r, ranks - 1));
        group.device_mut(ranks - 1).write(x, &[0; 512]).expect("it is there");
        let queue = |rank| {
            vec![QueuedLaunch {
                label: format!("thread {rank}"),
                module: module.clone(),
                kernel: "k".to_string(),
                config: LaunchConfig::default(),
                args: vec![Arg::U64(x), Arg::U64(r), Arg::U32(rank)],
            }]
        };
        group.run(&(0..ranks).map(queue).collect::<Vec<_>>()).expect("it runs");
        let mut out = vec![0; 4 * count];
        group.device(ranks - 1).read(r, &mut out).expect("it is there");
        words(&out)
    };
    SEEDS.map(run).collect()
}

const RESULTS: &str = "st.global.u32 [%r], %a; st.global.u32 [%r+4], %b;";

fn writer(signal: &str) -> String {
    format!("mov.u32 %c, 1; st.global.u32 [%x], %c; {signal}")
}

fn reader(load: &str, fence: &str) -> String {
    format!("{load} {fence} ld.global.u32 %b, [%x]; {RESULTS}")
}

#[test]
fn message_passing_needs_release_and_acquire() {
    let release = writer("st.release.gpu.global.u32 [%y], %c;");
    let fenced = writer("fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%y], %c;");
    let relaxed = writer("st.relaxed.gpu.global.u32 [%y], %c;");
    let atomic = writer("red.release.gpu.global.add.u32 [%y], 1;");
    let cta = writer("st.release.cta.global.u32 [%y], %c;");
    let acquire = reader("ld.acquire.gpu.global.u32 %a, [%y];", "");
    let fence = reader("ld.relaxed.gpu.global.u32 %a, [%y];", "fence.acq_rel.gpu;");
    let volatile = reader("ld.volatile.global.u32 %a, [%y];", "membar.gl;");
    let loose = reader("ld.relaxed.gpu.global.u32 %a, [%y];", "");
    // The reader has X in its cache.
    let warm = format!("ld.global.u32 %b, [%x]; {loose}");
    let narrow = reader("ld.relaxed.gpu.global.u32 %a, [%y];", "fence.acq_rel.cta;");
    let patient = reader(
        "wait: ld.acquire.gpu.global.u32 %a, [%y]; setp.ne.u32 %p2, %a, 1; @%p2 bra wait;",
        "",
    );
    let bad = vec![1, 0];
    for writer in [&release, &fenced, &atomic] {
        for reader in [&acquire, &fence, &volatile] {
            let seen = outcomes(&[writer, reader], 2);
            assert!(!seen.contains(&bad), "{writer} {reader}");
            assert!(seen.contains(&vec![1, 1]) && seen.contains(&vec![0, 0]), "{seen:?}");
        }
        for reader in [&loose, &warm, &narrow] {
            assert!(outcomes(&[writer, reader], 2).contains(&bad), "{writer} {reader}");
        }
    }
    for writer in [&relaxed, &cta] {
        assert!(outcomes(&[writer, &patient], 2).contains(&bad), "{writer}");
    }
}

#[test]
fn store_buffering_needs_sequential_fences() {
    let thread = |fence: &str, mine: &str, other: &str, to: u32| {
        format!(
            "mov.u32 %c, 1; st.relaxed.gpu.global.u32 [{mine}], %c; {fence}\n\
             ld.relaxed.gpu.global.u32 %a, [{other}]; st.global.u32 [%r+{to}], %a;"
        )
    };
    let both = |fence: &str| {
        let (one, two) = (thread(fence, "%x", "%y", 0), thread(fence, "%y", "%x", 4));
        outcomes(&[&one, &two], 2)
    };
    assert!(both("").contains(&vec![0, 0]));
    assert!(both("fence.sc.cta;").contains(&vec![0, 0]));
    let fenced = both("fence.sc.gpu;");
    assert!(!fenced.contains(&vec![0, 0]), "{fenced:?}");
    assert!(fenced.len() == 3, "{fenced:?}");
}

#[test]
fn independent_reads_may_see_independent_writes_in_different_orders() {
    let write = |place: &str| format!("mov.u32 %c, 1; st.relaxed.gpu.global.u32 [{place}], %c;");
    let read = |first: &str, second: &str, fence: &str, to: u32| {
        let next = to + 4;
        format!(
            "ld.relaxed.gpu.global.u32 %a, [{first}]; {fence}\n\
             ld.relaxed.gpu.global.u32 %b, [{second}];\n\
             st.global.u32 [%r+{to}], %a; st.global.u32 [%r+{next}], %b;"
        )
    };
    let all = |fence: &str| {
        let (one, two) = (read("%x", "%y", fence, 0), read("%y", "%x", fence, 8));
        outcomes_of(0..1000, &[&write("%x"), &write("%y"), &one, &two], 4)
    };
    let bad = vec![1, 0, 1, 0];
    assert!(!all("fence.sc.gpu;").contains(&bad));
    assert!(all("").contains(&bad));
}

#[test]
fn one_location_has_one_order() {
    // Reads of one thread never go back, whatever they are.
    let write = "mov.u32 %c, 1; st.relaxed.gpu.global.u32 [%x], %c;\n\
                 mov.u32 %c, 2; st.relaxed.gpu.global.u32 [%x], %c;";
    for order in ["relaxed.gpu.", "volatile.", ""] {
        let read = format!(
            "ld.{order}global.u32 %a, [%x]; ld.{order}global.u32 %b, [%x];\n\
             ld.{order}global.u32 %c, [%x]; {RESULTS} st.global.u32 [%r+8], %c;"
        );
        let seen = outcomes(&[write, &read], 3);
        assert!(seen.iter().all(|run| run[0] <= run[1] && run[1] <= run[2]), "{seen:?}");
        assert!(seen.len() > 2, "{seen:?}");
    }
    // A thread sees its own stores.
    let own = format!(
        "mov.u32 %c, 5; st.global.u32 [%x], %c; ld.global.u32 %a, [%x];\n\
         mov.u32 %c, 6; st.global.u16 [%x], %c; ld.global.u32 %b, [%x]; {RESULTS} fence.sc.gpu;"
    );
    assert_eq!(outcomes(&[&own], 2), BTreeSet::from([vec![5, 6]]));
}

#[test]
fn atomics_lose_nothing_within_their_scope() {
    let add = |scope: &str| {
        format!(
            "mov.u32 %c, 0; again{scope}: atom.relaxed.{scope}.global.add.u32 %a, [%x], 1;\n\
             add.u32 %c, %c, 1; setp.lt.u32 %p2, %c, 20; @%p2 bra again{scope};"
        )
    };
    let total = |scope: &str, by_rank: bool| {
        let (one, two) = (add(scope), add(scope).replace("again", "once"));
        // The last thread waits until the sum stands still long enough to be the final one.
        let bodies = [one.as_str(), two.as_str()];
        let done = "atom.acq_rel.sys.global.add.u32 %b, [%y], 1; setp.eq.u32 %p3, %b, 1;\n\
                    @%p3 ld.relaxed.sys.global.u32 %a, [%x]; @%p3 st.global.u32 [%r], %a;";
        let bodies: Vec<String> = bodies.iter().map(|body| format!("{body}\n{done}")).collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        if by_rank { rank_outcomes(&bodies, 1) } else { outcomes(&bodies, 1) }
    };
    assert_eq!(total("gpu", false), BTreeSet::from([vec![40]]));
    assert_eq!(total("sys", false), BTreeSet::from([vec![40]]));
    assert_eq!(total("sys", true), BTreeSet::from([vec![40]]));
    // Too narrow a scope loses additions.
    assert!(total("gpu", true).iter().any(|sum| sum[0] < 40));
    assert!(total("cta", false).iter().any(|sum| sum[0] < 40));
}

#[test]
fn between_devices_the_scope_must_be_the_system() {
    let release = |scope: &str| writer(&format!("st.release.{scope}.global.u32 [%y], %c;"));
    let acquire = |scope: &str| {
        let load = format!(
            "wait: ld.acquire.{scope}.global.u32 %a, [%y]; setp.ne.u32 %p2, %a, 1; @%p2 bra wait;"
        );
        reader(&load, "")
    };
    let bad = vec![1, 0];
    let seen = rank_outcomes(&[&release("sys"), &acquire("sys")], 2);
    assert!(!seen.contains(&bad) && seen.contains(&vec![1, 1]), "{seen:?}");
    for (write, read) in [("gpu", "sys"), ("sys", "gpu"), ("gpu", "gpu")] {
        let seen = rank_outcomes(&[&release(write), &acquire(read)], 2);
        assert!(seen.contains(&bad), "{write} {read} {seen:?}");
    }
}

#[test]
fn what_a_thread_has_seen_it_publishes_too() {
    // A writes X for B, B signals C (PTX ISA 8.8, causality order).
    let first = writer("st.release.gpu.global.u32 [%y], %c;");
    let second = |order: &str| {
        format!(
            "wait: ld.acquire.gpu.global.u32 %a, [%y]; setp.ne.u32 %p2, %a, 1; @%p2 bra wait;\n\
             mov.u32 %c, 1; st.{order}gpu.global.u32 [%y+64], %c;"
        )
    };
    let third = "last: ld.acquire.gpu.global.u32 %a, [%y+64]; setp.ne.u32 %p2, %a, 1;\n\
                 @%p2 bra last; ld.global.u32 %b, [%x];\n\
                 st.global.u32 [%r], %a; st.global.u32 [%r+4], %b;";
    let bad = vec![1, 0];
    let seen = outcomes(&[&first, &second("release."), third], 2);
    assert!(!seen.contains(&bad) && seen.contains(&vec![1, 1]), "{seen:?}");
    let seen =
        outcomes(&[&writer("st.relaxed.gpu.global.u32 [%y], %c;"), &second("release."), third], 2);
    assert!(seen.contains(&bad), "{seen:?}");
}
