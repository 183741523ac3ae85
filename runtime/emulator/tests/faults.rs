//! What a kernel or a host program does wrong is reported, with its place.

mod machine;

use machine::{block, device, kernel, module, run};
use moec_emulator::{Arg, Device, DeviceConfig, Error, Fault, FaultKind, LaunchConfig};

fn fault(body: &str, threads: u32) -> Fault {
    match run(&kernel(body), &block(threads), &[0; 128], &[0; 128]) {
        Err(Error::Fault(fault)) => *fault,
        other => panic!("{body}: no fault but {other:?}"),
    }
}

#[test]
fn an_access_past_the_end_names_the_thread_the_line_and_the_allocation() {
    let found = fault("mad.wide.u32 %rd1, %t, 4, %x;\nst.global.u32 [%rd1+4], %t;", 32);
    assert_eq!(found.kind, FaultKind::OutOfBounds);
    assert_eq!((found.cta, found.thread), ([0; 3], [31, 0, 0]));
    assert_eq!(found.line, 9);
    assert_eq!(found.instruction, "st.global.u32");
    assert_eq!(found.nearest.as_deref(), Some("0 bytes past the end of `x` (128 bytes)"));
    let text = found.to_string();
    assert!(text.contains("kernel `k`") && text.contains("4 bytes at 0x"), "{text}");
}

#[test]
fn every_space_has_its_bounds() {
    for body in [
        "mov.u64 %rd1, 0; ld.global.u32 %r1, [%rd1];",
        "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%x+120];",
        "mov.u32 %r1, 0; ld.shared.u32 %r2, [%r1];",
        ".shared .align 4 .b8 s[64]; ld.shared.u32 %r2, [s+64];",
        ".local .align 4 .b8 l[64]; ld.local.u32 %r2, [l+1024];",
        "ld.param.u64 %rd1, [x+16];",
        "atom.global.add.u32 %r1, [%x+128], 1;",
    ] {
        let kind = fault(body, 1).kind;
        assert!(matches!(kind, FaultKind::OutOfBounds | FaultKind::Misaligned), "{body}: {kind}");
    }
}

#[test]
fn misaligned_accesses_fault() {
    for body in [
        "ld.global.u32 %r1, [%x+2];",
        "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%x+8];",
        ".shared .align 16 .b8 s[64]; st.shared.u64 [s+4], %x;",
    ] {
        assert_eq!(fault(body, 32).kind, FaultKind::Misaligned, "{body}");
    }
}

#[test]
fn freed_memory_is_told_apart() {
    let module = module(&kernel("ld.global.u32 %r1, [%x];")).expect("it parses");
    let mut device = device();
    let x = device.alloc(64, "weights").expect("there is room");
    device.free(x).expect("it was allocated");
    let result = device.launch(&module, "k", &block(1), &[Arg::U64(x), Arg::U64(0)]);
    let Err(Error::Fault(fault)) = result else { panic!("{result:?}") };
    assert_eq!(fault.kind, FaultKind::UseAfterFree);
    assert!(fault.nearest.is_some_and(|text| text.contains("`weights`")));
    assert!(matches!(device.free(x), Err(Error::Memory(_))));
    assert!(device.write(x, &[1]).is_err() && device.read(x, &mut [0]).is_err());
}

#[test]
fn traps_and_assertions_end_the_launch() {
    let found = fault("setp.eq.u32 %p1, %t, 3; @%p1 trap;", 32);
    assert_eq!(found.thread, [3, 0, 0]);
    assert!(matches!(found.kind, FaultKind::Trap(_)));
}

#[test]
fn misuse_of_warp_instructions_and_barriers_is_found() {
    for body in [
        // Lane 0 executes, but the member mask has only lane 1.
        "shfl.sync.idx.b32 %r1, %t, 0, 31, 2;",
        // Two barriers with different counts at once.
        "setp.lt.u32 %p1, %t, 32; @%p1 bra A; bar.sync 1, 64; bra B; A: bar.sync 1, 96; B:",
        "mov.u32 %r1, 17; bar.sync %r1;",
        "bar.sync 1, 33;",
    ] {
        assert!(matches!(fault(body, 64).kind, FaultKind::Misuse(_)), "{body}");
    }
}

