//! Loads that nothing orders behind a store of another CTA or rank are reported, with both places,
//! also where they read what was stored; those that something orders are not.

mod ranks;

use moec_emulator::{DeviceConfig, Group, GroupConfig, Module, Race, Schedule};
use ranks::{kernel, queued};

/// The races of two ranks that run `module`, over many seeds: a row that two instructions could
/// hand over too early seldom is. `x` and `y` lie on rank 1.
fn races(module: &Module) -> Vec<Race> {
    let mut all: Vec<Race> = vec![];
    for seed in 0..400 {
        let device = DeviceConfig {
            schedule: Schedule::Seeded(seed),
            threads: 1,
            memory_bytes: 1 << 24,
            races: true,
            ..DeviceConfig::default()
        };
        let mut group =
            Group::new(GroupConfig { ranks: 2, ranks_per_node: 2, device }).expect("it works");
        let x = group.alloc_symmetric(512, "rows").expect("it works");
        let y = group.alloc_symmetric(64, "results").expect("it works");
        let (x, y) = (group.address(x, 1), group.address(y, 1));
        for (at, len) in [(x, 512), (y, 64)] {
            group.device_mut(1).fill(at, 0, len).expect("it works");
        }
        let queues: Vec<_> = (0..2).map(|rank| vec![queued(module, 1, x, y, rank)]).collect();
        all.extend(group.run(&queues).expect("it works").races);
    }
    all
}

/// Rank 0 stores a row and sets its flag; rank 1 waits and reads it.
fn passing(release: &str, acquire: &str) -> Module {
    kernel(
        "",
        &format!(
            "mov.u32 %r1, 1; setp.eq.u32 %p1, %n, 1; @%p1 bra wait;\n\
             st.global.v4.u32 [%x+16], {{%r1, %r1, %r1, %r1}};\n\
             st.{release}.global.u32 [%x], %r1;\n\
             bra end;\n\
             wait: ld.{acquire}.global.u32 %r2, [%x]; setp.ne.u32 %p2, %r2, 1; @%p2 bra wait;\n\
             ld.global.u32 %r3, [%x+24];\n\
             st.global.u32 [%y], %r3;\n\
             end:"
        ),
    )
}

#[test]
fn what_is_released_and_acquired_is_no_race() {
    assert_eq!(races(&passing("release.sys", "acquire.sys")), []);
}

#[test]
fn both_places_of_a_race_are_named() {
    let cases = [
        ("relaxed.sys", "acquire.sys"),
        ("release.gpu", "acquire.sys"),
        ("release.sys", "relaxed.sys"),
        ("release.sys", "acquire.gpu"),
    ];
    for (release, acquire) in cases {
        let module = passing(release, acquire);
        let found = races(&module);
        let first = found.first().unwrap_or_else(|| panic!("no race of {release}, {acquire}"));
        assert_eq!((first.writer.rank, first.reader.rank, first.rank), (0, 1, Some(1)));
        assert_eq!(first.allocation, Some(("rows".to_string(), 24)));
        assert_eq!(first.reader.line - first.writer.line, 4);
        let text = first.to_string();
        let begin =
            "byte 24 of `rows` of rank 1 is read by rank 1 `launch 1`, CTA 0, warp 0, PTX line";
        assert!(text.starts_with(begin) && text.contains("which nothing orders"), "{text}");
    }
}
