//! Stack memory taken at run time (PTX ISA 9.7.17).

mod machine;

use machine::{block, kernel, module, run, words};
use moec_emulator::{Error, FaultKind};

#[test]
fn every_thread_takes_as_much_as_it_asks_for() {
    // Thread t takes 4 t + 4 bytes, fills them, takes more, and reads the first ones back.
    let text = kernel(
        "mad.lo.u32 %r1, %t, 4, 4; cvt.u64.u32 %rd1, %r1;\n\
         alloca.u64 %rd2, %rd1, 16; mov.u32 %r2, 0; mov.b64 %rd3, %rd2;\n\
         FILL: mad.lo.u32 %r3, %t, 1000, %r2; st.local.u32 [%rd3], %r3;\n\
         add.u64 %rd3, %rd3, 4; add.u32 %r2, %r2, 1; setp.le.u32 %p1, %r2, %t; @%p1 bra FILL;\n\
         alloca.u64 %rd4, %rd1; st.local.u32 [%rd4], 77;\n\
         mov.u32 %r2, 0; mov.b64 %rd3, %rd2; mov.u32 %r4, 0;\n\
         SUM: ld.local.u32 %r3, [%rd3]; add.u32 %r4, %r4, %r3;\n\
         add.u64 %rd3, %rd3, 4; add.u32 %r2, %r2, 1; setp.le.u32 %p1, %r2, %t; @%p1 bra SUM;\n\
         and.b64 %rd5, %rd2, 15; cvt.u32.u64 %r5, %rd5; add.u32 %r4, %r4, %r5;\n\
         mad.wide.u32 %rd6, %t, 4, %y; st.global.u32 [%rd6], %r4;",
    );
    let out = words(&run(&text, &block(64), &[0; 4], &[0; 256]).unwrap());
    for (t, sum) in (0..64u32).zip(out) {
        assert_eq!(sum, (0..=t).map(|i| 1000 * t + i).sum::<u32>(), "thread {t}");
    }
}

#[test]
fn a_callee_leaves_the_memory_of_its_caller_alone() {
    let text = format!(
        ".func (.param .b32 r) f(.param .b32 a) {{\n\
         .reg .b32 %r<4>; .reg .b64 %rd<4>; .local .align 8 .b8 own[64];\n\
         ld.param.u32 %r1, [a]; alloca.u64 %rd1, 256;\n\
         st.local.u32 [own], %r1; st.local.u32 [own+60], 5; st.local.u32 [%rd1+252], %r1;\n\
         ld.local.u32 %r2, [own]; ld.local.u32 %r3, [%rd1+252]; add.u32 %r2, %r2, %r3;\n\
         st.param.b32 [r], %r2; ret;\n}}\n{}",
        kernel(
            "stacksave.u64 %rd9; alloca.u64 %rd1, 128; mov.u32 %r1, 0;\n\
             st.local.u32 [%rd1], 11; st.local.u32 [%rd1+124], 22;\n\
             LOOP: {.param .b32 a; .param .b32 r; st.param.b32 [a], %t; call (r), f, (a);\n\
             ld.param.b32 %r2, [r];}\n\
             add.u32 %r1, %r1, %r2; add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 3; @%p1 bra LOOP;\n\
             ld.local.u32 %r4, [%rd1]; ld.local.u32 %r5, [%rd1+124];\n\
             add.u32 %r1, %r1, %r4; add.u32 %r1, %r1, %r5;\n\
             stackrestore.u64 %rd9; alloca.u64 %rd2, 8; setp.eq.u64 %p2, %rd1, %rd2;\n\
             @!%p2 add.u32 %r1, %r1, 1000;\n\
             mad.wide.u32 %rd6, %t, 4, %y; st.global.u32 [%rd6], %r1;"
        )
    );
    let out = words(&run(&text, &block(32), &[0; 4], &[0; 128]).unwrap());
    for (t, sum) in (0..32u32).zip(out) {
        assert_eq!(sum, 6 * t + 33, "thread {t}");
    }
}

#[test]
fn generic_addresses_of_taken_memory_work() {
    let text = kernel(
        "alloca.u64 %rd1, 64; cvta.local.u64 %rd2, %rd1; st.u32 [%rd2+8], %t;\n\
         ld.local.u32 %r1, [%rd1+8]; mad.wide.u32 %rd6, %t, 4, %y; st.global.u32 [%rd6], %r1;",
    );
    let out = words(&run(&text, &block(32), &[0; 4], &[0; 128]).unwrap());
    assert_eq!(out, (0..32).collect::<Vec<u32>>());
}

#[test]
fn misuse_is_reported() {
    let too_much = kernel("mov.b64 %rd1, 0xfffffffffffffff0; alloca.u64 %rd2, %rd1, 8388608;");
    let in_a_loop = kernel("LOOP: alloca.u64 %rd2, 4096; bra LOOP;");
    for text in [too_much, in_a_loop] {
        match run(&text, &block(32), &[0; 4], &[0; 4]) {
            Err(Error::Fault(fault)) => assert!(matches!(fault.kind, FaultKind::Limit(_))),
            other => panic!("{other:?}"),
        }
    }
    let not_saved = kernel("mov.b64 %rd1, 123456; stackrestore.u64 %rd1;");
    match run(&not_saved, &block(32), &[0; 4], &[0; 4]) {
        Err(Error::Fault(fault)) => assert!(matches!(fault.kind, FaultKind::Misuse(_))),
        other => panic!("{other:?}"),
    }
    assert!(module(&kernel("alloca.u64 %rd2, 8, 12;")).is_err());
    assert!(module(&kernel("alloca.u64 %rd2, 8, 16777216;")).is_err());
}
