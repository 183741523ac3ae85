//! NVSHMEM between devices, of the same node and of others.

mod machine;
mod ranks;

use std::collections::BTreeSet;

use machine::words;
use moec_emulator::{Error, Schedule};
use ranks::{group, kernel, queued, schedules};

const FUNCTIONS: &str = "
.extern .func (.param .b32 r) nvshmem_my_pe();
.extern .func (.param .b32 r) nvshmem_n_pes();
.extern .func (.param .b64 r) nvshmem_ptr(.param .b64 a, .param .b32 b);
.extern .func nvshmem_fence();
.extern .func nvshmem_quiet();
.extern .func nvshmem_putmem_nbi(.param .b64 a, .param .b64 b, .param .b64 c, .param .b32 d);
.extern .func nvshmemx_putmem_signal_nbi_warp(.param .b64 a, .param .b64 b, .param .b64 c, .param .b64 d, .param .b64 e, .param .b32 f, .param .b32 g);
.extern .func nvshmemx_putmem_signal_nbi_block(.param .b64 a, .param .b64 b, .param .b64 c, .param .b64 d, .param .b64 e, .param .b32 f, .param .b32 g);
.extern .func nvshmemx_signal_op(.param .b64 a, .param .b64 b, .param .b32 c, .param .b32 d);
.extern .func (.param .b64 r) nvshmem_signal_wait_until(.param .b64 a, .param .b32 b, .param .b64 c);
.extern .func nvshmem_uint64_p(.param .b64 a, .param .b64 b, .param .b32 c);
";

/// A call with arguments of `(bytes, register or number)`, and perhaps a result.
fn call(name: &str, args: &[(u32, &str)], result: Option<(u32, &str)>) -> String {
    let mut text = "{\n".to_string();
    let mut list = Vec::new();
    for (index, (bytes, value)) in args.iter().enumerate() {
        let bits = 8 * bytes;
        text += &format!(".param .b{bits} a{index}; st.param.b{bits} [a{index}], {value};\n");
        list.push(format!("a{index}"));
    }
    let list = list.join(", ");
    match result {
        Some((bytes, register)) => {
            let bits = 8 * bytes;
            text += &format!(
                ".param .b{bits} r0; call.uni (r0), {name}, ({list}); ld.param.b{bits} {register}, [r0];\n"
            );
        }
        None => text += &format!("call.uni {name}, ({list});\n"),
    }
    text + "}\n"
}