fn deadlock(body: &str, threads: u32) -> String {
    match run(&kernel(body), &block(threads), &[0; 4], &[0; 4]) {
        Err(Error::Deadlock { waits, .. }) => waits,
        other => panic!("{body}: no deadlock but {other:?}"),
    }
}

#[test]
fn a_deadlock_says_who_waits_where() {
    let waits = deadlock("setp.lt.u32 %p1, %t, 32; @%p1 bar.sync 2, 96;", 64);
    assert!(waits.contains("warp 0") && waits.contains("barrier 2"), "{waits}");
    assert!(waits.contains("32 of 96 threads"), "{waits}");
}

#[test]
fn a_loop_that_changes_nothing_is_a_deadlock() {
    let waits =
        deadlock("L: ld.volatile.global.u32 %r1, [%y]; setp.eq.u32 %p1, %r1, 0; @%p1 bra L;", 32);
    assert!(waits.contains("loop"), "{waits}");
}

#[test]
fn launches_that_do_not_fit_are_refused() {
    let module = module(
        ".entry k(.param .u64 x, .param .u32 n) .reqntid 64 { ret; }\n\
         .entry wide() { ret; }",
    )
    .expect("it parses");
    assert_eq!(module.kernels().collect::<Vec<_>>(), ["k", "wide"]);
    let mut device = device();
    let two = [Arg::U64(0), Arg::U32(1)];
    let mut refused = |kernel: &str, config: LaunchConfig, args: &[Arg]| match device
        .launch(&module, kernel, &config, args)
    {
        Err(Error::Launch { message, .. }) => message,
        other => panic!("{other:?}"),
    };
    assert!(refused("nothing", block(64), &[]).contains("k, wide"));
    assert!(refused("k", block(64), &two[..1]).contains("1 arguments for 2"));
    assert!(refused("k", block(64), &[Arg::U32(0), Arg::U32(1)]).contains("4 bytes"));
    assert!(refused("k", block(32), &two).contains("requires [64, 1, 1]"));
    assert!(refused("wide", block(1025), &[]).contains("1025 threads"));
    let config = LaunchConfig { grid: [0, 1, 1], ..block(1) };
    assert!(refused("wide", config, &[]).contains("none may be 0"));
    let config = LaunchConfig { dynamic_shared_bytes: 300_000, ..block(1) };
    assert!(refused("wide", config, &[]).contains("300000"));
    let config = LaunchConfig { grid: [1 << 20, 1, 1], cooperative: true, ..block(1024) };
    assert!(refused("wide", config, &[]).contains("fit at once"));
}

#[test]
fn device_memory_is_limited_and_aligned() {
    let mut device = Device::new(DeviceConfig {
        memory_bytes: 1 << 20,
        poison: Some(0xff),
        ..Default::default()
    });
    let first = device.alloc(100, "a").expect("there is room");
    let second = device.alloc(100, "b").expect("there is room");
    assert_eq!((first % 256, second % 256), (0, 0));
    let mut byte = [0];
    device.read(first + 99, &mut byte).expect("it is there");
    assert_eq!(byte, [0xff]);
    assert!(device.alloc(1 << 20, "c").is_err());
    assert!(device.write(first + 96, &[0; 8]).is_err());
    assert!(device.free(first + 1).is_err());
}

