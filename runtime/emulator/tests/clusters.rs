//! Clusters: shared memory of other CTAs, barriers across them, multicast, and the register pool.

mod machine;

use machine::{block, kernel, run, words};
use moec_emulator::{Error, LaunchConfig};

fn cluster(grid: u32, size: u32, threads: u32) -> LaunchConfig {
    LaunchConfig {
        grid: [grid, 1, 1],
        block: [threads, 1, 1],
        cluster: Some([size, 1, 1]),
        ..LaunchConfig::default()
    }
}

fn output(body: &str, config: &LaunchConfig) -> Vec<u32> {
    let x: Vec<u8> = (0..1024u32).flat_map(|index| (index * 3 + 1).to_le_bytes()).collect();
    match run(&kernel(body), config, &x, &[0; 4096]) {
        Ok(bytes) => words(&bytes),
        Err(error) => panic!("{body}: {error}"),
    }
}

fn failure(body: &str, config: &LaunchConfig) -> String {
    match run(&kernel(body), config, &[0; 4096], &[0; 4096]) {
        Err(error @ (Error::Fault(_) | Error::Deadlock { .. })) => error.to_string(),
        other => panic!("{body}: {other:?}"),
    }
}

const ARRIVE_WAIT: &str =
    "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;\n";

#[test]
fn threads_read_and_write_the_shared_memory_of_their_neighbours() {
    let out = output(
        &format!(
            ".shared .align 4 .u32 v; .shared .align 4 .u32 w;\n\
             mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, %cluster_nctarank; mov.u32 %r3, %ctaid.x;\n\
             mul.lo.u32 %r4, %r3, 100; st.shared.u32 [v], %r4;\n\
             {ARRIVE_WAIT}\
             add.u32 %r5, %r1, 1; rem.u32 %r5, %r5, %r2;\n\
             mov.u32 %r6, v; mapa.shared::cluster.u32 %r7, %r6, %r5; ld.shared::cluster.u32 %r8, [%r7];\n\
             mov.u32 %r9, w; cvt.u64.u32 %rd1, %r9; cvta.shared.u64 %rd1, %rd1;\n\
             mapa.u64 %rd2, %rd1, %r5; st.u32 [%rd2], %r3; getctarank.u64 %r10, %rd2;\n\
             getctarank.shared::cluster.u32 %r11, %r6;\n\
             {ARRIVE_WAIT}\
             ld.shared.u32 %r12, [w];\n\
             mad.wide.u32 %rd3, %r3, 16, %y; st.global.v4.u32 [%rd3], {{%r8, %r12, %r10, %r11}};"
        ),
        &cluster(8, 4, 1),
    );
    for cta in 0..8usize {
        let (first, rank) = (cta / 4 * 4, cta % 4);
        let right = first + (rank + 1) % 4;
        let left = first + (rank + 3) % 4;
        let expected = [right * 100, left, (rank + 1) % 4, rank].map(|value| value as u32);
        assert_eq!(out[4 * cta..4 * cta + 4], expected, "CTA {cta}");
    }
}

#[test]
fn atomics_and_asynchronous_stores_reach_a_neighbour() {
    let out = output(
        &format!(
            ".shared .align 4 .u32 sum; .shared .align 16 .b8 box[16]; .shared .align 8 .b64 bar;\n\
             mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, 0; st.shared.u32 [sum], %r2;\n\
             mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.expect_tx.shared.b64 _, [bar], 20;\n\
             st.shared.u32 [box+8], %r2; fence.mbarrier_init.release.cluster;\n\
             {ARRIVE_WAIT}\
             mov.u32 %r3, sum; mapa.shared::cluster.u32 %r4, %r3, 0; add.u32 %r5, %r1, 5;\n\
             atom.shared::cluster.add.u32 %r6, [%r4], %r5;\n\
             xor.b32 %r7, %r1, 1;\n\
             mov.u32 %r8, box; mapa.shared::cluster.u32 %r9, %r8, %r7; mov.u32 %r10, bar;\n\
             mapa.shared::cluster.u32 %r11, %r10, %r7;\n\
             st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%r9], {{%r1, %r5}}, [%r11];\n\
             mov.u64 %rd5, 7; st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%r9+8], %rd5, [%r11];\n\
             red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r9+8], %r5, [%r11];\n\
             wait: mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra wait;\n\
             {ARRIVE_WAIT}\
             ld.shared.v4.u32 {{%r12, %r13, %r14, %r15}}, [box]; mad.wide.u32 %rd1, %r1, 16, %y;\n\
             ld.shared.u32 %r16, [sum]; mov.u32 %r15, %r16;\n\
             st.global.v4.u32 [%rd1], {{%r12, %r13, %r14, %r15}};"
        ),
        &cluster(2, 2, 1),
    );
    assert_eq!(out[..8], [1, 6, 13, 11, 0, 5, 12, 0]);
}