#[test]
fn eight_ranks_on_two_nodes_exchange_by_puts_with_signals() {
    // Rank n sends 64 words 1000 n + 100 to + word to each rank, then waits for all eight.
    let put = call(
        "nvshmemx_putmem_signal_nbi_warp",
        &[(8, "%rd10"), (8, "%rd11"), (8, "128"), (8, "%rd12"), (8, "1"), (4, "10"), (4, "%r5")],
        None,
    );
    let wait =
        call("nvshmem_signal_wait_until", &[(8, "%y"), (4, "5"), (8, "8")], Some((8, "%rd20")));
    let body = format!(
        "{my_pe}{n_pes}
         mov.u32 %r5, 0;
         fill: mul.lo.u32 %r6, %r1, 1000; mad.lo.u32 %r6, %r5, 100, %r6; add.u32 %r6, %r6, %t;
         mul.wide.u32 %rd1, %r5, 128; add.u64 %rd1, %rd1, %x; add.u64 %rd11, %rd1, 2048;
         mul.wide.u32 %rd2, %t, 4; add.u64 %rd3, %rd11, %rd2; st.global.u32 [%rd3], %r6;
         mul.wide.u32 %rd4, %r1, 128; add.u64 %rd10, %x, %rd4; mov.u64 %rd12, %y;
         bar.warp.sync -1;
         {put}
         add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, %r2; @%p1 bra fill;
         {wait}
         mov.u32 %r7, 0; mov.u32 %r8, 0;
         sum: mul.wide.u32 %rd1, %r8, 128; add.u64 %rd1, %rd1, %x; mul.wide.u32 %rd2, %t, 4;
         add.u64 %rd1, %rd1, %rd2; ld.global.u32 %r9, [%rd1]; add.u32 %r7, %r7, %r9;
         add.u32 %r8, %r8, 1; setp.lt.u32 %p1, %r8, %r2; @%p1 bra sum;
         mul.wide.u32 %rd2, %t, 4; add.u64 %rd2, %rd2, %y; st.global.u32 [%rd2+64], %r7;
         {quiet}",
        my_pe = call("nvshmem_my_pe", &[], Some((4, "%r1"))),
        n_pes = call("nvshmem_n_pes", &[], Some((4, "%r2"))),
        quiet = call("nvshmem_quiet", &[], None),
    );
    let module = kernel(FUNCTIONS, &body);
    for schedule in schedules(50) {
        let mut group = group(8, 4, schedule);
        let x = group.alloc_symmetric(4096, "inbox").expect("there is room");
        let y = group.alloc_symmetric(256, "signal").expect("there is room");
        let mut queues = Vec::new();
        for rank in 0..8 {
            let (x, y) = (group.address(x, rank), group.address(y, rank));
            group.device_mut(rank).write(y, &[0; 256]).expect("it is there");
            queues.push(vec![queued(&module, 32, x, y, rank)]);
        }
        group.run(&queues).expect("it runs");
        for rank in 0..8 {
            let mut out = [0; 128];
            let at = group.address(y, rank) + 64;
            group.device(rank).read(at, &mut out).expect("it is there");
            let expected: Vec<u32> = (0..32).map(|word| 28_000 + 8 * (100 * rank + word)).collect();
            assert_eq!(words(&out), expected, "{schedule:?} rank {rank}");
        }
    }
}

/// Rank 0 puts 1 to X and then Y of rank 1, on another node, with `between`; rank 1 waits for Y
/// and reads X.
fn two_puts(between: &str) -> BTreeSet<u32> {
    let put = |place: &str| {
        call("nvshmem_putmem_nbi", &[(8, place), (8, "%rd5"), (8, "8"), (4, "1")], None)
    };
    let body = format!(
        "add.u64 %rd4, %x, 256; add.u64 %rd5, %x, 512; setp.eq.u32 %p1, %n, 1; @%p1 bra wait;
         mov.u64 %rd1, 1; st.global.u64 [%rd5], %rd1;
         {one}{between}{two}{quiet} bra end;
         wait: {wait} ld.global.u32 %r1, [%x]; st.global.u32 [%y], %r1;
         end:",
        one = put("%x"),
        two = put("%rd4"),
        quiet = call("nvshmem_quiet", &[], None),
        wait = call(
            "nvshmem_signal_wait_until",
            &[(8, "%rd4"), (4, "0"), (8, "1")],
            Some((8, "%rd20"))
        ),
    );
    let module = kernel(FUNCTIONS, &body);
    let run = |seed| {
        let mut group = group(2, 1, Schedule::Seeded(seed));
        let x = group.alloc_symmetric(1024, "x").expect("there is room");
        let y = group.device_mut(1).alloc(4, "y").expect("there is room");
        let places = [group.address(x, 0), group.address(x, 1)];
        group.device_mut(1).write(places[1], &[0; 1024]).expect("it is there");
        let queue = |rank: usize| vec![queued(&module, 1, places[rank], y, rank as u32)];
        group.run(&[queue(0), queue(1)]).expect("it runs");
        let mut out = [0; 4];
        group.device(1).read(y, &mut out).expect("it is there");
        words(&out)[0]
    };
    (0..100).map(run).collect()
}

#[test]
fn puts_overtake_each_other_unless_a_fence_stands_between() {
    assert_eq!(two_puts(""), BTreeSet::from([0, 1]));
    assert_eq!(two_puts(&call("nvshmem_fence", &[], None)), BTreeSet::from([1]));
    assert_eq!(two_puts(&call("nvshmem_quiet", &[], None)), BTreeSet::from([1]));
}

