//! Groups of devices that run one kernel each.

#![allow(dead_code)]

use moec_emulator::{
    Arg, DeviceConfig, Group, GroupConfig, LaunchConfig, Module, QueuedLaunch, Schedule,
};

/// A group of devices with little memory and one host thread.
pub(crate) fn group(ranks: u32, ranks_per_node: u32, schedule: Schedule) -> Group {
    shaped(ranks, ranks_per_node, schedule, 132)
}

/// As [`group`], with so many SMs per device.
pub(crate) fn shaped(ranks: u32, ranks_per_node: u32, schedule: Schedule, sm_count: u32) -> Group {
    let device = DeviceConfig {
        sm_count,
        schedule,
        threads: 1,
        memory_bytes: 1 << 28,
        livelock_instructions: 1 << 20,
        ..DeviceConfig::default()
    };
    Group::new(GroupConfig { ranks, ranks_per_node, device }).expect("the shape is good")
}

/// A module around the text of kernels.
pub(crate) fn module(text: &str) -> Module {
    let head = ".version 8.7\n.target sm_90a\n.address_size 64\n";
    Module::parse(&format!("{head}{text}")).expect("it parses")
}

/// `k(x, y, n)`, with the number in `%n` and the thread in `%t`, behind `declarations`.
pub(crate) fn kernel(declarations: &str, body: &str) -> Module {
    module(&format!(
        "{declarations}.visible .entry k(.param .u64 x, .param .u64 y, .param .u32 n) {{\n\
         .reg .pred %p<16>; .reg .b32 %r<40>; .reg .b64 %rd<40>;\n\
         .reg .b32 %t, %n; .reg .b64 %x, %y;\n\
         ld.param.u64 %x, [x]; ld.param.u64 %y, [y]; ld.param.u32 %n, [n]; mov.u32 %t, %tid.x;\n\
         {body}\nret;\n}}\n"
    ))
}

/// A launch of `k` on one CTA of so many threads.
pub(crate) fn queued(module: &Module, threads: u32, x: u64, y: u64, n: u32) -> QueuedLaunch {
    QueuedLaunch {
        label: format!("launch {n}"),
        module: module.clone(),
        kernel: "k".to_string(),
        config: LaunchConfig { block: [threads, 1, 1], ..LaunchConfig::default() },
        args: vec![Arg::U64(x), Arg::U64(y), Arg::U32(n)],
    }
}

/// In order, and by several seeds.
pub(crate) fn schedules(seeds: u64) -> impl Iterator<Item = Schedule> {
    std::iter::once(Schedule::InOrder).chain((0..seeds).map(Schedule::Seeded))
}