#[test]
fn a_multicast_copy_lands_in_every_named_cta() {
    let body = |mask: u32| {
        format!(
            ".shared .align 128 .b8 s[64]; .shared .align 8 .b64 bar;\n\
             mov.u32 %r1, %cluster_ctarank; mov.u16 %h1, {mask};\n\
             setp.ne.u32 %p1, %t, 0; @%p1 bra ready;\n\
             mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.expect_tx.shared.b64 _, [bar], 64;\n\
             ready: {ARRIVE_WAIT}\
             setp.eq.u32 %p2, %r1, 0; setp.eq.u32 %p3, %t, 0; and.pred %p2, %p2, %p3;\n\
             @%p2 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [s], [%x], 64, [bar], %h1;\n\
             wait: mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra wait;\n\
             ld.shared.u32 %r3, [s+4]; mad.wide.u32 %rd1, %r1, 4, %y; st.global.u32 [%rd1], %r3;\n\
             {ARRIVE_WAIT}"
        )
    };
    assert_eq!(output(&body(15), &cluster(4, 4, 32))[..4], [4; 4]);
    let text = failure(&body(3), &cluster(4, 4, 32));
    assert!(text.contains("64 bytes") && text.contains("CTA (2, 0, 0)"), "{text}");
    assert!(failure(&body(0x1f), &cluster(4, 4, 32)).contains("does not name CTAs"));
}

#[test]
fn remote_arrivals_complete_a_phase() {
    let out = output(
        &format!(
            ".shared .align 8 .b64 bar; mov.u32 %r1, %cluster_ctarank;\n\
             setp.ne.u32 %p1, %t, 0; @%p1 bra ready;\n\
             mbarrier.init.shared.b64 [bar], 128;\n\
             ready: {ARRIVE_WAIT}\
             mov.u32 %r2, bar; mapa.shared::cluster.u32 %r3, %r2, 0;\n\
             mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r3];\n\
             setp.ne.u32 %p2, %r1, 0; @%p2 bra end;\n\
             wait: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [bar], 0; @!%p3 bra wait;\n\
             mov.u32 %r4, 1; st.global.u32 [%y], %r4;\n\
             end: {ARRIVE_WAIT}"
        ),
        &cluster(4, 4, 32),
    );
    assert_eq!(out[0], 1);
}

#[test]
fn misuse_of_a_cluster_is_reported() {
    let late = ".shared .align 4 .u32 v; mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, v;\n\
                setp.eq.u32 %p1, %r1, 0; @%p1 bra end;\n\
                mov.u32 %r4, 0; spin: add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 100000; @%p2 bra spin;\n\
                mapa.shared::cluster.u32 %r3, %r2, 0; ld.shared::cluster.u32 %r5, [%r3];\nend:";
    assert!(failure(late, &cluster(2, 2, 1)).contains("CTA 0 of this cluster has exited"));
    let far = ".shared .align 4 .u32 v; mov.u32 %r2, v; mapa.shared::cluster.u32 %r3, %r2, 2;";
    assert!(failure(far, &cluster(2, 2, 1)).contains("CTA 2 of a cluster of 2"));
    let twice = "barrier.cluster.arrive.aligned; barrier.cluster.arrive.aligned;";
    assert!(failure(twice, &cluster(2, 2, 32)).contains("arrives twice"));
    let never = "barrier.cluster.wait.aligned;";
    assert!(failure(never, &cluster(2, 2, 32)).contains("without having arrived"));
    let one = "mov.u32 %r1, %cluster_ctarank; setp.eq.u32 %p1, %r1, 0;\n\
               spin: mov.u32 %r2, 0; @%p1 bra wait; bar.sync 3, 64; \n\
               wait: barrier.cluster.arrive; barrier.cluster.wait;";
    let text = failure(one, &cluster(2, 2, 32));
    assert!(text.contains("32 of 64 threads") && text.contains("barrier 3"), "{text}");
}