#[test]
fn what_is_not_known_is_refused_with_name_and_line() {
    for (body, word) in [
        ("frobnicate.b32 %r1, %r2;", "frobnicate.b32"),
        ("add.sideways.u32 %r1, %r2, %r3;", "sideways"),
        ("tex.1d.v4.f32.s32 {%r1,%r2,%r3,%r4}, [x, {%r5}];", "tex.1d"),
    ] {
        match module(&kernel(body)) {
            Err(Error::Unsupported { line, instruction, message }) => {
                assert_eq!(line, 8);
                assert!(
                    format!("{instruction} {message}").contains(word),
                    "{instruction} {message}"
                );
            }
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn hostile_text_is_refused_or_limited() {
    let deep = "{".repeat(100_000);
    let wide = ".reg .b32 %r<4000000000>; mov.u32 %r3999999999, 1;";
    assert!(module(&format!(".entry k() {{ {deep}")).is_err());
    assert!(module(&format!(".entry k() {{ {wide} ret; }}")).is_ok());
    for text in [
        ".shared .b8 x[99999999999];",
        ".global .b8 x[99999999999999];",
        ".global .b8 x[4] = {1,2,3,4,5};",
        ".entry k() { .local .b8 x[1000000000]; ret; }",
        ".entry k() { bra NOWHERE; }",
        ".entry k() { mov.u32 %r1, 0; }",
        ".entry k() { .reg .b32 a; .reg .b64 b; add.u32 a, b, 1; }",
        ".entry k(.param .b8 x[100000]) { ret; }",
        ".entry k() { L: L: ret; }",
        ".entry k() { ret;",
        "/* no end",
        "\u{0}\u{7f}ELF",
    ] {
        assert!(module(text).is_err(), "{text}");
    }
}

#[test]
fn endless_recursion_ends_at_a_limit() {
    let text = format!(
        ".func f() {{ .local .align 4 .b8 l[64]; call.uni f, (); ret; }}\n{}",
        kernel("call.uni f, ();")
    );
    let result = run(&text, &block(32), &[0; 4], &[0; 4]);
    let Err(Error::Fault(fault)) = result else { panic!("{result:?}") };
    assert!(matches!(fault.kind, FaultKind::Limit(_)), "{fault}");
}

#[test]
fn the_lowest_cta_that_faults_is_reported_whatever_the_threads() {
    let text = kernel(
        "mov.u32 %r1, %ctaid.x; setp.lt.u32 %p1, %r1, 37; @%p1 bra END;\n\
         mov.u64 %rd1, 0; st.global.u32 [%rd1], %t;\nEND:",
    );
    let module = module(&text).expect("it parses");
    for threads in [1, 4] {
        let mut device = Device::new(DeviceConfig { threads, ..DeviceConfig::default() });
        let config = LaunchConfig { grid: [512, 1, 1], ..block(128) };
        let result = device.launch(&module, "k", &config, &[Arg::U64(0), Arg::U64(0)]);
        let Err(Error::Fault(fault)) = result else { panic!("{result:?}") };
        assert_eq!(fault.cta, [37, 0, 0]);
    }
}

#[test]
fn results_and_counts_do_not_depend_on_host_threads() {
    let text = kernel(
        "mov.u32 %r1, %ctaid.x; mad.lo.u32 %r2, %r1, 128, %t; cvt.rn.f32.u32 %r3, %r2;\n\
         mul.f32 %r3, %r3, 0f3A83126F; sin.approx.f32 %r4, %r3; ex2.approx.f32 %r5, %r4;\n\
         fma.rn.f32 %r6, %r4, %r5, %r3; mad.wide.u32 %rd1, %r2, 4, %y;\n\
         st.global.f32 [%rd1], %r6;",
    );
    let module = module(&text).expect("it parses");
    let run = |threads| {
        let mut device = Device::new(DeviceConfig { threads, ..DeviceConfig::default() });
        let y = device.alloc(512 * 512, "y").expect("there is room");
        let config = LaunchConfig { grid: [512, 1, 1], ..block(128) };
        let args = [Arg::U64(y), Arg::U64(y)];
        let report = device.launch(&module, "k", &config, &args).expect("it runs");
        let mut out = vec![0; 512 * 512];
        device.read(y, &mut out).expect("it is there");
        (out, report.warp_instructions, report.lane_instructions, report.global_store_bytes)
    };
    let (one, four) = (run(1), run(4));
    assert!(one == four);
    assert_eq!(one.3, 512 * 512);
    assert!(one.0.iter().any(|&byte| byte != 0));
}
