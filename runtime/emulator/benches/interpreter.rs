//! How fast the interpreter is, in lane instructions per second on one core.

#![allow(missing_docs, reason = "criterion's macros make functions without")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use moec_emulator::{Arg, Device, DeviceConfig, LaunchConfig, Module};

/// A kernel of one loop; the body stands between the counter and the back edge.
fn kernel(setup: &str, body: &str, finish: &str) -> String {
    format!(
        ".version 8.7\n.target sm_90a\n.address_size 64\n\
         .visible .entry bench(.param .u64 x, .param .u32 n) {{\n\
         .reg .pred %p<2>; .reg .b32 %r<32>; .reg .b64 %rd<8>;\n\
         ld.param.u64 %rd1, [x]; ld.param.u32 %r1, [n];\n\
         mov.u32 %r2, %tid.x; mov.u32 %r3, 0;\n\
         mad.wide.u32 %rd2, %r2, 4, %rd1;\n\
         {setup}\nLOOP:\n{body}\n\
         add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, %r1; @%p1 bra LOOP;\n\
         {finish}\nret; }}"
    )
}

fn run(criterion: &mut Criterion, name: &str, ptx: &str, block: u32) {
    let module = Module::parse(ptx).expect("the kernel is right");
    let config = DeviceConfig { threads: 1, ..DeviceConfig::default() };
    let mut device = Device::new(config);
    let x = device.alloc(1 << 20, "x").expect("there is room");
    device.fill(x, 0, 1 << 20).expect("it is there");
    let shape = LaunchConfig { block: [block, 1, 1], ..LaunchConfig::default() };
    let args = [Arg::U64(x), Arg::U32(2000)];
    let report = device.launch(&module, "bench", &shape, &args).expect("it runs");
    let mut group = criterion.benchmark_group("interpreter");
    group.throughput(Throughput::Elements(report.lane_instructions));
    group.sample_size(20);
    group.bench_function(name, |bench| {
        bench.iter(|| device.launch(&module, "bench", &shape, &args).expect("it runs"));
    });
    group.finish();
}

fn interpreter(criterion: &mut Criterion) {
    let fma: String = (4..20).map(|r| format!("fma.rn.f32 %r{r}, %r{r}, %r20, %r21;\n")).collect();
    let store = "st.global.u32 [%rd2], %r4;";
    run(criterion, "fma", &kernel("", &fma, store), 256);
    let loads: String = (4..12)
        .map(|r| {
            format!(
                "ld.global.f32 %r{r}, [%rd2+{}];\nfma.rn.f32 %r20, %r{r}, %r21, %r20;\n",
                r * 4096
            )
        })
        .collect();
    run(criterion, "load and fma", &kernel("", &loads, "st.global.u32 [%rd2], %r20;"), 256);
    let vectors: String = (1..9)
        .map(|r| {
            format!(
                "ld.global.v4.f32 {{%r4,%r5,%r6,%r7}}, [%rd3+{}];\n\
                 fma.rn.f32 %r20, %r4, %r5, %r20;\nfma.rn.f32 %r22, %r6, %r7, %r22;\n",
                r * 16384
            )
        })
        .collect();
    let setup = "mad.wide.u32 %rd3, %r2, 16, %rd1;";
    run(criterion, "vector loads", &kernel(setup, &vectors, "st.global.u32 [%rd2], %r20;"), 256);
    let shared: String = (4..12)
        .map(|r| {
            format!(
                "ld.shared.f32 %r{r}, [%r23+{}];\nfma.rn.f32 %r20, %r{r}, %r21, %r20;\n",
                r * 1024
            )
        })
        .collect();
    let setup = ".shared .align 16 .b8 s[16384]; mov.u32 %r23, s; mad.lo.u32 %r23, %r2, 4, %r23;";
    let finish = "st.global.u32 [%rd2], %r20;";
    run(criterion, "shared load and fma", &kernel(setup, &shared, finish), 256);
    let same: String = (4..12)
        .map(|r| {
            format!(
                "ld.global.f32 %r{r}, [%rd1+{}];\nfma.rn.f32 %r20, %r{r}, %r21, %r20;\n",
                r * 4096
            )
        })
        .collect();
    run(criterion, "load of one word and fma", &kernel("", &same, finish), 256);
    let stores: String = (4..12)
        .map(|r| {
            format!(
                "fma.rn.f32 %r{r}, %r{r}, %r21, %r20;\nst.global.f32 [%rd2+{}], %r{r};\n",
                r * 4096
            )
        })
        .collect();
    run(criterion, "fma and store", &kernel("", &stores, ""), 256);
    let integers: String =
        (4..20).map(|r| format!("mad.lo.s32 %r{r}, %r{r}, 3, %r{};\n", r - 1)).collect();
    run(criterion, "integers", &kernel("", &integers, store), 256);
}

criterion_group!(benches, interpreter);
criterion_main!(benches);