#[test]
fn threads_that_exit_do_not_hold_up_the_barrier() {
    let out = output(
        "setp.ge.u32 %p1, %t, 40; @%p1 ret; mov.u32 %r1, %cluster_ctarank;\n\
         setp.eq.u32 %p2, %r1, 1; @%p2 bra gone;\n\
         barrier.cluster.arrive; barrier.cluster.wait;\n\
         atom.global.add.u32 %r2, [%y], 1; ret;\n\
         gone: barrier.cluster.arrive;",
        &cluster(2, 2, 64),
    );
    assert_eq!(out[0], 40);
}

#[test]
fn grids_of_clusters_number_their_ctas_as_cuda_does() {
    let config = LaunchConfig {
        grid: [4, 2, 2],
        block: [1, 1, 1],
        cluster: Some([2, 2, 1]),
        ..LaunchConfig::default()
    };
    let out = output(
        "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.z;\n\
         mad.lo.u32 %r4, %r3, 2, %r2; mad.lo.u32 %r4, %r4, 4, %r1;\n\
         mov.u32 %r5, %clusterid.x; mov.u32 %r6, %cluster_ctaid.x; mov.u32 %r7, %cluster_ctaid.y;\n\
         mov.u32 %r8, %cluster_ctarank; mad.wide.u32 %rd1, %r4, 16, %y;\n\
         st.global.v4.u32 [%rd1], {%r5, %r6, %r7, %r8};",
        &config,
    );
    for cta in 0..16u32 {
        let (x, y) = (cta % 4, cta / 4 % 2);
        let at = 4 * cta as usize;
        assert_eq!(out[at..at + 4], [x / 2, x % 2, y, x % 2 + 2 * y]);
    }
}

#[test]
fn registers_move_between_warpgroups_through_the_pool() {
    let dance = "shr.u32 %r1, %t, 7; setp.eq.u32 %p1, %r1, 0; @%p1 bra producer;\n\
                 setmaxnreg.inc.sync.aligned.u32 232; bra end;\n\
                 producer: setmaxnreg.dec.sync.aligned.u32 40;\n\
                 end: mov.u32 %r2, 1; st.global.u32 [%y], %r2;";
    assert_eq!(output(dance, &block(384))[0], 1);
    // Nobody gives registers back.
    let stuck = dance.replace("setmaxnreg.dec.sync.aligned.u32 40;", "");
    let text = failure(&stuck, &block(384));
    assert!(text.contains("registers per thread, 0 are free"), "{text}");
    let wrong = "setmaxnreg.dec.sync.aligned.u32 40; setmaxnreg.dec.sync.aligned.u32 64;";
    assert!(failure(wrong, &block(128)).contains("the warp has 40"));
}

#[test]
fn multicast_addresses_and_dependent_launches_work_on_one_device() {
    let out = output(
        "griddepcontrol.wait; griddepcontrol.launch_dependents;\n\
         multimem.ld_reduce.relaxed.sys.global.add.u32 %r1, [%x+4];\n\
         multimem.st.relaxed.sys.global.u32 [%y], %r1;\n\
         multimem.red.relaxed.sys.global.add.u32 [%y], 3;",
        &block(1),
    );
    assert_eq!(out[0], 7);
}

#[test]
fn a_cluster_knows_that_it_is_one() {
    let body = "mov.pred %p1, %is_explicit_cluster; selp.u32 %r1, 7, 3, %p1;\n\
                st.global.u32 [%y], %r1;";
    assert_eq!(output(body, &cluster(2, 2, 1))[0], 7);
    assert_eq!(output(body, &block(32))[0], 3);
}
