//! Runs snippets of PTX on one warp, or kernels on small grids.

#![allow(dead_code)]

use moec_emulator::{
    Arg, Device, DeviceConfig, Error, LaunchConfig, LaunchReport, Module, Schedule,
};

/// The schedule of tests that do not name one: in order, or by the seed in `EMULATOR_SEED`.
pub(crate) fn schedule() -> Schedule {
    let seed = std::env::var("EMULATOR_SEED").ok();
    seed.map_or(Schedule::InOrder, |seed| Schedule::Seeded(seed.parse().expect("a number")))
}

/// A device with little memory and one host thread.
pub(crate) fn device() -> Device {
    scheduled(schedule())
}

/// As [`device`], with a schedule.
pub(crate) fn scheduled(schedule: Schedule) -> Device {
    Device::new(DeviceConfig {
        schedule,
        threads: 1,
        memory_bytes: 1 << 30,
        livelock_instructions: 1 << 20,
        ..DeviceConfig::default()
    })
}

/// A module around the text of kernels.
pub(crate) fn module(text: &str) -> Result<Module, Error> {
    Module::parse(&format!(".version 8.7\n.target sm_90a\n.address_size 64\n{text}"))
}

/// A kernel `k(x, y)` of two pointers; `%tid` is in `%t`, registers of all types are declared.
pub(crate) fn kernel(body: &str) -> String {
    format!(
        ".visible .entry k(.param .u64 x, .param .u64 y) {{\n\
         .reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %r<40>; .reg .b64 %rd<40>;\n\
         .reg .b32 %t; .reg .b64 %x, %y;\n\
         ld.param.u64 %x, [x]; ld.param.u64 %y, [y]; mov.u32 %t, %tid.x;\n\
         {body}\nret;\n}}\n"
    )
}

/// Runs `k` and gives back the bytes of `y`.
pub(crate) fn run(text: &str, config: &LaunchConfig, x: &[u8], y: &[u8]) -> Result<Vec<u8>, Error> {
    run_reported(text, config, x, y).map(|(bytes, _)| bytes)
}

/// As [`run`], with the launch's report.
pub(crate) fn run_reported(
    text: &str,
    config: &LaunchConfig,
    x: &[u8],
    y: &[u8],
) -> Result<(Vec<u8>, LaunchReport), Error> {
    run_scheduled(schedule(), text, config, x, y)
}

/// As [`run_reported`], with a schedule.
pub(crate) fn run_scheduled(
    schedule: Schedule,
    text: &str,
    config: &LaunchConfig,
    x: &[u8],
    y: &[u8],
) -> Result<(Vec<u8>, LaunchReport), Error> {
    let module = module(text)?;
    let mut device = scheduled(schedule);
    let (at_x, at_y) = (device.alloc(x.len(), "x")?, device.alloc(y.len(), "y")?);
    device.write(at_x, x)?;
    device.write(at_y, y)?;
    let report = device.launch(&module, "k", config, &[Arg::U64(at_x), Arg::U64(at_y)])?;
    let mut out = vec![0; y.len()];
    device.read(at_y, &mut out)?;
    Ok((out, report))
}

/// One CTA of `threads`.
pub(crate) fn block(threads: u32) -> LaunchConfig {
    LaunchConfig { block: [threads, 1, 1], ..LaunchConfig::default() }
}

/// Runs `body` on lanes with `%a %b %c` (32 bits) and gives `%d` of each.
pub(crate) fn lanes32(body: &str, inputs: &[[u32; 3]]) -> Vec<u32> {
    let text = kernel(&format!(
        ".reg .b32 %a, %b, %c, %d;\n\
         mad.wide.u32 %rd30, %t, 12, %x;\n\
         ld.global.b32 %a, [%rd30]; ld.global.b32 %b, [%rd30+4]; ld.global.b32 %c, [%rd30+8];\n\
         {body}\n\
         mad.wide.u32 %rd31, %t, 4, %y; st.global.b32 [%rd31], %d;"
    ));
    let x: Vec<u8> = inputs.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
    let y = vec![0; 4 * inputs.len()];
    let out = run(&text, &block(inputs.len() as u32), &x, &y).expect("the snippet runs");
    out.chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("the chunk has that size")))
        .collect()
}

/// As [`lanes32`] with 64 bits.
pub(crate) fn lanes64(body: &str, inputs: &[[u64; 3]]) -> Vec<u64> {
    let text = kernel(&format!(
        ".reg .b64 %a, %b, %c, %d;\n\
         mad.wide.u32 %rd30, %t, 24, %x;\n\
         ld.global.b64 %a, [%rd30]; ld.global.b64 %b, [%rd30+8]; ld.global.b64 %c, [%rd30+16];\n\
         {body}\n\
         mad.wide.u32 %rd31, %t, 8, %y; st.global.b64 [%rd31], %d;"
    ));
    let x: Vec<u8> = inputs.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
    let y = vec![0; 8 * inputs.len()];
    let out = run(&text, &block(inputs.len() as u32), &x, &y).expect("the snippet runs");
    out.chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("the chunk has that size")))
        .collect()
}

/// One lane of [`lanes32`].
pub(crate) fn one32(body: &str, a: u32, b: u32, c: u32) -> u32 {
    lanes32(body, &[[a, b, c]])[0]
}

/// One lane of [`lanes64`].
pub(crate) fn one64(body: &str, a: u64, b: u64, c: u64) -> u64 {
    lanes64(body, &[[a, b, c]])[0]
}

/// Words of bytes.
pub(crate) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("the chunk has that size")))
        .collect()
}
