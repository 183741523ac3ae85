//! Random schedules: reproducible, different from each other, and fatal to kernels that rely on
//! an order that nothing guarantees.

mod machine;

use machine::{block, kernel, module, run_scheduled, words};
use moec_emulator::{Arg, Device, DeviceConfig, Error, LaunchConfig, LaunchReport, Schedule};

const SEEDS: std::ops::Range<u64> = 0..20;

fn output(body: &str, threads: u32, seed: u64) -> Result<Vec<u32>, Error> {
    let x: Vec<u8> = (0..1024u32).flat_map(|index| (index * 3 + 1).to_le_bytes()).collect();
    let text = kernel(body);
    let (bytes, _) = run_scheduled(Schedule::Seeded(seed), &text, &block(threads), &x, &[0; 4096])?;
    Ok(words(&bytes))
}

/// Seeds under which the kernel does not give `expected`.
fn caught(body: &str, threads: u32, expected: &[u32]) -> usize {
    let is_wrong = |&seed: &u64| match output(body, threads, seed) {
        Ok(out) => out[..expected.len()] != *expected,
        Err(_) => true,
    };
    SEEDS.filter(is_wrong).count()
}

/// Runs on so many host threads: every warp of every CTA draws a number in the order in which it
/// comes.
fn tickets(schedule: Schedule, threads: usize) -> (Vec<u32>, LaunchReport) {
    let text = kernel(
        ".shared .align 4 .u32 next; mov.u32 %r0, %laneid; setp.ne.u32 %p1, %r0, 0;\n\
         mov.u32 %r9, 0; loop: add.u32 %r9, %r9, 1; setp.lt.u32 %p2, %r9, 40; @%p2 bra loop;\n\
         @%p1 bra end; atom.shared.add.u32 %r1, [next], 1;\n\
         mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.u32 %r4, %r2, %r3, %t;\n\
         shr.u32 %r4, %r4, 5; mad.wide.u32 %rd1, %r4, 4, %y; st.global.u32 [%rd1], %r1;\n\
         end:",
    );
    let module = module(&text).expect("it parses");
    let config = DeviceConfig { schedule, threads, ..DeviceConfig::default() };
    let mut device = Device::new(config);
    let y = device.alloc(1024, "y").expect("there is room");
    let launch = LaunchConfig { grid: [32, 1, 1], block: [256, 1, 1], ..LaunchConfig::default() };
    let report = device.launch(&module, "k", &launch, &[Arg::U64(0), Arg::U64(y)]);
    let report = report.expect("it runs");
    let mut out = [0; 1024];
    device.read(y, &mut out).expect("it is there");
    (words(&out), report)
}

#[test]
fn a_seed_fixes_the_execution_on_any_number_of_host_threads() {
    let (in_order, _) = tickets(Schedule::InOrder, 1);
    assert!(in_order.chunks(8).all(|cta| cta == [0, 1, 2, 3, 4, 5, 6, 7]));
    for seed in 0..4 {
        let (alone, report) = tickets(Schedule::Seeded(seed), 1);
        let (shared, same) = tickets(Schedule::Seeded(seed), 4);
        assert_eq!((&alone, report.warp_instructions), (&shared, same.warp_instructions));
        assert_ne!(alone, in_order);
        assert_ne!(alone, tickets(Schedule::Seeded(seed + 100), 1).0);
        assert!(alone.chunks(8).any(|cta| cta != &alone[..8]), "CTAs have orders of their own");
    }
}

#[test]
fn a_missing_barrier_is_noticed() {
    let kernel = |barrier: &str| {
        format!(
            ".shared .align 4 .b8 s[1024];\n\
             shl.b32 %r1, %t, 2; mov.u32 %r2, s; add.u32 %r3, %r2, %r1; st.shared.u32 [%r3], %t;\n\
             {barrier}\n\
             xor.b32 %r4, %r1, 512; add.u32 %r3, %r2, %r4; ld.shared.u32 %r5, [%r3];\n\
             mad.wide.u32 %rd1, %t, 4, %y; st.global.u32 [%rd1], %r5;"
        )
    };
    let expected: Vec<u32> = (0..256).map(|thread| thread ^ 128).collect();
    assert_eq!(caught(&kernel("bar.sync 0;"), 256, &expected), 0);
    assert!(caught(&kernel(""), 256, &expected) > 15);
}

#[test]
fn a_wait_that_gives_up_must_be_repeated() {
    let kernel = |again: &str| {
        format!(
            ".shared .align 8 .b64 bar; .shared .align 4 .u32 v;\n\
             setp.eq.u32 %p1, %t, 0; @%p1 mbarrier.init.shared.b64 [bar], 32; bar.sync 0;\n\
             setp.lt.u32 %p2, %t, 32; @!%p2 bra wait;\n\
             mov.u32 %r9, 0; loop: add.u32 %r9, %r9, 1; setp.lt.u32 %p3, %r9, 40; @%p3 bra loop;\n\
             mov.u32 %r1, 77; st.shared.u32 [v], %r1;\n\
             mbarrier.arrive.shared.b64 _, [bar]; bra end;\n\
             wait: mbarrier.try_wait.parity.shared.b64 %p4, [bar], 0; {again}\n\
             ld.shared.u32 %r2, [v]; st.global.u32 [%y], %r2;\n\
             end:"
        )
    };
    assert_eq!(caught(&kernel("@!%p4 bra wait;"), 64, &[77]), 0);
    assert!(caught(&kernel(""), 64, &[77]) > 0);
}

#[test]
fn any_lane_may_be_elected_but_always_the_same() {
    let body = "elect.sync %r1|%p1, -1; elect.sync %r2|%p2, -1;\n\
                @%p1 st.global.u32 [%y], %t; @%p2 st.global.u32 [%y+4], %t;\n\
                st.global.u32 [%y+8], %r1;";
    let mut lanes = std::collections::BTreeSet::new();
    for seed in SEEDS {
        let out = output(body, 32, seed).expect("it runs");
        assert!(out[0] == out[1] && out[1] == out[2]);
        lanes.insert(out[0]);
    }
    assert!(lanes.len() > 5, "{lanes:?}");
    // What only lane 0 knows is not what the elected lane knows.
    let relies = "setp.eq.u32 %p2, %t, 0; mov.u32 %r3, 0; @%p2 mov.u32 %r3, 5;\n\
                  elect.sync %r1|%p1, -1; @%p1 st.global.u32 [%y], %r3;";
    assert!(caught(relies, 32, &[5]) > 10);
}

#[test]
fn clusters_are_admitted_in_any_order() {
    let text = kernel(
        "mov.u32 %r1, %ctaid.x; atom.global.add.u32 %r2, [%y], 1;\n\
         mad.wide.u32 %rd1, %r1, 4, %y; st.global.u32 [%rd1+4], %r2;",
    );
    let launch = LaunchConfig { grid: [64, 1, 1], ..LaunchConfig::default() };
    let run = |seed| {
        let done = run_scheduled(Schedule::Seeded(seed), &text, &launch, &[0; 4], &[0; 260]);
        words(&done.expect("it runs").0)[1..].to_vec()
    };
    let (one, other) = (run(1), run(2));
    assert_eq!(one, run(1));
    assert_ne!(one, other);
    for mut order in [one, other] {
        assert!(order.iter().enumerate().any(|(at, &ticket)| ticket.abs_diff(at as u32) > 16));
        order.sort_unstable();
        assert_eq!(order, (0..64).collect::<Vec<u32>>());
    }
}