#[test]
fn a_source_is_read_until_quiet() {
    let seen = |quiet: &str| -> BTreeSet<u32> {
        let put = call(
            "nvshmemx_putmem_signal_nbi_block",
            &[(8, "%x"), (8, "%rd5"), (8, "64"), (8, "%rd4"), (8, "1"), (4, "9"), (4, "1")],
            None,
        );
        let wait = call(
            "nvshmem_signal_wait_until",
            &[(8, "%rd4"), (4, "5"), (8, "1")],
            Some((8, "%rd20")),
        );
        let body = format!(
            "add.u64 %rd4, %x, 256; add.u64 %rd5, %x, 512; setp.eq.u32 %p1, %n, 1; @%p1 bra wait;
             setp.eq.u32 %p2, %t, 0; mov.u32 %r1, 7; @%p2 st.global.u32 [%rd5], %r1; bar.sync 0;
             {put}{quiet} bar.sync 0; mov.u32 %r1, 8; @%p2 st.global.u32 [%rd5], %r1; bra end;
             wait: {wait} ld.global.u32 %r1, [%x]; st.global.u32 [%y], %r1;
             end:"
        );
        let module = kernel(FUNCTIONS, &body);
        let run = |seed| {
            let mut group = group(2, 1, Schedule::Seeded(seed));
            let x = group.alloc_symmetric(1024, "x").expect("there is room");
            let y = group.device_mut(1).alloc(4, "y").expect("there is room");
            let places = [group.address(x, 0), group.address(x, 1)];
            group.device_mut(1).write(places[1], &[0; 1024]).expect("it is there");
            let queue = |rank: usize| {
                let threads = if rank == 0 { 64 } else { 1 };
                vec![queued(&module, threads, places[rank], y, rank as u32)]
            };
            group.run(&[queue(0), queue(1)]).expect("it runs");
            let mut out = [0; 4];
            group.device(1).read(y, &mut out).expect("it is there");
            words(&out)[0]
        };
        (0..100).map(run).collect()
    };
    let quiet = format!("bar.sync 0;{}", call("nvshmem_quiet", &[], None));
    assert_eq!(seen(&quiet), BTreeSet::from([7]));
    assert_eq!(seen(""), BTreeSet::from([7, 8]));
}

#[test]
fn pointers_reach_only_the_own_node_and_puts_need_symmetric_memory() {
    let pointer = call("nvshmem_ptr", &[(8, "%x"), (4, "%n")], Some((8, "%rd1")));
    let module = kernel(FUNCTIONS, &format!("{pointer} st.global.u64 [%y], %rd1;"));
    let mut four = group(4, 2, Schedule::InOrder);
    let x = four.alloc_symmetric(64, "x").expect("there is room");
    let y = four.device_mut(1).alloc(8, "y").expect("there is room");
    for pe in 0..4 {
        let own = four.address(x, 1);
        let mut queues = vec![Vec::new(); 4];
        queues[1].push(queued(&module, 1, own, y, pe));
        four.run(&queues).expect("it runs");
        let mut out = [0; 8];
        four.device(1).read(y, &mut out).expect("it is there");
        let expected = if pe < 2 { four.address(x, pe) } else { 0 };
        assert_eq!(u64::from_le_bytes(out), expected);
    }
    let put = call("nvshmem_uint64_p", &[(8, "%x"), (8, "5"), (4, "%n")], None);
    let module = kernel(FUNCTIONS, &put);
    let far = four.address(x, 3);
    for (place, pe, part) in
        [(y, 0, "not one of its own symmetric memory"), (far, 0, "not one of"), (far, 9, "no PE 9")]
    {
        let mut queues = vec![Vec::new(); 4];
        queues[1].push(queued(&module, 1, place, y, pe));
        match four.run(&queues) {
            Err(Error::Fault(fault)) => {
                let text = fault.to_string();
                assert!(text.contains(part) && text.contains("rank 1"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}
