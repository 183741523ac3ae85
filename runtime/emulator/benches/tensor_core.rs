//! Matrix products: a warpgroup that multiplies tiles in shared memory, four products per wait.
//! Elements are floating-point operations (two per multiply-add).

#![allow(missing_docs, reason = "criterion's macros make functions without")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moec_emulator::{Accumulation, Arg, Device, DeviceConfig, LaunchConfig, Module};

const STEPS: usize = 16;

/// Rows of 128 bytes of small numbers, then a loop of products over them, A in shared memory or in
/// registers.
fn text(operand: &str, columns: usize, depth: usize, a_in_registers: bool) -> String {
    let d: Vec<String> = (0..columns / 2).map(|index| format!("%d{index}")).collect();
    let d = d.join(", ");
    let tail = match (depth, a_in_registers) {
        (16, false) => ", 1, 1, 0, 0",
        (16, true) => ", 1, 1, 0",
        _ => ", 1, 1",
    };
    let a = if a_in_registers { "{%a0, %a1, %a2, %a3}" } else { "%rd4" };
    let bytes = (64 + columns) * 128;
    let products: String = (0..4)
        .map(|step| {
            format!(
                "add.u64 %rd4, %rd1, {at}; add.u64 %rd5, %rd2, {at};\n\
                 wgmma.mma_async.sync.aligned.m64n{columns}k{depth}.f32.{operand}.{operand} \
                 {{{d}}}, {a}, %rd5, %p2{tail};\n",
                at = 2 * step
            )
        })
        .collect();
    format!(
        ".version 8.7\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 y) {{\n\
         .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .b32 %d<{count}>;\n\
         .reg .b32 %a<4>;\n\
         .shared .align 1024 .b8 s[{bytes}];\n\
         mov.u32 %r1, %tid.x; shl.b32 %r1, %r1, 2; mov.u32 %r2, 0;\n\
         fill: mul.lo.u32 %r3, %r1, 2654435761; and.b32 %r3, %r3, 0xb1b7b1b7; or.b32 %r3, %r3, 0x30303030;\n\
         mov.u32 %r4, s; add.u32 %r4, %r4, %r1; st.shared.u32 [%r4], %r3;\n\
         add.u32 %r1, %r1, 512; setp.lt.u32 %p1, %r1, {bytes}; @%p1 bra fill;\n\
         mov.b32 %a0, %r3; mov.b32 %a1, %r3; mov.b32 %a2, %r3; mov.b32 %a3, %r3;\n\
         fence.proxy.async; bar.sync 0;\n\
         mov.b64 %rd1, 0x4000004000010040; mov.b64 %rd2, 0x4000004000010240;\n\
         mov.u32 %r5, 0; setp.ne.u32 %p2, %r5, 0;\n\
         wgmma.fence.sync.aligned;\n\
         loop: {products}\
         wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 1;\n\
         setp.eq.u32 %p2, %r5, %r5; add.u32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, {STEPS}; @%p1 bra loop;\n\
         wgmma.wait_group.sync.aligned 0;\n\
         ld.param.u64 %rd3, [y]; st.global.b32 [%rd3], %d0;\nret;\n}}\n",
        count = columns / 2,
    )
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wgmma");
    for (accumulation, name) in
        [(Accumulation::Float32, "float32"), (Accumulation::Hopper, "hopper")]
    {
        for (operand, depth) in [("bf16", 16), ("e4m3", 32)] {
            let tiles =
                [(64, false), (128, false), (256, false), (64, true), (128, true), (256, true)];
            for (columns, a_in_registers) in tiles {
                let text = text(operand, columns, depth, a_in_registers);
                let module = Module::parse(&text).expect("it parses");
                let config = DeviceConfig { threads: 1, accumulation, ..DeviceConfig::default() };
                let mut device = Device::new(config);
                let y = device.alloc(256, "y").expect("there is room");
                let launch = LaunchConfig { block: [128, 1, 1], ..LaunchConfig::default() };
                let flops = 2 * 64 * columns * depth * 4 * STEPS;
                group.throughput(Throughput::Elements(flops as u64));
                let a = if a_in_registers { ", A in registers" } else { "" };
                let id = BenchmarkId::new(format!("{operand} {name}{a}"), columns);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        let report = device.launch(&module, "k", &launch, &[Arg::U64(y)]);
                        report.expect("it runs")
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
